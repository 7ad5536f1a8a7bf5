"""What was damaged: counted by kind, for all workers together, or raised."""

import warnings

import torch
from torch.utils.data import get_worker_info

KINDS = ("read", "tar", "checksum", "repeated", "missing", "image", "label", "data")
# What workers write into shared memory is not locked: each has a row of its own, and the main process the first.
ROWS = 257


class Faults:
    """Counts faults in shared memory, where the main process sees those of its workers, forked or spawned.

    Args:
        skip: whether faults are counted, or raised.
        most_in_a_row: how many may follow each other without an item between them.
        warn: whether the first is warned about.
    """

    def __init__(self, *, skip: bool, most_in_a_row: int, warn: bool = True) -> None:
        self._skip, self._most = skip, most_in_a_row
        self._counts = torch.zeros(ROWS, len(KINDS), dtype=torch.int64).share_memory_()
        self._in_a_row = 0
        self._warned = not warn

    @property
    def counts(self) -> dict[str, int]:
        """How many there were since the stream was made, by kind."""
        return dict(zip(KINDS, self._counts.sum(0).tolist(), strict=True))

    def delivered(self) -> None:
        """Note that an item came."""
        self._in_a_row = 0

    def report(self, kind: str, where: str, error: Exception) -> None:
        """Count a fault, or raise it.

        Raises:
            ValueError: faults are not skipped, or too many came one after the other.
        """
        message = f"{where}: {error}"
        if not self._skip:
            raise ValueError(message) from error
        self._counts[row(), KINDS.index(kind)] += 1
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise ValueError(
                f"{self._in_a_row} faults in a row, which is no longer skipped; the last: {message}"
            ) from error
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"skipped {message} ({kind}); more may follow, all counted in ShardStream.stats",
                RuntimeWarning,
                stacklevel=4,
            )


def row() -> int:
    """Return the row of this worker, or of the main process, in a table in shared memory."""
    worker = get_worker_info()
    return 0 if worker is None else 1 + worker.id % (ROWS - 1)
