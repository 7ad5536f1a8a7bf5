"""The images of an experiment: a stock to draw training sets from, and held-out ones for every cell alike."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.evaluation.twins import MOST_TWINS, find_twins
from torchaug_gen.synthesis.training.data import TrainingImages, read_images

_HELD_OUT = (("test",), ("validation", "valid", "val"))
# Without a tree of held-out images, this share of each class is held out.
_TEST_SHARE = 0.3
# A class of one image has no other to interpolate with, nor a spread to fit.
_FEWEST = 2


@dataclass(frozen=True, eq=False)
class ExperimentData:
    """What an experiment trains and tests on; no image is in both.

    Attributes:
        name: what the images are.
        stock: what training sets are drawn from.
        test: what every classifier is scored on, the splits one behind the other.
        splits: how many of the test images are of which split.
        notes: what the reader should know, in sentences.
    """

    name: str
    stock: LabelledImages
    test: LabelledImages
    splits: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for all images and labels."""
        return images_digest(self.stock, self.test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.stock.images.shape[1:]
        return channels, height, width

    @property
    def side(self) -> int:
        """The longer side in pixels."""
        return max(self.image_shape[1:])


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The training images of one size and seed.

    Attributes:
        train: what classifiers and synthesizers are trained on.
        extra: further real images, as many for each class as synthetic items are delivered for each real one, or all
            that are left; for the arm that shows what real images would have gained.
    """

    train: LabelledImages
    extra: LabelledImages


def images_digest(*sets: LabelledImages) -> str:
    """Return 16 hexadecimal digits that stand for all images and labels of some sets."""
    found = hashlib.blake2b(digest_size=8)
    for part in sets:
        for tensor in (part.images, part.labels):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def load_folder(folder: str | Path, *, image_size: int = 64) -> ExperimentData:
    """Read images from a tree with one subfolder per class, or from trees ``train`` and ``test`` below a folder.

    Held-out trees are ``test`` and ``validation`` (or ``valid``, ``val``), all of which are tested on, since nothing
    is tuned on them. Without one, 30 % of each class are held out.

    Args:
        folder: where the images are.
        image_size: side in pixels that they are resized to cover, antialiased, and then cropped to about the centre.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no size, fewer than two classes, unreadable images, held-out images of a class that cannot be
            trained, and trees that share more than a few images; a few are left out of the test.
    """
    folder = Path(folder)
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if not folder.is_dir():
        raise FileNotFoundError(f"DATA must be a folder of images, but there is no folder {folder}")
    trees = [tree for names in _HELD_OUT if (tree := _first(folder, names)) is not None]
    if not _holds_classes(folder / "train") or not trees:
        root = folder / "train" if _holds_classes(folder / "train") else folder
        return from_images(_read(root, image_size), name=folder.name)
    stock = _in_memory(_read(folder / "train", image_size))
    notes: list[str] = []
    read = [(_renamed(_read(tree, image_size), stock.classes, tree), f"images in {tree}") for tree in trees]
    parts = [_apart(images, stock, where, notes) for images, where in read]
    test = LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]), stock.classes
    )
    splits = {tree.name: len(part) for tree, part in zip(trees, parts, strict=True)}
    return ExperimentData(folder.name, stock, test, splits, tuple(notes))


def from_images(images: TrainingImages, *, name: str, test: TrainingImages | None = None) -> ExperimentData:
    """Return images in memory for an experiment; without test images, 30 % of each class are held out.

    Raises:
        ValueError: images without labels, fewer than two classes, a class too small to be divided, or test images of
            which more than a few are training images.
    """
    stock = _in_memory(images)
    notes: list[str] = []
    if test is not None:
        held_out = _apart(_in_memory(test), stock, "test images", notes)
        return ExperimentData(name, stock, held_out, {"test": len(held_out)}, tuple(notes))
    rows: list[Tensor] = []
    for label, count in enumerate(stock.counts):
        if count < _FEWEST + 1:
            raise ValueError(f"class {stock.classes[label]} must have at least {_FEWEST + 1} images, got {count}")
        members = (stock.labels == label).nonzero()[:, 0]
        order = rng.permutation(0, "experiment.test", 0, count, position=label)
        rows.append(members[order[: max(1, int(_TEST_SHARE * count))]])
    chosen = torch.zeros(len(stock), dtype=torch.bool)
    chosen[torch.cat(rows)] = True
    rest = stock.take(~chosen)
    held_out = _apart(stock.take(chosen), rest, "held-out images", notes)
    notes.append(f"Tested on {len(held_out)} images that were held out, {_TEST_SHARE:.0%} of each class.")
    return ExperimentData(name, rest, held_out, {"held out": len(held_out)}, tuple(notes))


def training_set(
    data: ExperimentData, per_class: int, *, seed: int, imbalance: float = 1.0, synthetic_fraction: float = 0.3
) -> TrainingSet:
    """Draw the training images of one seed; those of a smaller size are part of those of a larger one.

    Args:
        data: where from.
        per_class: how many of each class, or of the commonest; a class that has fewer gives what it has.
        seed: decides which.
        imbalance: see :class:`torchaug_gen.evaluation.experiment.settings.ExperimentSettings`.
        synthetic_fraction: decides how many further images there are for the arm with extra real ones.
    """
    classes = len(data.stock.classes)
    ranks = rng.permutation(seed, "experiment.rarity", 0, classes).tolist()
    train, extra = [], []
    for label, count in enumerate(data.stock.counts):
        members = (data.stock.labels == label).nonzero()[:, 0]
        order = members[rng.permutation(seed, "experiment.subset", 0, count, position=label)]
        wanted = max(_FEWEST, round(per_class * imbalance ** (-ranks[label] / max(1, classes - 1))))
        more = math.ceil(wanted * synthetic_fraction / (1 - synthetic_fraction))
        train.append(order[:wanted])
        # A class that has no more repeats what it has.
        extra.append(order[wanted : wanted + more] if count > wanted else order[:wanted])
    return TrainingSet(*(data.stock.take(torch.cat(rows).sort().values) for rows in (train, extra)))


def _read(tree: Path, size: int) -> TrainingImages:
    return read_images(tree, image_size=(size, size))


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if _holds_classes(folder / name)), None)


def _holds_classes(tree: Path) -> bool:
    return tree.is_dir() and any(child.is_dir() for child in tree.iterdir())


def _in_memory(images: TrainingImages) -> LabelledImages:
    if images.labels is None or images.num_classes is None or images.num_classes < 2:
        raise ValueError(f"an experiment needs images of at least two classes, got {images.num_classes or 'no labels'}")
    classes = images.classes or tuple(map(str, range(images.num_classes)))
    return LabelledImages(images.images, images.labels, classes)


def _apart(held_out: LabelledImages, stock: LabelledImages, where: str, notes: list[str]) -> LabelledImages:
    """Return held-out images that are no training images."""
    twins = find_twins(held_out.images, stock.images)
    count = int(twins.sum())
    if count > MOST_TWINS * len(held_out):
        raise ValueError(
            f"{where} must be others than those to train on, but {count} of {len(held_out)} are among them"
        )
    if count:
        notes.append(f"{count} of the {where} are training images too, and were left out of the test.")
    return held_out.take(~twins)


def _renamed(images: TrainingImages, classes: Sequence[str], tree: Path) -> LabelledImages:
    """Return held-out images whose labels count the classes of the training images."""
    own = _in_memory(images)
    if unknown := sorted(set(own.classes) - set(classes)):
        raise ValueError(f"{tree} must hold the classes of the training images, got others too: {', '.join(unknown)}")
    number = torch.tensor([classes.index(name) for name in own.classes])
    return LabelledImages(own.images, number[own.labels], classes)
