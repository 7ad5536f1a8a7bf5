"""Photographs as tar shards, and a classifier trained from them: ``python examples/photographs_shards.py FOLDER``.

FOLDER holds images, a subfolder for each class, or such trees ``train`` and ``test``. They are written as shards, to
the byte as they are, streamed back in a new order each epoch, cropped and jittered as whole batches, and a small
network is trained on them. Half-way through it is stopped, and goes on in a new loader from a saved state.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, ShardStream, fuse, write_shards
from torchaug_gen.evaluation.classifier import SmallClassifier
from torchaug_gen.shards.files import ImageFiles

SIDE, BATCH_SIZE = 64, 64


def ragged(items: list[tuple[Tensor, int]]) -> tuple[list[Tensor], Tensor]:
    """Return photographs of their own sizes as a list, and their labels."""
    return [image for image, _ in items], torch.tensor([label for _, label in items])


def loader(shards: Path, *, workers: int, train: bool) -> Any:
    """Return batches of float images (N, 3, 64, 64) and labels out of shards."""
    stream = ShardStream(shards, fields=("jpg;png;webp", "cls"), shuffle=1000 if train else 0, batch_size=BATCH_SIZE)
    inner = DataLoader(stream, BATCH_SIZE, num_workers=workers, collate_fn=ragged)
    crop: list[nn.Module] = [v2.Resize(SIDE), v2.CenterCrop(SIDE)]
    if train:
        crop = [v2.RandomResizedCrop(SIDE, scale=(0.4, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2)]
    return AugmentedLoader(inner, fuse(crop), seed=0)


def endless(batches: Any) -> Iterator[Any]:
    """Go through a loader again and again."""
    while True:
        yield from batches


def fit(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterator[Any],
) -> list[float]:
    """Take a training step on each batch, and return the losses."""
    losses = []
    for images, labels in batches:
        loss = nn.functional.cross_entropy(net(images), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def accuracy(net: nn.Module, batches: Any) -> float:
    """Return the share of images that a network is right about."""
    right = [net(images).argmax(1) == labels for images, labels in batches]
    return float(torch.cat(right).float().mean())


def main() -> None:
    """Write, train, stop, go on, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, a subfolder for each class, or such trees train and test")
    parser.add_argument("--out", type=Path, help="folder for the shards (default: one that is removed at the end)")
    parser.add_argument("--steps", type=int, default=480, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(arguments.folder, arguments.out or Path(scratch), arguments.steps, arguments.workers)


def run(folder: Path, out: Path, steps: int, workers: int) -> float:
    """Do what this example is about, and return the accuracy."""
    trees = {name: folder / name for name in ("train", "test") if (folder / name).is_dir()} or {"train": folder}
    begin = time.perf_counter()
    for name, tree in trees.items():
        files = ImageFiles(tree)
        shards = write_shards(files, out / name, samples_per_shard=500, shuffle=name == "train", workers=workers)
        print(f"{name}: {len(files)} photographs of {len(files.classes)} classes in {len(shards)} shards")
    torch.manual_seed(0)
    net = SmallClassifier((3, SIDE, SIDE), len(files.classes))
    optimiser = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    batches = loader(out / "train", workers=workers, train=True)
    print(f"an epoch has {len(batches)} batches of {BATCH_SIZE}, read in {workers or 'no'} workers")
    losses = fit(net, optimiser, schedule, islice(endless(batches), steps // 2))
    state = json.dumps(batches.state_dict())
    print(f"stopped after step {steps // 2}; the loader's state has {len(state)} bytes")
    batches = loader(out / "train", workers=workers, train=True)
    batches.load_state_dict(json.loads(state))
    losses += fit(net, optimiser, schedule, islice(endless(batches), steps - steps // 2))
    tenth = max(len(losses) // 10, 1)
    print(f"loss {sum(losses[:tenth]) / tenth:.2f} at first, {sum(losses[-tenth:]) / tenth:.2f} in the end")
    name = list(trees)[-1]
    score = accuracy(net.eval(), loader(out / name, workers=workers, train=False))
    print(f"right on {score:.1%} of the {name} photographs, after {time.perf_counter() - begin:.0f} s")
    return score


if __name__ == "__main__":
    main()
