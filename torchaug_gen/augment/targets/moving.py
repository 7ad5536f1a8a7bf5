"""Moving: the targets of a batch, each by what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from torchaug_gen.augment.backends.cpu import spread
from torchaug_gen.augment.rows import Rows
from torchaug_gen.augment.tables import Tables
from torchaug_gen.augment.targets.boxes import warp_boxes
from torchaug_gen.augment.targets.detection import warp_detection
from torchaug_gen.augment.targets.keypoints import warp_keypoints
from torchaug_gen.augment.targets.masks import warp_masks
from torchaug_gen.augment.targets.warp import Warp


class Target(NamedTuple):
    """A column of the batch, one entry for each image, and its role: ``"masks"``, ``"boxes"`` or ``"keypoints"``."""

    role: str
    value: Any


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


def move(target: Target, warp: Warp, options: TargetOptions) -> Any:
    """Return a target where the images have gone; see :mod:`torchaug_gen.augment.targets` for each kind.

    Raises:
        ValueError: a target that does not fit its images or its role.
    """
    role, value = target
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        return warp_detection(
            value,
            warp,
            format=options.box_format,
            min_area=options.min_area,
            min_visibility=options.min_visibility,
            fill=options.mask_fill,
            origin=options.keypoint_origin,
            spread=spread,
        )
    if role == "masks":
        return warp_masks(value, warp, fill=options.mask_fill, spread=spread)
    if role == "boxes":
        area, visibility = options.min_area, options.min_visibility
        return warp_boxes(value, warp, format=options.box_format, min_area=area, min_visibility=visibility).boxes
    if role == "keypoints":
        moved = warp_keypoints(value, warp, origin=options.keypoint_origin, outside=options.keypoints_outside)
        return moved.points
    raise ValueError(f"a target must be masks, boxes or keypoints, got {role!r}")


def warp_of(parts: Sequence[Rows], tables: Sequence[Tables]) -> Warp:
    """Return the geometry of a whole batch in the order of its rows.

    Args:
        parts: what ran.
        tables: what each part's samples did.
    """
    warps = [Warp.of(table) for table in tables]
    order = np.argsort(np.concatenate([part.rows.numpy() for part in parts]))
    return Warp(*(np.concatenate([getattr(warp, f.name) for warp in warps])[order] for f in fields(Warp)))
