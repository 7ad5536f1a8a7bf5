"""NeighbourGate: turns away copies of training images, and what is like none of them."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from torchaug_gen.synthesis.drawing import to_device
from torchaug_gen.synthesis.gates.view import View, check_images_given, quantiles

_FEWEST = 20
_SIDE = 16


class NeighbourGate:
    """Lets an image through whose distance to the nearest training image is like that of real images.

    Nearer than real images that were not trained on, it is memorised; farther, it is broken, or of something else.

    Args:
        train: ``(M, C, H, W)`` the images that the synthesizer was trained on, uint8 or in [0, 1].
        low: the smallest distance that passes.
        high: the largest distance that passes.
        features: maps ``(chunk, C, H, W)`` normalised images to ``(chunk, D)``, such as a classifier without its last
            layer, on the synthesizer's device; distances are Euclidean. ``None`` compares pixels, averaged down to 16 ×
            16 where there are more, which sees copies, but no mirrored or shifted ones.
        mean: what the normalisation of ``features`` subtracts of images in [0, 1]: a number, or one per channel.
        std: what it then divides by.
        chunk: images compared at a time.

    Raises:
        TypeError: images that are no tensor, features that cannot be called.
        ValueError: a setting out of range, features that are not ``(chunk, D)`` and finite.
    """

    def __init__(
        self,
        train: Tensor,
        *,
        low: float = 0.0,
        high: float = float("inf"),
        features: Callable[[Tensor], Any] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        chunk: int = 32,
    ) -> None:
        if not 0 <= low < high:
            raise ValueError(f"low and high must satisfy 0 <= low < high, got {low} and {high}")
        self.low, self.high = float(low), float(high)
        self._view = View(_pixels if features is None else features, mean=mean, std=std, chunk=chunk)
        known = self._embedded(check_images_given(train, "training"))
        # About their own centre, since squares of far-away vectors would cancel to nothing but rounding.
        self._centre = known.mean(0)
        self._known = known - self._centre

    @classmethod
    def calibrated(
        cls,
        train: Tensor,
        heldout: Tensor,
        *,
        copied: float = 0.01,
        broken: float = 0.01,
        features: Callable[[Tensor], Any] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        chunk: int = 32,
    ) -> Self:
        """Return a gate whose bounds are those of held-out real images.

        Args:
            train: see :class:`NeighbourGate`, like all that is not named here.
            heldout: ``(N, C, H, W)`` real images that the synthesizer was not trained on; at least 20.
            copied: the share of them that may be nearer than ``low``, in [0, 0.5).
            broken: the share of them that may be farther than ``high``, in [0, 0.5).
            features: see above.
            mean: see above.
            std: see above.
            chunk: see above.

        Raises:
            ValueError: too few images, or so many that are in both sets that no distance tells copies apart.
        """
        gate = cls(train, features=features, mean=mean, std=std, chunk=chunk)
        check_images_given(heldout, "held-out", least=_FEWEST)
        low, high = quantiles(gate.distances(heldout), copied, broken)
        # Rounding gives equal images a distance of about 1e-3 of what is usual.
        if not low > 1e-2 * high:
            raise ValueError(
                f"more than {copied:.1%} of the held-out images are training images, so their distances cannot tell "
                "what a copy is: take those out, or raise copied"
            )
        gate.low, gate.high = low, high
        return gate

    def distances(self, images: Tensor) -> Tensor:
        """Return the distance of each image ``(N, C, H, W)`` to the nearest training image, ``(N,)`` float32."""
        rows = self._embedded(images)
        if rows.device != self._known.device:
            self.to(rows.device)
        rows, found = rows - self._centre, []
        for start in range(0, len(rows), self._view.chunk):
            part = rows[start : start + self._view.chunk]
            # Always as many rows, so that rounding does not depend on their number.
            whole = F.pad(part, (0, 0, 0, self._view.chunk - len(part)))
            found.append(torch.cdist(whole, self._known).min(dim=1).values[: len(part)])
        return torch.cat(found)

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return which images are as far from the training images as real ones; see :meth:`Gate.passes`."""
        distances = self.distances(images)
        return (distances >= self.low) & (distances <= self.high)

    def scores(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the distances of images ``(N, C, H, W)``; see :meth:`distances`."""
        return self.distances(images)

    def to(self, device: torch.device | str) -> Self:
        """Move features and training images to a device and return the gate."""
        self._view.to(device)
        target = torch.device(device)
        self._known, self._centre = to_device(self._known, target), to_device(self._centre, target)
        return self

    def __repr__(self) -> str:
        return f"NeighbourGate({len(self._known)} training images, low={self.low:.4g}, high={self.high:.4g})"

    def _embedded(self, images: Tensor) -> Tensor:
        features = self._view(images)
        if features.ndim != 2:
            raise ValueError(f"features must be (N, D), got {tuple(features.shape)}")
        return features


def _pixels(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.adaptive_avg_pool2d(images, (min(height, _SIDE), min(width, _SIDE))).flatten(1)
