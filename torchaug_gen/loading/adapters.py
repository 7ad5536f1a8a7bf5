"""What an inner loader says of itself, whoever has made or adapted it."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from torchaug_gen.ranks import Share


def adapted(loader: Any) -> Any:
    """Return the DataLoader that Accelerate's ``prepare`` has put an adapter around, or the loader itself.

    The adapter of each rank's share (``DataLoaderShard``) moves batches to the device, tells when the last one comes,
    and keeps the ranks' orders alike; the wrapper does all three. The one that reads on the first rank for all of them
    (``DataLoaderDispatcher``) has to be read as it is where there are others.
    """
    base = getattr(loader, "base_dataloader", None)
    kind = type(loader).__name__ if hasattr(loader, "gradient_state") else ""
    alone = kind == "DataLoaderDispatcher" and loader.state.num_processes == 1
    return base if (kind == "DataLoaderShard" or alone) and isinstance(base, DataLoader) else loader


def adapters_device(loader: Any) -> torch.device:
    """Return where one of Accelerate's adapters moves its batches."""
    device: torch.device = loader.state.device if type(loader).__name__ == "DataLoaderDispatcher" else loader.device
    return device


def is_dataloader(loader: Any) -> bool:
    """Say whether a loader is a ``DataLoader`` itself; Accelerate's adapters say of their class that they are one."""
    return issubclass(type(loader), DataLoader)


def is_stateful(part: Any) -> bool:
    """Say whether a loader or data set keeps a state.

    Accelerate's adapters have the methods always, and they work where what is adapted has them.
    """
    part = getattr(part, "base_dataloader", part)
    return all(callable(getattr(part, name, None)) for name in ("state_dict", "load_state_dict"))


def batch_size_of(loader: Any) -> int:
    """Return how many items a loader's batches hold, or 0 where it does not say."""
    for part in (loader, getattr(loader, "batch_sampler", None)):
        size = getattr(part, "batch_size", None)
        if isinstance(size, int):
            return size
    return 0


def drops_last(loader: Any) -> bool:
    """Say whether a loader drops a short last batch."""
    return any(bool(getattr(part, "drop_last", False)) for part in (loader, getattr(loader, "batch_sampler", None)))


def share_of(loader: Any) -> Share | None:
    """Return this rank as a loader's distributed sampler counts it, or ``None`` where nothing shares the data out."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None), batch_sampler)
    # The second pair of names is that of Accelerate's samplers.
    for names in (("rank", "num_replicas"), ("process_index", "num_processes")):
        for part in samplers:
            index, count = (getattr(part, name, None) for name in names)
            if isinstance(index, int) and isinstance(count, int):
                return Share(index, count)
    return None
