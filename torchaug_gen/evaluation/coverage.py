"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor

from torchaug_gen.evaluation.frechet import check_pair

_ROWS = 1024


@dataclass(frozen=True)
class Coverage:
    """How two sets lie within each other's neighbourhoods.

    Attributes:
        precision: share of synthetic images within a neighbourhood of a real one: fidelity.
        recall: share of real images within a neighbourhood of a synthetic one: diversity.
        density: how many real neighbourhoods a synthetic image lies in, relative to real images: fidelity that one
            outlier among the real images cannot raise; about 1, and not bounded by it.
        coverage: share of real images whose neighbourhood holds a synthetic image: diversity that outliers among
            synthetic images cannot raise.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Tensor, synthetic: Tensor, *, k: int = 3, k_density: int = 5) -> Coverage:
    """Return precision, recall, density and coverage.

    Precision and recall: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models"
    (NeurIPS 2019), equations 1 and 2. Density and coverage: Naeem et al., "Reliable Fidelity and Diversity Metrics for
    Generative Models" (ICML 2020), section 3. A neighbourhood is the ball to the k-th nearest
    image of the same set. All four depend on the number of images: compare at the same numbers only.

    Args:
        real: ``(N, D)`` floating, more rows than ``k`` and ``k_density``; computed on its device in chunks of rows.
        synthetic: ``(M, D)`` on the same device, more rows than ``k``.
        k: neighbours of precision and recall; 3 in the paper.
        k_density: neighbours of density and coverage; 5 in the paper.

    Raises:
        ValueError: too few rows, different numbers of features, or neighbours below 1.
    """
    if min(k, k_density) < 1:
        raise ValueError(f"k and k_density must be at least 1, got {k} and {k_density}")
    check_pair(real, synthetic, least=max(k, k_density) + 1)
    # About a common centre, since squares of far-away vectors would cancel to nothing but rounding.
    centre = real.mean(0)
    real, synthetic = real - centre, synthetic - centre
    near, far = radii(real, (k, k_density)).unbind(1)
    reach = radii(synthetic, (k,))[:, 0]
    precise = inside = 0
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    for rows, radius in zip(synthetic.split(_ROWS), reach.split(_ROWS), strict=True):
        distances = torch.cdist(rows, real)
        precise += int((distances <= near).any(1).sum())
        held = distances <= far
        inside += int(held.sum())
        covered |= held.any(0)
        recalled |= (distances <= radius[:, None]).any(0)
    return Coverage(
        precision=precise / len(synthetic),
        recall=float(recalled.double().mean()),
        density=inside / (k_density * len(synthetic)),
        coverage=float(covered.double().mean()),
    )


def radii(features: Tensor, neighbours: tuple[int, ...]) -> Tensor:
    """Return ``(N, len(neighbours))`` distances from each row to its k-th nearest other row, for each k."""
    found = []
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS]
        distances = torch.cdist(rows, features)
        # Computed distances to oneself are rounding, and not always the smallest.
        distances[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = torch.inf
        nearest = distances.topk(max(neighbours), largest=False).values
        found.append(nearest[:, [k - 1 for k in neighbours]])
    return torch.cat(found)
