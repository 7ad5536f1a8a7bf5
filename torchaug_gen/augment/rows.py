"""Rows: images on their way through a program, and where in the batch they belong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.batch import Images, put

# Set in the positions of synthetic items, so that they draw other numbers than the real items at the same places.
SYNTHETIC = 1 << 62


class Key(NamedTuple):
    """What a batch's random numbers are keyed by."""

    seed: int
    epoch: int
    batch: int


class Rows(NamedTuple):
    """Images, the rows of the batch that they belong in, and their positions in the epoch: ``(M,)`` int64 each."""

    images: Images
    rows: Tensor
    positions: Tensor


def rows_of(images: Images, rows: Tensor | None = None, positions: Tensor | None = None) -> Rows:
    """Return images as rows; by default they are the whole batch, at positions from 0 on."""
    rows = torch.arange(len(images)) if rows is None else rows
    return Rows(images, rows, rows if positions is None else positions)


def stack(images: Images) -> Images:
    """Return a list of images of one size and dtype as a tensor, and others as they are."""
    if isinstance(images, Tensor) or len({(image.shape, image.dtype) for image in images}) != 1:
        return images
    return torch.stack(images)


def join(parts: Sequence[Rows]) -> list[Rows]:
    """Return the parts as one where all images agree in size and dtype, in the order of their rows."""
    # A batch without any rows keeps its real part.
    parts = [part._replace(images=stack(part.images)) for part in parts if len(part.rows)] or list(parts[:1])
    tensors = [part.images for part in parts if isinstance(part.images, Tensor)]
    if len(parts) < 2 or len(tensors) < len(parts) or len({(t.shape[1:], t.dtype) for t in tensors}) != 1:
        return parts
    n = sum(map(len, tensors))
    joined = tensors[0].new_empty(n, *tensors[0].shape[1:])
    positions = torch.empty(n, dtype=torch.int64)
    for part, images in zip(parts, tensors, strict=True):
        put(joined, part.rows, images)
        put(positions, part.rows, part.positions)
    return [Rows(joined, torch.arange(n), positions)]


def sizes_by_row(parts: Sequence[Rows]) -> npt.NDArray[np.int32]:
    """Return the height and width of each image, ``(N, 2)``, in the order of their rows."""
    sizes: list[tuple[int, ...]] = []
    for part in parts:
        images = part.images
        # One for all, rather than a view of each.
        one = [tuple(images.shape[-2:])] * len(images) if isinstance(images, Tensor) else None
        sizes += one or [tuple(image.shape[-2:]) for image in images]
    order = np.argsort(np.concatenate([part.rows.numpy() for part in parts]))
    return np.array(sizes, np.int32).reshape(-1, 2)[order]


def only(parts: Sequence[Rows]) -> Images:
    """Return the images of the only part, or raise where real and synthetic ones could not be joined."""
    if len(parts) == 1:
        return parts[0].images
    real, synthetic = (part.images for part in parts)
    raise size_error(real, synthetic)


def size_error(real: Images, synthetic: Images) -> ValueError:
    """Return the error that says which sizes real and synthetic images have, and what to do."""
    return ValueError(
        f"real and synthetic images must have one size, got {sizes_text(real)} and {sizes_text(synthetic)}: "
        "add a stage that resizes to the transform, or a synthesizer of that size"
    )


def sizes_text(images: Images) -> str:
    """Return the sizes of images for an error message."""
    shapes = {tuple(image.shape) for image in images}
    return " and ".join(map(str, sorted(shapes)[:3])) + (" and others" if len(shapes) > 3 else "")
