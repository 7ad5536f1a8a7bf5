"""What the settings of torchvision's transforms mean to the engine: names, interpolation, fill values, constants."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchaug_gen.augment.operation import CONSTANTS, Filter, Kind

# The integers of Pillow that torchvision takes for interpolation modes.
_PILLOW_MODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

Number = int | float


class UnreadableError(Exception):
    """A transform that cannot be read; the message is the reason."""


def library_name(module: object) -> str | None:
    """Return the name of torchvision's class that a transform is an instance of, subclasses excluded, else ``None``."""
    cls = type(module)
    return cls.__name__ if cls.__module__.startswith("torchvision.transforms") else None


def constants(kind: Kind, **values: Number | Sequence[Number]) -> tuple[float, ...]:
    """Return the constants of an operation in the order of ``CONSTANTS``, given by name; a range by four numbers."""
    names = [name.removesuffix("*4") for name in CONSTANTS[kind]]
    if set(names) != set(values):
        raise TypeError(f"constants of {kind.name} must be {names}, got {list(values)}")
    flat: list[float] = []
    for name in names:
        value = values[name]
        flat += [float(value)] if isinstance(value, int | float) else [float(number) for number in value]
    return tuple(flat)


def interpolation(module: Any) -> str:
    """Return the name of a transform's interpolation mode."""
    mode = module.interpolation
    mode = _PILLOW_MODES.get(mode, mode) if isinstance(mode, int) else getattr(mode, "value", mode)
    return str(mode)


def warp_filter(module: Any) -> Filter:
    """Return how a rotation, an affine or a perspective transform resamples.

    Raises:
        UnreadableError: an interpolation other than nearest and bilinear.
    """
    name = interpolation(module)
    if name not in ("nearest", "bilinear"):
        raise UnreadableError(f"interpolation {name!r}: warps interpolate by 'nearest' or 'bilinear'")
    return Filter.NEAREST if name == "nearest" else Filter.BILINEAR


def resize_filter(module: Any) -> tuple[Filter, int]:
    """Return how a resize resamples, and the code of the grid that it samples on.

    Raises:
        UnreadableError: an interpolation other than nearest, nearest-exact and bilinear.
    """
    name = interpolation(module)
    if name == "bilinear":
        return (Filter.TENT if module.antialias else Filter.BILINEAR), 0
    if name == "nearest-exact":
        return Filter.NEAREST, 0
    if name == "nearest":
        return Filter.NEAREST, 2
    raise UnreadableError(f"interpolation {name!r}: warps interpolate by 'nearest', 'nearest-exact' or 'bilinear'")


def entry_for_images(values: Mapping[Any, Any]) -> Any:
    """Return what a dict by type holds for images, ``None`` where it holds nothing for them."""
    names = {getattr(key, "__name__", key): value for key, value in values.items()}
    return next((names[name] for name in ("Image", "Tensor", "others") if name in names), None)


def fill(module: Any, *, floating: bool) -> tuple[float, ...]:
    """Return a transform's fill value in the units of floating images; see :func:`unit_values`."""
    value = module.fill
    if isinstance(value, Mapping):
        value = entry_for_images(value)
    if value is None:
        return (0.0,)
    return unit_values([value] if isinstance(value, int | float) else value, floating=floating)


def unit_values(values: Iterable[Number], *, floating: bool) -> tuple[float, ...]:
    """Return pixel values in the units of floating images.

    torchvision takes fill values, erasing values and thresholds in the units of the image it meets: levels 0..255 of
    uint8, or floating. Which one is meant is not written in the transform. After a conversion to floating values in the
    same pipeline it is known; elsewhere values of which one exceeds 1 are levels.

    Args:
        values: one value, or one per channel.
        floating: whether images are known to be floating at this point of the pipeline.
    """
    numbers = tuple(float(value) for value in values)
    if floating or max(numbers, default=0.0) <= 1.0:
        return numbers
    return tuple(number / 255.0 for number in numbers)
