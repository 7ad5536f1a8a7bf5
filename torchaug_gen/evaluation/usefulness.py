"""Does it help? The same classifier trained on several arms, and what their differences say."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from torchaug_gen.evaluation.classifier import Accuracy, accuracy, fit

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical
# Methods, section 1.3.6.7.2.
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

HELPED, HURT, NO_DIFFERENCE, CANNOT_TELL = "helped", "hurt", "no difference beyond noise", "cannot tell"
_VERBS = {HELPED: "helped", HURT: "hurt", NO_DIFFERENCE: "made no difference beyond noise"}


@dataclass(frozen=True)
class Verdict:
    """What paired accuracies say about a change.

    Attributes:
        outcome: ``"helped"``, ``"hurt"``, ``"no difference beyond noise"`` or ``"cannot tell"``.
        difference: mean accuracy gained, as a share: 0.01 is one point.
        interval: the 95 % interval of that mean, or ``None`` where one pair has none.
        pairs: how many pairs were compared.
    """

    outcome: str
    difference: float
    interval: tuple[float, float] | None
    pairs: int

    def sentence(self, subject: str) -> str:
        """Return the verdict as a sentence about ``subject``, such as ``"augmentation"``."""
        points = f"{100 * self.difference:+.1f} points"
        if self.interval is None:
            return f"{subject}: {points}, but one seed cannot tell a difference from noise."
        low, high = (100 * bound for bound in self.interval)
        evidence = f"{points}, 95 % interval {low:+.1f} to {high:+.1f}, {self.pairs} paired seeds"
        return f"{subject} {_VERBS[self.outcome]} ({evidence})."


def verdict(baseline: Sequence[float], other: Sequence[float]) -> Verdict:
    """Say whether ``other`` beats ``baseline``, from the 95 % t-interval of their paired differences.

    The interval covers what changes with the seed: the initial weights, the order, the augmentation and the draws. It
    does not cover another training set, test set or synthesizer.

    Args:
        baseline: accuracies in [0, 1], one for each seed.
        other: accuracies with the same seeds in the same order.

    Returns:
        "helped" or "hurt" where the interval excludes zero; "cannot tell" for a single pair.

    Raises:
        ValueError: different lengths, no pair, or accuracies outside [0, 1].
    """
    if len(baseline) != len(other) or not baseline:
        raise ValueError(
            f"baseline and other must be paired, with at least one pair, got {len(baseline)} and {len(other)} values"
        )
    if bad := [value for value in (*baseline, *other) if not 0 <= value <= 1]:
        raise ValueError(f"accuracies must be in [0, 1], got {bad[0]}")
    differences = [b - a for a, b in zip(baseline, other, strict=True)]
    middle, count = mean(differences), len(differences)
    if count == 1:
        return Verdict(CANNOT_TELL, middle, None, count)
    half = t_quantile(count - 1) * stdev(differences) / math.sqrt(count)
    low, high = middle - half, middle + half
    outcome = HELPED if low > 0 else HURT if high < 0 else NO_DIFFERENCE
    return Verdict(outcome, middle, (low, high), count)


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t with ``degrees`` ≥ 1 degrees of freedom, within 0.001.

    Tabulated to 30 degrees, beyond that the expansion around the normal quantile of Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    x = 1.959964
    return x + (x**3 + x) / (4 * degrees) + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * degrees**2)


def compare(
    arms: Mapping[str, Callable[[int], Iterable[Any]]],
    test: Iterable[Any],
    *,
    make_classifier: Callable[[], nn.Module],
    steps: int,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, list[Accuracy]]:
    """Train the same classifier on every arm, with the same seeds and steps, and score each on the test loader.

    Arms differ in their loader only: for one seed all start from the same weights and follow the same schedule.
    PyTorch's global generators are seeded for each training, and are afterwards as they were.

    Args:
        arms: for each name a function from the seed to a training loader.
        test: a loader that can be gone through many times.
        make_classifier: makes an untrained classifier from the global generator.
        steps: optimiser steps of each training.
        seeds: one training of each arm for each; different from each other.
        device: where to train.
        progress: show a bar over all trainings.

    Returns:
        For each arm its accuracies, in the order of ``seeds``.

    Raises:
        ValueError: no arm, no seed, or a seed twice; and see :func:`fit`.
    """
    if not arms or not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"compare needs arms and seeds, all different, got arms {list(arms)} and seeds {list(seeds)}")
    device = torch.device(device)
    scores: dict[str, list[Accuracy]] = {name: [] for name in arms}
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with tqdm(total=steps * len(arms) * len(seeds), unit="step", disable=not progress) as bar:
        for seed, (name, loader_for) in product(seeds, arms.items()):
            bar.set_description(f"{name}, seed {len(scores[name]) + 1}/{len(seeds)}")
            with torch.random.fork_rng(devices=cuda):
                torch.manual_seed(seed)
                # Initial weights are drawn on the CPU, and so do not depend on the device.
                classifier = make_classifier().to(device)
                fit(classifier, loader_for(seed), steps, progress=bar)
                # Within the fork, since a DataLoader draws a seed for its workers even where it has none.
                scores[name].append(accuracy(classifier, test))
        bar.set_description("classifiers")
    return scores
