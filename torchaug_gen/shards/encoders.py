"""Encoding items in order, in this process or in workers."""

import pickle
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.shards.encode import Encoding

# Items that a worker encodes at a time: one costs less than sending it does.
_RUN = 16


class Encoded(NamedTuple):
    """An item as files; ``key`` is its own, or ``None``."""

    number: int
    key: str | None
    files: dict[str, bytes]


class Refused(NamedTuple):
    """An item that cannot be written, and why; ``cause`` is the error itself, where it happened in this process."""

    number: int
    kind: type[Exception]
    reason: str
    cause: Exception | None


Result = Encoded | Refused


def encoded(
    items: Any, encoding: Encoding, *, start: int = 0, workers: int = 0, order: Tensor | None = None
) -> Generator[Result, None, None]:
    """Yield items as files, in order, from the ``start``-th on.

    The items of a map-style dataset are read in the workers, which see its random PyTorch operations seeded by the
    item's index, so that their number does not matter; those of an iterable are read here.

    Args:
        items: a map-style dataset with a length, or an iterable.
        encoding: what to make of them.
        start: items to skip; those of a map-style dataset are not read.
        workers: processes; 0 is this one.
        order: ``(N,)`` in which to take a map-style dataset's.
    """
    dataset = items if is_map_style(items) else None
    if dataset is not None:
        entries: Iterable[Any] = range(start, len(dataset))
    else:
        entries = islice(enumerate(items), start, None)
    task = _Task(dataset, encoding, order)
    if not workers:
        yield from map(task.__getitem__, entries)
        return
    # Its own generator: one is asked for the seeds of the workers.
    loader = DataLoader(
        task,
        batch_sampler=_Runs(entries, packed=dataset is None),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    batches: Any = iter(loader)
    try:
        for batch in batches:
            yield from batch
    finally:
        batches._shutdown_workers()


def is_map_style(items: Any) -> bool:
    """Say whether items are looked up by index: many data sets can be iterated as well, but never end."""
    if isinstance(items, IterableDataset | Mapping):
        return False
    return hasattr(items, "__len__") and hasattr(items, "__getitem__")


class _Task(Dataset[Result]):
    """Encodes what stands at an index, or what comes with it."""

    def __init__(self, dataset: Any, encoding: Encoding, order: Tensor | None) -> None:
        self._dataset, self._encoding, self._order = dataset, encoding, order

    def __getitem__(self, entry: Any) -> Result:
        index = entry if self._dataset is not None else entry[0]
        try:
            item = self._read(entry) if self._dataset is not None else entry[1]
        except (ValueError, OSError) as error:
            return _refused(index, error)
        item = pickle.loads(item) if isinstance(item, _Packed) else item
        try:
            return Encoded(index, *self._encoding.encode(item))
        except (TypeError, ValueError, OSError) as error:
            return _refused(index, error)

    def _read(self, index: int) -> Any:
        row = index if self._order is None else int(self._order[index])
        with Seeded(rng.derive_seed(0, "shards.write", 0, row)):
            return self._dataset[row]


def _refused(index: int, error: Exception) -> Refused:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    # Not every error crosses between processes.
    return Refused(index, kind, str(error) or type(error).__name__, None if get_worker_info() else error)


class _Packed(bytes):
    """A pickled item: pickled here, where what cannot be pickled raises; the thread of a queue would only lose it."""


class _Runs:
    """Runs of entries, as a DataLoader's batch sampler gives them to workers."""

    def __init__(self, entries: Iterable[Any], *, packed: bool) -> None:
        self._entries, self._packed = entries, packed

    def __iter__(self) -> Iterator[list[Any]]:
        entries = iter(self._entries)
        while run := list(islice(entries, _RUN)):
            yield [(index, _Packed(pickle.dumps(item))) for index, item in run] if self._packed else run


def _as_it_is(batch: list[Result]) -> list[Result]:
    return batch
