"""The Numba kernels of the CPU backend: resampling, pixel operations, statistics, and the walk over samples.

All kernels stand in this one file, because Numba's cache does not notice changes in another one. Memory is passed by
address and states as records, so that one compiled signature serves every batch, and compiling takes a third of the
time that arrays and tuples of them take.

Vector instructions come from plain loops over contiguous buffers. A loop that gathers is not vectorised, so each row of
a warp takes three: coordinates (vectorised), a plain copy of the taps, blending (vectorised).
"""

# Numba infers the types, which depend on the arguments.
# mypy: ignore-errors

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# "contract" lets LLVM use fused multiply-adds; the other fast-math flags would make NaN undefined.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
# Only compiled code calls these: wrappers for Python's would double the time to compile them. Nothing is allocated, so
# nothing is counted either.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
_entry = njit(**_OPTIONS, cache=True)
_kernel = njit(**_OPTIONS, **_INNER)
# Put into its only caller as it is: compiled on its own, all below it would be optimised once more.
_inlined = njit(**_OPTIONS, **_INNER, inline="always")
_reduction = njit(**(_OPTIONS | {"fastmath": {"contract", "nsz", "reassoc"}}), **_INNER)

f32 = np.float32
ZERO, HALF, ONE, TWO, THREE, FOUR, FIVE, SIX = (f32(value) for value in (0, 0.5, 1, 2, 3, 4, 5, 6))
LEVELS, PER_LEVEL = f32(255), f32(1 / 255)
BITS_0, BITS_8, BITS_16, BITS_24 = (np.uint32(bits) for bits in (0, 8, 16, 24))
HALF_AND_A_BIT = f32(0.5 + 2**-16)
# Numba compiles a function once more for each Python number that it is called with, but not for NumPy's.
NONE, ONCE = np.int64(0), np.int64(1)

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

# How a pass resamples: copies whole pixels, rows then columns, four taps anywhere, or many.
COPY, SEPARABLE, GENERAL, WIDE = 0, 1, 2, 3

# Pixels of a tile, about: its planes stay in the first-level cache while the chain runs over it.
TILE = 1536


def _record(**groups: str) -> np.dtype:
    """Return a record of the fields named for each of the types."""
    kinds = {"addresses": np.int64, "counts": np.int64, "floats": np.float32, "doubles": np.float64}
    return np.dtype([(name, kinds[kind]) for kind, names in groups.items() for name in names.split()], align=True)


# What a pass reads and how it resamples. The source's steps are in elements; ``left`` and ``top`` are the corner of the
# window of it that is packed, ``x_low`` to ``y_high`` the legal coordinates and ``left_edge`` to ``bottom_edge`` the
# centres of the canvas's outermost pixels, both relative to the window.
WARP = _record(
    addresses="source fill packed rows columns starts_x weights_x starts_y weights_y ring ring_ids xs ys offsets upper "
    "lower",
    counts="is_bytes channel_step row_step column_step source_height source_width channels height width method filter "
    "rule is_affine left top pitch plane window_height is_words taps_x taps_y",
    floats="scale radius_x radius_y x_low x_high y_low y_high left_edge right_edge top_edge bottom_edge",
    doubles="m00 m01 m02 m10 m11 m12 m20 m21 m22",
)
# What a chain computes, where, and where its result goes: it runs over ``buffer``, whose planes are ``plane`` elements
# apart, with ``scratch`` for what operations need beside their arguments; steps are the output's, in elements.
CHAIN = _record(
    addresses="codes arguments keys buffer output line random table changes statistic histogram resolved",
    counts="links argument_count position epoch channels height width plane is_tile stores kind itemsize channel_step "
    "row_step column_step streams",
)
# Scratch memory that is handed out from ``next`` to ``end``.
ARENA = _record(addresses="next end")


def _pointer(element: Any) -> Any:
    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), codegen

    return cast


_bytes, _halves, _words = _pointer(types.uint8), _pointer(types.uint16), _pointer(types.uint32)
_ints, _longs, _pairs = _pointer(types.int32), _pointer(types.int64), _pointer(types.uint64)
_floats, _doubles = _pointer(types.float32), _pointer(types.float64)


@intrinsic
def _pair(typing_context: Any, address: Any) -> Any:
    """Load two neighbouring 32-bit values in one go, from an address that is aligned for one of them."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pair = builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        pair.align = 4
        return pair

    return types.uint64(types.int64), codegen


@intrinsic
def _stream_line(typing_context: Any, to: Any, source: Any) -> Any:
    """Copy a cache line to memory past the caches.

    Ordinary stores fetch each line before they overwrite it: they fill memory at 6 GB/s where this does at 24.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.FloatType(), 16).as_pointer()
        loaded = builder.load(builder.inttoptr(arguments[1], line))
        loaded.align = 4
        stored = builder.store(loaded, builder.inttoptr(arguments[0], line))
        stored.align = 64
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _finish_streams(typing_context: Any) -> Any:
    """Make what was streamed visible to other threads."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


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


@intrinsic
def _wide(typing_context: Any) -> Any:
    """Let LLVM use vectors of 512 bits in the calling function, which it avoids by default where the CPU has them."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite knows this attribute's place, but not its name.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


@_kernel
def _take(arena, size):
    """Return the address of ``size`` bytes of scratch memory, aligned to a cache line."""
    address = arena.next
    arena.next = address + ((size + 63) & -64)
    return address


@_kernel
def _clamp(x, low, high):
    # Written so that NaN becomes ``low``: a coordinate must never lead out of the buffer.
    x = x if x > low else low
    return x if x < high else high


@_kernel
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
def _index_map(indices, first, step, count, extent, low, high, outer, inner):
    """Fill ``indices[j]`` with the pixel of the image that shows at canvas pixel ``first + j * step``, or -1."""
    for j in range(count):
        i = first + j * step
        if low <= i < high or outer != FILL:
            i = _folded_index(_folded_index(i, low, high, outer), NONE, extent, inner)
        else:
            i = -1
        indices[j] = np.int32(i)


@_kernel
def _run_begin(indices, count):
    """Return where the first index is that is valid."""
    begin = 0
    while begin < count and indices[begin] < 0:
        begin += 1
    return begin


@_kernel
def _run_end(indices, begin, count, step):
    """Return where the stretch ends in which valid indices rise, or fall, by one from ``begin`` on."""
    end = begin
    while end < count and 0 <= indices[end] == indices[begin] + (end - begin) * step:
        end += 1
    return end


@_kernel
def _run_step(indices, begin, count):
    return -1 if begin + 1 < count and 0 <= indices[begin + 1] < indices[begin] else 1


@_kernel
def _value(warp, at):
    """Return a value of the source in [0, 1]."""
    if warp.is_bytes:
        return f32(_bytes(warp.source)[at]) * PER_LEVEL
    return _floats(warp.source)[at]


@_kernel
def _convert_run(out, warp, at, stride, n):
    """Convert ``n`` source values that are ``stride`` apart to [0, 1]."""
    if warp.is_bytes and stride == 1:
        _wide()
        levels = _bytes(warp.source + at)
        for x in range(n):
            out[x] = f32(levels[x]) * PER_LEVEL
    elif warp.is_bytes and stride == -1:
        levels = _bytes(warp.source + at - n + 1)
        for x in range(n):
            out[x] = f32(levels[n - 1 - x]) * PER_LEVEL
    elif stride == 1:
        values = _floats(warp.source + 4 * at)
        for x in range(n):
            out[x] = values[x]
    else:
        for x in range(n):
            out[x] = _value(warp, at + x * stride)


@_kernel
def _word(source, at, step, channels):
    """Return the channels of one pixel, ``step`` bytes apart, in one word."""
    word = np.uint32(source[at]) | (np.uint32(source[at + step]) << 8) | (np.uint32(source[at + 2 * step]) << 16)
    if channels == 4:
        word |= np.uint32(source[at + 3 * step]) << 24
    return word


@_kernel
def _word_run(out, at, warp, n):
    """Pack ``n`` neighbouring pixels whose columns lie one byte apart."""
    source, step = warp.source + at, warp.channel_step
    red, green, blue, last = _bytes(source), _bytes(source + step), _bytes(source + 2 * step), _bytes(source + 3 * step)
    if warp.channels == 4:
        for x in range(n):
            word = np.uint32(red[x]) | (np.uint32(green[x]) << 8) | (np.uint32(blue[x]) << 16)
            out[x] = word | (np.uint32(last[x]) << 24)
    else:
        for x in range(n):
            out[x] = np.uint32(red[x]) | (np.uint32(green[x]) << 8) | (np.uint32(blue[x]) << 16)


@_kernel
def _pack_words(warp, row_count, column_count, fill_word):
    """Pack a window of a uint8 image into 32-bit words, one byte a channel, outside pixels included."""
    rows, columns, source = _ints(warp.rows), _ints(warp.columns), _bytes(warp.source)
    channels, step = warp.channels, warp.channel_step
    begin = end = _run_begin(columns, column_count)
    if _run_step(columns, begin, column_count) == 1 and warp.column_step == 1:
        end = _run_end(columns, begin, column_count, ONCE)
    for j in range(row_count):
        out = _words(warp.packed + 4 * j * warp.pitch)
        if rows[j] < 0:
            for x in range(column_count):
                out[x] = fill_word
            continue
        base = rows[j] * warp.row_step
        for side in range(2):
            for x in range(0 if side == 0 else end, begin if side == 0 else column_count):
                inside = columns[x] >= 0
                out[x] = _word(source, base + columns[x] * warp.column_step, step, channels) if inside else fill_word
        if end > begin:
            _word_run(_words(warp.packed + 4 * (j * warp.pitch + begin)), base + columns[begin], warp, end - begin)


@_kernel
def _pack_planes(warp, planes, pitch, plane, first, row_count, column_count):
    """Copy source rows from the ``first`` of ``warp.rows`` on into float32 planes, outside pixels included."""
    rows, columns, fill = _ints(warp.rows), _ints(warp.columns), _floats(warp.fill)
    begin = _run_begin(columns, column_count)
    step = _run_step(columns, begin, column_count)
    end = _run_end(columns, begin, column_count, step)
    for c in range(warp.channels):
        for j in range(row_count):
            at = planes + 4 * (c * plane + j * pitch)
            out, row = _floats(at), rows[first + j]
            if row < 0:
                for x in range(column_count):
                    out[x] = fill[c]
                continue
            base = row * warp.row_step + c * warp.channel_step
            for side in range(2):
                for x in range(0 if side == 0 else end, begin if side == 0 else column_count):
                    inside = columns[x] >= 0
                    out[x] = _value(warp, base + columns[x] * warp.column_step) if inside else fill[c]
            if end > begin:
                start = base + columns[begin] * warp.column_step
                _convert_run(_floats(at + 4 * begin), warp, start, step * warp.column_step, end - begin)


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
def _coordinates(warp, y):
    """Fill source coordinates of output row ``y``, relative to the window's corner, folded and clamped."""
    xs, ys, n = _floats(warp.xs), _floats(warp.ys), warp.width
    bx, by = warp.m01 * y + warp.m02, warp.m11 * y + warp.m12
    if warp.m20 == 0.0 and warp.m21 == 0.0:
        w = 1.0 / warp.m22
        ax, ay = f32(warp.m00 * w), f32(warp.m10 * w)
        x0, y0 = f32(bx * w - warp.left), f32(by * w - warp.top)
        for i in range(n):
            t = f32(np.int32(i))
            xs[i] = x0 + ax * t
            ys[i] = y0 + ay * t
    else:
        ax, ay, aw = f32(warp.m00), f32(warp.m10), f32(warp.m20)
        x0, y0, w0 = f32(bx), f32(by), f32(warp.m21 * y + warp.m22)
        left, top = f32(warp.left), f32(warp.top)
        for i in range(n):
            t = f32(np.int32(i))
            w = ONE / (w0 + aw * t)
            xs[i] = (x0 + ax * t) * w - left
            ys[i] = (y0 + ay * t) * w - top
    if warp.rule >= REFLECT:
        for i in range(n):
            xs[i] = _fold(xs[i], warp.left_edge, warp.right_edge, warp.rule)
            ys[i] = _fold(ys[i], warp.top_edge, warp.bottom_edge, warp.rule)
    x_low, x_high, y_low, y_high = warp.x_low, warp.x_high, warp.y_low, warp.y_high
    for i in range(n):
        xs[i] = _clamp(xs[i], x_low, x_high)
        ys[i] = _clamp(ys[i], y_low, y_high)


@_kernel
def _affine_taps(warp, y):
    """Do what ``_coordinates`` and ``_tap_offsets`` do together, in one loop, where nothing is divided or folded."""
    _wide()
    xs, ys, offsets = _floats(warp.xs), _floats(warp.ys), _ints(warp.offsets)
    x_low, x_high, y_low, y_high = warp.x_low, warp.x_high, warp.y_low, warp.y_high
    w, pitch = 1.0 / warp.m22, np.int32(warp.pitch)
    ax, ay = f32(warp.m00 * w), f32(warp.m10 * w)
    x0 = f32((warp.m01 * y + warp.m02) * w - warp.left)
    y0 = f32((warp.m11 * y + warp.m12) * w - warp.top)
    for i in range(warp.width):
        t = f32(np.int32(i))
        u, v = _clamp(x0 + ax * t, x_low, x_high), _clamp(y0 + ay * t, y_low, y_high)
        column, row = np.floor(u), np.floor(v)
        offsets[i] = np.int32(row) * pitch + np.int32(column)
        xs[i], ys[i] = u - column, v - row


@_kernel
def _tap_offsets(warp):
    """Turn coordinates into fractions, and fill the offset of the upper left of their four taps."""
    xs, ys, offsets, pitch = _floats(warp.xs), _floats(warp.ys), _ints(warp.offsets), np.int32(warp.pitch)
    for i in range(warp.width):
        x, y = np.floor(xs[i]), np.floor(ys[i])
        offsets[i] = np.int32(y) * pitch + np.int32(x)
        xs[i] -= x
        ys[i] -= y


@_kernel
def _nearest_offsets(warp):
    xs, ys, offsets, pitch = _floats(warp.xs), _floats(warp.ys), _ints(warp.offsets), np.int32(warp.pitch)
    for i in range(warp.width):
        # A little more than a half: composed matrices land on ties up to rounding.
        x, y = np.floor(xs[i] + HALF_AND_A_BIT), np.floor(ys[i] + HALF_AND_A_BIT)
        offsets[i] = np.int32(y) * pitch + np.int32(x)


# Warps with four taps. Taps are copied in pairs of neighbours, so that a pixel costs two loads and not four.


@_kernel
def _copy_pairs(out, n, base, offsets):
    for i in range(n):
        out[i] = _pair(base + 4 * np.int64(offsets[i]))


@_kernel
def _copy_taps(upper, lower, n, base, offsets, pitch):
    below = base + 4 * pitch
    for i in range(n):
        at = 4 * np.int64(offsets[i])
        upper[i] = _pair(base + at)
        lower[i] = _pair(below + at)


@_kernel
def _level(word, shift):
    return f32(np.int32((word >> shift) & np.uint32(255)))


@_kernel
def _blend_colours(red, green, blue, upper, lower, n, xs, ys):
    """Blend three channels of packed taps, each tap being loaded once; pairs lie one after the other."""
    _wide()
    for i in range(n):
        below, right = ys[i] * PER_LEVEL, xs[i]
        above, left = PER_LEVEL - below, ONE - right
        p, q, r, s = left * above, right * above, left * below, right * below
        e, f, g, h = upper[2 * i], upper[2 * i + 1], lower[2 * i], lower[2 * i + 1]
        red[i] = _level(e, BITS_0) * p + _level(f, BITS_0) * q + _level(g, BITS_0) * r + _level(h, BITS_0) * s
        green[i] = _level(e, BITS_8) * p + _level(f, BITS_8) * q + _level(g, BITS_8) * r + _level(h, BITS_8) * s
        blue[i] = _level(e, BITS_16) * p + _level(f, BITS_16) * q + _level(g, BITS_16) * r + _level(h, BITS_16) * s


@_kernel
def _blend_last(out, upper, lower, n, xs, ys):
    """Blend the fourth channel of packed taps."""
    for i in range(n):
        below, right = ys[i] * PER_LEVEL, xs[i]
        above, left = PER_LEVEL - below, ONE - right
        value = _level(upper[2 * i], BITS_24) * (left * above) + _level(upper[2 * i + 1], BITS_24) * (right * above)
        out[i] = (
            value + _level(lower[2 * i], BITS_24) * (left * below) + _level(lower[2 * i + 1], BITS_24) * (right * below)
        )


@_kernel
def _blend_plane(out, upper, lower, n, xs, ys):
    """Blend one channel of float taps."""
    _wide()
    for i in range(n):
        a, c = upper[2 * i], lower[2 * i]
        above = a + xs[i] * (upper[2 * i + 1] - a)
        below = c + xs[i] * (lower[2 * i + 1] - c)
        out[i] = above + ys[i] * (below - above)


@_kernel
def _nearest_row(warp, to, plane):
    """Resample an output row by copying the nearest pixels."""
    offsets, n = _ints(warp.offsets), warp.width
    if not warp.is_words:
        for c in range(warp.channels):
            out, source = _floats(to + 4 * c * plane), _floats(warp.packed + 4 * c * warp.plane)
            for i in range(n):
                out[i] = source[offsets[i]]
        return
    words, row = _words(warp.packed), _words(warp.upper)
    for i in range(n):
        row[i] = words[offsets[i]]
    for c in range(warp.channels):
        out, shift = _floats(to + 4 * c * plane), np.uint32(8 * c)
        for i in range(n):
            out[i] = _level(row[i], shift) * PER_LEVEL


@_kernel
def _bilinear_row(warp, to, plane):
    """Resample an output row from the four taps around each pixel."""
    n, xs, ys, offsets = warp.width, _floats(warp.xs), _floats(warp.ys), _ints(warp.offsets)
    upper, lower = _pairs(warp.upper), _pairs(warp.lower)
    if not warp.is_words:
        for c in range(warp.channels):
            _copy_taps(upper, lower, n, warp.packed + 4 * c * warp.plane, offsets, warp.pitch)
            _blend_plane(_floats(to + 4 * c * plane), _floats(warp.upper), _floats(warp.lower), n, xs, ys)
        return
    _copy_taps(upper, lower, n, warp.packed, offsets, warp.pitch)
    above, below = _words(warp.upper), _words(warp.lower)
    _blend_colours(_floats(to), _floats(to + 4 * plane), _floats(to + 8 * plane), above, below, n, xs, ys)
    if warp.channels == 4:
        _blend_last(_floats(to + 12 * plane), above, below, n, xs, ys)


# Separable resampling, where rows and columns stay rows and columns. Weights hold an even number of taps, since taps
# are taken in pairs.


@_kernel
def _axis_taps(starts, weights, n, scale, offset, taps, radius, tent, first, last, low, high, rule):
    """Fill first tap and weights of each of ``n`` output pixels along one axis.

    ``first`` and ``last`` are the centres of the canvas's outermost pixels, ``low`` and ``high`` the legal coordinates,
    relative to the window as all else.
    """
    for i in range(n):
        x = _clamp(_fold(f32(scale * i + offset), first, last, rule), low, high)
        start = np.ceil(x - radius) if tent else np.floor(x)
        starts[i] = np.int32(start)
        if not tent:
            weights[i] = ONE - (x - start)
            weights[n + i] = x - start
            continue
        total = ZERO
        for k in range(taps):
            at = start + f32(np.int32(k))
            weight = ONE - abs(at - x) / radius
            if weight < ZERO or (rule == BORDER and (at < first or at > last)):
                weight = ZERO
            weights[k * n + i] = weight
            total += weight
        for k in range(taps):
            weights[k * n + i] /= total


@_kernel
def _add_pair_of_words(red, green, blue, last, n, pairs, a, b, channels, begins):
    """Add two weighted taps of each pixel to rows of levels, or begin with them."""
    _wide()
    if begins:
        for i in range(n):
            e, f, p, q = pairs[2 * i], pairs[2 * i + 1], a[i], b[i]
            red[i] = _level(e, BITS_0) * p + _level(f, BITS_0) * q
            green[i] = _level(e, BITS_8) * p + _level(f, BITS_8) * q
            blue[i] = _level(e, BITS_16) * p + _level(f, BITS_16) * q
    else:
        for i in range(n):
            e, f, p, q = pairs[2 * i], pairs[2 * i + 1], a[i], b[i]
            red[i] += _level(e, BITS_0) * p + _level(f, BITS_0) * q
            green[i] += _level(e, BITS_8) * p + _level(f, BITS_8) * q
            blue[i] += _level(e, BITS_16) * p + _level(f, BITS_16) * q
    if channels == 4:
        for i in range(n):
            value = _level(pairs[2 * i], BITS_24) * a[i] + _level(pairs[2 * i + 1], BITS_24) * b[i]
            last[i] = value if begins else last[i] + value


@_kernel
def _add_pair_of_floats(out, n, pairs, a, b, begins):
    """Add two weighted taps of each pixel of a plane to a row, or begin with them."""
    _wide()
    if begins:
        for i in range(n):
            out[i] = pairs[2 * i] * a[i] + pairs[2 * i + 1] * b[i]
    else:
        for i in range(n):
            out[i] += pairs[2 * i] * a[i] + pairs[2 * i + 1] * b[i]


@_kernel
def _add_row(warp, to, step, base, offsets, a_weights, taps, b_weights, before):
    """Add the weighted taps of a source row to rows ``step`` elements apart, one a channel, or begin with them.

    ``base`` is the offset of the row in the packed source. Weights are those of ``taps`` along x, and times
    ``b_weights`` where that address is not 0. Where no row went ``before``, this one begins.
    """
    n = warp.width
    pairs = _pairs(warp.upper)
    for k in range(0, taps, 2):
        a, b = _floats(a_weights + 4 * k * n), _floats(a_weights + 4 * (k + 1) * n)
        if b_weights != 0:
            a, b = _products(warp, a, b, _floats(b_weights))
        begins = before + k == 0
        if warp.is_words:
            _copy_pairs(pairs, n, warp.packed + 4 * (base + k), offsets)
            red, green, blue, last = (
                _floats(to),
                _floats(to + 4 * step),
                _floats(to + 8 * step),
                _floats(to + 12 * step),
            )
            _add_pair_of_words(red, green, blue, last, n, _words(warp.upper), a, b, warp.channels, begins)
        else:
            for c in range(warp.channels):
                _copy_pairs(pairs, n, warp.packed + 4 * (c * warp.plane + base + k), offsets)
                _add_pair_of_floats(_floats(to + 4 * c * step), n, _floats(warp.upper), a, b, begins)


@_kernel
def _products(warp, a, b, weights):
    """Multiply the weights of two taps along x with those of a row."""
    n = warp.width
    left, right = _floats(warp.lower), _floats(warp.lower + 4 * n)
    for i in range(n):
        left[i] = a[i] * weights[i]
        right[i] = b[i] * weights[i]
    return left, right


@_kernel
def _blend_rows(out, upper, lower, n, a, b):
    _wide()
    for i in range(n):
        out[i] = upper[i] * a + lower[i] * b


@_kernel
def _add_scaled(out, row, n, weight, begins):
    if begins:
        for i in range(n):
            out[i] = row[i] * weight
    else:
        for i in range(n):
            out[i] += row[i] * weight


@_kernel
def _separable_row(warp, to, plane, y):
    """Resample an output row from source rows that are resampled along x once each, and kept in a ring."""
    n, taps, scale = warp.width, warp.taps_y, PER_LEVEL if warp.is_words else ONE
    size = warp.channels * n
    first, weights, ring_ids = np.int64(_ints(warp.starts_y)[y]), _floats(warp.weights_y), _longs(warp.ring_ids)
    for k in range(taps):
        row = first + k
        slot = row % taps
        if ring_ids[slot] != row and weights[k * warp.height + y] != ZERO:
            ring_ids[slot] = row
            into = warp.ring + 4 * slot * size
            _add_row(warp, into, n, row * warp.pitch, _ints(warp.starts_x), warp.weights_x, warp.taps_x, NONE, NONE)
    for c in range(warp.channels):
        out = _floats(to + 4 * c * plane)
        upper = _floats(warp.ring + 4 * ((first % taps) * size + c * n))
        if taps == 2:
            lower = _floats(warp.ring + 4 * (((first + 1) % taps) * size + c * n))
            _blend_rows(out, upper, lower, n, weights[y] * scale, weights[warp.height + y] * scale)
            continue
        for k in range(taps):
            row = _floats(warp.ring + 4 * (((first + k) % taps) * size + c * n))
            _add_scaled(out, row, n, weights[k * warp.height + y] * scale, k == 0)


# Antialiased resampling under any homography.


@_kernel
def _tent_weights(xs, n, starts, weights, taps, radius, low, high, rule, total):
    """Fill first taps and normalised weights along one axis for each pixel of a row."""
    over = ONE / radius
    for i in range(n):
        starts[i] = np.int32(np.ceil(xs[i] - radius))
        total[i] = ZERO
    for k in range(taps):
        weight, step = _floats(weights + 4 * k * n), f32(np.int32(k))
        for i in range(n):
            at = f32(starts[i]) + step
            value = ONE - abs(at - xs[i]) * over
            value = value if value > ZERO else ZERO
            if rule == BORDER:
                value = value if low <= at <= high else ZERO
            weight[i] = value
            total[i] += value
    for i in range(n):
        total[i] = ONE / total[i]
    for k in range(taps):
        weight = _floats(weights + 4 * k * n)
        for i in range(n):
            weight[i] *= total[i]


@_kernel
def _wide_row(warp, to, plane):
    """Resample an output row with a tent that is wider than a pixel."""
    n, rule, total = warp.width, warp.rule, _floats(warp.lower)
    starts_x, starts_y, offsets = _ints(warp.starts_x), _ints(warp.starts_y), _ints(warp.offsets)
    xs, ys = _floats(warp.xs), _floats(warp.ys)
    radius, first, last = warp.radius_x, warp.left_edge, warp.right_edge
    _tent_weights(xs, n, starts_x, warp.weights_x, warp.taps_x, radius, first, last, rule, total)
    radius, first, last = warp.radius_y, warp.top_edge, warp.bottom_edge
    _tent_weights(ys, n, starts_y, warp.weights_y, warp.taps_y, radius, first, last, rule, total)
    pitch = np.int32(warp.pitch)
    for i in range(n):
        offsets[i] = starts_y[i] * pitch + starts_x[i]
    for k in range(warp.taps_y):
        row_weights = warp.weights_y + 4 * k * n
        _add_row(warp, to, plane, k * warp.pitch, offsets, warp.weights_x, warp.taps_x, row_weights, k)
    if warp.is_words:
        for c in range(warp.channels):
            out = _floats(to + 4 * c * plane)
            for i in range(n):
                out[i] *= PER_LEVEL


# Pixel operations.


@_kernel
def _scale_plane(v, n, a, b, clamps):
    _wide()
    if clamps:
        for i in range(n):
            v[i] = _unit(v[i] * a + b)
    else:
        for i in range(n):
            v[i] = v[i] * a + b


@_kernel
def _stretch_plane(v, n, a, low, clamps):
    # The difference first: a flat image has a factor of a million, which would magnify rounding.
    for i in range(n):
        v[i] = (v[i] - low) * a
    if clamps:
        for i in range(n):
            v[i] = _unit(v[i])


@_kernel
def _matrix(r, g, b, n, m):
    _wide()
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8], m[9]
    b0, b1, b2 = m[10], m[11], m[12]
    if m[0] != ZERO:
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
def _hue_channel(top, delta, q, centre):
    """Return a channel of the colour whose hue, in sixths of a turn times ``delta``, is ``q``.

    In terms of HSV a channel is V - VS max(0, min(k, 4 - k, 1)) with k = n + h modulo 6: that is V - VS clamp(2 - d)
    for the distance d of the hue from the channel's complement on the circle. Everything is multiplied by ``delta`` =
    VS, so that nothing is divided by it; ``centre`` is in 0..6.
    """
    x = abs(q - centre * delta)
    far = abs(SIX * delta - x)
    x = x if x < far else far
    drop = TWO * delta - x
    drop = drop if drop > ZERO else ZERO
    return _unit(top - (drop if drop < delta else delta))


@_kernel
def _sixths(h):
    """Return a hue in sixths of a turn, in 0..6."""
    return h - SIX * np.floor(h / SIX)


@_kernel
def _hue(r, g, b, n, turns):
    _wide()
    shift = turns * SIX
    red, green, blue = _sixths(THREE - shift), _sixths(FIVE - shift), _sixths(ONE - shift)
    for i in range(n):
        x, y, z = r[i], g[i], b[i]
        top = x if x > y else y
        top = top if top > z else z
        low = x if x < y else y
        low = low if low < z else z
        delta = top - low
        q = FOUR * delta + (x - y)
        q = TWO * delta + (z - x) if y == top else q
        q = y - z if x == top else q
        r[i] = _hue_channel(top, delta, q, red)
        g[i] = _hue_channel(top, delta, q, green)
        b[i] = _hue_channel(top, delta, q, blue)


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
def _permute(chain, at, n, arguments):
    kept = _floats(chain.table)
    for i in range(n):
        for c in range(chain.channels):
            kept[c] = _floats(at + 4 * c * chain.plane)[i]
        for c in range(chain.channels):
            _floats(at + 4 * c * chain.plane)[i] = kept[np.int64(arguments[c])]


@_kernel
def _level_index(value, rounding):
    return np.int64(_clamp(value * LEVELS + rounding, ZERO, LEVELS))


@_kernel
def _look_up(v, n, levels, rounding):
    for i in range(n):
        v[i] = levels[_level_index(v[i], rounding)]


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
def _random_words(words, pitch, n, block, key, position, epoch):
    """Fill the first three words of ``n`` blocks from ``block`` on, each into a row of its own."""
    low, high = np.uint32(position & 0xFFFFFFFF), np.uint32((position >> 32) & 0xFFFFFFFF)
    k0, k1 = key[0], key[1]
    for i in range(n):
        first = np.uint32(np.uint32(block) + np.uint32(i))
        words[i], words[pitch + i], words[2 * pitch + i] = _philox(first, low, high, np.uint32(epoch), k0, k1)


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
def _add_normal(v, n, words, pitch, mean, sigma):
    for i in range(n):
        v[i] += mean + sigma * _normal(words[i], words[pitch + i])


@_kernel
def _erase(chain, at, top, rows, arguments, key):
    """Erase what lies of the box in the tile of ``rows`` rows from ``top`` on."""
    width = chain.width
    left, right = max(np.int64(arguments[1]), 0), min(np.int64(arguments[3]), width)
    n, words = right - left, _words(chain.random)
    if n <= 0:
        return
    for y in range(max(np.int64(arguments[0]), top), min(np.int64(arguments[2]), top + rows)):
        for c in range(chain.channels):
            v = _floats(at + 4 * (c * chain.plane + (y - top) * width + left))
            noisy = arguments[4] != ZERO
            value = ZERO if noisy else arguments[5 + c]
            for i in range(n):
                v[i] = value
            if noisy:
                block = NOISE_BLOCK + (c * chain.height + y) * width + left
                _random_words(words, width, n, block, key, chain.position, chain.epoch)
                _add_normal(v, n, words, width, ZERO, ONE)


@_kernel
def _noise(chain, at, top, rows, arguments, key):
    width, words = chain.width, _words(chain.random)
    for y in range(rows):
        for c in range(chain.channels):
            v = _floats(at + 4 * (c * chain.plane + y * width))
            block = NOISE_BLOCK + (c * chain.height + top + y) * width
            _random_words(words, width, width, block, key, chain.position, chain.epoch)
            _add_normal(v, width, words, width, arguments[0], arguments[1])
            if arguments[2] != ZERO:
                for i in range(width):
                    v[i] = _unit(v[i])


@_kernel
def _salt_pepper(chain, at, top, rows, arguments, key):
    width, words = chain.width, _words(chain.random)
    amount, salt, shared = np.float64(arguments[0]), np.float64(arguments[1]), arguments[2] != ZERO
    for y in range(rows):
        for c in range(chain.channels):
            v = _floats(at + 4 * (c * chain.plane + y * width))
            if c == 0 or not shared:
                block = NOISE_BLOCK + (c * chain.height + top + y) * width
                _random_words(words, width, width, block, key, chain.position, chain.epoch)
            for i in range(width):
                if np.float64(words[width + i]) * 2.0**-32 < amount:
                    v[i] = ONE if np.float64(words[2 * width + i]) * 2.0**-32 < salt else ZERO


# Statistics.


@_reduction
def _grey_sum(r, g, b, n):
    """Return the sum of grey values of a tile; float32 within it, since a tile is short."""
    _wide()
    total = ZERO
    for i in range(n):
        total += f32(0.299) * r[i] + f32(0.587) * g[i] + f32(0.114) * b[i]
    return total


@_reduction
def _sum(v, n):
    total = ZERO
    for i in range(n):
        total += v[i]
    return total


@_kernel
def _extremes(v, n, statistic):
    low, high = f32(statistic[0]), f32(statistic[1])
    for i in range(n):
        x = v[i]
        low = x if x < low else low
        high = x if x > high else high
    statistic[0], statistic[1] = low, high


@_kernel
def _count_levels(v, n, counts, rounding):
    for i in range(n):
        counts[_level_index(v[i], rounding)] += 1


@_kernel
def _begin_statistic(chain, code):
    statistic, histogram = _doubles(chain.statistic), _longs(chain.histogram)
    for c in range(chain.channels):
        statistic[2 * c] = np.inf if code == AUTOCONTRAST else 0.0
        statistic[2 * c + 1] = -np.inf
    if code == EQUALIZE:
        for i in range(256 * chain.channels):
            histogram[i] = 0


@_kernel
def _gather_statistic(chain, code, arguments, at, n):
    """Add a tile to the statistic that an operation needs."""
    step, statistic = 4 * chain.plane, _doubles(chain.statistic)
    if code == CONTRAST and chain.channels == 3:
        statistic[0] += _grey_sum(_floats(at), _floats(at + step), _floats(at + 2 * step), n)
        return
    for c in range(chain.channels):
        v = _floats(at + c * step)
        if code == CONTRAST:
            statistic[0] += _sum(v, n) / f32(chain.channels)
        elif code == AUTOCONTRAST:
            _extremes(v, n, _doubles(chain.statistic + 16 * c))
        elif code == EQUALIZE:
            _count_levels(v, n, _longs(chain.histogram + 2048 * c), HALF if arguments[0] != ZERO else ZERO)


@_kernel
def _equalizing_levels(table, counts, pixels):
    """Fill the look-up table of one channel; return whether it changes anything."""
    last = 255
    while last > 0 and counts[last] == 0:
        last -= 1
    step = (pixels - counts[last]) // 255
    if step == 0:
        return 0
    total = 0
    for level in range(256):
        table[level] = f32(min((total + step // 2) // step, 255)) * PER_LEVEL
        total += counts[level]
    table[0] = ZERO
    return 1


@_kernel
def _resolve(chain, code, arguments):
    """Turn an operation whose statistic is known into one that needs none; return its code, or 0."""
    channels, pixels = chain.channels, chain.height * chain.width
    resolved, statistic = _floats(chain.resolved), _doubles(chain.statistic)
    if code == CONTRAST:
        factor = arguments[0]
        resolved[0] = arguments[1]
        for c in range(channels):
            resolved[1 + c] = factor
            resolved[1 + channels + c] = f32((1.0 - factor) * (statistic[0] / pixels))
        return SCALE
    if code == AUTOCONTRAST:
        kornia = arguments[0] == ZERO
        resolved[0] = arguments[1] if kornia else ONE
        for c in range(channels):
            low, spread = statistic[2 * c], statistic[2 * c + 1] - statistic[2 * c]
            stays = not kornia and spread <= 0.0
            resolved[1 + c] = ONE if stays else f32(1.0 / (spread + 1e-6 if kornia else spread))
            resolved[1 + channels + c] = ZERO if stays else f32(low)
        return STRETCH
    if code == EQUALIZE:
        resolved[0] = arguments[0]
        for c in range(channels):
            table, counts = _floats(chain.table + 1024 * c), _longs(chain.histogram + 2048 * c)
            _longs(chain.changes)[c] = _equalizing_levels(table, counts, pixels)
        return LOOK_UP
    return 0


@_kernel
def _sharpen_plane(v, height, width, factor, rounded, rows):
    """Sharpen one plane in place; ``rows`` keeps the two rows above as they were."""
    n = height * width
    if height < 3 or width < 3:
        for i in range(n):
            v[i] = _unit(v[i])
        return
    for x in range(width):
        rows[x] = v[x]
    for y in range(1, height - 1):
        above, here, below = ((y - 1) & 1) * width, (y & 1) * width, (y + 1) * width
        for x in range(width):
            rows[here + x] = v[y * width + x]
        for x in range(1, width - 1):
            total = rows[above + x - 1] + rows[above + x] + rows[above + x + 1]
            total += v[below + x - 1] + v[below + x] + v[below + x + 1]
            value = rows[here + x]
            blurred = _unit((total + rows[here + x - 1] + FIVE * value + rows[here + x + 1]) * f32(1 / 13))
            if rounded:
                blurred = np.floor(blurred * LEVELS + HALF) * PER_LEVEL
            v[y * width + x] = _unit(blurred + (value - blurred) * factor)
    # The outermost pixels keep their place, but take part in the clamp.
    for x in range(width):
        v[x] = _unit(v[x])
        v[n - width + x] = _unit(v[n - width + x])
    for y in range(1, height - 1):
        v[y * width] = _unit(v[y * width])
        v[(y + 1) * width - 1] = _unit(v[(y + 1) * width - 1])


# The chain.


@_kernel
def _apply(chain, code, arguments, at, top, rows, key):
    """Run one operation over the tile at an address, of ``rows`` rows from row ``top`` on."""
    n, step = rows * chain.width, 4 * chain.plane
    if code == MATRIX:
        _matrix(_floats(at), _floats(at + step), _floats(at + 2 * step), n, arguments)
    elif code == HUE:
        _hue(_floats(at), _floats(at + step), _floats(at + 2 * step), n, arguments[0])
    elif code == SATURATE:
        _saturate(_floats(at), _floats(at + step), _floats(at + 2 * step), n, arguments[0])
    elif code == PERMUTE:
        _permute(chain, at, n, arguments)
    elif code == ERASE:
        _erase(chain, at, top, rows, arguments, key)
    elif code == NOISE:
        _noise(chain, at, top, rows, arguments, key)
    elif code == SALT_PEPPER:
        _salt_pepper(chain, at, top, rows, arguments, key)
    else:
        for c in range(chain.channels):
            _apply_to_plane(chain, code, arguments, _floats(at + c * step), n, c)


@_kernel
def _apply_to_plane(chain, code, arguments, v, n, c):
    """Run one of the operations that treat each channel by itself."""
    clamps = arguments[0] != ZERO
    if code == SCALE:
        _scale_plane(v, n, arguments[1 + c], arguments[1 + chain.channels + c], clamps)
    elif code == STRETCH:
        _stretch_plane(v, n, arguments[1 + c], arguments[1 + chain.channels + c], clamps)
    elif code == GAMMA:
        _gamma(v, n, arguments[0], arguments[1])
    elif code == SOLARIZE:
        _solarize(v, n, arguments[0], arguments[1])
    elif code == POSTERIZE:
        _posterize(v, n, arguments[0], arguments[1])
    elif code == LOOK_UP and _longs(chain.changes)[c]:
        _look_up(v, n, _floats(chain.table + 1024 * c), HALF if clamps else ZERO)


@_kernel
def _next_statistic(chain, first):
    k, codes = first, _ints(chain.codes)
    while k < chain.links and not CONTRAST <= (codes[k] & CODE_MASK) <= SHARPEN:
        k += 1
    return k


@_kernel
def _arguments_of(chain, k):
    return _floats(chain.arguments + 4 * k * chain.argument_count)


@_inlined
def _run_links(chain, first, until, resolved, at, top, rows):
    """Run links ``first..until-1`` of the chain over a tile, gather the statistic of link ``until``, or store.

    Before them goes operation ``resolved``, where that is not 0.
    """
    codes = _ints(chain.codes)
    for k in range(first - 1, until):
        if k >= first:
            key = _words(chain.keys + 8 * (codes[k] >> CODE_BITS))
            _apply(chain, codes[k] & CODE_MASK, _arguments_of(chain, k), at, top, rows, key)
        elif resolved != 0:
            _apply(chain, resolved, _floats(chain.resolved), at, top, rows, _words(chain.keys))
    if until < chain.links:
        _gather_statistic(chain, codes[until] & CODE_MASK, _arguments_of(chain, until), at, rows * chain.width)
    elif chain.stores:
        _store(chain, at, top, rows)


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


@_kernel
def _byte(value):
    return np.uint8(np.int32(_clamp(np.rint(value * LEVELS), ZERO, LEVELS)))


# Only a loop whose step is known to be 1 is vectorised.
@_kernel
def _convert(to, step, values, n, kind):
    """Write float32 values in the output's dtype to an address, ``step`` elements apart."""
    floats, bytes_, halves = _floats(to), _bytes(to), _halves(to)
    if kind == FLOAT32 and step == 1:
        for i in range(n):
            floats[i] = values[i]
    elif kind == FLOAT32:
        for i in range(n):
            floats[i * step] = values[i]
    elif kind == UINT8 and step == 1:
        for i in range(n):
            bytes_[i] = _byte(values[i])
    elif kind == UINT8:
        for i in range(n):
            bytes_[i * step] = _byte(values[i])
    elif kind == FLOAT16 and step == 1:
        for i in range(n):
            halves[i] = _half_bits(values[i])
    elif kind == BFLOAT16 and step == 1:
        for i in range(n):
            halves[i] = _bfloat_bits(values[i])
    else:
        for i in range(n):
            halves[i * step] = _half_bits(values[i]) if kind == FLOAT16 else _bfloat_bits(values[i])


@_kernel
def _stream(to, source, size):
    """Copy bytes past the caches; those that do not fill a cache line go through them."""
    head = min(-to & 63, size)
    lines = (size - head) >> 6
    _copy_bytes(_bytes(to), _bytes(source), head)
    for i in range(lines):
        _stream_line(to + head + 64 * i, source + head + 64 * i)
    done = head + 64 * lines
    _copy_bytes(_bytes(to + done), _bytes(source + done), size - done)


@_kernel
def _copy_bytes(to, source, n):
    for i in range(n):
        to[i] = source[i]


@_kernel
def _store(chain, at, top, rows):
    """Store a tile, in runs of memory as long as the output's layout allows."""
    width, size = chain.width, chain.itemsize
    channel_step, row_step, column_step = chain.channel_step, chain.row_step, chain.column_step
    whole = row_step == width * column_step
    count, length = (1, rows * width) if whole else (rows, width)
    mixed = chain.streams and whole and channel_step == 1 and column_step == chain.channels
    for c in range(chain.channels):
        for run in range(count):
            values = at + 4 * (c * chain.plane + run * length)
            to = chain.output + (c * channel_step + (top + run) * row_step) * size
            if mixed:
                _convert(chain.line + c * size, column_step, _floats(values), length, chain.kind)
            elif not chain.streams or column_step != 1:
                _convert(to, column_step, _floats(values), length, chain.kind)
            elif chain.kind == FLOAT32:
                _stream(to, values, 4 * length)
            else:
                _convert(chain.line, ONCE, _floats(values), length, chain.kind)
                _stream(to, chain.line, length * size)
    if mixed:
        _stream(chain.output + top * row_step * size, chain.line, rows * width * column_step * size)


# A pass over one sample.


@_kernel
def _is_straight(warp):
    """Return whether rows and columns stay rows and columns."""
    return warp.m20 == 0.0 and warp.m21 == 0.0 and warp.m01 == 0.0 and warp.m10 == 0.0


@_kernel
def _is_whole(warp):
    """Return whether a homography that keeps rows and columns only mirrors and shifts by whole pixels."""
    whole = abs(warp.m00) == 1.0 and abs(warp.m11) == 1.0 and warp.m22 == 1.0
    return whole and warp.m02 == math.floor(warp.m02) and warp.m12 == math.floor(warp.m12)


@_kernel
def _source_extent(m0, m1, m2, warp):
    """Return the smallest and largest source coordinate of an output along an axis, infinite where unbounded.

    ``m0`` to ``m2`` is the row of the homography that makes the coordinate.
    """
    low, high = np.inf, -np.inf
    for corner in range(4):
        x, y = (corner & 1) * (warp.width - 1.0), (corner >> 1) * (warp.height - 1.0)
        w = warp.m20 * x + warp.m21 * y + warp.m22
        if not w > 1e-9:
            return -np.inf, np.inf
        value = (m0 * x + m1 * y + m2) / w
        if not abs(value) < 1e9:
            return -np.inf, np.inf
        low, high = min(low, value), max(high, value)
    return low, high


@_kernel
def _window(extent, low, high, rule, radius):
    """Return legal coordinates, and begin and end of the source pixels that are needed, along an axis.

    ``low..high`` are the centres of the canvas's outermost pixels.
    """
    reach = radius + 1.0 if rule == FILL else 0.0
    begin, end = low - reach, high + reach
    # What rounding in float32 could add at the edges of the window.
    from_, to = extent[0] - 0.01, extent[1] + 0.01
    if rule >= REFLECT and (from_ < low or to > high):
        from_, to = low, high
    from_, to = min(max(from_, begin), end), max(min(to, end), begin)
    margin = math.ceil(radius) + 1
    return from_, to, math.floor(from_) - margin, math.floor(to) + margin + 1


@_kernel
def _fill_word(fill, channels):
    """Return the packed fill value, and whether bytes hold it exactly."""
    word = np.uint32(0)
    for c in range(channels):
        level = fill[c] * LEVELS
        if not (0 <= level <= 255 and abs(level - np.rint(level)) < f32(1e-3)):
            return word, False
        word |= np.uint32(np.rint(level)) << np.uint32(8 * c)
    return word, True


@_kernel
def _choose_method(warp, filter_, radius_x, radius_y):
    """Fill the filter, its taps and the way to resample."""
    if filter_ == TENT and radius_x <= 1.0 and radius_y <= 1.0:
        # Where nothing shrinks, the tent is that of bilinear interpolation.
        filter_ = BILINEAR
    tent = filter_ == TENT
    warp.filter = filter_
    warp.radius_x, warp.radius_y = f32(radius_x) if tent else ONE, f32(radius_y) if tent else ONE
    warp.taps_x = np.int64(TWO * warp.radius_x) + 1 if tent else 2
    warp.taps_y = np.int64(TWO * warp.radius_y) + 1 if tent else 2
    if _is_straight(warp) and _is_whole(warp):
        warp.method = COPY
    elif _is_straight(warp) and filter_ >= BILINEAR:
        warp.method = SEPARABLE
    else:
        warp.method = WIDE if tent else GENERAL
    affine = warp.m20 == 0.0 and warp.m21 == 0.0
    plain = affine and warp.rule <= FILL and filter_ > NEAREST and warp.method == GENERAL
    warp.is_affine = 1 if plain else 0


@_kernel
def _plan_copy(warp, arena, canvas, inner):
    """Fill the source row and column of each output row and column."""
    warp.rows, warp.columns = _take(arena, 4 * warp.height), _take(arena, 4 * warp.width)
    low, high, first, step = np.int64(canvas[0]), np.int64(canvas[2]), np.int64(warp.m02), np.int64(warp.m00)
    _index_map(_ints(warp.columns), first, step, warp.width, warp.source_width, low, high, warp.rule, inner)
    low, high, first, step = np.int64(canvas[1]), np.int64(canvas[3]), np.int64(warp.m12), np.int64(warp.m11)
    _index_map(_ints(warp.rows), first, step, warp.height, warp.source_height, low, high, warp.rule, inner)


@_kernel
def _place_window(warp, arena, canvas, inner):
    """Choose the window of the source that is needed, and take memory for it; return whether there is enough."""
    low, high = float(canvas[0]), float(canvas[2] - 1)
    extent = _source_extent(warp.m00, warp.m01, warp.m02, warp)
    from_, to, left, right = _window(extent, low, high, warp.rule, warp.radius_x)
    warp.left, warp.x_low, warp.x_high = left, f32(from_ - left), f32(to - left)
    warp.left_edge, warp.right_edge = f32(low - left), f32(high - left)
    low, high = float(canvas[1]), float(canvas[3] - 1)
    extent = _source_extent(warp.m10, warp.m11, warp.m12, warp)
    from_, to, top, bottom = _window(extent, low, high, warp.rule, warp.radius_y)
    warp.top, warp.y_low, warp.y_high = top, f32(from_ - top), f32(to - top)
    warp.top_edge, warp.bottom_edge = f32(low - top), f32(high - top)
    warp.pitch, warp.window_height = right - left, bottom - top
    warp.plane = warp.pitch * warp.window_height
    warp.rows, warp.columns = _take(arena, 4 * warp.window_height), _take(arena, 4 * warp.pitch)
    # A pair of taps may begin at the last pixel.
    warp.packed = _take(arena, 4 * (warp.channels * warp.plane + 2))
    if arena.next + _taps_size(warp) > arena.end:
        return False
    low, high, outer = np.int64(canvas[0]), np.int64(canvas[2]), warp.rule
    _index_map(_ints(warp.columns), left, ONCE, warp.pitch, warp.source_width, low, high, outer, inner)
    low, high = np.int64(canvas[1]), np.int64(canvas[3])
    _index_map(_ints(warp.rows), top, ONCE, warp.window_height, warp.source_height, low, high, outer, inner)
    return True


@_kernel
def _fill_window(warp):
    """Pack the window of the source that is needed."""
    word, is_exact = _fill_word(_floats(warp.fill), warp.channels)
    if warp.is_bytes and (warp.channels == 3 or warp.channels == 4) and is_exact:
        warp.is_words = 1
        _pack_words(warp, warp.window_height, warp.pitch, word)
    else:
        warp.is_words = 0
        _pack_planes(warp, warp.packed, warp.pitch, warp.plane, NONE, warp.window_height, warp.pitch)


@_kernel
def _taps_size(warp):
    """Return at least the bytes that ``_plan_taps`` takes."""
    longest = max(warp.width, warp.height)
    return (48 + 4 * (warp.taps_x + warp.taps_y + 2 + warp.taps_y * warp.channels)) * longest + 8 * warp.taps_y + 1024


@_kernel
def _take_weights(arena, taps, n):
    """Return the address of weights for ``taps`` taps of ``n`` pixels, and one more which weighs nothing."""
    address = _take(arena, 4 * (taps + 1) * n)
    last = _floats(address + 4 * taps * n)
    for i in range(n):
        last[i] = ZERO
    return address


@_kernel
def _plan_taps(warp, arena):
    """Take the memory that resampling needs, and fill the weights that hold for all rows."""
    width, height, taps = warp.width, warp.height, warp.taps_y
    warp.upper, warp.lower = _take(arena, 8 * width), _take(arena, 8 * width)
    warp.xs, warp.ys, warp.offsets = _take(arena, 4 * width), _take(arena, 4 * width), _take(arena, 4 * width)
    if warp.method == GENERAL:
        return
    n = height if warp.method == SEPARABLE else width
    warp.starts_x, warp.starts_y = _take(arena, 4 * width), _take(arena, 4 * n)
    warp.weights_x, warp.weights_y = _take_weights(arena, warp.taps_x, width), _take_weights(arena, taps, n)
    if warp.method == WIDE:
        return
    warp.ring, warp.ring_ids = _take(arena, 4 * taps * warp.channels * width), _take(arena, 8 * taps)
    ring, ids = _floats(warp.ring), _longs(warp.ring_ids)
    # A row that weighs nothing is not resampled: what stands in its place must be a number.
    for i in range(taps * warp.channels * width):
        ring[i] = ZERO
    for k in range(taps):
        ids[k] = -1
    tent, w, rule = warp.filter == TENT, warp.m22, warp.rule
    scale, offset, first, last = warp.m00 / w, warp.m02 / w - warp.left, warp.left_edge, warp.right_edge
    starts, weights, low, high = _ints(warp.starts_x), _floats(warp.weights_x), warp.x_low, warp.x_high
    _axis_taps(starts, weights, width, scale, offset, warp.taps_x, warp.radius_x, tent, first, last, low, high, rule)
    scale, offset, first, last = warp.m11 / w, warp.m12 / w - warp.top, warp.top_edge, warp.bottom_edge
    starts, weights, low, high = _ints(warp.starts_y), _floats(warp.weights_y), warp.y_low, warp.y_high
    _axis_taps(starts, weights, height, scale, offset, taps, warp.radius_y, tent, first, last, low, high, rule)


@_kernel
def _warp_tile(warp, at, plane, top, rows):
    """Resample output rows ``top..top+rows-1`` into a tile whose planes are ``plane`` elements apart."""
    if warp.method == COPY:
        _pack_planes(warp, at, warp.width, plane, top, rows, warp.width)
        return
    for y in range(top, top + rows):
        to = at + 4 * (y - top) * warp.width
        if warp.method == SEPARABLE:
            _separable_row(warp, to, plane, y)
        elif warp.is_affine:
            _affine_taps(warp, y)
            _bilinear_row(warp, to, plane)
        else:
            _coordinates(warp, y)
            if warp.method == WIDE:
                _wide_row(warp, to, plane)
            elif warp.filter <= NEAREST:
                _nearest_offsets(warp)
                _nearest_row(warp, to, plane)
            else:
                _tap_offsets(warp)
                _bilinear_row(warp, to, plane)


@_inlined
def _run_pass(warp, chain):
    """Resample a sample's source and run the chain, tile by tile; once more for each statistic in it."""
    height, width, codes = chain.height, chain.width, _ints(chain.codes)
    tile_rows = max(1, TILE // width)
    first, resolved = NONE, NONE
    while True:
        until = _next_statistic(chain, first)
        if until < chain.links:
            _begin_statistic(chain, codes[until] & CODE_MASK)
        for top in range(0, height, tile_rows):
            rows = min(tile_rows, height - top)
            at = chain.buffer + (0 if chain.is_tile else 4 * top * width)
            if first == 0:
                _warp_tile(warp, at, chain.plane, top, rows)
            _run_links(chain, first, until, resolved, at, top, rows)
        if until >= chain.links:
            return
        code, arguments = codes[until] & CODE_MASK, _arguments_of(chain, until)
        if code == SHARPEN:
            for c in range(chain.channels):
                plane = _floats(chain.buffer + 4 * c * chain.plane)
                _sharpen_plane(plane, height, width, arguments[0], arguments[1] != ZERO, _floats(chain.line))
        resolved = _resolve(chain, code, arguments)
        first = until + 1


@_kernel
def _take_scratch(chain, arena, widest):
    """Take the memory that a chain needs for outputs of any of the widths."""
    channels = chain.channels
    # A tile in the output's dtype, or two rows of a plane.
    chain.line = _take(arena, 4 * max(channels * max(TILE, widest), 2 * widest))
    chain.random = _take(arena, 12 * widest)
    chain.table, chain.changes = _take(arena, 1024 * channels), _take(arena, 8 * channels)
    chain.statistic, chain.histogram = _take(arena, 16 * channels), _take(arena, 2048 * channels)
    chain.resolved = _take(arena, 4 * chain.argument_count)


@_kernel
def _place_chain(chain, final, tile, work):
    """Choose where the chain of a pass runs: in one tile, or over the whole result."""
    chain.stores = 1 if final else 0
    chain.is_tile = 1 if final and _next_statistic(chain, NONE) == chain.links else 0
    chain.buffer = tile if chain.is_tile else work
    chain.plane = max(1, TILE // chain.width) * chain.width if chain.is_tile else chain.height * chain.width


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
    streams,
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
    warps,
    chains,
    arenas,
):
    """Compute the output of samples ``first..last-1``; return whether the scratch memory sufficed.

    Images and outputs are addresses, with height and width, and strides of channel, row and column in elements; kinds
    are UINT8, FLOAT32 and so on. With ``streams`` the output is written past the caches. From ``passes`` to ``epoch``
    see :class:`torchaug_gen.augment.tables.Tables`. ``warps``, ``chains`` and ``arenas`` hold one record each, of WARP,
    CHAIN and ARENA.
    """
    warp, chain, arena = warps[0], chains[0], arenas[0]
    most, widest = np.int64(0), np.int64(0)
    for n in range(first, last):
        for p in range(passes[n]):
            most = max(most, np.int64(size[n, p, 0]) * np.int64(size[n, p, 1]))
            widest = max(widest, np.int64(size[n, p, 1]))
    warp.channels = chain.channels = channels
    chain.argument_count, chain.keys, chain.epoch = arguments.shape[3], keys.ctypes.data, epoch
    chain.kind, chain.streams = output_kind, streams
    chain.itemsize = 4 if output_kind == FLOAT32 else 1 if output_kind == UINT8 else 2
    chain.channel_step, chain.row_step, chain.column_step = output_strides[0], output_strides[1], output_strides[2]
    _take_scratch(chain, arena, widest)
    tile = _take(arena, 4 * channels * max(TILE, widest))
    work = _take(arena, 8 * channels * most)
    rest = arena.next
    for n in range(first, last):
        chain.position, chain.output = positions[n], outputs[n]
        warp.source, warp.is_bytes = sources[n], 1 if source_kind == UINT8 else 0
        warp.source_height, warp.source_width = shapes[n, 0], shapes[n, 1]
        warp.channel_step, warp.row_step, warp.column_step = (
            source_strides[n, 0],
            source_strides[n, 1],
            source_strides[n, 2],
        )
        for p in range(passes[n]):
            arena.next = rest
            warp.height = chain.height = size[n, p, 0]
            warp.width = chain.width = size[n, p, 1]
            m = matrix[n, p]
            warp.m00, warp.m01, warp.m02, warp.m10, warp.m11 = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1]
            warp.m12, warp.m20, warp.m21, warp.m22 = m[1, 2], m[2, 0], m[2, 1], m[2, 2]
            warp.rule, warp.fill = padding[n, p], fill[n, p].ctypes.data
            _choose_method(warp, filters[n, p], radius[n, p, 0], radius[n, p, 1])
            here = work + 4 * channels * most * (p & 1)
            chain.codes, chain.arguments = codes[n, p].ctypes.data, arguments[n, p].ctypes.data
            chain.links = links[n, p]
            _place_chain(chain, p == passes[n] - 1, tile, here)
            inner = canvas_padding[n, p]
            if warp.method == COPY:
                _plan_copy(warp, arena, canvas[n, p], inner)
            elif _place_window(warp, arena, canvas[n, p], inner):
                _fill_window(warp)
                _plan_taps(warp, arena)
            else:
                return False
            _run_pass(warp, chain)
            # The next pass reads what this one left.
            warp.source, warp.is_bytes = here, 0
            warp.source_height, warp.source_width = warp.height, warp.width
            warp.channel_step, warp.row_step, warp.column_step = warp.height * warp.width, warp.width, 1
    if streams:
        _finish_streams()
    return True
