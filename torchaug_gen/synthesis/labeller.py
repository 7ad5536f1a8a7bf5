"""LabelledSynthesizer: classes for a generator that has none, by a classifier that looks at what it draws."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.pixels import convert
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.synthesizer import Synthesizer


class LabelledSynthesizer(Synthesizer):
    """A synthesizer without classes, and a classifier that decides which class an image is of.

    For an image of class y, candidates are drawn in the order of their numbers until the classifier gives one y with
    enough confidence. The candidates of a position are its own, so an image does not depend on what else is drawn with
    it. A class that makes up a tenth of what the generator draws costs ten candidates and more; draw through a
    pool to pay that once.

    Labels are the classifier's opinion. Lee, "Pseudo-Label" (2013) calls them so; a high threshold keeps out what the
    classifier has not seen the like of, and with it some variety.

    Args:
        synthesizer: what draws the candidates; without classes.
        classifier: called with ``(chunk, C, H, W)`` normalised images; returns logits ``(chunk, num_classes)``. It is
            put into evaluation mode and must be on the synthesizer's device.
        num_classes: how many classes it tells apart.
        threshold: the smallest softmax probability that counts as sure, in [0, 1).
        mean: what the classifier's normalisation subtracts of images in [0, 1]: a number, or one per channel.
        std: what it then divides by.
        max_candidates: how many candidates a position has before drawing it fails.
        chunk: the classifier always runs on this many rows, so that its opinion does not depend on their number.

    Raises:
        TypeError: ``classifier`` is not a module.
        ValueError: a synthesizer with classes, or a setting out of range.

    Example:
        >>> import torch
        >>> from torchaug_gen import NoiseSynthesizer
        >>> class Brightness(torch.nn.Module):
        ...     def forward(self, images):
        ...         mean = images.mean(dim=(1, 2, 3))
        ...         return torch.stack((-mean, mean), dim=1)
        >>> noise = NoiseSynthesizer((1, 2, 2))
        >>> synthesizer = LabelledSynthesizer(noise, Brightness(), num_classes=2, threshold=0.5, mean=0.5, std=0.01)
        >>> images, labels = synthesizer.sample(labels=[0, 1])
        >>> [bool(image.mean() > 0.5) for image in images]
        [False, True]
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        classifier: nn.Module,
        *,
        num_classes: int,
        threshold: float = 0.9,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        max_candidates: int = 1024,
        chunk: int = 32,
    ) -> None:
        if synthesizer.num_classes is not None:
            raise ValueError(
                f"the synthesizer must have no classes, got one with {synthesizer.num_classes}: "
                "to keep only what a classifier agrees with, gate it"
            )
        if not isinstance(classifier, nn.Module):
            raise TypeError(f"classifier must be a torch.nn.Module, got {type(classifier).__name__}")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}")
        if max_candidates < 1 or chunk < 1:
            raise ValueError(f"max_candidates and chunk must be at least 1, got {max_candidates} and {chunk}")
        super().__init__(synthesizer.image_shape, num_classes=num_classes)
        self.synthesizer, self.classifier = synthesizer, classifier
        self.threshold, self.max_candidates, self.chunk = threshold, max_candidates, chunk
        self._mean = _per_channel("mean", mean, self.image_shape[0])
        self._std = _per_channel("std", std, self.image_shape[0])
        if not (self._std > 0).all():
            raise ValueError(f"std must be above 0, got {std}")

    @property
    def device(self) -> torch.device:
        """Where images are drawn and looked at."""
        return self.synthesizer.device

    def to(self, device: torch.device | str) -> Self:
        """Move synthesizer and classifier to a device and return the whole."""
        self.synthesizer.to(device)
        self.classifier.to(device)
        return self

    def save(self, path: object) -> None:
        """Refuse: the classifier is none of ours.

        Raises:
            TypeError: always.
        """
        raise TypeError("LabelledSynthesizer has no file format: save its .synthesizer, and construct it again")

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Draw candidates until each position has its class; see :meth:`Synthesizer.draw`.

        Raises:
            ValueError: a position whose candidates are used up, with how often its class was met, or a classifier
                that returns something other than ``(chunk, num_classes)`` finite logits.
        """
        if labels is None:
            raise ValueError("labels must be given, got None: call sample(), which draws them")
        images = torch.empty(len(positions), *self.image_shape, device=self.device)
        pending, tried = torch.arange(len(positions)), 0
        met = torch.zeros(self.num_classes or 0, dtype=torch.int64)
        looked_at = 0
        while len(pending):
            if tried == self.max_candidates:
                row = int(pending[0])
                raise ValueError(self._failure(int(labels[row]), int(positions[row]), met, looked_at))
            # As many for each as fill a chunk; which candidate is taken does not depend on it.
            each = min(max(1, self.chunk // len(pending)), self.max_candidates - tried)
            numbers = positions[pending, None] * self.max_candidates + torch.arange(tried, tried + each)
            candidates, opinions = self._candidates(numbers.flatten(), seed, epoch)
            met += torch.bincount(opinions[opinions >= 0], minlength=len(met))
            looked_at += len(opinions)
            fits = opinions.view(-1, each) == labels.cpu()[pending, None]
            found, first = fits.any(dim=1), fits.int().argmax(dim=1)
            chosen = torch.arange(len(pending)) * each + first
            images[pending[found].to(self.device)] = candidates[chosen[found].to(self.device)]
            pending, tried = pending[~found], tried + each
        return images

    def _candidates(self, numbers: Tensor, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return candidates as float images, and their classes on the CPU, -1 where the classifier is not sure."""
        images = convert(self.synthesizer.sample(seed=seed, epoch=epoch, positions=numbers)[0], torch.float32)
        opinions = torch.cat([self._look(rows, seed, epoch) for rows in images.split(self.chunk)])
        return images, opinions.cpu()

    def _look(self, images: Tensor, seed: int, epoch: int) -> Tensor:
        self.classifier.eval()
        missing = self.chunk - len(images)
        rows = images if missing == 0 else torch.cat((images, images[-1:].expand(missing, *images.shape[1:])))
        rows = (rows - self._mean.to(rows.device)) / self._std.to(rows.device)
        with torch.no_grad(), Seeded(rng.derive_seed(seed, "labeller.noise", epoch)):
            logits = self.classifier(rows)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (self.chunk, self.num_classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the classifier must return logits ({self.chunk}, {self.num_classes}), got {got}")
        if not logits.isfinite().all():
            raise ValueError("the classifier must return finite logits, got NaN or infinity")
        confidence, classes = logits.float().softmax(dim=1)[: len(images)].max(dim=1)
        return torch.where(confidence >= self.threshold, classes, -1)

    def _failure(self, label: int, position: int, met: Tensor, looked_at: int) -> str:
        name = f"class {label}" + ("" if self.classes is None else f" ({self.classes[label]})")
        return (
            f"no candidate of {self.max_candidates} at position {position} was of {name} with a confidence of at least "
            f"{self.threshold}: of {looked_at} candidates in all, {met[label] / looked_at:.2%} were, and "
            f"{met.sum() / looked_at:.2%} of any class; lower threshold, or raise max_candidates"
        )


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
    if len(tensor) not in (1, channels):
        raise ValueError(f"{name} must be a number, or {channels} for as many channels, got {values}")
    return tensor
