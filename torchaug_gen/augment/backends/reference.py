"""The reference backend: what :mod:`torchaug_gen.augment.tables` defines, in plain differentiable PyTorch.

It runs on any device that has float64, and takes part in autograd with respect to the images, so that it can sit
inside the training of a GAN (differentiable augmentation: Zhao et al., "Differentiable Augmentation for
Data-Efficient GAN Training", NeurIPS 2020). Tables are host arrays, so samples are grouped on the host: nothing is
read back from the device.
"""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import CODE_BITS, NOISE_BLOCK, Code, Tables

Rows = npt.NDArray[np.int64]

# Where coordinates end that are infinite or no numbers: far outside, yet exact in float64.
_FAR = 2.0**40

# Random blocks that a CPU makes at a time.
_CHUNK = 1 << 14


def run(
    tables: Tables,
    images: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | list[Tensor]:
    """Return what the tables make of images.

    Gradients flow to floating images. Operations that quantise (POSTERIZE, EQUALIZE) have none; those that jump
    (SOLARIZE, NEAREST) have that of the branch that was taken.

    Args:
        tables: of N samples with C channels.
        images: ``(N, C, H, W)``, or N of ``(C, H, W)`` whose sizes may differ; uint8, or floating in [0, 1]; on any
            device. float32 and float64 are computed in as they are, others in float32.
        size: the height and width that all outputs must have.
        dtype: of the output; ``None`` means what is computed in. uint8 is rounded, and clamped to 0..255.

    Returns:
        ``(N, C, h, w)`` on the device of the images; N of ``(C, h, w)`` where their sizes differ.

    Raises:
        ValueError: another number of images or channels than the tables', or an output of another size than ``size``.
        TypeError: images or an output that are neither uint8 nor floating, or images of mixed dtypes or devices.
    """
    _check(tables, images, size, dtype)
    values = _floats(images)
    for p in range(int(tables.passes.max(initial=0))):
        active = np.flatnonzero(tables.passes > p)
        for members in _groups(tuple(tables.size[n, p].tolist()) for n in active):
            warped, rows = _warp(tables, p, active[members], values)
            changed, rows = _chain(tables, p, rows, warped)
            for row, value in zip(rows.tolist(), changed.unbind(), strict=True):
                values[row] = value
    outputs = [_cast(value, dtype) for value in values]
    if not outputs:
        shape = (0, tables.fill.shape[-1], *(size or (0, 0)))
        return torch.empty(shape, dtype=dtype, device=images.device if isinstance(images, Tensor) else None)
    return torch.stack(outputs) if len({output.shape for output in outputs}) == 1 else outputs


def _check(
    tables: Tables, images: Tensor | Sequence[Tensor], size: tuple[int, int] | None, dtype: torch.dtype | None
) -> None:
    if len(images) != len(tables):
        raise ValueError(f"images must be as many as the tables have samples, {len(tables)}, got {len(images)}")
    channels = tables.fill.shape[-1]
    for n, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(f"images must be ({channels}, H, W), got {tuple(image.shape)} at {n}")
        if image.dtype is not torch.uint8 and not image.is_floating_point():
            raise TypeError(f"images must be uint8 or floating, got {image.dtype} at {n}")
        if image.dtype != images[0].dtype or image.device != images[0].device:
            raise TypeError(
                f"images must share dtype and device, got {images[0].dtype} on {images[0].device} at 0 "
                f"and {image.dtype} on {image.device} at {n}"
            )
        last = tuple(tables.size[n, tables.passes[n] - 1].tolist())
        if size is not None and last != tuple(size):
            raise ValueError(f"outputs must have size {tuple(size)}, got {last} at {n}")
    if dtype is not None and dtype is not torch.uint8 and not dtype.is_floating_point:
        raise TypeError(f"dtype must be torch.uint8 or floating, got {dtype}")


def _floats(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return images as float32 or float64 in [0, 1]."""
    if isinstance(images, Tensor):
        return list(_to_floats(images).unbind())
    return [_to_floats(image) for image in images]


def _to_floats(image: Tensor) -> Tensor:
    if image.dtype is torch.uint8:
        return image.to(torch.float32) / 255
    return image if image.dtype in (torch.float32, torch.float64) else image.to(torch.float32)


def _cast(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is torch.uint8:
        return (values * 255).round().clamp(0, 255).to(torch.uint8)
    return values if dtype is None else values.to(dtype)


def _groups(keys: Iterable[Hashable]) -> list[Rows]:
    """Return the indices of equal keys, one array for each key."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [np.array(group) for group in groups.values()]


def _upload(array: npt.NDArray[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a host array on the device of ``like``; the copy from pinned memory doesn't wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype=dtype)
    if like.device.type != "cuda":
        return tensor.to(like.device)
    return tensor.pin_memory().to(like.device, non_blocking=True)


# Resampling


def _warp(tables: Tables, p: int, rows: Rows, sources: list[Tensor]) -> tuple[Tensor, Rows]:
    """Resample those ``sources`` that ``rows`` names to one size: ``(n, C, h, w)``, and which row each is of."""
    groups = [rows[members] for members in _groups(_warp_key(tables, n, p, sources[n].shape) for n in rows)]
    pieces = []
    for group in groups:
        images = [sources[n] for n in group]
        still = _is_identity(tables, group[0], p, images[0].shape)
        pieces.append(torch.stack(images) if still else _resample(tables, p, group, images))
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)), np.concatenate(groups)


def _warp_key(tables: Tables, n: int, p: int, shape: torch.Size) -> Hashable:
    """Return what samples share that are resampled together."""
    if _is_identity(tables, n, p, shape):
        return None
    filter_ = int(tables.filter[n, p])
    whole = _is_whole(tables, n, p, shape)
    # One sample with a wide tent must not make all others read as many taps.
    taps = tuple(math.ceil(2 * radius) for radius in tables.radius[n, p]) if filter_ == Filter.TENT else None
    return filter_, int(tables.padding[n, p]), None if whole else int(tables.canvas_padding[n, p]), taps


def _is_whole(tables: Tables, n: int, p: int, shape: torch.Size) -> bool:
    """Return whether the canvas is the image itself."""
    return bool((tables.canvas[n, p] == (0, 0, shape[2], shape[1])).all())


def _is_identity(tables: Tables, n: int, p: int, shape: torch.Size) -> bool:
    """Return whether resampling would copy the image."""
    left, top, right, bottom = tables.canvas[n, p]
    return (
        tuple(tables.size[n, p]) == tuple(shape[1:])
        and np.array_equal(tables.matrix[n, p], np.eye(3))
        and max(left, top) <= 0
        and right >= shape[2]
        and bottom >= shape[1]
        and (tables.filter[n, p] != Filter.TENT or bool((tables.radius[n, p] == 1).all()))
    )


@dataclass(frozen=True)
class _Group:
    """Samples that are resampled together in a pass.

    ``shapes`` are the sources' heights and widths, ``whole`` tells that their canvases are the images themselves.
    """

    p: int
    rows: Rows
    shapes: npt.NDArray[np.int64]
    whole: bool


@dataclass(frozen=True)
class _Axis:
    """How the samples of a group are resampled along one axis; tensors are ``(n, 1, 1)`` float64.

    ``low`` and ``high`` are where the canvas begins and ends, ``extent`` is the image's; ``canvas_padding`` is ``None``
    where the canvas is the image.
    """

    filter: Filter
    radius: Tensor
    taps: int
    low: Tensor
    high: Tensor
    extent: Tensor
    padding: Padding
    canvas_padding: Padding | None


@dataclass(frozen=True)
class _Taps:
    """What is read along one axis, each ``(taps, n, h, w)``; ``inside`` is False at fill values."""

    indices: Tensor
    weights: Tensor
    inside: Tensor


def _resample(tables: Tables, p: int, rows: Rows, images: list[Tensor]) -> Tensor:
    """Return ``(n, C, h, w)``: images of one group, resampled."""
    # All pixels of all images one after the other, so that one gather reads images of differing sizes.
    pixels = torch.cat([image.flatten(1) for image in images], dim=1)
    shapes = np.array([image.shape[1:] for image in images])
    starts = np.cumsum(shapes.prod(1)) - shapes.prod(1)
    group = _Group(p, rows, shapes, _is_whole(tables, rows[0], p, images[0].shape))
    x, y = _coordinates(tables, p, rows, pixels)
    horizontal, vertical = (_axis(tables, group, axis, pixels) for axis in (0, 1))
    across, down = _taps(x, horizontal), _taps(y, vertical)
    start = _upload(starts[:, None, None], pixels)
    width = _upload(shapes[:, 1, None, None], pixels)
    fill = _upload(tables.fill[rows, p].T[..., None, None], pixels, pixels.dtype)
    fills = Padding.FILL in (horizontal.padding, horizontal.canvas_padding)

    def read(j: int, i: int) -> Tensor:
        """Return the weighted values of one tap, (C, n, h, w)."""
        index = start + down.indices[j] * width + across.indices[i]
        tap = pixels.index_select(1, index.flatten()).reshape(-1, *index.shape)
        if fills:
            tap = torch.where(down.inside[j] & across.inside[i], tap, fill)
        return tap * (down.weights[j] * across.weights[i]).to(tap.dtype)

    taps = itertools.product(range(len(down.indices)), range(len(across.indices)))
    return functools.reduce(torch.add, (read(j, i) for j, i in taps)).transpose(0, 1).contiguous()


def _coordinates(tables: Tables, p: int, rows: Rows, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y in the source of each output pixel, ``(n, h, w)`` float64."""
    height, width = tables.size[rows[0], p].tolist()
    matrix = _upload(tables.matrix[rows, p].reshape(-1, 9, 1, 1), like).unbind(1)
    column = torch.arange(width, dtype=torch.float64, device=like.device)
    row = torch.arange(height, dtype=torch.float64, device=like.device)[:, None]
    x, y, w = (matrix[i] * column + matrix[i + 1] * row + matrix[i + 2] for i in (0, 3, 6))
    return (x / w).nan_to_num(_FAR).clamp(-_FAR, _FAR), (y / w).nan_to_num(_FAR).clamp(-_FAR, _FAR)


def _axis(tables: Tables, group: _Group, axis: int, like: Tensor) -> _Axis:
    """Return how a group is resampled along x (axis 0) or y (axis 1)."""
    at, first = (group.rows, group.p), (group.rows[0], group.p)
    canvas, radius, extent = tables.canvas[at], tables.radius[at][:, axis], group.shapes[:, 1 - axis]
    columns = np.stack([radius, canvas[:, axis], canvas[:, axis + 2], extent]).astype(np.float64)
    radius_, low, high, extent_ = _upload(columns[..., None, None], like).unbind()
    return _Axis(
        filter=Filter(tables.filter[first]),
        radius=radius_,
        taps=math.ceil(2 * radius.max()),
        low=low,
        high=high,
        extent=extent_,
        padding=Padding(tables.padding[first]),
        canvas_padding=None if group.whole else Padding(tables.canvas_padding[first]),
    )


def _taps(x: Tensor, axis: _Axis) -> _Taps:
    """Return what is read for coordinates ``x`` along an axis."""
    if axis.padding == Padding.REFLECT:
        x = _fold(x, axis.low, axis.high - 1)
    elif axis.padding == Padding.SYMMETRIC:
        x = _fold(x, axis.low - 0.5, axis.high - 0.5)
    if axis.padding != Padding.FILL:
        x = torch.clamp(x, axis.low, axis.high - 1)
    indices, weights = _weighted(x, axis)
    inside = torch.ones_like(indices, dtype=torch.bool)
    if axis.padding == Padding.FILL:
        inside = (indices >= axis.low) & (indices < axis.high)
    indices = _place(indices, axis.low, axis.high, axis.padding)
    if axis.canvas_padding is not None:
        if axis.canvas_padding == Padding.FILL:
            inside &= (indices >= 0) & (indices < axis.extent)
        indices = _place(indices, torch.zeros_like(axis.extent), axis.extent, axis.canvas_padding)
    return _Taps(indices.to(torch.int64), weights, inside)


def _weighted(x: Tensor, axis: _Axis) -> tuple[Tensor, Tensor]:
    """Return the indices of taps on the endless line, and their weights, both ``(taps, n, h, w)`` float64."""
    if axis.filter in (Filter.EXACT, Filter.NEAREST):
        indices = torch.floor(x + 0.5)[None]
        return indices, torch.ones_like(indices)
    if axis.filter == Filter.BILINEAR:
        first = torch.floor(x)
        return torch.stack([first, first + 1]), torch.stack([1 - (x - first), x - first])
    offsets = torch.arange(axis.taps, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
    indices = torch.floor(x - axis.radius) + 1 + offsets
    weights = (1 - (indices - x).abs() / axis.radius).clamp(min=0)
    if axis.padding == Padding.BORDER:
        weights = weights * ((indices >= axis.low) & (indices < axis.high))
    return indices, weights / weights.sum(0)


def _place(indices: Tensor, low: Tensor, high: Tensor, padding: Padding) -> Tensor:
    """Return which of the pixels low..high-1 shows at each index; any of them where the fill value does."""
    if padding == Padding.REFLECT:
        return _fold(indices, low, high - 1)
    if padding == Padding.SYMMETRIC:
        return _fold(indices, low - 0.5, high - 0.5)
    return torch.clamp(indices, low, high - 1)


def _fold(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Mirror ``x`` about ``low`` and ``high`` until it lies between."""
    span = high - low
    distance = torch.remainder(x - low, 2 * span)
    return torch.where(span > 0, low + torch.minimum(distance, 2 * span - distance), low)


# The chain of pixel operations


@dataclass(frozen=True)
class _Link:
    """What a group of samples shares in one link of their chains, and where their random numbers are."""

    flags: tuple[int, ...]
    key: tuple[int, int]
    positions: npt.NDArray[np.int64]
    epoch: int


def _chain(tables: Tables, p: int, rows: Rows, values: Tensor) -> tuple[Tensor, Rows]:
    """Run the operations of pass ``p`` over ``(n, C, h, w)`` values; samples come back in the order that is returned.

    Samples are sorted by operation anew in every link, which copies them once and not once for each operation.
    """
    for k in range(int(tables.links[rows, p].max(initial=0))):
        keys = [_link_key(tables, n, p, k) for n in rows.tolist()]
        groups = _groups(keys)
        pieces = []
        for group in groups:
            code, flags, operation = keys[group[0]]
            picked = values if len(groups) == 1 else values.index_select(0, _upload(group, values))
            arguments = _upload(tables.arguments[rows[group], p, k][..., None, None], values, values.dtype)
            key = int(tables.keys[operation, 0]), int(tables.keys[operation, 1])
            link = _Link(flags, key, tables.positions[rows[group]], int(tables.epoch))
            pieces.append(_OPERATIONS[code](picked, arguments, link))
        values = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        rows = rows[np.concatenate(groups)]
    return values, rows


def _link_key(tables: Tables, n: int, p: int, k: int) -> tuple[Code, tuple[int, ...], int]:
    """Return what samples share that an operation is applied to together: code, flags, and its index if random."""
    if k >= tables.links[n, p]:
        return Code.END, (), 0
    word = int(tables.codes[n, p, k])
    code = Code(word & ((1 << CODE_BITS) - 1))
    flags = tuple(int(tables.arguments[n, p, k, column]) for column in _FLAGS.get(code, ()))
    return code, flags, word >> CODE_BITS if code >= Code.ERASE else 0


# Each operation takes values (n, C, h, w), arguments (n, A, 1, 1) and the link, and returns new values.


def _unit(values: Tensor) -> Tensor:
    return values.clamp(0, 1)


def _grey(values: Tensor) -> Tensor:
    if values.shape[1] != 3:
        return values.mean(1, keepdim=True)
    return 0.299 * values[:, :1] + 0.587 * values[:, 1:2] + 0.114 * values[:, 2:]


def _end(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    return values


def _scale(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    channels = values.shape[1]
    out = values * arguments[:, 1 : 1 + channels] + arguments[:, 1 + channels : 1 + 2 * channels]
    return _unit(out) if link.flags[0] else out


def _matrix(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    # Sums are written out, because a matrix product on CUDA may round its factors to TF32.
    # Columns of the matrix lie three arguments apart.
    red, green, blue = values.split(1, dim=1)
    out = red * arguments[:, 1:10:3] + green * arguments[:, 2:10:3] + blue * arguments[:, 3:10:3] + arguments[:, 10:13]
    return _unit(out) if link.flags[0] else out


def _top_and_chroma(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return maximum and chroma (maximum - minimum) of each pixel's channels, and the chroma that may be divided by."""
    top = values.amax(1, keepdim=True)
    chroma = top - values.amin(1, keepdim=True)
    return top, chroma, torch.where(chroma > 0, chroma, 1)


def _hue(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    top, chroma, divisor = _top_and_chroma(values)
    red, green, blue = values.split(1, dim=1)
    sixths = torch.where(
        red == top,
        (green - blue) / divisor,
        torch.where(green == top, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # HSV to RGB without branches: f(n) = V - V·S·max(0, min(k, 4 - k, 1)), k = (n + 6 H) mod 6, n = 5, 3, 1.
    n = torch.arange(5, 0, -2, device=values.device).reshape(3, 1, 1)
    k = torch.remainder(n + sixths + 6 * arguments[:, :1], 6)
    return _unit(top - chroma * torch.minimum(k, 4 - k).clamp(0, 1))


def _saturate(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    top, chroma, divisor = _top_and_chroma(values)
    # V · clamp(factor · S) is the new chroma; a pixel without a positive maximum has no saturation.
    wanted = torch.minimum(chroma * arguments[:, :1], top).clamp(min=0)
    return _unit(top - (top - values) * (wanted / divisor))


def _gamma(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    gamma, gain = arguments[:, :1], arguments[:, 1:2]
    # The slope at 0 is infinite for gamma < 1; black gets no gradient instead of NaN.
    positive = values > 0
    power = _unit(torch.where(positive, values, 1)) ** gamma
    return _unit(gain * torch.where(positive, power, (gamma == 0).to(values.dtype)))


def _solarize(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    values = _unit(values + arguments[:, 1:2])
    return torch.where(values < arguments[:, :1], values, 1 - values)


def _levels(values: Tensor, *, rounded: bool) -> Tensor:
    return torch.floor(values * 255 + 0.5 if rounded else values * 255)


def _posterize(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    (style,), bits = link.flags, arguments[:, :1]
    if style == 1:
        steps = torch.exp2(bits).round()
        return torch.minimum(torch.floor(values * steps).clamp(min=0), steps - 1) / steps
    step = torch.exp2(8 - bits).round()
    coarse = torch.floor(_levels(values, rounded=style == 2) / step) * step / 255
    return torch.where(bits >= 8, values, torch.where(bits <= 0, 0, coarse))


def _permute(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    channels = arguments[:, : values.shape[1]].to(torch.int64)
    return values.gather(1, channels.expand_as(values))


def _contrast(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    factor = arguments[:, :1]
    # Summed in float64, so that the order of summation, which depends on the batch, leaves no trace.
    mean = _grey(values).mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(values.dtype)
    out = factor * values + (1 - factor) * mean
    return _unit(out) if link.flags[0] else out


def _autocontrast(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    style, clamp = link.flags
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    spread = high - low
    if style == 0:
        out = (values - low) / (spread + 1e-6)
        return _unit(out) if clamp else out
    flat = spread <= 0
    return _unit(torch.where(flat, values, (values - low) / torch.where(flat, 1, spread)))


def _equalize(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    levels = _levels(values, rounded=bool(link.flags[0])).clamp(0, 255).to(torch.int64).flatten(2)
    histogram = torch.zeros((*levels.shape[:2], 256), dtype=torch.int64, device=values.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    # The last level that occurs is the largest one.
    last = levels.amax(2, keepdim=True)
    step = (levels.shape[2] - histogram.gather(2, last)) // 255
    divisor = step.clamp(min=1)
    below = histogram.cumsum(2) - histogram
    # The first entry is 0 by itself, since half a step holds no whole one.
    table = ((below + step // 2) // divisor).clamp(0, 255)
    equalized = table.gather(2, levels).reshape(values.shape).to(values.dtype) / 255
    return torch.where(step[..., None] == 0, values, equalized)


def _sharpen(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    blurred = values
    if min(values.shape[2:]) >= 3:
        rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
        box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        inner = _unit((box + 4 * values[..., 1:-1, 1:-1]) / 13)
        blurred = values.clone()
        blurred[..., 1:-1, 1:-1] = _levels(inner, rounded=True) / 255 if link.flags[0] else inner
    return _unit(blurred + (values - blurred) * arguments[:, :1])


def _erase(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    height, width = values.shape[2:]
    row = torch.arange(height, device=values.device)[:, None]
    column = torch.arange(width, device=values.device)
    top, left, bottom, right = arguments[:, :4].split(1, dim=1)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    noise = bool(link.flags[0])
    return torch.where(inside, _normal(values, link) if noise else arguments[:, 5 : 5 + values.shape[1]], values)


def _noise(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    out = values + arguments[:, :1] + arguments[:, 1:2] * _normal(values, link)
    return _unit(out) if link.flags[0] else out


def _salt_pepper(values: Tensor, arguments: Tensor, link: _Link) -> Tensor:
    choice, colour = _random(values[:, :1] if link.flags[0] else values, link, _uniform_pair)
    # float64 holds words and arguments exactly, so that every backend decides alike.
    amount, salt = arguments[:, :1].to(torch.float64), arguments[:, 1:2].to(torch.float64)
    return torch.where(choice < amount, (colour < salt).to(values.dtype), values)


def _normal(values: Tensor, link: _Link) -> Tensor:
    """Return standard normal noise of the values' shape and dtype."""
    return _random(values, link, _box_muller)[0].to(values.dtype)


def _box_muller(words: tuple[Tensor, ...]) -> Tensor:
    radius = torch.sqrt(-2 * torch.log((words[0].to(torch.float64) + 1) * 2.0**-32))
    return (radius * torch.cos(words[1].to(torch.float64) * (2 * math.pi * 2.0**-32)))[None]


def _uniform_pair(words: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(words[1:3]).to(torch.float64) * 2.0**-32


def _random(values: Tensor, link: _Link, numbers: Callable[[tuple[Tensor, ...]], Tensor]) -> Tensor:
    """Return ``(k, *values.shape)`` float64: the ``k`` numbers that are made of each value's four random words."""
    low, high = (_upload(part[:, None], values) for part in (link.positions & 0xFFFFFFFF, link.positions >> 32))
    blocks = NOISE_BLOCK + torch.arange(values[0].numel(), device=values.device)
    # On a CPU the ten rounds run ten times as fast where their intermediate results fit the cache.
    samples, chunk = (len(low), len(blocks)) if values.is_cuda else (1, _CHUNK)
    rows = [
        torch.cat(
            [numbers(rng.philox((part, *position, link.epoch), link.key)) for part in blocks.split(chunk)], dim=-1
        )
        for position in zip(low.split(samples), high.split(samples), strict=True)
    ]
    return torch.cat(rows, dim=1).reshape(-1, *values.shape)


_OPERATIONS: dict[Code, Callable[[Tensor, Tensor, _Link], Tensor]] = {
    Code.END: _end,
    Code.SCALE: _scale,
    Code.MATRIX: _matrix,
    Code.HUE: _hue,
    Code.SATURATE: _saturate,
    Code.GAMMA: _gamma,
    Code.SOLARIZE: _solarize,
    Code.POSTERIZE: _posterize,
    Code.PERMUTE: _permute,
    Code.CONTRAST: _contrast,
    Code.AUTOCONTRAST: _autocontrast,
    Code.EQUALIZE: _equalize,
    Code.SHARPEN: _sharpen,
    Code.ERASE: _erase,
    Code.NOISE: _noise,
    Code.SALT_PEPPER: _salt_pepper,
}

# Arguments that choose between ways of computing; samples that differ in them are computed apart.
_FLAGS: dict[Code, tuple[int, ...]] = {
    Code.SCALE: (0,),
    Code.MATRIX: (0,),
    Code.POSTERIZE: (1,),
    Code.CONTRAST: (1,),
    Code.AUTOCONTRAST: (0, 1),
    Code.EQUALIZE: (0,),
    Code.SHARPEN: (1,),
    Code.ERASE: (4,),
    Code.NOISE: (2,),
    Code.SALT_PEPPER: (2,),
}
