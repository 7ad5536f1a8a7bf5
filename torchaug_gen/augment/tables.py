"""Tables: what the backends are told about every sample of a batch, and what they must compute from it.

A sample runs through one or more *passes*. A pass resamples its source by one homography and then runs a chain of
pixel operations over the result. The first pass reads the sample's image, each further one the result of the one
before, kept in floating values; the last one writes the output.

**Source values.** uint8 is divided by 255. Pixel (0, 0) has its centre at the origin.

**Resampling** output pixel (X, Y): (x, y, w) = matrix · (X, Y, 1), then x/w, y/w. With canvas (l, t, r, b), by default
(0, 0, W, H), the rule ``padding`` holds outside of the canvas and ``canvas_padding`` outside of the image within it:

- ``BORDER`` clamps x to [l, r - 1]; ``REFLECT`` folds it about l and r - 1 (a canvas one pixel wide: l);
  ``SYMMETRIC`` folds about l - 1/2 and r - 1/2 and then clamps as ``BORDER``; ``FILL`` leaves it.
- ``NEAREST`` reads the tap floor(x + 1/2); ``BILINEAR`` floor(x) and floor(x) + 1 with weights 1 - f and f;
  ``TENT`` all taps i with weight max(0, 1 - |i - x| / radius) > 0, where radius ≥ 1, divided by the sum of weights.
  x and y are separable.
- A tap outside of the canvas: ``FILL``: it is the fill value. ``BORDER``: clamped for NEAREST and BILINEAR; for TENT
  left out, of the sum of weights too (as ``antialias=True`` of torch does). ``REFLECT`` and ``SYMMETRIC``: its index
  is folded.
- A tap inside the canvas but outside of the image follows ``canvas_padding`` in the same way, clamping for BORDER.

**Pixel operations** run in the order of the chain, in float32 or wider, on values v_c of channel c. "clamp" is to
[0, 1]. Statistics are of the values at that point of the chain, over the pass's whole output. ``grey`` is
.299 r + .587 g + .114 b for three channels, and the mean of the channels otherwise.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Code(IntEnum):
    """A pixel operation, with its arguments in order."""

    END = 0
    SCALE = 1  # clamp, a_0..a_(C-1), b_0..b_(C-1): v_c · a_c + b_c, clamped where clamp is 1
    MATRIX = 2  # clamp, m_00..m_22 by rows, b_0..b_2: three channels only
    HUE = 3  # turns: hue of HSV moved by so many turns, then clamped
    SATURATE = 4  # factor: saturation of HSV (0 where the maximum is not above 0) multiplied and clamped; then clamped
    GAMMA = 5  # gamma, gain: clamp(gain · clamp(v)^gamma)
    SOLARIZE = 6  # threshold, addition: u = clamp(v + addition); u < threshold ? u : 1 - u
    # bits, style. style 0, Kornia: l = floor(255 v); 8 bits leave v, 0 give 0, others (l - l mod 2^(8 - bits)) / 255.
    # style 1, torchvision on floats: floor(v · 2^bits) clamped to 0..2^bits - 1, divided by 2^bits.
    # style 2, torchvision on uint8: as style 0 of l = round(255 v), and 8 bits leave v.
    POSTERIZE = 7
    PERMUTE = 8  # channels: v_c becomes the value of channel channels[c]
    # Statistics: what follows needs them of the whole image.
    CONTRAST = 9  # factor, clamp: factor · v + (1 - factor) · mean(grey)
    # style. 0, Kornia: (v - min_c) / (max_c - min_c + 1e-6) . 1, torchvision: clamp((v - min_c) / (max_c - min_c)),
    # clamp(v) where max_c = min_c. clamp: style 0 clamps where 1.
    AUTOCONTRAST = 10  # style, clamp
    # Levels l = floor(255 v) (style 0, Kornia) or round(255 v) (style 1, torchvision); histogram h of each channel;
    # step = (sum h - h of the last level that occurs) // 255; lut_l = clamp((cumsum_(l-1) + step // 2) // step) to
    # 0..255 with lut_0 = 0; v = lut_l / 255, and v stays where step = 0.
    EQUALIZE = 11  # style
    # A 3×3 mean with weight 5 in the middle, 1 around, over 13, clamped (style 1: and rounded to levels of 1/255),
    # makes blurred pixels; of the outermost ones blurred = v. Everywhere clamp(blurred + (v - blurred) · factor)
    SHARPEN = 12  # factor, style
    # Covers: they depend on the place. (X, Y) is a pixel of the pass's output.
    # top, left, bottom, right, noise, value_0..value_(C-1): inside the box (bottom, right exclusive) values, or with
    # noise = 1 standard normal noise.
    ERASE = 13
    NOISE = 14  # mean, sigma, clamp: v + mean + sigma · normal
    SALT_PEPPER = 15  # amount, salt, shared: a share amount of the values becomes 1 (share salt of them) or 0


FIRST_STATISTIC, LAST_STATISTIC = Code.CONTRAST, Code.SHARPEN

# Random numbers of covers, by pixel: Philox4x32-10 of the operation's key, at the counter
# (NOISE_BLOCK + block, position low, position high, epoch) with block = c · H · W + Y · W + X.
# Words 0 and 1 of the block make u0 = (word0 + 1) / 2³², u1 = word1 / 2³²: normal = √(-2 ln u0) · cos(2π u1).
# SALT_PEPPER: a value changes where u1 < amount; to 1 where word2 / 2³² < salt. With shared = 1 c is 0 in the block.
NOISE_BLOCK = 1 << 16

CODE_BITS = 8


@dataclass
class Tables:
    """Arrays by sample n of N, pass p of P and link k of K in the chain; C channels.

    Attributes:
        passes: ``(N,)`` int32: how many of the P passes a sample needs, ≥ 1; those above are undefined.
        size: ``(N, P, 2)`` int32: height and width of a pass's output.
        matrix: ``(N, P, 3, 3)`` float64: from output to source pixels.
        filter: ``(N, P)`` int32: a :class:`torchaug_gen.augment.operation.Filter`; EXACT means NEAREST.
        radius: ``(N, P, 2)`` float64: of TENT along x and y of the source, in source pixels, ≥ 1: the length of the
            matching row of the Jacobian, at the centre of the output.
        padding: ``(N, P)`` int32: a :class:`torchaug_gen.augment.operation.Padding`.
        fill: ``(N, P, C)`` float32.
        canvas: ``(N, P, 4)`` int32: left, top, right, bottom in source pixels.
        canvas_padding: ``(N, P)`` int32.
        links: ``(N, P)`` int32: how many links of the chain are used.
        codes: ``(N, P, K)`` int32: a :class:`Code` in the low ``CODE_BITS``, and the operation's index above them.
        arguments: ``(N, P, K, A)`` float32.
        keys: ``(operations, 2)`` uint32: the Philox key of each operation's stream.
        positions: ``(N,)`` int64.
        epoch: for random numbers.
    """

    passes: npt.NDArray[np.int32]
    size: npt.NDArray[np.int32]
    matrix: npt.NDArray[np.float64]
    filter: npt.NDArray[np.int32]
    radius: npt.NDArray[np.float64]
    padding: npt.NDArray[np.int32]
    fill: npt.NDArray[np.float32]
    canvas: npt.NDArray[np.int32]
    canvas_padding: npt.NDArray[np.int32]
    links: npt.NDArray[np.int32]
    codes: npt.NDArray[np.int32]
    arguments: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.int64]
    epoch: int

    def __len__(self) -> int:
        return len(self.passes)

    @classmethod
    def empty(cls, samples: int, passes: int, links: int, channels: int, operations: int) -> "Tables":
        """Return tables with room for so many samples, passes, links and operations."""
        n, p, k = samples, passes, max(links, 1)
        return cls(
            passes=np.ones(n, np.int32),
            size=np.zeros((n, p, 2), np.int32),
            matrix=np.zeros((n, p, 3, 3)),
            filter=np.zeros((n, p), np.int32),
            radius=np.ones((n, p, 2)),
            padding=np.zeros((n, p), np.int32),
            fill=np.zeros((n, p, channels), np.float32),
            canvas=np.zeros((n, p, 4), np.int32),
            canvas_padding=np.zeros((n, p), np.int32),
            links=np.zeros((n, p), np.int32),
            codes=np.zeros((n, p, k), np.int32),
            arguments=np.zeros((n, p, k, argument_count(channels)), np.float32),
            keys=np.zeros((max(operations, 1), 2), np.uint32),
            positions=np.zeros(n, np.int64),
            epoch=0,
        )


def argument_count(channels: int) -> int:
    """Return how many arguments a link has room for: MATRIX takes 13, SCALE 1 + 2 C, ERASE 5 + C."""
    return max(13, 1 + 2 * channels, 5 + channels)
