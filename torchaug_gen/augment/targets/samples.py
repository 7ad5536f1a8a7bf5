"""Samples: the targets of a batch one image at a time, as torchvision's v2 transforms take them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.boxes import take_rows
from torchaug_gen.augment.targets.detection import box_field, fields_of_boxes, role_of, rows_in
from torchaug_gen.augment.targets.moving import KINDS, Target, entry, stacked

_EXACT = {torch.float32, torch.float64}


class Samples:
    """Takes columns of targets apart into samples, and puts transformed samples together again.

    Args:
        targets: columns by any name.
        box_format: of plain boxes.
    """

    def __init__(self, targets: Mapping[Any, Target], *, box_format: str) -> None:
        self._targets = dict(targets)
        self._format = box_format
        self._dicts = [name for name, target in targets.items() if target.is_dicts]
        self._bare = [name for name in targets if name not in self._dicts]
        self._done: dict[Any, list[Any]] = {name: [None] * len(target.value) for name, target in targets.items()}
        self._aligned = {name: self._fields_of_boxes(name) for name in self._dicts}

    def of(self, row: int, size: tuple[int, int]) -> list[dict[Any, Any]]:
        """Return what a transform takes beside image ``row``, of (h, w) ``size``: dicts of torchvision's classes.

        The user's own dicts come first, where torchvision looks for labels; bare columns share the last one.
        """
        dicts = [self._wrapped_dict(self._targets[name].value[row], size) for name in self._dicts]
        bare = {}
        for number, name in enumerate(self._bare):
            role, value = self._targets[name]
            key = role if role not in bare else f"{role}_{number}"
            bare[key] = self._wrapped(entry(value, row), KINDS[role], size)
        return [*dicts, bare] if bare else dicts

    def put(self, row: int, size: tuple[int, int], results: Sequence[Any], *, transform: Any) -> None:
        """Take over what a transform has made of :meth:`of` the same row and size.

        Raises:
            TypeError: a transform that returns something of another structure.
            ValueError: boxes removed without what belongs to them; plain boxes in another format.
        """
        given, name = len(self._dicts) + bool(self._bare), type(transform).__name__
        if len(results) != given or not all(isinstance(result, Mapping) for result in results):
            shown = ", ".join(type(result).__name__ for result in results)
            raise TypeError(f"{name} must return an image and {given} dicts of targets, got an image and {shown}")
        for column, result in zip(self._dicts, results, strict=False):
            original = self._targets[column].value[row]
            done = {key: self._unwrapped(value, original.get(key), name) for key, value in result.items()}
            self._done[column][row] = self._without_lost_rows(done, column, row, size, transform=transform)
        for column, value in zip(self._bare, results[-1].values() if self._bare else (), strict=True):
            original = entry(self._targets[column].value, row)
            self._done[column][row] = self._unwrapped(value, original, name)

    def columns(self, transform: Any) -> dict[Any, Target]:
        """Return the columns, as they came where every sample still fits into one tensor.

        Raises:
            ValueError: boxes or keypoints ``(N, M, …)`` of which some were removed.
        """
        return {name: Target(target.role, self._column(name, transform)) for name, target in self._targets.items()}

    def _column(self, name: Any, transform: Any) -> Any:
        (role, value), done = self._targets[name], self._done[name]
        if not isinstance(value, Tensor) or not done:
            return done
        if role != "masks" and any(item.shape != value.shape[1:] for item in done):
            raise ValueError(
                f"{type(transform).__name__} has removed some of the {role}, which leaves no tensor "
                f"{tuple(value.shape)}: pass a list, or dicts that hold what belongs to them"
            )
        return stacked(done, value)

    def _fields_of_boxes(self, name: Any) -> tuple[str | None, list[str]]:
        items = self._targets[name].value
        boxes = box_field(items)
        return boxes, [] if boxes is None else fields_of_boxes(items, boxes, None)

    def _wrapped_dict(self, item: Mapping[Any, Any], size: tuple[int, int]) -> dict[Any, Any]:
        roles = {key: role_of(key, value) for key, value in item.items()}
        return {key: self._wrapped(value, roles[key], size) for key, value in item.items()}

    def _wrapped(self, value: Any, kind: str | None, size: tuple[int, int]) -> Any:
        """Return a value in torchvision's class of its kind; coordinates are at least float32."""
        if kind is None:
            return value
        from torchvision import tv_tensors

        if kind == "Mask":
            # A mask of another size stands beside a synthetic image and holds one fill value.
            return tv_tensors.Mask(value if value.shape[-2:] == size else _refilled(value, size))
        plain = tv.plain(value)
        plain = plain if plain.dtype in _EXACT else plain.to(torch.float32)
        if tv.kind(value) is not None:
            return tv.like(plain, value, size)
        if kind == "BoundingBoxes":
            rows = plain.reshape(0, 4) if plain.shape == (0,) else plain
            if rows.ndim != 2 or rows.shape[1] != 4:
                raise ValueError(f"boxes must be (M, 4), got {tuple(rows.shape)}")
            return tv_tensors.BoundingBoxes(rows, format=self._format.upper(), canvas_size=size)
        if plain.ndim == 0 or plain.shape[-1] not in (2, 3):
            raise ValueError(f"keypoints must be (…, 2) or (…, 3), got {tuple(plain.shape)}")
        return tv_tensors.KeyPoints(plain[..., :2], canvas_size=size)

    def _unwrapped(self, result: Any, original: Any, name: str) -> Any:
        """Return a result in the class and dtype of what came in."""
        kind = tv.kind(result)
        if kind is None or not isinstance(original, Tensor):
            return result
        if kind == "Mask":
            return result if tv.kind(original) else tv.plain(result)
        plain = tv.plain(result)
        plain = plain if original.is_floating_point() else plain.round()
        plain = plain.to(original.dtype)
        if tv.kind(original):
            return tv.like(plain, result, result.canvas_size)
        if kind == "BoundingBoxes" and result.format.value.lower() != self._format:
            raise ValueError(
                f"{name} has made {result.format.value} of plain boxes, which nothing tells any more: pass "
                "torchvision's BoundingBoxes"
            )
        return _with_visibility(plain, original, name) if kind == "KeyPoints" else plain

    def _without_lost_rows(
        self, done: dict[Any, Any], name: Any, row: int, size: tuple[int, int], *, transform: Any
    ) -> dict[Any, Any]:
        """Remove what belongs to boxes that a transform has removed, or raise where it is not known which these are."""
        boxes, fields = self._aligned[name]
        original = self._targets[name].value[row]
        if boxes is None or boxes not in done or len(done[boxes]) == len(original[boxes]):
            return done
        before, after = len(original[boxes]), len(done[boxes])
        behind = [field for field in fields if field in done and rows_in(done[field]) not in (None, after)]
        if not behind:
            return done
        if type(transform).__name__ != "SanitizeBoundingBoxes":
            raise ValueError(
                f"{type(transform).__name__} has removed {before - after} of {before} boxes, but no rows of "
                f"{' and '.join(map(repr, behind))}: name these in its labels_getter"
            )
        valid = self._sane(self._wrapped(original[boxes], "BoundingBoxes", size), transform)
        return done | {field: take_rows(done[field], valid) for field in behind}

    @staticmethod
    def _sane(boxes: Any, transform: Any) -> Tensor:
        """Return which boxes SanitizeBoundingBoxes keeps."""
        from torchvision.transforms.v2 import functional as F

        limits = {"min_size": transform.min_size, "min_area": transform.min_area}
        valid: Tensor = F.sanitize_bounding_boxes(boxes, **limits)[1]
        return valid


def _refilled(mask: Tensor, size: tuple[int, int]) -> Tensor:
    fill = tv.plain(mask).flatten()[:1]
    return fill.expand(*mask.shape[:-2], *size) if len(fill) else mask.new_zeros(*mask.shape[:-2], *size)


def _with_visibility(points: Tensor, original: Tensor, name: str) -> Tensor:
    if original.shape[-1] == 2:
        return points
    if points.shape[:-1] != original.shape[:-1]:
        raise ValueError(
            f"{name} has removed keypoints, and it is not known which of their visibilities: pass keypoints (M, 2)"
        )
    return torch.cat((points, original[..., 2:]), dim=-1)
