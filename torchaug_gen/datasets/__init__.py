"""Data sets of synthetic items, and of real ones with synthetic ones between them."""

from torchaug_gen.datasets.drawing import check_class_count, draw, fetch
from torchaug_gen.datasets.mixed import MixedDataset
from torchaug_gen.datasets.stream import MixedIterableDataset
from torchaug_gen.datasets.synthetic import SyntheticDataset

__all__ = ["MixedDataset", "MixedIterableDataset", "SyntheticDataset", "check_class_count", "draw", "fetch"]
