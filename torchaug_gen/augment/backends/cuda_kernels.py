"""The kernels of the CUDA backend, in Triton.

A program computes one tile of one sample: it resamples, runs the chain of pixel operations over the values while they
are in registers, and stores them. What differs between samples is read from their records
(:mod:`torchaug_gen.augment.backends.cuda_records`), so that it costs branches which the whole program takes alike.

The values of a tile are a tuple of ``GROUP`` blocks, one for each channel. Images of more than four channels are
computed channel by channel, one to a program (``GROUP`` is 1), which keeps the number of registers bounded.
"""

# Triton knows no (*values, value), and capitals are its compile-time arguments, not constants.
# ruff: noqa: RUF005, SIM300
# Its language has types of its own.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

from typing import Any

import triton
import triton.language as tl

from torchaug_gen.augment.backends import cuda_records as records
from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import CODE_BITS, NOISE_BLOCK, Code, argument_count

TILE_HEIGHT, TILE_WIDTH = 16, 32
LARGEST_GROUP = 4

# Where coordinates end, relative to the corner of a tile: beyond any image, and sums still fit 32 bits.
_FAR = tl.constexpr(2.0**29)
_PIXEL = tl.constexpr(records.FRACTION)
_PER_PIXEL = tl.constexpr(2.0**-records.FRACTION)
_CODE_BITS, _CODE_MASK = tl.constexpr(CODE_BITS), tl.constexpr((1 << CODE_BITS) - 1)
_NOISE_BLOCK = tl.constexpr(NOISE_BLOCK)
# Partial statistics that are read at a time.
_PARTIALS = tl.constexpr(128)

_H, _W = tl.constexpr(TILE_HEIGHT), tl.constexpr(TILE_WIDTH)

_SOURCE, _TARGET, _POSITION = tl.constexpr(records.SOURCE), tl.constexpr(records.TARGET), tl.constexpr(records.POSITION)
_MATRIX, _SLOPES, _AFFINE = tl.constexpr(records.MATRIX), tl.constexpr(records.SLOPES), tl.constexpr(records.AFFINE)
_SIZE, _SOURCE_SIZE = tl.constexpr(records.SIZE), tl.constexpr(records.SOURCE_SIZE)
_SOURCE_STRIDES, _TARGET_STRIDES = tl.constexpr(records.SOURCE_STRIDES), tl.constexpr(records.TARGET_STRIDES)
_FILTER, _RADIUS, _TAPS = tl.constexpr(records.FILTER), tl.constexpr(records.RADIUS), tl.constexpr(records.TAPS)
_CANVAS, _PADDING = tl.constexpr(records.CANVAS), tl.constexpr(records.PADDING)
_CANVAS_PADDING, _FILL = tl.constexpr(records.CANVAS_PADDING), tl.constexpr(records.FILL)
_BEGIN, _END, _LAST = tl.constexpr(records.BEGIN), tl.constexpr(records.END), tl.constexpr(records.LAST)
_CODES, _ARGUMENTS = tl.constexpr(records.CODES), tl.constexpr(records.ARGUMENTS)
_KEYS, _EPOCH = tl.constexpr(records.KEYS), tl.constexpr(records.EPOCH)
_NEAREST, _BILINEAR = tl.constexpr(int(Filter.NEAREST)), tl.constexpr(int(Filter.BILINEAR))
_BORDER, _FILLED, _REFLECT = (tl.constexpr(int(rule)) for rule in (Padding.BORDER, Padding.FILL, Padding.REFLECT))
_SCALE, _MIX, _HUE, _SATURATE, _GAMMA, _SOLARIZE, _POSTERIZE, _PERMUTE = (
    tl.constexpr(int(code))
    for code in (
        Code.SCALE,
        Code.MATRIX,
        Code.HUE,
        Code.SATURATE,
        Code.GAMMA,
        Code.SOLARIZE,
        Code.POSTERIZE,
        Code.PERMUTE,
    )
)
_CONTRAST, _AUTOCONTRAST, _EQUALIZE, _SHARPEN, _ERASE, _NOISE, _SALT_PEPPER = (
    tl.constexpr(int(code))
    for code in (
        Code.CONTRAST,
        Code.AUTOCONTRAST,
        Code.EQUALIZE,
        Code.SHARPEN,
        Code.ERASE,
        Code.NOISE,
        Code.SALT_PEPPER,
    )
)


def options(channels: int, later: bool) -> dict[str, Any]:
    """Return what kernels are compiled with, besides dtypes.

    Args:
        channels: of the images.
        later: whether the step reads what another one left.
    """
    group = channels if channels <= LARGEST_GROUP else 1
    compiled: dict[str, Any] = {"C": channels, "A": argument_count(channels), "GROUP": group, "LATER": later}
    # The first step of three channels fits 80 registers, so that 24 warps run on a multiprocessor; ptxas by itself
    # takes up to 128, which leaves 16. With one channel it stops at 96 and spills a word; 128 is enough.
    registers = 128 if group == 1 else 80 if group == 3 and not later else None
    # FP fusion is set because Triton is about to change its default.
    compiled.update(num_warps=4, maxnreg=registers, enable_fp_fusion=True)
    return compiled


# Reading records


@triton.jit
def _float(at):
    return tl.load(at).to(tl.float32, bitcast=True)


@triton.jit
def _long(at):
    low = tl.load(at).to(tl.int64) & 0xFFFFFFFF
    return low | (tl.load(at + 1).to(tl.int64) << 32)


@triton.jit
def _address(at, TYPE: tl.constexpr):
    return _long(at).to(tl.pointer_type(TYPE), bitcast=True)


# Coordinates


@triton.jit
def _coordinates(record, x, y):
    """Return which source pixel a tile's corner falls into, and each pixel's place relative to it, along x and y.

    In float32 alone a place 500 pixels off the origin is uncertain by 6e-5 of a pixel; within a tile it is not.
    """
    left, top = x.to(tl.int64), y.to(tl.int64)
    matrix, slopes = record + _MATRIX, record + _SLOPES
    u = _long(matrix) * left + _long(matrix + 2) * top + _long(matrix + 4)
    v = _long(matrix + 6) * left + _long(matrix + 8) * top + _long(matrix + 10)
    column = tl.arange(0, _W)[None, :].to(tl.float32)
    row = tl.arange(0, _H)[:, None].to(tl.float32)
    a, b, c, d = _float(slopes), _float(slopes + 1), _float(slopes + 2), _float(slopes + 3)
    if tl.load(record + _AFFINE) != 0:
        i, j = (u >> _PIXEL).to(tl.int32), (v >> _PIXEL).to(tl.int32)
        along_x = _fraction(u) + b * row + a * column
        along_y = _fraction(v) + d * row + c * column
    else:
        w = _long(matrix + 12) * left + _long(matrix + 14) * top + _long(matrix + 16)
        e, f = _float(slopes + 4), _float(slopes + 5)
        i, j = _whole(u, w), _whole(v, w)
        # (u - i w) / w is u / w - i, without the digits that cancel.
        rest_u, rest_v = (u - i * w).to(tl.float32) * _PER_PIXEL, (v - j * w).to(tl.float32) * _PER_PIXEL
        below = w.to(tl.float32) * _PER_PIXEL + f * row + e * column
        along_x = (rest_u + (b - i * f) * row + (a - i * e) * column) / below
        along_y = (rest_v + (d - j * f) * row + (c - j * e) * column) / below
    return i, j, _bounded(along_x), _bounded(along_y)


@triton.jit
def _fraction(u):
    """Return what is left of a fixed-point number below the point, to 24 bits."""
    return ((u >> (_PIXEL - 24)) & 0xFFFFFF).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def _whole(u, w):
    """Return a whole number near u / w."""
    # Beyond 2²¹ pixels there is no image; a comparison with NaN is false.
    quotient = tl.floor(u.to(tl.float32) / w.to(tl.float32))
    quotient = tl.where(quotient < 2097152.0, quotient, 2097152.0)
    return tl.maximum(quotient, -2097152.0).to(tl.int32)


@triton.jit
def _bounded(x):
    return tl.maximum(tl.where(x < _FAR, x, _FAR), -_FAR)


@triton.jit
def _fold(x, low, high):
    """Mirror ``x`` about ``low`` and ``high`` until it lies between."""
    span = high - low
    period = tl.maximum(2.0 * span, 1e-6)
    distance = tl.abs(x - low)
    distance = distance - tl.floor(distance / period) * period
    folded = low + tl.minimum(distance, 2.0 * span - distance)
    # What lies between already keeps its last digits.
    return tl.where((x >= low) & (x <= high), x, tl.where(span > 0, folded, low))


@triton.jit
def _onto_canvas(x, corner, low, high, padding):
    """Apply the padding rule to coordinates relative to ``corner``."""
    if padding != _FILLED:
        first, last = (low - corner).to(tl.float32), (high - 1 - corner).to(tl.float32)
        if padding == _REFLECT:
            x = _fold(x, first, last)
        elif padding != _BORDER:
            x = _fold(x, first - 0.5, last + 0.5)
        x = tl.minimum(tl.maximum(x, first), last)
    return x


@triton.jit
def _place(i, low, high, padding):
    """Return which of the pixels low..high-1 shows at index ``i``, and whether any does."""
    inside = (i >= low) & (i < high)
    if padding >= _REFLECT:
        sharp = (padding == _REFLECT).to(tl.int32)
        period = tl.maximum(2 * (high - low - sharp), 1)
        distance = (i - low) % period
        distance = tl.where(distance < 0, distance + period, distance)
        i = low + tl.minimum(distance, period - distance - (1 - sharp))
    return tl.minimum(tl.maximum(i, low), high - 1), inside | (padding != _FILLED)


@triton.jit
def _pixel(i, axis):
    """Return which pixel of the image shows at index ``i`` along an axis, and the share of it that isn't the fill's."""
    low, high, extent, padding, within = axis
    inside = (i >= low) & (i < high)
    if (padding >= _REFLECT) | (within >= 0):
        i, inside = _place(i, low, high, padding)
        if within >= 0:
            i, there = _place(i, 0, extent, within)
            inside = inside & there
    else:
        i, inside = tl.minimum(tl.maximum(i, low), high - 1), inside | (padding != _FILLED)
    return i, inside


# Resampling


@triton.jit
def _tap(source, place, plane, channel, GROUP: tl.constexpr):
    values = ()
    for g in tl.static_range(GROUP):
        values = values + (tl.load(source + (channel + g) * plane + place).to(tl.float32),)
    return values


@triton.jit
def _add(total, values, weight, GROUP: tl.constexpr):
    sums = ()
    for g in tl.static_range(GROUP):
        sums = sums + (total[g] + values[g] * weight,)
    return sums


@triton.jit
def _times(values, weight, GROUP: tl.constexpr):
    products = ()
    for g in tl.static_range(GROUP):
        products = products + (values[g] * weight,)
    return products


@triton.jit
def _resample(record, x, y, channel, SOURCE: tl.constexpr, GROUP: tl.constexpr):
    """Return the values of a tile whose corner is (x, y)."""
    i, j, along_x, along_y = _coordinates(record, x, y)
    padding, within, canvas = tl.load(record + _PADDING), tl.load(record + _CANVAS_PADDING), record + _CANVAS
    height, width = tl.load(record + _SOURCE_SIZE), tl.load(record + _SOURCE_SIZE + 1)
    across = (tl.load(canvas), tl.load(canvas + 2), width, padding, within)
    down = (tl.load(canvas + 1), tl.load(canvas + 3), height, padding, within)
    along_x = _onto_canvas(along_x, i, across[0], across[1], padding)
    along_y = _onto_canvas(along_y, j, down[0], down[1], padding)
    source = _address(record + _SOURCE, SOURCE)
    strides = record + _SOURCE_STRIDES
    strides = (tl.load(strides), tl.load(strides + 1), tl.load(strides + 2))
    filter = tl.load(record + _FILTER)
    if filter <= _NEAREST:
        values, share = _nearest(source, strides, i, j, along_x, along_y, across, down, channel, GROUP)
    elif (filter == _BILINEAR) & (padding < _REFLECT) & (within < 0):
        values, share = _bilinear(source, strides, i, j, along_x, along_y, across, down, channel, GROUP)
    else:
        values, share = _tent(record, source, strides, i, j, along_x, along_y, across, down, channel, GROUP)
    filled = ()
    for g in tl.static_range(GROUP):
        value = values[g]
        if SOURCE == tl.uint8:
            # One Newton step makes the quotient as exact as a division's, so that 255 · (l / 255) is l.
            quotient = value * 0.003921568859368563
            value = tl.fma(tl.fma(quotient, -255.0, value), 0.003921568859368563, quotient)
        filled = filled + (value + _float(record + _FILL + channel + g) * (1.0 - share),)
    return filled


@triton.jit
def _nearest(source, strides, i, j, along_x, along_y, across, down, channel, GROUP: tl.constexpr):
    column, inside_x = _pixel(i + tl.floor(along_x + 0.5).to(tl.int32), across)
    row, inside_y = _pixel(j + tl.floor(along_y + 0.5).to(tl.int32), down)
    share = (inside_x & inside_y).to(tl.float32)
    values = _tap(source, row * strides[1] + column * strides[2], strides[0], channel, GROUP)
    return _times(values, share, GROUP), share


@triton.jit
def _bilinear(source, strides, i, j, along_x, along_y, across, down, channel, GROUP: tl.constexpr):
    """Interpolate where the canvas is the image and nothing is mirrored."""
    column_0, column_1, x_0, x_1 = _pair(i, along_x, across, strides[2])
    row_0, row_1, y_0, y_1 = _pair(j, along_y, down, strides[1])
    values = _times(_tap(source, row_0 + column_0, strides[0], channel, GROUP), y_0 * x_0, GROUP)
    values = _add(values, _tap(source, row_0 + column_1, strides[0], channel, GROUP), y_0 * x_1, GROUP)
    values = _add(values, _tap(source, row_1 + column_0, strides[0], channel, GROUP), y_1 * x_0, GROUP)
    values = _add(values, _tap(source, row_1 + column_1, strides[0], channel, GROUP), y_1 * x_1, GROUP)
    return values, (x_0 + x_1) * (y_0 + y_1)


@triton.jit
def _pair(corner, along, axis, stride):
    """Return where the two taps along an axis are, and their weights, 0 for the fill value's."""
    low, high, _, padding, _ = axis
    floor = tl.floor(along)
    first, second = corner + floor.to(tl.int32), corner + floor.to(tl.int32) + 1
    bordered = padding == _BORDER
    weight_0 = tl.where(((first >= low) & (first < high)) | bordered, 1.0 - (along - floor), 0.0)
    weight_1 = tl.where(((second >= low) & (second < high)) | bordered, along - floor, 0.0)
    first, second = tl.maximum(tl.minimum(first, high - 1), low), tl.maximum(tl.minimum(second, high - 1), low)
    return first * stride, second * stride, weight_0, weight_1


@triton.jit
def _tent(record, source, strides, i, j, along_x, along_y, across, down, channel, GROUP: tl.constexpr):
    """Sum all taps within a radius, in whatever canvas; that of bilinear interpolation is 1."""
    radius_x, radius_y = _float(record + _RADIUS), _float(record + _RADIUS + 1)
    slope_x, slope_y = 1.0 / radius_x, 1.0 / radius_y
    first_x, first_y = tl.floor(along_x - radius_x) + 1, tl.floor(along_y - radius_y) + 1
    taps_x, taps_y = tl.load(record + _TAPS), tl.load(record + _TAPS + 1)
    total = tl.zeros([_H, _W], tl.float32)
    share = total
    values = ()
    for _ in tl.static_range(GROUP):
        values = values + (total,)
    for q in range(taps_y):
        row, weight_y, shown_y = _tent_tap(j, first_y + q, along_y, slope_y, down)
        for p in range(taps_x):
            column, weight_x, shown_x = _tent_tap(i, first_x + p, along_x, slope_x, across)
            total += weight_y * weight_x
            share += shown_y * shown_x
            tap = _tap(source, row * strides[1] + column * strides[2], strides[0], channel, GROUP)
            values = _add(values, tap, shown_y * shown_x, GROUP)
    inverse = 1.0 / total
    return _times(values, inverse, GROUP), share * inverse


@triton.jit
def _tent_tap(corner, tap, along, slope, axis):
    """Return the pixel of a tap along an axis, its weight, and the part of it that isn't the fill value's."""
    weight = tl.maximum(1.0 - tl.abs(tap - along) * slope, 0.0)
    index = corner + tap.to(tl.int32)
    # Outside of a border nothing counts; the rest of the weights is scaled up.
    weight = tl.where((axis[3] != _BORDER) | ((index >= axis[0]) & (index < axis[1])), weight, 0.0)
    index, inside = _pixel(index, axis)
    return index, weight, tl.where(inside, weight, 0.0)


# Pixel operations on tuples of values


@triton.jit
def _unit(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _unit_where(value, wanted):
    return tl.where(wanted == 1.0, _unit(value), value)


@triton.jit
def _round(value):
    """Return the nearest whole number, the even one of two; for numbers below 2²²."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def _grey(v, C: tl.constexpr, GROUP: tl.constexpr):
    """Return the grey value of a pixel, or the one channel's share of it."""
    if C == 3:
        grey = 0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2]
    else:
        grey = v[0]
        for g in tl.static_range(1, GROUP):
            grey = grey + v[g]
        grey = grey * (1.0 / C)
    return grey


@triton.jit
def _scale(v, argument, channel, C: tl.constexpr, GROUP: tl.constexpr):
    clamp = _float(argument)
    out = ()
    for g in tl.static_range(GROUP):
        at = argument + 1 + channel + g
        out = out + (_unit_where(v[g] * _float(at) + _float(at + C), clamp),)
    return out


@triton.jit
def _mix(v, argument):
    clamp = _float(argument)
    out = ()
    for g in tl.static_range(3):
        m = argument + 1 + 3 * g
        mixed = v[0] * _float(m) + v[1] * _float(m + 1) + v[2] * _float(m + 2) + _float(argument + 10 + g)
        out = out + (_unit_where(mixed, clamp),)
    return out


@triton.jit
def _hue(v, argument):
    top = tl.maximum(tl.maximum(v[0], v[1]), v[2])
    chroma = top - tl.minimum(tl.minimum(v[0], v[1]), v[2])
    inverse = 1.0 / tl.where(chroma > 0, chroma, 1.0)
    sixths = tl.where(
        v[0] == top,
        (v[1] - v[2]) * inverse,
        tl.where(v[1] == top, 2.0 + (v[2] - v[0]) * inverse, 4.0 + (v[0] - v[1]) * inverse),
    )
    sixths = sixths + 6.0 * _float(argument)
    out = ()
    for g in tl.static_range(3):
        # HSV to RGB without branches: V - C · max(0, min(k, 4 - k, 1)), k = (n + 6 H) mod 6, n = 5, 3, 1.
        k = sixths + (5.0 - 2.0 * g)
        k = k - 6.0 * tl.floor(k * (1.0 / 6.0))
        out = out + (_unit(top - chroma * _unit(tl.minimum(k, 4.0 - k))),)
    return out


@triton.jit
def _saturate(v, argument):
    top = tl.maximum(tl.maximum(v[0], v[1]), v[2])
    chroma = top - tl.minimum(tl.minimum(v[0], v[1]), v[2])
    # The chroma becomes V · clamp(factor · S); without a positive maximum there is no saturation.
    wanted = tl.maximum(tl.minimum(chroma * _float(argument), top), 0.0)
    ratio = wanted / tl.where(chroma > 0, chroma, 1.0)
    out = ()
    for g in tl.static_range(3):
        out = out + (_unit(top - (top - v[g]) * ratio),)
    return out


@triton.jit
def _gamma(v, argument, GROUP: tl.constexpr):
    gamma, gain = _float(argument), _float(argument + 1)
    at_zero = tl.where(gamma == 0.0, 1.0, 0.0)
    out = ()
    for g in tl.static_range(GROUP):
        value = _unit(v[g])
        power = tl.exp2(gamma * tl.log2(tl.where(value > 0, value, 1.0)))
        out = out + (_unit(gain * tl.where(value > 0, power, at_zero)),)
    return out


@triton.jit
def _solarize(v, argument, GROUP: tl.constexpr):
    threshold, addition = _float(argument), _float(argument + 1)
    out = ()
    for g in tl.static_range(GROUP):
        value = _unit(v[g] + addition)
        out = out + (tl.where(value < threshold, value, 1.0 - value),)
    return out


@triton.jit
def _posterize(v, argument, GROUP: tl.constexpr):
    bits, style = _float(argument), _float(argument + 1)
    steps = tl.exp2(tl.where(style == 1.0, bits, 8.0 - bits))
    # Powers of two, which an approximate exponential might miss.
    steps = tl.floor(steps + 0.5)
    half = tl.where(style == 2.0, 0.5, 0.0)
    out = ()
    for g in tl.static_range(GROUP):
        if style == 1.0:
            value = tl.minimum(tl.maximum(tl.floor(v[g] * steps), 0.0), steps - 1.0) / steps
        else:
            value = tl.floor(tl.floor(v[g] * 255.0 + half) / steps) * steps * (1.0 / 255.0)
            value = tl.where(bits >= 8.0, v[g], tl.where(bits <= 0.0, 0.0, value))
        out = out + (value,)
    return out


@triton.jit
def _permute(v, argument, GROUP: tl.constexpr):
    out = ()
    for g in tl.static_range(GROUP):
        wanted = _float(argument + g)
        value = v[0]
        for h in tl.static_range(1, GROUP):
            value = tl.where(wanted == h, v[h], value)
        out = out + (value,)
    return out


@triton.jit
def _contrast(v, argument, mean, GROUP: tl.constexpr):
    factor, clamp = _float(argument), _float(argument + 1)
    out = ()
    for g in tl.static_range(GROUP):
        out = out + (_unit_where(factor * v[g] + (1.0 - factor) * mean, clamp),)
    return out


@triton.jit
def _autocontrast(v, argument, lows, count, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """Stretch values; minima of all channels, ``count`` to each, lie at ``lows``, and maxima behind them."""
    style, clamp = _float(argument), _float(argument + 1)
    out = ()
    for g in tl.static_range(GROUP):
        low = _lowest(lows + (channel + g) * count, count)
        high = -_lowest(lows + (C + channel + g) * count, count)
        if style == 0.0:
            value = _unit_where((v[g] - low) / (high - low + 1e-6), clamp)
        else:
            flat = high <= low
            value = _unit(tl.where(flat, v[g], (v[g] - low) / tl.where(flat, 1.0, high - low)))
        out = out + (value,)
    return out


@triton.jit
def _level(value, argument):
    """Return the level 0..255 that EQUALIZE counts a value as."""
    level = tl.floor(value * 255.0 + tl.where(_float(argument) == 1.0, 0.5, 0.0))
    return tl.minimum(tl.maximum(level, 0.0), 255.0).to(tl.int32)


@triton.jit
def _equalize(v, argument, cumulative, pixels, channel, GROUP: tl.constexpr):
    """Look levels up; ``cumulative`` holds how many values of a channel have each level or a lower one."""
    out = ()
    for g in tl.static_range(GROUP):
        table = cumulative + (channel + g) * 256
        # All values but those of the last level that occurs.
        counts = tl.load(table + tl.arange(0, 256))
        step = tl.max(tl.where(counts < pixels, counts, 0), axis=0) // 255
        divisor = tl.maximum(step, 1)
        level = _level(v[g], argument)
        below = tl.load(table + tl.maximum(level - 1, 0))
        below = tl.where(level > 0, below, 0)
        value = tl.minimum((below + step // 2) // divisor, 255).to(tl.float32) * (1.0 / 255.0)
        out = out + (tl.where(step > 0, value, v[g]),)
    return out


@triton.jit
def _sharpen(v, argument, record, x, y, channel, GROUP: tl.constexpr):
    """Sharpen values; it is the first link of a step, so that its neighbours are in the source."""
    factor, style = _float(argument), _float(argument + 1)
    height, width = tl.load(record + _SIZE), tl.load(record + _SIZE + 1)
    source = _address(record + _SOURCE, tl.float32)
    row, column = y + tl.arange(0, _H)[:, None], x + tl.arange(0, _W)[None, :]
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    out = ()
    for g in tl.static_range(GROUP):
        middle = source + (channel + g) * (height * width) + row * width + column
        total = 5.0 * v[g]
        for p in tl.static_range(3):
            for q in tl.static_range(3):
                if p != 1 or q != 1:
                    total += tl.load(middle + (p - 1) * width + (q - 1), mask=inner, other=0.0)
        blurred = _unit(total / 13.0)
        blurred = tl.where(style == 1.0, tl.floor(blurred * 255.0 + 0.5) * (1.0 / 255.0), blurred)
        blurred = tl.where(inner, blurred, v[g])
        out = out + (_unit(blurred + (v[g] - blurred) * factor),)
    return out


# Covers


@triton.jit
def _words(table, record, operation, x, y, channel):
    """Return three words of the Philox4x32-10 block of each pixel of a channel, uint32."""
    height, width = tl.load(record + _SIZE), tl.load(record + _SIZE + 1)
    row, column = y + tl.arange(0, _H)[:, None], x + tl.arange(0, _W)[None, :]
    key = table + tl.load(record + _KEYS) + 2 * operation
    k0, k1 = tl.load(key).to(tl.uint32, bitcast=True), tl.load(key + 1).to(tl.uint32, bitcast=True)
    c0 = (channel * (height * width) + row * width + column + _NOISE_BLOCK).to(tl.uint32, bitcast=True)
    c1 = tl.zeros_like(c0) + tl.load(record + _POSITION).to(tl.uint32, bitcast=True)
    c2 = tl.zeros_like(c0) + tl.load(record + _POSITION + 1).to(tl.uint32, bitcast=True)
    c3 = tl.zeros_like(c0) + tl.load(record + _EPOCH).to(tl.uint32, bitcast=True)
    for _ in range(10):
        high_0, high_2 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high_2 ^ c1 ^ k0, c2 * 0xCD9E8D57, high_0 ^ c3 ^ k1, c0 * 0xD2511F53
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2


@triton.jit
def _normal(word_0, word_1):
    """Return √(-2 ln u0) · cos(2π u1), u0 = (word_0 + 1) / 2³², u1 = word_1 / 2³²."""
    # Near 1 the logarithm is that of 1 - t, whose digits u0 would have lost.
    t = (word_0 ^ 0xFFFFFFFF).to(tl.float32) * 2.3283064365386963e-10
    series = t * (1.0 + t * (0.5 + t * (1.0 / 3.0 + t * (0.25 + t * 0.2))))
    u = (word_0.to(tl.float32) + 1.0) * 2.3283064365386963e-10
    minus_log = tl.where(t < 0.015625, series, -tl.log(u))
    # cos 2πu = sin 2π(1/4 - |u|), for u in [-1/2, 1/2), and the sine by its series: exact to 1e-7.
    turns = word_1.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    angle = (0.25 - tl.abs(turns)) * 6.283185307179586
    z = angle * angle
    sine = -2.505210838544172e-8
    sine = z * sine + 2.755731922398589e-6
    sine = z * sine - 1.984126984126984e-4
    sine = z * sine + 8.333333333333333e-3
    sine = z * sine - 0.16666666666666666
    return tl.sqrt(2.0 * minus_log) * (angle + angle * z * sine)


@triton.jit
def _cover(code, v, argument, table, record, operation, x, y, channel, GROUP: tl.constexpr):
    """Apply an operation that depends on the place; all of them share the code of random numbers, which is long."""
    first, second, third = _float(argument), _float(argument + 1), _float(argument + 2)
    inside, random = _inside(code, argument, x, y)
    apart = tl.where((code == _SALT_PEPPER) & (third == 1.0), 0, 1)
    out = ()
    for g in tl.static_range(GROUP):
        value = v[g]
        word_0 = tl.zeros([_H, _W], tl.uint32)
        word_1, word_2 = word_0, word_0
        if random:
            word_0, word_1, word_2 = _words(table, record, operation, x, y, (channel + g) * apart)
        if code == _SALT_PEPPER:
            colour = tl.where(_below(word_2, second), 1.0, 0.0)
            value = tl.where(_below(word_1, first), colour, value)
        else:
            normal = _normal(word_0, word_1)
            if code == _NOISE:
                value = _unit_where(value + first + second * normal, third)
            else:
                cover = tl.where(_float(argument + 4) == 1.0, normal, _float(argument + 5 + channel + g))
                value = tl.where(inside, cover, value)
        out = out + (value,)
    return out


@triton.jit
def _inside(code, argument, x, y):
    """Return which pixels lie in the box of ERASE, and whether an operation needs random numbers in this tile."""
    top, left, bottom, right = _float(argument), _float(argument + 1), _float(argument + 2), _float(argument + 3)
    row, column = (y + tl.arange(0, _H))[:, None], (x + tl.arange(0, _W))[None, :]
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    touched = (y + _H > top) & (y < bottom) & (x + _W > left) & (x < right)
    return inside, (code != _ERASE) | (touched & (_float(argument + 4) == 1.0))


@triton.jit
def _below(word, share):
    """Return where word / 2³² < share, exactly."""
    return word.to(tl.int64) < tl.ceil(share * 4294967296.0).to(tl.int64)


# Statistics


@triton.jit
def _at(found, depth, C: tl.constexpr):
    """Return where partials and histograms of a statistic of this program's sample begin."""
    partials, histograms, tiles, barriers = found
    number = tl.program_id(1) * barriers + depth
    return partials + number.to(tl.int64) * (2 * C) * tiles, histograms + number.to(tl.int64) * (C * 256)


@triton.jit
def _sum(partials, count):
    """Return the sum of partial sums, always in the same order."""
    total = tl.zeros([_PARTIALS], tl.float32)
    at = tl.arange(0, _PARTIALS)
    for first in range(0, count, _PARTIALS):
        total += tl.load(partials + first + at, mask=first + at < count, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _lowest(partials, count):
    low = tl.full([_PARTIALS], float("inf"), tl.float32)
    at = tl.arange(0, _PARTIALS)
    for first in range(0, count, _PARTIALS):
        low = tl.minimum(low, tl.load(partials + first + at, mask=first + at < count, other=float("inf")))
    return tl.min(low, axis=0)


# The chain


@triton.jit
def _origin(table, record, begin, end, channel, A: tl.constexpr):
    """Return which channel before link ``begin`` becomes ``channel`` before link ``end``."""
    for back in range(end - begin):
        link = end - 1 - back
        code = tl.load(table + tl.load(record + _CODES) + link) & _CODE_MASK
        if code == _PERMUTE:
            channel = _float(table + tl.load(record + _ARGUMENTS) + link * A + channel).to(tl.int32)
    return channel


@triton.jit
def _colour(code, v, argument, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """Apply an operation that needs no more than a pixel's values."""
    if code == _SCALE:
        v = _scale(v, argument, channel, C, GROUP)
    elif code == _GAMMA:
        v = _gamma(v, argument, GROUP)
    elif code == _SOLARIZE:
        v = _solarize(v, argument, GROUP)
    elif code == _POSTERIZE:
        v = _posterize(v, argument, GROUP)
    elif code == _PERMUTE:
        # A channel by itself was taken from the right place at the beginning.
        if GROUP > 1:
            v = _permute(v, argument, GROUP)
    elif C == 3:
        if code == _MIX:
            v = _mix(v, argument)
        elif code == _HUE:
            v = _hue(v, argument)
        elif code == _SATURATE:
            v = _saturate(v, argument)
    return v


@triton.jit
def _statistic(code, v, argument, found, depth, record, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """Apply an operation that needs a statistic of the image."""
    partials, histogram = _at(found, depth, C)
    count = _tiles(record)
    pixels = tl.load(record + _SIZE) * tl.load(record + _SIZE + 1)
    if code == _CONTRAST:
        mean = _sum(partials, count * (C // GROUP)) / pixels.to(tl.float32)
        v = _contrast(v, argument, mean, GROUP)
    elif code == _AUTOCONTRAST:
        v = _autocontrast(v, argument, partials, count, channel, C, GROUP)
    elif code == _EQUALIZE:
        v = _equalize(v, argument, histogram, pixels, channel, GROUP)
    return v


@triton.jit
def _chain(
    table,
    record,
    found,
    end,
    x,
    y,
    channel,
    C: tl.constexpr,
    A: tl.constexpr,
    GROUP: tl.constexpr,
    SOURCE: tl.constexpr,
    LATER: tl.constexpr,
):
    """Return the values of channels ``channel``.. of a tile, behind the links before ``end``.

    ``found`` is where statistics are: partials, histograms, the number of tiles and of statistics there is room for.
    """
    begin = tl.load(record + _BEGIN)
    depth = 0
    now = channel
    if GROUP < C:
        now = _origin(table, record, begin, end, channel, A)
    v = _resample(record, x, y, now, SOURCE, GROUP)
    for link in range(begin, end):
        word = tl.load(table + tl.load(record + _CODES) + link)
        argument = table + tl.load(record + _ARGUMENTS) + link * A
        code = word & _CODE_MASK
        if code < _CONTRAST:
            v = _colour(code, v, argument, now, C, GROUP)
            if GROUP < C:
                now = _origin(table, record, link + 1, end, channel, A)
        elif code == _SHARPEN:
            if LATER:
                v = _sharpen(v, argument, record, x, y, now, GROUP)
        elif code < _ERASE:
            v = _statistic(code, v, argument, found, depth, record, now, C, GROUP)
            depth += 1
        else:
            v = _cover(code, v, argument, table, record, word >> _CODE_BITS, x, y, now, GROUP)
    return v


@triton.jit
def _tiles(record):
    """Return how many tiles the output of a step has."""
    height, width = tl.load(record + _SIZE), tl.load(record + _SIZE + 1)
    return ((height + _H - 1) // _H) * ((width + _W - 1) // _W)


@triton.jit
def _corner(record, tile):
    """Return the corner of a tile, x and y."""
    across = (tl.load(record + _SIZE + 1) + _W - 1) // _W
    return tile % across * _W, tile // across * _H


# Kernels


@triton.jit(do_not_specialize=["words", "steps", "step", "tiles", "barriers"])
def render(
    table,
    partials,
    histograms,
    words,
    steps,
    step,
    tiles,
    barriers,
    C: tl.constexpr,
    A: tl.constexpr,
    GROUP: tl.constexpr,
    SOURCE: tl.constexpr,
    TARGET: tl.constexpr,
    LATER: tl.constexpr,
):
    """Compute a step: resample, run the chain, and store.

    Args:
        table: records, codes, arguments and keys, int32.
        partials: float32, ``barriers`` · 2 C · ``tiles`` for each sample.
        histograms: int32, ``barriers`` · C · 256 for each sample.
        words: of a record.
        steps: how many records a sample has.
        step: which one.
        tiles: how many tiles the largest output of the step has.
        barriers: how many statistics the step has at most.
        C: channels.
        A: arguments of a link.
        GROUP: how many channels a program computes.
        SOURCE: dtype of what is read.
        TARGET: dtype of the output.
        LATER: whether the step reads what another one left.
    """
    tile, sample, channel = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    record = table + (sample * steps + step) * words
    if tile >= _tiles(record):
        return
    x, y = _corner(record, tile)
    end = tl.load(record + _END)
    found = (partials, histograms, tiles, barriers)
    v = _chain(table, record, found, end, x, y, channel, C, A, GROUP, SOURCE, LATER)
    row, column = y + tl.arange(0, _H)[:, None], x + tl.arange(0, _W)[None, :]
    shown = (row < tl.load(record + _SIZE)) & (column < tl.load(record + _SIZE + 1))
    strides = record + _TARGET_STRIDES
    plane = tl.load(strides)
    place = row * tl.load(strides + 1) + column * tl.load(strides + 2) + channel * plane
    if tl.load(record + _LAST) != 0:
        output = _address(record + _TARGET, TARGET)
        for g in tl.static_range(GROUP):
            value = v[g]
            if TARGET == tl.uint8:
                value = _round(_unit(value) * 255.0)
            tl.store(output + place + g * plane, value.to(TARGET), mask=shown)
    else:
        scratch = _address(record + _TARGET, tl.float32)
        for g in tl.static_range(GROUP):
            tl.store(scratch + place + g * plane, v[g], mask=shown)


@triton.jit(do_not_specialize=["words", "steps", "step", "tiles", "barriers", "depth"])
def measure(
    table,
    partials,
    histograms,
    words,
    steps,
    step,
    tiles,
    barriers,
    depth,
    C: tl.constexpr,
    A: tl.constexpr,
    GROUP: tl.constexpr,
    SOURCE: tl.constexpr,
    LATER: tl.constexpr,
):
    """Compute statistic number ``depth`` of a step: partials of each tile, or the histogram, which starts from zeros.

    Other arguments are those of :func:`render`.
    """
    tile, sample, channel = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    record = table + (sample * steps + step) * words
    stop = tl.load(record + _FILL + C + depth) - 1
    count = _tiles(record)
    if (tile >= count) | (stop < 0):
        return
    x, y = _corner(record, tile)
    found = (partials, histograms, tiles, barriers)
    v = _chain(table, record, found, stop, x, y, channel, C, A, GROUP, SOURCE, LATER)
    partial, histogram = _at(found, depth, C)
    partial += tile
    row, column = y + tl.arange(0, _H)[:, None], x + tl.arange(0, _W)[None, :]
    shown = (row < tl.load(record + _SIZE)) & (column < tl.load(record + _SIZE + 1))
    code = tl.load(table + tl.load(record + _CODES) + stop) & _CODE_MASK
    if code == _CONTRAST:
        grey = tl.where(shown, _grey(v, C, GROUP), 0.0)
        tl.store(partial + channel * count, tl.sum(tl.sum(grey, axis=1), axis=0))
    elif code == _AUTOCONTRAST:
        for g in tl.static_range(GROUP):
            low = tl.min(tl.min(tl.where(shown, v[g], float("inf")), axis=1), axis=0)
            high = tl.min(tl.min(tl.where(shown, -v[g], float("inf")), axis=1), axis=0)
            tl.store(partial + (channel + g) * count, low)
            tl.store(partial + (C + channel + g) * count, high)
    else:
        argument = table + tl.load(record + _ARGUMENTS) + stop * A
        for g in tl.static_range(GROUP):
            level = _level(v[g], argument)
            counts = tl.histogram(tl.reshape(level, [_H * _W]), 256, mask=tl.reshape(shown, [_H * _W]))
            # A sum of cumulative histograms is the cumulative histogram of all.
            counts = tl.cumsum(counts, axis=0)
            bins = histogram + (channel + g) * 256 + tl.arange(0, 256)
            tl.atomic_add(bins, counts, mask=counts > 0, sem="relaxed")
