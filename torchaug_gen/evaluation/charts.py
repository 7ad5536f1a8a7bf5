"""Charts: the geometry of small line charts, which the page draws as SVG in its own colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

# Of the SVG's own units; the page scales them.
WIDTH, HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22


@dataclass(frozen=True)
class Chart:
    """Lines within a frame of :data:`WIDTH` × :data:`HEIGHT`.

    Attributes:
        title: what is drawn.
        x_label: what runs to the right.
        lines: for each line its name and its ``points`` for an SVG polyline.
        x_ticks: positions along x with their labels.
        y_ticks: positions along y with their labels.
        marks: positions along x of vertical lines.
    """

    title: str
    x_label: str
    lines: tuple[tuple[str, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]


def line_chart(title: str, lines: Mapping[str, Points], *, x_label: str, marks: Sequence[float] = ()) -> Chart | None:
    """Lay out lines; ``None`` where there is no finite point."""
    kept = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in lines.items()
    }
    everything = [point for points in kept.values() for point in points]
    if not everything:
        return None
    x_low, x_high = _span([x for x, _ in everything])
    y_low, y_high = _span([y for _, y in everything])

    def across(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    return Chart(
        title,
        x_label,
        tuple((name, " ".join(f"{across(x)},{down(y)}" for x, y in points)) for name, points in kept.items()),
        tuple((across(tick), _label(tick)) for tick in _ticks(x_low, x_high)),
        tuple((down(tick), _label(tick)) for tick in _ticks(y_low, y_high)),
        tuple(across(mark) for mark in marks if x_low <= mark <= x_high),
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # A flat line lies in the middle, and rounding cannot make the span nothing.
    pad = max(abs(low), abs(high), 1e-30) * 0.05
    return (low, high) if high - low > 1e-9 * pad else (low - pad, high + pad)


def _ticks(low: float, high: float) -> list[float]:
    """Return up to six multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label(tick: float) -> str:
    """Return a number in as few characters as tell it from the next one."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 10 * size <= abs(tick) < 1e13:
            return f"{tick / size:.4g}{letter}".replace("-", "−")
    return f"{tick:.4g}".replace("-", "−")
