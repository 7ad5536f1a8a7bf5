"""TrainingImages: what a synthesizer learns from, in memory, and the small warps that make it look like more."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from torchaug_gen import rng
from torchaug_gen.labels import class_names
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.digests import digest
from torchaug_gen.synthesis.training import distributed

if TYPE_CHECKING:
    from PIL import Image

_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}

_GIB = 1 << 30

# The widest warp at strength 1, chosen so that a 6 stays a 6: 10 degrees, 10 % of size, 0.1 of shear and
# a shift of 5 % of the side.
_ANGLE, _SCALE, _SHEAR, _SHIFT = math.radians(10), 0.1, 0.1, 0.1


@dataclass(frozen=True)
class TrainingImages:
    """Images and labels in memory.

    Args:
        images: ``(N, C, H, W)`` uint8, so that they take N·C·H·W bytes.
        labels: ``(N,)`` int64, or ``None`` where the data have none.
        num_classes: the number of classes, or ``None`` without labels.
        classes: names of the classes in the order of their labels, where known.
    """

    images: Tensor
    labels: Tensor | None
    num_classes: int | None
    classes: tuple[str, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return cast(tuple[int, int, int], tuple(self.images.shape[1:]))

    def __len__(self) -> int:
        return len(self.images)


def read_images(
    data: str | Path | Dataset[Any],
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    max_gib: float = 8.0,
    labelled: bool = True,
) -> TrainingImages:
    """Read every item of a dataset once, and keep it in memory as uint8.

    Args:
        data: a folder with one subfolder of images per class, a folder of images, which then have no labels, or a
            dataset, map-style or iterable, such as :class:`torchaug_gen.ShardStream`, of ``(image, label)`` pairs, of
            ``(image,)`` or of bare images. An image is a PIL image, or a tensor ``(C, H, W)``, uint8 or floating in
            [0, 1]; floating ones are rounded to 8 bits. A label is an integer ≥ 0. Class names are taken from the
            dataset's attribute ``classes``, where it has one. What an iterable gives is put into an order of its own,
            so that neither its shuffling matters nor, where it splits itself over processes (``splits_itself``), how
            many there are.
        image_size: ``(H, W)`` that images are resized to cover, antialiased, and then cropped to about the
            centre; ``None`` keeps their size, which must then be one for all.
        seed: for datasets with random transforms, whose PyTorch random numbers come from it.
        max_gib: GiB of memory that the images may take. Where the number of items is known, it is compared before
            the second is read.
        labelled: keep the labels, where the data have any.

    Raises:
        FileNotFoundError: no folder there, or none of images in it.
        ValueError: no images, images of different or unreadable kinds, labels that are missing for some images, are
            negative or have no name in ``classes``, classes without an image, and more images than ``max_gib`` holds.
        TypeError: neither a path nor a dataset.
    """
    if isinstance(data, str | Path):
        data = _folder(Path(data))
    images: list[Tensor] = []
    labels: list[int | None] = []
    count = len(data) if isinstance(data, Sized) else None
    nbytes = 0
    with Seeded(rng.derive_seed(seed, "training.read")):
        for index, item in enumerate(_items(data)):
            image, label = _pair(item)
            images.append(_resize(_image(image, index), image_size))
            labels.append(_label(label, index) if labelled else None)
            nbytes += images[-1].nbytes
            _check_memory(images, nbytes, count if index == 0 else None, max_gib)
    if isinstance(data, IterableDataset):
        images, labels = _in_own_order(images, labels, split=getattr(data, "splits_itself", False))
    if not images:
        raise ValueError("data must hold at least one image, got none")
    return _with_labels(_stack(images), labels, class_names(data) if labelled else None)


def warp(images: Tensor, *, strength: float, seed: int, positions: Tensor) -> Tensor:
    """Turn, scale, shear and shift each image a little; what enters at the border repeats the edge.

    Args:
        images: ``(N, C, H, W)`` floating in [0, 1].
        strength: at 1, up to ±10 degrees, ±10 % of size, ±0.1 of shear and ±5 % of the sides; at 0, nothing.
        seed: 0 ≤ seed < 2⁶⁴.
        positions: ``(N,)`` int64; an image's warp is a function of seed and position.

    Returns:
        ``(N, C, H, W)`` like ``images``.
    """
    if strength == 0:
        return images
    draws = (rng.uniform(seed, "training.warp", 0, positions, (6,)) * 2 - 1).to(images.device) * strength
    angle, shear = draws[:, 0] * _ANGLE, draws[:, 1] * _SHEAR
    scale, shift = 1 + draws[:, 2:4] * _SCALE, draws[:, 4:6] * _SHIFT
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack((cosine, -sine, sine, cosine), dim=1).view(-1, 2, 2)
    stretch = torch.stack((scale[:, 0], shear, torch.zeros_like(shear), scale[:, 1]), dim=1).view(-1, 2, 2)
    # affine_grid counts each axis from -1 to 1, in which a turn would shear images that are not square.
    height, width = images.shape[-2:]
    aspect = torch.tensor([width, height], dtype=torch.float32, device=images.device)
    matrix = (turn @ stretch) * (aspect / aspect[:, None])
    grid = F.affine_grid(torch.cat((matrix, shift.unsqueeze(2)), dim=2), list(images.shape), align_corners=False)
    # Bilinear resampling would halve the variance of the Laplacian, and the network would learn that blur.
    warped = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return warped.clamp(0, 1)


class FlatFolder(Dataset[tuple[Any]]):
    """The images that lie in a folder itself, in the order of their names, without labels.

    Args:
        root: the folder; what lies in its subfolders is left out.
    """

    def __init__(self, root: Path) -> None:
        from torchvision.datasets.folder import is_image_file

        self.paths = sorted(str(path) for path in root.iterdir() if path.is_file() and is_image_file(path.name))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image]:
        return (_open(self.paths[index]),)


def _folder(root: Path) -> Dataset[Any]:
    """Return a folder's images with the names of their subfolders as classes; where it has none, those in itself."""
    from torchvision.datasets import ImageFolder

    if not root.is_dir():
        raise FileNotFoundError(f"data must be a folder of images, but there is no folder {root}")
    flat = FlatFolder(root)
    if len(flat) and not any(path.is_dir() for path in root.iterdir()):
        return flat
    return cast(Dataset[Any], ImageFolder(str(root), loader=_open))


def _items(data: object) -> Iterator[object]:
    """Yield every item once; of a map-style dataset by its index, since not every one of them can be iterated."""
    if isinstance(data, IterableDataset):
        yield from data
    elif hasattr(data, "__getitem__") and isinstance(data, Sized):
        for index in range(len(data)):
            yield cast(Any, data)[index]
    else:
        raise TypeError(
            f"data must be a folder, a map-style dataset with a length or an IterableDataset, got {type(data).__name__}"
        )


def _check_memory(images: Sequence[Tensor], nbytes: int, count: int | None, max_gib: float) -> None:
    """Raise ``ValueError`` where the images read, or all ``count`` of them if they are like the first, are too many."""
    # Grey images are stored as colour where others are coloured, at most three times this.
    needed = nbytes if count is None else count * images[0].nbytes
    if needed > max_gib * _GIB:
        told = f"{len(images):,} images so far" if count is None else f"{count:,} images of {tuple(images[0].shape)}"
        raise ValueError(
            f"{told} take {needed / _GIB:.3g} GiB of memory, and max_data_gib={max_gib:g} may be taken: "
            "choose a smaller image_size or fewer images, or allow more"
        )


def _in_own_order(
    images: list[Tensor], labels: list[int | None], *, split: bool
) -> tuple[list[Tensor], list[int | None]]:
    """Sort items by what they hold, after those that other processes read were added."""
    items = list(zip(images, labels, strict=True))
    if split:
        # NumPy arrays cross between processes as bytes, where tensors would need file descriptors.
        parts = distributed.gathered([(image.numpy(), label) for image, label in items])
        items = [(torch.from_numpy(image), label) for part in parts for image, label in part]
    items.sort(key=lambda item: (digest(item[0]), item[1] or 0))
    return [image for image, _ in items], [label for _, label in items]


def _open(path: str) -> Image.Image:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image


def _pair(item: object) -> tuple[object, object]:
    if not isinstance(item, tuple | list):
        return item, None
    if not 1 <= len(item) <= 2:
        raise ValueError(f"data must give (image, label) pairs, got {len(item)} values")
    return item[0], item[1] if len(item) == 2 else None


def _image(image: object, index: int) -> Tensor:
    """Return an image as ``(C, H, W)`` uint8."""
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode not in _GREY | _COLOUR:
            raise ValueError(f"images must have 8 bits per channel, got mode {image.mode} at index {index}")
        from torchvision.transforms.functional import pil_to_tensor

        return cast(Tensor, pil_to_tensor(image.convert("L" if image.mode in _GREY else "RGB")))
    if not isinstance(image, Tensor):
        raise ValueError(f"images must be tensors or PIL images, got {type(image).__name__} at index {index}")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"images must be (C, H, W), got {tuple(image.shape)} at index {index}")
    if image.dtype is torch.uint8:
        return image.cpu()
    if not image.is_floating_point():
        raise ValueError(f"images must be uint8 or floating, got {image.dtype} at index {index}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"floating images must be in [0, 1], got {low:.3g} to {high:.3g} at index {index}")
    return image.detach().cpu().mul(255).round().to(torch.uint8)


def _resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or image.shape[1:] == size:
        return image
    from torchvision.transforms.functional import center_crop, resize

    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    cover = [max(side, round(have * scale)) for side, have in zip(size, image.shape[1:], strict=True)]
    return cast(Tensor, center_crop(resize(image, cover, antialias=True), list(size)))


def _label(label: object, index: int) -> int | None:
    if label is None:
        return None
    try:
        number = operator.index(cast(Any, label))
    except TypeError:
        raise ValueError(f"labels must be integers, got {label!r} at index {index}") from None
    if number < 0:
        raise ValueError(f"labels must be at least 0, got {number} at index {index}")
    return number


def _stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images into one tensor; grey ones among colour ones become colour."""
    if {image.shape[0] for image in images} == {1, 3}:
        images = [image.expand(3, -1, -1) for image in images]
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"images must have one shape, got {tuple(images[0].shape)} at index 0 and {tuple(image.shape)} at "
                f"index {index}; image_size= resizes them"
            )
    return torch.stack(list(images))


def _with_labels(images: Tensor, labels: list[int | None], classes: tuple[str, ...] | None) -> TrainingImages:
    known = [label for label in labels if label is not None]
    if not known:
        return TrainingImages(images, None, None)
    if len(known) < len(labels):
        raise ValueError(f"all images must have a label or none, got none at index {labels.index(None)}")
    num_classes = max(known) + 1 if classes is None else len(classes)
    if max(known) >= num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1} as classes names {num_classes}, got {max(known)}")
    counts = torch.bincount(torch.tensor(known), minlength=num_classes)
    if not counts.all():
        empty = int((counts == 0).nonzero()[0])
        raise ValueError(f"every class must have an image, got none of class {empty} of {num_classes}")
    return TrainingImages(images, torch.tensor(known), num_classes, classes)
