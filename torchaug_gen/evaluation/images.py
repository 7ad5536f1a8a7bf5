"""Images to be measured, chunk by chunk, from wherever they come."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from torchaug_gen import rng
from torchaug_gen.batch import find_fields, get
from torchaug_gen.labels import class_names
from torchaug_gen.pixels import outside

Size = tuple[int, int]


class Chunk(NamedTuple):
    """Images ``(N, C, H, W)``, uint8 or floating in [0, 1], and their labels ``(N,)`` int64, or ``None``."""

    images: Tensor
    labels: Tensor | None


@runtime_checkable
class Samples(Protocol):
    """What draws images as a :class:`torchaug_gen.Synthesizer` does."""

    def sample(self, n: int | None = None, *, labels: Any = None, seed: int = 0, positions: Any = None) -> Any:
        """Return images and labels."""


def image_chunks(
    data: Any,
    *,
    size: int,
    n: int | None = None,
    labels: Tensor | None = None,
    image_size: Size | None = None,
    seed: int = 0,
) -> Iterator[Chunk]:
    """Yield the images of ``data`` in chunks, so that only one is in memory where the data allow it.

    Args:
        data: one of

            - a tensor ``(N, C, H, W)``, a pair of such a tensor and labels, or anything with attributes ``images`` and
              ``labels`` that are these;
            - a synthesizer, of which ``n`` images are drawn;
            - a map-style dataset of images or ``(image, label)`` pairs, an image being a PIL image or a tensor
              ``(C, H, W)``; or a folder with one subfolder of images per class;
            - a loader or another iterable of batches.
        size: images of a chunk, at least 1; batches that come longer are cut.
        n: at most so many images: a random choice of what has a length, the first of what has none. Required for a
            synthesizer without ``labels``.
        labels: ``(n,)`` int64 of the images that a synthesizer is to draw.
        image_size: ``(H, W)`` that images are resized to cover, antialiased, and then cropped to about the centre;
            ``None`` keeps their size.
        seed: for the choice, and for the synthesizer.

    Raises:
        ValueError: no image, images of different shapes, out of range or NaN, and labels that do not fit them.
        TypeError: ``data`` of another kind.
    """
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    shape, first = None, 0
    for images, marks in _source(data, labels, image_size, size=size, n=n, seed=seed):
        _check(images, shape, first)
        if not len(images):
            continue
        shape = tuple(images.shape[1:]) if shape is None else shape
        yield Chunk(_resize(images, image_size), None if marks is None else _hard(marks, len(images), first))
        first += len(images)
    if not first:
        raise ValueError("there must be at least one image to measure, got none")


def classes_of(data: Any) -> tuple[str, ...] | None:
    """Return the names of the classes, where ``data`` or what is inside it knows them."""
    if isinstance(data, str | Path):
        return tuple(sorted(path.name for path in Path(data).iterdir() if path.is_dir()))
    return class_names(data)


def pair(data: Any) -> tuple[Tensor, Tensor | None] | None:
    """Return images and labels of what holds them as tensors, or ``None``."""
    if isinstance(data, Tensor):
        return data, None
    if isinstance(data, tuple | list) and len(data) == 2 and _are_images(data[0]) and not _are_images(data[1]):
        return data[0], None if data[1] is None else torch.as_tensor(data[1])
    if _are_images(getattr(data, "images", None)):
        return data.images, getattr(data, "labels", None)
    return None


def _source(
    data: Any, labels: Tensor | None, image_size: Size | None, *, size: int, n: int | None, seed: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    held = pair(data)
    if held is not None:
        return _held(*held, size, n, seed)
    if isinstance(data, Samples):
        return _drawn(data, size, n, labels, seed)
    if isinstance(data, str | Path):
        from torchvision.datasets import ImageFolder

        data = ImageFolder(str(data), loader=_open)
    if isinstance(data, IterableDataset):
        raise TypeError(f"{type(data).__name__} gives single items: wrap it in a DataLoader, which gives batches")
    if isinstance(data, Dataset) or (
        hasattr(data, "__getitem__") and isinstance(data, Sized) and not isinstance(data, list | tuple)
    ):
        return _items(data, size, n, image_size, seed)
    if isinstance(data, Iterable):
        return _batches(data, size, n)
    raise TypeError(
        f"data must be images, a synthesizer, a dataset, a folder or an iterable of batches, got {type(data).__name__}"
    )


def _held(
    images: Tensor, labels: Tensor | None, size: int, n: int | None, seed: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"there must be a label for each image, got {len(labels)} for {len(images)}")
    for rows in _choose(len(images), n, seed).split(size):
        yield images[rows.to(images.device)], None if labels is None else labels[rows.to(labels.device)]


def _drawn(
    synthesizer: Samples, size: int, n: int | None, labels: Tensor | None, seed: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    count = n if labels is None else len(labels)
    if count is None:
        raise ValueError("say how many images the synthesizer is to draw: n=...")
    for rows in torch.arange(count).split(size):
        yield synthesizer.sample(labels=None if labels is None else labels[rows], seed=seed, positions=rows)


def _items(
    dataset: Any, size: int, n: int | None, image_size: Size | None, seed: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for rows in _choose(len(dataset), n, seed).split(size):
        images, labels = [], []
        for row in rows.tolist():
            item = dataset[row]
            image, label, *_ = (*item, None) if isinstance(item, tuple | list) else (item, None)
            images.append(_resize(_tensor(image, row)[None], image_size)[0])
            labels.append(label)
        if len({image.shape[0] for image in images} | {1, 3}) == 2:
            images = [image.expand(3, -1, -1) for image in images]
        _check_alike(images, rows)
        known = not any(label is None for label in labels)
        yield torch.stack(images), torch.tensor([int(label) for label in labels]) if known else None


def _batches(loader: Iterable[Any], size: int, n: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    left = n
    for batch in loader:
        fields = find_fields(batch)
        images, labels = get(batch, fields.images), None if fields.labels is None else get(batch, fields.labels)
        if not isinstance(images, Tensor):
            raise TypeError(f"batches must hold images as one tensor (N, C, H, W), got a {type(images).__name__}")
        images = images[:left]
        labels = None if labels is None else torch.as_tensor(labels)[:left]
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            yield images[rows], None if labels is None else labels[rows]
        if left is not None:
            left -= len(images)
            if left <= 0:
                return


def _choose(length: int, n: int | None, seed: int) -> Tensor:
    if n is None or n >= length:
        return torch.arange(length)
    return rng.permutation(seed, "evaluation.choice", 0, length)[:n].sort().values


def _open(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _tensor(image: Any, row: int) -> Tensor:
    if isinstance(image, Tensor):
        return image
    if not hasattr(image, "getbands"):
        raise TypeError(f"images must be tensors or PIL images, got {type(image).__name__} at index {row}")
    from torchvision.transforms.functional import pil_to_tensor

    tensor: Tensor = pil_to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return tensor


def _resize(images: Tensor, size: Size | None) -> Tensor:
    if size is None or tuple(images.shape[-2:]) == tuple(size):
        return images
    from torchvision.transforms.functional import center_crop, resize

    scale = max(size[0] / images.shape[-2], size[1] / images.shape[-1])
    cover = [max(side, round(have * scale)) for side, have in zip(size, images.shape[-2:], strict=True)]
    resized: Tensor = center_crop(resize(images, cover, antialias=True), list(size))
    return resized


def _check(images: Any, shape: tuple[int, ...] | None, first: int) -> None:
    if not _are_images(images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor (N, C, H, W), each at least 1, got {got}")
    if images.dtype is not torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    where = f"among images {first} to {first + len(images) - 1}"
    if shape is not None and tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"images must have one shape, got {shape} and {tuple(images.shape[1:])} {where}; image_size= resizes them"
        )
    if span := outside(images):
        raise ValueError(f"floating images must be in [0, 1], got {span} {where}: measure them before normalisation")


def _check_alike(images: Sequence[Tensor], rows: Tensor) -> None:
    for row, image in zip(rows.tolist(), images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"images must have one shape, got {tuple(images[0].shape)} at index {int(rows[0])} and "
                f"{tuple(image.shape)} at index {row}; image_size= resizes them"
            )


def _hard(labels: Tensor, n: int, first: int) -> Tensor:
    labels = labels.detach().cpu()
    if labels.ndim == 2:
        labels = labels.argmax(1)
    if labels.shape != (n,) or labels.is_floating_point() or (n and int(labels.min()) < 0):
        raise ValueError(
            f"labels must be ({n},) class indices of at least 0, got shape {tuple(labels.shape)} of {labels.dtype} "
            f"for images {first} to {first + n - 1}"
        )
    return labels.to(torch.int64)


def _are_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and 0 not in value.shape[1:]
