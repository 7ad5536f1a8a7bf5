"""Gains that were measured on resampled data: how sure one can be that they are gains."""

import math
from collections.abc import Sequence
from statistics import mean, variance

import torch
from torch import Tensor

from torchaug_gen import rng


def stratified_folds(labels: Tensor, folds: int, *, seed: int, repeat: int) -> Tensor:
    """Return for each image the fold that it is tested in, ``(N,)`` int64: each class is dealt out evenly.

    The only image of a class is in no fold (-1), since without it nothing could learn the class.

    Args:
        labels: ``(N,)`` int64.
        folds: at least 2.
        seed: with ``repeat`` it decides who goes where.
        repeat: 0 ≤ repeat < 2³².
    """
    found = torch.full((len(labels),), -1)
    shuffled = rng.permutation(seed, "evaluation.folds", repeat, len(labels))
    dealt = 0
    for label in labels.unique().tolist():
        rows = shuffled[labels[shuffled] == label]
        if len(rows) > 1:
            # Goes on where the class before ended, so that small classes do not all begin in the same fold.
            found[rows] = (dealt + torch.arange(len(rows))) % folds
            dealt += len(rows)
    return found


def fold_error(gains: Sequence[float], *, tested: float, trained: float) -> float:
    """Return the standard error of the mean gain over the folds of one or many cross-validations.

    Folds share training images, so their gains are not independent, and s/√J would be far too small. Nadeau and Bengio,
    "Inference for the Generalization Error" (Machine Learning 52, 2003), section 3: s·√(1/J + tested/trained).

    Args:
        gains: one for each fold, at least two.
        tested: images that a fold is tested on.
        trained: images that it is trained on.
    """
    # Gains are multiples of 1/tested: folds that agree to the image know the spread no better than that.
    spread = max(variance(gains), (0.5 / tested) ** 2)
    return math.sqrt(spread * (1 / len(gains) + tested / trained))


def crossed_error(differences: Tensor) -> float:
    """Return the standard error of the mean of differences ``(J, N)``: J trainings, all tested on the same N images.

    Other trainings and other images would both have given another mean: the variances of the two are added, which
    counts what is left of either twice and so errs upwards.
    """
    seeds, images = differences.mean(1), differences.mean(0)
    spread = max(float(seeds.var()), (0.5 / len(images)) ** 2)
    return math.sqrt(spread / len(seeds) + float(images.var()) / len(images))


def gain_p(gains: Sequence[float], error: float, *, margin: float = 0.0) -> float:
    """Return the one-sided p-value of the hypothesis that the true gain is at most ``margin``.

    Args:
        gains: one for each training, at least two.
        error: standard error of their mean, above 0.
        margin: the least gain that counts.
    """
    return student_tail((mean(gains) - margin) / error, len(gains) - 1)


def student_tail(t: float, degrees: int) -> float:
    """Return the probability that Student's t with ``degrees`` ≥ 1 degrees of freedom is above ``t``.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: finite sums, exact for whole degrees.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    # Terms cos^k times the product of (k-1)/k for all k of the parity below the degrees.
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = (angle + sine * total) * 2 / math.pi if odd else sine * total
    tail = (1 - inside) / 2
    return tail if t > 0 else 1 - tail


def lower_bound(gains: Sequence[float], error: float, *, level: float) -> float:
    """Return what the true gain is above with probability 1 - ``level``."""
    low, high = 0.0, 1.0
    while student_tail(high, len(gains) - 1) > level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, len(gains) - 1) > level else (low, middle)
    return mean(gains) - high * error
