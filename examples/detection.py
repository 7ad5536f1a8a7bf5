"""Detection with boxes: coins on a table: ``python examples/detection.py``.

The photograph is scikit-image's ``coins``; a threshold finds the coins once, and that makes the labels.
Batches are what torchvision's detectors take: a list of images and a list of dicts. Boxes move with the images, and
those of which a crop leaves less than ``VISIBLE`` go, together with their labels.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from pictures import GREEN, RED, sheet, shown
from scipy import ndimage
from skimage.data import coins
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, fuse

SIDE = 192
# Large coins are of class 2, small ones of class 1; 0 is the background, as torchvision counts.
LARGE = 2100
# A sliver of a coin is none: this much of it must be seen.
VISIBLE = 0.3


class Coins(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Windows of the photograph that are as high as it is, with the coins that are seen in them.

    Attributes:
        boxes: ``(M, 4)`` of all coins, x0, y0, x1, y1.
    """

    def __init__(self) -> None:
        photograph = coins()
        found = ndimage.binary_opening(ndimage.binary_fill_holes(photograph > 110), iterations=3)
        regions = [region for region in regionprops(label(clear_border(found))) if region.area > 500]
        # Regions are told from row to row, boxes from column to column.
        self.boxes = torch.tensor([[x0, y0, x1, y1] for y0, x0, y1, x1 in (region.bbox for region in regions)]).float()
        self._labels = torch.tensor([1 + int(region.area > LARGE) for region in regions])
        self._image = torch.from_numpy(photograph)[None].expand(3, -1, -1)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        height = self._image.shape[1]
        left = index * (self._image.shape[2] - height) // (len(self) - 1)
        boxes = self.boxes - torch.tensor([left, 0, left, 0])
        inside = boxes.clamp(0, height)
        seen = (inside[:, 2] - inside[:, 0]) / (boxes[:, 2] - boxes[:, 0]) >= VISIBLE
        image = self._image[:, :, left : left + height]
        return image, {"boxes": inside[seen], "labels": self._labels[seen]}


def collate(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return images and targets as lists."""
    return [image for image, _ in items], [target for _, target in items]


def main() -> None:
    """Draw augmented windows with their boxes, and take a training step of a detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("detection.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    data = Coins()
    steps = [
        v2.RandomResizedCrop((SIDE, SIDE), scale=(0.4, 1)),
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(10),
        v2.ColorJitter(brightness=0.3, contrast=0.3),
    ]
    transform = fuse(steps, min_visibility=VISIBLE)
    loader = AugmentedLoader(DataLoader(data, 4, shuffle=True, collate_fn=collate), transform)
    images, targets = next(iter(loader))
    _step(images, targets)
    colours = {1: GREEN, 2: RED}

    def drawn(image: Tensor, target: dict[str, Tensor]) -> Tensor:
        return shown(image, boxes=target["boxes"], colors=[colours[int(kind)] for kind in target["labels"]] or [RED])

    rows = [[drawn(image / 255, target) for image, target in (data[0], data[7])]]
    rows += [[drawn(*pair) for pair in zip(*batch, strict=True)] for batch in loader]
    sheet(rows, arguments.out)
    print(f"{len(data.boxes)} coins; two windows, and what an epoch makes of all eight, in {arguments.out}")


def _step(images: Any, targets: list[dict[str, Tensor]]) -> None:
    """Take one step of an untrained SSDlite."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    losses = detector(list(images), targets)
    sum(losses.values()).backward()
    print("a detector's first losses:", ", ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items()))


if __name__ == "__main__":
    main()
