"""Kernel distance (KID): an unbiased comparison of two sets of features, with a confidence interval."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchaug_gen.evaluation.frechet import check_pair
from torchaug_gen.evaluation.usefulness import t_quantile

# Kernels are summed over blocks of at most so many images a side, so that the cost is linear in images.
_BLOCK = 2048
_ROWS = 1024
# More images on one side than so many times the other's add cost and next to no precision.
_MOST_UNEQUAL = 8


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared maximum mean discrepancy.

    Attributes:
        value: the estimate; without bias, so below zero about as often as above where the distributions are the same.
        interval: its 95 % confidence interval.
    """

    value: float
    interval: tuple[float, float]

    @property
    def tells_apart(self) -> bool:
        """Whether the interval lies above zero: the sets come from different distributions."""
        return self.interval[0] > 0


def kernel_distance(real: Tensor, synthetic: Tensor) -> KernelDistance:
    """Return the squared maximum mean discrepancy under the kernel (x·y / D + 1)³.

    Bińkowski et al., "Demystifying MMD GANs" (ICLR 2018), section 4 (the kernel, "KID"); the estimator is the unbiased
    one of Gretton et al., "A Kernel Two-Sample Test" (JMLR 2012), equation 3. The interval is that of the two-sample
    delete-one jackknife, whose replicates follow from the kernel matrix's row sums at no further cost, and covers the
    choice of images on both sides. Where the distributions are the same the jackknife can collapse, and the variance
    that the estimate then has, 2·|C|²·(1/N + 1/M)² with the centred kernel's operator C, is taken as the least.

    Above 2048 images a side the estimate is the mean over disjoint blocks.

    Args:
        real: ``(N, D)`` floating, N ≥ 3; computed in float64 on its device, in chunks of rows.
        synthetic: ``(M, D)`` on the same device, M ≥ 3.

    Raises:
        ValueError: fewer than three rows, or different numbers of features.
    """
    check_pair(real, synthetic, least=3)
    fewer = min(len(real), len(synthetic))
    real, synthetic = (side[: max(_MOST_UNEQUAL * fewer, _BLOCK)] for side in (real, synthetic))
    blocks = min(math.ceil(max(len(real), len(synthetic)) / _BLOCK), max(fewer // (_BLOCK // 4), 1))
    values, variances = [], []
    for block in range(blocks):
        value, variance = _estimate(real[block::blocks].double(), synthetic[block::blocks].double())
        values.append(value)
        variances.append(variance)
    middle, deviation = sum(values) / blocks, math.sqrt(sum(variances)) / blocks
    half = t_quantile(fewer - 1) * deviation
    return KernelDistance(middle, (middle - half, middle + half))


def _estimate(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the unbiased estimate and its variance."""
    n, m = len(x), len(y)
    (within_x, squares_x), (within_y, squares_y) = _within(x), _within(y)
    across_x, across_y = _row_sums(x, y)[0], _row_sums(y, x)[0]
    term_x, term_y = within_x.sum() / (n * (n - 1)), within_y.sum() / (m * (m - 1))
    across = across_x.sum()
    value = term_x + term_y - 2 * across / (n * m)
    # The estimate without one image, for each image.
    without_x = (within_x.sum() - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (across - across_x) / ((n - 1) * m)
    without_y = (within_y.sum() - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (across - across_y) / ((m - 1) * n)
    jackknife = sum((len(r) - 1) ** 2 / len(r) * r.var() for r in (without_x, without_y))
    norm = (_squared_norm(within_x, squares_x) + _squared_norm(within_y, squares_y)) / 2
    return float(value), max(float(jackknife), 2 * float(norm) * (1 / n + 1 / m) ** 2)


def _within(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row the sums of its kernels with all other rows, and of their squares."""
    sums, squares = _row_sums(x, x)
    own = _diagonal(x)
    return sums - own, squares - own**2


def _squared_norm(sums: Tensor, squares: Tensor) -> Tensor:
    """Return the mean square of the centred kernel between different rows: its operator's squared norm."""
    n = len(sums)
    means = sums / (n - 1)
    return (squares.sum() / (n * (n - 1)) - 2 * means.square().mean() + means.mean().square()).clamp(min=0)


def _row_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of ``x`` the sums of its kernels with all of ``y``, and of their squares."""
    kernels = (_kernel(rows @ y.T, x.shape[1]) for rows in x.split(_ROWS))
    sums = [(kernel.sum(1), kernel.square().sum(1)) for kernel in kernels]
    return torch.cat([row for row, _ in sums]), torch.cat([row for _, row in sums])


def _diagonal(x: Tensor) -> Tensor:
    return _kernel(x.square().sum(1), x.shape[1])


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3
