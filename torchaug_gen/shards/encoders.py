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
    """An item as files, by its number in the order of writing; ``key`` is its own, or ``None``."""

    number: int
    key: str | None
    files: dict[str, bytes]


class Refused(NamedTuple):
    """An item that cannot be written, by its index among the items, and why.

    ``cause`` is the error itself, where it happened in this process.
    """

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
        entries = islice(_numbered(items), start, None)
    task = _Task(dataset, encoding, order)
    if not workers:
        yield from map(task.__getitem__, entries)
        return
    runs = _Runs(entries, packed=dataset is None)
    # Its own generator: one is asked for the seeds of the workers.
    loader = DataLoader(
        task, batch_sampler=runs, num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator()
    )
    batches: Any = iter(loader)
    try:
        for batch in batches:
            # Ctrl-C does not wait for what is under way.
            if isinstance(runs.error, KeyboardInterrupt):
                break
            yield from batch
        if runs.error is not None:
            raise runs.error
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
        index, item = (entry, None) if self._dataset is not None else entry
        if isinstance(item, Refused):
            return item
        row = index if self._order is None else int(self._order[index])
        try:
            item = self._read(row) if self._dataset is not None else item
            item = pickle.loads(item) if isinstance(item, _Packed) else item
            return Encoded(index, *self._encoding.encode(item))
        # Data sets and decoders fail in many ways; KeyboardInterrupt is none of these.
        except Exception as error:
            return _refused(row, error)

    def _read(self, row: int) -> Any:
        with Seeded(rng.derive_seed(0, "shards.write", 0, row)):
            return self._dataset[row]


def _refused(index: int, error: Exception) -> Refused:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    told = isinstance(error, TypeError | ValueError | OSError) and str(error)
    # The text of a KeyError is a key and no more.
    reason = told or ": ".join(filter(None, (type(error).__name__, str(error))))
    # Not every error crosses between processes.
    return Refused(index, kind, reason, None if get_worker_info() else error)


def _numbered(items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    number = -1
    try:
        for number, item in enumerate(items):
            yield number, item
    except Exception as error:
        error.add_note(f"raised by items, which were asked for item {number + 1}")
        raise


class _Packed(bytes):
    """A pickled item."""


def _packed(index: int, item: Any) -> tuple[int, _Packed | Refused]:
    """Return an item as it goes to a worker; the thread of a queue would only lose what cannot be pickled."""
    try:
        return index, _Packed(pickle.dumps(item))
    except Exception as error:
        return index, _refused(index, error)._replace(cause=None)


class _Runs:
    """Runs of entries, as a DataLoader's batch sampler gives them to workers.

    Attributes:
        error: what the entries raised, behind which there are none. Raised while the workers are started, it would
            leave them behind.
    """

    def __init__(self, entries: Iterable[Any], *, packed: bool) -> None:
        self._entries, self._packed = entries, packed
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[list[Any]]:
        entries = iter(self._entries)
        while run := self._next(entries):
            yield [_packed(*entry) for entry in run] if self._packed else run

    def _next(self, entries: Iterator[Any]) -> list[Any]:
        run: list[Any] = []
        if self.error is None:
            try:
                run.extend(islice(entries, _RUN))
            except BaseException as error:
                self.error = error
        return run


def _as_it_is(batch: list[Result]) -> list[Result]:
    return batch
