"""An epoch number that DataLoader workers see change."""

import torch

from torchaug_gen.rng import check_epoch


class SharedEpoch:
    """An epoch in shared memory: persistent workers, forked or spawned, see what the main process sets."""

    def __init__(self, epoch: int = 0) -> None:
        self._value = torch.tensor([epoch], dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Set the epoch, 0 ≤ epoch < 2³², for every process that holds this object."""
        self._value[0] = check_epoch(epoch)

    def get(self) -> int:
        """Return the epoch."""
        return int(self._value[0])
