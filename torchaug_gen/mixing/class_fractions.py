"""How many synthetic items where each class has a fraction of its own.

With fraction f_t of a class and n_t items of it in batch t, real and synthetic together, its synthetic items after t
batches are ``ceil(f_1·n_1 + … + f_t·n_t)``: the law of :mod:`.counts`, for each class by itself. So the items of a
class follow one pattern, each real one behind the synthetic ones due before it, and a batch may end anywhere in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchaug_gen.mixing.counts import Tally, as_fraction, synthetic_rows

_NOTHING = Fraction(0)


@dataclass(frozen=True)
class ClassSchedule:
    """The synthetic fraction of each class as a pure function of (epoch, step).

    Args:
        values: by class, a fraction for ever or a callable of (epoch, step); classes left out have none.
    """

    values: Mapping[int, Fraction | Callable[[int, int], Any]]

    @staticmethod
    def describes(value: Any) -> bool:
        """Say whether a ``synthetic_fraction`` is one for each class."""
        many = isinstance(value, Mapping | Sequence) and not isinstance(value, str | bytes)
        return many or bool(getattr(value, "ndim", 0))

    @staticmethod
    def of(value: Any, num_classes: int) -> "ClassSchedule":
        """Return a mapping of classes, or one fraction for each class, as a schedule.

        Raises:
            TypeError: a fraction that is neither a number nor a callable; a class that is no integer.
            ValueError: a fraction outside [0, 1), a class outside 0..K-1, or not one fraction for each class.
        """
        if not isinstance(value, Mapping):
            # NumPy's scalars know their precision: float32(0.3) is 3/10.
            value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            if len(value) != num_classes or getattr(value, "ndim", 1) != 1:
                raise ValueError(
                    f"synthetic_fraction must have one value for each of the synthesizer's {num_classes} classes, got "
                    f"{len(value)} values; a mapping of classes to fractions may leave classes out"
                )
            value = dict(enumerate(value))
        fractions = {_label(label, num_classes): _checked(label, fraction) for label, fraction in value.items()}
        return ClassSchedule({label: fraction for label, fraction in fractions.items() if fraction != 0})

    @property
    def varies(self) -> bool:
        """Whether a fraction may change."""
        return any(map(callable, self.values.values()))

    @property
    def delivers(self) -> bool:
        """Whether there may be synthetic items at all."""
        return bool(self.values)

    def __call__(self, epoch: int, step: int) -> Callable[[int], Fraction]:
        """Return the fraction of each class in the batch at ``step`` of an epoch, as a function of the class."""
        return _Fractions(self.values, epoch, step).__getitem__

    def __str__(self) -> str:
        return str({label: value if callable(value) else str(value) for label, value in self.values.items()})


class _Fractions(dict[int, Fraction]):
    """The fractions of one batch, of those classes that were asked for."""

    def __init__(self, values: Mapping[int, Fraction | Callable[[int, int], Any]], epoch: int, step: int) -> None:
        super().__init__()
        self._values, self._epoch, self._step = values, epoch, step

    def __missing__(self, label: int) -> Fraction:
        value = self._values.get(label, _NOTHING)
        if callable(value):
            where = f"synthetic_fraction[{label}](epoch={self._epoch}, step={self._step})"
            value = as_fraction(value(self._epoch, self._step), name=where)
        self[label] = value
        return value


class Merged(NamedTuple):
    """Real items with the synthetic ones due before them.

    Attributes:
        real: how many of the real items there is room for.
        synthetic: the classes of the synthetic items.
        tally: what the epoch has delivered with them.
    """

    real: int
    synthetic: list[int]
    tally: "ClassTally"

    @property
    def items(self) -> int:
        """How many items that makes."""
        return self.real + len(self.synthetic)


@dataclass(frozen=True)
class ClassTally:
    """What an epoch has delivered of each class; those with no fraction so far are left out."""

    tallies: Mapping[int, Tally] = field(default_factory=dict)

    def merge(
        self, labels: Iterable[int], fraction_of: Callable[[int], Fraction], *, room: int | None = None
    ) -> Merged:
        """Put the synthetic items that are due before each real one, until there is no more room.

        Args:
            labels: the classes of the real items that come next.
            fraction_of: the fraction of each class.
            room: items that the batch can hold; ``None`` for all of them.
        """
        counts: dict[int, _Count] = {}
        synthetic: list[int] = []
        real = 0
        for label in labels:
            if label not in counts:
                counts[label] = _Count(self.tallies.get(label, Tally()), fraction_of(label))
            while real + len(synthetic) != room and counts[label].due():
                synthetic.append(label)
                counts[label].add(synthetic=True)
            if real + len(synthetic) == room:
                break
            real += 1
            counts[label].add(synthetic=False)
        return Merged(real, synthetic, self._with((label, count.tally) for label, count in counts.items()))

    def replace(
        self, labels: Tensor, fraction_of: Callable[[int], Fraction], *, shift: int = 0
    ) -> tuple[Tensor, "ClassTally"]:
        """Return which items become synthetic ones of their own class, ``(N,)`` bool, and the tally with them.

        Args:
            labels: ``(N,)`` int64, the classes of the items.
            fraction_of: the fraction of each class.
            shift: turns the pattern in each class by that many items.
        """
        rows = torch.zeros(len(labels), dtype=torch.bool)
        changed = {}
        for label in labels.unique().tolist():
            tally, fraction = self.tallies.get(label, Tally()), fraction_of(label)
            members = (labels == label).nonzero()[:, 0]
            split = tally.split(fraction, len(members))
            rows[members] = synthetic_rows(len(members), split.synthetic, shift=shift)
            changed[label] = tally.after(fraction, split)
        return rows, self._with(changed.items())

    def to_json(self) -> dict[str, list[Any]]:
        """Return the tally as JSON can hold it."""
        return {str(label): [str(tally.target), tally.synthetic] for label, tally in self.tallies.items()}

    @staticmethod
    def from_json(saved: Mapping[str, Sequence[Any]]) -> "ClassTally":
        """Return the tally that :meth:`to_json` has told of."""
        return ClassTally(
            {int(label): Tally(Fraction(target), int(number)) for label, (target, number) in saved.items()}
        )

    def _with(self, changed: Iterable[tuple[int, Tally]]) -> "ClassTally":
        """Return the tally in which some classes have changed."""
        return ClassTally({**self.tallies, **{label: tally for label, tally in changed if tally.target}})


class _Count:
    """A class's tally while a batch is filled, in integers over one denominator: rationals take ten times as long."""

    def __init__(self, tally: Tally, fraction: Fraction) -> None:
        self._unit = lcm(tally.target.denominator, fraction.denominator)
        self._target, self._fraction = int(tally.target * self._unit), int(fraction * self._unit)
        self._synthetic = tally.synthetic

    def due(self) -> bool:
        """Say whether the next item is a synthetic one."""
        return -(-(self._target + self._fraction) // self._unit) > self._synthetic

    def add(self, *, synthetic: bool) -> None:
        """Count an item."""
        self._target += self._fraction
        self._synthetic += synthetic

    @property
    def tally(self) -> Tally:
        return Tally(Fraction(self._target, self._unit), self._synthetic)


def epoch_items(counts: Iterable[tuple[int, int]], schedule: ClassSchedule) -> int:
    """Return how many items an epoch has, real and synthetic, where the fractions do not change.

    Args:
        counts: class and number of real items.
        schedule: the fractions.

    Raises:
        TypeError: they change, so that it depends on the order of the items.
    """
    if schedule.varies:
        raise TypeError("the length of an epoch whose fractions per class change depends on the order of its items")
    fraction_of = schedule(0, 0)
    return sum(sum(Tally().extend(fraction_of(label), number)) for label, number in counts)


def _checked(label: Any, fraction: Any) -> Fraction | Callable[[int, int], Any]:
    return fraction if callable(fraction) else as_fraction(fraction, name=f"synthetic_fraction[{label}]")


def _label(label: Any, num_classes: int) -> int:
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TypeError(f"synthetic_fraction must map class indices to fractions, got {label!r} as a class")
    if not 0 <= int(label) < num_classes:
        raise ValueError(f"synthetic_fraction must map classes in 0..{num_classes - 1}, got class {label}")
    return int(label)
