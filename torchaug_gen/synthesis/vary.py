"""New views of real images: how far to vary, and VaryingSynthesizer, which does it for a loader."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.labels import check_labels
from torchaug_gen.pixels import outside
from torchaug_gen.synthesis.synthesizer import Synthesizer

MODES = ("perturb", "interpolate")

# Weights of interpolation go a little beyond both ends, where codes are still of the class, and come no nearer to 0,
# where the image itself would come back, than this.
_LEAST, _GREATEST, _NEAREST = -0.3, 1.3, 0.1


class VaryingSynthesizer(Synthesizer):
    """A synthesizer whose every image is a new view of a real one: a training set, varied.

    Which image is varied is a function of (seed, epoch, position, label): one of the label's class, all alike
    likely. The form of synthesis that keeps labels best when images are few.

    Args:
        synthesizer: one that can encode, such as what :func:`torchaug_gen.train_vae` returns; see
            :meth:`Synthesizer.vary`. Where it has no classes, each varied image keeps the label of its real one.
        images: ``(N, C, H, W)``, uint8 or floating in [0, 1], of ``synthesizer.image_shape``; kept as they are.
        labels: ``(N,)`` class indices, or ``None`` where nothing has classes.
        strength: see :meth:`Synthesizer.vary`; above 0, since no real image is to be drawn as a synthetic one.
        mode: ``"perturb"``, or ``"interpolate"`` towards another image of the class (or, in a class of one image,
            towards a draw from its prior).
        residual: give each varied image what the synthesizer cannot draw of its real one.

    Raises:
        TypeError: a synthesizer that cannot encode.
        ValueError: no images, images that are not the synthesizer's size, labels that are missing, unknown or of
            another number, a class without an image, a strength outside (0, 1], another mode.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        *,
        strength: float = 0.5,
        mode: str = "perturb",
        residual: bool = True,
    ) -> None:
        check_way(strength, mode)
        if strength == 0:
            raise ValueError("strength must be in (0, 1], got 0, which would draw the real images themselves")
        if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"images must be (N, C, H, W) with at least one image, got {got}")
        known = _labels(labels, len(images), synthesizer.num_classes)
        num_classes = synthesizer.num_classes
        if known is not None and num_classes is None:
            num_classes = int(known.max()) + 1
        super().__init__(synthesizer.image_shape, num_classes=num_classes)
        self.classes = synthesizer.classes
        self.synthesizer, self.images = synthesizer, images
        self.strength, self.mode, self.residual = strength, mode, residual
        groups = torch.zeros(len(images), dtype=torch.int64) if known is None else known
        self._counts = torch.bincount(groups, minlength=num_classes or 1)
        if not self._counts.all():
            empty = int((self._counts == 0).nonzero()[0])
            raise ValueError(f"every class must have an image to vary, got none of class {empty} of {num_classes}")
        # The images of class c are the rows order[starts[c] : starts[c] + counts[c]].
        self._order = groups.argsort(stable=True)
        self._starts = self._counts.cumsum(0) - self._counts
        # What drawing would raise is raised now: a synthesizer that cannot encode, images of another size or range.
        self._vary(torch.zeros(1, dtype=torch.int64), None, groups[:1], seed=0, epoch=0, positions=torch.tensor([0]))
        if span := outside(images):
            raise ValueError(f"images must be in [0, 1], got {span}: vary images before Normalize")

    @property
    def device(self) -> torch.device:
        """Where images are drawn."""
        return self.synthesizer.device

    def to(self, device: torch.device | str) -> Self:
        """Move the synthesizer to a device and return this; the real images stay where they are."""
        self.synthesizer.to(device)
        return self

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Choose a real image for each position and vary it; see :meth:`Synthesizer.draw`."""
        groups = torch.zeros(len(positions), dtype=torch.int64) if labels is None else labels.cpu()
        counts = self._counts[groups]
        draws = rng.uniform(seed, "vary.images", epoch, positions, (2,), dtype=torch.float64)
        chosen = (draws[:, 0] * counts).long()
        rows = self._order[self._starts[groups] + chosen]
        where = {"seed": seed, "epoch": epoch}
        if self.mode == "perturb":
            return self._vary(rows, None, groups, positions=positions, **where)
        # One of the others of the class, counted from the next one on.
        other = (chosen + 1 + (draws[:, 1] * (counts - 1)).long()) % counts
        partners = self._order[self._starts[groups] + other]
        images = torch.empty(len(rows), *self.image_shape, device=self.device)
        for part, alone in ((counts > 1, False), (counts == 1, True)):
            if part.any():
                chosen_partners = None if alone else partners[part]
                images[part.to(self.device)] = self._vary(
                    rows[part], chosen_partners, groups[part], positions=positions[part], **where
                )
        return images

    def _vary(self, rows: Tensor, partners: Tensor | None, groups: Tensor, **where: Any) -> Tensor:
        return self.synthesizer.vary(
            self._real(rows),
            None if self.synthesizer.num_classes is None else groups,
            strength=self.strength,
            mode=self.mode,
            residual=self.residual,
            partners=None if partners is None else self._real(partners),
            **where,
        )

    def _real(self, rows: Tensor) -> Tensor:
        return self.images[rows.to(self.images.device)]


def check_way(strength: float, mode: str) -> None:
    """Raise ``ValueError`` where there is no such strength or mode of varying."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    if mode not in MODES:
        raise ValueError(f"mode must be {' or '.join(MODES)}, got {mode!r}")


def interpolation_weights(seed: int, epoch: int, positions: Tensor) -> Tensor:
    """Return ``(N,)`` float32 weights, uniform in [-0.3, -0.1) and [0.1, 1.3) together."""
    weights = _LEAST + rng.uniform(seed, "vary.weights", epoch, positions) * (_GREATEST - _LEAST - 2 * _NEAREST)
    return torch.where(weights < -_NEAREST, weights, weights + 2 * _NEAREST)


def place_rows(positions: Tensor | Sequence[int] | None, count: int) -> Tensor:
    """Return ``positions`` as ``(count,)`` int64 on the CPU, ``range(count)`` where they are left out, or raise."""
    if positions is None:
        return torch.arange(count)
    places = torch.as_tensor(positions).cpu()
    if places.ndim != 1 or len(places) != count or places.is_floating_point():
        raise ValueError(f"positions must be ({count},) integers, got shape {tuple(places.shape)} of {places.dtype}")
    return places.to(torch.int64)


def _labels(labels: Tensor | Sequence[int] | None, count: int, num_classes: int | None) -> Tensor | None:
    """Return the labels of the real images as int64 on the CPU, or raise ``ValueError``."""
    if labels is None:
        if num_classes is not None:
            raise ValueError(f"the synthesizer has {num_classes} classes: pass the labels of the images")
        return None
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != count:
        raise ValueError(f"labels must be ({count},) class indices, got shape {tuple(labels.shape)} of {labels.dtype}")
    check_labels(labels, int(labels.max()) + 1 if num_classes is None else num_classes)
    return labels.to("cpu", torch.int64)
