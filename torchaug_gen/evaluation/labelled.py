"""LabelledImages: real images that classifiers are trained and tested on, and how they are split."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchaug_gen.evaluation.resampled import stratified_folds
from torchaug_gen.evaluation.sides import as_dataset, find_trees, read_sides
from torchaug_gen.evaluation.twins import find_twins
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import TrainingImages, read_images


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset in memory, which :func:`torchaug_gen.train_vae` and others take as data.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        classes: their names, or numbers for names.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
        self.images, self.labels, self.classes = images, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def take(self, rows: Tensor) -> "LabelledImages":
        """Return the images of these rows, given by number or by a mask."""
        return LabelledImages(self.images[rows], self.labels[rows], self.classes)

    @property
    def counts(self) -> list[int]:
        """How many images each class has."""
        return torch.bincount(self.labels, minlength=len(self.classes)).tolist()


class Split(NamedTuple):
    """What classifiers are trained on, and what they are tested on."""

    train: LabelledImages
    test: LabelledImages


def read_labelled(
    data: Any,
    validation: Any,
    synthesizer: Any,
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    called: str = "validation",
) -> tuple[LabelledImages, LabelledImages | None]:
    """Read training and validation images; where there is a synthesizer, in its size and in the order of its classes.

    Validation images that are training images too are left out, with a warning, since a synthesizer that copies would
    gain on them.

    Args:
        data: training images; see :func:`torchaug_gen.evaluation.fraction.choose_fraction`.
        validation: other images, or ``None``.
        synthesizer: one, or a function that makes one.
        image_size: ``(H, W)`` that images are resized to; ``None`` is the synthesizer's own, or keeps them.
        seed: for datasets with random transforms.
        called: what the caller's user calls the other images.

    Raises:
        ValueError: trees of training and test images together, images without labels, of one class, of other classes
            on the two sides, or that do not fit, and validation images that all are training images.
    """
    if isinstance(data, str | Path) and (trees := find_trees(Path(data))):
        raise ValueError(
            f"data must hold a subfolder of images for each class, got {data} with train and {trees[1].name} below it: "
            f"name {trees[0]}, since what tests must not choose"
        )
    if isinstance(synthesizer, Synthesizer):
        size = (synthesizer.image_shape[1], synthesizer.image_shape[2])
        if image_size not in (None, size):
            raise ValueError(f"image_size must be the synthesizer's {size}, or None, got {image_size}")
        check_classes(synthesizer)
        # Read here, since of a folder with train and test below it ``read_sides`` would take the test images too.
        sides = read_sides(
            read_images(as_dataset(data), image_size=size, seed=seed), validation, synthesizer, seed=seed
        )
        train, held, twins = sides.train, sides.heldout, sides.twins
    else:
        train = read_images(as_dataset(data), image_size=image_size, seed=seed)
        held = None if validation is None else read_images(as_dataset(validation), image_size=image_size, seed=seed)
        twins = 0
    # Of two sides of which one has no labels, ``read_sides`` takes them from both.
    known = _labelled(train, "data" if held is None else f"data and {called}")
    other = None if held is None else _labelled(held, called)
    if other is not None and not twins:
        known_too = find_twins(other.images, known.images)
        twins, other = int(known_too.sum()), other.take(~known_too)
    if twins and other:
        warnings.warn(f"{twins} {called} images are training images too: left out", RuntimeWarning, stacklevel=3)
    if validation is not None and not other:
        raise ValueError(f"{called} must hold other images than the training images, but all of its are among them")
    if other is not None and (other.classes, other.images.shape[1:]) != (known.classes, known.images.shape[1:]):
        raise ValueError(
            f"{called} images must have the training images' classes and shape, {_told(known)}, got {_told(other)}"
        )
    return known, other


def splits(train: LabelledImages, held: LabelledImages | None, folds: int, repeats: int, seed: int) -> Iterator[Split]:
    """Yield what to train and test on, folds × repeats times; on all images and on ``held``, where that is given.

    Raises:
        ValueError: fewer images than folds.
    """
    if held is not None:
        yield from [Split(train, held)] * (folds * repeats)
        return
    for repeat in range(repeats):
        fold_of = stratified_folds(train.labels, folds, seed=seed, repeat=repeat)
        if int(fold_of.max()) < folds - 1:
            raise ValueError(
                f"folds must be at most the number of images in classes of two and more, got folds={folds} for "
                f"{int((fold_of >= 0).sum())} such images"
            )
        for fold in range(folds):
            tested = fold_of == fold
            yield Split(train.take(~tested), train.take(tested))


def check_classes(synthesizer: Synthesizer) -> None:
    """Raise ``ValueError`` for a synthesizer without classes."""
    if synthesizer.num_classes is None:
        raise ValueError(
            "the synthesizer must have classes, since classifiers learn from labels: LabelledSynthesizer gives it some"
        )


def _told(images: LabelledImages) -> str:
    return f"{', '.join(images.classes[:10])} of {tuple(images.images.shape[1:])}"


def _labelled(images: TrainingImages, which: str) -> LabelledImages:
    if images.labels is None or images.num_classes is None:
        raise ValueError(f"{which} must have labels, since classifiers are trained on them, got images without")
    if images.num_classes < 2:
        raise ValueError(f"{which} must have at least 2 classes to be told apart, got {images.num_classes}")
    return LabelledImages(images.images, images.labels, images.classes or tuple(map(str, range(images.num_classes))))
