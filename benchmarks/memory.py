"""How much memory does it take to augment batches? ``python -m benchmarks.memory``.

Each way to bring batches of 64 uint8 images of 256² to float32 of 224² (random resized crop, flip, rotation, colour
jitter, normalize) runs in a process of its own, over three epochs of 512 images with one thread. The figure is the most
memory that the process held at a time, less what it held before it began, imports and data included; it is what a
worker or a training process needs beyond its data.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, plots

_ITEMS, _BATCH = 512, 64
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


BARE = "bare loader, uint8"
WAYS: dict[str, Callable[[Loader], Iterable[Tensor]]] = {
    BARE: not_augmented,
    "wrapped, no prefetch": lambda inner: fused(inner, prefetch=0),
    "wrapped": fused,
    "Kornia in the loop": kornia_in_the_loop,
    "torchvision, per sample": torchvision_per_sample,
}


def hold(name: str, epochs: int) -> dict[str, float]:
    """Return the MiB that this process holds with its data alone, and the most while it goes through the epochs."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (_ITEMS, 3, 256, 256), dtype=torch.uint8, generator=generator)
    inner = DataLoader(TensorDataset(images), _BATCH, shuffle=True)
    before = _status("VmRSS")
    for _ in range(epochs):
        for _ in WAYS[name](inner):
            pass
    return {"before": before, "most": _status("VmHWM")}


def _status(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def measured(name: str, epochs: int) -> float:
    """Return the MiB that a way takes, in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--hold", name, "--epochs", str(epochs)]
    root = Path(__file__).resolve().parent.parent
    told = json.loads(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    return float(told["most"] - told["before"])


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default: 5)")
    parser.add_argument("--epochs", type=int, default=3, help="that each goes through (default: 3)")
    parser.add_argument("--quick", action="store_true", help="two processes of each, one epoch; nothing is saved")
    parser.add_argument("--hold", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        print(json.dumps(hold(arguments.hold, arguments.epochs)))
        return
    rounds, epochs = (2, 1) if arguments.quick else (arguments.rounds, arguments.epochs)
    held: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name in WAYS:
            held[name].append(measured(name, epochs))
    case = common.case(held, baseline=BARE, better="lower")
    print(common.table(case["summary"], unit="MiB"))
    if not arguments.quick:
        settings = {"rounds": rounds, "epochs": epochs, "items": _ITEMS, "batch_size": _BATCH}
        path = common.save("memory", settings, {"beyond the data": case}, unit="MiB")
        print(f"written to {path}, drawn to {plots.plot(path)}")


if __name__ == "__main__":
    main()
