"""Watch: tells when a training has diverged or collapsed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training.checkpoints import finite
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Recipe

_CLASSES, _PER_CLASS = 8, 8
_HORIZON = 50
# Measured on 28-pixel digits, 200 of each, as distance between samples over that between real images: healthy
# trainings stayed at 0.35 and more (GAN) or 0.85 (VAE) once they had passed 0.3; others collapsed to 0.07 (VAE under
# beta=300) and 0.04 (a narrow DCGAN).
_ALIVE, _FALL, _ALIKE = 0.3, 0.25, 0.1
# No mean over rows comes near, nor a sum over the pixels of an image.
_EXPLODED = 1e8


class Watch:
    """Looks at the losses of every step, and at samples before every checkpoint.

    A training has **diverged** where a loss or a weight is not finite, or where the losses, averaged over about the
    last 50 steps, exceed 10⁸ or the recipe's own ``verdict`` on them says so. It has **collapsed** where samples at
    fixed latents, once as different from each other as 30 % of what real images are, have become all alike: their
    mean distance fell to a quarter of the largest it ever was.

    Args:
        recipe: what is trained.
        images: what it learns from.
        seed: of the latents.
    """

    def __init__(self, recipe: Recipe, images: TrainingImages, *, seed: int) -> None:
        self._recipe = recipe
        self._seed = rng.derive_seed(seed, "training.watch")
        classes = [None] if images.num_classes is None else _spread(images.num_classes)
        real = {label: _diversity(_some(images, label, self._seed)) for label in classes}
        # A class of one image, or of copies of one, says nothing about how different samples should be.
        self._real = {label: distance for label, distance in real.items() if distance > 0}
        self._averages: dict[str, float] = {}
        self._seen = 0
        self._widest = 0.0

    def losses(self, losses: Mapping[str, float], step: int) -> str | None:
        """Return what is wrong with the losses of a step, or ``None``."""
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"the loss {name} is {value}"
        self._seen += 1
        weight = max(1 / self._seen, 1 / _HORIZON)
        for name, value in losses.items():
            before = self._averages.get(name, value)
            self._averages[name] = before + weight * (value - before)
            if abs(self._averages[name]) > _EXPLODED:
                return f"the loss {name} has grown to {self._averages[name]:.2g}"
        return self._recipe.verdict(self._averages, step) if self._seen >= _HORIZON else None

    def samples(self, synthesizer: NetworkSynthesizer) -> str | None:
        """Return what is wrong with the weights or the samples, or ``None``."""
        if not finite(self._recipe):
            return "a weight is not finite"
        if not self._real:
            return None
        try:
            diversity = self.diversity(synthesizer)
        except ValueError as error:
            return f"samples cannot be used: {error}"
        self._widest = max(self._widest, diversity)
        if self._widest >= _ALIVE and diversity < _FALL * self._widest:
            return (
                f"samples are nearly all alike: their distances are {diversity:.2f} of those between real images, "
                f"and were {self._widest:.2f}"
            )
        return None

    def verdict(self, synthesizer: NetworkSynthesizer) -> str | None:
        """Return what is wrong with the samples of a training that is over, or ``None``, as for fewer than 50 steps."""
        if self._seen < _HORIZON or not self._real:
            return None
        diversity = self.diversity(synthesizer)
        if diversity >= _ALIKE:
            return None
        return (
            f"samples are nearly all alike: their distances are {diversity:.2g} of those between real images; look at "
            "them, and train longer or with other settings"
        )

    def diversity(self, synthesizer: NetworkSynthesizer) -> float:
        """Return the mean distance between samples of a class over that between real images, averaged over classes.

        Distances are Euclidean between pixels, over 8 samples of each of up to 8 classes.
        """
        ratios = []
        for label, real in self._real.items():
            labels = None if label is None else [label] * _PER_CLASS
            images, _ = synthesizer.sample(_PER_CLASS, labels=labels, seed=self._seed)
            ratios.append(_diversity(images.float().cpu()) / real)
        return sum(ratios) / len(ratios)

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, as JSON."""
        return {"averages": dict(self._averages), "seen": self._seen, "widest": self._widest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what :meth:`state_dict` returned; an empty state is that of the beginning."""
        self._averages = dict(state.get("averages", {}))
        self._seen, self._widest = state.get("seen", 0), state.get("widest", 0.0)


def _spread(num_classes: int) -> list[int | None]:
    """Return up to eight classes, evenly spread."""
    count = min(num_classes, _CLASSES)
    return [index * num_classes // count for index in range(count)]


def _some(images: TrainingImages, label: int | None, seed: int) -> Tensor:
    """Return up to 64 images of a class as floats."""
    if images.labels is None or label is None:
        rows = torch.arange(len(images))
    else:
        rows = torch.eq(images.labels, label).nonzero().squeeze(1)
    chosen = rows[rng.permutation(seed, "training.watch.real", 0, len(rows))[: _PER_CLASS**2]]
    return images.images[chosen].float() / 255


def _diversity(images: Tensor) -> float:
    """Return the mean Euclidean distance between two images, 0 where there are fewer than two."""
    return float(torch.pdist(images.flatten(1)).mean()) if len(images) > 1 else 0.0
