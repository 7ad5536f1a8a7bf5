"""Write images and labels as tar shards."""

import io
import json
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchaug_gen.pixels import convert
from torchaug_gen.shards.fields import check_extension

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}

# Runs that are over sooner show no progress bar.
_LONG_S = 2.0


def write_shards(
    items: Dataset[Any] | Iterable[Any],
    out_dir: str | Path,
    *,
    samples_per_shard: int = 1000,
    image_format: str = "jpg",
    quality: int = 95,
) -> list[Path]:
    """Write items as tar shards that :class:`ShardStream` and webdataset read.

    Shards are called ``000000.tar``, ``000001.tar``, …, and samples ``000000000``, ``000000001``, … through all of
    them. The same items give the same bytes. A shard gets its name when it is whole, so that an interrupted run
    leaves whole shards only.

    Args:
        items: a map-style dataset or any iterable of ``(image, label)``, or of mappings from field to value. Images
            are ``(C, H, W)`` tensors, uint8 or floating in [0, 1], NumPy arrays ``(H, W)`` or ``(H, W, C)`` of uint8,
            or PIL images, all with 1 or 3 channels; PIL images of other modes become RGB. In mappings, bytes are
            written as they are, strings in UTF-8, ``json`` as JSON, ``npy`` as an array, integers in decimal digits.
        out_dir: made where it does not exist; must hold no ``*.tar``.
        samples_per_shard: the last shard may hold fewer.
        image_format: ``"jpg"``, ``"png"`` or ``"webp"``, for the images of ``(image, label)``.
        quality: of jpg and webp, 1 to 100.

    Returns:
        The shards' paths, in order.

    Raises:
        ValueError: an option out of range, a folder that holds shards, no items, or an item that cannot be written,
            named by its index.
        TypeError: an item or a value of another type, named likewise.

    Example:
        >>> import tempfile
        >>> from torchaug_gen.shards.stream import ShardStream
        >>> images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(zip(images, [4, 0, 2]), folder, image_format="png")
        ...     [label for image, label in ShardStream(folder, fields=("png", "cls"), shuffle=0)]
        [4, 0, 2]
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if image_format not in ("jpg", "png", "webp"):
        raise ValueError(f'image_format must be "jpg", "png" or "webp", got {image_format!r}')
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be in 1..100, got {quality}")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if existing := sorted(folder.glob("*.tar")):
        raise ValueError(f"out_dir must hold no shards, but {folder} holds {existing[0].name}")
    samples = _samples(items, image_format, quality)
    shards: list[Path] = []
    while (first := next(samples, None)) is not None:
        shards.append(folder / f"{len(shards):06d}.tar")
        _write_shard(shards[-1], chain([first], islice(samples, samples_per_shard - 1)))
    if not shards:
        raise ValueError("items must hold at least one item, got none")
    return shards


def _write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    from webdataset.writer import TarWriter

    # Without these, the archive would hold the hour and the user; webdataset writes a sample's fields in sorted order.
    with _whole_or_not(path) as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as archive:
        for sample in samples:
            archive.write(sample)


@contextmanager
def _whole_or_not(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when it is whole."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _samples(items: Dataset[Any] | Iterable[Any], image_format: str, quality: int) -> Iterator[dict[str, Any]]:
    """Yield what webdataset's writer takes: the key, and each field's bytes."""
    from tqdm.auto import tqdm

    walk, total = _walk(items)
    # disable=None: no bar where the output is no terminal.
    for index, item in enumerate(tqdm(walk, total=total, unit="sample", delay=_LONG_S, disable=None)):
        try:
            fields = item if isinstance(item, Mapping) else _pair(item, image_format)
            encoded = {_extension(name): _encode(name, value, quality) for name, value in fields.items()}
        except (TypeError, ValueError, OSError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"item {index}: {error}") from error
        if not encoded:
            raise ValueError(f"item {index}: an item must have at least one field, got an empty mapping")
        yield {"__key__": f"{index:09d}", **encoded}


def _walk(items: Dataset[Any] | Iterable[Any]) -> tuple[Iterable[Any], int | None]:
    """Return an iterable, and its length where only the dataset tells.

    Map-style datasets are walked by their length: many do not raise the IndexError that would end a plain loop.
    """
    if isinstance(items, Iterable):
        return items, None
    if hasattr(items, "__len__") and hasattr(items, "__getitem__"):
        return (items[index] for index in range(len(items))), len(items)
    raise TypeError(f"items must be a map-style dataset or an iterable, got {type(items).__name__}")


def _pair(item: Any, image_format: str) -> dict[str, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"{len(item)} elements" if isinstance(item, tuple | list) else type(item).__name__
        raise TypeError(f"expected (image, label) or a mapping from field to value, got {what}")
    return {image_format: item[0], "cls": item[1]}


def _extension(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"fields must be strings, got {name!r}")
    if name != check_extension(name, "fields"):
        raise ValueError(f"fields must be lower case, because readers make them so, got {name!r}")
    return name


def _encode(name: str, value: Any, quality: int) -> bytes:
    extension = name.rpartition(".")[2]
    if isinstance(value, bytes):
        return value
    if extension in FORMATS:
        stream = io.BytesIO()
        _to_pil(value).save(stream, FORMATS[extension], quality=quality)
        return stream.getvalue()
    if extension == "json":
        return json.dumps(value).encode()
    if extension == "npy":
        stream = io.BytesIO()
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        np.lib.format.write_array(stream, array, allow_pickle=False)
        return stream.getvalue()
    if isinstance(value, str) and extension not in ("cls", "id"):
        return value.encode()
    try:
        return str(operator.index(value)).encode()
    except TypeError:
        raise TypeError(f"field {name!r}: expected an integer, a string or bytes, got {type(value).__name__}") from None


def _to_pil(image: Any) -> "Image.Image":
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"images must have 8 bits a channel, got a PIL image of mode {image.mode!r}")
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in ("1", "LA") else "RGB")
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"images must be (C, H, W) tensors with 1 or 3 channels, got shape {tuple(image.shape)}")
        pixels = _to_uint8(image.detach()).permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or (image.ndim != 2 and (image.ndim != 3 or image.shape[2] not in (1, 3))):
            raise ValueError(
                "NumPy images must be uint8 (H, W) or (H, W, C) with 1 or 3 channels, "
                f"got {image.dtype} of shape {image.shape}"
            )
        pixels = image
    else:
        raise TypeError(f"images must be tensors, NumPy arrays or PIL images, got {type(image).__name__}")
    if not pixels.size:
        raise ValueError("images must have at least one pixel, got none")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _to_uint8(image: Tensor) -> Tensor:
    if image.dtype is not torch.uint8 and not image.is_floating_point():
        raise TypeError(f"images must be uint8 or floating in [0, 1], got {image.dtype}")
    return convert(image, torch.uint8)
