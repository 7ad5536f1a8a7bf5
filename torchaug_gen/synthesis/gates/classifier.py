"""ClassifierGate: lets through what a classifier takes for the class that was asked for."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from torchaug_gen.synthesis.gates.view import View


class ClassifierGate:
    """Lets an image through where a classifier gives it the label that was asked for, and is sure of it.

    The filter of conditional generators whose labels are not always right. It also keeps out what the classifier finds
    hard, the more the higher the threshold. The classifier should not be the one that is trained on the
    result: what it has learnt wrong would come back to it as labels.

    Args:
        classifier: called with ``(chunk, C, H, W)`` normalised images; returns logits ``(chunk, K)``. It is put into
            evaluation mode and must be on the synthesizer's device.
        threshold: the smallest softmax probability of the label that counts as sure, in [0, 1). 0 asks for agreement
            alone. For a synthesizer without classes it is that of the likeliest class.
        mean: what the classifier's normalisation subtracts of images in [0, 1]: a number, or one per channel.
        std: what it then divides by.
        chunk: the classifier always runs on this many rows.

    Raises:
        TypeError: ``classifier`` is not a module.
        ValueError: a setting out of range; while drawing, logits that are not ``(chunk, K)`` and finite.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        threshold: float = 0.9,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        chunk: int = 32,
    ) -> None:
        if not isinstance(classifier, nn.Module):
            raise TypeError(f"classifier must be a torch.nn.Module, got {type(classifier).__name__}")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}")
        self.threshold = threshold
        self._view = View(classifier, mean=mean, std=std, chunk=chunk)

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return which images the classifier agrees with; see :meth:`Gate.passes`."""
        confidence, classes = self._probabilities(images, seed=seed, epoch=epoch).max(dim=1)
        # NaN is never sure, and so never passes.
        sure = confidence >= self.threshold
        return sure if labels is None else sure & (classes == labels)

    def scores(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the probability of each image's label, ``(N,)`` float32; without labels, of the likeliest class.

        Args:
            images: ``(N, C, H, W)`` uint8 or in [0, 1].
            labels: ``(N,)`` int64 beside them, or ``None``.
        """
        probabilities = self._probabilities(images)
        return probabilities.amax(dim=1) if labels is None else probabilities.gather(1, labels[:, None])[:, 0]

    def to(self, device: torch.device | str) -> Self:
        """Move the classifier to a device and return the gate."""
        self._view.to(device)
        return self

    def _probabilities(self, images: Tensor, *, seed: int = 0, epoch: int = 0) -> Tensor:
        logits = self._view(images, seed=seed, epoch=epoch)
        if logits.ndim != 2:
            raise ValueError(f"the classifier must return logits (N, K), got {tuple(logits.shape)}")
        return logits.softmax(dim=1)

    def __repr__(self) -> str:
        return f"ClassifierGate({type(self._view.net).__name__}, threshold={self.threshold})"
