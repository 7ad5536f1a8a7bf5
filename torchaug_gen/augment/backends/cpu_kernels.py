"""The Numba kernels of the CPU backend: resampling, pixel operations, statistics, and the walk over samples.

All kernels stand in this one file, because Numba's cache does not notice changes in another one. Memory is passed by
address, so that one compiled signature serves every batch: any strides, and images of differing sizes.

Vector instructions come from plain loops over contiguous float32 buffers. A loop that gathers is not vectorised, so
each row of a warp takes three: coordinates (vectorised), a plain copy of the taps, blending (vectorised).
"""

# Numba infers the types, which depend on the arguments.
# mypy: ignore-errors

import math
from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

# "contract" lets LLVM use fused multiply-adds; the other fast-math flags would make NaN undefined.
_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
# Only compiled code calls these: wrappers for Python's would double the time to compile them.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_entry = njit(**_OPTIONS)
# Without reference counts, which every slice of an array would cost; such a function cannot allocate.
_kernel = njit(**_OPTIONS, **_INNER, _nrt=False)
_allocating = njit(**_OPTIONS, **_INNER)
# Put into their callers as they are: compiled on their own, they would be optimised once more at each level.
_inlined = njit(**_OPTIONS, **_INNER, inline="always", _nrt=False)
_reduction = njit(**(_OPTIONS | {"fastmath": {"contract", "nsz", "reassoc"}}), **_INNER, _nrt=False)

f32 = np.float32
ZERO, HALF, ONE, TWO, THREE, FOUR, FIVE, SIX = (f32(value) for value in (0, 0.5, 1, 2, 3, 4, 5, 6))
LEVELS, PER_LEVEL = f32(255), f32(1 / 255)
HALF_AND_A_BIT = f32(0.5 + 2**-16)

# Mirrors of the enums, which Numba would not cache as constants.
NEAREST, BILINEAR, TENT = 1, 2, 3
BORDER, FILL, REFLECT, SYMMETRIC = 0, 1, 2, 3
SCALE, MATRIX, HUE, SATURATE, GAMMA, SOLARIZE, POSTERIZE, PERMUTE = 1, 2, 3, 4, 5, 6, 7, 8
CONTRAST, AUTOCONTRAST, EQUALIZE, SHARPEN = 9, 10, 11, 12
ERASE, NOISE, SALT_PEPPER = 13, 14, 15
# What operations become once their statistic is known: EQUALIZE, AUTOCONTRAST.
LOOK_UP, STRETCH = 100, 101
CODE_MASK, CODE_BITS = 255, 8
NOISE_BLOCK = 1 << 16

UINT8, FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2, 3

# Pixels of a tile, about: its planes stay in the first-level cache while the chain runs over it.
TILE = 1536


def _pointer(element: Any) -> Any:
    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), codegen

    return cast


_uint8_pointer = _pointer(types.uint8)
_uint16_pointer = _pointer(types.uint16)
_float32_pointer = _pointer(types.float32)


@intrinsic
def _float_of(typing_context: Any, bits: Any) -> Any:
    """Reinterpret the bits of an int32 as a float32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _bits_of(typing_context: Any, value: Any) -> Any:
    """Reinterpret the bits of a float32 as an int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@_inlined
def _clamp(x, low, high):
    # Written so that NaN becomes ``low``: a coordinate must never lead out of the buffer.
    x = x if x > low else low
    return x if x < high else high


@_inlined
def _unit(x):
    # NaN stays NaN in pixel values: a user must see it.
    x = ZERO if x < ZERO else x
    return ONE if x > ONE else x


# What lies where: index maps and the padded source.


@_kernel
def _folded_index(i, low, high, rule):
    """Return where pixel ``i`` shows of ``low..high-1`` under a padding rule, or -1 for the fill value."""
    if low <= i < high:
        return i
    n = high - low
    if rule == FILL:
        return -1
    if rule == BORDER or n == 1:
        return low if i < low else high - 1
    i -= low
    if rule == REFLECT:
        period = 2 * (n - 1)
        i = i % period
        return low + (period - i if i >= n else i)
    period = 2 * n
    i = i % period
    return low + (period - 1 - i if i >= n else i)


@_kernel
def _source_index(i, extent, low, high, outer, inner):
    """Return the pixel of the image that shows at canvas pixel ``i`` along an axis, or -1 for the fill value."""
    if not low <= i < high:
        if outer == FILL:
            return -1
        i = _folded_index(i, low, high, outer)
    return _folded_index(i, 0, extent, inner)


@_inlined
def _index_map(indices, first, count, extent, low, high, outer, inner):
    """Fill ``indices[j]`` with what shows at canvas pixel ``first + j``."""
    for j in range(count):
        indices[j] = _source_index(first + j, extent, low, high, outer, inner)


@_inlined
def _straight_run(indices, count):
    """Return begin, end and step of the first stretch where valid indices rise, or fall, by one."""
    begin = 0
    while begin < count and indices[begin] < 0:
        begin += 1
    step = -1 if begin + 1 < count and 0 <= indices[begin + 1] < indices[begin] else 1
    end = begin
    while end < count and 0 <= indices[end] == indices[begin] + (end - begin) * step:
        end += 1
    return begin, end, step


@_kernel
def _convert_run(out, source, at, stride, n, scale):
    """Convert ``n`` source values that are ``stride`` apart."""
    if stride == 1:
        straight = source[at : at + n]
        for x in range(n):
            out[x] = f32(straight[x]) * scale
    elif stride == -1:
        straight = source[at - n + 1 : at + 1]
        for x in range(n):
            out[x] = f32(straight[n - 1 - x]) * scale
    else:
        for x in range(n):
            out[x] = f32(source[at + x * stride]) * scale


@_kernel
def _word(source, at, step, channels):
    """Return the channels of one pixel, ``step`` bytes apart, in one word."""
    word = np.uint32(source[at]) | (np.uint32(source[at + step]) << 8) | (np.uint32(source[at + 2 * step]) << 16)
    if channels == 4:
        word |= np.uint32(source[at + 3 * step]) << 24
    return word


@_kernel
def _pack_words(words, pitch, source, strides, rows, row_count, columns, column_count, fill_word, channels):
    """Pack a window of a uint8 image into 32-bit words, one byte a channel, outside pixels included."""
    begin, end, step = _straight_run(columns, column_count)
    if step < 0:
        end = begin
    sc, sh, sw = strides[0], strides[1], strides[2]
    for j in range(row_count):
        out = words[j * pitch : j * pitch + column_count]
        if rows[j] < 0:
            for x in range(column_count):
                out[x] = fill_word
            continue
        base = rows[j] * sh
        for side in range(2):
            for x in range(0 if side == 0 else end, begin if side == 0 else column_count):
                out[x] = fill_word if columns[x] < 0 else _word(source, base + columns[x] * sw, sc, channels)
        if end <= begin:
            continue
        at = base + columns[begin] * sw
        n = end - begin
        inner = out[begin:end]
        if sw == 1:
            red, green, blue = source[at : at + n], source[at + sc : at + sc + n], source[at + 2 * sc : at + 2 * sc + n]
            for x in range(n):
                inner[x] = np.uint32(red[x]) | (np.uint32(green[x]) << 8) | (np.uint32(blue[x]) << 16)
            if channels == 4:
                last = source[at + 3 * sc : at + 3 * sc + n]
                for x in range(n):
                    inner[x] |= np.uint32(last[x]) << 24
        else:
            for x in range(n):
                inner[x] = _word(source, at + x * sw, sc, channels)


@_kernel
def _pack_planes(planes, first, pitch, plane, source, scale, strides, rows, row_count, columns, column_count, fill):
    """Copy a window of an image into float32 planes from ``planes[first]`` on, outside pixels included."""
    begin, end, step = _straight_run(columns, column_count)
    sc, sh, sw = strides[0], strides[1], strides[2]
    for c in range(len(fill)):
        for j in range(row_count):
            start = first + c * plane + j * pitch
            out = planes[start : start + column_count]
            if rows[j] < 0:
                for x in range(column_count):
                    out[x] = fill[c]
                continue
            base = rows[j] * sh + c * sc
            for side in range(2):
                for x in range(0 if side == 0 else end, begin if side == 0 else column_count):
                    out[x] = fill[c] if columns[x] < 0 else f32(source[base + columns[x] * sw]) * scale
            if end > begin:
                _convert_run(out[begin:end], source, base + columns[begin] * sw, step * sw, end - begin, scale)


# Coordinates.


@_kernel
def _fold(x, low, high, rule):
    """Fold a coordinate into ``low..high``, the centres of the first and last pixel."""
    if rule == REFLECT:
        period = TWO * (high - low)
        if period > ZERO:
            t = x - low
            t = t - period * np.floor(t / period)
            x = low + (t if t < period - t else period - t)
    elif rule == SYMMETRIC:
        edge = low - HALF
        period = TWO * (high - low + ONE)
        t = x - edge
        t = t - period * np.floor(t / period)
        x = edge + (t if t < period - t else period - t)
    return x


@_kernel
def _coordinates(xs, ys, n, m, y, left, top, bounds, spans, rule):
    """Fill source coordinates of output row ``y``, relative to the window's corner, folded and clamped.

    ``bounds`` holds the smallest and largest legal x, then y, and ``spans`` the centres of the canvas's outermost
    pixels, both relative to the window.
    """
    x_low, x_high, y_low, y_high = bounds[0], bounds[1], bounds[2], bounds[3]
    ax, ay = f32(m[0, 0]), f32(m[1, 0])
    if m[2, 0] == 0.0 and m[2, 1] == 0.0:
        w = 1.0 / m[2, 2]
        ax, ay = f32(m[0, 0] * w), f32(m[1, 0] * w)
        bx, by = f32((m[0, 1] * y + m[0, 2]) * w - left), f32((m[1, 1] * y + m[1, 2]) * w - top)
        for i in range(n):
            t = f32(np.int32(i))
            xs[i] = bx + ax * t
            ys[i] = by + ay * t
    else:
        bx, by = f32(m[0, 1] * y + m[0, 2]), f32(m[1, 1] * y + m[1, 2])
        aw, bw = f32(m[2, 0]), f32(m[2, 1] * y + m[2, 2])
        x0, y0 = f32(left), f32(top)
        for i in range(n):
            t = f32(np.int32(i))
            w = ONE / (bw + aw * t)
            xs[i] = (bx + ax * t) * w - x0
            ys[i] = (by + ay * t) * w - y0
    if rule >= REFLECT:
        for i in range(n):
            xs[i] = _fold(xs[i], spans[0], spans[1], rule)
            ys[i] = _fold(ys[i], spans[2], spans[3], rule)
    for i in range(n):
        xs[i] = _clamp(xs[i], x_low, x_high)
        ys[i] = _clamp(ys[i], y_low, y_high)


@_kernel
def _affine_taps(xs, ys, offsets, n, m, y, left, top, bounds, pitch):
    """Do what ``_coordinates`` and ``_tap_offsets`` do together, in one loop, where nothing is divided or folded."""
    x_low, x_high, y_low, y_high = bounds[0], bounds[1], bounds[2], bounds[3]
    w, step = 1.0 / m[2, 2], np.int32(pitch)
    ax, ay = f32(m[0, 0] * w), f32(m[1, 0] * w)
    bx, by = f32((m[0, 1] * y + m[0, 2]) * w - left), f32((m[1, 1] * y + m[1, 2]) * w - top)
    for i in range(n):
        t = f32(np.int32(i))
        u, v = _clamp(bx + ax * t, x_low, x_high), _clamp(by + ay * t, y_low, y_high)
        column, row = np.floor(u), np.floor(v)
        offsets[i] = np.int32(row) * step + np.int32(column)
        xs[i], ys[i] = u - column, v - row


@_kernel
def _tap_offsets(xs, ys, offsets, n, pitch):
    """Turn coordinates into fractions, and fill the offset of the upper left of their four taps."""
    for i in range(n):
        x, y = np.floor(xs[i]), np.floor(ys[i])
        offsets[i] = np.int32(y) * np.int32(pitch) + np.int32(x)
        xs[i] -= x
        ys[i] -= y


@_kernel
def _nearest_offsets(xs, ys, offsets, n, pitch):
    for i in range(n):
        # A little more than a half: composed matrices land on ties up to rounding.
        x, y = np.floor(xs[i] + HALF_AND_A_BIT), np.floor(ys[i] + HALF_AND_A_BIT)
        offsets[i] = np.int32(y) * np.int32(pitch) + np.int32(x)


# Warps of packed words.


@_inlined
def _unpack(word, shift):
    return f32(np.int32((word >> shift) & np.uint32(255)))


@_kernel
def _blend_words(out, taps, n, xs, ys, shift):
    """Blend one channel of packed taps."""
    a, b, c, d = taps[0, :n], taps[1, :n], taps[2, :n], taps[3, :n]
    for i in range(n):
        lower = ys[i] * PER_LEVEL
        upper = PER_LEVEL - lower
        right = xs[i]
        left = ONE - right
        value = _unpack(a[i], shift) * (left * upper) + _unpack(b[i], shift) * (right * upper)
        out[i] = value + _unpack(c[i], shift) * (left * lower) + _unpack(d[i], shift) * (right * lower)


@_kernel
def _blend_colours(red, green, blue, taps, n, xs, ys):
    """Blend three channels of packed taps, each tap being loaded once."""
    a, b, c, d = taps[0, :n], taps[1, :n], taps[2, :n], taps[3, :n]
    zero, eight, sixteen = np.uint32(0), np.uint32(8), np.uint32(16)
    for i in range(n):
        lower = ys[i] * PER_LEVEL
        upper = PER_LEVEL - lower
        right = xs[i]
        left = ONE - right
        p, q, r, s = left * upper, right * upper, left * lower, right * lower
        e, f, g, h = a[i], b[i], c[i], d[i]
        red[i] = _unpack(e, zero) * p + _unpack(f, zero) * q + _unpack(g, zero) * r + _unpack(h, zero) * s
        green[i] = _unpack(e, eight) * p + _unpack(f, eight) * q + _unpack(g, eight) * r + _unpack(h, eight) * s
        blue[i] = _unpack(e, sixteen) * p + _unpack(f, sixteen) * q + _unpack(g, sixteen) * r + _unpack(h, sixteen) * s


@_kernel
def _copy_taps(taps, n, words, offsets, pitch):
    a, b, c, d = taps[0], taps[1], taps[2], taps[3]
    for i in range(n):
        at = np.int64(offsets[i])
        a[i] = words[at]
        b[i] = words[at + 1]
        c[i] = words[at + pitch]
        d[i] = words[at + pitch + 1]


@_kernel
def _warp_words_row(buffer, start, plane, n, words, pitch, channels, nearest, xs, ys, offsets, taps):
    """Resample one row of packed words into float planes.

    ``xs`` and ``ys`` hold coordinates for the nearest pixel, else fractions of taps that stand at ``offsets``.
    """
    if nearest:
        _nearest_offsets(xs, ys, offsets, n, pitch)
        row = taps[0]
        for i in range(n):
            row[i] = words[np.int64(offsets[i])]
        for c in range(channels):
            out, shift = buffer[start + c * plane : start + c * plane + n], np.uint32(8 * c)
            for i in range(n):
                out[i] = _unpack(row[i], shift) * PER_LEVEL
        return
    _copy_taps(taps, n, words, offsets, pitch)
    red, green = buffer[start : start + n], buffer[start + plane : start + plane + n]
    _blend_colours(red, green, buffer[start + 2 * plane : start + 2 * plane + n], taps, n, xs, ys)
    if channels == 4:
        _blend_words(buffer[start + 3 * plane : start + 3 * plane + n], taps, n, xs, ys, np.uint32(24))


@_kernel
def _warp_planes_row(buffer, start, plane, n, planes, pitch, planes_plane, channels, nearest, xs, ys, offsets, taps):
    """Resample one row of float planes; see ``_warp_words_row``."""
    if nearest:
        _nearest_offsets(xs, ys, offsets, n, pitch)
        for c in range(channels):
            out, source = buffer[start + c * plane : start + c * plane + n], planes[c * planes_plane :]
            for i in range(n):
                out[i] = source[np.int64(offsets[i])]
        return
    for c in range(channels):
        _copy_taps(taps, n, planes[c * planes_plane :], offsets, pitch)
        _blend_planes(buffer[start + c * plane : start + c * plane + n], taps, n, xs, ys)


@_kernel
def _blend_planes(out, taps, n, xs, ys):
    a, b, c, d = taps[0, :n], taps[1, :n], taps[2, :n], taps[3, :n]
    for i in range(n):
        upper = a[i] + xs[i] * (b[i] - a[i])
        lower = c[i] + xs[i] * (d[i] - c[i])
        out[i] = upper + ys[i] * (lower - upper)


# Separable resampling, where rows and columns stay rows and columns.


@_kernel
def _axis_taps(starts, weights, n, scale, offset, taps, radius, tent, span, bounds, rule):
    """Fill first tap and weights of each of ``n`` output pixels along one axis.

    ``span`` holds the centres of the canvas's outermost pixels, ``bounds`` the legal coordinates, relative to the
    window as all else.
    """
    low, high = span[0], span[1]
    for i in range(n):
        x = _clamp(_fold(f32(scale * i + offset), low, high, rule), bounds[0], bounds[1])
        if not tent:
            start = np.floor(x)
            weights[0, i] = ONE - (x - start)
            weights[1, i] = x - start
        else:
            start = np.ceil(x - radius)
            total = ZERO
            for k in range(taps):
                at = start + f32(np.int32(k))
                weight = ONE - abs(at - x) / radius
                if weight < ZERO or (rule == BORDER and (at < low or at > high)):
                    weight = ZERO
                weights[k, i] = weight
                total += weight
            for k in range(taps):
                weights[k, i] /= total
        starts[i] = np.int32(start)


@_kernel
def _gather(out, source, n, offsets, base):
    for i in range(n):
        out[i] = source[base + np.int64(offsets[i])]


@_kernel
def _resample_words(ring, n, words, base, starts, weights, taps, channels, gathered):
    """Resample one row of packed words along x into rows of levels, one a channel."""
    tap = gathered[0, :n]
    red, green, blue = ring[:n], ring[n : 2 * n], ring[2 * n : 3 * n]
    for k in range(taps):
        weight = weights[k, :n]
        _gather(tap, words, n, starts, base + k)
        if k == 0:
            for i in range(n):
                w, word = weight[i], tap[i]
                red[i] = w * _unpack(word, np.uint32(0))
                green[i] = w * _unpack(word, np.uint32(8))
                blue[i] = w * _unpack(word, np.uint32(16))
        else:
            for i in range(n):
                w, word = weight[i], tap[i]
                red[i] += w * _unpack(word, np.uint32(0))
                green[i] += w * _unpack(word, np.uint32(8))
                blue[i] += w * _unpack(word, np.uint32(16))
        if channels == 4:
            last = ring[3 * n : 4 * n]
            for i in range(n):
                last[i] = (ZERO if k == 0 else last[i]) + weight[i] * _unpack(tap[i], np.uint32(24))


@_kernel
def _resample_planes(ring, n, planes, plane, base, starts, weights, taps, channels, gathered):
    """Resample one row of float planes along x into rows, one a channel."""
    for c in range(channels):
        out = ring[c * n : (c + 1) * n]
        for k in range(taps):
            tap, weight = gathered[0, :n], weights[k, :n]
            _gather(tap, planes, n, starts, base + c * plane + k)
            if k == 0:
                for i in range(n):
                    out[i] = weight[i] * tap[i]
            else:
                for i in range(n):
                    out[i] += weight[i] * tap[i]


@_kernel
def _sum_rows(buffer, start, plane, n, ring, first, weights, y, taps, channels, scale):
    """Add up the resampled rows of one output row."""
    size = channels * n
    for c in range(channels):
        out = buffer[start + c * plane : start + c * plane + n]
        if taps == 2:
            at = (first % taps) * size + c * n
            upper = ring[at : at + n]
            at = ((first + 1) % taps) * size + c * n
            lower = ring[at : at + n]
            a, b = weights[0, y] * scale, weights[1, y] * scale
            for i in range(n):
                out[i] = upper[i] * a + lower[i] * b
            continue
        for k in range(taps):
            at = ((first + k) % taps) * size + c * n
            row, weight = ring[at : at + n], weights[k, y] * scale
            if k == 0:
                for i in range(n):
                    out[i] = weight * row[i]
            else:
                for i in range(n):
                    out[i] += weight * row[i]


# Antialiased resampling under any homography.


@_kernel
def _tent_row_weights(xs, n, starts, weights, taps, radius, low, high, rule):
    """Fill first taps and normalised weights along one axis for each pixel of a row."""
    total = weights[taps, :n]
    for i in range(n):
        starts[i] = np.int32(np.ceil(xs[i] - radius))
        total[i] = ZERO
    for k in range(taps):
        weight, step = weights[k, :n], f32(np.int32(k))
        for i in range(n):
            at = f32(starts[i]) + step
            value = ONE - abs(at - xs[i]) / radius
            value = value if value > ZERO else ZERO
            if rule == BORDER:
                value = value if low <= at <= high else ZERO
            weight[i] = value
            total[i] += value
    for k in range(taps):
        weight = weights[k, :n]
        for i in range(n):
            weight[i] /= total[i]


@_kernel
def _tent_words_row(buffer, start, plane, n, words, pitch, channels, starts, wx, taps_x, wy, taps_y, gathered):
    for c in range(channels):
        buffer[start + c * plane : start + c * plane + n] = ZERO
    red, green = buffer[start : start + n], buffer[start + plane : start + plane + n]
    blue = buffer[start + 2 * plane : start + 2 * plane + n]
    last = buffer[start + (channels - 1) * plane : start + (channels - 1) * plane + n]
    tap = gathered[0, :n]
    for ky in range(taps_y):
        for kx in range(taps_x):
            _gather(tap, words, n, starts, ky * pitch + kx)
            a, b = wx[kx, :n], wy[ky, :n]
            for i in range(n):
                weight, word = a[i] * b[i] * PER_LEVEL, tap[i]
                red[i] += weight * _unpack(word, np.uint32(0))
                green[i] += weight * _unpack(word, np.uint32(8))
                blue[i] += weight * _unpack(word, np.uint32(16))
            if channels == 4:
                for i in range(n):
                    last[i] += a[i] * b[i] * PER_LEVEL * _unpack(tap[i], np.uint32(24))


@_kernel
def _tent_planes_row(
    buffer, start, plane, n, planes, pitch, planes_plane, channels, starts, wx, taps_x, wy, taps_y, gathered
):
    tap = gathered[0, :n]
    for c in range(channels):
        out = buffer[start + c * plane : start + c * plane + n]
        out[:] = ZERO
        for ky in range(taps_y):
            for kx in range(taps_x):
                _gather(tap, planes, n, starts, c * planes_plane + ky * pitch + kx)
                a, b = wx[kx, :n], wy[ky, :n]
                for i in range(n):
                    out[i] += a[i] * b[i] * tap[i]


# Pixel operations.


@_kernel
def _scale(buffer, at, plane, n, channels, arguments):
    for c in range(channels):
        v = buffer[at + c * plane : at + c * plane + n]
        a, b = arguments[1 + c], arguments[1 + channels + c]
        if arguments[0] != ZERO:
            for i in range(n):
                v[i] = _unit(v[i] * a + b)
        else:
            for i in range(n):
                v[i] = v[i] * a + b


@_kernel
def _stretch(buffer, at, plane, n, channels, arguments):
    # The difference first: a flat image has a factor of a million, which would magnify rounding.
    for c in range(channels):
        v = buffer[at + c * plane : at + c * plane + n]
        a, low = arguments[1 + c], arguments[1 + channels + c]
        for i in range(n):
            v[i] = (v[i] - low) * a
        if arguments[0] != ZERO:
            for i in range(n):
                v[i] = _unit(v[i])


@_kernel
def _matrix(r, g, b, n, m):
    clamp = m[0] != ZERO
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9]
    b0, b1, b2 = m[10], m[11], m[12]
    if clamp:
        for i in range(n):
            x, y, z = r[i], g[i], b[i]
            r[i] = _unit(m00 * x + m01 * y + m02 * z + b0)
            g[i] = _unit(m10 * x + m11 * y + m12 * z + b1)
            b[i] = _unit(m20 * x + m21 * y + m22 * z + b2)
    else:
        for i in range(n):
            x, y, z = r[i], g[i], b[i]
            r[i] = m00 * x + m01 * y + m02 * z + b0
            g[i] = m10 * x + m11 * y + m12 * z + b1
            b[i] = m20 * x + m21 * y + m22 * z + b2


@_kernel
def _hue_channel(top, delta, h, place):
    """Return a channel of the colour with hue ``h`` in sixths of a turn, by f(n) = V - VS max(0, min(k, 4 - k, 1))."""
    k = h + place
    k = k - SIX * np.floor(k * f32(1 / 6))
    k = k if k < FOUR - k else FOUR - k
    return _unit(top - delta * _unit(k))


@_kernel
def _hue(r, g, b, n, turns):
    shift = turns * SIX
    for i in range(n):
        x, y, z = r[i], g[i], b[i]
        top = x if x > y else y
        top = top if top > z else z
        low = x if x < y else y
        low = low if low < z else z
        delta = top - low
        over = ONE / (delta if delta > ZERO else ONE)
        h = FOUR + (x - y) * over
        h = TWO + (z - x) * over if y == top else h
        h = (y - z) * over if x == top else h
        h += shift
        r[i] = _hue_channel(top, delta, h, FIVE)
        g[i] = _hue_channel(top, delta, h, THREE)
        b[i] = _hue_channel(top, delta, h, ONE)


@_kernel
def _saturate(r, g, b, n, factor):
    for i in range(n):
        x, y, z = r[i], g[i], b[i]
        top = x if x > y else y
        top = top if top > z else z
        low = x if x < y else y
        low = low if low < z else z
        delta = top - low
        # V · clamp(factor · S), where S = delta / V.
        new = _clamp(factor * delta, ZERO, top)
        ratio = new / (delta if delta > ZERO else ONE)
        r[i] = _unit(top - (top - x) * ratio)
        g[i] = _unit(top - (top - y) * ratio)
        b[i] = _unit(top - (top - z) * ratio)


@_kernel
def _log2(x):
    """Return log2 of a positive normal float32, with an absolute error below 1e-7 plus rounding."""
    bits = _bits_of(x)
    # The mantissa is brought to √½..√2, where the series in s = (m - 1)/(m + 1) needs five terms.
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    m = _float_of(np.int32(bits - (exponent << np.int32(23))))
    s = (m - ONE) / (m + ONE)
    return f32(exponent) + _log2_series(s)


@_kernel
def _log2_series(s):
    t = s * s
    series = f32(0.32059890) * t + f32(0.41219859)
    series = series * t + f32(0.57707802)
    series = series * t + f32(0.96179669)
    series = series * t + f32(2.88539008)
    return s * series


@_kernel
def _exp2(x):
    """Return 2^x for x ≤ 126; 0 below -126."""
    x = _clamp(x, f32(-126), f32(126))
    whole = np.floor(x + HALF)
    t = x - whole
    series = f32(1.52527e-5) * t + f32(1.540353e-4)
    series = series * t + f32(1.33335581e-3)
    series = series * t + f32(9.61812911e-3)
    series = series * t + f32(5.55041087e-2)
    series = series * t + f32(2.40226507e-1)
    series = series * t + f32(6.93147181e-1)
    series = series * t + ONE
    return series * _float_of(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


@_kernel
def _gamma(v, n, gamma, gain):
    at_zero = ONE if gamma == ZERO else ZERO
    tiny = f32(1e-30)
    for i in range(n):
        x = _unit(v[i])
        power = _exp2(gamma * _log2(x if x > tiny else tiny))
        v[i] = _unit(gain * (power if x > tiny else at_zero))


@_kernel
def _solarize(v, n, threshold, addition):
    for i in range(n):
        x = _unit(v[i] + addition)
        v[i] = x if x < threshold else ONE - x


@_kernel
def _posterize(v, n, bits, style):
    whole = np.int32(bits)
    if style == 1:
        levels = f32(np.int32(1) << whole)
        for i in range(n):
            v[i] = _clamp(np.floor(v[i] * levels), ZERO, levels - ONE) / levels
        return
    if whole >= 8:
        return
    step = f32(np.int32(1) << (np.int32(8) - whole))
    rounding = HALF if style == 2 else ZERO
    for i in range(n):
        level = np.floor(v[i] * LEVELS + rounding)
        v[i] = np.floor(level / step) * step * PER_LEVEL if whole > 0 else ZERO


@_kernel
def _permute(buffer, at, plane, n, channels, arguments, kept):
    for i in range(n):
        for c in range(channels):
            kept[c] = buffer[at + c * plane + i]
        for c in range(channels):
            buffer[at + c * plane + i] = kept[np.int64(arguments[c])]


@_kernel
def _look_up(buffer, at, plane, n, channels, table, rounding):
    for c in range(channels):
        v, levels = buffer[at + c * plane : at + c * plane + n], table[c]
        for i in range(n):
            v[i] = levels[np.int64(_clamp(v[i] * LEVELS + rounding, ZERO, LEVELS))]


# Covers.


@_kernel
def _philox(c0, c1, c2, c3, k0, k1):
    """Return words 0, 1 and 2 of one Philox4x32-10 block."""
    for _ in range(10):
        p0, p1 = np.uint64(c0) * np.uint64(0xD2511F53), np.uint64(c2) * np.uint64(0xCD9E8D57)
        c0, c1 = np.uint32(p1 >> np.uint64(32)) ^ c1 ^ k0, np.uint32(p1 & np.uint64(0xFFFFFFFF))
        c2, c3 = np.uint32(p0 >> np.uint64(32)) ^ c3 ^ k1, np.uint32(p0 & np.uint64(0xFFFFFFFF))
        k0, k1 = np.uint32(k0 + np.uint32(0x9E3779B9)), np.uint32(k1 + np.uint32(0xBB67AE85))
    return c0, c1, c2


@_kernel
def _random_words(words, n, block, key, position, epoch):
    """Fill the first three words of ``n`` blocks from ``block`` on."""
    low, high = np.uint32(position & 0xFFFFFFFF), np.uint32((position >> 32) & 0xFFFFFFFF)
    a, b, c = words[0, :n], words[1, :n], words[2, :n]
    for i in range(n):
        first = np.uint32(np.uint32(block) + np.uint32(i))
        a[i], b[i], c[i] = _philox(first, low, high, np.uint32(epoch), key[0], key[1])


@_kernel
def _normal(word0, word1):
    """Return √(-2 ln u0) · cos(2π u1) of two words, by Box and Muller."""
    u = (f32(word0) + ONE) * f32(2.0**-32)
    # Near 1 the logarithm is taken of the distance to 1, which is exact.
    rest = f32(np.uint32(0xFFFFFFFF) - word0) * f32(2.0**-32)
    log = _log2_series(-rest / (TWO - rest)) if rest < f32(0.25) else _log2(u)
    radius = np.sqrt(f32(-1.3862943611198906) * log)
    # In half turns; cos is even, and cos(π - t) = -cos t.
    t = abs(f32(np.int32(word1))) * f32(2.0**-31)
    far = t > HALF
    t = (ONE - t if far else t) * f32(math.pi)
    t = t * t
    series = f32(-1.1470745e-11) * t + f32(2.0876757e-9)
    series = series * t - f32(2.7557319e-7)
    series = series * t + f32(2.4801587e-5)
    series = series * t - f32(1.3888889e-3)
    series = series * t + f32(4.1666667e-2)
    series = series * t - HALF
    cosine = series * t + ONE
    return radius * (-cosine if far else cosine)


@_kernel
def _erase(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words):
    """Erase what lies of the box in the tile of ``rows`` rows from ``top`` on."""
    left, right = max(np.int64(arguments[1]), 0), min(np.int64(arguments[3]), width)
    n = right - left
    if n <= 0:
        return
    for y in range(max(np.int64(arguments[0]), top), min(np.int64(arguments[2]), top + rows)):
        for c in range(channels):
            start = at + c * plane + (y - top) * width + left
            v = buffer[start : start + n]
            if arguments[4] == ZERO:
                for i in range(n):
                    v[i] = arguments[5 + c]
            else:
                _random_words(words, n, NOISE_BLOCK + (c * height + y) * width + left, key, position, epoch)
                for i in range(n):
                    v[i] = _normal(words[0, i], words[1, i])


@_kernel
def _noise(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words):
    mean, sigma, clamp = arguments[0], arguments[1], arguments[2] != ZERO
    a, b = words[0, :width], words[1, :width]
    for y in range(rows):
        for c in range(channels):
            v = buffer[at + c * plane + y * width : at + c * plane + (y + 1) * width]
            _random_words(words, width, NOISE_BLOCK + (c * height + top + y) * width, key, position, epoch)
            for i in range(width):
                v[i] += mean + sigma * _normal(a[i], b[i])
            if clamp:
                for i in range(width):
                    v[i] = _unit(v[i])


@_kernel
def _salt_pepper(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words):
    amount, salt, shared = arguments[0], arguments[1], arguments[2] != ZERO
    for y in range(rows):
        for c in range(channels):
            v = buffer[at + c * plane + y * width : at + c * plane + (y + 1) * width]
            if c == 0 or not shared:
                _random_words(words, width, NOISE_BLOCK + (c * height + top + y) * width, key, position, epoch)
            for i in range(width):
                if np.float64(words[1, i]) * 2.0**-32 < np.float64(amount):
                    v[i] = ONE if np.float64(words[2, i]) * 2.0**-32 < np.float64(salt) else ZERO


# Statistics.


@_reduction
def _grey_sum(buffer, at, plane, n, channels):
    """Return the sum of grey values of a tile; float32 within it, since a tile is short."""
    total = ZERO
    if channels == 3:
        r, g, b = buffer[at : at + n], buffer[at + plane : at + plane + n], buffer[at + 2 * plane : at + 2 * plane + n]
        for i in range(n):
            total += f32(0.299) * r[i] + f32(0.587) * g[i] + f32(0.114) * b[i]
        return total
    for c in range(channels):
        v = buffer[at + c * plane : at + c * plane + n]
        for i in range(n):
            total += v[i]
    return total / f32(channels)


@_kernel
def _extremes(buffer, at, plane, n, channels, statistic):
    for c in range(channels):
        v = buffer[at + c * plane : at + c * plane + n]
        low, high = f32(statistic[c, 0]), f32(statistic[c, 1])
        for i in range(n):
            x = v[i]
            low = x if x < low else low
            high = x if x > high else high
        statistic[c, 0], statistic[c, 1] = low, high


@_kernel
def _count_levels(buffer, at, plane, n, channels, histogram, rounding):
    for c in range(channels):
        v, counts = buffer[at + c * plane : at + c * plane + n], histogram[c]
        for i in range(n):
            counts[np.int64(_clamp(v[i] * LEVELS + rounding, ZERO, LEVELS))] += 1


@_inlined
def _begin_statistic(code, statistic, histogram):
    statistic[:, 0] = np.inf if code == AUTOCONTRAST else 0.0
    statistic[:, 1] = -np.inf
    if code == EQUALIZE:
        histogram[:] = 0


@_inlined
def _gather_statistic(code, arguments, buffer, at, plane, n, channels, statistic, histogram):
    if code == CONTRAST:
        statistic[0, 0] += _grey_sum(buffer, at, plane, n, channels)
    elif code == AUTOCONTRAST:
        _extremes(buffer, at, plane, n, channels, statistic)
    elif code == EQUALIZE:
        _count_levels(buffer, at, plane, n, channels, histogram, HALF if arguments[0] != ZERO else ZERO)


@_kernel
def _equalizing_levels(table, counts, pixels):
    """Fill the look-up table of one channel; return whether it changes anything."""
    last = 255
    while last > 0 and counts[last] == 0:
        last -= 1
    step = (pixels - counts[last]) // 255
    if step == 0:
        return False
    total = 0
    for level in range(256):
        table[level] = f32(min((total + step // 2) // step, 255)) * PER_LEVEL
        total += counts[level]
    table[0] = ZERO
    return True


@_kernel
def _resolve(code, arguments, resolved, statistic, histogram, table, pixels, channels, changes):
    """Turn an operation whose statistic is known into one that needs none; return its code."""
    if code == CONTRAST:
        factor = arguments[0]
        resolved[0] = arguments[1]
        for c in range(channels):
            resolved[1 + c] = factor
            resolved[1 + channels + c] = f32((1.0 - factor) * (statistic[0, 0] / pixels))
        return SCALE
    if code == AUTOCONTRAST:
        kornia = arguments[0] == ZERO
        resolved[0] = arguments[1] if kornia else ONE
        for c in range(channels):
            low, spread = statistic[c, 0], statistic[c, 1] - statistic[c, 0]
            stays = not kornia and spread <= 0.0
            resolved[1 + c] = ONE if stays else f32(1.0 / (spread + 1e-6 if kornia else spread))
            resolved[1 + channels + c] = ZERO if stays else f32(low)
        return STRETCH
    if code == EQUALIZE:
        for c in range(channels):
            changes[c] = _equalizing_levels(table[c], histogram[c], pixels)
        return LOOK_UP
    return 0


@_kernel
def _sharpen_plane(v, height, width, factor, rounded, rows):
    """Sharpen one plane in place; ``rows`` keeps the two rows above as they were."""
    if height < 3 or width < 3:
        for i in range(height * width):
            v[i] = _unit(v[i])
        return
    for x in range(width):
        rows[0, x] = v[x]
    for y in range(1, height - 1):
        above, here = rows[(y - 1) & 1, :width], rows[y & 1, :width]
        for x in range(width):
            here[x] = v[y * width + x]
        below, out = v[(y + 1) * width : (y + 2) * width], v[y * width : (y + 1) * width]
        for x in range(1, width - 1):
            total = above[x - 1] + above[x] + above[x + 1] + below[x - 1] + below[x] + below[x + 1]
            blurred = _unit((total + here[x - 1] + FIVE * here[x] + here[x + 1]) * f32(1 / 13))
            if rounded:
                blurred = np.floor(blurred * LEVELS + HALF) * PER_LEVEL
            out[x] = _unit(blurred + (here[x] - blurred) * factor)
    # The outermost pixels keep their place, but take part in the clamp.
    for x in range(width):
        v[x] = _unit(v[x])
        v[(height - 1) * width + x] = _unit(v[(height - 1) * width + x])
    for y in range(1, height - 1):
        v[y * width] = _unit(v[y * width])
        v[(y + 1) * width - 1] = _unit(v[(y + 1) * width - 1])


# The chain.


@_kernel
def _apply(
    code, arguments, buffer, at, plane, width, top, rows, height, channels, key, position, epoch, words, table, changes
):
    """Run one operation over a tile of ``rows`` rows from row ``top`` on."""
    n = rows * width
    if code == SCALE:
        _scale(buffer, at, plane, n, channels, arguments)
    elif code == STRETCH:
        _stretch(buffer, at, plane, n, channels, arguments)
    elif code == MATRIX or code == HUE or code == SATURATE:
        r, g, b = buffer[at : at + n], buffer[at + plane : at + plane + n], buffer[at + 2 * plane : at + 2 * plane + n]
        if code == MATRIX:
            _matrix(r, g, b, n, arguments)
        elif code == HUE:
            _hue(r, g, b, n, arguments[0])
        else:
            _saturate(r, g, b, n, arguments[0])
    elif code == GAMMA or code == SOLARIZE or code == POSTERIZE:
        for c in range(channels):
            v = buffer[at + c * plane : at + c * plane + n]
            if code == GAMMA:
                _gamma(v, n, arguments[0], arguments[1])
            elif code == SOLARIZE:
                _solarize(v, n, arguments[0], arguments[1])
            else:
                _posterize(v, n, arguments[0], arguments[1])
    elif code == PERMUTE:
        _permute(buffer, at, plane, n, channels, arguments, table[0])
    elif code == LOOK_UP:
        for c in range(channels):
            if changes[c]:
                _look_up(buffer, at + c * plane, plane, n, 1, table[c : c + 1], HALF if arguments[0] != ZERO else ZERO)
    elif code == ERASE:
        _erase(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words)
    elif code == NOISE:
        _noise(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words)
    elif code == SALT_PEPPER:
        _salt_pepper(buffer, at, plane, width, top, rows, channels, arguments, height, key, position, epoch, words)


@_kernel
def _next_statistic(codes, first, links):
    k = first
    while k < links and not CONTRAST <= (codes[k] & CODE_MASK) <= SHARPEN:
        k += 1
    return k


# Storing.


@_kernel
def _half_bits(x):
    """Return a float32 as the bits of a float16, rounded to nearest even."""
    bits = _bits_of(x)
    sign = (bits >> np.int32(16)) & np.int32(0x8000)
    magnitude = bits & np.int32(0x7FFFFFFF)
    # Below 2^-14 adding ½ aligns the mantissa to float16's fixed point, with the rounding of the addition.
    small = _bits_of(f32(_float_of(magnitude) + HALF)) - np.int32(0x3F000000)
    odd = (magnitude >> np.int32(13)) & np.int32(1)
    normal = (magnitude + np.int32(0xFFF) + odd - np.int32(0x38000000)) >> np.int32(13)
    half = small if magnitude < np.int32(0x38800000) else normal
    half = np.int32(0x7C00) if magnitude >= np.int32(0x477FF000) else half
    half = np.int32(0x7E00) if magnitude > np.int32(0x7F800000) else half
    return np.uint16(sign | half)


@_kernel
def _bfloat_bits(x):
    """Return a float32 as the bits of a bfloat16, rounded to nearest even."""
    bits = _bits_of(x)
    odd = (bits >> np.int32(16)) & np.int32(1)
    rounded = (bits + np.int32(0x7FFF) + odd) >> np.int32(16)
    nan = (bits & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000)
    return np.uint16((np.int32(0x7FC0) if nan else rounded) & np.int32(0xFFFF))


@_allocating
def _store_run(values, n, kind, address, stride):
    """Store a run of float32 values as the output's dtype, ``stride`` elements apart."""
    length = (n - 1) * stride + 1
    if kind == FLOAT32:
        _store_floats(carray(_float32_pointer(address), (length,)), values, n, stride)
    elif kind == UINT8:
        _store_bytes(carray(_uint8_pointer(address), (length,)), values, n, stride)
    else:
        _store_halves(carray(_uint16_pointer(address), (length,)), values, n, stride, kind == FLOAT16)


# Only a loop whose step is known to be 1 is vectorised.
@_kernel
def _store_floats(out, values, n, stride):
    if stride == 1:
        for i in range(n):
            out[i] = values[i]
    else:
        for i in range(n):
            out[i * stride] = values[i]


@_kernel
def _byte(value):
    return np.uint8(np.int32(_clamp(np.rint(value * LEVELS), ZERO, LEVELS)))


@_kernel
def _store_bytes(out, values, n, stride):
    if stride == 1:
        for i in range(n):
            out[i] = _byte(values[i])
    else:
        for i in range(n):
            out[i * stride] = _byte(values[i])


@_kernel
def _store_halves(out, values, n, stride, half):
    if half and stride == 1:
        for i in range(n):
            out[i] = _half_bits(values[i])
    elif stride == 1:
        for i in range(n):
            out[i] = _bfloat_bits(values[i])
    else:
        for i in range(n):
            out[i * stride] = _half_bits(values[i]) if half else _bfloat_bits(values[i])


@_allocating
def _store(buffer, at, plane, width, top, rows, channels, kind, address, strides, itemsize):
    """Store a tile; ``strides`` are the output's, in elements, of channel, row and column."""
    for c in range(channels):
        for y in range(rows):
            start = at + c * plane + y * width
            to = address + (c * strides[0] + (top + y) * strides[1]) * itemsize
            _store_run(buffer[start : start + width], width, kind, to, strides[2])


# A pass.


@_inlined
def _is_identity_or_shift(m):
    """Return whether a homography only mirrors and shifts by whole pixels."""
    if m[2, 0] != 0.0 or m[2, 1] != 0.0 or m[0, 1] != 0.0 or m[1, 0] != 0.0 or m[2, 2] != 1.0:
        return False
    whole = abs(m[0, 0]) == 1.0 and abs(m[1, 1]) == 1.0
    return whole and m[0, 2] == math.floor(m[0, 2]) and m[1, 2] == math.floor(m[1, 2])


@_kernel
def _source_extent(m, height, width, axis):
    """Return the smallest and largest source coordinate of an output along an axis, infinite where unbounded."""
    low, high = np.inf, -np.inf
    for corner in range(4):
        x, y = (corner & 1) * (width - 1.0), (corner >> 1) * (height - 1.0)
        w = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        if not w > 1e-9:
            return -np.inf, np.inf
        value = (m[axis, 0] * x + m[axis, 1] * y + m[axis, 2]) / w
        if not abs(value) < 1e9:
            return -np.inf, np.inf
        low, high = min(low, value), max(high, value)
    return low, high


@_kernel
def _window(m, height, width, axis, low, high, rule, radius):
    """Return legal coordinates, and begin and end of the source pixels that are needed, along an axis.

    ``low..high`` are the centres of the canvas's outermost pixels.
    """
    reach = radius + 1.0 if rule == FILL else 0.0
    begin, end = low - reach, high + reach
    from_, to = _source_extent(m, height, width, axis)
    # What rounding in float32 could add at the edges of the window.
    from_, to = from_ - 0.01, to + 0.01
    if rule >= REFLECT and (from_ < low or to > high):
        from_, to = low, high
    from_, to = min(max(from_, begin), end), max(min(to, end), begin)
    margin = math.ceil(radius) + 1
    return from_, to, math.floor(from_) - margin, math.floor(to) + margin + 1


@_inlined
def _map_integers(columns, n, scale, offset, extent, low, high, outer, inner):
    """Fill the source index of each output pixel of a whole-pixel move, or -1 for the fill value."""
    for j in range(n):
        columns[j] = _source_index(np.int64(scale) * j + np.int64(offset), extent, low, high, outer, inner)


@_kernel
def _fill_word(fill):
    """Return the packed fill value, and whether bytes hold it exactly."""
    word = np.uint32(0)
    for c in range(len(fill)):
        level = fill[c] * LEVELS
        if not (0 <= level <= 255 and abs(level - np.rint(level)) < f32(1e-3)):
            return word, False
        word |= np.uint32(np.rint(level)) << np.uint32(8 * c)
    return word, True


# A pass over one sample.

COPY, SEPARABLE, GENERAL, WIDE = 0, 1, 2, 3

# What a pass reads: an image as bytes or as floats, with its strides in elements, and the factor to [0, 1].
Source = namedtuple("Source", "bytes floats is_bytes scale strides height width")
# How it is resampled: by ``method``, from a window of it in ``words`` or ``planes``.
Warp = namedtuple(
    "Warp",
    "method is_plain filter rule matrix radius window bounds spans rows columns words planes pitch plane is_words "
    "taps_x taps_y starts_x weights_x starts_y weights_y ring ring_ids xs ys offsets word_taps float_taps fill",
)


@_inlined
def _method(m, filter_):
    """Return how to resample: copy whole pixels, rows then columns, four taps anywhere, or many."""
    if _is_identity_or_shift(m):
        return COPY
    straight = m[2, 0] == 0.0 and m[2, 1] == 0.0 and m[0, 1] == 0.0 and m[1, 0] == 0.0
    if straight and filter_ >= BILINEAR:
        return SEPARABLE
    return WIDE if filter_ == TENT else GENERAL


@_allocating
def _plan_warp(source, channels, m, size, filter_, radius, rule, fill, canvas, inner, words, planes):
    """Return how a pass resamples its source, with the window packed where one is needed."""
    height, width = size[0], size[1]
    if filter_ == TENT and radius[0] <= 1.0 and radius[1] <= 1.0:
        # Where nothing shrinks, the tent is that of bilinear interpolation.
        filter_ = BILINEAR
    method = _method(m, filter_)
    tent = filter_ == TENT
    taps_x, taps_y, spare = 2, 2, np.int64(4)
    window, bounds, spans = np.empty(4, np.int64), np.empty(4, np.float32), np.empty(4, np.float32)
    reach = np.empty(2, np.float32)
    for axis in range(2):
        reach[axis] = f32(radius[axis]) if tent else ONE
    if tent:
        taps_x, taps_y = np.int64(TWO * reach[0]) + 1, np.int64(TWO * reach[1]) + 1
        spare = max(taps_x, taps_y) + 1
    pitch, plane, is_words = np.int64(0), np.int64(0), False
    if method == COPY:
        rows, columns = np.empty(height, np.int64), np.empty(width, np.int64)
        _map_integers(columns, width, m[0, 0], m[0, 2], source.width, canvas[0], canvas[2], rule, inner)
        _map_integers(rows, height, m[1, 1], m[1, 2], source.height, canvas[1], canvas[3], rule, inner)
    else:
        for axis in range(2):
            low, high = float(canvas[axis]), float(canvas[axis + 2] - 1)
            from_, to, begin, end = _window(m, height, width, axis, low, high, rule, reach[axis])
            window[2 * axis], window[2 * axis + 1] = begin, end
            bounds[2 * axis], bounds[2 * axis + 1] = f32(from_ - begin), f32(to - begin)
            spans[2 * axis], spans[2 * axis + 1] = f32(low - begin), f32(high - begin)
        columns = np.empty(window[1] - window[0], np.int64)
        rows = np.empty(window[3] - window[2], np.int64)
        _index_map(columns, window[0], len(columns), source.width, canvas[0], canvas[2], rule, inner)
        _index_map(rows, window[2], len(rows), source.height, canvas[1], canvas[3], rule, inner)
        pitch, plane = len(columns), len(columns) * len(rows)
        word, is_exact = _fill_word(fill)
        is_words = source.is_bytes and (channels == 3 or channels == 4) and is_exact
        if is_words:
            _pack_words(words, pitch, source.bytes, source.strides, rows, len(rows), columns, pitch, word, channels)
        elif source.is_bytes:
            _pack_planes(
                planes,
                0,
                pitch,
                plane,
                source.bytes,
                source.scale,
                source.strides,
                rows,
                len(rows),
                columns,
                pitch,
                fill,
            )
        else:
            _pack_planes(
                planes,
                0,
                pitch,
                plane,
                source.floats,
                source.scale,
                source.strides,
                rows,
                len(rows),
                columns,
                pitch,
                fill,
            )
    separable = method == SEPARABLE
    starts_x, weights_x = np.empty(width, np.int32), np.empty((spare, width), np.float32)
    starts_y = np.empty(height if separable else width, np.int32)
    weights_y = np.empty((spare, len(starts_y)), np.float32)
    ring = np.zeros(taps_y * channels * width if separable else 0, np.float32)
    ring_ids = np.full(taps_y, -1, np.int64)
    if separable:
        w = m[2, 2]
        x, y = m[0, 2] / w - window[0], m[1, 2] / w - window[2]
        _axis_taps(starts_x, weights_x, width, m[0, 0] / w, x, taps_x, reach[0], tent, spans[0:2], bounds[0:2], rule)
        _axis_taps(starts_y, weights_y, height, m[1, 1] / w, y, taps_y, reach[1], tent, spans[2:4], bounds[2:4], rule)
    is_plain = filter_ > NEAREST and rule <= FILL and m[2, 0] == 0.0 and m[2, 1] == 0.0
    return Warp(
        method,
        is_plain,
        filter_,
        rule,
        m,
        reach,
        window,
        bounds,
        spans,
        rows,
        columns,
        words,
        planes,
        pitch,
        plane,
        is_words,
        taps_x,
        taps_y,
        starts_x,
        weights_x,
        starts_y,
        weights_y,
        ring,
        ring_ids,
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(width, np.int32),
        np.empty((4, width), np.uint32),
        np.empty((4, width), np.float32),
        fill,
    )


@_inlined
def _warp_tile(warp, source, channels, buffer, at, plane, width, top, rows):
    """Resample output rows ``top..top+rows-1`` into a tile."""
    if warp.method == COPY:
        chosen = warp.rows[top : top + rows]
        if source.is_bytes:
            _pack_planes(
                buffer,
                at,
                width,
                plane,
                source.bytes,
                source.scale,
                source.strides,
                chosen,
                rows,
                warp.columns,
                width,
                warp.fill,
            )
        else:
            _pack_planes(
                buffer,
                at,
                width,
                plane,
                source.floats,
                source.scale,
                source.strides,
                chosen,
                rows,
                warp.columns,
                width,
                warp.fill,
            )
        return
    for y in range(top, top + rows):
        start = at + (y - top) * width
        if warp.method == SEPARABLE:
            _separable_row(warp, channels, buffer, start, plane, width, y)
            continue
        if warp.method == GENERAL and warp.is_plain:
            _affine_taps(
                warp.xs,
                warp.ys,
                warp.offsets,
                width,
                warp.matrix,
                y,
                warp.window[0],
                warp.window[2],
                warp.bounds,
                warp.pitch,
            )
        else:
            _coordinates(
                warp.xs,
                warp.ys,
                width,
                warp.matrix,
                y,
                warp.window[0],
                warp.window[2],
                warp.bounds,
                warp.spans,
                warp.rule,
            )
            if warp.method == GENERAL and warp.filter > NEAREST:
                _tap_offsets(warp.xs, warp.ys, warp.offsets, width, warp.pitch)
        if warp.method == WIDE:
            _wide_row(warp, channels, buffer, start, plane, width)
        elif warp.is_words:
            _warp_words_row(
                buffer,
                start,
                plane,
                width,
                warp.words,
                warp.pitch,
                channels,
                warp.filter <= NEAREST,
                warp.xs,
                warp.ys,
                warp.offsets,
                warp.word_taps,
            )
        else:
            _warp_planes_row(
                buffer,
                start,
                plane,
                width,
                warp.planes,
                warp.pitch,
                warp.plane,
                channels,
                warp.filter <= NEAREST,
                warp.xs,
                warp.ys,
                warp.offsets,
                warp.float_taps,
            )


@_kernel
def _separable_row(warp, channels, buffer, start, plane, width, y):
    """Resample an output row from source rows that are resampled along x once each, and kept in a ring."""
    size, taps_y = channels * width, warp.taps_y
    first = np.int64(warp.starts_y[y])
    for k in range(taps_y):
        row = first + k
        slot = row % taps_y
        if warp.ring_ids[slot] != row and warp.weights_y[k, y] != ZERO:
            warp.ring_ids[slot] = row
            into, base = warp.ring[slot * size : (slot + 1) * size], row * warp.pitch
            if warp.is_words:
                _resample_words(
                    into, width, warp.words, base, warp.starts_x, warp.weights_x, warp.taps_x, channels, warp.word_taps
                )
            else:
                _resample_planes(
                    into,
                    width,
                    warp.planes,
                    warp.plane,
                    base,
                    warp.starts_x,
                    warp.weights_x,
                    warp.taps_x,
                    channels,
                    warp.float_taps,
                )
    scale = PER_LEVEL if warp.is_words else ONE
    _sum_rows(buffer, start, plane, width, warp.ring, first, warp.weights_y, y, taps_y, channels, scale)


@_kernel
def _wide_row(warp, channels, buffer, start, plane, width):
    """Resample an output row with a tent that is wider than a pixel."""
    spans = warp.spans
    _tent_row_weights(
        warp.xs, width, warp.starts_x, warp.weights_x, warp.taps_x, warp.radius[0], spans[0], spans[1], warp.rule
    )
    _tent_row_weights(
        warp.ys, width, warp.starts_y, warp.weights_y, warp.taps_y, warp.radius[1], spans[2], spans[3], warp.rule
    )
    for i in range(width):
        warp.offsets[i] = warp.starts_y[i] * np.int32(warp.pitch) + warp.starts_x[i]
    if warp.is_words:
        _tent_words_row(
            buffer,
            start,
            plane,
            width,
            warp.words,
            warp.pitch,
            channels,
            warp.offsets,
            warp.weights_x,
            warp.taps_x,
            warp.weights_y,
            warp.taps_y,
            warp.word_taps,
        )
    else:
        _tent_planes_row(
            buffer,
            start,
            plane,
            width,
            warp.planes,
            warp.pitch,
            warp.plane,
            channels,
            warp.offsets,
            warp.weights_x,
            warp.taps_x,
            warp.weights_y,
            warp.taps_y,
            warp.float_taps,
        )


# Where a chain runs, and where its result is stored; ``address`` and ``strides`` are the output's, in elements.
Target = namedtuple("Target", "buffer plane is_tile stores kind address strides itemsize")
# What the chain's operations need beside their arguments.
Chain = namedtuple("Chain", "codes arguments links keys position epoch")
Scratch = namedtuple("Scratch", "random table changes statistic histogram resolved")


@_inlined
def _run_links(chain, scratch, first, until, target, at, width, top, rows, height, channels):
    """Run links ``first..until-1`` of the chain over a tile, gather the statistic of link ``until``, or store."""
    for k in range(first, until):
        code, operation = chain.codes[k] & CODE_MASK, chain.codes[k] >> CODE_BITS
        _apply(
            code,
            chain.arguments[k],
            target.buffer,
            at,
            target.plane,
            width,
            top,
            rows,
            height,
            channels,
            chain.keys[operation],
            chain.position,
            chain.epoch,
            scratch.random,
            scratch.table,
            scratch.changes,
        )
    if until < chain.links:
        code = chain.codes[until] & CODE_MASK
        _gather_statistic(
            code,
            chain.arguments[until],
            target.buffer,
            at,
            target.plane,
            rows * width,
            channels,
            scratch.statistic,
            scratch.histogram,
        )
    elif target.stores:
        _store(
            target.buffer,
            at,
            target.plane,
            width,
            top,
            rows,
            channels,
            target.kind,
            target.address,
            target.strides,
            target.itemsize,
        )


@_inlined
def _run_pass(warp, source, chain, scratch, target, channels, height, width):
    """Resample a sample's source and run the chain, tile by tile; once more for each statistic in it."""
    rows_per_tile = max(1, TILE // width)
    until = _next_statistic(chain.codes, 0, chain.links)
    if until < chain.links:
        _begin_statistic(chain.codes[until] & CODE_MASK, scratch.statistic, scratch.histogram)
    for top in range(0, height, rows_per_tile):
        rows = min(rows_per_tile, height - top)
        at = 0 if target.is_tile else top * width
        _warp_tile(warp, source, channels, target.buffer, at, target.plane, width, top, rows)
        _run_links(chain, scratch, 0, until, target, at, width, top, rows, height, channels)
    while until < chain.links:
        k, code, arguments = until, chain.codes[until] & CODE_MASK, chain.arguments[until]
        if code == SHARPEN:
            spare = np.empty((2, width), np.float32)
            for c in range(channels):
                plane = target.buffer[c * target.plane : c * target.plane + height * width]
                _sharpen_plane(plane, height, width, arguments[0], arguments[1] != ZERO, spare)
        resolved = _resolve(
            code,
            arguments,
            scratch.resolved,
            scratch.statistic,
            scratch.histogram,
            scratch.table,
            height * width,
            channels,
            scratch.changes,
        )
        until = _next_statistic(chain.codes, k + 1, chain.links)
        if until < chain.links:
            _begin_statistic(chain.codes[until] & CODE_MASK, scratch.statistic, scratch.histogram)
        for top in range(0, height, rows_per_tile):
            rows = min(rows_per_tile, height - top)
            at = top * width
            if resolved != 0:
                given = arguments if resolved == LOOK_UP else scratch.resolved
                _apply(
                    resolved,
                    given,
                    target.buffer,
                    at,
                    target.plane,
                    width,
                    top,
                    rows,
                    height,
                    channels,
                    chain.keys[0],
                    chain.position,
                    chain.epoch,
                    scratch.random,
                    scratch.table,
                    scratch.changes,
                )
            _run_links(chain, scratch, k + 1, until, target, at, width, top, rows, height, channels)


@_entry
def run_samples(
    first,
    last,
    channels,
    sources,
    shapes,
    source_strides,
    source_kind,
    outputs,
    output_strides,
    output_kind,
    passes,
    size,
    matrix,
    filters,
    radius,
    padding,
    fill,
    canvas,
    canvas_padding,
    links,
    codes,
    arguments,
    keys,
    positions,
    epoch,
    floats,
    words,
):
    """Compute the output of samples ``first..last-1``.

    Images and outputs are addresses, with height and width, and strides of channel, row and column in elements; kinds
    are UINT8, FLOAT32 and so on. From ``passes`` to ``epoch`` see :class:`torchaug_gen.augment.tables.Tables`. Scratch
    memory: ``floats`` holds twice the largest result of a pass, then the largest window of planes; ``words`` the
    largest window of packed words.
    """
    widest = 0
    for n in range(first, last):
        for p in range(passes[n]):
            widest = max(widest, size[n, p, 1])
    tile = np.empty(channels * max(TILE, widest), np.float32)
    scratch = Scratch(
        np.empty((3, widest), np.uint32),
        np.empty((channels, 256), np.float32),
        np.empty(channels, np.bool_),
        np.empty((channels, 2), np.float64),
        np.empty((channels, 256), np.int64),
        np.empty(arguments.shape[3], np.float32),
    )
    half = _work_size(size, channels)
    for n in range(first, last):
        address, is_bytes = sources[n], source_kind == UINT8
        shape, strides = (
            (shapes[n, 0], shapes[n, 1]),
            (source_strides[n, 0], source_strides[n, 1], source_strides[n, 2]),
        )
        for p in range(passes[n]):
            height, width = np.int64(size[n, p, 0]), np.int64(size[n, p, 1])
            extent = (channels - 1) * strides[0] + (shape[0] - 1) * strides[1] + (shape[1] - 1) * strides[2] + 1
            source = Source(
                carray(_uint8_pointer(address), (extent,)),
                carray(_float32_pointer(address), (extent,)),
                is_bytes,
                PER_LEVEL if is_bytes else ONE,
                strides,
                shape[0],
                shape[1],
            )
            warp = _plan_warp(
                source,
                channels,
                matrix[n, p],
                (height, width),
                filters[n, p],
                radius[n, p],
                padding[n, p],
                fill[n, p],
                canvas[n, p],
                canvas_padding[n, p],
                words,
                floats[2 * half :],
            )
            chain = Chain(codes[n, p], arguments[n, p], links[n, p], keys, positions[n], epoch)
            work = floats[(p & 1) * half : (p & 1) * half + channels * height * width]
            target = _target(
                p == passes[n] - 1, channels, height, width, chain, work, tile, outputs[n], output_strides, output_kind
            )
            _run_pass(warp, source, chain, scratch, target, channels, height, width)
            # The next pass reads what this one left.
            address, is_bytes = work.ctypes.data, False
            shape, strides = (height, width), (height * width, width, 1)


@_kernel
def _work_size(size, channels):
    """Return how many floats the largest result of a pass takes."""
    most = 0
    for n in range(size.shape[0]):
        for p in range(size.shape[1]):
            most = max(most, np.int64(size[n, p, 0]) * np.int64(size[n, p, 1]) * channels)
    return most


@_allocating
def _target(final, channels, height, width, chain, work, tile, address, strides, kind):
    """Return where the chain of a pass runs: in the output itself, in one tile, or over the whole result."""
    itemsize = 4 if kind == FLOAT32 else 1 if kind == UINT8 else 2
    if final and kind == FLOAT32 and strides[2] == 1 and strides[1] == width:
        out = carray(_float32_pointer(address), ((channels - 1) * strides[0] + height * width,))
        return Target(out, strides[0], False, False, kind, address, strides, itemsize)
    if final and _next_statistic(chain.codes, 0, chain.links) == chain.links:
        return Target(tile, max(1, TILE // width) * width, True, True, kind, address, strides, itemsize)
    return Target(work, height * width, False, final, kind, address, strides, itemsize)
