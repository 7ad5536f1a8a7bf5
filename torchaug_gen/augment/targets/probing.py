"""Probing: where a Kornia augmentation has moved pixels, found out by sending points and pixel numbers along."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.augment.rows import Rows, stack
from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.detection import role_of
from torchaug_gen.augment.targets.masks import read_taps
from torchaug_gen.augment.targets.moving import Target, TargetOptions, entry, move, stacked
from torchaug_gen.augment.targets.warp import Floats, Warp

# Pixels are numbered from here on, so that no fill value in [0, 1] can be taken for one.
_FIRST = 2

# Corners of the unit square, by which a homography is known, and two points more that it must agree with.
_PROBES = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.3, 0.6], [0.8, 0.5]])

# Kornia moves points in float32, which tells 1/16 of a pixel or so apart at 2¹⁶.
_TOLERANCE = 0.1

_SEQUENCES = {"ImageSequential", "AugmentationSequential", "PolicyAugmentBase", "PolicySequential"}


class Probed(NamedTuple):
    """Where pixels have gone.

    Attributes:
        images: ``(N, C, h, w)``.
        matrix: ``(N, 3, 3)`` float64, from pixels of the input to pixels of the output; ``None`` where none tells.
        taps: ``(N, h·w)`` int64: which pixel of the input each pixel of the output shows, -1 where it is filled.
    """

    images: Tensor
    matrix: Floats | None
    taps: Tensor


def movable(transform: Any) -> frozenset[str]:
    """Return the roles that Kornia's AugmentationSequential can move with a transform's images; none for others.

    Rigid augmentations move all. RandomElasticTransform moves masks, but leaves boxes and keypoints behind.
    """
    found: set[str] = {"masks", "boxes", "keypoints"}
    for part in _augmentations(transform):
        if part is None:
            return frozenset()
        names = _bases(part)
        if "RandomElasticTransform" in names:
            found &= {"masks"}
        elif "RigidAffineAugmentationBase2D" not in names:
            return frozenset()
    return frozenset(found)


class Probing:
    """Moves the targets of a batch with the pixels of a Kornia transform.

    Args:
        targets: columns by any name.
        options: how they are moved.
    """

    def __init__(self, targets: Mapping[Any, Target], options: TargetOptions) -> None:
        self._targets, self._options = dict(targets), options
        n = max(len(target.value) for target in targets.values())
        self._rigid = any(target.roles - {"masks"} for target in targets.values())
        self._matrix = np.tile(np.eye(3), (n, 1, 1))
        self._before, self._after = np.ones((n, 2), np.int32), np.ones((n, 2), np.int32)
        self._read: dict[Any, list[Any]] = {
            name: [None] * n for name, target in targets.items() if "masks" in target.roles
        }

    def run(self, transform: Any, part: Rows) -> Rows:
        """Return a part transformed, and remember where its pixels have gone."""
        images = part.images
        batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        results = [probe(transform, batch, rigid=self._rigid) for batch in batches if len(batch)]
        rows = iter(part.rows.tolist())
        for batch, probed in zip(batches, results, strict=False):
            for i, row in zip(range(len(batch)), rows, strict=False):
                self._before[row], self._after[row] = batch.shape[-2:], probed.images.shape[-2:]
                if probed.matrix is not None:
                    self._matrix[row] = probed.matrix[i]
                for name, column in self._read.items():
                    column[row] = self._masks_read(self._targets[name], row, probed, i)
        if not results:
            return part
        return part._replace(
            images=results[0].images if isinstance(images, Tensor) else stack([r.images[0] for r in results])
        )

    def columns(self) -> dict[Any, Target]:
        """Return the columns."""
        warp = Warp.from_matrix(np.linalg.inv(self._matrix), self._after, source=self._before)
        columns = {}
        for name, target in self._targets.items():
            value = stacked(self._read[name], target.value) if name in self._read else target.value
            columns[name] = Target(target.role, move(Target(target.role, value), warp, self._options, masks=False))
        return columns

    def _masks_read(self, target: Target, row: int, probed: Probed, i: int) -> Any:
        """Return an entry with all masks in it as image ``i`` of a batch shows them."""
        size = (int(probed.images.shape[-2]), int(probed.images.shape[-1]))

        def read(mask: Tensor) -> Tensor:
            plain = tv.plain(mask)
            planes = plain.reshape(1, -1, plain.shape[-2] * plain.shape[-1])
            shown = read_taps(planes, probed.taps[i : i + 1].to(plain.device), self._options.mask_fill)
            return tv.like(shown.reshape(*plain.shape[:-2], *size), mask, size)

        found = entry(target.value, row)
        if isinstance(found, Mapping):
            return {key: read(value) if role_of(key, value) == "Mask" else value for key, value in found.items()}
        return read(found)


def probe(transform: Any, images: Tensor, *, rigid: bool) -> Probed:
    """Run a transform on images and find out where pixels have gone.

    Args:
        transform: for which :func:`movable` is not empty.
        images: ``(N, C, H, W)`` floating, at least one.
        rigid: whether to find the matrix.

    Raises:
        ValueError: points that have gone where no homography takes them, images of 2²⁴ pixels or more.
    """
    import kornia.augmentation as K

    n, _, height, width = images.shape
    if height * width + _FIRST > 1 << 24:
        raise ValueError(f"images beside targets must have less than 2**24 pixels in Kornia, got {height}×{width}")
    numbers = torch.arange(_FIRST, height * width + _FIRST, dtype=torch.float32, device=images.device)
    points = _PROBES * (width, height) - 0.5
    given = [numbers.to(images.dtype).reshape(1, 1, height, width).repeat(n, 1, 1, 1)]
    if rigid:
        given.append(torch.from_numpy(points).to(images.device, images.dtype).repeat(n, 1, 1))
    sequence = K.AugmentationSequential(transform, data_keys=["input", "mask", "keypoints"][: 1 + len(given)])
    moved, shown, *gone = sequence(images, *given)
    taps = (shown.reshape(n, -1).round().to(torch.int64) - _FIRST).clamp(min=-1)
    name = type(transform).__name__
    matrix = _homographies(points, gone[0].detach().cpu().double().numpy(), name) if rigid else None
    return Probed(moved, matrix, taps)


def _augmentations(transform: Any) -> Iterator[Any]:
    """Yield the augmentations that a transform is composed of, ``None`` for what is not known."""
    names = _bases(transform)
    if "_AugmentationBase" in names:
        yield transform
    elif "OperationBase" in names:
        yield from _augmentations(transform.op)
    elif names & _SEQUENCES and not names & {"PatchSequential", "VideoSequential"}:
        for child in transform.children():
            yield from _augmentations(child)
    else:
        yield None


def _bases(transform: Any) -> set[str]:
    """Return the names of Kornia's classes among a transform's."""
    return {base.__name__ for base in type(transform).__mro__ if base.__module__.split(".")[0] == "kornia"}


def _homographies(source: Floats, moved: Floats, name: str) -> Floats:
    """Return the maps ``(N, 3, 3)`` that take probes ``(6, 2)`` to where each sample has them, ``(N, 6, 2)``."""
    x, y = source[:4].T
    u, v = moved[:, :4, 0], moved[:, :4, 1]
    one, zero = np.ones_like(u), np.zeros_like(u)
    x, y = x * one, y * one
    upper = np.stack((x, y, one, zero, zero, zero, -u * x, -u * y), axis=-1)
    lower = np.stack((zero, zero, zero, x, y, one, -v * x, -v * y), axis=-1)
    found = np.linalg.solve(np.concatenate((upper, lower), axis=1), np.concatenate((u, v), axis=1)[..., None])
    matrix = np.concatenate((found[..., 0], np.ones((len(moved), 1))), axis=1).reshape(-1, 3, 3)
    homogeneous = np.concatenate((source, np.ones((len(source), 1))), axis=1) @ matrix.swapaxes(1, 2)
    apart = np.abs(homogeneous[..., :2] / homogeneous[..., 2:] - moved).max(initial=0.0)
    if not apart <= _TOLERANCE:
        raise ValueError(f"{name} moves keypoints where no homography takes them: they are {apart:.3g} pixels apart")
    return matrix
