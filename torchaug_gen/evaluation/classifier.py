"""A small convolutional classifier, how it is trained, and how it is scored."""

import math
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WARM_UP = 0.2
_WEIGHT_DECAY = 0.01
_SMALLEST, _LARGEST = 8, 128
_STRIDED_DOWN_TO, _POOLED_DOWN_TO = 16, 4


class SmallClassifier(nn.Module):
    """A convolutional classifier small enough to be trained many times on a CPU.

    Each stage halves the side of its map until it is at most 4: with strides, which are cheap, while the side is
    above 16, and then with max-pooling, which is worth ten points of accuracy over strides on 500 digits. Groups
    instead of batches are normalised, so that synthetic rows cannot change what the network computes for
    the real rows beside them, and an arm without synthetic images is not tested with other statistics than it
    was trained with.

    Args:
        image_shape: ``(C, H, W)``, with sides in 8..128.
        num_classes: at least 2.
        width: channels of the first stage, a multiple of 8; they double twice. 16 gives 24k parameters at 28 px and
            62k at 64 px.

    Raises:
        ValueError: sizes outside these ranges.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        channels, *sides = image_shape
        if channels < 1 or not (min(sides) >= _SMALLEST and max(sides) <= _LARGEST):
            raise ValueError(
                f"image_shape must be (channels, height, width) with sides in {_SMALLEST}..{_LARGEST}, "
                f"got {tuple(image_shape)}"
            )
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if width < 8 or width % 8:
            raise ValueError(f"width must be a positive multiple of 8, got {width}")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.stages = nn.Sequential()
        for index, (out, strided) in enumerate(_widths(max(sides), width)):
            self.stages.append(_stage(channels, out, kernel=3 if index else 5, strided=strided))
            channels = out
        self.head = nn.Linear(channels, num_classes)
        # Convolutions then keep this order whatever comes in; a step on a CPU takes a fifth less.
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Return ``(N, D)`` features: the mean of the last map."""
        # Zero is mid-grey to the network; images come in [0, 1].
        features: Tensor = self.stages(images * 2 - 1).mean(dim=(2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for floating images ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _widths(side: int, width: int) -> list[tuple[int, bool]]:
    """Return for each stage its channels, and whether it halves with strides."""
    stages: list[tuple[int, bool]] = []
    while side > _POOLED_DOWN_TO:
        stages.append((width * min(2 ** len(stages), 4), side > _STRIDED_DOWN_TO))
        side = math.ceil(side / 2)
    return stages


def _stage(channels: int, out: int, *, kernel: int, strided: bool) -> nn.Sequential:
    """Return convolution, normalisation and ReLU that halve the map."""
    convolution = nn.Conv2d(channels, out, kernel, 2 if strided else 1, kernel // 2, bias=False)
    pool = nn.Identity() if strided else nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(convolution, pool, nn.GroupNorm(8, out), nn.ReLU(inplace=True))


class Accuracy(NamedTuple):
    """Shares in [0, 1]: ``micro`` of all images, ``macro`` the mean of the classes' own shares."""

    micro: float
    macro: float


def fit(
    classifier: nn.Module,
    loader: Iterable[Any],
    steps: int,
    *,
    learning_rate: float = 0.01,
    progress: Any = None,
) -> None:
    """Train a classifier for a number of optimiser steps, whatever the length of the loader.

    AdamW, its learning rate going up linearly for a fifth of the steps and down to zero along a cosine.

    Args:
        classifier: maps floating images to logits; trained in place, where its parameters are.
        loader: gives batches that start with images ``(N, C, H, W)``, floating in [0, 1], and labels, ``(N,)`` int64
            or ``(N, K)`` probabilities. It is gone through again and again.
        steps: optimiser steps, at least 1.
        learning_rate: its peak.
        progress: a tqdm bar that is told of each step.

    Raises:
        ValueError: fewer steps than 1, or a loader without batches.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    parameters = list(classifier.parameters())
    device = parameters[0].device
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    classifier.train()
    batches = _endless(loader)
    try:
        for step in range(steps):
            images, labels, *_ = next(batches)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * _one_cycle((step + 0.5) / steps)
            loss = F.cross_entropy(classifier(images.to(device)), labels.to(device))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if progress is not None:
                progress.update()
    finally:
        # Ends the loader's threads and workers now, not when memory is cleaned.
        batches.close()


@torch.no_grad()
def accuracy(classifier: nn.Module, loader: Iterable[Any]) -> Accuracy:
    """Score a classifier on a loader of images and int64 labels; see :func:`fit` for their form.

    Raises:
        ValueError: a loader without batches.
    """
    device = next(classifier.parameters()).device
    classifier.eval()
    right: list[Tensor] = []
    of_class: list[Tensor] = []
    for images, labels, *_ in loader:
        right.append(classifier(images.to(device)).argmax(1).cpu() == labels.cpu())
        of_class.append(labels.cpu())
    if not right:
        raise ValueError("accuracy needs at least one batch, but the loader gave none")
    hits, classes = torch.cat(right).double(), torch.cat(of_class)
    totals = torch.bincount(classes)
    per_class = torch.bincount(classes, weights=hits)[totals > 0] / totals[totals > 0]
    return Accuracy(micro=float(hits.mean()), macro=float(per_class.mean()))


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
