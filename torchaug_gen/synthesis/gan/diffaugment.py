"""Differentiable augmentation: what the critic sees is altered, real and synthetic alike, so that it cannot memorise.

Zhao, Liu, Lin, Zhu and Han, "Differentiable Augmentation for Data-Efficient GAN Training" (NeurIPS 2020).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import Code, Tables

OPERATIONS = ("colour", "translation", "cutout")

# The paper's ranges, whose images lie in [-1, 1] too.
_BRIGHTNESS, _SATURATION, _CONTRAST = (-0.5, 0.5), (0.0, 2.0), (0.5, 1.5)
_SHIFT, _CUTOUT = 1 / 8, 1 / 2
_DRAWS = 7

Floats = npt.NDArray[np.float64]


def diffaugment(images: Tensor, *, operations: Sequence[str], seed: int, stream: str, positions: Tensor) -> Tensor:
    """Alter each image at random; gradients flow through.

    ``"colour"`` adds up to ±0.5 to the brightness, scales a colour's distance from grey by 0 to 2 and the distance from
    the mean of the image by 0.5 to 1.5; ``"translation"`` shifts by up to an eighth of each side in whole pixels;
    ``"cutout"`` greys out a box of half of each side about a random centre. What enters or is cut out is 0.

    The work is done by the reference engine, which is differentiable: its tables are filled in directly instead of by
    :func:`torchaug_gen.fuse`, because library transforms clamp to [0, 1], and where a generator is out of range a clamp
    would leave it without a gradient that leads back.

    Args:
        images: ``(N, C, H, W)`` floating, whose black is -1 and white 1.
        operations: some of :data:`OPERATIONS`; none returns the images themselves.
        seed: 0 ≤ seed < 2⁶⁴.
        stream: tells draws at the same positions apart.
        positions: ``(N,)`` int64 on the CPU.

    Returns:
        Images of the same shape and device.

    Raises:
        ValueError: an unknown operation.
    """
    check_operations(operations)
    if not operations or len(images) == 0:
        return images
    draws = rng.uniform(seed, stream, 0, positions, (_DRAWS,)).double().numpy()
    tables = _tables(tuple(images.shape[1:]), operations, draws)
    augmented = reference.run(tables, images, size=(images.shape[2], images.shape[3]))
    if not isinstance(augmented, Tensor):
        raise TypeError("outputs of one size must be one tensor")
    return augmented


def check_operations(operations: Sequence[str]) -> None:
    """Raise ``ValueError`` for operations that are none."""
    if isinstance(operations, str) or (unknown := [name for name in operations if name not in OPERATIONS]):
        raise ValueError(
            f"operations must be some of {OPERATIONS}, got {operations if isinstance(operations, str) else unknown!r}"
        )


def _tables(shape: tuple[int, ...], operations: Sequence[str], draws: Floats) -> Tables:
    """Return tables of two passes, colour and then place: what enters at the border is grey whatever the colours."""
    channels, height, width = shape
    tables = Tables.empty(len(draws), 2, 2, channels, 1)
    tables.passes[:] = 2
    tables.size[:] = (height, width)
    tables.matrix[:] = np.eye(3)
    tables.filter[:], tables.padding[:] = Filter.EXACT, Padding.FILL
    tables.canvas[:] = (0, 0, width, height)
    if "colour" in operations:
        tables.links[:, 0] = 2
        tables.codes[:, 0] = (Code.MATRIX if channels == 3 else Code.SCALE, Code.CONTRAST)
        tables.arguments[:, 0] = _colour(channels, draws, tables.arguments.shape[-1])
    if "translation" in operations:
        reach = np.array([_whole(width * _SHIFT), _whole(height * _SHIFT)])
        # As many whole numbers as there are in -reach..reach, each as likely.
        tables.matrix[:, 1, :2, 2] = np.floor(draws[:, 3:5] * (2 * reach + 1)) - reach
    if "cutout" in operations:
        size = np.array([_whole(height * _CUTOUT), _whole(width * _CUTOUT)])
        start = np.floor(draws[:, 5:7] * (height, width)) - size // 2
        tables.links[:, 1] = 1
        tables.codes[:, 1, 0] = Code.ERASE
        tables.arguments[:, 1, 0, :4] = np.concatenate([start, start + size], axis=1)
    return tables


def _colour(channels: int, draws: Floats, room: int) -> Floats:
    """Return ``(N, 2, room)`` arguments of brightness with saturation, and of contrast."""
    brightness, saturation, contrast = (
        low + (high - low) * draw
        for (low, high), draw in zip((_BRIGHTNESS, _SATURATION, _CONTRAST), draws.T[:3], strict=True)
    )
    arguments = np.zeros((len(draws), 2, room))
    if channels == 3:
        # s·v + (1 - s)·mean of the channels.
        mean = np.full((3, 3), 1 / 3)
        matrix = saturation[:, None, None] * (np.eye(3) - mean) + mean
        arguments[:, 0, 1:10] = matrix.reshape(-1, 9)
        arguments[:, 0, 10:13] = brightness[:, None]
    else:
        arguments[:, 0, 1 : 1 + channels] = 1
        arguments[:, 0, 1 + channels : 1 + 2 * channels] = brightness[:, None]
    arguments[:, 1, 0] = contrast
    return arguments


def _whole(pixels: float) -> int:
    return math.floor(pixels + 0.5)
