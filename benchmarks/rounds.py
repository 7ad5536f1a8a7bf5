"""Contestants that take turns, round by round, so that a machine that slows down slows all of them."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

# Of which quartiles can be told; fewer only where nothing is published.
FEWEST = 5

Figure = Callable[[], float]
Work = Callable[[], int]


def take_turns(
    contestants: Mapping[str, Figure],
    *,
    rounds: int,
    seconds: float = math.inf,
    warm_up: bool = True,
    absent: dict[str, str] | None = None,
) -> dict[str, list[float]]:
    """Return a figure of each contestant for each round.

    Every second round goes backwards: who follows whom then evens out.

    Args:
        contestants: functions by name that measure once and return the figure.
        rounds: how many at the most.
        seconds: no further round is begun after these, but for :data:`FEWEST`.
        warm_up: whether there is a round before, which does not count.
        absent: is told why a contestant failed, which then drops out; without it, what fails raises.
    """
    end = time.perf_counter() + seconds
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    with _nothing_left_behind() as clean:
        for turn in range(-int(warm_up), rounds):
            if turn >= FEWEST and time.perf_counter() > end:
                break
            for name in list(figures)[:: 1 if turn % 2 == 0 else -1]:
                clean()
                try:
                    figure = contestants[name]()
                except Exception as error:
                    if absent is None:
                        raise
                    absent[name] = f"failed in round {turn + 1}: {error}"
                    del figures[name]
                    continue
                if turn >= 0:
                    figures[name].append(figure)
    return figures


@contextmanager
def _nothing_left_behind() -> Iterator[Callable[[], object]]:
    """Give what collects the garbage of one turn, and does not look at what was there before: that takes a while."""
    gc.collect()
    gc.freeze()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()


def interleave(works: Mapping[str, Work], *, rounds: int, seconds: float = math.inf) -> dict[str, list[float]]:
    """Return items per second of each contestant for each round, after one to warm up.

    Args:
        works: functions by name that do the work and return the number of items.
        rounds: how many at the most.
        seconds: as for :func:`take_turns`.
    """
    return take_turns({name: partial(rate, work) for name, work in works.items()}, rounds=rounds, seconds=seconds)


def rate(work: Work) -> float:
    """Return the items per second of one go."""
    start = time.perf_counter()
    items = work()
    return items / (time.perf_counter() - start)
