"""Loaders that only adapt another one."""

from typing import Any

from torch.utils.data import DataLoader


def adapted(loader: Any) -> Any:
    """Return the DataLoader that Accelerate's ``prepare`` has put an adapter around, or the loader itself.

    The adapter of each rank's share (``DataLoaderShard``) moves batches to the device, tells when the last one comes,
    and keeps the ranks' orders alike; the wrapper does all three. The one that reads on the first rank for all of them
    (``DataLoaderDispatcher``) has to be read as it is.
    """
    base = getattr(loader, "base_dataloader", None)
    share = hasattr(loader, "gradient_state") and type(loader).__name__ == "DataLoaderShard"
    return base if share and isinstance(base, DataLoader) else loader
