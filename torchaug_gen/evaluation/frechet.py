"""Fréchet distance between two sets of features."""

import torch
from torch import Tensor

_ROWS = 8192
# Beyond as many features a side of the sets, extrapolation is worth three distances; below, they are too bent.
_PARTS = (1, 2, 3)


def frechet_distance(real: Tensor, synthetic: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017):
    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½). With Σᵢ = AᵢᵀAᵢ the last trace is the sum of the singular values of A₁A₂ᵀ, so
    that no matrix root is taken, covariances may be singular, and the result is never negative by rounding alone.

    It is biased upwards by few images, the more the more features there are; see :func:`extrapolated_distance`.

    Args:
        real: ``(N, D)`` floating, N ≥ 2; computed in float64 on its device, in memory of D² or N·D numbers.
        synthetic: ``(M, D)`` on the same device, M ≥ 2.

    Raises:
        ValueError: fewer than two rows, or different numbers of features.
    """
    check_pair(real, synthetic)
    (mean_a, root_a), (mean_b, root_b) = _gaussian(real), _gaussian(synthetic)
    between = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * between
    # What is left of equal sets is rounding, of either sign.
    return max(float(distance), 0.0)


def extrapolated_distance(real: Tensor, synthetic: Tensor) -> float:
    """Return the Fréchet distance extrapolated to infinitely many images, as FD∞.

    Chong and Forsyth, "Effectively Unbiased FID and Inception Score and Where to Find Them" (CVPR 2020): the
    distance is linear in 1/N, and its intercept is what N → ∞ would give. The line goes through the
    distances between whole sets and between the means over their disjoint halves and thirds. It may come out
    slightly negative, as an unbiased estimate of zero must.

    Args:
        real: ``(N, D)`` in an order that does not matter, N well above D: with fewer images the line is bent.
        synthetic: ``(M, D)``.

    Raises:
        ValueError: fewer than 6 rows, or different numbers of features.
    """
    check_pair(real, synthetic, least=2 * _PARTS[-1])
    inverse, distances = [], []
    for parts in _PARTS:
        pieces = zip(_strided(real, parts), _strided(synthetic, parts), strict=True)
        found = [frechet_distance(a, b) for a, b in pieces]
        inverse.append(float(parts))
        distances.append(sum(found) / parts)
    x, y = torch.tensor(inverse, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean())


def check_pair(real: Tensor, synthetic: Tensor, *, least: int = 2) -> None:
    """Raise ``ValueError`` unless both are ``(at least `least`, D)`` with one D."""
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(real.shape)} and {tuple(synthetic.shape)}")
    if min(len(real), len(synthetic)) < least:
        raise ValueError(f"this distance needs at least {least} images a side, got {len(real)} and {len(synthetic)}")


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(D,)`` and a root A of the covariance AᵀA, ``(min(N, D), D)``, in float64."""
    mean = torch.stack([chunk.double().sum(0) for chunk in features.split(_ROWS)]).sum(0) / len(features)
    count, width = features.shape
    if count <= width:
        return mean, (features.double() - mean) / (count - 1) ** 0.5
    covariance = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    for chunk in features.split(_ROWS):
        centred = chunk.double() - mean
        covariance.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(covariance / (count - 1))
    return mean, values.clamp(min=0).sqrt()[:, None] * vectors.T


def _strided(features: Tensor, parts: int) -> list[Tensor]:
    return [features[start::parts] for start in range(parts)]
