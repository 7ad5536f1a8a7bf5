"""Plan: what one batch will be made of, decided before anything is drawn or transformed."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchaug_gen.augment.rows import Key
from torchaug_gen.batch import Fields
from torchaug_gen.loading.state import Progress


@dataclass(frozen=True)
class Plan:
    """One batch to be.

    Attributes:
        batch: the real rows to deliver, in the inner loader's own structure.
        fields: where images, labels and targets are in it.
        synthetic_rows: ``(N,)`` bool, True where a row will be synthetic.
        labels: ``(S,)`` int64, the classes to draw; ``None`` for a synthesizer without classes.
        positions: ``(S,)`` int64, the positions to draw.
        real_positions: ``(R,)`` int64, the positions of the real rows in the epoch.
        key: what the batch's random numbers are keyed by.
        after: how far the pass will have come with this batch.
    """

    batch: Any
    fields: Fields
    synthetic_rows: Tensor
    labels: Tensor | None
    positions: Tensor
    real_positions: Tensor
    key: Key
    after: Progress

    @property
    def synthetic(self) -> int:
        """How many synthetic items the batch holds."""
        return len(self.positions)

    @property
    def real(self) -> int:
        """How many real items the batch holds."""
        return len(self.synthetic_rows) - self.synthetic


@dataclass(frozen=True)
class Delivery:
    """A batch that is ready.

    Attributes:
        batch: in the inner loader's own structure.
        real: how many real items it holds.
        synthetic: how many synthetic ones.
        after: how far the pass has come with it.
    """

    batch: Any
    real: int
    synthetic: int
    after: Progress
