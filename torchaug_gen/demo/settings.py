"""What the demo is asked for, and what it uses where nothing was said."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchaug_gen import rng
from torchaug_gen.mixing import as_fraction
from torchaug_gen.synthesis.vae.training import VaeConfig

_SMALLEST, _LARGEST = 16, 128


def augment_digits(size: int) -> list[Any]:
    """Return small turns, shifts, scalings and shears."""
    import kornia.augmentation as K

    return [K.RandomAffine(degrees=10.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5.0, p=1.0)]


def augment_photographs(size: int) -> list[Any]:
    """Return random crops, mirroring, and jitter of brightness, contrast and saturation."""
    import kornia.augmentation as K

    return [
        K.RandomResizedCrop((size, size), scale=(0.6, 1.0), ratio=(0.85, 1.18)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.2, 0.2, 0.2),
    ]


@dataclass(frozen=True)
class Recipe:
    """What is fixed for a kind of images.

    Attributes:
        image_size: side in pixels.
        steps: optimiser steps of each classifier.
        vae: how the VAE is trained.
        transform: makes the augmentation for a side in pixels.
    """

    image_size: int
    steps: int
    vae: VaeConfig
    transform: Callable[[int], list[Any]]


DIGITS = Recipe(image_size=28, steps=600, vae=VaeConfig(), transform=augment_digits)
# So short a training collapses under the divergence that sharpens digits.
PHOTOGRAPHS = Recipe(
    image_size=64,
    steps=400,
    vae=VaeConfig(steps=250, latent_dim=32, beta=1.0, warmup_fraction=0.2),
    transform=augment_photographs,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of :func:`torchaug_gen.demo.run_demo`, which describes them and what they raise."""

    data: Path | None
    per_class: int
    steps: int
    vae_steps: int
    seeds: int
    synthetic_fraction: float
    image_size: int
    device: str
    seed: int

    def __post_init__(self) -> None:
        for name in ("per_class", "steps", "vae_steps", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not _SMALLEST <= self.image_size <= _LARGEST:
            raise ValueError(f"image_size must be in {_SMALLEST}..{_LARGEST}, got {self.image_size}")
        as_fraction(self.synthetic_fraction)
        rng.check_seed(self.seed)
        _check_device(self.device)

    @property
    def recipe(self) -> Recipe:
        """What is fixed for this kind of images."""
        return recipe_for(self.data)

    @property
    def training_seeds(self) -> list[int]:
        """A seed for each training of an arm."""
        return [rng.derive_seed(self.seed, "demo.classifier", 0, index) for index in range(self.seeds)]


def recipe_for(data: str | Path | None) -> Recipe:
    """Return the recipe for a folder, or for the digits where there is none."""
    return DIGITS if data is None else PHOTOGRAPHS


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that PyTorch can use here, such as cpu, got {name!r}: {reason}"
        ) from error
