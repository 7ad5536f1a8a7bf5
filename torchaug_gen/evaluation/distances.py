"""Distances between real and synthetic images, named for the feature space that they are measured in."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.evaluation.coverage import coverage
from torchaug_gen.evaluation.distance_result import MOST_NEIGHBOURS, Distances
from torchaug_gen.evaluation.features import FeatureSet, FeatureSpace, embed, feature_space
from torchaug_gen.evaluation.frechet import extrapolated_distance, frechet_distance
from torchaug_gen.evaluation.images import Samples, Size
from torchaug_gen.evaluation.kernel import kernel_distance

__all__ = ["Distances", "measure_distances"]

_K, _K_DENSITY = 3, 5
# In trials with Gaussians FD∞ was within its own noise of the truth from twice as many images as features.
_IMAGES_PER_FEATURE = 2
_FEW = 50
_LABELS_APART = 0.1


def measure_distances(
    real: Any,
    synthetic: Any,
    *,
    features: str | nn.Module | FeatureSpace = "effnet",
    per_class: bool = False,
    n: int | None = None,
    image_size: Size | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Distances:
    """Measure how far synthetic images are from real ones.

    Args:
        real: real images that the synthesizer was not trained on, where there are enough: images ``(N, C, H, W)`` uint8
            or floating in [0, 1], with labels as a pair or without, a dataset, a folder, an iterable of batches, or
            their :class:`~torchaug_gen.evaluation.features.FeatureSet`.
        synthetic: any of these, or a synthesizer, from which ``n`` images are drawn. Where it has
            classes and the real images have labels, they are drawn with those labels.
        features: ``"effnet"``, ``"dct"``, ``"random"``, a module or a feature space; see
            :func:`~torchaug_gen.evaluation.features.feature_space`.
        per_class: measure each class by itself as well; needs labels on both sides.
        n: at most so many images a side; a synthesizer draws as many as there are real ones where it is ``None``.
        image_size: ``(H, W)`` that images of both sides are resized to first; ``None`` takes a synthesizer's own, and
            otherwise keeps them.
        batch_size: images that go through the network at once.
        device: where the network runs and distances are computed; ``None``: where the network is.
        seed: of random choices; the result does not depend on the order of images.
        progress: show bars.

    Raises:
        ValueError: images of different shapes on the two sides, features of different spaces, no labels
            for ``per_class``, and images that cannot be read as such.

    Warns:
        UserWarning: too few images for some of the numbers; also in :attr:`Distances.warnings`.

    Example:
        >>> import torch
        >>> from torchaug_gen import NoiseSynthesizer
        >>> from torchaug_gen.evaluation.distances import measure_distances
        >>> grey = NoiseSynthesizer((1, 16, 16), low=0.4, high=0.6)
        >>> images = torch.rand(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> measure_distances(images, grey, features="dct").kid.tells_apart
        True
    """
    shape = getattr(synthetic, "image_shape", None)
    if image_size is None and isinstance(synthetic, Samples) and shape is not None:
        image_size = (shape[1], shape[2])
    given = next((side.space for side in (real, synthetic) if isinstance(side, FeatureSet)), None)
    both = isinstance(real, FeatureSet) and isinstance(synthetic, FeatureSet)
    space = None if both else feature_space(features, device=device)
    if space is not None and given is not None and given != space.name:
        raise ValueError(
            f"features are of the space {given!r}: compare them with features={given!r}, got {space.name!r}"
        )

    def features_of(data: Any, count: int | None, labels: Tensor | None = None) -> FeatureSet:
        if isinstance(data, FeatureSet) or space is None:
            return _at_most(data, count, seed)
        return embed(
            data,
            space,
            n=count,
            labels=labels,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )

    reals = features_of(real, n)
    drawn = isinstance(synthetic, Samples)
    labels = _labels_to_draw(reals, synthetic, n, seed) if drawn else None
    synthetics = features_of(synthetic, (n or len(reals)) if drawn else n, labels)
    _check_comparable(reals, synthetics)
    synthetics = replace(synthetics, values=synthetics.values.to(reals.values.device))
    distances = _measure(_canonical(reals, seed), _canonical(synthetics, seed), per_class=per_class)
    if distances.warnings:
        warnings.warn("\n".join(distances.warnings), stacklevel=2)
    return distances


def _measure(real: FeatureSet, synthetic: FeatureSet, *, per_class: bool = False) -> Distances:
    width, fewer = real.values.shape[1], min(len(real), len(synthetic))
    fd = frechet_distance(real.values, synthetic.values) if fewer >= 2 else None
    fd_inf = extrapolated_distance(real.values, synthetic.values) if fewer >= _IMAGES_PER_FEATURE * width else None
    kid = kernel_distance(real.values, synthetic.values) if fewer >= 3 else None
    same = min(fewer, MOST_NEIGHBOURS)
    near = None
    if same > max(_K, _K_DENSITY):
        near = coverage(real.values[:same], synthetic.values[:same], k=_K, k_density=_K_DENSITY)
    return Distances(
        real.space,
        width,
        len(real),
        len(synthetic),
        fd,
        fd_inf,
        kid,
        near,
        _by_class(real, synthetic) if per_class else {},
        _warnings(real, synthetic),
    )


def _by_class(real: FeatureSet, synthetic: FeatureSet) -> dict[str, Distances]:
    if real.labels is None or synthetic.labels is None:
        side = "real" if real.labels is None else "synthetic"
        raise ValueError(f"per_class=True needs labels on both sides, but the {side} images have none")
    names = real.classes or synthetic.classes or ()
    found = {}
    for label in torch.cat((real.labels, synthetic.labels)).unique().tolist():
        name = names[label] if label < len(names) else str(label)
        found[name] = _measure(real.of_class(label), synthetic.of_class(label))
    return found


def _warnings(real: FeatureSet, synthetic: FeatureSet) -> tuple[str, ...]:
    n, width, space = min(len(real), len(synthetic)), real.values.shape[1], real.space
    found = []
    if n < _IMAGES_PER_FEATURE * width:
        found.append(
            f"FD-{space} of n={n} images in {width} features is mostly the bias of few images: compare it at the same "
            f"n only, and rather KID-{space}, which has no bias"
        )
    if n < _FEW:
        found.append(f"n={n} images are few: the interval of KID-{space} is rough, precision and recall are coarse")
    if len(real) != len(synthetic):
        found.append(
            f"precision, recall, density and coverage take n={min(n, MOST_NEIGHBOURS)} images of "
            f"{len(real)} real and {len(synthetic)} synthetic ones, since they depend on the number"
        )
    if real.labels is not None and synthetic.labels is not None and n >= _FEW:
        shares = _shares(real.labels, synthetic.labels)
        apart = float((shares[0] - shares[1]).abs().sum() / 2)
        if apart > _LABELS_APART:
            found.append(
                f"classes have other shares among synthetic images ({apart:.0%} would have to change theirs), which "
                "these distances count as a difference"
            )
    return tuple(found)


def _shares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    classes = int(max(a.max(), b.max())) + 1
    counted = [torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (a, b)]
    return counted[0], counted[1]


def _labels_to_draw(real: FeatureSet, synthesizer: Any, n: int | None, seed: int) -> Tensor | None:
    """Return the real images' labels for as many synthetic ones, so that classes come in the same shares."""
    classes = getattr(synthesizer, "num_classes", None)
    if classes is None or real.labels is None:
        return None
    if int(real.labels.max()) >= classes:
        raise ValueError(
            f"the synthesizer draws {classes} classes, but real images have labels up to {int(real.labels.max())}"
        )
    order = rng.permutation(seed, "evaluation.labels", 0, len(real))
    return real.labels[order[torch.arange(n or len(real)) % len(real)]]


def _check_comparable(real: FeatureSet, synthetic: FeatureSet) -> None:
    if (real.space, real.fingerprint) != (synthetic.space, synthetic.fingerprint):
        raise ValueError(
            f"features must come from one network to be compared, got {real.space!r} ({real.fingerprint}) and "
            f"{synthetic.space!r} ({synthetic.fingerprint})"
        )
    if real.image_shape != synthetic.image_shape:
        raise ValueError(
            f"real and synthetic images must have one shape (C, H, W), got {real.image_shape} and "
            f"{synthetic.image_shape}: distances would measure the resizing; image_size= resizes both alike"
        )


def _at_most(features: FeatureSet, n: int | None, seed: int) -> FeatureSet:
    if n is None or n >= len(features):
        return features
    return features.take(rng.permutation(seed, "evaluation.choice", 0, len(features))[:n].sort().values)


def _canonical(features: FeatureSet, seed: int) -> FeatureSet:
    """Return the features in a random order that depends on them and not on the order they came in."""
    direction = rng.normal(seed, "evaluation.order", 0, 0, (features.values.shape[1],), dtype=torch.float64)[0]
    key = torch.cat([rows.double() @ direction.to(rows.device) for rows in features.values.split(8192)])
    order = key.cpu().argsort(stable=True)
    return features.take(order[rng.permutation(seed, "evaluation.order", 1, len(features))])
