"""Continuity: how many synthetic items the epochs before had, so that a pool goes on from epoch to epoch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torchaug_gen.loading import order
from torchaug_gen.loading.inner import Inner, class_counts
from torchaug_gen.loading.settings import Settings
from torchaug_gen.mixing import ClassSchedule, Schedule

# Where in an epoch a fraction that changes is looked at.
_LOOKS = 16

# A class, or None for all, and how many real items of it an epoch has.
_Counts = Sequence[tuple[int | None, int]]


def continued(inner: Inner, settings: Settings, epoch: int) -> Settings:
    """Return the settings of an epoch's pass: those with a pool that goes on from where the last epoch left it.

    A pool that begins anew in every epoch gives up what it holds before that was used as often as was asked. Where the
    length of an epoch is unknown, it does.
    """
    going_on = getattr(settings.synthesizer, "going_on", None)
    if not callable(going_on) or not settings.mixes or not epoch:
        return settings
    drawn = draws_before(inner, settings, epoch)
    return settings if drawn is None else replace(settings, synthesizer=going_on(drawn))


def draws_before(inner: Inner, settings: Settings, epoch: int) -> int | None:
    """Return about how many synthetic items all ranks together had in the epochs before, or ``None``.

    It is a function of the epoch, and of nothing that has happened: fractions that change are averaged over a few steps
    of each epoch.
    """
    schedule, ranks = settings.schedule, inner.rank.count
    if not epoch:
        return 0
    try:
        counts: _Counts = (
            class_counts(inner.loader) if isinstance(schedule, ClassSchedule) else [(None, _real_items(inner))]
        )
    except TypeError:
        return None
    steps = max(sum(number for _, number in counts) // (max(inner.batch_size, 1) * ranks), 1)
    looks = range(0, steps, -(-steps // _LOOKS)) if schedule.varies else range(1)
    epochs = range(epoch) if schedule.varies else range(1)
    shares = [_share(schedule, counts, settings.mixing, number, step) for number in epochs for step in looks]
    return math.ceil(sum(shares) / len(shares) * epoch)


def _real_items(inner: Inner) -> int:
    """Return how many real items an epoch has on all ranks, without what a sampler repeats to share them out evenly.

    So it does not depend on the number of ranks.
    """
    items, ranks = order.real_items(inner.loader), inner.rank.count
    shared: Any = getattr(getattr(inner.loader, "sampler", None), "dataset", None)
    return len(shared) if ranks > 1 and hasattr(shared, "__len__") else items * ranks


def _share(schedule: Schedule | ClassSchedule, counts: _Counts, mixing: str, epoch: int, step: int) -> Fraction:
    """Return how many synthetic items an epoch would have, were the fraction that of this step throughout."""
    here = schedule(epoch, step)
    total = Fraction(0)
    for label, number in counts:
        # Of a fraction per class, every count has its class.
        fraction = here(label if label is not None else 0) if callable(here) else here
        total += number * (fraction if mixing == "replace" else fraction / (1 - fraction))
    return total
