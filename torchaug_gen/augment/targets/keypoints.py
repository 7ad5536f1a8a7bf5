"""Keypoints: moved with their images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.warp import HORIZON, Warp

ORIGINS = ("centre", "corner")
OUTSIDE = ("keep", "drop", "flag")


class WarpedKeypoints(NamedTuple):
    """What has become of keypoints.

    Attributes:
        points: as they came; lists lose rows where ``outside="drop"``.
        inside: whether each point shows in the output: shaped as the points came, without their last dimension.
    """

    points: Any
    inside: Any


def warp_keypoints(
    points: Tensor | Sequence[Tensor], warp: Warp, *, origin: str = "centre", outside: str = "keep"
) -> WarpedKeypoints:
    """Move keypoints as the images are moved.

    A point is the index of a pixel, as in COCO and Kornia: (0, 0) is the *centre* of the first one, and a flip moves x
    to w - 1 - x. torchvision does the same on flips, but takes (0, 0) as the *corner* of the first pixel when it
    resizes, rotates or distorts; ``origin="corner"`` does so everywhere, and then a flip moves x to w - x.

    Args:
        points: ``(N, …, D)``, or N of ``(…, D)``; plain tensors or torchvision's ``KeyPoints``, on any device. D is 2,
            x and y, or 3, x, y and COCO's visibility: points with visibility 0 are not labelled and become (0, 0, 0).
            Integers are rounded.
        warp: of N samples.
        origin: ``"centre"`` or ``"corner"``.
        outside: what becomes of points that the output does not show. ``"keep"``: they keep their place out there.
            ``"drop"``: lists lose their rows; in one tensor, where no row can go, they become zeros. ``"flag"``: x, y
            and visibility become 0. A point behind the horizon of a perspective has no place and becomes zeros.

    Returns:
        Points, and which of them show. ``"drop"`` on a list on CUDA waits for the number of rows.

    Raises:
        ValueError: other shapes, an unknown option, ``"flag"`` without a visibility, ``"drop"`` where an item of a list
            is not ``(M, D)``.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, got {origin!r}")
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, got {outside!r}")
    if len(points) != len(warp):
        raise ValueError(f"keypoints must be {len(warp)}, one tensor for each image, got {len(points)}")
    if isinstance(points, Tensor):
        _check(points, outside, None)
        rows = np.arange(len(points)).repeat(int(np.prod(points.shape[1:-1])))
        moved, inside = _moved(tv.plain(points).reshape(-1, points.shape[-1]), rows, warp, origin, outside)
        inside = inside.reshape(points.shape[:-1])
        return WarpedKeypoints(tv.like(moved.reshape(points.shape), points, warp.size), inside)
    return _warp_list(list(points), warp, origin, outside)


def _warp_list(points: list[Tensor], warp: Warp, origin: str, outside: str) -> WarpedKeypoints:
    for n, item in enumerate(points):
        _check(item, outside, n)
    results: list[Tensor] = list(points)
    shown: list[Tensor] = list(points)
    groups: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for n, item in enumerate(points):
        groups.setdefault((item.shape[-1], item.dtype, item.device), []).append(n)
    for (columns, _, _), members in groups.items():
        counts = [points[n].numel() // columns for n in members]
        flat = torch.cat([tv.plain(points[n]).reshape(-1, columns) for n in members])
        moved, inside = _moved(flat, np.repeat(members, counts), warp, origin, outside)
        for n, piece, show in zip(members, moved.split(counts), inside.split(counts), strict=True):
            shape = points[n].shape
            remaining = piece[show] if outside == "drop" else piece.reshape(shape)
            results[n], shown[n] = tv.like(remaining, points[n], warp.size), show.reshape(shape[:-1])
    return WarpedKeypoints(results, shown)


def _check(points: Any, outside: str, n: int | None) -> None:
    where = "" if n is None else f" at {n}"
    shape = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
    least = 2 if n is None else 1
    if not isinstance(points, Tensor) or points.ndim < least or points.shape[-1] not in (2, 3):
        raise ValueError(f"keypoints must be (…, 2) or (…, 3), got {shape}{where}")
    if outside == "flag" and points.shape[-1] != 3:
        raise ValueError(f'outside="flag" needs keypoints (…, 3) with a visibility, got {shape}{where}')
    if outside == "drop" and n is not None and points.ndim != 2:
        raise ValueError(f'outside="drop" needs keypoints (M, 2) or (M, 3), got {shape}{where}')


def _moved(points: Tensor, rows: Any, warp: Warp, origin: str, outside: str) -> tuple[Tensor, Tensor]:
    """Move points ``(B, D)`` that belong to samples ``rows``, ``(B,)``; return also which of them show."""
    shift = 0.5 if origin == "centre" else 0.0
    places = points[:, :2].to(torch.float64) + shift
    places = torch.cat((places, torch.ones_like(places[:, :1])), dim=1)

    def upload(array: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(points.device, non_blocking=True)

    moved = (upload(warp.edge_inverse[rows]) @ places[:, :, None])[..., 0]
    ahead = moved[:, 2] >= HORIZON
    moved = moved[:, :2] / torch.where(ahead, moved[:, 2], 1.0)[:, None]
    height, width = warp.size
    x, y = moved.unbind(1)
    inside = ahead & (x >= 0) & (y >= 0) & (x < width) & (y < height)
    inside &= ((upload(warp.frames[rows]) @ places[:, :, None])[..., 0] >= 0).all(1)
    labelled = points[:, 2] != 0 if points.shape[1] == 3 else torch.ones_like(inside)
    inside &= labelled
    result = torch.where((ahead & labelled)[:, None], moved - shift, 0.0)
    result = (result if points.is_floating_point() else result.round()).to(points.dtype)
    if points.shape[1] == 3:
        result = torch.cat((result, points[:, 2:]), dim=1)
    return (result if outside == "keep" else result.masked_fill(~inside[:, None], 0)), inside
