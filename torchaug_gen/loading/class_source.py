"""ClassSource: plans batches where each class has a synthetic fraction of its own."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from torchaug_gen import batch as batches
from torchaug_gen.loading.plan import Plan
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.settings import Settings
from torchaug_gen.loading.source import Source
from torchaug_gen.loading.state import Progress
from torchaug_gen.mixing import ClassSchedule, ClassTally, Split
from torchaug_gen.ranks import Share


class ClassSource(Source):
    """Plans the batches of one pass by the classes of their real items, which are known only once they are loaded.

    So indices cannot be regrouped ahead: where the size of a batch is fixed, rows are carried from one to the next.

    Args:
        inner: see :class:`Source`.
        settings: whose schedule is one per class.
        start: see :class:`Source`.
        rank: likewise.
        batch_size: likewise.
        drop_last: likewise.
    """

    def __init__(
        self, inner: Reading, settings: Settings, *, start: Progress, rank: Share, batch_size: int, drop_last: bool
    ) -> None:
        super().__init__(
            inner, settings, start=start, rank=rank, batch_size=batch_size, regrouped=False, drop_last=drop_last
        )
        self._tallies: ClassTally = start.classes
        ways = {
            "rebatch": ClassSource._carried_by_class,
            "extend": ClassSource._extended_by_class,
            "replace": ClassSource._replaced_by_class,
        }
        self._next = ways[settings.mixing]

    def _extended_by_class(self) -> Plan:
        batch, _ = self._pull()
        merged = self._tallies.merge(self._classes(batch).tolist(), self._fraction_of)
        self._tallies = merged.tally
        return self._plan(batch, Split(merged.real, len(merged.synthetic)), labels=_tensor(merged.synthetic))

    def _replaced_by_class(self) -> Plan:
        batch, n = self._pull()
        classes = self._classes(batch)
        rows, self._tallies = self._tallies.replace(classes, self._fraction_of, shift=self._epoch + self._step)
        split = Split(n - int(rows.sum()), int(rows.sum()))
        return self._plan(self._take(batch, n, (~rows).nonzero()[:, 0]), split, rows=rows, labels=classes[rows])

    def _carried_by_class(self) -> Plan:
        while True:
            classes = [] if self._held is None else self._classes(self._held[0]).tolist()
            merged = self._tallies.merge(classes, self._fraction_of, room=self._batch_size)
            if self._ended or merged.items == self._batch_size:
                break
            self._carry()
        if self._held is None or (self._drop_last and merged.items < self._batch_size):
            raise StopIteration
        self._tallies = merged.tally
        batch, n = self._held
        rows = torch.arange(n)
        self._held = (self._take(batch, n, rows[merged.real :]), n - merged.real) if n > merged.real else None
        batch = self._take(batch, n, rows[: merged.real])
        return self._plan(batch, Split(merged.real, len(merged.synthetic)), labels=_tensor(merged.synthetic))

    @property
    def _fraction_of(self) -> Callable[[int], Fraction]:
        """The fraction of each class in the batch to be planned."""
        schedule = self._settings.schedule
        if not isinstance(schedule, ClassSchedule):
            raise TypeError("a ClassSource plans by fractions per class")
        return schedule(self._epoch, self._step)

    def _pull(self) -> tuple[Any, int]:
        batch, n = super()._pull()
        # Here, so that a batch with a bad label is left behind, and not carried.
        self._classes(batch)
        return batch, n

    def _classes(self, batch: Any) -> Tensor:
        path = self._known_fields.labels
        if path is None:
            raise ValueError("synthetic_fraction per class needs labels, but the batch has none: name them in fields")
        if torch.as_tensor(self._labels_of(batch)).ndim != 1:
            raise ValueError(
                f"synthetic_fraction per class needs class indices (N,), but field {batches.show(path)} holds "
                "probabilities: give one fraction for all classes"
            )
        return super()._classes(batch)

    def _advance(self, split: Split, *, replaced: int = 0) -> None:
        self._tally = replace(self._tally, synthetic=self._tally.synthetic + split.synthetic)
        self._real_seen += split.real + replaced
        self._step += 1

    def _progress(self) -> Progress:
        return replace(super()._progress(), classes=self._tallies)


def _tensor(labels: list[int]) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64)
