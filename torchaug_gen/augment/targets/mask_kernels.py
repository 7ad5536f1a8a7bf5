"""The Numba kernels that move masks on the CPU.

They stand in this one file, because Numba's cache does not notice changes in another one. Memory is passed by address,
so that one compiled signature serves every dtype, and lists of masks whose sizes differ.

A row of the output takes two loops: where each pixel comes from (vectorised), then a copy of those pixels. What is
inside is known before, so neither asks for each pixel.
"""

# Numba infers the types, which depend on the arguments.
# mypy: ignore-errors

import math
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

_kernel = njit(nogil=True, cache=True, error_model="numpy")

# Mirrors of Padding, which Numba would not cache as constants.
BORDER, FILL, REFLECT, SYMMETRIC = 0, 1, 2, 3

# A tap floor(x + 1/2) lands on the border between two pixels for every second pixel of some resizes. Composing matrices
# is exact to about 1e-12 pixels; this much more keeps such pixels together.
ROUND = 0.5 + 2.0**-30

# Where coordinates end that are infinite or no numbers: far outside, yet an exact integer.
FAR = 2.0**40


def _pointer(element: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def cast(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), codegen

    return cast


_pointer_8, _pointer_16 = _pointer(types.uint8), _pointer(types.uint16)
_pointer_32, _pointer_64 = _pointer(types.uint32), _pointer(types.uint64)


@_kernel
def _clamp(x, low, high):  # type: ignore[no-untyped-def]
    # Written so that NaN becomes ``low``.
    x = x if x > low else low
    return x if x < high else high


@_kernel
def _folded(x, low, high, rule):  # type: ignore[no-untyped-def]
    """Return where coordinate ``x`` shows within low..high - 1, or NaN for the fill value."""
    if rule == BORDER:
        return _clamp(x, float(low), float(high - 1))
    if rule == FILL:
        tap = math.floor(x + ROUND)
        return x if low <= tap < high else math.nan
    n = high - low
    if rule == REFLECT:
        if n == 1:
            return float(low)
        x = (x - low) % (2.0 * (n - 1))
        return low + (2.0 * (n - 1) - x if x > n - 1 else x)
    x = (x - low + 0.5) % (2.0 * n)
    x = low - 0.5 + (2.0 * n - x if x > n else x)
    return _clamp(x, float(low), float(high - 1))


@_kernel
def _folded_index(i, extent, rule):  # type: ignore[no-untyped-def]
    """Return where pixel ``i`` shows within 0..extent - 1, or -1 for the fill value."""
    if 0 <= i < extent:
        return i
    if rule == FILL:
        return -1
    if rule == BORDER or (rule == REFLECT and extent == 1):
        return 0 if i < 0 else extent - 1
    if rule == REFLECT:
        i = i % (2 * (extent - 1))
        return 2 * (extent - 1) - i if i >= extent else i
    i = i % (2 * extent)
    return 2 * extent - 1 - i if i >= extent else i


@_kernel
def _tap(X, Y, passes, matrix, sizes, padding, canvas, canvas_padding, height, width):  # type: ignore[no-untyped-def]
    """Return the offset of the source pixel that shows at an output pixel, through all passes, or -1 for fill."""
    x, y = float(X), float(Y)
    for p in range(passes - 1, -1, -1):
        m = matrix[p]
        w = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        x, y = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / w, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / w
        x, y = _clamp(x, -FAR, FAR), _clamp(y, -FAR, FAR)
        left, top, right, bottom = canvas[p]
        x, y = _folded(x, left, right, padding[p]), _folded(y, top, bottom, padding[p])
        if x != x or y != y:
            return -1
        if p > 0:
            x = _folded(x, 0, sizes[p - 1, 1], canvas_padding[p])
            y = _folded(y, 0, sizes[p - 1, 0], canvas_padding[p])
            if x != x or y != y:
                return -1
    column = _folded_index(np.int64(math.floor(x + ROUND)), width, canvas_padding[0])
    row = _folded_index(np.int64(math.floor(y + ROUND)), height, canvas_padding[0])
    return row * width + column if row >= 0 and column >= 0 else -1


@_kernel
def _window(padding, canvas, canvas_padding, height, width):  # type: ignore[no-untyped-def]
    """Return left, top, right, bottom of what shows of the source where all else is one rule, or right < 0."""
    left, top, right, bottom = np.int64(canvas[0]), np.int64(canvas[1]), np.int64(canvas[2]), np.int64(canvas[3])
    within = left >= 0 and top >= 0 and right <= width and bottom <= height
    if padding == BORDER and within:
        return left, top, right, bottom
    if padding == FILL and (within or canvas_padding == FILL):
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return 0, 0, -1, -1


@_kernel
def _inside(v, low, high):  # type: ignore[no-untyped-def]
    return (v >= low) & (v < high)


@_kernel
def _interval(step, start, low, high, begin, end):  # type: ignore[no-untyped-def]
    """Return begin and end of those X in begin..end - 1 where ``low ≤ step · X + start < high``: one interval."""
    if step == 0:
        return (begin, end) if _inside(start, low, high) else (end, end)
    a, b = (low - start) / step, (high - start) / step
    begin = np.int64(_clamp(math.floor(min(a, b)) - 1.0, float(begin), float(end)))
    end = np.int64(_clamp(math.ceil(max(a, b)) + 1.0, float(begin), float(end)))
    # Divisions round; the test that counts is the one on the coordinate itself.
    while begin < end and not _inside(step * begin + start, low, high):
        begin += 1
    while end > begin and not _inside(step * (end - 1) + start, low, high):
        end -= 1
    return begin, end


@_kernel
def _affine_row(offsets, Y, m, left, top, right, bottom, stride):  # type: ignore[no-untyped-def]
    """Write where a row's pixels come from, and return begin and end of those that the window has."""
    step_x, start_x = m[0, 0], m[0, 1] * Y + m[0, 2] + ROUND
    step_y, start_y = m[1, 0], m[1, 1] * Y + m[1, 2] + ROUND
    begin, end = _interval(step_x, start_x, float(left), float(right), 0, len(offsets))
    begin, end = _interval(step_y, start_y, float(top), float(bottom), begin, end)
    # Coordinates are not negative here, so truncation is floor, and nothing has to be clamped. An index that might be
    # negative would keep LLVM from vectorising.
    for X in range(begin, end):
        offsets[np.uint64(X)] = np.int32(step_y * X + start_y) * stride + np.int32(step_x * X + start_x)
    return begin, end


@_kernel
def _window_row(offsets, Y, m, left, top, right, bottom, stride, border):  # type: ignore[no-untyped-def]
    """Write where a row's pixels come from, -1 for the fill value, for perspectives and clamped coordinates."""
    low_x, high_x = (float(left), float(right - 1)) if border else (left - 1.0, float(right))
    low_y, high_y = (float(top), float(bottom - 1)) if border else (top - 1.0, float(bottom))
    start_x, start_y = m[0, 1] * Y + m[0, 2], m[1, 1] * Y + m[1, 2]
    start_w = m[2, 1] * Y + m[2, 2]
    for X in range(len(offsets)):
        w = m[2, 0] * X + start_w
        # At most one pixel outside, which makes truncation floor once one is added.
        i = np.int32(_clamp((m[0, 0] * X + start_x) / w, low_x, high_x) + (1 + ROUND)) - np.int32(1)
        j = np.int32(_clamp((m[1, 0] * X + start_y) / w, low_y, high_y) + (1 + ROUND)) - np.int32(1)
        inside = (i >= left) & (j >= top) & (i < right) & (j < bottom)
        offsets[X] = j * stride + i if inside else np.int32(-1)


@_kernel
def _copy(source, target, offsets, begin, end, fill, holes):  # type: ignore[no-untyped-def]
    begin, end = np.uint64(begin), np.uint64(end)
    for X in range(begin):
        target[X] = fill
    if holes:
        for X in range(begin, end):
            offset = offsets[X]
            target[X] = source[np.uint32(offset)] if offset >= 0 else fill
    else:
        for X in range(begin, end):
            target[X] = source[np.uint32(offsets[X])]
    for X in range(end, np.uint64(len(offsets))):
        target[X] = fill


@_kernel
def _copy_row(source, target, itemsize, extent, offsets, begin, end, fill, holes):  # type: ignore[no-untyped-def]
    """Copy a row's pixels from a plane of ``extent`` pixels at an address to another address."""
    n = len(offsets)
    if itemsize == 1:
        a, b = carray(_pointer_8(source), extent), carray(_pointer_8(target), n)
        _copy(a, b, offsets, begin, end, np.uint8(fill), holes)
    elif itemsize == 2:
        c, d = carray(_pointer_16(source), extent), carray(_pointer_16(target), n)
        _copy(c, d, offsets, begin, end, np.uint16(fill), holes)
    elif itemsize == 4:
        e, f = carray(_pointer_32(source), extent), carray(_pointer_32(target), n)
        _copy(e, f, offsets, begin, end, np.uint32(fill), holes)
    else:
        g, h = carray(_pointer_64(source), extent), carray(_pointer_64(target), n)
        _copy(g, h, offsets, begin, end, np.uint64(fill), holes)


@_kernel
def move(  # type: ignore[no-untyped-def]
    first,
    last,
    sources,
    targets,
    shapes,
    itemsize,
    fill,
    height,
    width,
    matrix,
    passes,
    sizes,
    padding,
    canvas,
    canvas_padding,
):
    """Move masks ``first..last - 1``.

    Args:
        first: the first sample.
        last: one after the last sample.
        sources: ``(N,)`` int64: addresses of contiguous masks.
        targets: ``(N,)`` int64: addresses of contiguous outputs.
        shapes: ``(N, 3)`` int64: planes, height and width of each source.
        itemsize: bytes of a value: 1, 2, 4 or 8.
        fill: its bits, as an int64.
        height: of the outputs.
        width: of the outputs.
        matrix: this and the others as :class:`Warp` has them.
        passes: see there.
        sizes: see there.
        padding: see there.
        canvas: see there.
        canvas_padding: see there.
    """
    offsets = np.empty(width, np.int32)
    for n in range(first, last):
        planes, source_height, source_width = shapes[n]
        left, top, right, bottom = _window(
            padding[n, 0], canvas[n, 0], canvas_padding[n, 0], source_height, source_width
        )
        simple = passes[n] == 1 and right >= 0
        border = padding[n, 0] == BORDER
        affine = (
            simple and not border and matrix[n, 0, 2, 0] == 0 and matrix[n, 0, 2, 1] == 0 and matrix[n, 0, 2, 2] == 1
        )
        plane = source_height * source_width
        stride = np.int32(source_width)
        for Y in range(height):
            begin, end = 0, width
            if affine:
                begin, end = _affine_row(offsets, Y, matrix[n, 0], left, top, right, bottom, stride)
            elif simple:
                _window_row(offsets, Y, matrix[n, 0], left, top, right, bottom, stride, border)
            else:
                for X in range(width):
                    offsets[X] = _tap(
                        X, Y, passes[n], matrix[n], sizes[n], padding[n], canvas[n], canvas_padding[n],
                        source_height, source_width,
                    )  # fmt: skip
            for k in range(planes):
                source = sources[n] + k * plane * itemsize
                target = targets[n] + (k * height + Y) * width * itemsize
                _copy_row(source, target, itemsize, plane, offsets, begin, end, fill, not affine)
