"""Kornia, eager and compiled: float32 in, so the conversion from uint8 counts."""

from typing import Any

import kornia.augmentation as K
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

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


def modules(recipe: str) -> list[nn.Module]:
    """Return a recipe as Kornia modules."""
    geometry = [
        K.RandomResizedCrop((224, 224), scale=AREA, ratio=RATIO),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomRotation(15.0, p=0.5),
    ]
    colour = [K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), K.RandomGrayscale(p=0.2)]
    normalize = K.Normalize(torch.tensor(MEAN), torch.tensor(STD))
    match recipe:
        case "R1" | "R4":
            return [*geometry, *colour, normalize, erasing(0.25)]
        case "R2":
            return geometry
        case "R3":
            return [*colour, normalize]
        case "R5":
            return [K.RandomCrop((32, 32), padding=4), K.RandomHorizontalFlip(p=0.5), normalize, erasing(0.5)]
        case "R6":
            from kornia.augmentation.auto import RandAugment

            return [RandAugment(n=2, m=9), normalize]
    raise Unsupported(f"no recipe {recipe}")


def erasing(p: float) -> nn.Module:
    """Return Kornia's erasing with zeros."""
    module: nn.Module = K.RandomErasing(scale=ERASED_AREA, ratio=ERASED_RATIO, p=p)
    return module


class Kornia(Contestant):
    """Kornia in its own container."""

    note = "ColorJitter's order and RandAugment's operations are drawn once per batch"

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        self._images = tensors(batches.images, device)
        self._masks, self._boxes = tensors(batches.masks, device), tensors(batches.boxes, device)
        self._last: Tensor | None = None
        self.least_batches = 4 if recipe == "R6" else 1
        self._transform = self.container(modules(recipe)).to(device)

    def container(self, chain: list[nn.Module]) -> nn.Module:
        """Return what runs the modules one after the other."""
        keys = ["input", "mask", "bbox_xyxy"] if RECIPES[self.recipe].targets else ["input"]
        sequential: nn.Module = K.AugmentationSequential(*chain, data_keys=keys)
        return sequential

    def batch(self, index: int) -> Any:
        """Convert to floats, augment, cast."""
        turn = index % len(self._images)
        images = self._images[turn].float() / 255
        if not RECIPES[self.recipe].targets:
            return self._transform(images).to(self.dtype)
        images, masks, self._last = self._transform(images, self._masks[turn].float(), self._boxes[turn].clone())
        return images.to(self.dtype), masks, self._last

    def boxes(self) -> npt.NDArray[np.float32] | None:
        """Return the last batch's boxes."""
        return None if self._last is None else np.asarray(self._last.cpu())


class CompiledKornia(Kornia):
    """Kornia's modules in one ``torch.compile``; graph breaks are allowed, giving up is not."""

    note = "graph breaks allowed"

    def container(self, chain: list[nn.Module]) -> nn.Module:
        """Return the chain, compiled."""
        if RECIPES[self.recipe].targets:
            raise Unsupported("compiled as a plain chain of modules, which has no targets")
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would quietly go on uncompiled
        sequential = nn.Sequential(*chain)
        sequential.compile()  # in place: it stays a module
        return sequential
