"""Scenes of a car's cameras, with boxes and what is near: ``python examples/driving.py``.

No driving scene is free to ship, so scikit-image's stereo pair of a motorcycle stands for one. Each camera's image is a
scene of its own, with boxes around the vehicle and its wheels, and a mask of what is near, which the disparity of the
two tells. Boxes and masks move with the image. The disparity itself would not do: an image that is cropped and enlarged
shows things nearer than its numbers say. What augmentation a vehicle's cameras bear is narrower than usual: the ground
stays below, since no car drives on its roof, and light changes a lot.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from pictures import BLUE, GREEN, RED, YELLOW, sheet, shown
from skimage.data import stereo_motorcycle
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, fuse

SIZE = (240, 356)
CLASSES = ("motorcycle", "rear wheel", "front wheel", "headlight")
COLOURS = (YELLOW, GREEN, RED, BLUE)
# In the left camera's image: x0, y0, x1, y1.
# Disparities of the motorcycle, in pixels; the wall behind it has less.
NEAR = 30
BOXES = torch.tensor([[88.0, 95, 684, 454], [118, 235, 290, 405], [506, 265, 684, 454], [498, 118, 562, 190]])


class Cameras(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images of the left and the right camera, with boxes, and a mask of what is near."""

    def __init__(self) -> None:
        left, right, disparity = stereo_motorcycle()
        self._images = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in (left, right)]
        # Where the other camera sees nothing, there is none: 0.
        self._disparity = torch.from_numpy(disparity).nan_to_num(0, 0, 0)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        boxes, near = BOXES.clone(), self._disparity > NEAR
        if index == 1:
            # The right camera sees things further left, by their disparity.
            boxes[:, 0::2] -= torch.stack([self._within(box) for box in BOXES])[:, None]
            near = self._seen_right(near)
        target = {"boxes": boxes, "labels": torch.arange(len(boxes)), "masks": near[None].to(torch.uint8)}
        return self._images[index], target

    def _seen_right(self, near: Tensor) -> Tensor:
        rows, columns = near.nonzero(as_tuple=True)
        shifted = columns - self._disparity[rows, columns].round().long()
        seen = torch.zeros_like(near)
        seen[rows[shifted >= 0], shifted[shifted >= 0]] = True
        # Pixels that the left camera does not see leave gaps a pixel or two wide.
        return nn.functional.max_pool2d(seen[None].float(), 5, stride=1, padding=2)[0] > 0

    def _within(self, box: Tensor) -> Tensor:
        x0, y0, x1, y1 = box.int().tolist()
        values = self._disparity[y0:y1, x0:x1]
        # What is in front of the background.
        return values[values > 0].quantile(0.75)


def collate(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return images and targets as lists."""
    return [image for image, _ in items], [target for _, target in items]


def drawn(image: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return an image with its boxes, and what is near in colour."""
    tinted = shown(image, mask=target["masks"][0], colors=[YELLOW]) / 255
    return shown(tinted, boxes=target["boxes"], colors=[COLOURS[int(kind)] for kind in target["labels"]] or COLOURS)


def main() -> None:
    """Draw augmented scenes with boxes and masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3, help="how many to draw (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("driving.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    data = Cameras()
    # Half of a vehicle is one still, a tenth of it is not.
    steps = fuse(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.4, 1), ratio=(1.3, 1.7)),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(3, shear=3),
            v2.ColorJitter(brightness=0.6, contrast=0.4, saturation=0.3),
        ],
        min_visibility=0.3,
    )
    loader = AugmentedLoader(DataLoader(data, batch_size=2, collate_fn=collate), steps)
    rows = [[drawn(image / 255, target) for image, target in data]]
    for _ in range(arguments.epochs):
        images, targets = next(iter(loader))
        rows.append([drawn(*pair) for pair in zip(images, targets, strict=True)])
    # All as high as an augmented one.
    sheet(rows[1:] + rows[:1], arguments.out)
    print(f"{arguments.epochs} epochs of two scenes, what is near in yellow, the originals below, in {arguments.out}")


if __name__ == "__main__":
    main()
