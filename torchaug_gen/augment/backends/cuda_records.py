"""Records: what the kernels of the CUDA backend are told about each sample, packed into one array of words.

A sample runs through *steps*: its passes, each cut before every SHARPEN, which needs the finished neighbours of a
pixel. There is a record for every sample and step, and one of height 0 where the sample needs no such step. Behind the
records lie the codes, the arguments and the keys of the tables.

Compiled by Numba: a few hundred records take microseconds, in NumPy they would take a millisecond.
"""

# Compiled functions take what they read one by one.
# ruff: noqa: PLR0917

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from torchaug_gen.augment.operation import Filter
from torchaug_gen.augment.tables import CODE_BITS, FIRST_STATISTIC, LAST_STATISTIC, Code, Tables

Array = npt.NDArray[Any]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    compiled: _Function = njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


# Where the fields of a record begin, in words of 32 bits. Addresses are in bytes, strides in values, offsets in words
# from the beginning of the array. First those of 64 bits.
SOURCE, TARGET, POSITION = 0, 2, 4
MATRIX = 6  # nine numbers in units of 2^-FRACTION
SLOPES = 24  # the first two columns of the matrix, by rows, float32
RADIUS = 30  # x, y, float32
SIZE, SOURCE_SIZE = 32, 34  # height, width
SOURCE_STRIDES, TARGET_STRIDES = 36, 39  # channel, row, column
CANVAS = 42  # left, top, right, bottom
TAPS = 46  # x, y
FILTER, PADDING = 48, 49
CANVAS_PADDING = 50  # negative where the canvas is the image
AFFINE = 51
LAST = 52  # whether the target is the output; others hold float32
BEGIN, END = 53, 54  # of the links
CODES, ARGUMENTS, KEYS = 55, 56, 57  # offsets
EPOCH = 58
FILL = 59  # a value for each channel
# Behind them: 1 + the link of each statistic of the step, 0 where there are no more.

# Positions in the source are whole numbers of 2^-FRACTION pixels, so that the corner of a tile is exact wherever it
# lies; 2^22 pixels are what 64 bits leave room for.
FRACTION = 40
_LARGEST = 2.0**21

# Numba takes them as constants.
_CODE_MASK = (1 << CODE_BITS) - 1
_SHARPEN, _EQUALIZE = int(Code.SHARPEN), int(Code.EQUALIZE)
_FIRST_STATISTIC, _LAST_STATISTIC = int(FIRST_STATISTIC), int(LAST_STATISTIC)
_EXACT, _BILINEAR, _TENT = int(Filter.EXACT), int(Filter.BILINEAR), int(Filter.TENT)


class Plan(NamedTuple):
    """What the host must know to launch kernels, by step.

    Attributes:
        counts: ``(N,)`` int32: how many steps a sample takes.
        steps: ``(N, S, 3)`` int32: the pass that a step belongs to, and where its links begin and end.
        tiles: ``(S,)``: how many tiles the largest output has.
        barriers: ``(S,)``: how many statistics the chains need at most.
        scratch: how many values all steps leave for later ones.
        equalizes: whether there are histograms among the statistics.
        words: the length of a record.
    """

    counts: Array
    steps: Array
    tiles: Array
    barriers: Array
    scratch: int
    equalizes: bool
    words: int


def plan(tables: Tables, tile: tuple[int, int]) -> Plan:
    """Return the steps of tables, whose outputs are computed in tiles of a height and width."""
    counts, steps = _cut(tables.passes, tables.links, tables.codes)
    channels = tables.fill.shape[-1]
    tiles, barriers, scratch, equalizes = _survey(counts, steps, tables.size, tables.codes, channels, tile)
    # Even, for the fields of 64 bits.
    words = (FILL + channels + int(barriers.max()) + 1) // 2 * 2
    return Plan(counts, steps, tiles, barriers, scratch, equalizes, words)


def size_of(tables: Tables, planned: Plan) -> int:
    """Return how many bytes :func:`pack` writes."""
    records = planned.steps.shape[0] * planned.steps.shape[1] * planned.words * 4
    return int(records + tables.codes.nbytes + tables.arguments.nbytes + tables.keys.nbytes)


def pack(
    tables: Tables,
    planned: Plan,
    buffer: Array,
    *,
    sources: tuple[Array, Array, Array],
    targets: tuple[Array, Array],
    scratch: int,
) -> None:
    """Write records and chains.

    Args:
        tables: what to compute.
        planned: their plan.
        buffer: uint8, as long as :func:`size_of` says.
        sources: ``(N,)`` addresses of the images, ``(N, 2)`` heights and widths, ``(N, 3)`` strides, int64.
        targets: ``(N,)`` addresses of the outputs, ``(3,)`` strides of an output, int64.
        scratch: address of the memory for what steps leave for later ones.
    """
    t = tables
    records = planned.steps.shape[0] * planned.steps.shape[1] * planned.words
    words, floats, longs = buffer.view(np.int32), buffer.view(np.float32), buffer[: records * 4].view(np.int64)
    offsets = records, records + t.codes.size, records + t.codes.size + t.arguments.size
    words[offsets[0] : offsets[1]] = t.codes.reshape(-1)
    floats[offsets[1] : offsets[2]] = t.arguments.reshape(-1)
    words[offsets[2] :] = t.keys.reshape(-1).view(np.int32)
    counters = t.positions, int(np.uint32(t.epoch).view(np.int32)), offsets, t.arguments.shape[3]
    ends = (*sources, *targets, scratch)
    warps = t.size, t.matrix, t.filter, t.radius, t.padding, t.fill, t.canvas, t.canvas_padding
    _pack((words, floats, longs), planned.words, (planned.counts, planned.steps), ends, warps, t.codes, counters)


@_compiled
def _cut(passes: Any, links: Any, codes: Any) -> Any:
    """Return how many steps each sample takes, and of each the pass and where its links begin and end."""
    counts = passes.copy()
    for n in range(len(passes)):
        for p in range(passes[n]):
            for link in range(links[n, p]):
                counts[n] += codes[n, p, link] & _CODE_MASK == _SHARPEN
    steps = np.zeros((len(passes), counts.max(), 3), np.int32)
    for n in range(len(passes)):
        step = 0
        for p in range(passes[n]):
            begin = 0
            for link in range(links[n, p]):
                if codes[n, p, link] & _CODE_MASK == _SHARPEN:
                    _put_three(steps[n, step], 0, p, begin, link)
                    begin, step = link, step + 1
            _put_three(steps[n, step], 0, p, begin, links[n, p])
            step += 1
    return counts, steps


@_compiled
def _survey(counts: Any, steps: Any, size: Any, codes: Any, channels: int, tile: Any) -> Any:
    tiles, barriers = np.zeros(steps.shape[1], np.int64), np.zeros(steps.shape[1], np.int64)
    scratch, equalizes = np.int64(0), False
    for n in range(len(counts)):
        for step in range(counts[n]):
            p, begin, end = steps[n, step, 0], steps[n, step, 1], steps[n, step, 2]
            height, width, statistics = np.int64(size[n, p, 0]), np.int64(size[n, p, 1]), 0
            for link in range(begin, end):
                code = codes[n, p, link] & _CODE_MASK
                statistics += _is_statistic(code)
                equalizes |= code == _EQUALIZE
            tiles[step] = max(tiles[step], -(-height // tile[0]) * -(-width // tile[1]))
            barriers[step] = max(barriers[step], statistics)
            if step < counts[n] - 1:
                scratch += channels * height * width
    return tiles, barriers, scratch, equalizes


@_compiled
def _is_statistic(code: int) -> bool:
    return _FIRST_STATISTIC <= code <= _LAST_STATISTIC and code != _SHARPEN


@_compiled
def _pack(views: Any, length: int, planned: Any, ends: Any, warps: Any, codes: Any, counters: Any) -> None:
    words, floats, longs = views
    counts, steps = planned
    sources, extents, strides, targets, target_strides, scratch = ends
    positions, epoch, offsets, arguments = counters
    size, fill, channels = warps[0], warps[5], warps[5].shape[2]
    passes, links = codes.shape[1], codes.shape[2]
    for n in range(len(counts)):
        address, channel, row, column = sources[n], strides[n, 0], strides[n, 1], strides[n, 2]
        extent_y, extent_x = extents[n, 0], extents[n, 1]
        for step in range(steps.shape[1]):
            at = (n * steps.shape[1] + step) * length
            for word in range(SIZE, length):
                words[at + word] = 0
            if step >= counts[n]:
                continue
            p, begin, end = steps[n, step, 0], steps[n, step, 1], steps[n, step, 2]
            height, width = np.int64(size[n, p, 0]), np.int64(size[n, p, 1])
            longs[(at + SOURCE) // 2], longs[(at + POSITION) // 2] = address, positions[n]
            words[at + EPOCH] = epoch
            words[at + SOURCE_SIZE], words[at + SOURCE_SIZE + 1] = extent_y, extent_x
            _put_three(words, at + SOURCE_STRIDES, channel, row, column)
            words[at + SIZE], words[at + SIZE + 1] = height, width
            # What a step that begins within a pass resamples is what it leaves as it is.
            still = step > 0 and steps[n, step - 1, 0] == p
            _put_filter(words, floats, at, n, p, still, warps, extent_y, extent_x)
            _put_matrix(words, floats, longs, at, warps[1][n, p], height, width, still)
            for c in range(channels):
                floats[at + FILL + c] = fill[n, p, c]
            words[at + BEGIN], words[at + END] = begin, end
            stop = at + FILL + channels
            for link in range(begin, end):
                if _is_statistic(codes[n, p, link] & _CODE_MASK):
                    words[stop] = link + 1
                    stop += 1
            place = n * passes + p
            words[at + CODES] = offsets[0] + place * links
            words[at + ARGUMENTS] = offsets[1] + place * links * arguments
            words[at + KEYS] = offsets[2]
            if step == counts[n] - 1:
                words[at + LAST] = 1
                longs[(at + TARGET) // 2] = targets[n]
                _put_three(words, at + TARGET_STRIDES, target_strides[0], target_strides[1], target_strides[2])
            else:
                address, extent_y, extent_x = scratch, height, width
                channel, row, column = height * width, width, 1
                longs[(at + TARGET) // 2] = address
                _put_three(words, at + TARGET_STRIDES, channel, row, column)
                scratch += 4 * channels * height * width


@_compiled
def _put_three(words: Any, at: int, a: Any, b: Any, c: Any) -> None:
    words[at], words[at + 1], words[at + 2] = a, b, c


@_compiled
def _put_filter(
    words: Any, floats: Any, at: int, n: int, p: int, still: bool, warps: Any, height: int, width: int
) -> None:
    """Write how a step resamples an image; one that keeps ``still`` reads it pixel by pixel."""
    _, _, filters, radius, padding, _, canvas, canvas_padding = warps
    filter_, radius_x, radius_y = filters[n, p], radius[n, p, 0], radius[n, p, 1]
    left, top, right, bottom = canvas[n, p, 0], canvas[n, p, 1], canvas[n, p, 2], canvas[n, p, 3]
    if still:
        filter_, left, top, right, bottom = _EXACT, 0, 0, width, height
    if filter_ != _TENT or (radius_x <= 1 and radius_y <= 1):
        # A tent as narrow as can be is bilinear interpolation, and the other way round.
        radius_x, radius_y, filter_ = 1.0, 1.0, min(filter_, _BILINEAR)
    floats[at + RADIUS], floats[at + RADIUS + 1] = radius_x, radius_y
    words[at + TAPS], words[at + TAPS + 1] = math.ceil(2 * radius_x), math.ceil(2 * radius_y)
    words[at + CANVAS], words[at + CANVAS + 1] = left, top
    words[at + CANVAS + 2], words[at + CANVAS + 3] = right, bottom
    words[at + FILTER], words[at + PADDING] = filter_, padding[n, p]
    whole = left == 0 and top == 0 and right == width and bottom == height
    words[at + CANVAS_PADDING] = -1 if whole else canvas_padding[n, p]


@_compiled
def _put_matrix(
    words: Any, floats: Any, longs: Any, at: int, matrix: Any, height: Any, width: Any, still: bool
) -> None:
    """Write a homography as whole numbers, scaled so that the denominator is 1 in the middle of the output."""
    scale = matrix[2, 0] * (width - 1) / 2 + matrix[2, 1] * (height - 1) / 2 + matrix[2, 2]
    words[at + AFFINE] = still or (matrix[2, 0] == 0 and matrix[2, 1] == 0)
    for row in range(3):
        for column in range(3):
            # Beyond the largest number all is outside of any image.
            limit = _LARGEST
            if column == 0:
                limit /= width
            elif column == 1:
                limit /= height
            value = matrix[row, column] / scale
            if still:
                value = 1.0 if row == column else 0.0
            # A comparison with NaN is false.
            value = max(value, -limit) if value < limit else limit
            longs[(at + MATRIX) // 2 + 3 * row + column] = round(value * 2.0**FRACTION)
            if column < 2:
                floats[at + SLOPES + 2 * row + column] = value
