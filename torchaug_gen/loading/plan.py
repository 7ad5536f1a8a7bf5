"""Plan: what one batch will be made of, decided before anything is drawn or transformed."""

from dataclasses import dataclass, field
from typing import Any

import torch
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
        loading: seconds that the inner loader took for it.
    """

    batch: Any
    fields: Fields
    synthetic_rows: Tensor
    labels: Tensor | None
    positions: Tensor
    real_positions: Tensor
    key: Key
    after: Progress
    loading: float = 0.0

    @property
    def synthetic(self) -> int:
        """How many synthetic items the batch holds."""
        return len(self.positions)

    @property
    def real(self) -> int:
        """How many real items the batch holds."""
        return len(self.synthetic_rows) - self.synthetic


@dataclass
class Seconds:
    """What making a batch took on the host."""

    loading: float = 0.0
    drawing: float = 0.0
    transforming: float = 0.0


@dataclass(frozen=True)
class Delivery:
    """A batch that is ready.

    Attributes:
        batch: in the inner loader's own structure.
        real: how many real items it holds.
        synthetic: how many synthetic ones.
        after: how far the pass has come with it.
        seconds: what it took.
        real_classes: ``(R,)`` the classes of the real items, where they are known on the CPU.
        synthetic_classes: ``(S,)`` those of the synthetic ones.
        chunk: how many rows the synthesizer drew at a time, where it says so.
        ready: on CUDA, what the consumer's stream has to wait for.
    """

    batch: Any
    real: int
    synthetic: int
    after: Progress
    seconds: Seconds = field(default_factory=Seconds)
    real_classes: Tensor | None = None
    synthetic_classes: Tensor | None = None
    chunk: int | None = None
    ready: torch.cuda.Event | None = None
