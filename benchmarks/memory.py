"""How much memory does it take to augment batches? ``python -m benchmarks.memory``.

Each way to bring batches of 64 uint8 images of 256² to float32 of 224² (random resized crop, flip, rotation, colour
jitter, normalize) runs in a process of its own, over two epochs of 256 images with one thread. The figure is the most
memory that the process held at a time, less what it held after a batch of two images, by which everything is imported,
compiled and loaded; it is what batches take in a worker or a training process, beyond its data and its libraries.

The limit is one batch as it comes and one as it is delivered: whoever augments it whole holds both at once. Ratios say
nothing where the difference of two figures may be next to nothing, so there are none.
"""

import argparse
import functools
import gc
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, plots, resident
from benchmarks.rounds import FEWEST, take_turns

_ITEMS, _BATCH = 256, 64
_SIDE, _OUTPUT = 256, 224
# One batch of uint8, and one of float32.
LIMIT = {"what": "a batch before and after", "value": _BATCH * 3 * (_SIDE**2 + 4 * _OUTPUT**2) / 2**20}
Loader = DataLoader[Any]


def steps() -> list[nn.Module]:
    """Return the transforms, as torchvision's modules."""
    from torchvision.transforms import v2

    geometry = [v2.RandomResizedCrop(224, antialias=False), v2.RandomHorizontalFlip(), v2.RandomRotation(15)]
    return [*geometry, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]


def kornia_in_the_loop(inner: Loader) -> Iterable[Tensor]:
    """Yield batches augmented by Kornia, each image with its own parameters."""
    import kornia.augmentation as K

    geometry = [K.RandomResizedCrop((224, 224)), K.RandomHorizontalFlip(), K.RandomRotation(15.0)]
    half = torch.full((3,), 0.5)
    chain = K.AugmentationSequential(*geometry, K.ColorJitter(0.4, 0.4, 0.4, 0.1), K.Normalize(half, half))
    for (images,) in inner:
        yield chain(images.float() / 255)


def torchvision_per_sample(inner: Loader) -> Iterable[Tensor]:
    """Yield batches augmented by torchvision, image by image, as in a data set."""
    from torchvision.transforms import v2

    chain = v2.Compose([*steps(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    for (images,) in inner:
        yield torch.stack([chain(image) for image in images])


def fused(inner: Loader, **options: Any) -> Iterable[Tensor]:
    """Yield batches of the wrapped loader."""
    from torchvision.transforms import v2

    from torchaug_gen import AugmentedLoader

    chain = [*steps(), v2.Normalize([0.5] * 3, [0.5] * 3)]
    for (images,) in AugmentedLoader(inner, chain, fields={"images": 0}, **options):
        yield images


def not_augmented(inner: Loader) -> Iterable[Tensor]:
    """Yield batches as they are."""
    for (images,) in inner:
        yield images


WAYS: dict[str, Callable[[Loader], Iterable[Tensor]]] = {
    "bare loader, uint8": not_augmented,
    "wrapped, no prefetch": lambda inner: fused(inner, prefetch=0),
    "wrapped": fused,
    "Kornia in the loop": kornia_in_the_loop,
    "torchvision, per sample": torchvision_per_sample,
}


def hold(name: str, epochs: int) -> float:
    """Return the most MiB that this process holds while it goes through the epochs, beyond what it held before."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (_ITEMS, 3, _SIDE, _SIDE), dtype=torch.uint8, generator=generator)
    inner = DataLoader(TensorDataset(images), _BATCH, shuffle=True)
    _consume(WAYS[name](DataLoader(TensorDataset(images[:2]), 2)))
    gc.collect()
    resident.forget_most()
    before = resident.now()
    for _ in range(epochs):
        _consume(WAYS[name](inner))
    return resident.most() - before


def _consume(batches: Iterable[Tensor]) -> None:
    for _ in batches:
        pass


def measured(name: str, epochs: int) -> float:
    """Return the MiB that a way takes, in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--hold", name, "--epochs", str(epochs)]
    root = Path(__file__).resolve().parent.parent
    return float(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=FEWEST, help="processes of each (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="that each goes through (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two processes of each, one epoch, saved to results/quick")
    parser.add_argument("--hold", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        print(hold(arguments.hold, arguments.epochs))
        return
    rounds, epochs = (2, 1) if arguments.quick else (arguments.rounds, arguments.epochs)
    ways = {name: functools.partial(measured, name, epochs) for name in WAYS}
    case = common.case(take_turns(ways, rounds=rounds, warm_up=False), baseline=None, limit=LIMIT, better="lower")
    print(common.table(case["summary"], unit="MiB"))
    settings = {"rounds": rounds, "epochs": epochs, "items": _ITEMS, "batch_size": _BATCH}
    results = {"beyond data and libraries": case}
    path = common.save("memory", settings, results, unit="MiB", threads=1, quick=arguments.quick)
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


if __name__ == "__main__":
    main()
