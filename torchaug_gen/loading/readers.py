"""Readers: the ways to read the user's loader from a position on."""

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchaug_gen import rng
from torchaug_gen.loading import codec, order, streams
from torchaug_gen.loading.adapters import is_dataloader, is_stateful
from torchaug_gen.loading.items import PrivateState, draws_nothing
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.remembering import Memory
from torchaug_gen.loading.workers import end_broken, end_persistent
from torchaug_gen.ranks import Share


class Reader(ABC):
    """A way to read the user's loader from a position on.

    Args:
        loader: the user's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    @abstractmethod
    def read(self, epoch: int, position: Any = None) -> Reading:
        """Begin a pass.

        Args:
            epoch: the epoch; the user's samplers and data sets have been told.
            position: what a reading of the same epoch said, or ``None`` for the start.
        """

    def check(self, position: Any) -> None:
        """Raise ``ValueError`` where a position that another loader's reading said cannot be gone on from here."""
        return

    def is_repeatable(self, epoch: int) -> bool:
        """Say whether the order of an epoch follows from the epoch and a position, as far as can be told."""
        return True

    @property
    def shared_by_ranks(self) -> bool:
        """Whether a position holds on every rank."""
        return True


class RememberedReading(Reading):
    """A reading in an order that follows from what samplers remember; positions hold that of the start of the epoch."""

    def __init__(self, raw: Iterator[Any], position: Any, *, memory: Memory, private: Any) -> None:
        super().__init__(raw, position, private=private)
        self._memory = memory

    def _advance(self, batch: Any) -> Any:
        self.position = {**self.position, "batches": self.position["batches"] + 1}
        return batch

    def end(self) -> Any:
        """Return the start of the next pass, before which the samplers remember this one."""
        return {"batches": 0, "samplers": self._memory.state()}


class TwinReader(Reader):
    """Reads a ``DataLoader`` through a twin with an order, workers and a generator of its own.

    Args:
        loader: the user's.
        seed: the loader's seed.
        regroup: turns a map-style loader's batches of indices into others.
        rank: this process among those that share the epoch.
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int, regroup: order.Regroup | None, rank: Share) -> None:
        super().__init__(loader)
        deal = getattr(loader.dataset, "set_batch_size", None)
        if isinstance(loader.dataset, IterableDataset) and callable(deal):
            # A data set that deals by batches delivers the same order to any number of workers.
            deal(loader.batch_size or 1)
        self._seed = seed
        self._generator = torch.Generator()
        self._order: order.SeededOrder | None = None
        self._memory = Memory(None)
        self._seeds_items = False
        if not isinstance(loader.dataset, IterableDataset):
            batched = loader.batch_sampler is not None
            sampler = loader.batch_sampler if batched else loader.sampler
            self._seeds_items = not draws_nothing(loader.dataset)
            seeded_for = rank if self._seeds_items else None
            self._memory = Memory(sampler)
            self._order = order.SeededOrder(sampler, seed=seed, regroup=regroup, rank=seeded_for, batched=batched)
        self.twin = order.twin_of(loader, self._order, self._generator)
        weakref.finalize(self, end_persistent, self.twin)

    def read(self, epoch: int, position: Any = None) -> Reading:
        """Begin a pass; a map-style loader loads nothing of what is skipped."""
        self._prepare(epoch)
        if self._memory:
            if position is not None:
                self._memory.load(position["samplers"])
            # As it is now, before the order is asked for; how far that goes ahead of the batches is torch's affair.
            position = position or {"batches": 0, "samplers": self._memory.state()}
        done = position["batches"] if self._memory else position or 0
        # Without workers the data set draws in this process, whose generators are not ours to move.
        seeds_here = self._seeds_items and self.loader.num_workers == 0
        if self._order is not None:
            self._order.epoch, self._order.skip, self._order.here = epoch, done, seeds_here
        private = PrivateState(rng.derive_seed(self._seed, "loader.main", epoch)) if seeds_here else None
        if self._memory:
            return RememberedReading(iter(self.twin), position, memory=self._memory, private=private)
        return Reading(iter(self.twin), done, private=private)

    def is_repeatable(self, epoch: int) -> bool:
        """Say whether the order of an epoch follows from the epoch and a position, as far as can be told."""
        return self._order is None or self._order.is_repeatable(epoch)

    @property
    def shared_by_ranks(self) -> bool:
        """Whether a position holds on every rank: not where each has samplers that remember."""
        return not self._memory

    def _prepare(self, epoch: int) -> None:
        self._generator.manual_seed(rng.derive_seed(self._seed, "loader.workers", epoch))
        order.refresh(self.twin, self.loader)
        end_broken(self.twin)


class StreamReader(TwinReader):
    """Reads a ``DataLoader`` over an ``IterableDataset`` that can be positioned; see :mod:`.streams`."""

    _resumed = False

    def read(self, epoch: int, position: Any = None) -> Reading:
        """Begin a pass; the data set of each worker is positioned there."""
        # The user may have set another number of workers since the position was checked.
        self.check(position)
        self._prepare(epoch)
        if position is not None or self._resumed:
            # Workers that were started for another position cannot serve this one.
            end_persistent(self.twin)
        self._resumed = position is not None
        workers, dataset = self.loader.num_workers, self.loader.dataset
        if position is not None and "left" in position:
            dataset.resume(codec.decode(position["left"]))
            position = None
        start = streams.Start(position, max(workers, 1))
        # The data set's state may tell where the pass before has ended, and not where the next one begins.
        anew = (lambda: iter(self.twin)) if streams.is_over(position) and not workers else None
        settings = vars(self.twin)
        settings["collate_fn"] = streams.Marking(self.loader.collate_fn, self.loader.batch_size, self.loader.dataset)
        if workers:
            settings["worker_init_fn"] = streams.Positioning(self.loader.worker_init_fn, start)
        else:
            start.place(self.loader.dataset, 0)
        if position is None or not workers:
            # Also of workers that will not have delivered anything when a state is saved.
            start.states = [streams.state_text(dataset)] * max(workers, 1)
        return streams.StreamReading(iter(self.twin), start, workers, dataset, anew=anew)

    def check(self, position: Any) -> None:
        """Raise ``ValueError`` where the position is that of another kind of loader, or number of workers."""
        if position is None or "left" in position:
            return
        streams.check_position(position)
        if position["workers"] == self.loader.num_workers:
            return
        raise ValueError(
            f"the state is that of a loader with num_workers={position['workers']} over an IterableDataset, whose "
            f"items depend on it, but this loader has {self.loader.num_workers}"
        )

    @property
    def shared_by_ranks(self) -> bool:
        """A stream of each rank is its own."""
        return False


class StatefulReading(Reading):
    """A reading of a loader that has a state of its own, which is taken behind each batch."""

    def __init__(
        self,
        raw: Iterator[Any],
        state_of: Callable[[], Any],
        position: Any,
        *,
        anew: Callable[[], Iterator[Any]] | None = None,
    ) -> None:
        super().__init__(raw, position, anew=anew)
        self._state_of = state_of

    def _advance(self, batch: Any) -> Any:
        # Taken now: when the batch is handed over, the loader may be further on.
        self.position = self.end()
        return batch

    def end(self) -> Any:
        """Return the loader's state; some data sets go on in the next pass from where they ended."""
        return codec.encode(self._state_of(), where="the inner loader's state")


class StatefulReader(Reader):
    """Reads a loader with ``state_dict`` and ``load_state_dict``, such as torchdata's ``StatefulDataLoader``.

    Args:
        loader: the user's.
        inner: what reads it otherwise: a twin, or the loader itself.
    """

    def __init__(self, loader: Any, twin: TwinReader | None = None) -> None:
        super().__init__(loader)
        self._twin = twin

    def read(self, epoch: int, position: Any = None) -> Reading:
        """Begin a pass; the loader is given the state of the position."""
        if self._twin is not None:
            self._twin._prepare(epoch)
        loader: Any = self.loader if self._twin is None else self._twin.twin
        if position is not None:
            loader.load_state_dict(codec.decode(position))
        raw = iter(loader)
        if position is None and not hasattr(loader, "set_epoch"):
            # What knows no epochs may begin this one from where it ended the last.
            position = codec.encode(loader.state_dict(), where="the inner loader's state")
        anew = (lambda: iter(loader)) if streams.is_over(position) else None
        return StatefulReading(raw, loader.state_dict, position, anew=anew)

    def check(self, position: Any) -> None:
        """Raise ``ValueError`` where torchdata's loader would fail with a bare assertion, or not know the state."""
        if streams.is_position(position):
            raise ValueError(
                f"the state was saved over a plain DataLoader, but this one is another: {streams.PLAIN_GOES_ON}"
            )
        mine, saved = getattr(self.loader, "num_workers", 0), streams.torchdata_workers(position)
        if saved is not None and saved != mine:
            raise ValueError(
                f"the state was saved over a StatefulDataLoader with num_workers={saved}, but this loader has {mine}: "
                f"{streams.PLAIN_GOES_ON}"
            )

    @property
    def shared_by_ranks(self) -> bool:
        """A state is that of one rank's loader."""
        return False


class RepeatingReader(Reader):
    """Reads anything else, and skips what is before a position by reading it.

    Args:
        loader: the user's, or a reader of it.
        iterate: makes an iterator over all of it, for an epoch.
    """

    def __init__(self, loader: Any, twin: TwinReader | None = None) -> None:
        super().__init__(loader)
        self._twin = twin

    def read(self, epoch: int, position: Any = None) -> Reading:
        """Begin a pass; batches before the position are read and thrown away, with a warning."""
        raw = iter(self.loader) if self._twin is None else self._twin.read(epoch).raw
        if position and not isinstance(self.loader, Sequence):
            warnings.warn(
                f"{_name(self.loader)} cannot be positioned: {position} batches are read and thrown away to resume "
                "behind them, which is exact only where it delivers the same again; give the data set "
                "seek(position), or state_dict() and load_state_dict(state)",
                RuntimeWarning,
                stacklevel=2,
            )
        reading = Reading(raw)
        _skip(reading, position or 0)
        return reading

    @property
    def shared_by_ranks(self) -> bool:
        """Unknown, so no."""
        return False


def reader_of(loader: Any, *, seed: int, regroup: order.Regroup | None, rank: Share) -> Reader:
    """Return what reads the user's loader."""
    if not is_dataloader(loader):
        return StatefulReader(loader) if is_stateful(loader) else RepeatingReader(loader)
    if not isinstance(loader.dataset, IterableDataset):
        return TwinReader(loader, seed=seed, regroup=regroup, rank=rank)
    if is_stateful(loader):
        return StatefulReader(loader, TwinReader(loader, seed=seed, regroup=None, rank=rank))
    if callable(getattr(loader.dataset, "seek", None)) or is_stateful(loader.dataset):
        return StreamReader(loader, seed=seed, regroup=None, rank=rank)
    return RepeatingReader(loader, TwinReader(loader, seed=seed, regroup=None, rank=rank))


def _skip(reading: Reading, batches: int) -> None:
    """Read batches and throw them away, as far as there are any."""
    for _ in range(batches):
        try:
            next(reading)
        except StopIteration:
            return
        except Exception:
            if reading.broken:
                raise
            # It was raised when the pass came here first, and had its place as a batch.
            continue


def _name(loader: Any) -> str:
    dataset = getattr(loader, "dataset", None)
    return type(loader).__name__ + (f" over {type(dataset).__name__}" if dataset is not None else "")
