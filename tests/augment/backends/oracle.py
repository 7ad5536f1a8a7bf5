"""The oracle: what tables say, computed slowly in float64, one pixel after the other, straight from their definition.

It shares nothing with the backends but the numbers of codes, so that all of them can be measured against it.
"""

import colorsys
import math

import numpy as np

from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import CODE_BITS, NOISE_BLOCK, Code

WORD = 0xFFFFFFFF


def run(tables, images, *, jitter=0.0, seed=0):
    """Return what the tables make of images, as a list of (C, h, w) float64 arrays, neither rounded nor clamped.

    Args:
        tables: Tables of N samples.
        images: N arrays or CPU tensors (C, H, W), uint8 or floating; sizes may differ.
        jitter: how much coordinates and values are disturbed after every step, to find results that hang on a hair.
        seed: of the disturbance.
    """
    shake = Shake(jitter, seed)
    return [_sample(tables, n, _floats(images[n]), shake) for n in range(len(tables))]


def steady(tables, images, *, amount=2e-6, trials=2, tolerance=1e-3):
    """Return a list of (C, h, w) bool arrays: where rounding errors of about ``amount`` cannot matter much.

    Elsewhere a discontinuous operation, or one of unbounded slope, may turn a rounding error into a visible one, so
    that correct backends may differ.
    """
    exact = run(tables, images)
    masks = [np.ones(values.shape, bool) for values in exact]
    for trial in range(trials):
        for mask, values, shaken in zip(masks, exact, run(tables, images, jitter=amount, seed=trial), strict=True):
            np.logical_and(mask, np.abs(values - shaken) <= tolerance, out=mask)
    return masks


class Shake:
    """Small random disturbances; none where the amount is 0."""

    def __init__(self, amount, seed):
        self.amount, self.random = amount, np.random.default_rng(seed)

    def coordinate(self, x):
        return x + self.amount * (1 + abs(x)) * self.random.uniform(-1, 1) if self.amount else x

    def values(self, v):
        return v + self.amount * self.random.uniform(-1, 1, v.shape) if self.amount else v


def _floats(image):
    image = np.asarray(image)
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def _sample(tables, n, values, shake):
    for p in range(tables.passes[n]):
        values = shake.values(resample(tables, n, p, values, shake))
        for k in range(tables.links[n, p]):
            word = int(tables.codes[n, p, k])
            code, operation = Code(word & ((1 << CODE_BITS) - 1)), word >> CODE_BITS
            key = tuple(int(part) for part in tables.keys[operation])
            address = key, int(tables.positions[n]), int(tables.epoch)
            arguments = [float(a) for a in tables.arguments[n, p, k]]
            values = shake.values(pixels(code, arguments, values, address))
    return values


# Resampling


def resample(tables, n, p, image, shake=None):
    """Return pass ``p`` of sample ``n`` before its chain: (C, h, w) of an ``image`` (C, H, W), both float64."""
    shake = shake or Shake(0, 0)
    height, width = (int(s) for s in tables.size[n, p])
    left, top, right, bottom = (int(c) for c in tables.canvas[n, p])
    filter_ = Filter(tables.filter[n, p])
    rules = Padding(tables.padding[n, p]), Padding(tables.canvas_padding[n, p])
    radius_x, radius_y = (float(r) for r in tables.radius[n, p])
    fill = tables.fill[n, p].astype(np.float64)
    out = np.empty((len(image), height, width))
    for y in range(height):
        for x in range(width):
            u, v, w = tables.matrix[n, p] @ (x, y, 1.0)
            u, v = shake.coordinate(u / w), shake.coordinate(v / w)
            across = axis_taps(u, (filter_, radius_x), (left, right, image.shape[2]), rules)
            down = axis_taps(v, (filter_, radius_y), (top, bottom, image.shape[1]), rules)
            out[:, y, x] = sum(
                weight_j * weight_i * (fill if i is None or j is None else image[:, j, i])
                for j, weight_j in down
                for i, weight_i in across
            )
    return out


def axis_taps(x, kernel, span, rules):
    """Return (index, weight) of each tap along an axis, with None as index where it is the fill value.

    ``kernel`` is filter and radius, ``span`` the canvas's begin and end and the image's extent, ``rules`` the padding
    outside of the canvas and that within it.
    """
    (filter_, radius), (low, high, extent), (padding, canvas_padding) = kernel, span, rules
    if padding == Padding.BORDER:
        x = min(max(x, low), high - 1)
    elif padding == Padding.REFLECT:
        x = fold(x, low, high - 1)
    elif padding == Padding.SYMMETRIC:
        x = min(max(fold(x, low - 0.5, high - 0.5), low), high - 1)
    if filter_ in (Filter.EXACT, Filter.NEAREST):
        taps = [(math.floor(x + 0.5), 1.0)]
    elif filter_ == Filter.BILINEAR:
        first = math.floor(x)
        taps = [(first, 1 - (x - first)), (first + 1, x - first)]
    else:
        reach = range(math.floor(x - radius), math.ceil(x + radius) + 1)
        taps = [(i, max(0.0, 1 - abs(i - x) / radius)) for i in reach]
        if padding == Padding.BORDER:
            taps = [(i, weight) for i, weight in taps if low <= i < high]
        taps = [(i, weight) for i, weight in taps if weight > 0]
        total = sum(weight for _, weight in taps)
        taps = [(i, weight / total) for i, weight in taps]
    placed = []
    for i, weight in taps:
        on_canvas = place(i, low, high, padding)
        placed.append((None if on_canvas is None else place(on_canvas, 0, extent, canvas_padding), weight))
    return placed


def place(i, low, high, padding):
    """Return which of the pixels low..high-1 shows at ``i``, or None for the fill value."""
    if low <= i < high:
        return i
    if padding == Padding.FILL:
        return None
    if padding == Padding.BORDER:
        return low if i < low else high - 1
    if padding == Padding.REFLECT:
        return int(fold(i, low, high - 1))
    return int(fold(i, low - 0.5, high - 0.5))


def fold(x, low, high):
    """Mirror ``x`` about ``low`` and ``high`` until it lies between."""
    if low == high:
        return low
    while not low <= x <= high:
        x = 2 * low - x if x < low else 2 * high - x
    return x


# Pixel operations


def pixels(code, arguments, v, address=((0, 0), 0, 0)):
    """Return what an operation makes of (C, h, w) float64; ``address`` is its (key, position, epoch)."""
    return OPERATIONS[code](v, arguments, address)


def clamp(v):
    return np.minimum(np.maximum(v, 0.0), 1.0)


def grey(v):
    return 0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2] if len(v) == 3 else v.mean(0)


def by_pixel(v, function):
    """Apply a function of three numbers to each pixel."""
    out = np.empty_like(v)
    for y, x in np.ndindex(v.shape[1:]):
        out[:, y, x] = function(*(float(value) for value in v[:, y, x]))
    return out


def scale(v, arguments, address):
    channels = len(v)
    a, b = np.array(arguments[1 : 1 + channels]), np.array(arguments[1 + channels : 1 + 2 * channels])
    out = v * a[:, None, None] + b[:, None, None]
    return clamp(out) if arguments[0] == 1 else out


def matrix(v, arguments, address):
    m, b = np.array(arguments[1:10]).reshape(3, 3), np.array(arguments[10:13])
    out = by_pixel(v, lambda *pixel: m @ pixel + b)
    return clamp(out) if arguments[0] == 1 else out


def hue(v, arguments, address):
    def turn(*pixel):
        # Hue and chroma (max - min) do not change when the same number is taken from all channels.
        low = min(pixel)
        angle, _, chroma = colorsys.rgb_to_hsv(*(value - low for value in pixel))
        return [low + value for value in colorsys.hsv_to_rgb((angle + arguments[0]) % 1.0, 1.0, chroma)]

    return clamp(by_pixel(v, turn))


def saturate(v, arguments, address):
    def stretch(*pixel):
        low, top = min(pixel), max(pixel)
        angle, _, chroma = colorsys.rgb_to_hsv(*(value - low for value in pixel))
        saturation = chroma / top if top > 0 else 0.0
        return colorsys.hsv_to_rgb(angle, min(max(saturation * arguments[0], 0.0), 1.0), top)

    return clamp(by_pixel(v, stretch))


def gamma(v, arguments, address):
    return clamp(arguments[1] * clamp(v) ** arguments[0])


def solarize(v, arguments, address):
    u = clamp(v + arguments[1])
    return np.where(u < arguments[0], u, 1 - u)


def levels(v, rounded):
    return np.floor(255 * v + (0.5 if rounded else 0.0)).astype(np.int64)


def posterize(v, arguments, address):
    bits, style = int(arguments[0]), int(arguments[1])
    if style == 1:
        return np.clip(np.floor(v * 2**bits), 0, 2**bits - 1) / 2**bits
    if bits == 8:
        return v
    level = levels(v, style == 2)
    return (level - level % 2 ** (8 - bits)) / 255 if bits > 0 else np.zeros_like(v)


def permute(v, arguments, address):
    return np.stack([v[int(channel)] for channel in arguments[: len(v)]])


def contrast(v, arguments, address):
    out = arguments[0] * v + (1 - arguments[0]) * grey(v).mean()
    return clamp(out) if arguments[1] == 1 else out


def autocontrast(v, arguments, address):
    out = np.empty_like(v)
    for c, channel in enumerate(v):
        low, high = channel.min(), channel.max()
        if arguments[0] == 0:
            out[c] = (channel - low) / (high - low + 1e-6)
            out[c] = clamp(out[c]) if arguments[1] == 1 else out[c]
        else:
            out[c] = clamp((channel - low) / (high - low) if high > low else channel)
    return out


def equalize(v, arguments, address):
    out = np.empty_like(v)
    for c, channel in enumerate(v):
        level = np.clip(levels(channel, arguments[0] == 1), 0, 255)
        histogram = [int((level == value).sum()) for value in range(256)]
        last = max(value for value in range(256) if histogram[value])
        step = (sum(histogram) - histogram[last]) // 255
        if step == 0:
            out[c] = channel
            continue
        table = [0] + [min((sum(histogram[:value]) + step // 2) // step, 255) for value in range(1, 256)]
        out[c] = np.array(table)[level] / 255
    return out


def sharpen(v, arguments, address):
    factor, style = arguments[:2]
    blurred = v.copy()
    for c, y, x in np.ndindex(v.shape):
        if 0 < y < v.shape[1] - 1 and 0 < x < v.shape[2] - 1:
            blurred[c, y, x] = clamp((v[c, y - 1 : y + 2, x - 1 : x + 2].sum() + 4 * v[c, y, x]) / 13)
            if style == 1:
                blurred[c, y, x] = math.floor(blurred[c, y, x] * 255 + 0.5) / 255
    return clamp(blurred + (v - blurred) * factor)


def erase(v, arguments, address):
    top, left, bottom, right, noise = arguments[:5]
    out = v.copy()
    for c, y, x in np.ndindex(v.shape):
        if top <= y < bottom and left <= x < right:
            out[c, y, x] = normal(words(v.shape, c, y, x, address)) if noise == 1 else arguments[5 + c]
    return out


def noise(v, arguments, address):
    mean, sigma, clamped = arguments[:3]
    out = v.copy()
    for c, y, x in np.ndindex(v.shape):
        out[c, y, x] += mean + sigma * normal(words(v.shape, c, y, x, address))
    return clamp(out) if clamped == 1 else out


def salt_pepper(v, arguments, address):
    amount, salt, shared = arguments[:3]
    out = v.copy()
    for c, y, x in np.ndindex(v.shape):
        _, word1, word2, _ = words(v.shape, 0 if shared == 1 else c, y, x, address)
        if word1 / 2**32 < amount:
            out[c, y, x] = 1.0 if word2 / 2**32 < salt else 0.0
    return out


def words(shape, c, y, x, address):
    """Return the four random words of a pixel."""
    key, position, epoch = address
    block = c * shape[1] * shape[2] + y * shape[2] + x
    return philox((NOISE_BLOCK + block, position & WORD, position >> 32, epoch), key)


def normal(block):
    return math.sqrt(-2 * math.log((block[0] + 1) / 2**32)) * math.cos(2 * math.pi * block[1] / 2**32)


def philox(counter, key):
    """Return Philox4x32-10 (Salmon et al., SC'11) of a counter of four words and a key of two, in Python's integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        low, high = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & WORD, (low >> 32) ^ c3 ^ k1, low & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


OPERATIONS = {
    Code.END: lambda v, arguments, address: v,
    Code.SCALE: scale,
    Code.MATRIX: matrix,
    Code.HUE: hue,
    Code.SATURATE: saturate,
    Code.GAMMA: gamma,
    Code.SOLARIZE: solarize,
    Code.POSTERIZE: posterize,
    Code.PERMUTE: permute,
    Code.CONTRAST: contrast,
    Code.AUTOCONTRAST: autocontrast,
    Code.EQUALIZE: equalize,
    Code.SHARPEN: sharpen,
    Code.ERASE: erase,
    Code.NOISE: noise,
    Code.SALT_PEPPER: salt_pepper,
}
