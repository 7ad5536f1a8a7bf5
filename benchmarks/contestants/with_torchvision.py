"""torchvision v2, image by image, and with one draw for a whole batch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms.v2 as T
from torch import Tensor, nn
from torchvision import tv_tensors

from benchmarks.contestants.base import (
    AREA,
    ERASED_AREA,
    ERASED_RATIO,
    MEAN,
    RATIO,
    RECIPES,
    STD,
    Batches,
    Contestant,
    Unsupported,
    tensors,
)


def modules(recipe: str, *, antialias: bool = False, dtype: torch.dtype | None = torch.float32) -> list[nn.Module]:
    """Return a recipe as torchvision modules for uint8 images, in uint8 until ``Normalize``, as its manual advises.

    Args:
        recipe: its name.
        antialias: of the resized crop.
        dtype: to convert to before ``Normalize``, or ``None`` where somebody else converts.
    """
    linear = T.InterpolationMode.BILINEAR
    geometry = [
        T.RandomResizedCrop(224, scale=AREA, ratio=RATIO, antialias=antialias),
        T.RandomHorizontalFlip(),
        T.RandomApply([T.RandomRotation(15, interpolation=linear)], p=0.5),
    ]
    colour = [T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), T.RandomGrayscale(0.2)]
    convert: list[nn.Module] = [] if dtype is None else [T.ToDtype(dtype, scale=True)]
    if dtype is not None and RECIPES[recipe].targets:  # scales the image and leaves the mask's classes alone
        convert = [T.ToDtype({tv_tensors.Image: dtype, "others": None}, scale=True)]
    normalize = [*convert, T.Normalize(MEAN, STD)]
    match recipe:
        case "R1":
            return [*geometry, *colour, *normalize, erasing(0.25)]
        case "R2":
            return [*geometry, *convert]
        case "R3":
            return [*colour, *normalize]
        case "R4":
            return [*geometry, *colour, *normalize, erasing(0.25), T.ClampBoundingBoxes()]
        case "R5":
            return [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *normalize, erasing(0.5)]
        case "R6":
            return [T.RandAugment(2, 9, interpolation=linear), *normalize]
    raise Unsupported(f"no recipe {recipe}")


def erasing(p: float) -> nn.Module:
    """Return torchvision's erasing with zeros."""
    module: nn.Module = T.RandomErasing(p, scale=ERASED_AREA, ratio=ERASED_RATIO)
    return module


class _Torchvision(Contestant):
    def __init__(
        self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype, antialias: bool = False
    ) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        if antialias and recipe not in ("R1", "R2", "R4"):
            raise Unsupported("nothing to antialias in this recipe")
        self._transform = T.Compose(modules(recipe, antialias=antialias, dtype=dtype))
        self._images = tensors(batches.images, device)
        self._masks, self._boxes = tensors(batches.masks, device), tensors(batches.boxes, device)
        self._last: Tensor | None = None

    def boxes(self) -> npt.NDArray[np.float32] | None:
        """Return the last batch's boxes."""
        return None if self._last is None else np.asarray(self._last.cpu()).reshape(-1, 3, 4)


class PerSample(_Torchvision):
    """A loop over the images, then one stack: what a ``Dataset`` and ``default_collate`` do."""

    note = "stacking into a batch included; items are tensors and tv_tensors from the start"

    def __init__(
        self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype, antialias: bool = False
    ) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype, antialias=antialias)
        self._items: list[list[Any]] = [list(images) for images in self._images]
        if RECIPES[recipe].targets:
            self._items = [
                [_targets(*item) for item in zip(*batch, strict=True)]
                for batch in zip(self._images, self._masks, self._boxes, strict=True)
            ]

    def batch(self, index: int) -> Any:
        """Augment each image by itself."""
        results = [self._transform(item) for item in self._items[index % len(self._items)]]
        if not RECIPES[self.recipe].targets:
            return torch.stack(results)
        images, masks, boxes = zip(*results, strict=True)
        self._last = torch.stack(boxes)
        return torch.stack(images), torch.stack(masks), self._last


class PerBatch(_Torchvision):
    """The batch as one input: every image gets the same parameters, so this does less than all others."""

    note = "one set of parameters for all images of a batch: does less than all others"
    least_batches = 4

    def batch(self, index: int) -> Any:
        """Augment all images alike."""
        turn = index % len(self._images)
        if not RECIPES[self.recipe].targets:
            return self._transform(self._images[turn])
        flat = self._boxes[turn].reshape(-1, 4)
        images, masks, self._last = self._transform(_targets(self._images[turn], self._masks[turn], flat))
        return images, masks, self._last


def _targets(image: Tensor, mask: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    canvas = (int(image.shape[-2]), int(image.shape[-1]))
    form = tv_tensors.BoundingBoxFormat.XYXY
    return (
        tv_tensors.Image(image),
        tv_tensors.Mask(mask),
        tv_tensors.BoundingBoxes(boxes.clone(), format=form, canvas_size=canvas),
    )
