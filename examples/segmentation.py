"""Segmentation with masks: stained cells: ``python examples/segmentation.py``.

The photograph is scikit-image's ``immunohistochemistry``, a colon section in which a brown stain marks a protein; what
is brown is the mask. Masks move with the images, by the nearest pixel, and pixels that come from outside the image get
a value of their own, which the loss leaves out.
"""

import argparse
from pathlib import Path

import kornia.augmentation as K
import torch
from pictures import BLUE, GREEN, sheet, shown
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry
from skimage.filters import gaussian, threshold_otsu
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen import AugmentedLoader, fuse

SIDE, IGNORED = 128, 255


def tiles() -> tuple[Tensor, Tensor]:
    """Return the 16 tiles of the photograph, ``(16, 3, 128, 128)`` uint8, and their masks ``(16, 128, 128)`` int64."""
    photograph = immunohistochemistry()
    brown = gaussian(rgb2hed(photograph)[..., 2], 1)
    mask = torch.from_numpy(brown > threshold_otsu(brown)).long()
    image = torch.from_numpy(photograph).permute(2, 0, 1)
    cut = [(row, column) for row in range(0, 512, SIDE) for column in range(0, 512, SIDE)]
    images = torch.stack([image[:, row : row + SIDE, column : column + SIDE] for row, column in cut])
    return images, torch.stack([mask[row : row + SIDE, column : column + SIDE] for row, column in cut])


def network() -> nn.Module:
    """Return a small network that says for each pixel whether it is stained."""
    layers: list[nn.Module] = []
    for channels, dilation in ((3, 1), (16, 2), (16, 4)):
        layers += [nn.Conv2d(channels, 16, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 2, 1))


@torch.no_grad()
def overlap(net: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Return the intersection over union of what is found and what is stained."""
    found = net.eval()(images / 255).argmax(1)
    return float(((found == 1) & (masks == 1)).sum() / ((found == 1) | (masks == 1)).sum())


def drawn(image: Tensor, mask: Tensor) -> Tensor:
    """Return a tile, twice its size, with the stain in green and what the loss leaves out in blue."""
    picture = shown(shown(image, mask=mask == 1, colors=[GREEN]) / 255, mask=mask == IGNORED, colors=[BLUE])
    return picture.repeat_interleave(2, 1).repeat_interleave(2, 2)


def main() -> None:
    """Train on twelve tiles, test on four, and draw augmented tiles with their masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="passes over the twelve tiles (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("segmentation.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    images, masks = tiles()
    steps = K.AugmentationSequential(
        K.RandomAffine(180.0, scale=(0.8, 1.2), p=1.0),
        K.RandomHorizontalFlip(),
        # Stains differ from laboratory to laboratory.
        K.ColorJitter(0.2, 0.2, 0.2, 0.03),
        data_keys=["input", "mask"],
    )
    data, transform = TensorDataset(images[:12], masks[:12]), fuse(steps, mask_fill=IGNORED)
    fields = {"images": 0, "masks": 1}
    loader = AugmentedLoader(DataLoader(data, 6, shuffle=True), transform, fields=fields)
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(arguments.epochs):
        for batch, truth in loader:
            loss = nn.functional.cross_entropy(net.train()(batch), truth, ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"intersection over union on the four other tiles: {overlap(net, images[12:], masks[12:]):.2f}")
    rows = [[drawn(image / 255, mask) for image, mask in zip(images[:6], masks[:6], strict=True)]]
    for epoch in range(2):
        augmented = transform(images[:6], masks=masks[:6], epoch=epoch)
        rows.append([drawn(image, mask) for image, mask in zip(*augmented, strict=True)])
    sheet(rows, arguments.out)
    print(f"six tiles, and below each what two epochs see of it; stain green, ignored blue; in {arguments.out}")


if __name__ == "__main__":
    main()
