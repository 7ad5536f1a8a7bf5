"""Random valid tables, and images for them, from a seed: what the tests of all backends run on."""

import math

import numpy as np

from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import CODE_BITS, Code, Tables

COLOURS_ONLY = {Code.MATRIX, Code.HUE, Code.SATURATE}  # three channels
JUMPS = {Code.SOLARIZE, Code.POSTERIZE, Code.EQUALIZE, Code.AUTOCONTRAST}
ALL_CODES = tuple(code for code in Code if code is not Code.END)
CONTINUOUS_CODES = tuple(code for code in ALL_CODES if code not in JUMPS)
OPERATIONS = 5


def random_tables(
    seed,
    sizes,
    channels,
    *,
    output=None,
    passes=3,
    links=5,
    codes=None,
    filters=tuple(Filter),
    paddings=tuple(Padding),
    canvases=True,
    continuous=False,
    largest=14,
):
    """Return random tables.

    Args:
        seed: the same arguments give the same tables.
        sizes: (height, width) of each sample's image.
        channels: C.
        output: (height, width) of all outputs; random where None.
        passes: the most passes of a sample.
        links: the most links of a pass.
        codes: which operations may occur; those that need three channels are left out elsewhere.
        filters: which filters may occur.
        paddings: which paddings may occur, of canvases too.
        canvases: whether canvases other than the image itself occur.
        continuous: whether all is left out that makes a small error a large one: SOLARIZE, POSTERIZE, EQUALIZE,
            AUTOCONTRAST (flat images have no contrast), rounding SHARPEN, GAMMA below 1, NEAREST but by whole pixels.
        largest: the largest side of most random outputs; some are up to twice as large.
    """
    random = np.random.default_rng(seed)
    draw = Draw(random, channels, continuous)
    allowed = [code for code in (codes or ALL_CODES) if channels == 3 or code not in COLOURS_ONLY]
    if continuous:
        allowed = [code for code in allowed if code not in JUMPS]
    output = output or draw.size(largest)
    tables = Tables.empty(len(sizes), passes, links, channels, OPERATIONS)
    tables.keys[:] = random.integers(0, 1 << 32, tables.keys.shape, dtype=np.uint32)
    # Some beyond 32 bits, which take the counter's second word.
    tables.positions[:] = random.integers(0, random.choice([1 << 10, 1 << 40]), len(sizes))
    tables.epoch = int(random.integers(0, 1 << 32)) if random.random() < 0.5 else int(random.integers(0, 9))
    if allowed:
        # What is not used must not be read: links beyond the last one, and passes.
        tables.codes[:], tables.arguments[:], tables.links[:] = int(allowed[0]), 0.5, links
    for n in range(len(sizes)):
        size = tuple(sizes[n])
        tables.passes[n] = random.integers(1, passes + 1)
        for p in range(tables.passes[n]):
            last = p == tables.passes[n] - 1
            # An intermediate size often stays, so that exact moves and identities occur.
            to = output if last else (size if random.random() < 0.4 else draw.size(largest))
            _fill_warp(tables, (n, p), (size, to), draw, allowed=(filters, paddings, canvases))
            tables.links[n, p] = random.integers(0, links + 1) if allowed else 0
            for k in range(tables.links[n, p]):
                code = allowed[random.integers(len(allowed))]
                tables.codes[n, p, k] = int(code) | int(random.integers(OPERATIONS)) << CODE_BITS
                arguments = draw.arguments(code, to)
                tables.arguments[n, p, k] = 0
                tables.arguments[n, p, k, : len(arguments)] = arguments
            size = to
    return tables


def random_images(seed, sizes, channels, dtype=np.float32):
    """Return random images (C, H, W), one for each size: noise, ramps, flat ones, all in [0, 1] or 0..255."""
    random = np.random.default_rng(seed)
    images = []
    for height, width in sizes:
        kind = random.integers(4)
        y, x = np.mgrid[:height, :width] / max(height, width)
        slopes = random.uniform(-1, 1, (channels, 3, 1, 1))
        image = np.abs(slopes[:, 0] * x + slopes[:, 1] * y + slopes[:, 2] / 2)
        if kind == 0:
            image = np.broadcast_to(random.random((channels, 1, 1)), (channels, height, width))
        elif kind < 3:
            image = random.random((channels, height, width))
        image = np.clip(image, 0, 1)
        images.append(np.round(image * 255).astype(np.uint8) if dtype == np.uint8 else image.astype(dtype))
    return images


def random_sizes(seed, samples, *, largest=12, same=False):
    """Return (height, width) of images, some of them one pixel wide or high."""
    random = np.random.default_rng(seed)
    draw = Draw(random, 1, False)
    sizes = [draw.size(largest) for _ in range(samples)]
    return sizes[:1] * samples if same else sizes


def single(code, arguments, size, channels, *, samples=1, seed=0):
    """Return tables of one pass that moves nothing and applies one operation to each sample."""
    tables = Tables.empty(samples, 1, 1, channels, 1)
    tables.keys[:] = np.random.default_rng(seed).integers(0, 1 << 32, (1, 2), dtype=np.uint32)
    tables.positions[:] = np.arange(samples)
    tables.size[:], tables.matrix[:] = size, np.eye(3)
    tables.canvas[:] = (0, 0, size[1], size[0])
    tables.links[:], tables.codes[:] = 1, int(code)
    tables.arguments[..., : len(arguments)] = arguments
    return tables


def radius_of(matrix, size):
    """Return the radius of TENT along x and y: the length of the Jacobian's row at the output's centre, at least 1."""
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    u, v, w = matrix @ (x, y, 1.0)
    rows = [(matrix[i, :2] - value / w * matrix[2, :2]) / w for i, value in enumerate((u, v))]
    return [max(1.0, float(np.hypot(*row))) for row in rows]


def _fill_warp(tables, at, sizes, draw, *, allowed):
    random, (source, to), (filters, paddings, canvases) = draw.random, sizes, allowed
    whole, matrix = draw.matrix(source, to)
    filters = [f for f in filters if whole or f is not Filter.EXACT]
    if draw.continuous and not whole:
        filters = [f for f in filters if f in (Filter.BILINEAR, Filter.TENT)] or [Filter.BILINEAR]
    tables.size[at], tables.matrix[at] = to, matrix
    tables.filter[at] = random.choice(filters or [Filter.NEAREST])
    tables.radius[at] = radius_of(matrix, to)
    tables.padding[at], tables.canvas_padding[at] = random.choice(paddings), random.choice(paddings)
    tables.fill[at] = random.choice([0, 1]) * random.random(tables.fill.shape[-1])
    left, right = draw.interval(source[1]) if canvases else (0, source[1])
    top, bottom = draw.interval(source[0]) if canvases else (0, source[0])
    tables.canvas[at] = left, top, right, bottom


class Draw:
    """What random tables are made of."""

    def __init__(self, random, channels, continuous):
        self.random, self.channels, self.continuous = random, channels, continuous

    def size(self, largest):
        sides = [1 if self.random.random() < 0.1 else int(self.random.integers(1, largest + 1)) for _ in range(2)]
        if self.random.random() < 0.1:
            # EQUALIZE changes nothing below 256 pixels.
            sides = [side + largest for side in sides]
        return sides[0], sides[1]

    def interval(self, extent):
        """Return a canvas along an axis: mostly the image itself, sometimes larger or a part of it."""
        if self.random.random() < 0.6:
            return 0, extent
        low = int(self.random.integers(-4, extent))
        return low, int(self.random.integers(max(low, 0) + 1, extent + 5))

    def matrix(self, source, to):
        """Return whether a homography moves by whole pixels, and itself; its last row stays positive on the output."""
        random = self.random
        kind = random.choice(["identity", "whole", "axes", "affine", "perspective"], p=[0.1, 0.2, 0.2, 0.25, 0.25])
        if kind == "identity":
            return True, np.eye(3)
        if kind == "whole":
            shift = random.integers(-3, 4, 2)
            flip_x, flip_y = random.integers(0, 2, 2)
            matrix = np.array(
                [[1 - 2 * flip_x, 0, flip_x * (source[1] - 1) + shift[0]], [0, 1 - 2 * flip_y, 0], [0, 0, 1]]
            )
            matrix[1, 2] = flip_y * (source[0] - 1) + shift[1]
            return True, (matrix if random.random() < 0.7 else matrix[[1, 0, 2]]).astype(np.float64)
        scale_x, scale_y = np.exp(random.uniform(math.log(0.25), math.log(3), 2))
        angle = 0.0 if kind == "axes" else random.uniform(-math.pi, math.pi)
        shear = 0.0 if kind == "axes" else random.uniform(-0.5, 0.5)
        cosine, sine = math.cos(angle), math.sin(angle)
        linear = (
            np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y])
        )
        centre = np.array([(to[1] - 1) / 2, (to[0] - 1) / 2])
        middle = np.array([(source[1] - 1) / 2, (source[0] - 1) / 2]) + random.normal(0, 2, 2)
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = middle - linear @ centre
        if kind == "perspective":
            # w = 1 + tilt · (X - centre) lies in 0.5..1.5.
            tilt = random.uniform(-0.25, 0.25, 2) / np.maximum(centre, 1)
            row = np.array([*tilt, 1 - tilt @ centre])
            matrix = matrix + np.outer([*middle, 0], row - (0, 0, 1))
            matrix[2] = row
        # A homography is the same whatever its scale.
        return False, matrix * (1.0 if random.random() < 0.7 else random.uniform(0.5, 2))

    def arguments(self, code, size):
        """Return plausible arguments of an operation on an output of a size."""
        random, channels = self.random, self.channels
        coin = lambda: int(random.integers(0, 2))  # noqa: E731
        if code is Code.SCALE:
            clamp = coin()
            low, high = (0.3, 1.7) if clamp else (0.5, 3)
            return [clamp, *random.uniform(low, high, channels), *random.uniform(-0.5, 0.5, channels)]
        if code is Code.MATRIX:
            return [
                coin(),
                *(0.6 * np.eye(3) + random.uniform(-0.3, 0.5, (3, 3))).ravel(),
                *random.uniform(-0.2, 0.2, 3),
            ]
        if code is Code.HUE:
            return [random.uniform(-0.5, 0.5)]
        if code is Code.SATURATE:
            return [random.choice([0.0, 1.0, *random.uniform(0, 2.5, 4)])]
        if code is Code.GAMMA:
            return [random.uniform(1 if self.continuous else 0.4, 2.5), random.uniform(0.6, 1.4)]
        if code is Code.SOLARIZE:
            return [random.uniform(0, 1), random.choice([0.0, random.uniform(-0.4, 0.4)])]
        if code is Code.POSTERIZE:
            style = int(random.integers(3))
            return [random.integers(1 if style == 1 else 0, 9), style]
        if code is Code.PERMUTE:
            return random.permutation(channels)
        if code is Code.CONTRAST:
            return [random.uniform(0, 2), coin()]
        if code is Code.AUTOCONTRAST:
            return [coin(), coin()]
        if code is Code.EQUALIZE:
            return [coin()]
        if code is Code.SHARPEN:
            return [random.uniform(0, 2.5), 0 if self.continuous else coin()]
        if code is Code.ERASE:
            top, left = random.integers(-2, size[0] + 1), random.integers(-2, size[1] + 1)
            bottom, right = top + random.integers(0, size[0] + 2), left + random.integers(0, size[1] + 2)
            return [top, left, bottom, right, coin(), *random.random(channels)]
        if code is Code.NOISE:
            return [random.uniform(-0.1, 0.1), random.uniform(0, 0.3), coin()]
        if code is Code.SALT_PEPPER:
            return [random.uniform(0, 0.6), random.random(), coin()]
        raise ValueError(f"no arguments are known for {code!r}")
