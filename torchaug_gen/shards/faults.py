"""What was damaged: counted by kind, for all workers together, or raised."""

import warnings

import torch
from torch.utils.data import get_worker_info

KINDS = ("read", "tar", "checksum", "repeated", "missing", "image", "label", "data", "replaced")
# What workers write into shared memory is not locked: each has a row of its own, and the main process the first.
ROWS = 257


class Faults:
    """Counts faults in shared memory, where the main process sees those of its workers, forked or spawned.

    Args:
        skip: whether faults are counted, or raised.
        most_in_a_row: how many may follow each other without an item between them.
        warn: whether the first is warned about, by whichever process meets it.
    """

    def __init__(self, *, skip: bool, most_in_a_row: int, warn: bool = True) -> None:
        self._skip, self._most = skip, most_in_a_row
        self._counts = torch.zeros(ROWS, len(KINDS), dtype=torch.int64).share_memory_()
        self._warned = torch.tensor([not warn]).share_memory_()
        # In which pass each process is, as two numbers, and whether it came to the end of it without an item: 1 where
        # it had none to deliver, and 2 where it met faults.
        self._empty = torch.zeros(ROWS, 3, dtype=torch.int64).share_memory_()
        self._passes, self._in_a_row, self._met, self._last = 0, 0, 0, ""

    @property
    def counts(self) -> dict[str, int]:
        """How many there were since the stream was made, by kind."""
        return dict(zip(KINDS, self._counts.sum(0).tolist(), strict=True))

    def delivered(self) -> None:
        """Note that an item came."""
        self._in_a_row = 0

    def replaced(self) -> None:
        """Count an item that came in the place of a damaged one."""
        self._counts[row(), KINDS.index("replaced")] += 1

    def begin(self) -> int:
        """Note that this process begins a pass; return how many faults it has met until now."""
        worker = get_worker_info()
        self._passes += 1
        # The workers of one pass have one base seed; those that persist count their passes alike.
        base = 0 if worker is None else worker.seed - worker.id
        self._empty[row()] = torch.tensor([base, self._passes, 0])
        return self._met

    def end(self, delivered: int, met: int) -> None:
        """Note that this process has come to the end of a whole pass.

        Args:
            delivered: how many items came.
            met: what :meth:`begin` returned.

        Raises:
            ValueError: there were faults, and no worker of this rank has delivered anything: training can go on with a
                shard less, but not with an epoch of nothing.
        """
        worker = get_worker_info()
        mine, ours = self._empty[row()], self._empty[:1]
        mine[2] = 0 if delivered else 1 + (self._met > met)
        if worker is not None:
            ours = self._empty[1 : 1 + worker.num_workers]
        # Whoever comes last, also without a share, sees that all others are at the end of the same pass, and empty.
        if bool((ours[:, :2] == mine[:2]).all() and (ours[:, 2] > 0).all() and (ours[:, 2] > 1).any()):
            last = f"; the last: {self._last}" if self._met > met else ""
            raise ValueError(f"nothing of the epoch could be delivered, all of it was skipped{last}")

    def report(self, kind: str, where: str, error: Exception) -> None:
        """Count a fault, or raise it.

        Raises:
            ValueError: faults are not skipped, or too many came one after the other.
        """
        message = f"{where}: {error}"
        if not self._skip:
            raise ValueError(message) from error
        self._counts[row(), KINDS.index(kind)] += 1
        self._in_a_row, self._met, self._last = self._in_a_row + 1, self._met + 1, message
        if self._in_a_row >= self._most:
            raise ValueError(
                f"{self._in_a_row} faults in a row, which is no longer skipped; the last: {message}"
            ) from error
        if not self._warned:
            self._warned[0] = True
            warnings.warn(
                f"skipped {message} ({kind}); more may follow, all counted in ShardStream.stats",
                RuntimeWarning,
                stacklevel=4,
            )


def row() -> int:
    """Return the row of this worker, or of the main process, in a table in shared memory."""
    worker = get_worker_info()
    return 0 if worker is None else 1 + worker.id % (ROWS - 1)
