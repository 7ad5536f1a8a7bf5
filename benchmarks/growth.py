"""The law that fits how a cost grows: a constant, and a power of what it grows with."""

from collections.abc import Sequence
from dataclasses import dataclass

# What is within these of each other, largest over smallest, is called flat: no exponent can be told from it.
FLAT = 1.1
_LEAST, _MOST, _PER_ONE = -2, 3, 100


@dataclass(frozen=True)
class Law:
    """A cost of ``constant + factor * x ** exponent``.

    Attributes:
        constant: what is paid whatever x is; at least 0.
        factor: at least 0.
        exponent: 1 is proportional, beyond the constant.
        r_squared: the share of the relative deviations from the best constant cost that the law explains.
        flat: whether all points are so near to each other that the cost may as well be called constant.
    """

    constant: float
    factor: float
    exponent: float
    r_squared: float
    flat: bool

    def at(self, x: float) -> float:
        """Return the cost at a point."""
        power: float = x**self.exponent
        return self.constant + self.factor * power


def fit(x: Sequence[float], y: Sequence[float], *, constant: float | None = None) -> Law:
    """Return the law nearest to the points, by least squares of relative deviations.

    Args:
        x: positive.
        y: positive, as many.
        constant: where it was measured by itself.
    """
    mean = _least_squares([0.0] * len(y), y, constant=None)[0]
    scatter = _missed(mean, [0.0] * len(y), y)
    exponents = [step / _PER_ONE for step in range(_LEAST * _PER_ONE, _MOST * _PER_ONE + 1) if step]
    found = []
    for exponent in exponents:
        powers = [value**exponent for value in x]
        apart, factor = _least_squares(powers, y, constant=constant)
        found.append((_missed(apart, [factor * power for power in powers], y), exponent, apart, factor))
    missed, exponent, apart, factor = min(found)
    explained = 1 - missed / scatter if scatter > 1e-12 else 1.0
    return Law(apart, factor, exponent, explained, flat=max(y) / min(y) <= FLAT)


def _missed(constant: float, rest: Sequence[float], y: Sequence[float]) -> float:
    return sum(((constant + part) / value - 1) ** 2 for part, value in zip(rest, y, strict=True))


def _least_squares(powers: Sequence[float], y: Sequence[float], *, constant: float | None) -> tuple[float, float]:
    """Return the constant and the factor, neither below 0, that miss the points least, relatively."""
    ones, slopes = [1 / value for value in y], [power / value for power, value in zip(powers, y, strict=True)]
    a, b, c = _dot(ones, ones), _dot(ones, slopes), _dot(slopes, slopes)
    p, q = sum(ones), sum(slopes)
    if constant is not None:
        return constant, max((q - constant * b) / c, 0.0) if c else 0.0
    determinant = a * c - b * b
    if determinant <= 1e-12 * a * c:
        return p / a, 0.0
    apart, factor = (p * c - q * b) / determinant, (q * a - p * b) / determinant
    if apart < 0:
        return 0.0, q / c
    return (apart, factor) if factor >= 0 else (p / a, 0.0)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))
