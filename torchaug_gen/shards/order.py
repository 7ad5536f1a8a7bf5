"""The order of an epoch's samples over all shards, a pure function of (seed, epoch) that can begin anywhere."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torchaug_gen import rng

# Keys sorted at a time: 25 ms of drawing and sorting, and 4 MB.
_BLOCK = 1 << 16


class Place(NamedTuple):
    """Where a sample is: the number of its shard, and its own within that."""

    shard: int
    sample: int


class GlobalOrder:
    """The samples of all shards in the order of an epoch.

    Shards are put in a random order, and their samples, one shard behind the other, shuffled as by a buffer: sample i
    of this row gets the key i + u·window, with u uniform in [0, 1), and keys are sorted. No sample moves by ``window``
    places or more, so no more than that are ever waiting, and which samples stand at a range of positions can be told
    from the ``2 · window`` around it: nothing that comes before is drawn, let alone read. A window as large as the row
    gives any order with the same odds.

    Args:
        counts: how many samples each shard holds.
        window: 0 or 1 keep the samples of a shard in order; 0 keeps the order of shards too.
        seed: 0 ≤ seed < 2⁶⁴.
        epoch: 0 ≤ epoch < 2³².
    """

    def __init__(self, counts: Sequence[int], *, window: int, seed: int, epoch: int) -> None:
        self._window, self._seed, self._epoch = window, seed, epoch
        sizes = np.asarray(counts, dtype=np.int64).reshape(-1)
        self._shards = np.arange(len(sizes))
        if window:
            self._shards = rng.permutation(seed, "shards.order", epoch, len(sizes)).numpy()
        self._ends = np.cumsum(sizes[self._shards])
        self._begins = self._ends - sizes[self._shards]
        self._length = int(sizes.sum())
        # Of a window's keys each block sorts as many again.
        self._span = max(_BLOCK, min(window, self._length))
        self._block = lru_cache(maxsize=4)(self._sorted_block)

    def __len__(self) -> int:
        return self._length

    def places(self, positions: np.ndarray) -> Iterator[Place]:
        """Yield the places of the samples at these positions, int64 in ``0..len-1``; cheapest where they ascend."""
        rows = self._rows(positions)
        places = np.searchsorted(self._ends, rows, side="right")
        samples = rows - self._begins[places]
        for shard, sample in zip(self._shards[places].tolist(), samples.tolist(), strict=True):
            yield Place(shard, sample)

    def _rows(self, positions: np.ndarray) -> np.ndarray:
        """Return which samples stand at these positions, numbered through the row of shuffled shards."""
        if self._window < 2:
            return positions
        rows = np.empty_like(positions)
        pending = np.ones(len(positions), dtype=bool)
        while pending.any():
            position = int(positions[pending][0])
            # Block c begins less than a window before position c · span, and not behind it.
            number = position // self._span
            begin, block = self._block(number)
            while position >= begin + len(block):
                number += 1
                begin, block = self._block(number)
            inside = (positions >= begin) & (positions < begin + len(block))
            rows[inside] = block[positions[inside] - begin]
            pending &= ~inside
        return rows

    def _sorted_block(self, number: int) -> tuple[int, np.ndarray]:
        """Return the samples whose keys are in ``[number, number + 1) · span``, sorted, and the first's position."""
        if self._window >= self._length:
            return 0, rng.permutation(self._seed, "shards.window", self._epoch, self._length).numpy()
        low, high = number * self._span, (number + 1) * self._span
        # Keys of samples before this one are below `low` for sure, and those of samples from `high` on above it.
        first = max(0, low - self._window + 1)
        rows = np.arange(first, min(high, self._length), dtype=np.int64)
        draws = rng.integers(self._seed, "shards.window", self._epoch, torch.from_numpy(rows), high=1 << 32).numpy()
        # Fixed point with 32 binary places: exact, and the same on every machine.
        keys = (rows << 32) + self._window * draws
        inside = np.flatnonzero((keys >= low << 32) & (keys < high << 32))
        begin = first + int((keys < low << 32).sum())
        return begin, rows[inside[np.argsort(keys[inside], kind="stable")]]
