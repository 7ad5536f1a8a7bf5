"""Recipes, the batches they run on, and what every contestant offers."""

import importlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class Recipe:
    """What is done to a batch.

    Args:
        title: the recipe in words.
        side: of the square uint8 images that go in, in pixels.
        output: side of the images that come out.
        batch_size: images per batch on a CPU.
        targets: whether a mask and three boxes per image move with it.
        normalized: whether the values that come out are normalised.
    """

    title: str
    side: int = 256
    output: int = 224
    batch_size: int = 64
    targets: bool = False
    normalized: bool = True


COLOUR = "ColorJitter(.4, .4, .4, .1; p=.8), Grayscale (p=.2)"
GEOMETRY = "RandomResizedCrop(224, scale .35-1), HorizontalFlip, Rotation 15° (p=.5)"
RECIPES = {
    "R1": Recipe(f"{GEOMETRY}, {COLOUR}, Normalize, Erasing (p=.25)"),
    "R2": Recipe(GEOMETRY, normalized=False),
    "R3": Recipe(f"{COLOUR}, Normalize; 256² stay 256²", output=256),
    "R4": Recipe("R1 with a mask and three boxes per image", targets=True),
    "R5": Recipe("RandomCrop(32, padding 4), HorizontalFlip, Normalize, Erasing (p=.5)", 32, 32, 512),
    "R6": Recipe("RandAugment(2 operations, magnitude 9 of 0-30), Normalize; 256² stay 256²", output=256),
}

# What a contestant is called, where it lives, and how it is made. The first is the baseline.
_CONTESTANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours": ("ours", "Ours", {}),
    "ours, float32 in": ("ours", "Ours", {"floating": True}),
    "ours, antialiased": ("ours", "Ours", {"antialias": True}),
    "Kornia": ("with_kornia", "Kornia", {}),
    "Kornia, compiled": ("with_kornia", "CompiledKornia", {}),
    "torchvision, per sample": ("with_torchvision", "PerSample", {}),
    "torchvision, per sample, antialiased": ("with_torchvision", "PerSample", {"antialias": True}),
    "torchvision, one draw per batch": ("with_torchvision", "PerBatch", {}),
    "Albumentations": ("with_albumentations", "Albumentations", {}),
    "fuse-augmentations": ("with_fuse_augmentations", "FuseAugmentations", {}),
    "DALI": ("with_dali", "Dali", {}),
    "triton-augment, own recipe": ("with_triton_augment", "TritonAugment", {}),
}
NAMES = tuple(_CONTESTANTS)
# Runs beside them, on the same cores: what each is also told as a share of.
LIMIT = "copying"


class Unsupported(Exception):
    """A library that is not there, or has no way to express a recipe. The message says why."""


@dataclass(frozen=True)
class Batches:
    """Different batches of photographs, taken in turn so that none stays in a cache.

    Attributes:
        images: ``(batches, B, 3, S, S)`` uint8.
        masks: ``(batches, B, 1, S, S)`` uint8, 0 or 1.
        boxes: ``(batches, B, 3, 4)`` float32, xyxy in pixels.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Images per batch."""
        return int(self.images.shape[1])

    @classmethod
    def load(cls, folder: Path, recipe: Recipe, *, batch_size: int, count: int) -> "Batches":
        """Return batches from the photographs that ``prepare`` wrote to a folder, repeated as often as needed."""
        stored = np.load(folder / f"{recipe.side}.npy", mmap_mode="r")
        chosen = np.resize(np.arange(len(stored)), batch_size * count)
        images = stored[chosen].reshape(count, batch_size, *stored.shape[1:])
        masks = (images.mean(axis=2, keepdims=True) < 128).astype(np.uint8)
        corners = np.random.default_rng(0).uniform(0, recipe.side * 0.6, (count, batch_size, 3, 2))
        extents = np.random.default_rng(1).uniform(recipe.side * 0.1, recipe.side * 0.4, corners.shape)
        return cls(images, masks, np.concatenate((corners, corners + extents), axis=-1).astype(np.float32))


def prepare(photographs: Path, folder: Path, *, sides: set[int], limit: int) -> int:
    """Write photographs as uint8 arrays ``(n, 3, side, side)``, one file per side, and return how many there are.

    Each is resized so that its short side fits, then cropped in the middle.

    Raises:
        ValueError: there are no photographs in the folder.
    """
    from PIL import Image, ImageOps

    paths = sorted(photographs.rglob("*.jpg"))
    if not paths:
        raise ValueError(f"expected a folder with .jpg photographs, found none under {photographs}: pass --photographs")
    random.Random(0).shuffle(paths)
    for side in sides:
        square = [ImageOps.fit(Image.open(path).convert("RGB"), (side, side)) for path in paths[:limit]]
        np.save(folder / f"{side}.npy", np.stack([np.asarray(image).transpose(2, 0, 1) for image in square]))
    return min(len(paths), limit)


class Contestant(ABC):
    """One library set up for one recipe: everything that a user does once is done in the constructor.

    Args:
        recipe: name of the recipe.
        batches: what it runs on. Copies into the library's own layout are made here and cost nothing later.
        threads: how many it may use.
        device: where images are before and after.
        dtype: of the images that come out.
    """

    note = ""  # how the recipe differs in this library, for the reader of the figures
    least_batches = 1  # in a round: more where what is drawn for a whole batch decides how long the batch takes

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        self.recipe, self.batches, self.threads, self.device, self.dtype = recipe, batches, threads, device, dtype

    @abstractmethod
    def batch(self, index: int) -> Any:
        """Augment one batch with fresh random numbers and return what the library returns."""

    def run(self, indices: range) -> None:
        """Augment one batch after the other, as a training loop would: each result dies when the next one is there."""
        for index in indices:
            result = self.batch(index)
        del result

    def images(self) -> npt.NDArray[np.float32]:
        """Return one augmented batch ``(B, 3, h, w)`` as the library made it."""
        result = self.batch(0)
        images = result[0] if isinstance(result, tuple | list) else result
        return np.asarray(torch.as_tensor(images).float().cpu())

    def boxes(self) -> npt.NDArray[np.float32] | None:
        """Return the boxes ``(B, 3, 4)`` of the batch that ``images`` returned last, where there are any."""
        return None

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of processes and threads."""


def tensors(array: npt.NDArray[Any], device: str) -> list[Tensor]:
    """Return one tensor per batch."""
    return [torch.tensor(batch, device=device) for batch in array]


def build(name: str, recipe: str, batches: Batches, threads: int, *, device: str = "cpu") -> Contestant:
    """Return a contestant, ready to run.

    Raises:
        Unsupported: its library is not installed, or has no such recipe.
    """
    module, kind, options = ("limit", "Copying", {}) if name == LIMIT else _CONTESTANTS[name]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        found = getattr(importlib.import_module(f"benchmarks.contestants.{module}"), kind)
        contestant: Contestant = found(recipe, batches, threads, device=device, dtype=dtype, **options)
    except ImportError as error:
        raise Unsupported(f"not installed: {error}") from error
    return contestant
