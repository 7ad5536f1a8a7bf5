"""What can be measured of an image's fine structure: sharpness, spectrum, and what is locked to the pixel grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Half a level of an 8-bit image, squared: keeps the logarithms of blank images finite.
_FLOOR = (0.5 / 255) ** 2
_LEVEL = 1 / 255


def blank(images: Tensor) -> Tensor:
    """Return ``(N,)`` bool: which images are one flat colour, their grey values deviating by less than a level.

    They have no structure: whatever is measured of it is rounding.

    Args:
        images: ``(N, C, H, W)`` floating in [0, 1]; channels are averaged.
    """
    return images.double().mean(1).flatten(1).std(1) < _LEVEL


def sharpness(images: Tensor) -> Tensor:
    """Return ``(N,)``: the logarithm of the Laplacian's variance relative to the image's, which contrast cancels from.

    Args:
        images: ``(N, C, H, W)`` floating in [0, 1]; channels are averaged.
    """
    variance = images.double().mean(1).flatten(1).var(1)
    return (_laplacian(images).flatten(1).var(1) + _FLOOR).log() - (variance + _FLOOR).log()


def log_spectrum(images: Tensor) -> Tensor:
    """Return the azimuthally averaged log power spectrum, ``(N, R)``, from frequency zero to the Nyquist frequency.

    Power is relative to the image's variance, so that contrast cancels.

    Args:
        images: ``(N, C, H, W)`` floating; channels are averaged. A Hann window keeps the border, which does not
            continue on the other side, from leaking into all frequencies.
    """
    grey = images.double().mean(1)
    height, width = grey.shape[-2:]
    window = torch.hann_window(height + 2, periodic=False, dtype=grey.dtype, device=grey.device)[1:-1, None]
    window = window * torch.hann_window(width + 2, periodic=False, dtype=grey.dtype, device=grey.device)[1:-1]
    variance = grey.flatten(1).var(1) + _FLOOR
    grey = (grey - grey.mean(dim=(1, 2), keepdim=True)) * window
    power = torch.fft.rfft2(grey, norm="ortho").abs().square()
    radius = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
    bins = min(height, width) // 2
    ring = (radius * 2 * bins).round().long().to(grey.device)
    kept = ring <= bins
    sums = torch.zeros(len(grey), bins + 1, dtype=grey.dtype, device=grey.device)
    sums.index_add_(1, ring[kept], power[:, kept])
    power = sums / torch.bincount(ring[kept], minlength=bins + 1)
    return (power + _FLOOR).log() - variance.log()[:, None]


def grid_share(images: Tensor, period: int) -> Tensor:
    """Return ``(N,)``: how much of each image's local contrast is locked to a grid, 0 for none.

    Two ways in which a grid shows are added. A pattern laid over the image gives the Laplacian a mean at each place of
    the grid's cell: its energy, relative to all of the Laplacian's. Repeated pixels leave the pattern without a sign:
    steps between neighbours are larger at some columns and rows of the cell than at others: the squared coefficient of
    variation of their size. What chance would give is taken off.

    Args:
        images: ``(N, C, H, W)`` floating in [0, 1], with sides of at least 2·period.
        period: of the grid, in pixels.
    """
    laplacian = _laplacian(images)[..., 1:-1, 1:-1]
    # (N, place in x, cells in x, cells in y, place in y)
    cells = _fold(_fold(laplacian, period).transpose(-1, -3), period)
    energy = cells.square().mean(dim=(1, 2, 3, 4)) + _FLOOR
    count = cells.shape[2] * cells.shape[3]
    pattern = cells.mean(dim=(2, 3)).square().mean(dim=(1, 2)) / energy - 1 / count
    grey = images.double().mean(1)
    steps = [grey.diff(dim=2).abs(), grey.diff(dim=1).abs().transpose(1, 2)]
    found = pattern
    for step in steps:
        sizes = _fold(step, period).mean(dim=(1, 2))
        found = found + sizes.var(1, correction=0) / (sizes.mean(1).square() + _FLOOR)
    return found


def _laplacian(images: Tensor) -> Tensor:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64, device=images.device)
    laplacian: Tensor = F.conv2d(images.double().mean(1, keepdim=True), kernel.view(1, 1, 3, 3))[:, 0]
    return laplacian


def _fold(values: Tensor, period: int) -> Tensor:
    """Return ``(..., W)`` as ``(..., W // period, period)``, cut where it does not fit."""
    folded: Tensor = values[..., : values.shape[-1] // period * period].unflatten(-1, (-1, period))
    return folded
