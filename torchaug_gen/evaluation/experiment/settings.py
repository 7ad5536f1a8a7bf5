"""What an experiment varies, and what it keeps the same in every cell."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from torchaug_gen import rng
from torchaug_gen.evaluation.experiment.arms import ARMS, QUICK, USUAL, check_arms
from torchaug_gen.evaluation.learner import LearnerConfig
from torchaug_gen.mixing import as_fraction
from torchaug_gen.synthesis.gan.training import GanConfig
from torchaug_gen.synthesis.training.settings import TrainingSettings
from torchaug_gen.synthesis.vae.training import VaeConfig

# Changes when a cell of the same settings would give other figures.
VERSION = 3
_DIGITS_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """What is trained on what.

    Args:
        per_class: training images of each class; a cell is run for each number.
        arms: names of :data:`torchaug_gen.evaluation.experiment.arms.ARMS`; baselines are added.
        seeds: how many. A seed decides the training images, the synthesizer, the initial weights, the order and the
            augmentation; arms of one seed differ in nothing but what the arm says.
        first_seed: number of the first of them, counted from 0; a later experiment goes on with fresh ones.
        steps: optimiser steps of each classifier.
        batch_size: rows of each of them, real and synthetic together.
        synthetic_fraction: synthetic items / all items after a warm-up of a tenth of training, which ends on real
            images alone for 15 % of it; in (0, 0.5].
        bank_per_class: synthetic images drawn for each class of a cell; each is delivered many times, always augmented
            anew.
        strength: of varying, in (0, 1].
        imbalance: how many times fewer images the rarest class has than the commonest; 1 is balanced. The classes
            between fall geometrically, in an order that the seed decides, and synthetic items fill up the rare.
        vae: how VAEs are trained; ``None`` for what suits images of the size.
        gan: how GANs are trained, likewise.
        seed: decides every random number.
        device: where all trainings run, such as ``"cpu"`` or ``"cuda"``. Cells of different kinds of device are kept
            apart, since their figures differ.

    Raises:
        ValueError: a field out of its range, named.
    """

    per_class: tuple[int, ...] = (10, 20, 50, 100)
    arms: tuple[str, ...] = USUAL
    seeds: int = 5
    first_seed: int = 0
    steps: int = 400
    batch_size: int = 64
    synthetic_fraction: float = 0.3
    bank_per_class: int = 100
    strength: float = 0.5
    imbalance: float = 1.0
    vae: VaeConfig | None = None
    gan: GanConfig | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", check_arms(self.arms))
        if not self.per_class or min(self.per_class) < 2 or len(set(self.per_class)) != len(self.per_class):
            raise ValueError(f"per_class must be different numbers of at least 2, got {self.per_class}")
        for name in ("seeds", "steps", "batch_size", "bank_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < float(as_fraction(self.synthetic_fraction)) <= 0.5:
            raise ValueError(f"synthetic_fraction must be in (0, 0.5], got {self.synthetic_fraction}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(f"imbalance must be at least 1 and finite, got {self.imbalance}")
        if self.first_seed < 0:
            raise ValueError(f"first_seed must be at least 0, got {self.first_seed}")
        rng.check_seed(self.seed)
        # Raises where PyTorch has no such device.
        TrainingSettings(device=self.device).local_device  # noqa: B018

    @classmethod
    def quick(cls, **changes: Any) -> "ExperimentSettings":
        """Return settings for a first look: one size, three seeds, five arms, short trainings of the VAE.

        Args:
            **changes: fields that differ.
        """
        fields: dict[str, Any] = {"per_class": (20,), "arms": QUICK, "seeds": 3, "steps": 200, "bank_per_class": 48}
        return cls(**(fields | changes))

    @property
    def metric(self) -> str:
        """What arms are compared by: accuracy, or where classes are imbalanced macro-F1."""
        return "accuracy" if self.imbalance == 1 else "macro_f1"

    def vae_for(self, side: int) -> VaeConfig:
        """Return how a VAE is trained on images of this side."""
        if self.vae is not None:
            return self.vae
        if side <= _DIGITS_SIDE:
            return VaeConfig(steps=1000)
        # So short a training collapses under the divergence that sharpens digits.
        return VaeConfig(steps=250, latent_dim=32, beta=1.0, warmup_fraction=0.2)

    def gan_for(self, side: int) -> GanConfig:
        """Return how a GAN is trained on images of this side."""
        return self.gan or (GanConfig(steps=1500) if side <= _DIGITS_SIDE else GanConfig(steps=600))

    def groups(self) -> Iterator["Group"]:
        """Yield what shares a training set and its synthesizers, seed by seed, so that any stop leaves whole pairs."""
        for index in range(self.first_seed, self.first_seed + self.seeds):
            for per_class in self.per_class:
                yield Group(per_class, index)

    def key(self, group: "Group", arm: str, data: str, side: int) -> str:
        """Return what a cell's result is kept under: a digest of all that decides it.

        Args:
            group: training set and seed.
            arm: name of the arm.
            data: digest of the images.
            side: of the images, in pixels.
        """
        about: dict[str, Any] = {
            "version": VERSION,
            "data": data,
            "per_class": group.per_class,
            "seed": [self.seed, group.index],
            "imbalance": self.imbalance,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learner": asdict(LearnerConfig(device=self._kind_of_device)),
            "arm": ARMS[arm].as_key(),
        }
        if ARMS[arm].source is not None:
            about["synthetic_fraction"] = self.synthetic_fraction
        if ARMS[arm].needs is not None:
            about |= {"bank_per_class": self.bank_per_class, "synthesizer": self.training(ARMS[arm].needs, side)}
        if (ARMS[arm].source or "").startswith(("vary", "interpolate")):
            about["strength"] = self.strength
        return digest(about)

    def synthesizer_key(self, group: "Group", kind: str, data: str, side: int) -> str:
        """Return what a trained synthesizer is kept under."""
        about = {"data": data, "per_class": group.per_class, "seed": [self.seed, group.index]}
        return digest({**about, "imbalance": self.imbalance, "training": self.training(kind, side)})

    def training(self, kind: str | None, side: int) -> dict[str, Any]:
        """Return the fields of a synthesizer's configuration: without the seed, and of the device only the kind."""
        config = self.vae_for(side) if kind == "vae" else self.gan_for(side)
        return {"kind": kind, **asdict(replace(config, seed=0, device=self._kind_of_device))}

    @property
    def _kind_of_device(self) -> str:
        return torch.device(self.device).type

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


@dataclass(frozen=True, order=True)
class Group:
    """The cells of one training set: its size, and the seed's number."""

    per_class: int = field()
    index: int = field()

    def __str__(self) -> str:
        return f"{self.per_class} per class, seed {self.index + 1}"


def digest(about: Any) -> str:
    """Return 16 hexadecimal digits that stand for a JSON value."""
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
