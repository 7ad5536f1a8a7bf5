"""A downstream classifier: trained for a fixed number of steps on real and synthetic rows, and scored."""

import math
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.evaluation.classifier import SmallClassifier
from torchaug_gen.pixels import convert
from torchaug_gen.seeded import Seeded

NORMALISATIONS = ("group", "batch", "separate")
_WEIGHT_DECAY, _WARM_UP = 0.01, 0.2
_BINS = 15


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How :func:`learn` trains.

    Args:
        steps: optimiser steps.
        learning_rate: the peak of AdamW's, which rises for a fifth of the steps and then falls along a cosine.
        width: channels of the first stage of the :class:`SmallClassifier`.
        side: images are first averaged down by a whole factor, as far as both their sides stay at least this. On 200
            photographs of 64 px, 32 is three points better than 64, for a third of the time.
        synthetic_weight: weight of a synthetic row in the loss, in [0, 1]; a real row has 1. The loss is the
            weighted mean, so the step does not shrink with it.
        normalisation: ``"group"``, which looks at each image by itself; ``"batch"``, which is worth six points over it
            on 200 photographs; or ``"separate"``, batch
            normalisation with statistics and scales of their own for synthetic rows, which are not there in
            evaluation: Xie et al., "Adversarial Examples Improve Image Recognition" (CVPR 2020), section 3.2.
        seed: of the initial weights, 0 ≤ seed < 2⁶⁴; equal seeds give equal weights, whatever the arm.
        device: where to train.

    Raises:
        ValueError: a field out of its range, named.
    """

    steps: int = 400
    learning_rate: float = 0.01
    width: int = 24
    side: int = 32
    synthetic_weight: float = 1.0
    normalisation: str = "batch"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 <= self.synthetic_weight <= 1:
            raise ValueError(f"synthetic_weight must be in [0, 1], got {self.synthetic_weight}")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {self.normalisation!r}")
        rng.check_seed(self.seed)


@dataclass(frozen=True)
class Score:
    """How good a classifier is on a set of images.

    Attributes:
        accuracy: share of the images that are classified right.
        macro_f1: mean over the classes that occur of the harmonic mean of precision and recall.
        calibration_error: expected calibration error over 15 equally wide bins of confidence: Guo et al., "On
            Calibration of Modern Neural Networks" (ICML 2017), equation 3.
        loss: mean cross-entropy in nats.
    """

    accuracy: float
    macro_f1: float
    calibration_error: float
    loss: float


@dataclass(frozen=True)
class Learned:
    """What one training gave: scores on unseen images and on the training images as they are.

    Attributes:
        test: on images that nothing was trained on.
        train: on the real training images, without augmentation.
    """

    test: Score
    train: Score

    @property
    def gap(self) -> float:
        """Accuracy on the training images less that on unseen ones: how far the training set was learned by heart."""
        return self.train.accuracy - self.test.accuracy

    def as_json(self) -> dict[str, float]:
        """Return all figures flat: those of the test by their names, then the training's and the gap."""
        return {
            **asdict(self.test),
            "train_accuracy": self.train.accuracy,
            "train_loss": self.train.loss,
            "gap": self.gap,
        }


def learn(
    loader: Iterable[Any],
    config: LearnerConfig = LearnerConfig(),
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    progress: Any = None,
) -> nn.Module:
    """Train a classifier; at 64 px a step on 64 images takes 40 ms of a CPU core.

    Args:
        loader: gives batches of images ``(N, C, H, W)`` floating in [0, 1], labels ``(N,)`` int64 or ``(N, K)``
            probabilities, and, where the last element is an ``(N,)`` bool tensor, which rows are synthetic (``tag`` of
            :class:`torchaug_gen.AugmentedLoader`). It is gone through again and again.
        config: how.
        image_shape: ``(C, H, W)``.
        num_classes: at least 2.
        progress: a tqdm bar that is told of each step.

    Returns:
        The classifier in evaluation mode, on ``config.device``: from floating images ``(N, C, H, W)`` to logits.

    Raises:
        ValueError: a loader without batches, or sizes that a :class:`SmallClassifier` does not take.
    """
    with Seeded(rng.derive_seed(config.seed, "learner.weights")):
        classifier, norms = _classifier(config, image_shape, num_classes)
    classifier.to(config.device).train()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate, weight_decay=_WEIGHT_DECAY)
    batches = _endless(loader)
    try:
        for step in range(config.steps):
            images, labels, *rest = next(batches)
            synthetic = _synthetic_rows(rest, config.device)
            for norm in norms:
                norm.synthetic_rows = synthetic
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * _one_cycle((step + 0.5) / config.steps)
            losses = F.cross_entropy(classifier(images.to(config.device)), labels.to(config.device), reduction="none")
            loss = _weighted_mean(losses, synthetic, config.synthetic_weight)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if progress is not None:
                progress.update()
    finally:
        # Ends the loader's threads and workers now, not when memory is cleaned.
        batches.close()
        for norm in norms:
            norm.synthetic_rows = None
    return classifier.eval()


def learn_and_score(
    loader: Iterable[Any],
    config: LearnerConfig = LearnerConfig(),
    *,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    num_classes: int,
    progress: Any = None,
) -> Learned:
    """Train a classifier and score it on unseen images and on its real training images.

    Args:
        loader: see :func:`learn`.
        config: how.
        train: the real training images ``(N, C, H, W)``, uint8 or floating in [0, 1], and their labels ``(N,)``.
        test: images and labels that nothing was trained on, likewise.
        num_classes: at least 2.
        progress: a tqdm bar that is told of each step.
    """
    _, channels, height, width = train[0].shape
    classifier = learn(
        loader, config, image_shape=(channels, height, width), num_classes=num_classes, progress=progress
    )
    return Learned(test=score(classifier, *test), train=score(classifier, *train))


def score(classifier: nn.Module, images: Tensor, labels: Tensor) -> Score:
    """Score a classifier on images ``(N, C, H, W)``, uint8 or floating in [0, 1], with labels ``(N,)`` int64.

    Raises:
        ValueError: no image, or labels of another number.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"score needs images and a label for each, got {len(images)} images and {len(labels)} labels")
    return score_logits(predict(classifier, images), labels.cpu())


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor, *, chunk: int = 128) -> Tensor:
    """Return logits ``(N, K)`` on the CPU for images, uint8 or floating in [0, 1], in evaluation mode.

    Args:
        classifier: maps floating images to logits.
        images: ``(N, C, H, W)``, at least one.
        chunk: rows it is run on at a time.
    """
    device = next(classifier.parameters()).device
    classifier.eval()
    return torch.cat([classifier(convert(part.to(device), torch.float32)).cpu() for part in images.split(chunk)])


def score_logits(logits: Tensor, labels: Tensor) -> Score:
    """Score logits ``(N, K)`` against class indices ``(N,)``, both on the CPU."""
    confidence, predicted = logits.double().softmax(1).max(1)
    right = predicted == labels
    return Score(
        accuracy=float(right.double().mean()),
        macro_f1=_macro_f1(predicted, labels, logits.shape[1]),
        calibration_error=_calibration_error(confidence, right),
        loss=float(F.cross_entropy(logits.double(), labels)),
    )


def _macro_f1(predicted: Tensor, labels: Tensor, num_classes: int) -> float:
    hits = torch.bincount(labels[predicted == labels], minlength=num_classes).double()
    asked, answered = (torch.bincount(values, minlength=num_classes) for values in (labels, predicted))
    # 2·TP / (2·TP + FP + FN), of classes that occur: one that does not would count as a failure.
    f1 = 2 * hits / (asked + answered).clamp(min=1)
    return float(f1[asked > 0].mean())


def _calibration_error(confidence: Tensor, right: Tensor) -> float:
    # Bins (i/15, (i+1)/15], as in the paper.
    bins = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)
    surplus = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, right.double() - confidence)
    return float(surplus.abs().sum() / len(confidence))


class SeparateNorm(nn.Module):
    """Batch normalisation that gives synthetic rows, where it is told of them, statistics and scales of their own.

    Args:
        channels: of the maps.

    Attributes:
        synthetic_rows: ``(N,)`` bool of the coming batch, or ``None``: all are real.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.real, self.synthetic = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.synthetic_rows: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps ``(N, C, H, W)``."""
        rows = self.synthetic_rows
        if rows is None or not rows.any():
            real: Tensor = self.real(maps)
            return real
        out = torch.empty_like(maps)
        out[rows] = self.synthetic(maps[rows])
        if not rows.all():
            out[~rows] = self.real(maps[~rows])
        return out


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all rows, whatever they are."""

    synthetic_rows: Tensor | None = None


def _classifier(
    config: LearnerConfig, image_shape: tuple[int, int, int], num_classes: int
) -> tuple[nn.Module, list[Any]]:
    """Return an untrained classifier, and its layers that must be told which rows are synthetic."""
    channels, height, width = image_shape
    factor = max(1, min(height, width) // config.side)
    classifier = SmallClassifier((channels, height // factor, width // factor), num_classes, width=config.width)
    norms = [] if config.normalisation == "group" else _use_batch_norm(classifier, config.normalisation)
    return (classifier if factor == 1 else nn.Sequential(nn.AvgPool2d(factor), classifier)), norms


def _use_batch_norm(classifier: SmallClassifier, normalisation: str) -> list[Any]:
    """Put batch normalisation in the place of group normalisation, and return the new layers."""
    kind = SeparateNorm if normalisation == "separate" else _BatchNorm
    norms: list[Any] = []
    for stage in classifier.stages:
        for name, layer in stage.named_children():
            if isinstance(layer, nn.GroupNorm):
                norms.append(kind(layer.num_channels))
                setattr(stage, name, norms[-1])
    return norms


def _synthetic_rows(rest: list[Any], device: str) -> Tensor | None:
    if rest and isinstance(rest[-1], Tensor) and rest[-1].dtype is torch.bool and rest[-1].ndim == 1:
        return rest[-1].to(device)
    return None


def _weighted_mean(losses: Tensor, synthetic: Tensor | None, weight: float) -> Tensor:
    if synthetic is None or weight == 1:
        return losses.mean()
    weights = torch.where(synthetic, weight, 1.0)
    # A batch of nothing but synthetic rows without weight teaches nothing, and does not divide by zero.
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def _endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader must give at least one batch, got none")


def _one_cycle(share: float) -> float:
    """Return the learning rate after this share of all steps, relative to its peak."""
    if share < _WARM_UP:
        return share / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP)))
