"""A sheet of images beside what a transform makes of them in several epochs."""

import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.augment.fuse import FusedTransform
from torchaug_gen.pixels import convert

# Between a row's image and its views, in pixels.
_GAP = 8


def usual(side: int) -> list[Any]:
    """Return a crop to ``(side, side)``, a flip and a colour jitter, as photographs are mostly augmented."""
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop((side, side), scale=(0.35, 1), antialias=True)
    return [crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]


def named(where: str) -> Any:
    """Return the object that ``FILE.py:NAME`` or ``package.module:NAME`` stands for; the code there is run.

    Raises:
        ValueError: not of this form, or there is no such name.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: there is no such module.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise ValueError(f"transform must be FILE.py:NAME or package.module:NAME, got {where!r}")
    if place.endswith(".py"):
        scope = runpy.run_path(place)
    else:
        # As Python itself does for modules that lie where one stands.
        sys.path.insert(0, "")
        try:
            scope = vars(importlib.import_module(place))
        finally:
            sys.path.remove("")
    if name not in scope:
        raise ValueError(f"there is no {name!r} in {place}, which has {', '.join(_offered(scope)) or 'nothing'}")
    return scope[name]


def sheet(
    transform: FusedTransform, groups: Sequence[Sequence[Tensor]], path: Path, *, views: int, side: int, seed: int
) -> str:
    """Write the sheet as PNG, a row for each image, and return a remark on how values are shown, or nothing.

    Args:
        transform: what to show.
        groups: images ``(C, H, W)``, uint8 or floating in [0, 1]; those of a group share a kind, as real ones do.
        path: of the PNG.
        views: how many epochs to show.
        side: of a cell in pixels; images keep their shape in it.
        seed: of the transform.
    """
    from torchvision.io import write_png

    rows: list[tuple[Tensor, list[Tensor]]] = []
    for images in groups:
        epochs = [transform(list(images), seed=seed, epoch=epoch) for epoch in range(views)]
        rows += [(image, [epoch[index] for epoch in epochs]) for index, image in enumerate(images)]
    seen = torch.stack([torch.stack(view.float().aminmax()) for _, made in rows for view in made])
    low, high = float(seen[:, 0].min()), float(seen[:, 1].max())
    # What Normalize has moved is moved back as far as one can tell.
    moved = rows[0][1][0].is_floating_point() and (low < -1e-3 or high > 1 + 1e-3)
    lines = [
        torch.cat((_cell(image, side), torch.full((3, side, _GAP), 255, dtype=torch.uint8), *made), dim=2)
        for image, made in (
            (image, [_cell((view - low) / (high - low) if moved else view, side) for view in made])
            for image, made in rows
        )
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.cat(lines, dim=1), str(path))
    return f"; values from {low:.3g} to {high:.3g} are shown from black to white" if moved else ""


def _cell(image: Tensor, side: int) -> Tensor:
    """Return an image as RGB ``(3, side, side)`` uint8, whole, on white."""
    colours = convert(image, torch.float32).clamp(0, 1)
    colours = colours[:3] if len(colours) >= 3 else colours[:1].expand(3, -1, -1)
    scale = side / max(colours.shape[1:])
    size = [max(round(length * scale), 1) for length in colours.shape[1:]]
    fitted = torch.nn.functional.interpolate(colours[None], size, mode="bilinear", antialias=True)[0]
    cell = torch.full((3, side, side), 255, dtype=torch.uint8)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    cell[:, top : top + size[0], left : left + size[1]] = convert(fitted.clamp(0, 1), torch.uint8)
    return cell


def _offered(scope: dict[str, Any]) -> list[str]:
    """Return the names in a scope that may be transforms."""
    return [name for name, value in scope.items() if not name.startswith("_") and isinstance(value, list | tuple)] + [
        name for name, value in scope.items() if not name.startswith("_") and isinstance(value, torch.nn.Module)
    ]
