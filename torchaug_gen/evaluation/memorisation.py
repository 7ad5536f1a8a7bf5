"""Memorisation: does a synthesizer hand out its training images?"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.evaluation.features import FeatureSet, FeatureSpace, embed, feature_space
from torchaug_gen.evaluation.images import Samples, Size
from torchaug_gen.evaluation.twins import MOST_TWINS

# Held-out images that count as copies by the calibrated threshold.
_ALPHA = 0.01
_COPYING = -3.0
# Ratios below this are rounding, or compression anew: the same image.
_SAME = 0.02
_PAIRS = 16
_ROWS = 1024
_PER_CELL = 20
_MOST_CELLS = 50
_STEPS = 20


class PixelFeatures(nn.Module):
    """Images at no more than ``side`` pixels a side, antialiased, without their mean and contrast.

    Small shifts, noise and changes of brightness then leave an image close to itself.
    """

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.side = side

    def extra_repr(self) -> str:
        """Return what tells two of these apart."""
        return f"side={self.side}"

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, D)``."""
        size = [min(side, self.side) for side in images.shape[2:]]
        pixels = F.interpolate(images, size, mode="bilinear", antialias=True).flatten(1)
        pixels = pixels - pixels.mean(1, keepdim=True)
        return pixels / (pixels.std(1, keepdim=True) + 1 / 255)


class Pair(NamedTuple):
    """A synthetic image, the training image nearest to it, and their distance relative to what is usual there."""

    synthetic: int
    train: int
    ratio: float


@dataclass(frozen=True)
class Memorisation:
    """Whether synthetic images are closer to training images than held-out real ones are.

    Attributes:
        copies: whether they are: by the share of copies, or by C_T < -3.
        space: the feature space.
        train: number of training images.
        heldout: number of held-out real images.
        twins: held-out images beside these that lie on a training image, and were left out.
        synthetic: number of synthetic images.
        threshold: the ratio below which an image counts as a copy: an image's distance to the nearest training image,
            over that one's own distance to its nearest other. One held-out image in a hundred lies below.
        share: share of synthetic images below the threshold.
        interval: its 95 % confidence interval.
        expected: share of held-out images below it, with the upper bound of its 95 % interval.
        c_t: Meehan's C_T; about 0 without copying, far below 0 with it, far above 0 where synthetic images are
            far from any training image. ``None`` where cells have too few images.
        pairs: the closest pairs, the closest first; indices in the order images came.
    """

    copies: bool
    space: str
    train: int
    heldout: int
    twins: int
    synthetic: int
    threshold: float
    share: float
    interval: tuple[float, float]
    expected: tuple[float, float]
    c_t: float | None
    pairs: tuple[Pair, ...]

    @property
    def singled_out(self) -> bool:
        """Whether there are more copies than chance allows.

        C_T alone says less: averages of many images, such as blurred ones, lie nearer to all of them than these do to
        each other.
        """
        return self.interval[0] > self.expected[1]

    def __str__(self) -> str:
        low, high = self.interval
        score = "" if self.c_t is None else f"; C_T {self.c_t:+.1f}"
        evidence = (
            f"{self.share:.1%} of {self.synthetic} are nearer to a training image than {1 - self.expected[0]:.0%} of "
            f"held-out images are, 95 % interval {low:.1%} to {high:.1%}{score}; in {self.space!r}"
        )
        if self.singled_out:
            return f"Synthetic images copy training images ({evidence})."
        if self.copies:
            return f"Synthetic images keep nearer to training images than held-out ones do ({evidence})."
        return f"No sign of copied training images ({evidence})."

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return asdict(self) | {"pairs": [pair._asdict() for pair in self.pairs]}


def find_copies(
    train: Any,
    heldout: Any,
    synthetic: Any,
    *,
    features: str | nn.Module | FeatureSpace = "effnet",
    n: int | None = None,
    image_size: Size | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Memorisation:
    """Say whether a synthesizer copies the images that it was trained on.

    Held-out real images are to training images what honest synthetic ones should be. Two tests compare the two:

    - *copies*: an image's ratio is its distance to the nearest training image over that image's own distance to its
      nearest other training image (as in the authenticity of Alaa et al., "How Faithful is your Synthetic Data?",
      ICML 2022). The threshold is that below which 1 % of held-out images lie. There are copies where the 95 %
      intervals of the shares below it, of synthetic and of held-out images, do not overlap. Finds few copies
      among many honest images.
    - *C_T* of Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models"
      (AISTATS 2020): within each cell of the training images (k-means) the z-scored Mann–Whitney statistic
      of distances to the nearest training image, averaged with the held-out images' shares as weights. Finds a
      synthesizer that keeps a little too close everywhere.

    Spaces see different copies: on photographs, ``"effnet"`` finds mirrored, shifted and turned ones, ``"pixels"``
    noisy ones best and no mirrored ones; ``"dct"`` takes averages of many images for copies. Ask the first two.

    Args:
        train: all images that the synthesizer was trained on; see
            :func:`~torchaug_gen.evaluation.images.image_chunks`.
        heldout: real images that it was not, the more the finer the test; at least 20. The few that lie on a training
            image are left out, since they would make copies look usual.
        synthetic: synthetic images, or a synthesizer; at least 3.
        features: a feature space, or ``"pixels"``: images at 16 px, without mean and contrast. See
            :func:`~torchaug_gen.evaluation.features.feature_space`.
        n: how many images a synthesizer draws; as many as are held out where it is ``None``.
        image_size: ``(H, W)`` that all images are resized to first; ``None`` takes a synthesizer's own, and otherwise
            keeps them.
        device: where the network runs and distances are computed.
        seed: of the synthesizer and of k-means.
        progress: show bars.

    Raises:
        ValueError: too few images, images of different shapes, or more than 5 % of the held-out images lie on training
            images, so that nobody can tell what is a copy.
    """
    shape = getattr(synthetic, "image_shape", None)
    if image_size is None and isinstance(synthetic, Samples) and shape is not None:
        image_size = (shape[1], shape[2])
    space = feature_space(FeatureSpace("pixels", PixelFeatures()) if features == "pixels" else features, device=device)

    def features_of(data: Any, count: int | None = None) -> FeatureSet:
        if isinstance(data, FeatureSet):
            return data
        return embed(data, space, n=count, image_size=image_size, seed=seed, progress=progress)

    known, real = features_of(train), features_of(heldout)
    drawn = features_of(synthetic, (n or len(real)) if isinstance(synthetic, Samples) else n)
    _check(known, real, drawn)
    return _judge(known, real, drawn, seed=seed)


def nearest(points: Tensor, others: Tensor, *, themselves: bool = False) -> tuple[Tensor, Tensor]:
    """Return distance to and row of the nearest of ``others`` for each of ``points``, ``(N,)`` each.

    Args:
        points: ``(N, D)`` floating.
        others: ``(M, D)`` on the same device.
        themselves: ``points`` are ``others``, and a point is not its own neighbour.
    """
    distances, rows = [], []
    for start in range(0, len(points), _ROWS):
        chunk = torch.cdist(points[start : start + _ROWS], others)
        if themselves:
            own = torch.arange(len(chunk), device=chunk.device)
            chunk[own, own + start] = torch.inf
        least = chunk.min(1)
        distances.append(least.values)
        rows.append(least.indices)
    return torch.cat(distances), torch.cat(rows)


def _judge(train: FeatureSet, heldout: FeatureSet, synthetic: FeatureSet, *, seed: int) -> Memorisation:
    # About a common centre, since squares of far-away vectors would cancel to nothing but rounding.
    centre = train.values.mean(0)
    known, real, drawn = (side.values - centre for side in (train, heldout, synthetic))
    own = nearest(known, known, themselves=True)[0]
    # Training images that are there twice have no distance of their own; theirs is then what is usual.
    own = torch.where(own > 0.1 * own.median(), own, own.median()).clamp(min=1e-12)
    (real_distance, real_row), (distance, row) = nearest(real, known), nearest(drawn, known)
    real_ratio, ratio = real_distance / own[real_row], distance / own[row]
    apart = _apart(real_ratio)
    real, real_distance, real_ratio = real[apart], real_distance[apart], real_ratio[apart]
    below = max(int(_ALPHA * len(real)), 1)
    threshold = float(real_ratio.sort().values[below - 1])
    # Copies are below the threshold and not at it, where the held-out image is that it was taken from.
    copies = int((ratio < threshold).sum())
    interval, expected = wilson(copies, len(drawn)), wilson(below, len(real))
    c_t = _c_t(known, (real, real_distance), (drawn, distance), seed=seed)
    order = ratio.argsort()[:_PAIRS].tolist()
    return Memorisation(
        copies=interval[0] > expected[1] or (c_t is not None and c_t < _COPYING),
        space=train.space,
        train=len(known),
        heldout=len(real),
        twins=int((~apart).sum()),
        synthetic=len(drawn),
        threshold=threshold,
        share=copies / len(drawn),
        interval=interval,
        expected=(below / len(real), expected[1]),
        c_t=c_t,
        pairs=tuple(Pair(index, int(row[index]), float(ratio[index])) for index in order),
    )


def _apart(ratios: Tensor) -> Tensor:
    """Return ``(N,)`` bool: which held-out images are not the training image nearest to them."""
    apart = ratios >= _SAME
    twins = int((~apart).sum())
    if twins > MOST_TWINS * len(ratios):
        raise ValueError(
            f"held-out images must be others than the training images, to tell what is a copy, but {twins} of "
            f"{len(ratios)} lie on one"
        )
    if len(ratios) - twins < _PER_CELL:
        raise ValueError(
            f"a test for copies needs at least {_PER_CELL} held-out images that are no training images, got "
            f"{len(ratios) - twins} beside {twins} that are"
        )
    return apart


def wilson(count: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``count`` among ``n``: Wilson, JASA 22 (1927), 209–212."""
    z, p = 1.959964, count / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


def _c_t(known: Tensor, real: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor], *, seed: int) -> float | None:
    centres = _k_means(known, min(max(len(real[0]) // (2 * _PER_CELL), 1), _MOST_CELLS), seed=seed)
    cells = [nearest(points, centres)[1] for points, _ in (real, drawn)]
    total, weights = 0.0, 0
    for cell in range(len(centres)):
        here = [distance[where == cell] for where, (_, distance) in zip(cells, (real, drawn), strict=True)]
        if min(map(len, here)) < _PER_CELL:
            continue
        total += len(here[0]) * _mann_whitney(*here)
        weights += len(here[0])
    return total / weights if weights else None


def _mann_whitney(a: Tensor, b: Tensor) -> float:
    """Return the z-score of how often values of ``b`` exceed those of ``a``."""
    n, m = len(a), len(b)
    wins = (b[:, None] > a).double().sum() + 0.5 * (b[:, None] == a).double().sum()
    return float((wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def _k_means(points: Tensor, count: int, *, seed: int) -> Tensor:
    """Return the centres ``(count, D)`` that Lloyd's iterations reach from random points."""
    centres = points[rng.permutation(seed, "evaluation.cells", 0, len(points))[:count].to(points.device)]
    for _ in range(_STEPS):
        cell = nearest(points, centres)[1]
        sums = torch.zeros_like(centres).index_add_(0, cell, points)
        sizes = torch.bincount(cell, minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres


def _check(train: FeatureSet, heldout: FeatureSet, synthetic: FeatureSet) -> None:
    sides: Sequence[FeatureSet] = (train, heldout, synthetic)
    if len({side.fingerprint for side in sides}) > 1:
        raise ValueError(f"features must come from one network, got {', '.join(side.space for side in sides)}")
    if len({side.image_shape for side in sides}) > 1:
        raise ValueError(
            f"training, held-out and synthetic images must have one shape (C, H, W), got "
            f"{', '.join(str(side.image_shape) for side in sides)}; image_size= resizes all alike"
        )
    for name, side, least in (("training", train, 3), ("held-out", heldout, _PER_CELL), ("synthetic", synthetic, 3)):
        if len(side) < least:
            raise ValueError(f"a test for copies needs at least {least} {name} images, got {len(side)}")
