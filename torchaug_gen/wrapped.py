"""Data sets inside data sets: ``Subset`` and its like keep theirs as ``.dataset``."""

from collections.abc import Iterator
from typing import Any


def unwrapped(dataset: Any) -> Iterator[Any]:
    """Yield a data set, the one inside it, the one inside that, and so on."""
    # Wrappers that forward attributes, and mocks, may hold themselves.
    seen: set[int] = set()
    while dataset is not None and id(dataset) not in seen:
        seen.add(id(dataset))
        yield dataset
        dataset = getattr(dataset, "dataset", None)
