"""AugMix: the mixture of an image and of several chains of operations run over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.augment.operation import Operation

# An attempt is accepted with a chance of at least 0.95, so that all of them fail once in 10²⁰ draws.
_ATTEMPTS = 16


@dataclass(frozen=True)
class AugMix:
    """Blend each image with ``width`` augmented ones of itself.

    Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty" (ICLR 2020), as
    torchvision does it: ``m · x + (1 - m) · Σ w_i · chain_i(x)`` with m from Beta(alpha, alpha) and w from
    Dirichlet(alpha, …, alpha), and here with weights, operations and depths of each sample's own.

    Args:
        name: what the user called it.
        operations: one chain; every chain runs the same ones, drawn from a stream of its own.
        width: how many chains.
        alpha: of the distributions, > 0.
    """

    name: str
    operations: tuple[Operation, ...]
    width: int
    alpha: float

    def chain_streams(self, stream: str) -> list[str]:
        """Return the streams that the chains' operations and gates are drawn from."""
        return [f"{stream}.chain{index}" for index in range(self.width)]

    def weights(
        self, *, seed: int, epoch: int, positions: npt.NDArray[np.int64], stream: str = "augment"
    ) -> npt.NDArray[np.float64]:
        """Return the weights of the image itself and of each chain, which sum to 1.

        Args:
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³².
            positions: ``(N,)`` int64 ≥ 0.
            stream: what the weights are drawn from.

        Returns:
            ``(N, 1 + width)`` float64, a pure function of the arguments.
        """
        where = torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64))
        logs = _log_gamma(self.alpha, 2 + self.width, seed=seed, stream=f"{stream}.weights", epoch=epoch, where=where)
        own = torch.softmax(logs[:, :2], dim=1)
        chains = torch.softmax(logs[:, 2:], dim=1)
        joined: npt.NDArray[np.float64] = torch.cat((own[:, :1], own[:, 1:] * chains), dim=1).numpy()
        return joined

    def blend(self, original: Tensor, chains: Sequence[Tensor], weights: npt.NDArray[np.float64]) -> Tensor:
        """Return the weighted sums.

        Args:
            original: ``(N, C, H, W)`` floating.
            chains: the same images after each chain.
            weights: ``(N, 1 + width)`` as :meth:`weights` returns them.

        Returns:
            ``(N, C, H, W)`` in the dtype of ``original``.

        Raises:
            ValueError: another number of chains than the weights are for.
        """
        if weights.shape != (len(original), 1 + len(chains)):
            raise ValueError(
                f"weights must be (N, 1 + width) = {(len(original), 1 + len(chains))}, got {weights.shape}"
            )
        table = torch.from_numpy(weights).to(original.device, original.dtype)[:, :, None, None, None]
        mixed: Tensor = original * table[:, 0]
        for index, chain in enumerate(chains):
            mixed = torch.addcmul(mixed, chain, table[:, index + 1])
        return mixed


def _log_gamma(alpha: float, count: int, *, seed: int, stream: str, epoch: int, where: Tensor) -> Tensor:
    """Draw logarithms of Gamma(alpha, 1) numbers, ``(N, count)`` float64.

    Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables" (2000): the first accepted of a fixed number
    of attempts, each with numbers of its own address. Below alpha = 1 a Gamma(alpha + 1) number is multiplied by
    U^(1/alpha). Logarithms, because such numbers underflow where alpha is small; their softmax is a Dirichlet draw.
    """
    shape = alpha if alpha >= 1 else alpha + 1
    size = (count, _ATTEMPTS)
    normal = rng.normal(seed, f"{stream}.normal", epoch, where, size, dtype=torch.float64)
    uniform = rng.uniform(seed, f"{stream}.uniform", epoch, where, size, dtype=torch.float64)
    d = shape - 1 / 3
    v = (1 + normal / (9 * d) ** 0.5) ** 3
    log_v = torch.log(v.clamp_min(torch.finfo(torch.float64).tiny))
    accepted = (v > 0) & (torch.log(1 - uniform) < normal**2 / 2 + d - d * v + d * log_v)
    # argmax finds the first one; where none was accepted it is attempt 0, once in 10²⁰.
    first = accepted.to(torch.int8).argmax(dim=-1, keepdim=True)
    logs: Tensor = math.log(d) + log_v.gather(-1, first).squeeze(-1)
    if alpha < 1:
        power = rng.uniform(seed, f"{stream}.power", epoch, where, (count,), dtype=torch.float64)
        logs = logs + torch.log(1 - power) / alpha
    return logs
