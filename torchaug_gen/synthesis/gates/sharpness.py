"""SharpnessGate: turns away images that are blurred or noisy beside real ones."""

from typing import Self

import torch
from torch import Tensor

from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.gates.view import check_images_given, quantiles

_FEWEST = 20


class SharpnessGate:
    """Lets an image through whose sharpness is like that of real images.

    Sharpness is the variance of the Laplacian: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy"
    (ICPR 2000), of the mean over channels, with the kernel of four neighbours.

    Args:
        low: the smallest sharpness that passes, at least 0.
        high: the largest sharpness that passes.

    Raises:
        ValueError: bounds in the wrong order.
    """

    def __init__(self, *, low: float = 0.0, high: float = float("inf")) -> None:
        if not 0 <= low < high:
            raise ValueError(f"low and high must satisfy 0 <= low < high, got {low} and {high}")
        self.low, self.high = float(low), float(high)

    @classmethod
    def calibrated(cls, real: Tensor, *, blurred: float = 0.01, noisy: float = 0.01) -> Self:
        """Return a gate whose bounds are those of real images.

        Args:
            real: ``(N, C, H, W)`` real images, uint8 or in [0, 1], of the size that is drawn; at least 20.
            blurred: the share of them that may be less sharp than ``low``, in [0, 0.5).
            noisy: the share of them that may be sharper than ``high``, in [0, 0.5).

        Raises:
            ValueError: too few images, a share out of range, or images that are all as sharp.
        """
        low, high = quantiles(sharpness(check_images_given(real, "real", least=_FEWEST)), blurred, noisy)
        return cls(low=low, high=high)

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return which images are as sharp as real ones; see :meth:`Gate.passes`."""
        values = self.scores(images, labels)
        return (values >= self.low) & (values <= self.high)

    def scores(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the sharpness of images ``(N, C, H, W)``, ``(N,)`` float32; see :func:`sharpness`."""
        return sharpness(images)

    def __repr__(self) -> str:
        return f"SharpnessGate(low={self.low:.4g}, high={self.high:.4g})"


def sharpness(images: Tensor) -> Tensor:
    """Return the variance of each image's Laplacian, ``(N,)`` float32 for ``(N, C, H, W)`` uint8 or in [0, 1].

    Raises:
        ValueError: sides below 3.
    """
    if min(images.shape[-2:]) < 3:
        raise ValueError(f"sharpness needs sides of at least 3, got {tuple(images.shape[-2:])}")
    grey = convert(images, torch.float32).mean(dim=1)
    # As sums of slices, whose rounding cannot depend on the number of images as a convolution's can.
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    return laplacian.flatten(1).var(dim=1, correction=0)
