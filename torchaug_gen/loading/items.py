"""Indices whose iteration seeds the global generators, so that a data set's own random transforms are repeatable."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from torchaug_gen import rng


class SeededIndices(list[Any]):
    """The indices of one batch; whoever iterates over them finds the global generators seeded for each item.

    Data sets draw their random crops and flips from the global generators of PyTorch, NumPy and Python. A stock
    ``DataLoader`` goes through the indices one by one and loads the item of each. The numbers of an item are those of
    its position in the epoch: the same for any number of workers, and for a pass that begins in the middle. Where
    there are no workers, the main process has to keep its generators meanwhile: :class:`PrivateState`.

    Args:
        indices: as the sampler gives them.
        seed: the loader's seed.
        epoch: the epoch.
        first: the position of the first item.
        stride: how far positions are apart: the number of ranks.
    """

    def __init__(self, indices: Sequence[Any], seed: int, epoch: int, first: int, stride: int) -> None:
        super().__init__(indices)
        self._address = (seed, epoch, first, stride)

    def __iter__(self) -> Iterator[Any]:
        seed, epoch, first, stride = self._address
        positions = torch.arange(len(self)) * stride + first
        # NumPy's old generator takes no more than 32 bits.
        seeds = rng.integers(seed, "loader.items", epoch, positions, high=1 << 32).tolist()
        return _seeding(self[:], seeds)

    def __reduce__(self) -> tuple[Any, ...]:
        # A list is pickled through its iterator, which would seed this process instead of the worker.
        return SeededIndices, (self[:], *self._address)


class PrivateState:
    """A context in which the global generators hold numbers of their own, going on at each entry.

    Only for the consumer's thread: what else draws from them in the main process does so there.

    Args:
        seed: what they begin with.
    """

    def __init__(self, seed: int) -> None:
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.MT19937(seed)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._swap()

    def _swap(self) -> None:
        state = torch.default_generator.get_state()
        torch.default_generator.set_state(self._torch)
        python = random.getstate()
        random.setstate(self._python)
        # Exchanging the generator takes 1 µs; copying its state there and back 100.
        numpy = get_bit_generator()
        set_bit_generator(self._numpy)
        self._torch, self._python, self._numpy = state, python, numpy


def draws_nothing(dataset: Any) -> bool:
    """Say whether a data set is known to draw no random numbers, so that nothing need be seeded for it."""
    if type(dataset) is Subset:
        return draws_nothing(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(draws_nothing, dataset.datasets))
    return type(dataset) in (TensorDataset, Tensor, list, tuple, range)


def seed_everything(seed: int) -> None:
    """Seed the global generators that draw on the CPU; 10 µs."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _seeding(indices: list[Any], seeds: list[int]) -> Iterator[Any]:
    for index, seed in zip(indices, seeds, strict=True):
        seed_everything(seed)
        yield index
