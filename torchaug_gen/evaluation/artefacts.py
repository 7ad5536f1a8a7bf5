"""Artefacts that generators leave: blur, jagged edges, grids, blank images and drifted colours, against real images."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.evaluation.images import Samples, Size, image_chunks
from torchaug_gen.evaluation.sharpness import blank, grid_share, log_spectrum, sharpness
from torchaug_gen.evaluation.usefulness import t_quantile
from torchaug_gen.pixels import convert

# How large a difference must be to be named. Each is well above what separates two halves of real sets (measured on
# photographs at 64 px and digits at 28 px), and below what a planted artefact shows that the eye just sees.
_SHARPNESS = math.log(1.25)
_HIGH_FREQUENCY = math.log(1.5)
_SPECTRUM = 0.4
_GRID = 0.03
_DRIFT = 0.4
_BLANK = 0.02

# Two sets of real photographs, 300 times: some measure raised a false alarm in 7 % of cases with 5 images a side, 3 %
# with 10, 1.3 % with 20, 0.3 % with 50 and none with 100.
_FEWEST = 10
_PERIODS = range(2, 9)
_CHANNELS = ("red", "green", "blue")
_CHUNK = 256
_WORST = 16


@dataclass(frozen=True)
class Artefact:
    """What one measure says about synthetic images.

    Attributes:
        name: of the measure.
        found: whether the interval lies wholly beyond the limit.
        difference: synthetic minus real, or their distance, in the measure's unit.
        interval: its 95 % confidence interval, over the choice of images.
        limit: the size of a difference that counts as an artefact.
        verdict: a sentence.
        worst: where the synthetic images are that show it most, the worst first: indices in the order they came,
            which are a synthesizer's positions.
    """

    name: str
    found: bool
    difference: float
    interval: tuple[float, float]
    limit: float
    verdict: str
    worst: tuple[int, ...]


@dataclass(frozen=True)
class Artefacts:
    """All measures of a set of synthetic images.

    Attributes:
        real: number of real images.
        synthetic: number of synthetic images.
        measures: what each says, by its name.
    """

    real: int
    synthetic: int
    measures: dict[str, Artefact]

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the measures that found an artefact."""
        return tuple(name for name, measure in self.measures.items() if measure.found)

    def __str__(self) -> str:
        head = f"{len(self.found)} of {len(self.measures)} measures found an artefact" if self.found else "No artefacts"
        lines = [f"{head} ({self.real} real and {self.synthetic} synthetic images)"]
        marks = {True: "✗", False: "✓"}
        return "\n".join(lines + [f"  {marks[measure.found]} {measure.verdict}" for measure in self.measures.values()])

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return asdict(self)


def find_artefacts(
    real: Any, synthetic: Any, *, n: int | None = None, image_size: Size | None = None, seed: int = 0
) -> Artefacts:
    """Look for the artefacts that generators are known for.

    Every measure is a number per image; what counts is the difference of its means over real and synthetic images. It
    is named an artefact where the whole 95 % interval lies beyond a limit, so that few images find little rather
    than something that is not there.

    - *sharpness*: log-variance of the Laplacian, relative to the image's own: blur below, noise above. Pech-Pacheco et
      al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000).
    - *high frequencies*: log-energy above 0.75 of the Nyquist frequency, relative likewise: jagged edges above,
      smoothness below.
    - *spectrum*: distance between mean azimuthally averaged log-spectra, in nats. Durall et al., "Watch your
      Up-Convolution" (CVPR 2020), whose spectra are not logarithmic.
    - *grid*: share of local contrast that is locked to the pixel grid with a period of 2 to 8, as transposed
      convolutions and nearest-neighbour upsampling leave it. Odena et al., "Deconvolution and Checkerboard Artifacts"
      (Distill 2016). A grid of 2 px is one of 4, 6 and 8 too.
    - *blank*: share of images that are one flat colour, as collapsed generators draw them. They are neither blurred nor
      sharp: the measures above look at the others, and are missing where fewer than 10 a side are left.
    - *colour* and *contrast*: drift of each channel's mean and deviation, in deviations over real images.

    Args:
        real: real images, with sides of at least 16; see :func:`~torchaug_gen.evaluation.images.image_chunks`.
        synthetic: synthetic images of the same shape, or a synthesizer.
        n: at most so many images a side; a synthesizer draws as many as there are real ones where it is ``None``.
        image_size: ``(H, W)`` that images of both sides are resized to first; ``None`` takes a synthesizer's own, and
            otherwise keeps them. Resizing hides grids and blur: images are best measured as they come.
        seed: of random choices.

    Raises:
        ValueError: fewer than 10 images a side, images of different shapes, or with sides below 16.
    """
    shape = getattr(synthetic, "image_shape", None)
    if image_size is None and isinstance(synthetic, Samples) and shape is not None:
        image_size = (shape[1], shape[2])
    reals, real_shape = _scores(real, n=n, image_size=image_size, seed=seed)
    count = (n or len(reals["sharpness"])) if isinstance(synthetic, Samples) else n
    synthetics, synthetic_shape = _scores(synthetic, n=count, image_size=image_size, seed=seed)
    if real_shape != synthetic_shape:
        raise ValueError(
            f"real and synthetic images must have one shape (C, H, W), got {real_shape} and {synthetic_shape}: "
            "image_size= resizes both alike"
        )
    sizes = len(reals["sharpness"]), len(synthetics["sharpness"])
    if min(sizes) < _FEWEST:
        raise ValueError(f"artefacts need at least {_FEWEST} images a side, got {sizes[0]} and {sizes[1]}")
    found = [
        *_fine_structure(reals, synthetics, _periods(real_shape)),
        _by_mean("blank", reals, synthetics, _BLANK, _say_blank, above=True),
        _drift("colour", reals["colour"], synthetics["colour"]),
        _drift("contrast", reals["contrast"], synthetics["contrast"]),
    ]
    return Artefacts(*sizes, {measure.name: measure for measure in found})


def _fine_structure(reals: dict[str, Tensor], synthetics: dict[str, Tensor], periods: list[int]) -> list[Artefact]:
    """Judge what only images that show something have; their worst images are told by their place among all."""
    rows = [(side["blank"] == 0).nonzero()[:, 0] for side in (reals, synthetics)]
    if min(map(len, rows)) < _FEWEST:
        return []
    real, synthetic = (
        {name: values[kept] for name, values in side.items()}
        for side, kept in zip((reals, synthetics), rows, strict=True)
    )
    found = [
        _by_mean("sharpness", real, synthetic, _SHARPNESS, _say_sharpness),
        _by_mean("high frequencies", real, synthetic, _HIGH_FREQUENCY, _say_high),
        _spectrum(real["spectrum"], synthetic["spectrum"]),
        *[_by_mean(f"grid of {p} px", real, synthetic, _GRID, _say_grid(p), above=True) for p in periods],
    ]
    return [replace(each, worst=tuple(rows[1][list(each.worst)].tolist())) for each in found]


def _scores(
    data: Any, *, n: int | None, image_size: Size | None, seed: int
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return for each measure a number, or several, per image, and the images' shape."""
    found: dict[str, list[Tensor]] = {}
    shape: tuple[int, ...] = ()
    for images, _ in image_chunks(data, size=_CHUNK, n=n, image_size=image_size, seed=seed):
        shape = tuple(images.shape[1:])
        if min(shape[1:]) < 16:
            raise ValueError(f"artefacts need images with sides of at least 16, got {shape[1]} × {shape[2]}")
        pixels = convert(images, torch.float32).double()
        spectrum = log_spectrum(pixels)
        high = math.ceil(0.75 * (spectrum.shape[1] - 1))
        scores = {
            "sharpness": sharpness(pixels),
            "high frequencies": spectrum[:, high:].exp().mean(1).log(),
            "spectrum": spectrum[:, 1:],
            **{f"grid of {period} px": grid_share(pixels, period) for period in _periods(shape)},
            "blank": blank(pixels).double(),
            "colour": pixels.mean(dim=(2, 3)),
            "contrast": pixels.std(dim=(2, 3)),
        }
        for name, values in scores.items():
            found.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in found.items()}, shape


def _periods(shape: tuple[int, ...]) -> list[int]:
    # With fewer than 4 cells along a side the object itself would look like a grid.
    return [period for period in _PERIODS if min(shape[1:]) >= 4 * period]


def _by_mean(
    name: str,
    reals: dict[str, Tensor],
    synthetics: dict[str, Tensor],
    limit: float,
    say: Callable[[float, bool], str],
    *,
    above: bool = False,
) -> Artefact:
    """Judge one number per image by the difference of means; ``above``: only more of it is an artefact."""
    real, synthetic = reals[name], synthetics[name]
    difference, half = _difference(real, synthetic)
    low, high = difference - half, difference + half
    found = low > limit or (not above and high < -limit)
    side = 1 if above or difference > 0 else -1
    worst = tuple((synthetic * side).argsort(descending=True)[:_WORST].tolist())
    return Artefact(name, found, difference, (low, high), limit, say(difference, found), worst)


def _spectrum(real: Tensor, synthetic: Tensor) -> Artefact:
    gap = synthetic.mean(0) - real.mean(0)
    noise = (synthetic.var(0) / len(synthetic) + real.var(0) / len(real)).mean()
    # The square of a noisy difference is too large by its variance.
    distance = float((gap.square().mean() - noise).clamp(min=0).sqrt())
    size = float(gap.square().mean().sqrt())
    # Along the gap found each image has one number, whose means differ by the distance.
    direction = gap / gap.norm().clamp(min=1e-12) / math.sqrt(len(gap))
    _, half = _difference(real @ direction, synthetic @ direction)
    found = distance - half > _SPECTRUM
    frequency = float(torch.argmax(gap.abs()) + 1) / len(gap)
    sign = "more" if gap[gap.abs().argmax()] > 0 else "less"
    verdict = (
        f"spectra differ: {distance:.2f} nats, most at {frequency:.0%} of the Nyquist frequency, where there is {sign}"
        if found
        else f"spectra are alike ({distance:.2f} nats apart)"
    )
    worst = (synthetic - real.mean(0)).square().mean(1) if size else torch.zeros(len(synthetic))
    rows = tuple(worst.argsort(descending=True)[:_WORST].tolist())
    return Artefact("spectrum", found, distance, (max(distance - half, 0), distance + half), _SPECTRUM, verdict, rows)


def _drift(name: str, real: Tensor, synthetic: Tensor) -> Artefact:
    """Judge the channel that drifted most, in deviations over real images."""
    spread = real.std(0).clamp(min=1 / 255)
    judged = []
    for channel in range(real.shape[1]):
        difference, half = _difference(real[:, channel] / spread[channel], synthetic[:, channel] / spread[channel])
        judged.append((abs(difference) - half, difference, half, channel))
    _, difference, half, channel = max(judged)
    found = abs(difference) - half > _DRIFT
    names = _CHANNELS if real.shape[1] == len(_CHANNELS) else [f"channel {index}" for index in range(real.shape[1])]
    which = f" of {names[channel]}" if real.shape[1] > 1 else ""
    more = {"colour": ("brighter", "darker"), "contrast": ("more contrast", "less contrast")}[name][difference < 0]
    verdict = (
        f"{name}{which} drifted: {more} by {abs(difference):.2f} deviations of real images"
        if found
        else f"{name} is like that of real images (at most {abs(difference):.2f} deviations away)"
    )
    away = ((synthetic - real.mean(0)) / spread).square().sum(1)
    rows = tuple(away.argsort(descending=True)[:_WORST].tolist())
    return Artefact(name, found, difference, (difference - half, difference + half), _DRIFT, verdict, rows)


def _difference(real: Tensor, synthetic: Tensor) -> tuple[float, float]:
    """Return the difference of means and half its 95 % interval, by Welch's standard error."""
    error = math.sqrt(float(real.var()) / len(real) + float(synthetic.var()) / len(synthetic))
    return float(synthetic.mean() - real.mean()), t_quantile(min(len(real), len(synthetic)) - 1) * error


def _say_sharpness(difference: float, found: bool) -> str:
    ratio = f"the Laplacian's variance, relative to contrast, is {math.exp(difference):.2f} times that of real images"
    if not found:
        return f"sharpness is like that of real images ({ratio})"
    return f"{'blurred' if difference < 0 else 'noisy or too sharp'}: {ratio}"


def _say_high(difference: float, found: bool) -> str:
    ratio = f"{math.exp(difference):.2f} times the energy of real images above 0.75 of the Nyquist frequency"
    if not found:
        return f"fine detail is like that of real images ({ratio})"
    return f"{'fine detail is missing' if difference < 0 else 'jagged or noisy'}: {ratio}"


def _say_blank(difference: float, found: bool) -> str:
    if found:
        return f"blank: {difference:.0%} more images are one flat colour than real ones are"
    return f"no more images are blank than real ones are ({100 * difference:+.1f} points)"


def _say_grid(period: int) -> Callable[[float, bool], str]:
    def say(difference: float, found: bool) -> str:
        share = f"{100 * difference:+.1f} points of local contrast locked to it, against real images"
        return f"a grid of {period} px shows ({share})" if found else f"no grid of {period} px ({share})"

    return say
