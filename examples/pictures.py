"""How the examples here draw what comes out of a loader."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import write_png
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

RED, GREEN, BLUE, YELLOW = "red", "lime", "deepskyblue", "yellow"


def shown(
    image: Tensor,
    *,
    boxes: Tensor | None = None,
    mask: Tensor | None = None,
    points: Tensor | None = None,
    colors: Sequence[str] = (YELLOW,),
) -> Tensor:
    """Return an image ``(C, H, W)``, floating in [0, 1], as uint8 RGB with its targets drawn on it."""
    picture = (image.clamp(0, 1) * 255).to(torch.uint8).expand(3, -1, -1)
    if mask is not None:
        picture = draw_segmentation_masks(picture, mask > 0, alpha=0.35, colors=colors[0])
    if boxes is not None and len(boxes):
        palette = [colors[index % len(colors)] for index in range(len(boxes))]
        picture = draw_bounding_boxes(picture, boxes, colors=palette, width=2)
    if points is not None:
        for index, point in enumerate(points):
            picture = draw_keypoints(picture, point[None, None], colors=colors[index % len(colors)], radius=4)
    return picture


def sheet(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Write rows of pictures ``(3, H, W)`` into a PNG file, all as high as the first, with white between them."""
    height, lines = rows[0][0].shape[1], []
    for row in rows:
        cells = [_fitted(picture, height) for picture in row]
        lines.append(torch.cat([torch.nn.functional.pad(cell, (0, 6, 0, 6), value=255) for cell in cells], dim=2))
    width = max(line.shape[2] for line in lines)
    lines = [torch.nn.functional.pad(line, (0, width - line.shape[2]), value=255) for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(torch.cat(lines, dim=1), str(path))


def _fitted(picture: Tensor, height: int) -> Tensor:
    if picture.shape[1] == height:
        return picture
    size = [height, round(picture.shape[2] * height / picture.shape[1])]
    fitted = torch.nn.functional.interpolate(picture[None].float(), size, mode="bilinear", antialias=True)
    return fitted[0].round().clamp(0, 255).to(torch.uint8)
