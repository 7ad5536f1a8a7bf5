"""Moving: the targets of a batch, each by what it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.augment.rows import Rows, sizes_by_row
from torchaug_gen.augment.tables import Tables
from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.boxes import warp_boxes
from torchaug_gen.augment.targets.detection import role_of, warp_detection
from torchaug_gen.augment.targets.keypoints import warp_keypoints
from torchaug_gen.augment.targets.masks import warp_masks
from torchaug_gen.augment.targets.warp import Warp

# torchvision's class of each role.
KINDS = {"masks": "Mask", "boxes": "BoundingBoxes", "keypoints": "KeyPoints"}


class Target(NamedTuple):
    """A column of the batch, one entry for each image, and its role: ``"masks"``, ``"boxes"`` or ``"keypoints"``."""

    role: str
    value: Any

    @property
    def is_dicts(self) -> bool:
        """Whether its entries are dicts."""
        value = self.value
        return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)

    @property
    def roles(self) -> frozenset[str]:
        """The roles of all that it holds."""
        if not self.is_dicts:
            return frozenset({self.role})
        kinds = {role_of(name, value) for item in self.value for name, value in item.items()}
        return frozenset(role for role, kind in KINDS.items() if kind in kinds)


@dataclass(frozen=True)
class TargetOptions:
    """How targets are moved.

    Attributes:
        box_format: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; torchvision's ``BoundingBoxes`` know theirs.
        min_area: a box with less area in the output, in pixels, is gone.
        min_visibility: a box of which a smaller share lies in the output is gone, in [0, 1].
        mask_fill: the value of masks where images are filled, such as the "ignore" class.
        keypoint_origin: ``"centre"`` or ``"corner"`` of the first pixel.
        keypoints_outside: ``"keep"``, ``"drop"`` or ``"flag"`` keypoints that the output does not show.
    """

    box_format: str = "xyxy"
    min_area: float = 0.0
    min_visibility: float = 0.0
    mask_fill: float = 0.0
    keypoint_origin: str = "centre"
    keypoints_outside: str = "keep"


def move(target: Target, warp: Warp, options: TargetOptions, *, masks: bool = True) -> Any:
    """Return a target where the images have gone; see :func:`settle`."""
    return settle(target, warp, options, masks=masks)[0]


def settle(target: Target, warp: Warp, options: TargetOptions, *, masks: bool = True) -> tuple[Any, Any]:
    """Return a target where the images have gone, and which boxes remain; see :mod:`torchaug_gen.augment.targets`.

    Boxes that are gone lose their rows, with all that belongs to them, in dicts. In tensors and lists of nothing but
    boxes they become zeros, so that labels kept elsewhere still fit.

    Args:
        target: one entry for each sample.
        warp: of N samples; where their outputs differ in size, tensors of masks become lists.
        options: how.
        masks: whether masks are moved, too.

    Returns:
        The target, and for bare boxes which remain, ``(N, M)`` bool or a list of ``(M_i,)``; ``None`` for all else.

    Raises:
        ValueError: a target that does not fit its images or its role.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, size in enumerate(warp.out_sizes.tolist()):
        groups.setdefault(tuple(size), []).append(n)
    # Too many or too few entries are an error that the warp of all samples names.
    if len(groups) < 2 or len(target.value) != len(warp):
        return _moved(target, warp, options, masks)
    value = target.value
    if isinstance(value, Tensor) and target.role == "masks":
        value = list(value)
    pieces: list[tuple[Any, Any]] = [(None, None)] * len(warp)
    for rows in groups.values():
        part, keep = _moved(Target(target.role, _taken(value, rows)), warp.take(rows), options, masks)
        for i, n in enumerate(rows):
            pieces[n] = part[i], None if keep is None else keep[i]
    whole, kept = ([piece[side] for piece in pieces] for side in (0, 1))
    whole = stacked(whole, value)
    keep = None if kept[0] is None else torch.stack(kept) if isinstance(value, Tensor) else kept
    return whole, keep


def entry(value: Any, row: int) -> Any:
    """Return an entry of a column, in torchvision's class where the column has one."""
    if isinstance(value, Tensor):
        return tv.like(tv.plain(value)[row], value, getattr(value, "canvas_size", (0, 0)))
    return value[row]


def stacked(entries: Any, original: Any) -> Any:
    """Return entries as the original column came: as one tensor where they fit, as a tuple, or else as a list."""
    if isinstance(entries, list) and isinstance(original, tuple):
        return tuple(entries)
    if isinstance(entries, Tensor) or not isinstance(original, Tensor):
        return entries
    if len({tuple(item.shape) for item in entries}) != 1:
        return entries
    whole = torch.stack([tv.plain(item) for item in entries])
    return tv.like(whole, original, getattr(entries[0], "canvas_size", (0, 0)))


def _taken(value: Any, rows: list[int]) -> Any:
    """Return the entries of a column that ``rows`` names."""
    if isinstance(value, Tensor):
        return tv.like(tv.plain(value)[rows], value, getattr(value, "canvas_size", (0, 0)))
    return [value[n] for n in rows]


def _moved(target: Target, warp: Warp, options: TargetOptions, masks: bool) -> tuple[Any, Any]:
    role, value = target
    if target.is_dicts:
        dicts = warp_detection(
            value,
            warp,
            format=options.box_format,
            min_area=options.min_area,
            min_visibility=options.min_visibility,
            fill=options.mask_fill,
            origin=options.keypoint_origin,
            spread=_spread,
            masks=masks,
        )
        return dicts, None
    if role == "masks":
        return (warp_masks(value, warp, fill=options.mask_fill, spread=_spread) if masks else value), None
    if role == "boxes":
        area, visibility = options.min_area, options.min_visibility
        boxes = warp_boxes(value, warp, format=options.box_format, min_area=area, min_visibility=visibility)
        return boxes.boxes, boxes.keep
    if role == "keypoints":
        points = warp_keypoints(value, warp, origin=options.keypoint_origin, outside=options.keypoints_outside)
        return points.points, None
    raise ValueError(f"a target must be masks, boxes or keypoints, got {role!r}")


def _spread(n: int, work: Callable[[int, int], None]) -> None:
    # Imported where there is a mask to move: it compiles kernels.
    from torchaug_gen.augment.backends.cpu import spread

    spread(n, work)


def warp_of(parts: Sequence[Rows], tables: Sequence[Tables], results: Sequence[Rows] = ()) -> Warp:
    """Return the geometry of a whole batch in the order of its rows.

    Args:
        parts: what ran.
        tables: what each part's samples did.
        results: what came out; tells the size of a batch without samples.
    """
    warps = [Warp.of(table) for table in tables]
    otherwise = (*_sizes(results), (0, 0))[0]
    rows = np.concatenate([part.rows.numpy() for part in parts])
    if len(warps) == 1 and (rows[1:] > rows[:-1]).all():
        return replace(warps[0], otherwise=otherwise)
    order = np.argsort(rows)
    matrix, passes, *rest = (
        np.concatenate(arrays)[order] for arrays in zip(*(warp.arrays for warp in warps), strict=True)
    )
    sizes, padding, canvas, canvas_padding = rest
    return Warp(matrix, passes, sizes, padding, canvas, canvas_padding, otherwise)


def still(parts: Sequence[Rows]) -> Warp:
    """Return the geometry of a batch that stays where it is."""
    return replace(Warp.still(sizes_by_row(parts)), otherwise=(*_sizes(parts), (0, 0))[0])


def _sizes(parts: Sequence[Rows]) -> list[tuple[int, int]]:
    return [(part.images.shape[2], part.images.shape[3]) for part in parts if isinstance(part.images, Tensor)]
