"""Schedules: synthetic fractions that change as training goes on.

A schedule is any callable ``(epoch, step) -> fraction``, the step counted within the epoch. Those made here measure
time in epochs, so that they need to know no length; with ``steps_per_epoch`` they move within the epoch, and without
it once an epoch. They can be put around each other, pickled, and printed as the code that makes them.

Fractions are rounded to nine decimals: sums of exact rationals then keep a small denominator, and every machine
gets the same ones, whatever the last bit of its cosine.

Each class may have a schedule of its own: ``synthetic_fraction={label: schedules.warmup(0.5, epochs=3) for label in
rare}``.

Example:
    >>> from torchaug_gen import schedules
    >>> schedule = schedules.anneal(schedules.warmup(0.3, epochs=3), total_epochs=20, share=0.25)
    >>> [schedule(epoch, 0) for epoch in (0, 1, 2, 3, 15, 17, 19, 20)]
    [0.0, 0.1, 0.2, 0.3, 0.3, 0.18, 0.06, 0.0]
    >>> schedule
    anneal(warmup(0.3, epochs=3), total_epochs=20, share=0.25)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torchaug_gen.mixing import as_fraction

Schedule = Callable[[int, int], float]

_DECIMALS = 9
# Of the fraction: beyond it a training set of synthetic images is what the network sees.
_MOST = 0.5


@dataclass(frozen=True, repr=False)
class _Ramp:
    """A value that goes from ``start`` to ``end`` while time goes from ``begin`` to ``begin + epochs``."""

    start: float
    end: float
    begin: float
    epochs: float
    steps_per_epoch: int | None
    smooth: bool
    source: str

    def __call__(self, epoch: int, step: int = 0) -> float:
        progress = (_time(epoch, step, self.steps_per_epoch) - self.begin) / self.epochs
        progress = min(max(progress, 0.0), 1.0)
        if self.smooth:
            progress = (1 - math.cos(math.pi * progress)) / 2
        return round(self.start + (self.end - self.start) * progress, _DECIMALS)

    def __repr__(self) -> str:
        return self.source


@dataclass(frozen=True, repr=False)
class _Scaled:
    """A schedule times a ramp between 0 and 1."""

    schedule: float | Schedule
    ramp: _Ramp

    def __call__(self, epoch: int, step: int = 0) -> float:
        value = self.schedule
        if callable(value):
            value = float(as_fraction(value(epoch, step), name=f"{value!r} at epoch {epoch}, step {step}"))
        return round(value * self.ramp(epoch, step), _DECIMALS)

    def __repr__(self) -> str:
        return self.ramp.source


def linear(
    start: float, end: float, *, epochs: float, begin: float = 0.0, steps_per_epoch: int | None = None
) -> Schedule:
    """Return a schedule that is ``start`` until epoch ``begin``, ``end`` from ``epochs`` later on, straight between.

    Args:
        start: a fraction in [0, 1).
        end: likewise.
        epochs: above 0; need not be whole.
        begin: at least 0.
        steps_per_epoch: batches of an epoch; ``None`` to move once an epoch. Where an epoch turns out longer, the
            schedule waits for its end.

    Raises:
        TypeError: a fraction that is no number.
        ValueError: an argument out of range.
    """
    return _ramp("linear", start, end, epochs=epochs, begin=begin, steps_per_epoch=steps_per_epoch)


def cosine(
    start: float, end: float, *, epochs: float, begin: float = 0.0, steps_per_epoch: int | None = None
) -> Schedule:
    """Return a schedule as :func:`linear` has it, but along half a cosine, which leaves and arrives gently."""
    return _ramp("cosine", start, end, epochs=epochs, begin=begin, steps_per_epoch=steps_per_epoch)


def warmup(schedule: float | Schedule, *, epochs: float, steps_per_epoch: int | None = None) -> Schedule:
    """Return a schedule that grows from 0 at the start of training to ``schedule`` after ``epochs``.

    Args:
        schedule: a fraction in [0, 1), or a schedule, which is multiplied by a line from 0 to 1.
        epochs: above 0; need not be whole.
        steps_per_epoch: see :func:`linear`.

    Raises:
        TypeError: neither a number nor a callable.
        ValueError: an argument out of range.
    """
    source = f"warmup({schedule!r}, epochs={epochs!r}{_told(steps_per_epoch)})"
    return _Scaled(_checked(schedule), _line(source, 0.0, 1.0, begin=0.0, epochs=epochs, steps=steps_per_epoch))


def anneal(
    schedule: float | Schedule, *, total_epochs: float, share: float = 0.15, steps_per_epoch: int | None = None
) -> Schedule:
    """Return a schedule that falls from ``schedule`` to 0 over the last part of training, and stays there.

    The network then ends on real images alone, which cost nothing of what the synthetic ones taught and take away what
    they taught wrong; 10 to 20 % of training is usual.

    Args:
        schedule: a fraction in [0, 1), or a schedule, which is multiplied by a line from 1 to 0.
        total_epochs: how long training takes, above 0.
        share: which part of it to fall over, in (0, 1].
        steps_per_epoch: see :func:`linear`.

    Raises:
        TypeError: neither a number nor a callable.
        ValueError: an argument out of range.
    """
    _check_positive("total_epochs", total_epochs)
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    source = f"anneal({schedule!r}, total_epochs={total_epochs!r}, share={share!r}{_told(steps_per_epoch)})"
    begin = total_epochs * (1 - share)
    ramp = _line(source, 1.0, 0.0, begin=begin, epochs=total_epochs - begin, steps=steps_per_epoch)
    return _Scaled(_checked(schedule), ramp)


def recommended(fraction: float = 0.3, *, total_epochs: float, steps_per_epoch: int | None = None) -> Schedule:
    """Return a schedule to begin with: up from 0 over the first 10 % of training, down to 0 over the last 15 %.

    Args:
        fraction: between the two, in [0, 0.5]. Where synthetic images outnumber real ones, accuracy on real ones
            usually falls.
        total_epochs: how long training takes, above 0.
        steps_per_epoch: see :func:`linear`.

    Raises:
        TypeError: a fraction that is no number.
        ValueError: an argument out of range.
    """
    if not float(as_fraction(fraction)) <= _MOST:
        raise ValueError(
            f"fraction must be in [0, {_MOST}], got {fraction}: build what goes beyond from warmup, anneal"
        )
    _check_positive("total_epochs", total_epochs)
    rising = warmup(fraction, epochs=total_epochs / 10, steps_per_epoch=steps_per_epoch)
    return anneal(rising, total_epochs=total_epochs, share=0.15, steps_per_epoch=steps_per_epoch)


def _time(epoch: int, step: int, steps_per_epoch: int | None) -> float:
    # An epoch that mixes in more has more steps; time must not run backwards when the next one begins.
    return epoch if steps_per_epoch is None else epoch + min(step / steps_per_epoch, 1.0)


def _ramp(name: str, start: float, end: float, *, epochs: float, begin: float, steps_per_epoch: int | None) -> Schedule:
    shown = f", begin={begin!r}" if begin else ""
    source = f"{name}({start!r}, {end!r}, epochs={epochs!r}{shown}{_told(steps_per_epoch)})"
    first, last = (float(as_fraction(value)) for value in (start, end))
    return _line(source, first, last, begin=begin, epochs=epochs, steps=steps_per_epoch, smooth=name == "cosine")


def _line(
    source: str, start: float, end: float, *, begin: float, epochs: float, steps: int | None, smooth: bool = False
) -> _Ramp:
    _check_positive("epochs", epochs)
    if not 0 <= begin < math.inf:
        raise ValueError(f"begin must be a number of epochs, at least 0, got {begin}")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise ValueError(f"steps_per_epoch must be an integer of at least 1, or None, got {steps!r}")
    return _Ramp(start, end, begin, epochs, steps, smooth, source)


def _checked(schedule: float | Schedule) -> float | Schedule:
    return schedule if callable(schedule) else float(as_fraction(schedule))


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _told(steps_per_epoch: int | None) -> str:
    return "" if steps_per_epoch is None else f", steps_per_epoch={steps_per_epoch!r}"
