"""An epoch number that DataLoader workers see change."""

import torch


class SharedEpoch:
    """An epoch in shared memory: persistent workers, forked or spawned, see what the main process sets."""

    def __init__(self, epoch: int = 0) -> None:
        self._value = torch.tensor([epoch], dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Set the epoch, ``epoch`` ≥ 0, for every process that holds this object."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self._value[0] = epoch

    def get(self) -> int:
        """Return the epoch."""
        return int(self._value[0])
