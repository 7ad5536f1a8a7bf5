"""``torchaug_gen.fuse`` on Kornia's modules (R6: torchvision's)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.contestants.base import RECIPES, Batches, Contestant, Unsupported, tensors


class Ours(Contestant):
    """Draws, erasing and the allocation of the output included, as for all others."""

    note = "every image has parameters of its own, RandAugment's operations too"

    def __init__(
        self,
        recipe: str,
        batches: Batches,
        threads: int,
        *,
        device: str,
        dtype: torch.dtype,
        floating: bool = False,
        antialias: bool = False,
    ) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        if (floating or antialias) and recipe != "R1":
            raise Unsupported("reported for R1 only")
        from torchaug_gen import fuse

        self._transform: Any = fuse(_modules(recipe), dtype=dtype, antialias=antialias or None)
        self._images = tensors(batches.images, device)
        if floating:
            self._images = [images.float() / 255 for images in self._images]
        self._targets: list[dict[str, Tensor]] = [{} for _ in self._images]
        if RECIPES[recipe].targets:
            pairs = zip(tensors(batches.masks, device), tensors(batches.boxes, device), strict=True)
            self._targets = [{"masks": masks, "boxes": boxes} for masks, boxes in pairs]
        self._last: Tensor | None = None

    def batch(self, index: int) -> Any:
        """Augment one batch; every one has an epoch of its own, so that no numbers come back."""
        turn = index % len(self._images)
        images = self._images[turn]
        result = self._transform(images, seed=0, epoch=index, positions=range(len(images)), **self._targets[turn])
        self._last = result[2] if isinstance(result, tuple | list) else None
        return result

    def boxes(self) -> npt.NDArray[np.float32] | None:
        """Return the last batch's boxes."""
        return None if self._last is None else np.asarray(self._last.cpu())


def _modules(recipe: str) -> list[nn.Module]:
    from benchmarks.contestants import with_kornia, with_torchvision

    if recipe == "R6":
        return with_torchvision.modules(recipe, dtype=None)
    return with_kornia.modules(recipe)
