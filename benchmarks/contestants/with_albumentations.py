"""Albumentations 2 (MIT), one process per thread, HWC numpy images in the processes' own memory."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.contestants.base import (
    AREA,
    ERASED_AREA,
    ERASED_RATIO,
    MEAN,
    RATIO,
    RECIPES,
    STD,
    Batches,
    Contestant,
    Unsupported,
)

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version


def transform(recipe: str) -> Any:
    """Return a recipe as an Albumentations pipeline."""
    import albumentations as A

    geometry = [
        A.RandomResizedCrop((224, 224), scale=AREA, ratio=RATIO),
        A.HorizontalFlip(),
        A.Rotate((-15, 15), p=0.5),
    ]
    colour = [A.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), A.ToGray(p=0.2)]
    normalize = A.Normalize(MEAN, STD)
    match recipe:
        case "R1":
            return A.Compose([*geometry, *colour, normalize, _erasing(A, 0.25)])
        case "R2":
            return A.Compose([*geometry, A.ToFloat(255)])
        case "R3":
            return A.Compose([*colour, normalize])
        case "R4":
            boxes = A.BboxParams("pascal_voc", label_fields=["labels"], clip=True)
            return A.Compose([*geometry, *colour, normalize, _erasing(A, 0.25)], bbox_params=boxes)
        case "R5":
            crop = [A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), A.HorizontalFlip()]
            return A.Compose([*crop, normalize, _erasing(A, 0.5)])
        case "R6":
            return A.Compose([A.SomeOf(_randaugment(A), n=2, replace=True, p=1), normalize])
    raise Unsupported(f"no recipe {recipe}")


def _erasing(A: Any, p: float) -> Any:
    return A.Erasing(scale=ERASED_AREA, ratio=ERASED_RATIO, p=p)


def _randaugment(A: Any) -> list[Any]:
    """Return stand-ins for the fourteen operations of RandAugment up to magnitude 9 of 30."""
    degrees, shift, factor = 9.0, 0.136, (0.73, 1.27)
    shear = float(np.degrees(np.arctan(0.09)))
    return [
        A.NoOp(p=1),
        A.Affine(shear={"x": (-shear, shear), "y": (0, 0)}, p=1),
        A.Affine(shear={"x": (0, 0), "y": (-shear, shear)}, p=1),
        A.Affine(translate_percent={"x": (-shift, shift), "y": (0, 0)}, p=1),
        A.Affine(translate_percent={"x": (0, 0), "y": (-shift, shift)}, p=1),
        A.Rotate((-degrees, degrees), p=1),
        A.ColorJitter(factor, (1, 1), (1, 1), (0, 0), p=1),
        A.ColorJitter((1, 1), (1, 1), factor, (0, 0), p=1),
        A.ColorJitter((1, 1), factor, (1, 1), (0, 0), p=1),
        A.Sharpen(alpha=(0.0, 0.27), lightness=(1, 1), p=1),
        A.Posterize(7, p=1),
        A.Solarize((0.7, 0.7), p=1),
        A.AutoContrast(method="pil", p=1),
        A.Equalize(mode="pil", p=1),
    ]


class Albumentations(Contestant):
    """Processes that hold the images and keep the results: nothing is pickled, stacked, or made CHW, in its favour."""

    note = (
        "one process per thread; results stay in the processes, as HWC, unstacked (in its favour); "
        "R6 stands in: SomeOf the same fourteen operations"
    )

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        if device != "cpu":
            raise Unsupported("runs on CPU only")
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        transform(recipe)  # import errors belong here, and the processes inherit what is imported
        self._pool: list[tuple[Any, Connection]] = []
        context = multiprocessing.get_context("fork")
        for share in range(threads):
            here, there = context.Pipe()
            # A process inherits our ends of all connections made so far, and sees the end only once it has closed them.
            ours = [connection for _, connection in self._pool] + [here]
            work = {"recipe": recipe, "batches": batches, "share": share, "shares": threads}
            process = context.Process(target=_serve, args=(there, ours), kwargs=work, daemon=True)
            process.start()
            there.close()
            self._pool.append((process, here))

    def batch(self, index: int) -> None:
        """Augment one batch, its images shared among the processes."""
        self.run(range(index, index + 1))

    def run(self, indices: range) -> None:
        """Augment batches; a process that is done with its share of one goes on with the next."""
        self._ask("run", indices)

    def images(self) -> npt.NDArray[np.float32]:
        """Return the first process's share of a batch."""
        return np.stack(self._ask("images", range(1))[0]).transpose(0, 3, 1, 2)

    def close(self) -> None:
        """End the processes."""
        for process, connection in self._pool:
            connection.close()
            process.join(timeout=5)

    def _ask(self, what: str, indices: range) -> list[Any]:
        for _, connection in self._pool:
            connection.send((what, indices))
        return [connection.recv() for _, connection in self._pool]


def _serve(
    connection: Connection, others: list[Connection], *, recipe: str, batches: Batches, share: int, shares: int
) -> None:
    import cv2

    for other in others:
        other.close()
    cv2.setNumThreads(0)
    pipeline = transform(recipe)
    images = np.ascontiguousarray(batches.images[:, share::shares].transpose(0, 1, 3, 4, 2))
    masks = np.ascontiguousarray(batches.masks[:, share::shares, 0])
    boxes = batches.boxes[:, share::shares]
    targets, labels = RECIPES[recipe].targets, np.arange(3)

    def batch(index: int) -> list[Any]:
        turn = index % len(images)
        if not targets:
            return [pipeline(image=image)["image"] for image in images[turn]]
        rows = zip(images[turn], masks[turn], boxes[turn], strict=True)
        return [pipeline(image=image, mask=mask, bboxes=box, labels=labels) for image, mask, box in rows]

    while True:
        try:
            what, indices = connection.recv()
        except EOFError:
            return
        for index in indices:
            results = batch(index)
        if what == "images":
            connection.send([result["image"] if targets else result for result in results])
        else:
            connection.send(None)
