"""Pass: the iterator over one epoch of an AugmentedLoader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchaug_gen.loading.plan import Delivery, Plan
from torchaug_gen.loading.prefetch import Prefetcher
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.state import Progress

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
    are reached through it.
    """

    def __init__(self, loader: AugmentedLoader[Any]) -> None:
        self._loader = loader
        self._opened: Opened | None = None
        self.superseded = self.finished = False

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        if self.superseded:
            raise RuntimeError(
                "this pass has ended: a newer pass over the loader took over its persistent workers; use two loaders "
                "to iterate twice at a time"
            )
        first = self._opened is None
        if self._opened is None:
            self._opened = self._loader._begin(self)
        try:
            delivery = self._opened.prefetcher.next()
        except StopIteration:
            if first and not self._opened.start.step:
                raise ValueError(
                    "the loader delivered no batch: its dataset is empty, or drop_last drops the only batch"
                ) from None
            self._end(self._opened)
            raise
        self._loader._handed_over(delivery)
        return delivery.batch

    def _end(self, opened: Opened) -> None:
        """Note, once, that the pass is over."""
        if not self.finished:
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
