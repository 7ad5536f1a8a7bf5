"""Bounds on what a file may claim about a network, checked before anything is built from the claim."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_SIDE = 4096
MAX_LATENT_DIM = 65536
MAX_CLASSES = 1 << 20
MAX_CHUNK = 65536
# Values of one chunk of images, or of latents: 4 GiB in float32.
MAX_CHUNK_VALUES = 1 << 30
# Those of a chunk that a file asks for, where it has more rows than the usual; networks take some hundred bytes each.
MAX_FILE_CHUNK_VALUES = 1 << 22
USUAL_CHUNK = 32
# Latents of the shape of an image, as diffusion has them: (3, 512, 512) and some.
MAX_LATENT_VALUES = 1 << 20

_MAX_WIDTH = 1 << 16
_MAX_DEPTH = 256
_MAX_LIST = 32
# Lists of such are noise levels.
_MAX_FLOATS = 10_000
# Layers that a config may ask for, each of which costs 80 kB and 4 ms before any tensor has memory. The largest
# networks of diffusion have 60.
_MAX_LAYERS = 256
_MAX_NESTING = 8
_MAX_TEXT = 4096


def check_sizes(
    *,
    latent_dim: Any,
    image_shape: Any,
    num_classes: Any,
    value_range: Any,
    chunk: Any,
    classes: Any = None,
) -> None:
    """Raise ``ValueError`` where a size that was read from a file is of the wrong type or out of bounds.

    Args:
        latent_dim: an integer in 1..65536, or a tuple of such with a product of at most 2²⁰.
        image_shape: ``(C, H, W)``, each 1..4096.
        num_classes: 1..2²⁰, or ``None``.
        value_range: two finite numbers in ascending order.
        chunk: 1..65536; a chunk of images or latents holds at most 2³⁰ values.
        classes: ``num_classes`` names, or ``None``.
    """
    latent_shape = latent_dim if isinstance(latent_dim, tuple) else (latent_dim,)
    if not 1 <= len(latent_shape) <= 4:
        raise ValueError(f"latent_dim must be an integer, or a list of 1 to 4, got {latent_dim!r}")
    for size in latent_shape:
        check_count("latent_dim", size, MAX_LATENT_DIM)
    if math.prod(latent_shape) > MAX_LATENT_VALUES:
        raise ValueError(f"latent_dim must come to at most {MAX_LATENT_VALUES} values, got {latent_dim!r}")
    check_count("chunk", chunk, MAX_CHUNK)
    if num_classes is not None:
        check_count("num_classes", num_classes, MAX_CLASSES)
    if not _is_tuple(image_shape, 3):
        raise ValueError(f"image_shape must be three integers, got {image_shape!r}")
    for size in image_shape:
        check_count("each size of image_shape", size, MAX_SIDE)
    for name, values in (("image_shape", math.prod(image_shape)), ("latent_dim", math.prod(latent_shape))):
        if values * chunk > MAX_CHUNK_VALUES:
            raise ValueError(f"{name} × chunk must be at most {MAX_CHUNK_VALUES} values, got {values} × {chunk}")
    _check_range(value_range)
    if classes is not None and not (_is_tuple(classes, num_classes) and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"classes must be num_classes={num_classes} names, got {classes!r}")


def check_file_chunk(chunk: int, image_shape: Sequence[int]) -> None:
    """Raise ``ValueError`` where a file, and not the caller, asks for chunks that take much memory to draw one image.

    Args:
        chunk: rows; 32 are always allowed.
        image_shape: ``(C, H, W)``; together more rows may have 2²² values.
    """
    if chunk > USUAL_CHUNK and chunk * math.prod(image_shape) > MAX_FILE_CHUNK_VALUES:
        raise ValueError(
            f"chunk may ask for at most {MAX_FILE_CHUNK_VALUES} values of images in a file, got {chunk} × "
            f"{tuple(image_shape)}: pass chunk={chunk} to Synthesizer.load if you want so many"
        )


def check_count(name: str, value: object, limit: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer in 1..limit."""
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{name} must be an integer in 1..{limit}, got {value!r}")


def check_arguments(arguments: object, *, where: str = "arguments") -> None:
    """Raise ``ValueError`` where constructor arguments from a JSON file could make a constructor run out of memory.

    Widths may be at most 65536 and what counts layers at most 256. Lists, which say something of each level, may have
    at most 32 items, and the longest list times all counts of layers may come to at most 256, since each layer is a
    Python object long before any tensor has memory.

    Args:
        arguments: a mapping from names to JSON values.
        where: what to call it in an error.
    """
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where} must be an object, got {arguments!r}")
    levels, layers = 1, {}
    for name, value in arguments.items():
        deep = any(word in name for word in ("layers", "blocks", "depth"))
        _check_value(f"{where}.{name}", value, _MAX_DEPTH if deep else _MAX_WIDTH, 0)
        if deep:
            layers[name] = max(_integers(value), default=1)
        if isinstance(value, list | tuple) and not _are_floats(value):
            levels = max(levels, len(value))
    if levels * math.prod(layers.values()) > _MAX_LAYERS:
        counts = ", ".join(f"{name}={count}" for name, count in layers.items())
        raise ValueError(
            f"{where} may ask for at most {_MAX_LAYERS} layers, got {counts or 'lists'} at {levels} levels: refused"
        )


def _check_value(where: str, value: Any, limit: int, nesting: int) -> None:
    if nesting > _MAX_NESTING:
        raise ValueError(f"{where} is nested more than {_MAX_NESTING} deep")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite, got {value!r}")
    elif isinstance(value, int):
        if abs(value) > limit:
            raise ValueError(f"{where} must be in -{limit}..{limit}, got {value!r}")
    elif isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{where} must have at most {_MAX_TEXT} characters, got {len(value)}")
    elif isinstance(value, Mapping | Sequence):
        most = _MAX_FLOATS if _are_floats(value) else _MAX_LIST
        if len(value) > most:
            raise ValueError(f"{where} must have at most {most} items, got {len(value)}")
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_value(where, item, limit, nesting + 1)
    elif value is not None:
        raise ValueError(f"{where} must be a JSON value, got {type(value).__name__}")


def _integers(value: Any) -> list[int]:
    """Return the integers in a JSON value, whose nesting was checked."""
    if isinstance(value, list | tuple):
        return [number for item in value for number in _integers(item)]
    return [abs(value)] if type(value) is int and value else []


def _are_floats(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, float) for item in value)


def _check_range(value_range: Any) -> None:
    if not _is_tuple(value_range, 2) or not all(
        type(bound) in (int, float) and math.isfinite(bound) for bound in value_range
    ):
        raise ValueError(f"value_range must be two finite numbers, got {value_range!r}")
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range must be (black, white) with black < white, got {value_range}")


def _is_tuple(value: object, length: object) -> bool:
    return isinstance(value, tuple) and len(value) == length
