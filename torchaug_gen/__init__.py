"""Augment whole batches, mix in synthetic images drawn live, and keep every promise a loader makes."""

from torchaug_gen.augment.mix import MixUp
from torchaug_gen.datasets import MixedDataset, MixedIterableDataset, SyntheticDataset
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.synthesis.noise import NoiseSynthesizer
from torchaug_gen.synthesis.synthesizer import Synthesizer

__all__ = [
    "AugmentedLoader",
    "MixUp",
    "MixedDataset",
    "MixedIterableDataset",
    "NoiseSynthesizer",
    "Synthesizer",
    "SyntheticDataset",
]
