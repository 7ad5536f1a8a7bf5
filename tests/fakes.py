"""Data sets and synthesizers whose images say what they are, so that tests can read a batch like a list of names."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from torchaug_gen import AugmentedLoader
from torchaug_gen.synthesis.synthesizer import Synthesizer

SIZE = (3, 4, 4)
CLASSES = 5
REAL = 255  # what the second channel of a real image holds; that of a synthetic one holds its epoch


def image(index, size=SIZE):
    """Return the uint8 image of a real item."""
    pixels = torch.zeros(size, dtype=torch.uint8)
    pixels[0], pixels[1], pixels[2] = index % 256, REAL, index // 256
    return pixels


class Coded(Dataset):
    """A map-style data set of ``(image, label)`` whose images spell their index; records what is loaded."""

    def __init__(self, length=23, classes=CLASSES, bad=()):
        self.length, self.num_classes, self.bad, self.loaded = length, classes, set(bad), []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.loaded.append(int(index))
        if index in self.bad:
            raise KeyError(f"item {index} is bad")
        return image(index), int(index) % self.num_classes


class CodedStream(IterableDataset):
    """The same items as a stream that workers share."""

    def __init__(self, length=23, sized=False):
        self.length = length
        if sized:
            self.__class__ = _SizedStream

    def __iter__(self):
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(start, self.length, step):
            yield image(index), index % CLASSES


class _SizedStream(CodedStream):
    def __len__(self):
        return self.length


class Drawn(Synthesizer):
    """A synthesizer whose images spell (position, epoch, label)."""

    def __init__(self, size=SIZE, num_classes=CLASSES):
        super().__init__(size, num_classes=num_classes)

    def draw(self, labels, *, seed, epoch, positions):
        pixels = torch.zeros(len(positions), *self.image_shape, dtype=torch.uint8)
        pixels[:, 0] = (positions % 256)[:, None, None]
        if self.image_shape[0] > 1:
            pixels[:, 1] = epoch
        if labels is not None and self.image_shape[0] > 2:
            pixels[:, 2] = labels[:, None, None]
        return pixels


class Returns:
    """A synthesizer of somebody else's, which returns what it is told to."""

    def __init__(self, images, labels=None, num_classes=CLASSES):
        self.images, self.labels, self.num_classes = images, labels, num_classes

    def sample(self, n=None, *, labels=None, seed=0, epoch=0, positions=None):
        n = len(positions)
        return self.images[:n], self.labels if self.labels is None else self.labels[:n]


class Listed(list):
    """A plain list of batches that says how many items one holds."""

    def __init__(self, batches, batch_size=None, drop_last=False):
        super().__init__(batches)
        if batch_size is not None:
            self.batch_size = batch_size
        self.drop_last = drop_last


def codes(images):
    """Return the three numbers that each image spells."""
    if isinstance(images, list | tuple):
        images = torch.stack([one[:, :1, :1] for one in images])
    pixels = images if images.dtype is torch.uint8 else images.double().mul(255).round()
    return [tuple(row) for row in pixels[:, :3, 0, 0].long().tolist()]


def real_ids(images):
    """Return the indices of the real images, in order."""
    return [low + 256 * high for low, mark, high in codes(images) if mark == REAL]


def drawn(images):
    """Return (position, epoch, label) of the synthetic images, in order."""
    return [code for code in codes(images) if code[1] != REAL]


def synthetic_rows(images):
    return [code[1] != REAL for code in codes(images)]


def coded_batches(*sizes):
    """Return batches ``(images, labels)`` of these sizes, counting up."""
    first, batches = 0, []
    for size in sizes:
        rows = range(first, first + size)
        batches.append(
            (
                torch.stack([image(row) for row in rows]) if size else torch.zeros(0, *SIZE, dtype=torch.uint8),
                torch.tensor([row % CLASSES for row in rows], dtype=torch.int64),
            )
        )
        first += size
    return batches


def mixed(loader, fraction=0.3, **options):
    """Return a loader that mixes with :class:`Drawn`."""
    options.setdefault("synthesizer", Drawn())
    return AugmentedLoader(loader, synthetic_fraction=fraction, **options)


def stock(length=23, batch_size=4, **options):
    """Return a stock ``DataLoader`` over :class:`Coded`."""
    return DataLoader(Coded(length), batch_size, **options)


def same(first: Any, second: Any) -> bool:
    """Say whether two structures hold the same bits in the same types."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype is second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, dict | UserDict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "__dict__"):
        return same(vars(first), vars(second))
    return bool(first == second)


class Pair(NamedTuple):
    image: Any
    label: Any
    synthetic: Any = None


@dataclass
class Record:
    image: Any
    label: Any
    synthetic: Any = None


@dataclass(frozen=True)
class Frozen:
    image: Any
    label: Any
    synthetic: Any = None


# How each structure is made of images and labels, and where they are found in it again.
STRUCTURES = {
    "tuple": (lambda x, y: (x, y), lambda b: (b[0], b[1])),
    "list": (lambda x, y: [x, y], lambda b: (b[0], b[1])),
    "dict": (lambda x, y: {"image": x, "label": y}, lambda b: (b["image"], b["label"])),
    "OrderedDict": (lambda x, y: OrderedDict(pixel_values=x, labels=y), lambda b: (b["pixel_values"], b["labels"])),
    "UserDict": (lambda x, y: UserDict(img=x, target=y), lambda b: (b["img"], b["target"])),
    "NamedTuple": (Pair, lambda b: (b.image, b.label)),
    "dataclass": (Record, lambda b: (b.image, b.label)),
    "frozen": (Frozen, lambda b: (b.image, b.label)),
    "nested": (
        lambda x, y: {"a": {"image": x}, "b": {"c": {"label": y}}},
        lambda b: (b["a"]["image"], b["b"]["c"]["label"]),
    ),
    "dict beside": (lambda x, y: (x, {"label": y}), lambda b: (b[0], b[1]["label"])),
}
