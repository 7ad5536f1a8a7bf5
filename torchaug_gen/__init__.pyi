from . import schedules
from .augment.fuse import FusedTransform, fuse
from .augment.mix import CutMix, MixChoice, MixUp
from .datasets import MixedDataset, MixedIterableDataset, SyntheticDataset
from .evaluation.fraction import choose_fraction
from .folder import JpegFolder
from .loading.loader import AugmentedLoader
from .shards.mixed import MixedShardStream
from .shards.stream import ShardStream
from .shards.write import write_shards
from .synthesis import gates
from .synthesis.gan.training import GanConfig, train_gan
from .synthesis.labeller import LabelledSynthesizer
from .synthesis.noise import NoiseSynthesizer
from .synthesis.pool.pool import SyntheticPool
from .synthesis.synthesizer import Synthesizer
from .synthesis.vae.synthesizer import VaeSynthesizer
from .synthesis.vae.training import VaeConfig, train_vae
from .synthesis.vary import VaryingSynthesizer

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
