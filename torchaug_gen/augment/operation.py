"""Operation: one transform of a library, read into numbers that the engine draws and composes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any


class Kind(IntEnum):
    """What an operation does; fixes the meaning of its constants (``CONSTANTS``) and parameters (``PARAMETERS``)."""

    # Geometry: maps output pixels to input pixels.
    HORIZONTAL_FLIP = 0
    VERTICAL_FLIP = 1
    QUARTER_TURNS = 2
    AFFINE = 3
    PERSPECTIVE = 4
    CROP = 5
    RESIZED_CROP = 6
    RESIZE = 7
    # Colour: maps pixel values, whatever their place.
    JITTER = 16
    BRIGHTNESS = 17
    CONTRAST = 18
    SATURATION = 19
    HUE = 20
    GAMMA = 21
    SOLARIZE = 22
    POSTERIZE = 23
    INVERT = 24
    EQUALIZE = 25
    AUTOCONTRAST = 26
    GRAYSCALE = 27
    CHANNEL_SHUFFLE = 28
    CHANNEL_DROPOUT = 29
    RGB_SHIFT = 30
    PLANCKIAN = 31
    SHARPNESS = 32
    NORMALIZE = 33
    # Cover: puts something over pixels, at a place.
    ERASE = 48
    GAUSSIAN_NOISE = 49
    SALT_PEPPER = 50


FIRST_COLOUR = Kind.JITTER
FIRST_COVER = Kind.ERASE


class Filter(IntEnum):
    """How pixels are resampled; a warp takes the highest of its operations."""

    EXACT = 0  # the operation lands on whole pixels
    NEAREST = 1
    BILINEAR = 2
    TENT = 3  # bilinear, antialiased where it shrinks


class Padding(IntEnum):
    """What lies outside of an image."""

    BORDER = 0  # its outermost pixels
    FILL = 1  # a value
    REFLECT = 2  # its mirror image about the centres of the outermost pixels
    SYMMETRIC = 3  # its mirror image about its edges


class Size(IntEnum):
    """How an operation's output size follows from its input size (h, w)."""

    SAME = 0
    FIXED = 1  # (a, b)
    SHORT = 2  # short side a, at most b on the long side (b = 0: no limit), torchvision's rounding
    LONG = 3  # long side a, torchvision's rounding
    PADDED = 4  # the padding of a CROP is added
    KORNIA_SHORT = 5  # short side a, Kornia's rounding
    KORNIA_LONG = 6  # long side a, Kornia's rounding


# A range is four numbers: low, high, bins, signed. A value is uniform in [low, high], or with bins > 0 one of as many
# equally spaced values from low to high, with bins < 0 an integer in low..high; where signed is 1, its sign is then a
# fair coin's; where signed is 2, a fair coin then mirrors it about 1: v becomes 2 - v. Names that end in "*4" below
# stand for a range.
CONSTANTS: dict[Kind, tuple[str, ...]] = {
    Kind.HORIZONTAL_FLIP: (),
    Kind.VERTICAL_FLIP: (),
    # The value is rounded. The image keeps its size, and turns about its centre.
    Kind.QUARTER_TURNS: ("turns*4",),
    # style 0: Kornia's composition, 1: torchvision's, 2: torchvision's with ranges of the shears' tangents (drawn are
    # degrees, as ever). angle_sign: +1 where a positive angle turns the picture counter-clockwise as seen on screen, -1
    # where clockwise. Translations are fractions of width and height, or pixels where translate_pixels = 1; they are
    # rounded to whole pixels where translate_whole = 1, and cut off towards zero where it is 2. scale_joint: 1 where y
    # has the scale of x. centre_given: 1 where (centre_x, centre_y) is the centre in torchvision's convention, whose
    # pixel (0, 0) has its upper left corner at the origin.
    Kind.AFFINE: (
        "style",
        "angle_sign",
        "angle*4",
        "translate_x*4",
        "translate_y*4",
        "translate_pixels",
        "translate_whole",
        "scale_x*4",
        "scale_y*4",
        "scale_joint",
        "shear_x*4",
        "shear_y*4",
        "centre_given",
        "centre_x",
        "centre_y",
    ),
    # style 0: Kornia "basic", 1: Kornia "area_preserving", 2: torchvision.
    Kind.PERSPECTIVE: ("style", "distortion"),
    # A window of whole pixels. place 0: uniformly random; 1: centred as torchvision rounds; 2: as Kornia rounds;
    # 3: at the upper left corner. The image is padded first, by fixed amounts, then, where pad_if_needed is 1 (as
    # torchvision: on both sides, by as much as is missing) or 2 (as Kornia), up to the size.
    Kind.CROP: ("size", "a", "b", "place", "left", "top", "right", "bottom", "pad_if_needed"),
    # style 0: Kornia, 1: torchvision. grid 0: half-pixel centres, 1: align_corners, 2: torch's legacy "nearest".
    Kind.RESIZED_CROP: ("style", "a", "b", "scale_low", "scale_high", "ratio_low", "ratio_high", "grid"),
    Kind.RESIZE: ("size", "a", "b", "grid"),
    # style 0: Kornia's ColorJitter, 1: Kornia's ColorJiggle, 2: torchvision's. *_on: whether the factor is used.
    # fixed: 1 where the order is first..fourth (codes 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 none).
    Kind.JITTER: (
        "style",
        "brightness_on",
        "brightness*4",
        "contrast_on",
        "contrast*4",
        "saturation_on",
        "saturation*4",
        "hue_on",
        "hue*4",
        "fixed",
        "first",
        "second",
        "third",
        "fourth",
    ),
    Kind.BRIGHTNESS: ("style", "factor*4", "clip"),  # style 0: x + (factor - 1), 1: x · factor
    Kind.CONTRAST: ("style", "factor*4", "clip"),  # style 0: x · factor, 1: about the mean of the grey image
    Kind.SATURATION: ("style", "factor*4"),  # style 0: in HSV, 1: blended with grey
    Kind.HUE: ("factor*4",),  # in turns
    Kind.GAMMA: ("gamma*4", "gain*4"),
    Kind.SOLARIZE: ("threshold*4", "addition*4"),
    Kind.POSTERIZE: ("style", "bits*4"),  # style 0: Kornia, 1: torchvision
    Kind.INVERT: ("maximum",),
    Kind.EQUALIZE: ("style",),  # style 0: Kornia, 1: torchvision
    Kind.AUTOCONTRAST: ("style", "clip"),  # style 0: Kornia, 1: torchvision
    Kind.GRAYSCALE: ("weights_given", "red", "green", "blue"),
    Kind.CHANNEL_SHUFFLE: (),
    Kind.CHANNEL_DROPOUT: ("count", "fill"),
    Kind.RGB_SHIFT: ("red*4", "green*4", "blue*4"),
    Kind.PLANCKIAN: ("rows",),  # followed by rows × (red, blue)
    Kind.SHARPNESS: ("style", "factor*4"),  # style 0: Kornia, 1: torchvision (its factor 1 is the image itself)
    Kind.NORMALIZE: ("channels",),  # followed by channels × scale, channels × shift: x · scale + shift
    # style 0: Kornia, 1: torchvision. values: 0 normal noise in every pixel, else how many values follow (1 or C).
    Kind.ERASE: ("style", "scale_low", "scale_high", "ratio_low", "ratio_high", "values"),
    Kind.GAUSSIAN_NOISE: ("mean*4", "sigma*4", "clip"),
    Kind.SALT_PEPPER: ("amount*4", "salt*4", "shared"),  # shared: 1 where all channels of a pixel change together
}

# What is drawn, in the columns of an operation; lengths in pixels, angles in degrees. Column 0 is 1 where it acts.
# A parameter "channel*" has one column per channel.
PARAMETERS: dict[Kind, tuple[str, ...]] = {
    Kind.HORIZONTAL_FLIP: ("active",),
    Kind.VERTICAL_FLIP: ("active",),
    Kind.QUARTER_TURNS: ("active", "turns"),
    Kind.AFFINE: (
        "active",
        "angle",
        "translate_x",
        "translate_y",
        "scale_x",
        "scale_y",
        "shear_x",
        "shear_y",
    ),
    # Where the corners of the image go: upper left, upper right, lower right, lower left.
    Kind.PERSPECTIVE: ("active", "x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3"),
    # The window's upper left corner in the input image; negative where the image is padded.
    Kind.CROP: ("active", "top", "left"),
    Kind.RESIZED_CROP: ("active", "top", "left", "height", "width"),
    Kind.RESIZE: ("active",),
    # The order: which adjustment (0 brightness, 1 contrast, 2 saturation, 3 hue) comes first, second, third, fourth.
    Kind.JITTER: ("active", "brightness", "contrast", "saturation", "hue", "first", "second", "third", "fourth"),
    Kind.BRIGHTNESS: ("active", "factor"),
    Kind.CONTRAST: ("active", "factor"),
    Kind.SATURATION: ("active", "factor"),
    Kind.HUE: ("active", "factor"),
    Kind.GAMMA: ("active", "gamma", "gain"),
    Kind.SOLARIZE: ("active", "threshold", "addition"),
    Kind.POSTERIZE: ("active", "bits"),
    Kind.INVERT: ("active",),
    Kind.EQUALIZE: ("active",),
    Kind.AUTOCONTRAST: ("active",),
    Kind.GRAYSCALE: ("active",),
    Kind.CHANNEL_SHUFFLE: ("active", "channel*"),  # output channel c shows input channel channel_c
    Kind.CHANNEL_DROPOUT: ("active", "channel*"),  # 1 where the channel is dropped
    Kind.RGB_SHIFT: ("active", "red", "green", "blue"),
    Kind.PLANCKIAN: ("active", "row"),
    Kind.SHARPNESS: ("active", "factor"),
    Kind.NORMALIZE: ("active",),
    Kind.ERASE: ("active", "top", "left", "height", "width"),
    Kind.GAUSSIAN_NOISE: ("active", "mean", "sigma"),
    Kind.SALT_PEPPER: ("active", "amount", "salt"),
}


@dataclass(frozen=True)
class Gate:
    """Open where a uniform number, one per sample, lies in [low, high).

    Gates with the same ``stream`` see the same number: a share of it for each makes a choice of one among several.
    With ``of`` > 0 the shares are those of so many equal ones, and gates of one stream that differ in ``draw`` never
    see the same share: the number is (p + 1/2) / of, where p is what draw number ``draw`` takes out of ``range(of)``
    after the draws before it, without replacement. Draw k takes the value with floor(u_k · (of - k)) smaller ones among
    those that are left, u_k being number k of the stream.
    """

    stream: str
    low: float
    high: float
    draw: int = 0
    of: int = 0
    shared: bool = False


@dataclass(frozen=True)
class Operation:
    """A transform of a library as numbers.

    Args:
        kind: what it does.
        name: what the user called it: the class of the module.
        constants: as ``CONSTANTS[kind]`` names them, ranges and lists written out.
        probability: how often it acts on a sample, in [0, 1].
        gates: further conditions, all of which must hold.
        shared: whether all samples of a batch get the same parameters (those of the batch's first position).
        filter: how geometry resamples.
        padding: what geometry shows outside of the image, or ``None`` where it never looks there, or does not care.
        fill: the value for ``Padding.FILL`` in the units of floating images, one or one per channel.
        choice: operations of which at most one acts on a sample share a name here; ``None`` where alone.
    """

    kind: Kind
    name: str
    constants: tuple[float, ...] = ()
    probability: float = 1.0
    gates: tuple[Gate, ...] = ()
    shared: bool = False
    filter: Filter = Filter.EXACT
    padding: Padding | None = None
    fill: tuple[float, ...] = (0.0,)
    choice: str | None = None

    @property
    def is_geometry(self) -> bool:
        """Whether it moves pixels."""
        return self.kind < FIRST_COLOUR

    @property
    def is_cover(self) -> bool:
        """Whether it depends on where a pixel is."""
        return self.kind >= FIRST_COVER

    def behind(self, gate: Gate) -> "Operation":
        """Return the operation with one more condition."""
        return replace(self, gates=(*self.gates, gate))


@dataclass(frozen=True)
class Opaque:
    """A transform that runs as it is, and why."""

    module: Callable[[Any], Any]
    reason: str


def parameter_names(kind: Kind, channels: int) -> Iterator[str]:
    """Yield the names of an operation's parameters, one per column, for images of so many channels."""
    for name in PARAMETERS[kind]:
        if name.endswith("*"):
            yield from (f"{name[:-1]}_{channel}" for channel in range(channels))
        else:
            yield name


def constant_range(
    low: float, high: float, *, bins: int = 0, signed: bool = False
) -> tuple[float, float, float, float]:
    """Return a range as four constants."""
    return float(low), float(high), float(bins), float(signed)
