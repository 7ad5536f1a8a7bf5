"""From a value to the bytes of one file."""

import io
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.pixels import convert
from torchaug_gen.shards.decode import MAX_PIXELS
from torchaug_gen.shards.fields import SPECIAL, check_extension
from torchaug_gen.shards.keys import safe_key

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}

# What the columns of many data sets are called.
_IMAGE, _LABEL = ("image", "img"), ("label", "labels", "target")


@dataclass(frozen=True)
class Encoding:
    """How items become files.

    Args:
        image_format: ``"jpg"``, ``"png"`` or ``"webp"``.
        quality: of jpg and webp, 1 to 100.
        fields: what the elements of tuples are; ``(image_format, "cls")`` where it is ``None``.
        num_classes: labels in ``cls`` must be below it; any where it is ``None``.

    Raises:
        ValueError: a setting out of range.
    """

    image_format: str = "jpg"
    quality: int = 95
    fields: tuple[str, ...] | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.image_format not in ("jpg", "png", "webp"):
            raise ValueError(f'image_format must be "jpg", "png" or "webp", got {self.image_format!r}')
        if type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be an integer in 1..100, got {self.quality!r}")
        for name in self.fields or ():
            if name not in SPECIAL:
                _extension(name)

    def encode(self, item: Any) -> tuple[str | None, dict[str, bytes]]:
        """Return an item's key, made safe, or ``None`` where it has none, and its files' contents by field.

        Raises:
            TypeError: a value of a type that its field cannot hold.
            ValueError: a value that it cannot hold.
        """
        values = dict(self._named(item))
        key = values.pop("__key__", None)
        # Where a sample was read from says nothing of where it is written.
        values.pop("__url__", None)
        if not values:
            raise ValueError("an item must have at least one field, got none")
        files = {_extension(name): encode(name, value, self.quality) for name, value in values.items()}
        if self.num_classes is not None and "cls" in values:
            self._check_label(files["cls"])
        return None if key is None else safe_key(key), files

    def _named(self, item: Any) -> Mapping[str, Any]:
        if isinstance(item, Mapping):
            return self._renamed(item)
        fields = self.fields or (self.image_format, "cls")
        if isinstance(item, tuple | list) and len(item) == len(fields):
            return dict(zip(fields, item, strict=True))
        what = f"{len(item)} elements" if isinstance(item, tuple | list) else type(item).__name__
        wanted = "(image, label)" if self.fields is None else f"({', '.join(fields)})"
        raise TypeError(f"expected {wanted} or a mapping from field to value, got {what}; fields= names other elements")

    def _renamed(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a mapping whose image and label have fields of their own, where they are called so."""
        named = dict(item)
        for names, field in ((_IMAGE, self.image_format), (_LABEL, "cls")):
            for name in names:
                if name in named and field not in named and not isinstance(named[name], bytes | str):
                    named[field] = named.pop(name)
        return named

    def _check_label(self, content: bytes) -> None:
        if not content.strip().isdigit() or int(content) >= (self.num_classes or 0):
            raise ValueError(f"label must be in 0..{(self.num_classes or 0) - 1} as classes says, got {content[:40]!r}")


def encode(name: str, value: Any, quality: int) -> bytes:
    """Return what a file of this field holds.

    Args:
        name: the field, such as ``"jpg"`` or ``"mask.png"``; what follows the last dot says what it holds.
        value: bytes are taken as they are, also as a ``bytearray`` or ``memoryview``.
        quality: of jpg and webp.

    Raises:
        TypeError: a value of another type than the field holds.
        ValueError: a value that it cannot hold.
    """
    extension = name.rpartition(".")[2]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if extension in FORMATS:
        stream = io.BytesIO()
        _to_pil(value).save(stream, FORMATS[extension], quality=quality)
        return stream.getvalue()
    if extension == "json":
        return json.dumps(value).encode()
    if extension == "npy":
        stream = io.BytesIO()
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        np.lib.format.write_array(stream, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        return stream.getvalue()
    if isinstance(value, str) and extension not in ("cls", "id"):
        return value.encode()
    try:
        # int, because the index of True is True.
        number = int(operator.index(value))
    except TypeError:
        raise TypeError(f"field {name!r}: expected an integer, a string or bytes, got {type(value).__name__}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"field {name!r}: integers must have at most 64 bits, got {number}")
    return str(number).encode()


def check_fields(fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of tuples' elements.

    Raises:
        TypeError: a string instead of a sequence of strings.
        ValueError: none, or one twice.
    """
    if fields is None:
        return None
    if isinstance(fields, str):
        raise TypeError(f'fields must be a sequence of names such as ("jpg", "cls"), got the string {fields!r}')
    if not fields or len(set(fields)) < len(fields):
        raise ValueError(f"fields must name every element once, got {tuple(fields)}")
    return tuple(fields)


def _extension(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"fields must be strings, got {name!r}")
    if name != check_extension(name, "fields"):
        raise ValueError(f"fields must be lower case, because readers make them so, got {name!r}")
    return name


def _to_pil(image: Any) -> "Image.Image":
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"images must have 8 bits a channel, got a PIL image of mode {image.mode!r}: "
                "convert it, or store it as npy"
            )
        _check_size(*image.size)
        return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in ("1", "LA") else "RGB")
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"images must be (C, H, W) tensors with 1 or 3 channels, got shape {tuple(image.shape)}")
        pixels = _to_uint8(image.detach()).permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or (image.ndim != 2 and (image.ndim != 3 or image.shape[2] not in (1, 3))):
            raise ValueError(
                "NumPy images must be uint8 (H, W) or (H, W, C) with 1 or 3 channels, "
                f"got {image.dtype} of shape {image.shape}; others can be stored as npy"
            )
        pixels = image
    else:
        raise TypeError(f"images must be tensors, NumPy arrays or PIL images, got {type(image).__name__}")
    _check_size(pixels.shape[1], pixels.shape[0])
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _check_size(width: int, height: int) -> None:
    if not width * height:
        raise ValueError("images must have at least one pixel, got none")
    # Readers refuse more.
    if width * height > MAX_PIXELS:
        raise ValueError(f"images must have at most {MAX_PIXELS} pixels, got {width} × {height}")


def _to_uint8(image: Tensor) -> Tensor:
    if image.dtype is not torch.uint8 and not image.is_floating_point():
        raise TypeError(f"images must be uint8 or floating in [0, 1], got {image.dtype}; others can be stored as npy")
    return convert(image, torch.uint8)
