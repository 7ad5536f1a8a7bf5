"""What a loader has delivered, and what it has spent its time on."""

import math
import warnings
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import Tensor

from torchaug_gen.loading.plan import Delivery
from torchaug_gen.loading.rest import layers

# A loader is called the bottleneck where its consumer has waited for more than this share of at least that many
# seconds: the first batches of a pass are always waited for.
_SHARE, _SECONDS = 0.5, 30.0

_ADVICE = {
    "loading": "give the inner loader more workers",
    "drawing": "draw less often with SyntheticPool(synthesizer, capacity=..., reuse=...), or lower synthetic_fraction",
    "transforming": "see fuse(transform).plan() for stages that are opaque, and so slow",
}


@dataclass
class Stats:
    """Counts and seconds since the loader was made, over all its passes.

    Attributes:
        batches: how many were delivered.
        real: real items in them.
        synthetic: synthetic items in them.
        real_by_class: how many real items of each class, where labels are class indices on the CPU.
        synthetic_by_class: how many synthetic ones.
        waited: seconds that the consumer has spent in ``next``.
        consumed: seconds that it has spent between one ``next`` and another.
        loading: seconds spent on the inner loader.
        drawing: seconds spent on drawing synthetic images; on CUDA, on asking for it.
        transforming: seconds spent on all the rest of composing a batch; on CUDA likewise.
        source: the synthesizer, whose own counts are shown beside these.
    """

    batches: int = 0
    real: int = 0
    synthetic: int = 0
    real_by_class: list[int] = field(default_factory=list)
    synthetic_by_class: list[int] = field(default_factory=list)
    waited: float = 0.0
    consumed: float = 0.0
    loading: float = 0.0
    drawing: float = 0.0
    transforming: float = 0.0
    source: Any = field(default=None, repr=False)
    _warned: bool = field(default=False, repr=False)

    def __copy__(self) -> "Stats":
        return replace(self, real_by_class=list(self.real_by_class), synthetic_by_class=list(self.synthetic_by_class))

    def count(self, delivery: Delivery) -> None:
        """Count one delivered batch."""
        self.batches += 1
        self.real += delivery.real
        self.synthetic += delivery.synthetic
        self.loading += delivery.seconds.loading
        self.drawing += delivery.seconds.drawing
        self.transforming += delivery.seconds.transforming
        _add(self.real_by_class, delivery.real_classes)
        _add(self.synthetic_by_class, delivery.synthetic_classes)

    def waited_for(self, seconds: float, *, consumed: float) -> None:
        """Count the seconds of one ``next``, and those of the consumer before it, and warn where they are too many."""
        self.waited += seconds
        self.consumed += consumed
        total = self.waited + self.consumed
        if not self._warned and total > _SECONDS and self.waited > _SHARE * total:
            self._warned = True
            part = self.slowest
            warnings.warn(
                f"the loader is the bottleneck: {self.waited / total:.0%} of {total:.0f} s went into waiting for it, "
                f"most of it into {part}: {_ADVICE[part]}",
                RuntimeWarning,
                stacklevel=4,
            )

    @property
    def synthesizer(self) -> Any:
        """The synthesizer's own stats, such as a pool's reuse and its gates' acceptance, or ``None``."""
        # Asked anew: a pool that is moved to another device begins to count anew.
        found = (getattr(layer, "stats", None) for layer in layers(self.source))
        return next((stats for stats in found if stats is not None), None)

    @property
    def fraction_by_class(self) -> list[float]:
        """The synthetic share of each class's items, where labels are class indices on the CPU; NaN for none."""
        pairs = zip_longest(self.real_by_class, self.synthetic_by_class, fillvalue=0)
        return [synthetic / (real + synthetic) if real + synthetic else math.nan for real, synthetic in pairs]

    @property
    def slowest(self) -> str:
        """The part that most seconds were spent on."""
        return max(_ADVICE, key=lambda part: float(getattr(self, part)))

    def __str__(self) -> str:
        share = self.synthetic / max(self.real + self.synthetic, 1)
        text = (
            f"{self.batches} batches of {self.real} real and {self.synthetic} synthetic items ({share:.1%}); waited "
            f"{self.waited:.1f} s; loading {self.loading:.1f} s, drawing {self.drawing:.1f} s, transforming "
            f"{self.transforming:.1f} s"
        )
        stats = self.synthesizer
        return text if stats is None else f"{text}; {stats}"


def _add(total: list[int], labels: Tensor | None) -> None:
    """Add the number of items of each class."""
    if labels is None or not len(labels):
        return
    # Of a hundred labels, in a tenth of the time that PyTorch takes.
    counts = np.bincount(labels.numpy()).tolist()
    total += [0] * (len(counts) - len(total))
    for label, number in enumerate(counts):
        total[label] += number
