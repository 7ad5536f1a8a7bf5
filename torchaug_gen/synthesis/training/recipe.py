"""Recipe: what a training does in a step, apart from the loop that calls it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training.data import TrainingImages

# Averages the gradients of these parameters over all processes; does nothing in a single one.
Reduce = Callable[[Iterable[nn.Parameter]], None]


class Batch(NamedTuple):
    """The images of one step.

    Args:
        images: ``(N, C, H, W)`` floating in [0, 1], on the device of the training.
        labels: ``(N,)`` int64 on that device, or ``None`` where the data have none.
        positions: ``(N,)`` int64 on the CPU: each row's place in the endless chain of shuffles of the data, the same
            for any number of processes. Random numbers of a step are functions of the seed and these.
    """

    images: Tensor
    labels: Tensor | None
    positions: Tensor


class Recipe(ABC):
    """Networks, optimisers and losses of one kind of synthesizer.

    A recipe holds everything that decides the steps to come in :attr:`networks` and :attr:`optimizers`, and draws
    random numbers from :mod:`torchaug_gen.rng` only, so that a checkpoint of the two resumes exactly.

    Attributes:
        networks: every network by name, with averaged copies and buffers.
        optimizers: every optimiser by name.
    """

    networks: nn.ModuleDict
    optimizers: Mapping[str, Optimizer]

    @abstractmethod
    def step(self, batch: Batch, step: int, *, reduce: Reduce) -> dict[str, Tensor]:
        """Do one optimiser step of every network.

        Args:
            batch: this process's rows.
            step: number of the step, from 0; schedules are functions of it.
            reduce: to be called on a network's parameters between ``backward`` and its optimiser's step.

        Returns:
            Losses by name, detached and without dimensions; the loop logs and watches them, and averages them over the
            processes.
        """

    @abstractmethod
    def synthesizer(self) -> NetworkSynthesizer:
        """Return a synthesizer around the network to draw from; it shares its weights with the training."""

    def finish(self, images: TrainingImages) -> None:  # noqa: B027 (a hook that most recipes do not need)
        """Do what is left when the last step is done, such as fitting a prior; the default does nothing."""

    def verdict(self, losses: Mapping[str, float], step: int) -> str | None:
        """Return what is wrong where losses tell that a training of this kind has failed, else ``None``.

        The loop itself looks for losses that are not finite and for samples that are all alike.
        """
        return None
