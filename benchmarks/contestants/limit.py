"""What no library can beat: a copy of as many bytes as a batch has before and after."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import limits
from benchmarks.contestants.base import RECIPES, Batches, Contestant, Recipe


def bytes_per_image(recipe: Recipe, dtype: torch.dtype) -> int:
    """Return the bytes of one image's pixels, uint8, and of what becomes of them, with those of its uint8 mask."""
    before, after = recipe.side**2, recipe.output**2
    return 3 * before + 3 * dtype.itemsize * after + (before + after if recipe.targets else 0)


class Copying(Contestant):
    """Memory to memory on the same cores, with as many threads; what is written was allocated before."""

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        half = bytes_per_image(RECIPES[recipe], dtype) * batches.size // 2
        self._sources = [torch.ones(half, dtype=torch.uint8, device=device) for _ in range(len(batches))]
        self._target = torch.empty_like(self._sources[0])
        self.note = f"copying {limits.said_bytes(bytes_per_image(RECIPES[recipe], dtype))} an image"

    def batch(self, index: int) -> Any:
        """Copy."""
        return self._target.copy_(self._sources[index % len(self._sources)])

    def images(self) -> npt.NDArray[np.float32]:
        """Return black: there is nothing to see."""
        settings = RECIPES[self.recipe]
        return np.zeros((self.batches.size, 3, settings.output, settings.output), np.float32)
