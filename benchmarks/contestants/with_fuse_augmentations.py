"""fuse-augmentations (Apache-2.0) over Kornia's modules: it fuses what it knows and runs the rest as it is."""

import torch
from fuse_augmentations import Compose
from torch import nn

from benchmarks.contestants.base import RECIPES, Batches, Unsupported
from benchmarks.contestants.with_kornia import Kornia


class FuseAugmentations(Kornia):
    """The same modules and the same conversion from uint8 as Kornia, in its container."""

    note = "hue, saturation, grayscale, erasing and padded crops run unfused; the crop is a warp of its own"

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        if recipe == "R6":
            raise Unsupported("has no RandAugment: Kornia's would run unchanged")
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)

    def container(self, chain: list[nn.Module]) -> nn.Module:
        """Return its container."""
        keys = ["input", "mask", "bbox_xyxy"] if RECIPES[self.recipe].targets else None
        composed: nn.Module = Compose(chain, data_keys=keys)
        return composed
