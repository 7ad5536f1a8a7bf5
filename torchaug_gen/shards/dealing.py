"""Which worker of which rank delivers which positions of an epoch, and what is left of an epoch that was begun."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from torchaug_gen import ranks
from torchaug_gen.ranks import Share


@dataclass(frozen=True)
class Deal:
    """How a row of positions is dealt.

    Rank r gets places r, r + ranks, r + 2 · ranks, …, as from ``DistributedSampler``; of these, its workers get runs of
    ``batch_size`` in turn. A DataLoader of that batch size asks its workers in turn for a batch each, and so delivers
    the row in order, whatever their number.

    Attributes:
        ranks: how many there are.
        workers: of each rank; 1 without workers.
        batch_size: of the DataLoader, per rank.
    """

    ranks: int
    workers: int
    batch_size: int

    def places(self, rank: int, worker: int, taken: np.ndarray) -> np.ndarray:
        """Return the places in the row of what a worker takes as its ``taken``-th, from 0."""
        run, within = np.divmod(taken, self.batch_size)
        return ((run * self.workers + worker) * self.batch_size + within) * self.ranks + rank

    def takers(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return who takes these places, as ranks, workers, and the how-manieth each is."""
        ordinals, ranks = np.divmod(places, self.ranks)
        batches, within = np.divmod(ordinals, self.batch_size)
        runs, workers = np.divmod(batches, self.workers)
        return ranks, workers, runs * self.batch_size + within


@dataclass(frozen=True)
class Consumer:
    """Whom samples are dealt to.

    Attributes:
        rank: this process among those that share the epoch.
        worker: this DataLoader worker among those of the rank; the only one where the process itself reads.
    """

    rank: Share
    worker: Share

    @classmethod
    def here(cls, rank: Share | None = None) -> "Consumer":
        """Return the consumer that is asking.

        Args:
            rank: that of the process which started this worker; spawned workers know nothing of a process group.
        """
        info = get_worker_info()
        if info is None:
            return cls(ranks.rank(), Share(0, 1))
        mine = ranks.rank()
        return cls(mine if rank is None or mine.count > 1 else rank, Share(info.id, info.num_workers))

    @property
    def share(self) -> Share:
        """This consumer among all of all ranks."""
        return Share(self.rank.index * self.worker.count + self.worker.index, self.rank.count * self.worker.count)

    def to_json(self) -> list[int]:
        """Return the consumer as JSON."""
        return [self.rank.index, self.rank.count, self.worker.index, self.worker.count]

    @classmethod
    def from_json(cls, state: Sequence[int]) -> "Consumer":
        """Return the consumer that :meth:`to_json` wrote."""
        first, second = state[:2], state[2:]
        return cls(Share(*map(int, first)), Share(*map(int, second)))


@dataclass(frozen=True)
class Remainder:
    """The positions of an epoch that are still to be delivered: some listed ones, then all from ``start`` on.

    Attributes:
        start: the first position that nobody has delivered, nor any behind it.
        listed: positions before that which have not been delivered either, ascending.
    """

    start: int = 0
    listed: tuple[int, ...] = ()

    def count(self, length: int) -> int:
        """Return how many are left of an epoch of ``length``."""
        return len(self.listed) + max(length - self.start, 0)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the positions at these places of the remainder."""
        known = len(self.listed)
        positions = places - known + self.start
        if known:
            early = places < known
            positions[early] = np.asarray(self.listed, dtype=np.int64)[places[early]]
        return positions

    def after(self, deal: Deal, taken: Mapping[tuple[int, int], int], length: int) -> "Remainder":
        """Return what is left when each (rank, worker) has taken so many of it.

        Args:
            deal: how it was dealt.
            taken: how many each has taken.
            length: of the epoch.
        """
        counts = np.zeros((deal.ranks, deal.workers), dtype=np.int64)
        for (rank, worker), count in taken.items():
            counts[rank, worker] = count
        # The first place that each has not taken: everything before the lowest is gone, everything from the highest on
        # is there.
        nexts = [
            int(deal.places(rank, worker, counts[rank, worker]))
            for rank in range(deal.ranks)
            for worker in range(deal.workers)
        ]
        total = self.count(length)
        low, high = min(*nexts, total), min(max(*nexts, len(self.listed)), total)
        between = np.arange(low, high, dtype=np.int64)
        who, which, ordinals = deal.takers(between)
        left = between[ordinals >= counts[who, which]]
        return Remainder(high - len(self.listed) + self.start, tuple(self.at(left).tolist()))

    def to_json(self) -> dict[str, Any]:
        """Return the remainder as JSON."""
        return {"start": self.start, "listed": list(self.listed)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Remainder":
        """Return the remainder that :meth:`to_json` wrote."""
        return cls(int(state["start"]), tuple(map(int, state["listed"])))


def share_of_total(count: int, rank: Share, even: str | None) -> int:
    """Return how many of ``count`` samples one rank gets."""
    total = shared_total(count, rank.count, even)
    return max(total - rank.index + rank.count - 1, 0) // rank.count


def shared_total(count: int, ranks: int, even: str | None) -> int:
    """Return how many places are dealt where ``count`` samples are left: with ``even``, a multiple of ``ranks``."""
    if even == "pad":
        return -(-count // ranks) * ranks
    return count // ranks * ranks if even == "drop" else count
