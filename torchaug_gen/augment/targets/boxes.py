"""Boxes: moved with their images, clipped, and left out where too little of them remains."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.warp import Floats, Warp

FORMATS = ("xyxy", "xywh", "cxcywh")


class WarpedBoxes(NamedTuple):
    """What has become of boxes.

    Attributes:
        boxes: as they came: ``(N, M, 4)`` or a list, with zeros for boxes that are gone; beside ``fields`` a list of
            those that remain.
        keep: which boxes remain: ``(N, M)`` bool, or a list of ``(M_i,)`` bool.
        fields: what was passed along, without the rows of boxes that are gone.
        visible: the share of each box that remains in the image, in [0, 1], shaped as ``keep``.
    """

    boxes: Any
    keep: Any
    fields: dict[str, list[Any]]
    visible: Any


def warp_boxes(
    boxes: Tensor | Sequence[Tensor],
    warp: Warp,
    *,
    format: str = "xyxy",
    min_area: float = 0.0,
    min_visibility: float = 0.0,
    fields: Mapping[str, Sequence[Any]] | None = None,
) -> WarpedBoxes:
    """Move boxes as the images are moved.

    A box becomes the smallest upright one around its four moved corners, clipped to the output. Coordinates are those
    of torchvision and COCO: pixel i covers [i, i + 1), so a box around all of an image is (0, 0, w, h). What a pass
    does not show, or a perspective puts behind the horizon, is cut off before.

    Args:
        boxes: ``(N, M, 4)``, or N of ``(M_i, 4)``; plain tensors or torchvision's ``BoundingBoxes``, on any device.
            Integers are rounded.
        warp: of N samples.
        format: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; ``BoundingBoxes`` know theirs.
        min_area: a box with less area in the output, in pixels, is gone.
        min_visibility: a box of whose moved area a smaller share lies in the output is gone, in [0, 1]. Boxes
            without any area are gone in any case.
        fields: for lists of boxes, what else has one row for each box, by name: N tensors, arrays or lists. These and
            the boxes lose the rows of boxes that are gone; ``{}`` says that there is nothing else. ``None``: what
            belongs to the boxes is not known here, so that every row stays and boxes that are gone become zeros:
            labels that somebody else holds still fit.

    Returns:
        Boxes, which ones remain, and fields. To take rows out of lists, their number must be known to the host: on CUDA
        that waits. Without ``fields`` nothing waits.

    Raises:
        ValueError: other shapes, rotated boxes, an unknown format, a limit out of range, fields that do not fit.
    """
    if not min_area >= 0:
        raise ValueError(f"min_area must be at least 0, got {min_area}")
    if not 0 <= min_visibility <= 1:
        raise ValueError(f"min_visibility must be in [0, 1], got {min_visibility}")
    if len(boxes) != len(warp):
        raise ValueError(f"boxes must be {len(warp)}, one tensor for each image, got {len(boxes)}")
    if isinstance(boxes, Tensor):
        _format(boxes, format)
        if fields:
            raise ValueError("fields lose rows only beside a list of boxes; beside (N, M, 4) use the returned keep")
        if boxes.ndim != 3 or boxes.shape[2] != 4:
            raise ValueError(f"boxes must be (N, M, 4), or a list of (M, 4), got {tuple(boxes.shape)}")
        n, m, _ = boxes.shape
        moved = _moved(tv.plain(boxes).reshape(-1, 4), np.arange(n).repeat(m), warp, _format(boxes, format))
        keep, visible = _kept(moved, min_area, min_visibility)
        result = moved.boxes.masked_fill(~keep[:, None], 0).reshape(n, m, 4)
        return WarpedBoxes(tv.like(result, boxes, warp.size), keep.reshape(n, m), {}, visible.reshape(n, m))
    return _warp_list(list(boxes), warp, format, (min_area, min_visibility), fields)


def _warp_list(
    boxes: list[Tensor],
    warp: Warp,
    format: str,
    limits: tuple[float, float],
    fields: Mapping[str, Sequence[Any]] | None,
) -> WarpedBoxes:
    flat = [_as_rows(item, n) for n, item in enumerate(boxes)]
    counts = [len(item) for item in flat]
    _check_fields(fields or {}, counts)
    moved, kept, visible = list(flat), list(flat), list(flat)
    # Boxes of one format, dtype and device are moved together.
    groups: dict[tuple[str, torch.dtype, torch.device], list[int]] = {}
    for n, item in enumerate(flat):
        groups.setdefault((_format(boxes[n], format), item.dtype, item.device), []).append(n)
    for (group_format, _, _), members in groups.items():
        rows = np.repeat(members, [counts[n] for n in members])
        all_moved = _moved(torch.cat([flat[n] for n in members]), rows, warp, group_format)
        keep, share = _kept(all_moved, *limits)
        sizes = [counts[n] for n in members]
        columns = ((moved, all_moved.boxes.masked_fill(~keep[:, None], 0)), (kept, keep), (visible, share))
        for column, found in columns:
            for n, piece in zip(members, found.split(sizes), strict=True):
                column[n] = piece
    changed = [] if fields is None else [n for n, keep in enumerate(kept) if not keep.all()]
    remaining = {name: list(values) for name, values in (fields or {}).items()}
    for n in changed:
        moved[n] = moved[n][kept[n]]
        for values in remaining.values():
            values[n] = take_rows(values[n], kept[n])
    wrapped = [tv.like(item, like, warp.size) for item, like in zip(moved, boxes, strict=True)]
    return WarpedBoxes(wrapped, kept, remaining, visible)


def box_growth(boxes: Tensor, edge_inverse: Floats, format: str) -> Tensor:
    """Return by how much a map grows areas at the centres of boxes ``(M, 4)``: ``(M,)`` float64.

    Args:
        boxes: see :func:`warp_boxes`.
        edge_inverse: ``(3, 3)``: from source to output, in edge coordinates.
        format: see :func:`warp_boxes`.
    """
    corners = _to_corners(_as_rows(boxes, 0).to(torch.float64), _format(boxes, format))
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    bottom = _upload(edge_inverse[2], boxes.device)
    # The determinant of a homography's Jacobian is that of its matrix over w³.
    w = centres @ bottom[:2] + bottom[2]
    return (float(np.linalg.det(edge_inverse)) / w**3).abs()


def take_rows(value: Any, keep: Tensor) -> Any:
    """Return the rows of a tensor, array, list or tuple for which ``keep``, ``(M,)`` bool, is true."""
    if isinstance(value, Tensor):
        taken = tv.plain(value)[keep.to(value.device)]
        return tv.like(taken, value, getattr(value, "canvas_size", (0, 0)))
    if isinstance(value, np.ndarray):
        return value[keep.cpu().numpy()]
    return type(value)([item for item, stays in zip(value, keep.tolist(), strict=True) if stays])


def _as_rows(item: Any, n: int) -> Tensor:
    if not isinstance(item, Tensor):
        raise ValueError(f"boxes must be tensors (M, 4), got {type(item).__name__} at {n}")
    _format(item, FORMATS[0])
    # Data sets often make torch.tensor([]) of an image without boxes.
    rows = tv.plain(item).reshape(0, 4) if item.shape == (0,) else tv.plain(item)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"boxes must be (M, 4), got {tuple(item.shape)} at {n}")
    return rows


def _check_fields(fields: Mapping[str, Sequence[Any]], counts: list[int]) -> None:
    for name, values in fields.items():
        if len(values) != len(counts):
            raise ValueError(f"field {name!r} must have {len(counts)} entries, one for each image, got {len(values)}")
        for n, (value, count) in enumerate(zip(values, counts, strict=True)):
            if len(value) != count:
                raise ValueError(f"field {name!r} must have a row for each of {count} boxes at {n}, got {len(value)}")


def _format(boxes: Any, format: str) -> str:
    if tv.kind(boxes) == "BoundingBoxes":
        format = boxes.format.value.lower()
        if format not in FORMATS:
            raise ValueError(
                f"boxes must be upright, {', '.join(name.upper() for name in FORMATS)}, got {format.upper()}: pass "
                "the upright ones around them, or their corners as keypoints"
            )
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return format


class _Moved(NamedTuple):
    """Boxes ``(B, 4)`` in their own format and dtype, their area, and the area they had before they were clipped."""

    boxes: Tensor
    area: Tensor
    full: Tensor


def _kept(moved: _Moved, min_area: float, min_visibility: float) -> tuple[Tensor, Tensor]:
    visible = (moved.area / moved.full.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    return (moved.area > 0) & (moved.area >= min_area) & (visible >= min_visibility), visible


def _moved(boxes: Tensor, rows: npt.NDArray[Any], warp: Warp, format: str) -> _Moved:
    """Move boxes ``(B, 4)`` that belong to samples ``rows``, ``(B,)``."""
    corners = _to_corners(boxes.to(torch.float64), format)
    # A box that a data set has turned inside out stays gone: its sides would change signs on a flip.
    real = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    left, top, right, bottom = corners.unbind(1)
    polygon = torch.stack((left, top, right, top, right, bottom, left, bottom), dim=1).reshape(-1, 4, 2)
    polygon = torch.cat((polygon, torch.ones_like(polygon[..., :1])), dim=2)
    inverse = _upload(warp.edge_inverse[rows], boxes.device)
    whole, before = _cut(polygon, [] if warp.horizon is None else [warp.horizon], rows)
    shown, inside = _cut(whole, list(np.moveaxis(warp.frames, 1, 0)), rows)
    alive = real & before & inside
    height, width = warp.size
    limit = torch.tensor([width, height, width, height], dtype=torch.float64)
    clipped = _bounds(shown, inverse).clamp(min=0).minimum(limit.to(boxes.device, non_blocking=True))
    result = _from_corners(clipped, format)
    result = result if boxes.is_floating_point() else result.round()
    area = _area(_to_corners(result, format))
    return _Moved(result.to(boxes.dtype), torch.where(alive, area, 0.0), _area(_bounds(whole, inverse)))


def _bounds(polygon: Tensor, inverse: Tensor) -> Tensor:
    """Return left, top, right, bottom of polygons ``(B, V, 3)`` once they are moved."""
    moved = polygon @ inverse.mT
    places = moved[..., :2] / moved[..., 2:]
    return torch.cat((places.amin(1), places.amax(1)), dim=1)


def _cut(polygon: Tensor, planes: list[Floats], rows: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Cut polygons ``(B, V, 3)`` of samples ``rows`` off by planes ``(N, 3)``; return also whether anything is left."""
    alive = torch.ones(len(polygon), dtype=torch.bool, device=polygon.device)
    if not planes:
        return polygon, alive
    pulled = _upload(np.stack(planes)[:, rows], polygon.device)
    # Boxes are seldom cut off. Where nothing waits for the answer, it is asked for first.
    if polygon.device.type == "cpu" and bool((polygon @ pulled[..., None] >= 0).all()):
        return polygon, alive
    for plane in pulled:
        polygon, some = _clipped(polygon, plane)
        alive = alive & some
    return polygon, alive


def _clipped(polygon: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
    """Cut convex polygons off where ``plane · vertex < 0``.

    Sutherland and Hodgman, "Reentrant polygon clipping" (CACM 17, 1974), for all polygons at once: a convex one gains
    at most one vertex, and slots that stay free repeat the first.

    Args:
        polygon: ``(B, V, 3)`` homogeneous vertices in order.
        plane: ``(B, 3)``.

    Returns:
        ``(B, V + 1, 3)`` vertices, and ``(B,)`` bool: whether anything is left.
    """
    distance = (polygon @ plane[:, :, None])[..., 0]
    following, after = polygon.roll(-1, 1), distance.roll(-1, 1)
    inside = distance >= 0
    crosses = inside != (after >= 0)
    share = distance / torch.where(crosses, distance - after, 1.0)
    cuts = polygon + share[..., None] * (following - polygon)
    slots = torch.stack((polygon, cuts), dim=2).flatten(1, 2)
    used = torch.stack((inside, crosses), dim=2).flatten(1, 2)
    order = used.to(torch.uint8).argsort(stable=True, dim=1, descending=True)[:, : polygon.shape[1] + 1]
    clipped = slots.gather(1, order[..., None].expand(-1, -1, 3))
    filled = torch.arange(order.shape[1], device=polygon.device) < used.sum(1, keepdim=True)
    return torch.where(filled[..., None], clipped, clipped[:, :1]), used.any(1)


def _to_corners(boxes: Tensor, format: str) -> Tensor:
    if format == "xyxy":
        return boxes
    place, extent = boxes[:, :2], boxes[:, 2:]
    begin = place if format == "xywh" else place - extent / 2
    return torch.cat((begin, begin + extent), dim=1)


def _from_corners(corners: Tensor, format: str) -> Tensor:
    if format == "xyxy":
        return corners
    begin, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return torch.cat((begin if format == "xywh" else begin + extent / 2, extent), dim=1)


def _area(corners: Tensor) -> Tensor:
    extent = (corners[:, 2:] - corners[:, :2]).clamp(min=0)
    return extent[:, 0] * extent[:, 1]


def _upload(array: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
