"""Augment whole batches, mix in synthetic images drawn live, and keep every promise a loader makes."""

from torchaug_gen import schedules
from torchaug_gen.augment.fuse import FusedTransform, fuse
from torchaug_gen.augment.mix import CutMix, MixChoice, MixUp
from torchaug_gen.datasets import MixedDataset, MixedIterableDataset, SyntheticDataset
from torchaug_gen.evaluation.fraction import choose_fraction
from torchaug_gen.folder import JpegFolder
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.shards.mixed import MixedShardStream
from torchaug_gen.shards.stream import ShardStream
from torchaug_gen.shards.write import write_shards
from torchaug_gen.synthesis import gates
from torchaug_gen.synthesis.gan.training import GanConfig, train_gan
from torchaug_gen.synthesis.labeller import LabelledSynthesizer
from torchaug_gen.synthesis.noise import NoiseSynthesizer
from torchaug_gen.synthesis.pool.pool import SyntheticPool
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer
from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae
from torchaug_gen.synthesis.vary import VaryingSynthesizer

__all__ = [
    "AugmentedLoader",
    "CutMix",
    "FusedTransform",
    "GanConfig",
    "JpegFolder",
    "LabelledSynthesizer",
    "MixChoice",
    "MixUp",
    "MixedDataset",
    "MixedIterableDataset",
    "MixedShardStream",
    "NoiseSynthesizer",
    "ShardStream",
    "Synthesizer",
    "SyntheticDataset",
    "SyntheticPool",
    "VaeConfig",
    "VaeSynthesizer",
    "VaryingSynthesizer",
    "choose_fraction",
    "fuse",
    "gates",
    "schedules",
    "train_gan",
    "train_vae",
    "write_shards",
]
