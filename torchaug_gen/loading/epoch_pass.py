"""Pass: the iterator over one epoch of an AugmentedLoader."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchaug_gen.loading import workers
from torchaug_gen.loading.plan import Delivery, Plan
from torchaug_gen.loading.prefetch import Prefetcher
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.side_stream import receive
from torchaug_gen.loading.state import Progress
from torchaug_gen.loading.tracebacks import let_go

if TYPE_CHECKING:
    from torchaug_gen.loading.loader import AugmentedLoader


@dataclass(frozen=True)
class Opened:
    """What stands behind a pass that has begun.

    Attributes:
        reading: the inner loader's batches.
        prefetcher: makes batches to deliver of them.
        start: what the pass went on from.
    """

    reading: Reading
    prefetcher: Prefetcher[Plan, Delivery]
    start: Progress


class Pass:
    """One pass over the loader; it begins, and takes its epoch, at the first ``next``.

    It is a class and not a generator, so that it goes on after an error in one batch. Attributes of the inner iterator
    are reached through it. Threads that share it get a batch each, one after the other.
    """

    def __init__(self, loader: AugmentedLoader[Any]) -> None:
        self._loader = loader
        self._opened: Opened | None = None
        self.superseded = self.finished = False
        self._since: float | None = None
        # Reentrant: a transform that asks for the next batch itself must not wait for ever.
        self._lock = threading.RLock()

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        try:
            with self._lock:
                return self._next()
        except BaseException as error:
            let_go(error)
            raise
        finally:
            self._let_go()
            # This frame is in the traceback too; or behind it, where an error is held back for later.
            del self

    def _next(self) -> Any:
        if self.superseded:
            raise RuntimeError(
                "this pass has ended: a newer pass over the loader took over its persistent workers; use two loaders "
                "to iterate twice at a time"
            )
        start = time.perf_counter()
        first = self._opened is None
        opened = self._open() if self._opened is None else self._opened
        try:
            delivery = opened.prefetcher.next()
        except StopIteration:
            if first and not opened.start.step:
                raise ValueError(
                    "the loader delivered no batch: its dataset is empty, or drop_last drops the only batch"
                ) from None
            self._end(opened)
            raise
        receive(delivery)
        self._loader._handed_over(delivery, last=opened.prefetcher.ended)
        now = time.perf_counter()
        self._loader.stats.waited_for(now - start, consumed=0.0 if self._since is None else start - self._since)
        self._since = now
        return delivery.batch

    def _let_go(self) -> None:
        if self._opened is not None:
            self._opened.prefetcher.let_go()

    def _open(self) -> Opened:
        """Begin the pass."""
        self._opened = opened = self._loader._begin(self)
        raw = opened.reading.raw
        if not getattr(raw, "_persistent_workers", False):
            # Before the iterator ends by itself, which takes five seconds for each worker that is busy.
            weakref.finalize(self, workers.end, raw)
        return opened

    def _end(self, opened: Opened) -> None:
        """Note, once, that the pass is over."""
        if not self.finished and not opened.reading.broken:
            self.finished = True
            self._loader._finished(opened)

    @property
    def epoch(self) -> int | None:
        """The epoch of the pass; ``None`` before its first ``next``."""
        return None if self._opened is None else self._opened.start.epoch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        opened = self.__dict__.get("_opened")
        if opened is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(opened.reading.raw, name)
