"""The Numba kernel that composes operations into passes.

All of it stands in this one file, because Numba's cache does not notice changes in another one.
"""

# mypy: ignore-errors

import numpy as np
from numba import njit

from torchaug_gen.augment.drawing_kernels import offset
from torchaug_gen.augment.operation import Filter, Kind, Padding, Size
from torchaug_gen.augment.tables import CODE_BITS, Code

# Without Numba's runtime nothing counts references, which took two thirds of the time; and nothing may be allocated.
_OPTIONS = {"error_model": "numpy", "_nrt": False}
_entry = njit(nogil=True, cache=True, **_OPTIONS)
# Only kernels call these: without a way in from Python they compile in three quarters of the time.
_inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)

_HORIZONTAL_FLIP, _VERTICAL_FLIP = int(Kind.HORIZONTAL_FLIP), int(Kind.VERTICAL_FLIP)
_QUARTER_TURNS, _AFFINE, _PERSPECTIVE = int(Kind.QUARTER_TURNS), int(Kind.AFFINE), int(Kind.PERSPECTIVE)
_CROP, _RESIZED_CROP, _RESIZE = int(Kind.CROP), int(Kind.RESIZED_CROP), int(Kind.RESIZE)
_ON = np.array([offset(Kind.JITTER, f"{name}_on") for name in ("brightness", "contrast", "saturation", "hue")])
_JITTER, _BRIGHTNESS, _CONTRAST = int(Kind.JITTER), int(Kind.BRIGHTNESS), int(Kind.CONTRAST)
_SATURATION, _HUE, _GAMMA, _SOLARIZE = int(Kind.SATURATION), int(Kind.HUE), int(Kind.GAMMA), int(Kind.SOLARIZE)
_POSTERIZE, _INVERT, _EQUALIZE = int(Kind.POSTERIZE), int(Kind.INVERT), int(Kind.EQUALIZE)
_AUTOCONTRAST, _GRAYSCALE = int(Kind.AUTOCONTRAST), int(Kind.GRAYSCALE)
_CHANNEL_SHUFFLE, _CHANNEL_DROPOUT = int(Kind.CHANNEL_SHUFFLE), int(Kind.CHANNEL_DROPOUT)
_RGB_SHIFT, _PLANCKIAN, _SHARPNESS = int(Kind.RGB_SHIFT), int(Kind.PLANCKIAN), int(Kind.SHARPNESS)
_NORMALIZE, _ERASE = int(Kind.NORMALIZE), int(Kind.ERASE)
_GAUSSIAN_NOISE, _SALT_PEPPER = int(Kind.GAUSSIAN_NOISE), int(Kind.SALT_PEPPER)

_TO_SCALE, _TO_MATRIX, _TO_HUE, _TO_SATURATE = int(Code.SCALE), int(Code.MATRIX), int(Code.HUE), int(Code.SATURATE)
_TO_GAMMA, _TO_SOLARIZE, _TO_POSTERIZE = int(Code.GAMMA), int(Code.SOLARIZE), int(Code.POSTERIZE)
_TO_PERMUTE, _TO_CONTRAST, _TO_AUTOCONTRAST = int(Code.PERMUTE), int(Code.CONTRAST), int(Code.AUTOCONTRAST)
_TO_EQUALIZE, _TO_SHARPEN, _TO_ERASE = int(Code.EQUALIZE), int(Code.SHARPEN), int(Code.ERASE)
_TO_NOISE, _TO_SALT_PEPPER = int(Code.NOISE), int(Code.SALT_PEPPER)

_EXACT, _NEAREST = int(Filter.EXACT), int(Filter.NEAREST)
_BILINEAR, _TENT = int(Filter.BILINEAR), int(Filter.TENT)
NO_PADDING, _BORDER, _FILL = -1, int(Padding.BORDER), int(Padding.FILL)
_FIXED, _SHORT = int(Size.FIXED), int(Size.SHORT)
_PADDED, _KORNIA_SHORT = int(Size.PADDED), int(Size.KORNIA_SHORT)
_KORNIA_LONG = int(Size.KORNIA_LONG)

_ANGLE_SIGN = offset(Kind.AFFINE, "angle_sign")
_CENTRE = offset(Kind.AFFINE, "centre_given")

# Weights of grey: Kornia's, and torchvision's.
_GREYS = np.array([[0.299, 0.587, 0.114], [0.2989, 0.587, 0.114]])

# How far nearest taps of a resize are moved, in pixels, so that a rounding error cannot part a sampling point from the
# edge of a pixel that it lies on.
_NUDGE = 2.0**-20


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
def _multiply(a, b, out):
    """Put a · b, scaled such that its last element is 1 where it is not 0, into ``out``, which may be ``a``."""
    m00 = a[0, 0] * b[0, 0] + a[0, 1] * b[1, 0] + a[0, 2] * b[2, 0]
    m01 = a[0, 0] * b[0, 1] + a[0, 1] * b[1, 1] + a[0, 2] * b[2, 1]
    m02 = a[0, 0] * b[0, 2] + a[0, 1] * b[1, 2] + a[0, 2] * b[2, 2]
    m10 = a[1, 0] * b[0, 0] + a[1, 1] * b[1, 0] + a[1, 2] * b[2, 0]
    m11 = a[1, 0] * b[0, 1] + a[1, 1] * b[1, 1] + a[1, 2] * b[2, 1]
    m12 = a[1, 0] * b[0, 2] + a[1, 1] * b[1, 2] + a[1, 2] * b[2, 2]
    m20 = a[2, 0] * b[0, 0] + a[2, 1] * b[1, 0] + a[2, 2] * b[2, 0]
    m21 = a[2, 0] * b[0, 1] + a[2, 1] * b[1, 1] + a[2, 2] * b[2, 1]
    m22 = a[2, 0] * b[0, 2] + a[2, 1] * b[1, 2] + a[2, 2] * b[2, 2]
    scale = 1.0 if m22 == 0.0 else 1.0 / m22
    out[0, 0], out[0, 1], out[0, 2] = m00 * scale, m01 * scale, m02 * scale
    out[1, 0], out[1, 1], out[1, 2] = m10 * scale, m11 * scale, m12 * scale
    out[2, 0], out[2, 1], out[2, 2] = m20 * scale, m21 * scale, m22 * scale


@_inner
def _invert(m, out):
    """Put the inverse of m into ``out``; the identity where there is none."""
    c00 = m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1]
    c01 = m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2]
    c02 = m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0]
    determinant = m[0, 0] * c00 + m[0, 1] * c01 + m[0, 2] * c02
    if determinant == 0.0:
        _identity(out)
        return
    d = 1.0 / determinant
    o01 = m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2]
    o02 = m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]
    o11 = m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0]
    o12 = m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]
    o21 = m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1]
    o22 = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    out[0, 0], out[0, 1], out[0, 2] = c00 * d, o01 * d, o02 * d
    out[1, 0], out[1, 1], out[1, 2] = c01 * d, o11 * d, o12 * d
    out[2, 0], out[2, 1], out[2, 2] = c02 * d, o21 * d, o22 * d


@_inner
def _identity(out):
    for i in range(3):
        for j in range(3):
            out[i, j] = 1.0 if i == j else 0.0


@_inner
def _put_affine(out, a, b, c, d, e, f):
    out[0, 0], out[0, 1], out[0, 2] = a, b, c
    out[1, 0], out[1, 1], out[1, 2] = d, e, f
    out[2, 0], out[2, 1], out[2, 2] = 0.0, 0.0, 1.0


@_inner
def _turns(turns, height, width, out):
    """Counter-clockwise quarter turns about the centre."""
    cosine = (1.0, 0.0, -1.0, 0.0)[turns]
    sine = (0.0, 1.0, 0.0, -1.0)[turns]
    x, y = (width - 1) / 2.0, (height - 1) / 2.0
    _put_affine(out, cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


@_inner
def _affine(constants, row, height, width, forward, out):
    """From output to input pixels of an AFFINE; ``forward`` is scratch."""
    angle = np.radians(constants[_ANGLE_SIGN] * row[1])
    shear_x, shear_y = np.radians(row[6]), np.radians(row[7])
    centre_x, centre_y = (width - 1) / 2.0, (height - 1) / 2.0
    if constants[_CENTRE] == 1:
        centre_x, centre_y = constants[_CENTRE + 1] - 0.5, constants[_CENTRE + 2] - 0.5
    cosine, sine = np.cos(angle), np.sin(angle)
    tan_x = np.tan(shear_x)
    if constants[0] == 0:
        # Kornia: rotation · scale · shear, and the shear along y comes first.
        tan_y = np.tan(shear_y)
        a, b = cosine * row[4], sine * row[5]
        c, d = -sine * row[4], cosine * row[5]
        s00, s01, s10, s11 = 1.0, -tan_x, -tan_y, 1.0 + tan_x * tan_y
        a, b, c, d = a * s00 + b * s10, a * s01 + b * s11, c * s00 + d * s10, c * s01 + d * s11
    else:
        # torchvision: rotation · shear along y · shear along x, times one scale; its angle is clockwise.
        angle = -angle
        a = np.cos(angle - shear_y) / np.cos(shear_y)
        b = -(a * tan_x + np.sin(angle))
        c = np.sin(angle - shear_y) / np.cos(shear_y)
        d = np.cos(angle) - c * tan_x
        a, b, c, d = a * row[4], b * row[4], c * row[4], d * row[4]
    x, y = centre_x + row[2], centre_y + row[3]
    _put_affine(forward, a, b, x - a * centre_x - b * centre_y, c, d, y - c * centre_x - d * centre_y)
    _invert(forward, out)


@_inner
def _square_to_quad(corners, out):
    """Put the homography from the unit square to a quadrangle into ``out``.

    Heckbert, "Fundamentals of Texture Mapping and Image Warping" (1989), section 2.2.3.
    """
    x, y = corners[0], corners[1]
    dx1, dx2, sx = x[1] - x[2], x[3] - x[2], x[0] - x[1] + x[2] - x[3]
    dy1, dy2, sy = y[1] - y[2], y[3] - y[2], y[0] - y[1] + y[2] - y[3]
    determinant = dx1 * dy2 - dx2 * dy1
    if determinant == 0.0:
        _identity(out)
        return
    g = (sx * dy2 - dx2 * sy) / determinant
    h = (dx1 * sy - sx * dy1) / determinant
    out[0, 0], out[0, 1], out[0, 2] = x[1] - x[0] + g * x[1], x[3] - x[0] + h * x[3], x[0]
    out[1, 0], out[1, 1], out[1, 2] = y[1] - y[0] + g * y[1], y[3] - y[0] + h * y[3], y[0]
    out[2, 0], out[2, 1], out[2, 2] = g, h, 1.0


@_inner
def _perspective(style, row, height, width, corners, forward, out):
    """From output to input pixels of a PERSPECTIVE; ``corners`` and ``forward`` are scratch."""
    for corner in range(4):
        corners[0, corner], corners[1, corner] = row[1 + 2 * corner], row[2 + 2 * corner]
        if style == 2:
            # torchvision takes pixels' indices for places of their edges; a side of one pixel has no length there.
            corners[0, corner] += -0.5 + (1.0 if width == 1 and corner in (1, 2) else 0.0)
            corners[1, corner] += -0.5 + (1.0 if height == 1 and corner >= 2 else 0.0)
    _square_to_quad(corners, forward)
    _invert(forward, out)
    shift = -0.5 if style == 2 else 0.0
    _put_affine(forward, max(width - 1.0, 1.0), 0.0, shift, 0.0, max(height - 1.0, 1.0), shift)
    _multiply(forward, out, out)


@_inner
def _resample_axis(start, length, size, grid, is_nearest):
    """Return scale and shift from output to input pixels along one axis of a resize."""
    if grid == 1:
        scale = (length - 1) / (size - 1) if size > 1 else 0.0
        return scale, float(start)
    scale = length / size
    shift = start + 0.5 * scale - 0.5 if grid == 0 else start - 0.5
    return scale, shift + (_NUDGE if is_nearest else 0.0)


@_inner
def _geometry(kind, constants, how, row, height, width, corners, scratch, out):
    """Put the map from output to input pixels of an operation into ``out``; return its output size."""
    if kind == _HORIZONTAL_FLIP:
        _put_affine(out, -1.0, 0.0, width - 1.0, 0.0, 1.0, 0.0)
    elif kind == _VERTICAL_FLIP:
        _put_affine(out, 1.0, 0.0, 0.0, 0.0, -1.0, height - 1.0)
    elif kind == _QUARTER_TURNS:
        _turns(int(row[1]) % 4, height, width, out)
    elif kind == _AFFINE:
        _affine(constants, row, height, width, scratch, out)
    elif kind == _PERSPECTIVE:
        _perspective(constants[0], row, height, width, corners, scratch, out)
    elif kind == _CROP:
        _put_affine(out, 1.0, 0.0, row[2], 0.0, 1.0, row[1])
        if constants[0] == _PADDED:
            return height + int(constants[5] + constants[7]), width + int(constants[4] + constants[6])
        return int(constants[1]), int(constants[2])
    else:
        top, left, window_height, window_width = 0.0, 0.0, float(height), float(width)
        if kind == _RESIZED_CROP:
            top, left, window_height, window_width = row[1], row[2], row[3], row[4]
            height, width = int(constants[1]), int(constants[2])
            grid = constants[7]
        else:
            height, width = _resized(constants[0], constants[1], constants[2], height, width)
            grid = constants[3]
        is_nearest = how == _NEAREST
        scale_x, shift_x = _resample_axis(left, window_width, width, grid, is_nearest and window_width != width)
        scale_y, shift_y = _resample_axis(top, window_height, height, grid, is_nearest and window_height != height)
        if window_width == width:
            scale_x, shift_x = 1.0, left
        if window_height == height:
            scale_y, shift_y = 1.0, top
        _put_affine(out, scale_x, 0.0, shift_x, 0.0, scale_y, shift_y)
    return height, width


@_inner
def _is_identity(m):
    for i in range(3):
        for j in range(3):
            if m[i, j] != (1.0 if i == j else 0.0):
                return False
    return True


@_inner
def _window(m, top, left, height, width, window):
    """Put the source pixels of a rectangle into ``window`` (left, top, right, bottom); m lands on whole pixels."""
    x0, y0 = m[0, 0] * left + m[0, 1] * top + m[0, 2], m[1, 0] * left + m[1, 1] * top + m[1, 2]
    right, bottom = left + width - 1, top + height - 1
    x1, y1 = m[0, 0] * right + m[0, 1] * bottom + m[0, 2], m[1, 0] * right + m[1, 1] * bottom + m[1, 2]
    window[0], window[1] = int(np.rint(min(x0, x1))), int(np.rint(min(y0, y1)))
    window[2], window[3] = int(np.rint(max(x0, x1))) + 1, int(np.rint(max(y0, y1))) + 1


@_inner
def _put_radius(m, x, y, radius):
    """Put the lengths of the rows of the Jacobian of a homography at a point, at least 1, into ``radius``."""
    w = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    for row in range(2):
        radius[row] = 1.0
        if w != 0.0:
            place = (m[row, 0] * x + m[row, 1] * y + m[row, 2]) / w
            along_x, along_y = (m[row, 0] - place * m[2, 0]) / w, (m[row, 1] - place * m[2, 1]) / w
            radius[row] = max(1.0, np.sqrt(along_x * along_x + along_y * along_y))


@_inner
def _put_scale(arguments, clamp, factor, shift, channels):
    arguments[0] = clamp
    for c in range(channels):
        arguments[1 + c], arguments[1 + channels + c] = factor, shift


@_inner
def _put_grey(arguments, clamp, factor, red, green, blue):
    """Blend with grey: factor · v + (1 - factor) · grey."""
    arguments[0] = clamp
    for i in range(3):
        arguments[1 + 3 * i] = (1 - factor) * red
        arguments[2 + 3 * i] = (1 - factor) * green
        arguments[3 + 3 * i] = (1 - factor) * blue
        arguments[1 + 4 * i] += factor
        arguments[10 + i] = 0.0


@_inner
def _factor(which, style, factor, channels, arguments):
    """Put one adjustment of a JITTER into a link; return its code, 0 where it changes nothing."""
    if factor == (0.0 if which == 3 else 1.0):
        return 0
    if which == 0:
        _put_scale(arguments, 1.0, 1.0 if style == 1 else factor, factor - 1 if style == 1 else 0.0, channels)
        return _TO_SCALE
    if which == 1 and style == 1:
        _put_scale(arguments, 1.0, factor, 0.0, channels)
        return _TO_SCALE
    if which == 1:
        arguments[0], arguments[1] = factor, 1
        return _TO_CONTRAST
    if channels != 3:
        return 0
    if which == 2 and style == 1:
        arguments[0] = factor
        return _TO_SATURATE
    if which == 2:
        grey = _GREYS[1 if style == 2 else 0]
        _put_grey(arguments, 1.0, factor, grey[0], grey[1], grey[2])
        return _TO_MATRIX
    arguments[0] = factor
    return _TO_HUE


@_inner
def _clamps_input(kind, constants):
    """Return whether an operation clamps what it gets, as Kornia's do."""
    if kind in (_HUE, _SOLARIZE, _PLANCKIAN, _RGB_SHIFT):
        return True
    if kind == _JITTER:
        return constants[0] != 2
    if kind in (_BRIGHTNESS, _CONTRAST):
        return constants[0] == 0 and constants[5] == 1
    return kind in (_SATURATION, _POSTERIZE, _EQUALIZE, _SHARPNESS) and constants[0] == 0


@_inner
def _colour(kind, constants, row, channels, arguments):
    """Put an operation's arguments into a link.

    Return its code, 0 where it changes nothing, and whether values may be outside of [0, 1] then: 1 yes, 0 no, -1 as
    before.
    """
    if kind in (_BRIGHTNESS, _CONTRAST):
        factor, clip = row[1], constants[5]
        if kind == _CONTRAST and constants[0] == 1:
            arguments[0], arguments[1] = factor, clip
            return _TO_CONTRAST, 1 - int(clip)
        adds = kind == _BRIGHTNESS and constants[0] == 0
        _put_scale(arguments, clip, 1.0 if adds else factor, factor - 1 if adds else 0.0, channels)
        return _TO_SCALE, 1 - int(clip)
    if kind == _SATURATION:
        if channels != 3:
            return 0, -1
        if constants[0] == 0:
            arguments[0] = row[1]
            return _TO_SATURATE, 0
        _put_grey(arguments, 1.0, row[1], _GREYS[1, 0], _GREYS[1, 1], _GREYS[1, 2])
        return _TO_MATRIX, 0
    if kind == _HUE:
        if channels != 3:
            return 0, -1
        arguments[0] = row[1]
        return _TO_HUE, 0
    if kind == _GAMMA:
        arguments[0], arguments[1] = row[1], row[2]
        return _TO_GAMMA, 0
    if kind == _SOLARIZE:
        arguments[0], arguments[1] = row[1], row[2]
        return _TO_SOLARIZE, 0
    if kind == _POSTERIZE:
        arguments[0], arguments[1] = row[1], constants[0]
        return _TO_POSTERIZE, 0
    if kind == _INVERT:
        _put_scale(arguments, 0.0, -1.0, constants[0], channels)
        return _TO_SCALE, -1 if constants[0] == 1.0 else 1
    if kind == _EQUALIZE:
        arguments[0] = constants[0]
        return _TO_EQUALIZE, 0
    if kind == _AUTOCONTRAST:
        arguments[0], arguments[1] = constants[0], constants[1]
        return _TO_AUTOCONTRAST, 0
    if kind == _GRAYSCALE:
        if channels != 3:
            return 0, -1
        red, green, blue = _GREYS[0, 0], _GREYS[0, 1], _GREYS[0, 2]
        if constants[0] == 1:
            red, green, blue = constants[1], constants[2], constants[3]
        _put_grey(arguments, 0.0, 0.0, red, green, blue)
        return _TO_MATRIX, -1 if red >= 0 and green >= 0 and blue >= 0 and red + green + blue < 1 + 1e-6 else 1
    return _channelwise(kind, constants, row, channels, arguments)


@_inner
def _channelwise(kind, constants, row, channels, arguments):
    """Do as ``_colour`` for operations that treat channels differently, for sharpness and for covers."""
    if kind == _CHANNEL_SHUFFLE:
        for c in range(channels):
            arguments[c] = row[1 + c]
        return _TO_PERMUTE, -1
    if kind == _SHARPNESS:
        # Both libraries blend floating images alike; rounding the blurred ones (style 1) is for bytes.
        arguments[0], arguments[1] = row[1], 0.0
        return _TO_SHARPEN, 0
    if kind == _ERASE:
        arguments[0], arguments[1] = row[1], row[2]
        arguments[2], arguments[3] = row[1] + row[3], row[2] + row[4]
        count = int(constants[5])
        arguments[4] = 1 if count == 0 else 0
        leaves = 1 if count == 0 else -1
        for c in range(channels):
            value = 0.0 if count == 0 else constants[6 + (c if count > 1 else 0)]
            arguments[5 + c] = value
            if not 0.0 <= value <= 1.0:
                leaves = 1
        return _TO_ERASE, leaves
    if kind == _GAUSSIAN_NOISE:
        arguments[0], arguments[1], arguments[2] = row[1], row[2], constants[8]
        return _TO_NOISE, 1 - int(constants[8])
    if kind == _SALT_PEPPER:
        arguments[0], arguments[1], arguments[2] = row[1], row[2], constants[8]
        return _TO_SALT_PEPPER, -1
    leaves = 0
    _put_scale(arguments, 1.0, 1.0, 0.0, channels)
    if kind == _RGB_SHIFT:
        for c in range(3):
            arguments[1 + channels + c] = row[1 + c]
    elif kind == _PLANCKIAN:
        at = 1 + 2 * int(row[1])
        arguments[1], arguments[3] = constants[at], constants[at + 1]
    elif kind == _CHANNEL_DROPOUT:
        arguments[0] = 0
        leaves = -1
        for c in range(channels):
            if row[1 + c] == 1:
                arguments[1 + c], arguments[1 + channels + c] = 0.0, constants[1]
    else:
        count = int(constants[0])
        arguments[0] = 0
        leaves = 1
        for c in range(channels):
            at = c if count > 1 else 0
            arguments[1 + c], arguments[1 + channels + c] = constants[1 + at], constants[1 + count + at]
    return _TO_SCALE, leaves


# What is known of a sample's current pass, by its place in one array.
_PASS, _CHAIN, _HEIGHT, _WIDTH = 0, 1, 2, 3
_HOW, _RULE, _FILL_OF = 4, 5, 6  # filter, padding, and whose fill it is
_IS_WHOLE = 7  # all of its geometry lands on whole pixels
_IS_KNOWN = 8  # the view is a rectangle of whole source pixels
_HAS_CANVAS = 9
_HAS_STATISTIC, _HAS_COVER = 10, 11
_LEAVES = 12  # values may be outside of [0, 1]
STATE = 13


@_inner
def _copy(rectangle, out):
    for side in range(4):
        out[side] = rectangle[side]


@_inner
def _begin(state, matrix, canvas, view):
    """Start a pass; ``view`` (left, top, right, bottom) is what of its source the image shows."""
    state[_CHAIN] = 0
    state[_HOW], state[_RULE], state[_FILL_OF] = _EXACT, NO_PADDING, 0
    state[_IS_WHOLE] = state[_IS_KNOWN] = 1
    state[_HAS_CANVAS] = state[_HAS_STATISTIC] = state[_HAS_COVER] = 0
    _identity(matrix)
    view[0], view[1], view[2], view[3] = 0, 0, state[_WIDTH], state[_HEIGHT]
    _copy(view, canvas)


@_inner
def _adopt_rule(state, rule, fill_of, canvas, canvas_padding, p, view):
    """Let the pass follow a rule for what is outside of the image; return whether it can."""
    old = state[_RULE]
    shows_all = view[0] == canvas[0] and view[1] == canvas[1] and view[2] == canvas[2] and view[3] == canvas[3]
    if old == NO_PADDING:
        # Mirrors and edges must be those of what earlier crops have left.
        if rule != _FILL and not state[_IS_KNOWN]:
            return False
        if rule != _FILL and not shows_all:
            _copy(view, canvas)
            state[_HAS_CANVAS] = 1
        state[_RULE], state[_FILL_OF] = rule, fill_of
        return True
    if rule == old and (fill_of == state[_FILL_OF] if rule == _FILL else not state[_IS_WHOLE] or shows_all):
        return True
    if state[_HAS_CANVAS] or not state[_IS_WHOLE] or (rule == _FILL and old == _FILL):
        return False
    _copy(view, canvas)
    canvas_padding[p] = old
    state[_HAS_CANVAS], state[_RULE] = 1, rule
    if rule == _FILL:
        state[_FILL_OF] = fill_of
    return True


@_inner
def _end(state, interpolation, antialias, fills, matrix, size, how, radius, padding, fill, links, p):
    """Write down what is decided when all operations of a pass are known."""
    size[p, 0], size[p, 1] = state[_HEIGHT], state[_WIDTH]
    chosen = state[_HOW]
    if chosen == _EXACT:
        chosen = _NEAREST
    else:
        if interpolation >= 0:
            chosen = interpolation
        if antialias == 1 and chosen == _BILINEAR:
            chosen = _TENT
        elif antialias == 0 and chosen == _TENT:
            chosen = _BILINEAR
    how[p] = chosen
    x, y = (state[_WIDTH] - 1) / 2.0, (state[_HEIGHT] - 1) / 2.0
    _put_radius(matrix, x, y, radius[p])
    padding[p] = _BORDER if state[_RULE] == NO_PADDING else state[_RULE]
    for c in range(fills.shape[1]):
        fill[p, c] = fills[state[_FILL_OF], c]
    links[p] = state[_CHAIN]


@_inner
def _traits(kind, row, height, width, new_height, new_width, state):
    """Return whether geometry lands on whole pixels, looks outside, and may come before the chain."""
    pointwise = state[_HAS_COVER] == 0
    if kind in (_HORIZONTAL_FLIP, _VERTICAL_FLIP):
        return True, False, pointwise
    if kind == _QUARTER_TURNS:
        fits = height == width or int(row[1]) % 2 == 0
        # About the centre of a picture with one odd side, pixels land between pixels.
        return (height + width) % 2 == 0 or fits, not fits, pointwise and fits
    if kind == _CROP or (kind == _RESIZED_CROP and row[3] == new_height and row[4] == new_width):
        inside = row[1] >= 0 and row[2] >= 0 and row[1] + new_height <= height and row[2] + new_width <= width
        return True, not inside, inside and pointwise and state[_HAS_STATISTIC] == 0
    return False, kind in (_AFFINE, _PERSPECTIVE), False


@_inner
def _move(state, kind, row, step, lands_whole, new_height, new_width, matrix, view):
    """Compose one operation into the pass."""
    if state[_IS_KNOWN] and kind == _RESIZED_CROP and state[_IS_WHOLE]:
        _window(matrix, row[1], row[2], row[3], row[4], view)
    elif kind in (_AFFINE, _PERSPECTIVE, _CROP, _RESIZED_CROP) and not (lands_whole and state[_IS_WHOLE]):
        state[_IS_KNOWN] = 0
    _multiply(matrix, step, matrix)
    if not lands_whole:
        state[_IS_WHOLE] = 0
    if state[_IS_WHOLE]:
        _window(matrix, 0.0, 0.0, float(new_height), float(new_width), view)
    state[_HEIGHT], state[_WIDTH] = new_height, new_width


@_inner
def _link(state, code, index, codes):
    """Add a link, whose arguments are written already, to the chain."""
    codes[state[_CHAIN]] = code | (index << CODE_BITS)
    state[_CHAIN] += 1
    if _TO_CONTRAST <= code <= _TO_SHARPEN:
        state[_HAS_STATISTIC] = 1
    if code >= _TO_ERASE:
        state[_HAS_COVER] = 1


@_inner
def _paint(state, kind, constants, index, row, channels, codes, arguments):
    """Add the links of a colour or cover operation to the chain."""
    if state[_LEAVES] and _clamps_input(kind, constants):
        _put_scale(arguments[state[_CHAIN]], 1.0, 1.0, 0.0, channels)
        _link(state, np.int64(_TO_SCALE), index, codes)
        state[_LEAVES] = 0
    if kind == _JITTER:
        for k in range(4):
            which = int(row[5 + k])
            if which < 0 or constants[_ON[which]] == 0:
                continue
            code = _factor(which, constants[0], row[1 + which], channels, arguments[state[_CHAIN]])
            if code:
                _link(state, code, index, codes)
                state[_LEAVES] = 0
        return
    code, leaves = _colour(kind, constants, row, channels, arguments[state[_CHAIN]])
    if code:
        _link(state, code, index, codes)
    if leaves >= 0:
        state[_LEAVES] = leaves


@_entry
def compose_all(
    kinds,
    constants,
    columns,
    rules,
    fills,
    parameters,
    sizes,
    channels,
    interpolation,
    antialias,
    passes,
    size,
    matrix,
    how,
    radius,
    padding,
    fill,
    canvas,
    canvas_padding,
    links,
    codes,
    arguments,
    state,
    view,
    corners,
    maps,
):
    """Fill the tables of all samples; return whether there was room."""
    step, scratch = maps[0], maps[1]
    most_passes, most_links = codes.shape[1], codes.shape[2]
    for n in range(len(sizes)):
        p = np.int64(0)
        state[_HEIGHT], state[_WIDTH], state[_LEAVES] = sizes[n, 0], sizes[n, 1], 0
        _begin(state, matrix[n, p], canvas[n, p], view)
        for index in range(len(kinds)):
            if parameters[n, columns[index]] == 0.0:
                continue
            kind, row = kinds[index], parameters[n, columns[index] : columns[index + 1]]
            if kind >= _JITTER:
                if state[_CHAIN] + (5 if kind == _JITTER else 2 if kind < _ERASE else 1) > most_links:
                    return False
                _paint(state, kind, constants[index], index, row, channels, codes[n, p], arguments[n, p])
                continue
            height, width = state[_HEIGHT], state[_WIDTH]
            own_how, rule, fill_of = rules[index, 0], rules[index, 1], rules[index, 2]
            new_height, new_width = _geometry(
                kind, constants[index], own_how, row, height, width, corners, scratch, step
            )
            if new_height == height and new_width == width and _is_identity(step):
                continue
            lands_whole, looks_outside, joins = _traits(kind, row, height, width, new_height, new_width, state)
            if looks_outside and rule == NO_PADDING:
                rule = _FILL
            starts = state[_CHAIN] > 0 and not joins
            if not starts and looks_outside:
                starts = not _adopt_rule(state, rule, fill_of, canvas[n, p], canvas_padding[n], p, view)
            if starts:
                if p + 1 == most_passes:
                    return False
                _end(
                    state, interpolation, antialias, fills, matrix[n, p], size[n], how[n], radius[n], padding[n],
                    fill[n], links[n], p,
                )  # fmt: skip
                p += 1
                _begin(state, matrix[n, p], canvas[n, p], view)
                if looks_outside:
                    _adopt_rule(state, rule, fill_of, canvas[n, p], canvas_padding[n], p, view)
            if looks_outside and rule == _FILL and rules[index, 3] == 1:
                state[_LEAVES] = 1
            if not lands_whole:
                state[_HOW] = max(state[_HOW], own_how)
            _move(state, kind, row, step, lands_whole, new_height, new_width, matrix[n, p], view)
        _end(
            state, interpolation, antialias, fills, matrix[n, p], size[n], how[n], radius[n], padding[n], fill[n],
            links[n], p,
        )  # fmt: skip
        passes[n] = p + 1
    return True
