"""From the bytes of one file to a value."""

import contextlib
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Pillow's own limit: 2³⁰ bytes at 12 bytes a pixel.
MAX_PIXELS = 89_478_485
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")

_INTEGER = re.compile(rb"\s*[+-]?[0-9]{1,19}\s*")
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Markers that start a frame and say its size: C0..CF but the three tables among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class UndecodableError(ValueError):
    """A file is not what its extension says; ``kind`` is ``image``, ``label`` or ``data``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def decode(extension: str, content: bytes) -> Any:
    """Return the value that a file's extension (what follows its last dot) says it holds.

    Args:
        extension: images give uint8 ``(C, H, W)`` tensors, ``cls`` and ``id`` integers, ``json`` what it says,
            ``txt`` a string, ``npy`` a tensor; anything else stays bytes.
        content: the file's.

    Raises:
        UndecodableError: it holds something else.
    """
    kind, decoder = _DECODERS.get(extension.rpartition(".")[2], ("data", bytes))
    try:
        return decoder(content)
    # Under `python -W error` a library's warning is not the file's fault.
    except Warning:
        raise
    # Decoders meet damage in many ways: Pillow alone with SyntaxError, OSError, struct.error, EOFError and others.
    except Exception as error:
        raise UndecodableError(kind, _first_line(error)) from error


def load_decoder(extensions: Iterable[str]) -> None:
    """Import now what decodes files with these extensions, where images are among them.

    DataLoader workers are forked afterwards, in each epoch anew, and would import torchvision one by one: that takes
    each 2 s of processor time and 100 MiB.
    """
    if any(extension.rpartition(".")[2] in IMAGE_EXTENSIONS for extension in extensions):
        with contextlib.suppress(ImportError):
            import torchvision.io  # noqa: F401


def decode_image(content: bytes) -> Tensor:
    """Decode JPEG, PNG, WebP or the first frame of a GIF, told apart by content.

    Grey JPEG and PNG images keep one channel; all else comes as RGB. Transparency is dropped and EXIF orientation
    not applied. torchvision decodes JPEG, twice as fast as Pillow, which decodes the others: torchvision 0.29
    crashes the process on a PNG with one flipped bit, gives the indices of palette images as if they were grey
    levels, and decodes every frame of a GIF.

    Returns:
        uint8 ``(C, H, W)`` with C 1 or 3; channels lie last in memory, as decoders write them.

    Raises:
        Exception: of many types, where it is damaged.
        ValueError: more pixels than :data:`MAX_PIXELS`, or 16 bits a channel.
    """
    return _decode_jpeg(content) if content.startswith(_JPEG) else _decode_with_pillow(content)


def _decode_jpeg(content: bytes) -> Tensor:
    width, height, channels = _jpeg_header(content)
    _check_size(width, height)
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    # torchvision 0.29 announces that its decoders will be removed.
    except ImportError:
        return _decode_with_pillow(content)
    # A bytearray, because PyTorch warns of tensors over memory that must not be written.
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    image: Tensor = decode_jpeg(encoded, ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB)
    return image


def _jpeg_header(content: bytes) -> tuple[int, int, int]:
    """Return width, height and channels; a tenth of what Pillow takes to open the file."""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 10 <= len(content):
        marker = content[at + 1]
        if marker in _FRAMES:
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big"), content[at + 9]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    raise ValueError("JPEG without a frame header")


def _decode_with_pillow(content: bytes) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if content.startswith(_PNG):
        _check_png(content)
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "WEBP", "GIF", "JPEG"))
    except UnidentifiedImageError:
        raise ValueError("neither JPEG, PNG, WebP nor GIF, or damaged from its start") from None
    # Where warnings are errors.
    except Image.DecompressionBombWarning as error:
        raise ValueError(str(error)) from error
    with image:
        _check_size(image.width, image.height)
        grey = image.format in ("PNG", "JPEG") and image.mode in ("1", "L", "LA")
        pixels = np.array(image.convert("L" if grey else "RGB"))
    return torch.from_numpy(pixels[..., None] if grey else pixels).permute(2, 0, 1)


def _check_png(content: bytes) -> None:
    """Refuse what Pillow takes without a word: damaged pixels, whose checksums it skips, and 16 bits."""
    if content[24:25] == b"\x10":
        raise ValueError("16-bit PNG: images must have 8 bits a channel; convert it, or store it as npy")
    at = len(_PNG)
    while at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"damaged PNG: wrong checksum of chunk {content[at + 4 : at + 8]!r}")
        if content[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise ValueError("truncated PNG")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels: images must have at most {MAX_PIXELS}")


def _decode_integer(content: bytes) -> int:
    if not _INTEGER.fullmatch(content) or not -(1 << 63) <= (number := int(content)) < 1 << 63:
        raise ValueError(f"expected a 64-bit integer, got {content[:40]!r}")
    return number


def _decode_npy(content: bytes) -> Tensor:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    # NumPy allocates what the header claims before it reads.
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"an array of {shape} {dtype} does not fit the {len(content)} bytes of its file")
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _decode_text(content: bytes) -> str:
    return content.decode("utf-8")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


_DECODERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, ("image", decode_image)),
    **dict.fromkeys(("cls", "id"), ("label", _decode_integer)),
    "json": ("data", json.loads),
    "txt": ("data", _decode_text),
    "npy": ("data", _decode_npy),
}
