"""How many synthetic items, and in which rows, for one fraction of all items.

Fractions are exact rationals. With fraction f_t and n_t items in batch t, the synthetic items of an epoch after t
batches are ``ceil(f_1·n_1 + … + f_t·n_t)``: within one item of the target after every batch, where rounding each
batch by itself would drift.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MIXINGS = ("rebatch", "extend", "replace")

# A fraction for all steps of an epoch, or a function of the step.
Fractions = Fraction | Callable[[int], Fraction]


def as_fraction(value: Any, *, name: str = "synthetic_fraction") -> Fraction:
    """Return a synthetic fraction as the rational that its shortest decimal form names: 0.1 is 1/10.

    Args:
        value: a number.
        name: what it is called in errors.

    Raises:
        TypeError: not a number.
        ValueError: outside [0, 1).
    """
    truth = isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) is torch.bool
    if truth or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    number = float(value)
    if not 0 <= number < 1:  # also false for NaN
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    if isinstance(value, Fraction):
        return value
    # NumPy's scalars print the digits of their own precision: float32(0.3) is 3/10 too.
    return Fraction(str(value) if isinstance(value, np.generic) else repr(number))


@dataclass(frozen=True)
class Schedule:
    """The synthetic fraction as a pure function of (epoch, step).

    Args:
        value: one fraction for ever, or a callable of (epoch, step) that returns a number in [0, 1).
    """

    value: Fraction | Callable[[int, int], Any]

    @staticmethod
    def of(value: Any) -> "Schedule":
        """Return a number or a callable as a schedule, or raise what :func:`as_fraction` raises."""
        return Schedule(value if callable(value) else as_fraction(value))

    @property
    def varies(self) -> bool:
        """Whether the fraction may change."""
        return callable(self.value)

    @property
    def delivers(self) -> bool:
        """Whether there may be synthetic items at all."""
        return self.varies or self.value != 0

    def __call__(self, epoch: int, step: int) -> Fraction:
        """Return the fraction of the batch at ``step`` of an epoch."""
        if not callable(self.value):
            return self.value
        value = self.value(epoch, step)
        if isinstance(value, Mapping | Sequence) or getattr(value, "ndim", 0) > 0:
            raise TypeError(
                f"synthetic_fraction(epoch={epoch}, step={step}) must be a number in [0, 1), got {type(value).__name__}"
                ": for a schedule per class give a mapping of classes to schedules"
            )
        return as_fraction(value, name=f"synthetic_fraction(epoch={epoch}, step={step})")

    def during(self, epoch: int) -> Fractions:
        """Return the fractions of one epoch."""
        return partial(self, epoch) if callable(self.value) else self.value


def fraction_at(fractions: Fractions, step: int) -> Fraction:
    """Return the fraction of the batch at ``step``."""
    return fractions(step) if callable(fractions) else fractions


class Split(NamedTuple):
    """A batch's real and synthetic items."""

    real: int
    synthetic: int


@dataclass(frozen=True)
class Tally:
    """What an epoch has delivered: the exact synthetic target so far and the synthetic items that met it."""

    target: Fraction = Fraction(0)
    synthetic: int = 0

    def split(self, fraction: Fraction, items: int) -> Split:
        """Return how a batch of ``items`` divides."""
        synthetic = math.ceil(self.target + fraction * items) - self.synthetic
        return Split(items - synthetic, synthetic)

    def extend(self, fraction: Fraction, real: int) -> Split:
        """Return the smallest batch that holds ``real`` real items and keeps the count exact."""
        # items - (ceil(target + f·items) - synthetic) = real, solved for the smallest number of items.
        items = math.ceil((real - self.synthetic + self.target) / (1 - fraction))
        return Split(real, max(items, real) - real)

    def after(self, fraction: Fraction, split: Split) -> "Tally":
        """Return the tally once a batch is delivered."""
        if not fraction:
            # Exact rationals are slow, and most loaders mix nothing.
            return self if not split.synthetic else replace(self, synthetic=self.synthetic + split.synthetic)
        return replace(self, target=self.target + fraction * sum(split), synthetic=self.synthetic + split.synthetic)


def rebatch(tally: Tally, fraction: Fraction, batch_size: int, real_left: int) -> Split:
    """Return how the next batch of ``batch_size`` divides, or the short last one where real items run out."""
    split = tally.split(fraction, batch_size)
    return split if split.real <= real_left else tally.extend(fraction, real_left)


def rebatch_splits(real: int, batch_size: int, fractions: Fractions, *, drop_last: bool) -> Iterator[Split]:
    """Yield how each batch of an epoch with ``real`` real items divides."""
    tally = Tally()
    for step in count():
        if real <= 0:
            return
        fraction = fraction_at(fractions, step)
        split = rebatch(tally, fraction, batch_size, real)
        if drop_last and sum(split) < batch_size:
            return
        yield split
        tally, real = tally.after(fraction, split), real - split.real


def synthetic_rows(n: int, synthetic: int, *, shift: int = 0) -> Tensor:
    """Return which rows of a batch of ``n`` are synthetic, spread evenly, as an ``(n,)`` bool tensor.

    Row i is synthetic where ``floor((i+1)·s/n) > floor(i·s/n)``; ``shift`` turns the pattern by that many rows.
    """
    pattern, turned = _spread(n, synthetic), shift % n if n else 0
    return torch.from_numpy(np.concatenate((pattern[turned:], pattern[:turned])))


@lru_cache(maxsize=256)
def _spread(n: int, synthetic: int) -> npt.NDArray[np.bool_]:
    # Batches of an epoch differ by one synthetic item at most, so there are few patterns.
    before = np.arange(n + 1) * synthetic // max(n, 1)
    return before[1:] > before[:-1]
