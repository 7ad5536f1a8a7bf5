"""What paired figures say: bootstrap intervals, t-tests, and Holm's correction for asking often."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from torchaug_gen.evaluation.resampled import student_tail
from torchaug_gen.evaluation.usefulness import CANNOT_TELL, HELPED, HURT, NO_DIFFERENCE, t_quantile

_RESAMPLES = 9999
LEVEL = 0.05
# Two pairs have an interval, but one that says nothing about the next two.
_FEWEST = 3
# How often in 100 a bootstrap interval of so many seeds covers the mean, where it should 95 times: measured on 2,000
# sets of normal figures each.
COVERAGE = {3: 72, 4: 81, 5: 85, 8: 89, 12: 91}
FEW = 12


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline, on the same training images, weights and order, seed by seed.

    Interval, error and p are over the seeds alone. They take the test images as given, so another test set may give
    another mean; and where the images are few the training sets of different seeds overlap, so that seeds are less
    independent than the formulas take them to be.

    Attributes:
        arm: name of the arm.
        baseline: name of the other.
        per_class: training images per class.
        pairs: how many seeds have both.
        difference: mean of what the arm gained, as a share: 0.01 is one point.
        interval: 95 % bootstrap interval of that mean (BCa); ``None`` for a single pair.
        error: standard error of the mean difference; ``None`` for a single pair.
        p: of the paired t-test; ``None`` for a single pair.
        adjusted: ``p`` after Holm's correction among all comparisons that were planned.
        outcome: "helped", "hurt", "no difference beyond noise", "cannot tell".
        above: on how many of the pairs the arm was above its baseline.
        below: on how many it was below.
        share: how much of what further real images gain in the same slots, and its 95 % interval; ``None`` where
            these do not gain beyond noise themselves.
    """

    arm: str
    baseline: str
    per_class: int
    pairs: int
    difference: float
    interval: tuple[float, float] | None
    error: float | None
    p: float | None
    adjusted: float | None = None
    outcome: str = CANNOT_TELL
    above: int = 0
    below: int = 0
    share: tuple[float, float, float] | None = None

    @property
    def hidden(self) -> float | None:
        """The largest difference, as a share, that these pairs cannot exclude; ``None`` for a single pair.

        The further bound of the interval and of the t-test's own, which is far wider for a few seeds.
        """
        if self.interval is None or self.error is None:
            return None
        return max(*map(abs, self.interval), abs(self.difference) + t_quantile(self.pairs - 1) * self.error)


def compare_pairs(
    baseline: Sequence[float],
    other: Sequence[float],
    *,
    arm: str,
    against: str,
    per_class: int,
    tested: int | None = None,
) -> Comparison:
    """Return the comparison of paired figures, before any correction.

    Args:
        baseline: figures of the baseline, seed by seed.
        other: those of the arm, on the same seeds.
        arm: name of the arm.
        against: name of the baseline.
        per_class: training images per class.
        tested: see :func:`standard_error`.

    Raises:
        ValueError: no pair, different numbers, or figures that are not finite.
        ModuleNotFoundError: SciPy is not installed.
    """
    if len(baseline) != len(other) or not baseline:
        raise ValueError(f"figures must be paired, with at least one pair, got {len(baseline)} and {len(other)}")
    differences = np.subtract(other, baseline)
    if not np.isfinite(differences).all():
        raise ValueError(f"figures must be finite, got {[*baseline, *other]}")
    count = len(differences)
    mean = float(differences.mean())
    sides: dict[str, Any] = {"above": int((differences > 0).sum()), "below": int((differences < 0).sum())}
    if count < 2:
        return Comparison(arm, against, per_class, count, mean, None, None, None, **sides)
    error = standard_error(differences, tested=tested)
    interval, p = mean_interval(differences), t_test(mean, error, count)
    return Comparison(arm, against, per_class, count, mean, interval, error, p, **sides)


def corrected(comparisons: Sequence[Comparison], *, family: int | None = None) -> list[Comparison]:
    """Return comparisons with Holm's correction, and with their outcomes.

    Something helped or hurt where both the corrected t-test and the bootstrap interval exclude that nothing happened:
    with few seeds the interval alone is too narrow.

    Args:
        comparisons: those that were made.
        family: how many were planned; a verdict then does not change when the others are made. ``None``: these.
    """
    adjusted = iter(holm([found.p for found in comparisons if found.p is not None], family=family))
    return [_judged(found, None if found.p is None else next(adjusted)) for found in comparisons]


def said_p(p: float | None) -> str:
    """Return a p-value as people read it after a ``p``: three digits, and never 0."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def holm(p_values: Sequence[float], *, family: int | None = None) -> list[float]:
    """Return p-values adjusted for their number.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scandinavian Journal of
    Statistics, 1979): the i-th smallest of m is multiplied by m - i + 1, capped at 1, and never falls below the one
    before.

    Args:
        p_values: of the tests that were made.
        family: m, where more were planned; the others count as if theirs were 1.
    """
    count = max(family or 0, len(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = least
    return adjusted


def mean_interval(values: Any) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of at least two values.

    Bias-corrected and accelerated: Efron, "Better Bootstrap Confidence Intervals" (1987); by SciPy.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    return _interval((values,), np.mean, method="BCa")


def share_of_gain(
    baseline: Sequence[float], arm: Sequence[float], extra: Sequence[float]
) -> tuple[float, float, float] | None:
    """Return which share of the gain of further real images an arm reaches, and its 95 % bootstrap interval.

    The two arms fill the same slots of every batch, but not with as many different images, so this is no price of one
    image in others. That the real images gain beyond noise, corrected for all that is asked, is for the caller to see.

    Args:
        baseline: figures with neither, seed by seed.
        arm: those with synthetic images, on the same seeds.
        extra: those with further real ones, likewise.

    Returns:
        The ratio of the mean gains and its bounds; ``None`` with fewer than three seeds, or where the interval of the
        real images' own gain includes zero.
    """
    base, mine, real = (np.asarray(values, dtype=np.float64) for values in (baseline, arm, extra))
    gained, possible = mine - base, real - base
    if len(base) < _FEWEST or mean_interval(possible)[0] <= 0:
        return None

    def ratio(x: Any, y: Any, axis: int = -1) -> Any:
        below = y.mean(axis=axis)
        # A resample in which real images gained nothing has no ratio; a tenth of a point stands in.
        return x.mean(axis=axis) / np.maximum(below, 1e-3)

    low, high = _interval((gained, possible), ratio, method="percentile", paired=True)
    return float(gained.mean() / possible.mean()), low, high


def standard_error(differences: Any, *, tested: int | None = None) -> float:
    """Return the standard error of the mean of at least two differences.

    Args:
        differences: one for each seed.
        tested: test images. Accuracies are multiples of 1/tested: seeds that agree to the image know the spread no
            better than that.
    """
    spread = float(np.var(differences, ddof=1))
    if tested is not None:
        spread = max(spread, (0.5 / tested) ** 2)
    return math.sqrt(spread / len(differences))


def t_test(mean: float, error: float, count: int) -> float:
    """Return the two-sided p-value of Student's t-test that a mean of ``count`` ≥ 2 differences is zero."""
    if error == 0:
        # Without any spread there is no t; equal figures on every seed differ by nothing or by all there is.
        return 1.0 if mean == 0 else 0.0
    return 2 * student_tail(abs(mean) / error, count - 1)


def _interval(samples: tuple[Any, ...], statistic: Any, **options: Any) -> tuple[float, float]:
    with warnings.catch_warnings():
        # SciPy warns of degenerate resamples, which two or three seeds have; bounds that are not finite show it.
        warnings.simplefilter("ignore")
        found = scipy_stats().bootstrap(
            samples,
            statistic,
            n_resamples=_RESAMPLES,
            confidence_level=1 - LEVEL,
            rng=np.random.default_rng(0),
            **options,
        )
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    return _interval(samples, statistic, **{**options, "method": "percentile"})


def _judged(found: Comparison, adjusted: float | None) -> Comparison:
    if found.interval is None or adjusted is None or found.pairs < _FEWEST:
        return replace(found, adjusted=adjusted, outcome=CANNOT_TELL)
    low, high = found.interval
    outcome = NO_DIFFERENCE
    if adjusted < LEVEL and (low > 0 or high < 0):
        outcome = HELPED if low > 0 else HURT
    return replace(found, adjusted=adjusted, outcome=outcome)


def scipy_stats() -> Any:
    """Return ``scipy.stats``, or raise ``ModuleNotFoundError`` that says how to get it."""
    try:
        return import_module("scipy.stats")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "an experiment's intervals need SciPy, which is not installed: pip install 'torchaug_gen[experiment]'"
        ) from error
