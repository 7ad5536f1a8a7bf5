"""The Numba kernel that draws the parameters of operations.

All of it stands in this one file, because Numba's cache does not notice changes in another one.
"""

# mypy: ignore-errors

import numpy as np
from numba import njit

from torchaug_gen.augment.operation import CONSTANTS, Kind, Size

# Without Numba's runtime nothing counts references, which took two thirds of the time; and nothing may be allocated.
_OPTIONS = {"error_model": "numpy", "_nrt": False}
_entry = njit(nogil=True, cache=True, **_OPTIONS)
# Only kernels call these: without a way in from Python they compile in three quarters of the time.
_inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)

# The draws of an operation: number j decides its column j (0: whether it acts), number _COIN + j the sign of column j.
# Crops and erasing take pairs of numbers from _TRIES on.
_COIN = 16
_TRIES = 32
_TRY_COUNT = 10
# How many numbers Kornia's box to erase is made of.
_KORNIA_BOX = 6
NUMBERS = _TRIES + 2 * _TRY_COUNT

_QUARTER_TURNS = int(Kind.QUARTER_TURNS)
_AFFINE = int(Kind.AFFINE)
_PERSPECTIVE = int(Kind.PERSPECTIVE)
_CROP = int(Kind.CROP)
_RESIZED_CROP = int(Kind.RESIZED_CROP)
_RESIZE = int(Kind.RESIZE)
_JITTER = int(Kind.JITTER)
_POSTERIZE = int(Kind.POSTERIZE)
_CHANNEL_SHUFFLE = int(Kind.CHANNEL_SHUFFLE)
_CHANNEL_DROPOUT = int(Kind.CHANNEL_DROPOUT)
_PLANCKIAN = int(Kind.PLANCKIAN)
_ERASE = int(Kind.ERASE)

_FIXED, _SHORT = int(Size.FIXED), int(Size.SHORT)
_PADDED, _KORNIA_SHORT, _KORNIA_LONG = int(Size.PADDED), int(Size.KORNIA_SHORT), int(Size.KORNIA_LONG)

_KORNIA, _TANGENTS = 0, 2

# Numba compiles a function anew for each literal integer that it is called with, but not for these.
_ZERO, _TWO = np.int64(0), np.int64(2)


def offset(kind: Kind, name: str) -> int:
    """Return where a constant, or the first of a range, stands among an operation's constants."""
    place = 0
    for constant in CONSTANTS[kind]:
        if constant.removesuffix("*4") == name:
            return place
        place += 4 if constant.endswith("*4") else 1
    raise KeyError(name)


_PIXELS = offset(Kind.AFFINE, "translate_pixels")
_WHOLE = offset(Kind.AFFINE, "translate_whole")
_JOINT = offset(Kind.AFFINE, "scale_joint")
_ON = np.array([offset(Kind.JITTER, f"{name}_on") for name in ("brightness", "contrast", "saturation", "hue")])
_ORDER_FIXED = offset(Kind.JITTER, "fixed")


@_inner
def _fill(numbers, key, epoch, position, first, count):
    """Put uniform numbers first, …, first + count - 1 of a stream into their places; first is even."""
    word = np.uint64(0xFFFFFFFF)
    bits = np.uint64(32)
    low, high = np.uint64(position) & word, np.uint64(position) >> bits
    for pair in range(first // 2, (first + count + 1) // 2):
        c0, c1, c2, c3 = np.uint64(pair), low, high, epoch
        k0, k1 = np.uint64(key[0]), np.uint64(key[1])
        for _ in range(10):
            p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
            c0, c1, c2, c3 = (p1 >> bits) ^ c1 ^ k0, p1 & word, (p0 >> bits) ^ c3 ^ k1, p0 & word
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
        numbers[2 * pair] = np.float64((c0 << np.uint64(21)) | (c1 >> np.uint64(11))) * 2.0**-53
        numbers[2 * pair + 1] = np.float64((c2 << np.uint64(21)) | (c3 >> np.uint64(11))) * 2.0**-53


@_inner
def _gate_number(scratch, taken, key, epoch, position, turn, of):
    """Return the number that a gate looks at."""
    _fill(scratch, key, epoch, position, _ZERO, turn + 1)
    if of == 0:
        return scratch[turn]
    share = 0
    for k in range(turn + 1):
        # The shares taken before are kept sorted: each one at or below moves the new one up by 1.
        share = int(scratch[k] * (of - k))
        place = 0
        while place < k and taken[place] <= share:
            share += 1
            place += 1
        for later in range(k, place, -1):
            taken[later] = taken[later - 1]
        taken[place] = share
    return (share + 0.5) / of


@_inner
def _value(constants, at, number, coin):
    """Return a value of the range whose four constants start at ``at``."""
    low, high, bins, signed = constants[at], constants[at + 1], constants[at + 2], constants[at + 3]
    if bins > 1:
        value = low + (high - low) * np.floor(number * bins) / (bins - 1)
    elif bins == 1:
        value = low
    elif bins < 0:
        value = low + np.floor(number * (high - low + 1))
    else:
        value = low + (high - low) * number
    if signed == 1 and coin < 0.5:
        return -value
    if signed == 2 and coin < 0.5:
        return 2 - value
    return value


@_inner
def _resized(rule, a, b, height, width):
    """Return the height and width that a RESIZE makes."""
    if rule == _FIXED:
        return int(a), int(b)
    if rule in (_KORNIA_SHORT, _KORNIA_LONG):
        aspect = width / height
        if (rule == _KORNIA_SHORT) != (aspect < 1.0):
            return int(a), max(int(a * aspect), 1)
        return max(int(a / aspect), 1), int(a)
    short, long = (width, height) if width <= height else (height, width)
    if rule == _SHORT:
        new_short, new_long = int(a), int(a * long / short)
        if b > 0 and new_long > b:
            new_short, new_long = int(b * new_short / new_long), int(b)
    else:
        new_short, new_long = int(a * short / long), int(a)
    new_short = max(new_short, 1)
    return (new_long, new_short) if width <= height else (new_short, new_long)


@_inner
def _crop_start(place, number, length, window, before, after, pad_if_needed):
    """Return where a window starts in an image, and whether it fits, along one axis."""
    if place == 1 and window > length:
        return -((window - length) // 2), True
    if place == 1:
        return int(np.rint((length - window) / 2.0)), True
    if place == 2:
        return (length - window) // 2, window <= length
    missing = window - (length + before + after)
    if pad_if_needed == 1 and missing > 0:
        before, after = before + missing, after + missing
    if pad_if_needed == 2:
        before, after = max(before, window - length), max(after, window - length)
    if place == 3:
        return -before, True
    room = length + before + after - window
    return int(number * (room + 1)) - before, room >= 0


@_inner
def _try_windows(scales, numbers, key, epoch, position, height, width, is_strict):
    """Return whether one of ten random windows fits, and its sides: √(area · ratio) and √(area / ratio)."""
    log_low, log_high = np.log(scales[2]), np.log(scales[3])
    along, across = 0, 0
    for k in range(_TRY_COUNT):
        _fill(numbers, key, epoch, position, _TRIES + 2 * k, _TWO)
        area = height * width * (scales[0] + (scales[1] - scales[0]) * numbers[_TRIES + 2 * k])
        ratio = np.exp(log_low + (log_high - log_low) * numbers[_TRIES + 2 * k + 1])
        along, across = int(np.rint(np.sqrt(area * ratio))), int(np.rint(np.sqrt(area / ratio)))
        # A crop's ratio is width / height and it may be as large as the image; an erased box's is height / width.
        if is_strict and along < height and across < width:
            return True, along, across
        if not is_strict and 0 < along <= width and 0 < across <= height:
            return True, along, across
    return False, along, across


@_inner
def _resized_crop(style, scales, numbers, key, epoch, position, height, width, row):
    """Put top, left, height and width of a RandomResizedCrop into columns 1 to 4."""
    found, crop_width, crop_height = _try_windows(scales, numbers, key, epoch, position, height, width, np.bool_(False))
    if not found:
        least, most = min(scales[2], scales[3]), max(scales[2], scales[3])
        crop_height, crop_width = height, width
        if width / height < least:
            crop_height = int(np.rint(width / least))
        elif width / height > most:
            crop_width = int(np.rint(height * most))
        crop_height, crop_width = min(max(crop_height, 1), height), min(max(crop_width, 1), width)
    if found or style == _KORNIA:
        row[1] = np.floor(numbers[1] * (height - crop_height + 1))
        row[2] = np.floor(numbers[2] * (width - crop_width + 1))
    else:
        row[1] = (height - crop_height) // 2
        row[2] = (width - crop_width) // 2
    row[3], row[4] = crop_height, crop_width


@_inner
def _kornia_box(scales, numbers, height, width):
    """Return the height and width of Kornia's box to erase."""
    area = height * width * (scales[0] + (scales[1] - scales[0]) * numbers[3])
    low, high = scales[2], scales[3]
    # Where ratios straddle 1, those below and above have equal chances.
    if low < 1.0 < high:
        low, high = (low, 1.0) if numbers[5] < 0.5 else (1.0, high)
    ratio = low + (high - low) * numbers[4]
    box_height = min(max(int(np.rint(np.sqrt(area * ratio))), 1), height)
    return box_height, min(max(int(np.rint(np.sqrt(area / ratio))), 1), width)


@_inner
def _erase(style, scales, numbers, key, epoch, position, height, width, row):
    """Put top, left, height and width of a RandomErasing into columns 1 to 4; clear column 0 where none fits."""
    if style == _KORNIA:
        box_height, box_width = _kornia_box(scales, numbers, height, width)
    else:
        strict = np.bool_(True)
        found, box_height, box_width = _try_windows(scales, numbers, key, epoch, position, height, width, strict)
        if not found:
            row[0] = 0.0
            return
    row[1] = np.floor(numbers[1] * (height - box_height + 1))
    row[2] = np.floor(numbers[2] * (width - box_width + 1))
    row[3], row[4] = box_height, box_width


@_inner
def _perspective(style, distortion, numbers, height, width, row):
    """Put the corners' places into columns 1 to 8."""
    for corner in range(4):
        right, below = corner in (1, 2), corner >= 2
        for axis in range(2):
            length = width if axis == 0 else height
            far = right if axis == 0 else below
            column = 1 + 2 * corner + axis
            number = numbers[column]
            if style == 2:
                bound = int(distortion * (length // 2)) + 1
                row[column] = np.floor(number * bound) + (length - bound if far else 0)
            else:
                # Kornia's corners of an image one pixel wide are one apart, and stay.
                reach = distortion * length / 2 if length > 1 else 0.0
                start = max(length - 1, 1) if far else 0
                if style == 1:
                    row[column] = start + 2 * reach * (number - 0.5)
                else:
                    row[column] = start + (-reach if far else reach) * number


@_inner
def _shuffle(row, numbers, start, count):
    """Put a uniform permutation of 0..count-1 into the columns from ``start``."""
    for k in range(count):
        row[start + k] = k
    for k in range(count - 1, 0, -1):
        other = int(numbers[start + k] * (k + 1))
        row[start + k], row[start + other] = row[start + other], row[start + k]


@_inner
def _affine(constants, numbers, height, width, row):
    """Finish the columns of an AFFINE, which hold what was drawn from its ranges."""
    if constants[_PIXELS] == 0:
        row[2], row[3] = row[2] * width, row[3] * height
    if constants[_WHOLE] == 1:
        row[2], row[3] = np.rint(row[2]), np.rint(row[3])
    elif constants[_WHOLE] == 2:
        row[2], row[3] = np.trunc(row[2]), np.trunc(row[3])
    if constants[_JOINT] == 1:
        row[5] = row[4]
    if constants[0] == _TANGENTS:
        row[6], row[7] = np.degrees(np.arctan(row[6])), np.degrees(np.arctan(row[7]))


@_inner
def _draw_one(kind, constants, ranges, numbers, key, epoch, position, height, width, channels, row):
    """Draw the columns of one operation that acts, but for column 0; return its output size, or -1 where it cannot."""
    style = constants[0]
    count = max(len(row), _KORNIA_BOX if kind == _ERASE else 0)
    if count > 2:
        _fill(numbers, key, epoch, position, _TWO, count - 2)
    if kind == _ERASE:
        _erase(style, constants[1:5], numbers, key, epoch, position, height, width, row)
        return height, width
    if kind == _RESIZED_CROP:
        _resized_crop(style, constants[3:7], numbers, key, epoch, position, height, width, row)
        return int(constants[1]), int(constants[2])
    if kind == _RESIZE:
        return _resized(style, constants[1], constants[2], height, width)
    if kind == _CROP:
        left, top, right, bottom = int(constants[4]), int(constants[5]), int(constants[6]), int(constants[7])
        window_height, window_width = int(constants[1]), int(constants[2])
        if style == _PADDED:
            window_height, window_width = height + top + bottom, width + left + right
        place, needed = constants[3], constants[8]
        start_y, fits_y = _crop_start(place, numbers[1], height, window_height, top, bottom, needed)
        start_x, fits_x = _crop_start(place, numbers[2], width, window_width, left, right, needed)
        row[1], row[2] = start_y, start_x
        if not (fits_y and fits_x):
            return -1, -1
        return window_height, window_width
    if kind == _PERSPECTIVE:
        _perspective(style, constants[1], numbers, height, width, row)
    elif kind == _CHANNEL_SHUFFLE:
        _shuffle(row, numbers, np.int64(1), channels)
    elif kind == _CHANNEL_DROPOUT:
        _dropout(row, numbers, channels, int(constants[0]))
    elif kind == _PLANCKIAN:
        row[1] = np.floor(numbers[1] * constants[0])
    else:
        _draw_ranges(kind, constants, ranges, numbers, key, epoch, position, row)
        if kind == _AFFINE:
            _affine(constants, numbers, height, width, row)
    return height, width


@_inner
def _dropout(row, numbers, channels, count):
    """Mark a uniform subset of so many channels."""
    left = count
    for k in range(channels):
        # Selection sampling: Knuth, The Art of Computer Programming, volume 2, algorithm 3.4.2S.
        if numbers[1 + k] * (channels - k) < left:
            row[1 + k] = 1.0
            left -= 1


@_inner
def _draw_ranges(kind, constants, ranges, numbers, key, epoch, position, row):
    """Draw the columns that have ranges."""
    for column in range(1, len(row)):
        at = ranges[column]
        if at < 0:
            continue
        if constants[at + 3] != 0:
            _fill(numbers, key, epoch, position, (_COIN + column) & ~1, _TWO)
        row[column] = _value(constants, at, numbers[column], numbers[_COIN + column])
    if kind in (_QUARTER_TURNS, _POSTERIZE):
        row[1] = np.rint(row[1])
    elif kind == _JITTER:
        for k in range(4):
            if constants[_ON[k]] == 0:
                row[1 + k] = 0.0 if k == 3 else 1.0
        if constants[_ORDER_FIXED] == 1:
            for k in range(4):
                row[5 + k] = constants[_ORDER_FIXED + 1 + k]
        else:
            _shuffle(row, numbers, np.int64(5), np.int64(4))


@_entry
def draw_all(
    kinds,
    constants,
    ranges,
    columns,
    chances,
    gates,
    gate_starts,
    gate_numbers,
    keys,
    gate_keys,
    epoch,
    positions,
    sizes,
    channels,
    numbers,
    taken,
    looked_at,
    parameters,
):
    """Draw all operations for all samples; return sample · operations + operation where one cannot act, else -1."""
    operations = len(kinds)
    for sample in range(len(positions)):
        height, width = sizes[sample, 0], sizes[sample, 1]
        for index in range(len(gate_numbers)):
            stream, turn, of, shared = gate_numbers[index]
            position = positions[0] if shared == 1 else positions[sample]
            looked_at[index] = _gate_number(numbers, taken, gate_keys[stream], epoch, position, turn, of)
        for index in range(operations):
            is_open = True
            for gate in range(gate_starts[index], gate_starts[index + 1]):
                number = looked_at[int(gates[gate, 0])]
                is_open = is_open and gates[gate, 1] <= number < gates[gate, 2]
            if not is_open:
                continue
            position = positions[0] if chances[index, 1] == 1 else positions[sample]
            # Number 1 comes with number 0. Flips that always act need neither.
            if chances[index, 0] < 1.0 or columns[index + 1] - columns[index] > 1:
                _fill(numbers, keys[index], epoch, position, _ZERO, _TWO)
                if numbers[0] >= chances[index, 0]:
                    continue
            row = parameters[sample, columns[index] : columns[index + 1]]
            row[0] = 1.0
            height, width = _draw_one(
                kinds[index],
                constants[index],
                ranges[index],
                numbers,
                keys[index],
                epoch,
                position,
                height,
                width,
                channels,
                row,
            )
            if height < 0:
                return sample * operations + index
    return -1
