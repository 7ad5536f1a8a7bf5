"""Turnover: which sample of its class a position is given, by arithmetic alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from torchaug_gen import rng


@dataclass(frozen=True)
class Turnover:
    """The samples of a class through an epoch, renewed a block at a time.

    Samples are numbered from 0 and drawn in blocks of ``block``. A *lap* goes once through the samples at hand, the
    window, in an order of its own: that many positions, one sample each. Block j enters the window with lap
    ⌈j·R/W⌉ and stays for R laps, where R is ``laps`` and W, ``window``, the most blocks at hand. So

    - every sample is given to exactly R positions of the epoch, in R laps that follow each other, once in each;
    - at most W blocks are at hand, one at first, W after about R laps;
    - sample and order depend on nothing but (seed, epoch, position).

    Args:
        block: samples in a block.
        window: W ≥ 1.
        laps: R ≥ 1.
    """

    block: int
    window: int
    laps: int
    # Of the stages w = 1..W with w blocks in the window: first lap, and first position.
    _first_lap: np.ndarray = field(init=False, repr=False, compare=False)
    _start: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first = [-(-stage * self.laps // self.window) for stage in range(self.window)]
        start = [0]
        for stage in range(1, self.window):
            start.append(start[-1] + (first[stage] - first[stage - 1]) * stage * self.block)
        object.__setattr__(self, "_first_lap", np.array(first, dtype=np.int64))
        object.__setattr__(self, "_start", np.array(start, dtype=np.int64))

    @staticmethod
    def within(blocks: int, *, block: int, laps: int) -> "Turnover":
        """Return the one with the widest window that needs no more than ``blocks`` ≥ 2, those that enter next included.

        They are drawn while the window is still in use.
        """
        window = max(blocks * laps // (laps + 1), 1)
        while window + -(-window // laps) > blocks:
            window -= 1
        return Turnover(block, window, laps)

    def samples(self, positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Return the number of the sample that each position ``(N,)`` is given, int64.

        Raises:
            ValueError: a position below 0.
        """
        if not len(positions):
            # Classes of one size share a turnover, and a batch may hold none of them.
            return positions
        if positions.min() < 0:
            raise ValueError(f"positions must be at least 0, got {positions.min()}")
        if (one := self._one_lap(positions)) is not None:
            number, start, width = one
            order = _order(seed, epoch, number, width)[positions - start]
            return np.asarray(order + self._oldest(number, width) * self.block)
        stage = np.searchsorted(self._start, positions, side="right") - 1
        size = (stage + 1) * self.block
        lap, place = np.divmod(positions - self._start[stage], size)
        lap += self._first_lap[stage]
        found = np.empty_like(positions)
        for number in np.unique(lap):
            here = lap == number
            # All of a lap are of one stage.
            width = int(size[here][0])
            first = self._oldest(int(number), width) * self.block
            found[here] = first + _order(seed, epoch, int(number), width)[place[here]]
        return found

    def coming(self, position: int) -> tuple[range, float]:
        """Return the blocks that enter next after a position, and which share of the time until then is over."""
        stage = int(np.searchsorted(self._start, position, side="right")) - 1
        lap = int(self._first_lap[stage] + (position - self._start[stage]) // ((stage + 1) * self.block))
        newest = self._newest(lap)
        came, comes = -(-newest * self.laps // self.window), -(-(newest + 1) * self.laps // self.window)
        begin, end = self._lap_start(came), self._lap_start(comes)
        return range(newest + 1, self._newest(comes) + 1), (position - begin) / (end - begin)

    def _one_lap(self, positions: np.ndarray) -> tuple[int, int, int] | None:
        """Return number, first position and width of the lap of all positions, as of most batches, if it is one."""
        low, high = int(positions.min()), int(positions.max())
        stage = int(np.searchsorted(self._start, low, side="right")) - 1
        begin, width = int(self._start[stage]), (stage + 1) * self.block
        done = (low - begin) // width
        # Stages end with a lap.
        start = begin + done * width
        return (int(self._first_lap[stage]) + done, start, width) if high < start + width else None

    def _oldest(self, lap: int, width: int) -> int:
        return self._newest(lap) + 1 - width // self.block

    def _newest(self, lap: int) -> int:
        return lap * self.window // self.laps

    def _lap_start(self, lap: int) -> int:
        stage = min(self._newest(lap), self.window - 1)
        return int(self._start[stage] + (lap - self._first_lap[stage]) * (stage + 1) * self.block)


@lru_cache(maxsize=16)
def _order(seed: int, epoch: int, lap: int, n: int) -> np.ndarray:
    return np.asarray(rng.permutation(seed, "pool.order", epoch, n, position=lap))


class Ahead:
    """What a lane has asked for ahead, in one epoch.

    Args:
        seed: the caller's seed.
        epoch: the caller's epoch.
        turnovers: of each class.
    """

    def __init__(self, seed: int, epoch: int, turnovers: Sequence[Turnover]) -> None:
        self.seed, self.epoch = seed, epoch
        self._turnovers = turnovers
        # The classes that were asked for, by how they turn over: what nobody wants is not drawn ahead.
        self._classes: dict[Turnover, dict[int, None]] = {}
        self._asked: dict[Turnover, tuple[range, int]] = {}

    def due(self, classes: Sequence[int], position: int) -> Iterator[tuple[int, int]]:
        """Yield class and number of the blocks that are to be asked for by now.

        Those that enter next are asked for one by one over the time until then, in the order of their classes: so the
        thread works steadily, instead of all at once.
        """
        for label in classes:
            self._classes.setdefault(self._turnovers[label], {}).setdefault(label)
        for turnover, members in self._classes.items():
            entering, share = turnover.coming(position)
            labels, total = list(members), len(members) * len(entering)
            # Two ahead of an even pace, which leaves the thread the time of one.
            count = min(int(share * total) + 2, total)
            known, done = self._asked.get(turnover, (None, 0))
            for item in range(done if known == entering else 0, count):
                yield labels[item % len(labels)], entering[item // len(labels)]
            self._asked[turnover] = entering, count


def class_shares(weights: Tensor | Sequence[float] | None, classes: int) -> Tensor:
    """Return the share of each class, ``(K,)`` float64: alike without weights.

    Raises:
        ValueError: weights that are not one for each class, finite and above 0.
    """
    if weights is None:
        return torch.full((classes,), 1 / classes, dtype=torch.float64)
    shares = torch.as_tensor(weights, dtype=torch.float64).cpu()
    if shares.shape != (classes,) or not shares.isfinite().all() or not (shares > 0).all():
        raise ValueError(f"weights must be ({classes},), one for each class, finite and above 0, got {weights!r}")
    return shares / shares.sum()


def divided(capacity: int, chunk: int, shares: Tensor) -> tuple[int, list[int]]:
    """Return the samples in a block, a full chunk if that is possible, and how many blocks each class has room for.

    Raises:
        ValueError: too little capacity for two blocks of each class.
    """
    # A class needs one block in use and one that comes next; what is left is shared out.
    needed = 2 * len(shares)
    if capacity < needed:
        raise ValueError(f"capacity must be at least two for each of {len(shares)} classes, {needed}, got {capacity}")
    block = min(chunk, capacity // needed)
    left = capacity // block - needed
    # The little more is for what rounding took: seven times 1/7 of 7.
    return block, [2 + int(left * share + 1e-6) for share in shares.tolist()]
