"""How many batches a wrapped loader keeps alive, and whether memory grows from pass to pass."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import resident, synthesizers
from benchmarks.data import digits
from benchmarks.loader_digits import BATCH, FRACTION, pipeline
from benchmarks.passes import counted
from torchaug_gen import AugmentedLoader, SyntheticPool, fuse

# A step of training that is slower than loading: everything that may be made ahead is.
_STEP_S = 0.004


class Census:
    """Batches that are alive, in whatever form: as they came, or as they were delivered.

    Attributes:
        most: at a time, so far.
    """

    def __init__(self) -> None:
        self.most, self._begun, self._transformed = 0, 0, 0
        self._living: dict[int, weakref.WeakSet[Tensor]] = {}
        self._lock = threading.Lock()

    def collate(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        """Return a batch of items, and count it."""
        images, labels = (torch.stack(parts) for parts in zip(*items, strict=True))
        with self._lock:
            self._living[self._begun] = weakref.WeakSet([images])
            self._begun += 1
            self.most = max(self.most, sum(1 for tensors in self._living.values() if tensors))
        return images, labels

    def following(self, transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a transform whose images, before and after, are their batch's: it is called in their order."""

        def followed(images: Tensor) -> Tensor:
            number, self._transformed = self._transformed, self._transformed + 1
            self.follow(number, images)
            self.follow(number, result := transform(images))
            return result

        return followed

    def follow(self, number: int, images: Tensor) -> None:
        """Count these images as the batch of this number, for as long as they live."""
        with self._lock:
            self._living[number].add(images)


def alive(prefetch: int, batches: int = 40) -> int:
    """Return how many batches are alive at a time at the most, the one that the consumer holds among them."""
    census, fused = Census(), fuse(pipeline())
    data = TensorDataset(*(part[: batches * BATCH] for part in digits()))
    inner = DataLoader(data, BATCH, collate_fn=census.collate)
    for number, (images, _) in enumerate(AugmentedLoader(inner, census.following(fused), prefetch=prefetch)):
        census.follow(number, images)
        time.sleep(_STEP_S)
    return census.most


def held(passes: int) -> list[float]:
    """Return the resident MiB after each pass over digits with a pool."""
    pool = SyntheticPool(synthesizers.of_digits(), capacity=640, reuse=64)
    inner = DataLoader(TensorDataset(*digits()), BATCH, shuffle=True)
    loader = AugmentedLoader(inner, fuse(pipeline()), synthesizer=pool, synthetic_fraction=FRACTION)
    sizes = []
    for _ in range(passes):
        counted(loader)
        gc.collect()
        sizes.append(round(resident.now(), 1))
    return sizes


def measure(passes: int) -> dict[str, Any]:
    """Return batches alive by ``prefetch``, which may be ``prefetch + 2``, and resident memory."""
    found = {f"prefetch={prefetch}": {"most": alive(prefetch), "bound": prefetch + 2} for prefetch in (0, 2, 4)}
    return {"batches alive": found, "resident MiB after each pass": held(passes)}
