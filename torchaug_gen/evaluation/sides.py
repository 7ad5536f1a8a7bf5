"""Sides: the real images of an evaluation, what a synthesizer was trained on and what it was not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.evaluation.images import pair
from torchaug_gen.evaluation.twins import find_twins
from torchaug_gen.pixels import convert, outside
from torchaug_gen.shards.stream import ShardStream
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import TrainingImages, read_images

_TREES = ("test", "validation", "valid", "val")
_GREY = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L


@dataclass(frozen=True, eq=False)
class Sides:
    """The real images of an evaluation, all of the synthesizer's shape.

    Attributes:
        train: what it was trained on, with labels that mean its classes, or without where it has none.
        heldout: what it was not, or ``None``; images that are training images too are left out.
        data_name: where the first came from.
        heldout_name: where the others came from, or ``None``.
        notes: what was done to them, in sentences.
        twins: how many held-out images were left out since they are training images too.
    """

    train: TrainingImages
    heldout: TrainingImages | None
    data_name: str
    heldout_name: str | None
    notes: tuple[str, ...]
    twins: int = 0


def read_sides(data: Any, heldout: Any, synthesizer: Synthesizer, *, seed: int = 0) -> Sides:
    """Read the real images.

    Args:
        data: training images; see :func:`~torchaug_gen.evaluation.evaluate.evaluate`.
        heldout: other images, or ``None``.
        synthesizer: whose image shape and classes they get.
        seed: for datasets with random transforms.

    Raises:
        ValueError: classes that the synthesizer does not know, channels that are not its own, or unreadable images.
    """
    notes: list[str] = []
    if heldout is None and isinstance(data, str | Path) and (trees := find_trees(Path(data))):
        data, heldout = trees
        notes.append(f"Training images are {data}, held-out images {heldout}.")
    if heldout is None:
        notes.append(
            "No held-out images were given: distances are to images that the synthesizer was trained on, which a "
            "synthesizer that copies them passes."
        )
    train = _fitted(_read(data, synthesizer, seed), synthesizer, "training", notes)
    others = None if heldout is None else _fitted(_read(heldout, synthesizer, seed), synthesizer, "held-out", notes)
    if synthesizer.num_classes is None or train.labels is None or (others is not None and others.labels is None):
        if synthesizer.num_classes is not None:
            notes.append("Classes are not measured, since the real images have no labels.")
        train, others = _without_labels(train), None if others is None else _without_labels(others)
    else:
        names = _names(synthesizer, train)
        train = _in_classes(train, names, synthesizer.num_classes, "training")
        others = None if others is None else _in_classes(others, names, synthesizer.num_classes, "held-out")
    given = 0 if others is None else len(others)
    others = None if others is None else _without_twins(others, train, notes)
    twins = given - (0 if others is None else len(others))
    return Sides(train, others, _name(data), None if others is None else _name(heldout), tuple(notes), twins)


def find_trees(folder: Path) -> tuple[Path, Path] | None:
    """Return the trees of training and held-out images below a folder; a class called "train" holds images itself."""
    for name in _TREES:
        found = folder / "train", folder / name
        if all(tree.is_dir() and any(child.is_dir() for child in tree.iterdir()) for tree in found):
            return found
    return None


def _read(data: Any, synthesizer: Synthesizer, seed: int) -> TrainingImages:
    size = (synthesizer.image_shape[1], synthesizer.image_shape[2])
    if isinstance(data, TrainingImages) and tuple(data.images.shape[2:]) == size:
        return data
    return read_images(as_dataset(data), image_size=size, seed=seed)


def as_dataset(data: Any) -> Any:
    """Return images in memory and folders of shards as datasets, and everything else as it is."""
    if (held := pair(data)) is not None:
        return _Pairs(*held, getattr(data, "classes", None))
    if isinstance(data, str | Path) and any(Path(data).glob("*.tar")):
        return ShardStream(str(data), fields=("jpg;jpeg;png;webp;gif", "cls"))
    return data


class _Pairs:
    """Images and labels in memory as a dataset, with floating images rounded to 8 bits."""

    def __init__(self, images: Tensor, labels: Tensor | None, classes: Any) -> None:
        if span := outside(images):
            raise ValueError(f"floating images must be in [0, 1], got {span}: measure them before normalisation")
        self.images, self.labels = convert(images.detach().cpu(), torch.uint8), labels
        if isinstance(classes, list | tuple):
            self.classes = tuple(map(str, classes))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        return self.images[index], None if self.labels is None else int(self.labels[index])


def _fitted(images: TrainingImages, synthesizer: Synthesizer, which: str, notes: list[str]) -> TrainingImages:
    """Return images with the synthesizer's number of channels."""
    have, wanted = images.image_shape[0], synthesizer.image_shape[0]
    if have == wanted:
        return images
    if (have, wanted) == (1, 3):
        notes.append(f"The {which} images are grey, and were made colour images as the synthetic ones are.")
        return replace(images, images=images.images.expand(-1, 3, -1, -1))
    if (have, wanted) == (3, 1):
        notes.append(f"The {which} images have colour, and were made grey as the synthetic ones are.")
        parts = [(part * _GREY.view(3, 1, 1)).sum(1, keepdim=True) for part in images.images.split(256)]
        return replace(images, images=torch.cat([part.round().to(torch.uint8) for part in parts]))
    raise ValueError(f"{which} images must have the synthesizer's {wanted} channels, got {have}")


def _without_twins(others: TrainingImages, train: TrainingImages, notes: list[str]) -> TrainingImages | None:
    """Return held-out images that are no training images, or ``None`` where all are."""
    apart = ~find_twins(others.images, train.images)
    if apart.all():
        return others
    notes.append(
        f"{int((~apart).sum())} of {len(others)} held-out images are training images too, and were left out: a "
        "synthesizer that copies would pass on them."
    )
    if not apart.any():
        return None
    return replace(others, images=others.images[apart], labels=None if others.labels is None else others.labels[apart])


def _names(synthesizer: Synthesizer, train: TrainingImages) -> tuple[str, ...] | None:
    """Return the names of the synthesizer's classes; numbers for names say no more than the data's own do."""
    own, count = getattr(synthesizer, "classes", None), synthesizer.num_classes or 0
    if own is not None and tuple(own) != tuple(map(str, range(count))):
        return tuple(own)
    if train.classes is not None and len(train.classes) == count:
        return train.classes
    return own


def _in_classes(images: TrainingImages, names: tuple[str, ...] | None, count: int, which: str) -> TrainingImages:
    """Return images whose labels count the synthesizer's classes, by their names where both sides have them."""
    labels = images.labels
    if labels is None:
        raise ValueError(f"the {which} images must have labels")
    if names is not None and images.classes is not None:
        number: Mapping[str, int] = {name: index for index, name in enumerate(names)}
        if unknown := [name for name in images.classes if name not in number]:
            raise ValueError(
                f"the {which} images must be of classes that the synthesizer draws, {_list(names)}, "
                f"got {_list(unknown)}"
            )
        labels = torch.tensor([number[name] for name in images.classes])[labels]
    elif int(labels.max()) >= count:
        raise ValueError(
            f"the {which} images must be of the {count} classes that the synthesizer draws, got label "
            f"{int(labels.max())}"
        )
    return TrainingImages(images.images, labels, count, names)


def _list(names: Any) -> str:
    return ", ".join(map(repr, names[:10])) + (" …" if len(names) > 10 else "")


def _without_labels(images: TrainingImages) -> TrainingImages:
    return replace(images, labels=None, num_classes=None, classes=None)


def _name(data: Any) -> str:
    return str(data) if isinstance(data, str | Path) else type(data).__name__
