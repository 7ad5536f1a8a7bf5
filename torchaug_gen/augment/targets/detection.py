"""Detection: dicts of boxes, labels, masks and keypoints, one for each image, as torchvision's models take them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.boxes import WarpedBoxes, box_growth, take_rows, warp_boxes
from torchaug_gen.augment.targets.keypoints import warp_keypoints
from torchaug_gen.augment.targets.masks import Spread, warp_masks
from torchaug_gen.augment.targets.warp import Warp

# What fields are called, in lower case, where no class of torchvision's tells what they are.
NAMES = {
    "Mask": {"mask", "masks", "segmentation", "segmentation_mask"},
    "BoundingBoxes": {"box", "boxes", "bbox", "bboxes"},
    "KeyPoints": {"keypoint", "keypoints", "landmark", "landmarks"},
}

# Fields of boxes; other lengths than the number of boxes are a mistake.
_OF_BOXES = {"labels", "box_labels", "class_labels", "category_ids", "iscrowd", "area", "areas", "scores"}

# Fields of an image, whose length may be the number of boxes by chance.
_OF_IMAGE = {"image_id", "size", "orig_size", "image_size", "canvas_size", "file_name", "height", "width"}


def warp_detection(
    items: Sequence[Mapping[str, Any]],
    warp: Warp,
    *,
    format: str = "xyxy",
    min_area: float = 0.0,
    min_visibility: float = 0.0,
    fill: float = 0,
    origin: str = "centre",
    rows: Sequence[str] | None = None,
    spread: Spread | None = None,
    masks: bool = True,
) -> list[dict[str, Any]]:
    """Move all that dicts hold, and leave out what belongs to boxes that are gone.

    Masks, boxes and keypoints are known by torchvision's classes or by their names. ``area`` is the number of a mask's
    pixels where there are instance masks; otherwise it grows with the map at the box's centre, and shrinks by the
    share of the box that is cut off. Keypoints with a visibility that leave the output get visibility 0.

    Args:
        items: N dicts with ``boxes`` ``(M, 4)``, ``masks`` ``(M, H, W)``, or ``(H, W)`` for a mask of the whole image,
            ``keypoints`` ``(M, K, 2)`` or ``(M, K, 3)``, and anything else.
        warp: of N samples.
        format: see :func:`warp_boxes`.
        min_area: see :func:`warp_boxes`.
        min_visibility: see :func:`warp_boxes`.
        fill: see :func:`warp_masks`.
        origin: see :func:`warp_keypoints`.
        rows: the names of fields with a row for each box. ``None``: all that have in every image as many rows as the
            image has boxes, but for what is known to belong to the image, such as ``image_id``.
        spread: see :func:`warp_masks`.
        masks: whether to move masks. Where they were moved before, they only lose the rows of boxes that are gone.

    Returns:
        N dicts with the same keys; fields that belong to the image stay as they are.

    Raises:
        ValueError: another number of dicts than samples, more than one field of boxes, fields that do not fit, such as
            ``labels`` with more or fewer rows than boxes.
    """
    if len(items) != len(warp):
        raise ValueError(f"items must be {len(warp)}, one dict for each image, got {len(items)}")
    results = [dict(item) for item in items]
    name = box_field(items)
    boxes = [item[name] for item in items] if name is not None else []
    if name is not None:
        aligned = fields_of_boxes(items, name, rows)
        # What a dict lacks is stood in for by rows of nothing.
        fields = {field: [item.get(field, [None] * len(item[name])) for item in items] for field in aligned}
        warped = warp_boxes(boxes, warp, format=format, min_area=min_area, min_visibility=min_visibility, fields=fields)
        for n, result in enumerate(results):
            result[name] = warped.boxes[n]
            result.update({field: values[n] for field, values in warped.fields.items() if field in result})
        if "area" in aligned:
            _scale_areas(results, boxes, warped, warp, format)
    if masks:
        _move_masks(results, warp, fill, spread)
    _move_keypoints(results, warp, origin)
    if name is not None and "area" in aligned:
        _count_areas(results)
    return results


def kind_of(name: Any) -> str | None:
    """Return which of torchvision's classes a field would be by its name."""
    return next((kind for kind, names in NAMES.items() if str(name).lower() in names), None)


def role_of(name: Any, value: Any) -> str | None:
    """Return which of torchvision's classes a field is or, by its name, might be."""
    return tv.kind(value) or kind_of(name) if isinstance(value, Tensor) else None


def _fields(items: Sequence[Mapping[str, Any]], role: str) -> list[str]:
    """Return the names of all fields of a role, in the order in which they come."""
    return list(dict.fromkeys(name for item in items for name, value in item.items() if role_of(name, value) == role))


def box_field(items: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the field of boxes, if there is one, or raise where there are several."""
    found = _fields(items, "BoundingBoxes")
    if len(found) > 1:
        raise ValueError(f"items must have one field of boxes, got {' and '.join(map(repr, found))}")
    for n, item in enumerate(items):
        if found and found[0] not in item:
            raise ValueError(f"items must all have {found[0]!r}, got {', '.join(map(repr, item)) or 'nothing'} at {n}")
    return found[0] if found else None


def fields_of_boxes(items: Sequence[Mapping[str, Any]], boxes: str, rows: Sequence[str] | None) -> list[str]:
    """Return the names of fields with a row for each box."""
    if rows is not None:
        missing = [name for name in rows if not all(name in item for item in items)]
        if missing:
            raise ValueError(f"rows must name fields of all items, got {', '.join(map(repr, missing))}")
        return [name for name in rows if name != boxes]
    names = dict.fromkeys(name for item in items for name in item if name != boxes)
    _check_rows(items, boxes, [name for name in names if str(name).lower() in _OF_BOXES])
    return [
        name
        for name in names
        if str(name).lower() not in _OF_IMAGE
        if all(_has_rows(item, name, len(item[boxes])) for item in items if name in item)
    ]


def _check_rows(items: Sequence[Mapping[str, Any]], boxes: str, names: Sequence[str]) -> None:
    """Raise where a field that belongs to boxes has other rows, and could not lose those of boxes that are gone."""
    for name in names:
        for n, item in enumerate(items):
            count, found = len(item[boxes]), rows_in(item.get(name))
            if found not in (None, count):
                raise ValueError(f"{name!r} must have a row for each of {count} boxes at {n}, got {found}")


def rows_in(value: Any) -> int | None:
    """Return how many rows a field has, or ``None`` where it is a single value."""
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _has_rows(item: Mapping[str, Any], name: str, count: int) -> bool:
    value = item[name]
    # The height of a mask of the whole image may be the number of boxes by chance.
    of_image = role_of(name, value) == "Mask" and value.ndim == 2
    return not of_image and rows_in(value) == count


def _move_masks(results: list[dict[str, Any]], warp: Warp, fill: float, spread: Spread | None) -> None:
    for name in _fields(results, "Mask"):
        having = [n for n, result in enumerate(results) if name in result]
        masks = [results[n][name] for n in having]
        for n, moved in zip(having, warp_masks(masks, warp.take(having), fill=fill, spread=spread), strict=True):
            results[n][name] = moved


def _move_keypoints(results: list[dict[str, Any]], warp: Warp, origin: str) -> None:
    for name in _fields(results, "KeyPoints"):
        for n, result in enumerate(results):
            if name not in result:
                continue
            outside = "flag" if result[name].shape[-1] == 3 else "keep"
            points = [result[name]]
            result[name] = warp_keypoints(points, warp.take([n]), origin=origin, outside=outside).points[0]


def _scale_areas(
    results: list[dict[str, Any]], boxes: list[Tensor], warped: WarpedBoxes, warp: Warp, format: str
) -> None:
    """Multiply areas by the map's growth at the centre of the box that was, and the share that shows."""
    for n, result in enumerate(results):
        growth = box_growth(boxes[n], warp.edge_inverse[n], format)
        factor = take_rows(growth * warped.visible[n], warped.keep[n])
        area = result.get("area")
        if isinstance(area, Tensor):
            scaled = area.to(torch.float64) * factor.to(area.device)
            result["area"] = (scaled if area.is_floating_point() else scaled.round()).to(area.dtype)
        elif isinstance(area, np.ndarray):
            result["area"] = (area * factor.cpu().numpy()).astype(area.dtype)
        elif area is not None:
            result["area"] = type(area)(value * share for value, share in zip(area, factor.tolist(), strict=True))


def _count_areas(results: list[dict[str, Any]]) -> None:
    """Set areas to the pixels of instance masks, where there are any."""
    for name in _fields(results, "Mask"):
        for result in results:
            masks, area = result.get(name), result.get("area")
            if isinstance(masks, Tensor) and masks.ndim == 3 and isinstance(area, Tensor) and len(masks) == len(area):
                result["area"] = (tv.plain(masks) != 0).sum((1, 2)).to(area.device, area.dtype)
