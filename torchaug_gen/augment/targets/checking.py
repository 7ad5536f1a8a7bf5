"""Checking: whether targets can be moved with their images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from torchaug_gen.augment.rows import Rows, sizes_by_row
from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.detection import kind_of, role_of
from torchaug_gen.augment.targets.moving import KINDS, Target


def check_targets(parts: Sequence[Rows], targets: Mapping[Any, Target]) -> None:
    """Raise ``ValueError`` where targets cannot be moved, or would be moved to wrong places.

    Masks, and the canvases of torchvision's boxes and keypoints, must have the size of their images; those of synthetic
    rows hold nothing but a fill value, and may have any.

    Args:
        parts: the real rows, then the synthetic ones, where there are any.
        targets: columns of all rows.
    """
    if not targets:
        return
    n = sum(len(part.rows) for part in parts)
    sizes = dict(zip(sorted(parts[0].rows.tolist()), sizes_by_row(parts[:1]).tolist(), strict=True))
    for target in targets.values():
        role, value = target
        if len(value) != n:
            raise ValueError(f"{role} must be {n}, one for each image, got {len(value)}")
        _check_types(target)
        for row, size in sizes.items():
            for what, found in _sizes(role, value, row):
                if found != size:
                    raise ValueError(f"{what} must have the (h, w) of their images, got {found} for {size} at {row}")


def _check_types(target: Target) -> None:
    """Raise where a target is no tensor: nothing else is moved, and nothing may be left behind in silence."""
    if isinstance(target.value, Tensor):
        return
    for n, item in enumerate(target.value):
        if not target.is_dicts:
            if not isinstance(item, Tensor):
                raise ValueError(f"{target.role} must be tensors, got {type(item).__name__} at {n}")
            continue
        for name, field in item.items():
            if field is not None and not isinstance(field, Tensor) and kind_of(name):
                raise ValueError(
                    f"{name!r} must be a tensor to move with its image, got {type(field).__name__} at {n}: make one of "
                    "it, or rename what is not to be moved"
                )


def _sizes(role: str, value: Any, row: int) -> Iterator[tuple[str, list[int]]]:
    """Yield what in an entry of a column has a size, and which."""
    if isinstance(value, Tensor):
        fields = [(KINDS[role], value)]
    elif isinstance(value[row], Mapping):
        fields = [(kind, field) for name, field in value[row].items() if (kind := role_of(name, field))]
    else:
        fields = [(KINDS[role], value[row])]
    for kind, field in fields:
        if not isinstance(field, Tensor):
            continue
        if kind == "Mask" and field.ndim >= 2:
            yield "masks", list(field.shape[-2:])
        elif tv.kind(field) in ("BoundingBoxes", "KeyPoints"):
            yield f"canvases of {type(field).__name__}", list(field.canvas_size)  # type: ignore[attr-defined]
