"""How many synthetic items, of which class, in which rows; no images are moved.

Fractions are exact rationals. With fraction f_t and n_t items in batch t, the synthetic items of an epoch after t
batches are ``ceil(f_1·n_1 + … + f_t·n_t)``: within one item of the target after every batch, where rounding each
batch by itself would drift.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchaug_gen import rng

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
    if isinstance(value, bool) or not hasattr(value, "__float__"):
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
        return as_fraction(self.value(epoch, step), name=f"synthetic_fraction(epoch={epoch}, step={step})")

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
    if n == 0 or synthetic == 0:
        return torch.zeros(n, dtype=torch.bool)
    rows = (torch.arange(n) + shift) % n
    turned: Tensor = (rows + 1) * synthetic // n > rows * synthetic // n
    return turned


@dataclass(frozen=True)
class Cursor:
    """How far the choice of classes has come in an epoch.

    Attributes:
        seen: for ``"balance"``, how many items of each class the epoch has seen.
        latest: for ``"match"``, ``(R,)`` int64, the classes of the latest batch that had real rows.
    """

    seen: tuple[int, ...] = ()
    latest: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


class LabelSource:
    """Chooses the classes of synthetic items for one epoch.

    Args:
        policy: ``"match"`` draws from the labels of the batch's real rows, or the latest before them; ``"balance"``
            gives each item the class that the epoch has seen least of, real and synthetic together, the lowest index
            first; ``(K,)`` weights draw each class with that probability; a callable gets ``(real_labels, positions)``,
            int64 tensors, and returns one class per position.
        num_classes: K.
        seed: the loader's seed.
        epoch: the epoch.
    """

    def __init__(self, policy: Any, num_classes: int, *, seed: int, epoch: int) -> None:
        self._policy = check_policy(policy, num_classes)
        self._num_classes = num_classes
        self._seed, self._epoch = seed, epoch
        self._latest = torch.empty(0, dtype=torch.int64)
        self.seen = torch.zeros(num_classes, dtype=torch.int64)

    @property
    def cursor(self) -> Cursor:
        """What the classes of later items depend on, as far as the policy asks for it."""
        if isinstance(self._policy, str):
            return Cursor(seen=tuple(self.seen.tolist())) if self._policy == "balance" else Cursor(latest=self._latest)
        return Cursor()

    @cursor.setter
    def cursor(self, cursor: Cursor) -> None:
        if cursor.seen:
            self.seen = torch.tensor(cursor.seen, dtype=torch.int64)
        self._latest = cursor.latest

    def draw(self, real: Tensor, positions: Tensor) -> Tensor:
        """Return the class of each synthetic item of a batch.

        Args:
            real: ``(R,)`` int64 classes of the batch's real rows, on the CPU.
            positions: ``(S,)`` int64 positions of its synthetic items.

        Raises:
            ValueError: a callable that returns something else than S classes in 0..K-1.
        """
        if len(real):
            self._latest = real
        self.seen += torch.bincount(real, minlength=self._num_classes)
        if not len(positions):
            return torch.empty(0, dtype=torch.int64)
        if callable(self._policy):
            labels = self._checked(self._policy(real, positions), len(positions))
        elif isinstance(self._policy, Tensor):
            labels = self._weighted(self._policy, positions)
        elif self._policy == "balance":
            return self._balanced(len(positions))
        else:
            labels = self._matched(positions)
        self.seen += torch.bincount(labels, minlength=self._num_classes)
        return labels

    def _matched(self, positions: Tensor) -> Tensor:
        # Before the first real row there is nothing to match, so every class is as good.
        pool = self._latest if len(self._latest) else torch.arange(self._num_classes)
        return pool[rng.integers(self._seed, "loader.labels", self._epoch, positions, high=len(pool))]

    def _weighted(self, weights: Tensor, positions: Tensor) -> Tensor:
        draws = rng.uniform(self._seed, "loader.labels", self._epoch, positions, dtype=torch.float64)
        return torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), draws, right=True)

    def _balanced(self, n: int) -> Tensor:
        labels = torch.empty(n, dtype=torch.int64)
        for item in range(n):
            labels[item] = self.seen.argmin()
            self.seen[labels[item]] += 1
        return labels

    def _checked(self, answer: Any, n: int) -> Tensor:
        try:
            labels = torch.as_tensor(answer).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"labels= must return {n} class indices, got {type(answer).__name__}") from None
        if labels.shape != (n,) or labels.is_floating_point():
            raise ValueError(
                f"labels= must return {n} class indices, got shape {tuple(labels.shape)} of {labels.dtype}"
            )
        if labels.min() < 0 or labels.max() >= self._num_classes:
            raise ValueError(f"labels= must return classes in 0..{self._num_classes - 1}, got {labels.tolist()}")
        return labels.to(torch.int64)


def check_policy(policy: Any, num_classes: int | None = None) -> Any:
    """Return a label policy with weights as a float64 tensor that sums to 1.

    Raises:
        ValueError: an unknown name, or weights that are negative, all zero, or not one per class.
    """
    if callable(policy) or (isinstance(policy, str) and policy in ("match", "balance")):
        return policy
    expected = 'labels must be "match", "balance", one weight per class, or a callable'
    if isinstance(policy, str) or policy is None:
        raise ValueError(f"{expected}, got {policy!r}")
    weights = torch.as_tensor(policy, dtype=torch.float64)
    if weights.ndim != 1 or not len(weights) or not weights.isfinite().all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError(f"{expected}; weights must be (K,), finite, not negative, not all zero, got {policy!r}")
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"labels has {len(weights)} weights, but the synthesizer has {num_classes} classes")
    return weights / weights.sum()
