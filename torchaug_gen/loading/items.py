"""Indices that bring seeds for the global generators, so that a data set's own random transforms are repeatable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset


class SeededIndices(list[Any]):
    """The indices of one batch; where their items are loaded, the global generators are seeded.

    Data sets draw their random crops and flips from the global generators of PyTorch, NumPy and Python. All are seeded
    when the indices arrive: in a worker as they are unpickled, in the main process by :meth:`arrive`. PyTorch's is
    seeded anew for each index that is iterated over, as a stock ``DataLoader`` does to load the items one by one, from
    its position in the epoch, so that its numbers are the same for any batch size, number of workers and ranks, and
    for a pass that begins in the middle. NumPy's and Python's are seeded for each batch only, because that takes 8 µs
    where PyTorch's takes one: their numbers are the same for any number of workers, and on resuming; and so is what a
    data set draws for a whole batch, in ``__getitems__``.
    Where there are no workers, the main process has to keep its generators meanwhile: :class:`PrivateState`.

    Args:
        indices: as the sampler gives them.
        first: the seed of the first item, in 0..2⁶⁴-1.
        stride: how far the seeds of neighbours are apart: the number of ranks.
    """

    def __init__(self, indices: Sequence[Any], first: int, stride: int) -> None:
        super().__init__(indices)
        self._first, self._stride = first, stride

    def arrive(self) -> SeededIndices:
        """Seed the generators of this process, and return the indices."""
        _seed_all(self._first)
        return self

    def __iter__(self) -> Iterator[Any]:
        return _seeding(self[:], self._first, self._stride)

    def __reduce__(self) -> tuple[Any, ...]:
        # A list is pickled through its iterator, which would seed this process instead of the worker.
        return _arrived, (SeededIndices, self[:], self._first, self._stride)


class SeededIndex:
    """What a sampler gives that is no list of indices, as with ``batch_size=None``, and one seed for it.

    A worker gets the index itself, and finds the generators seeded.

    Args:
        index: as the sampler gives it.
        seed: in 0..2⁶⁴-1.
    """

    def __init__(self, index: Any, seed: int) -> None:
        self._index, self._seed = index, seed

    def arrive(self) -> Any:
        """Seed the generators of this process, and return the index."""
        _seed_all(self._seed)
        return self._index

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (SeededIndex, self._index, self._seed)


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
    # Our own data sets say so themselves.
    told = getattr(dataset, "draws_nothing", False)
    return told is True or type(dataset) in (TensorDataset, Tensor, list, tuple, range)


def _arrived(kind: Callable[..., SeededIndices | SeededIndex], *parts: Any) -> Any:
    return kind(*parts).arrive()


def _seed_all(seed: int) -> None:
    random.seed(seed)
    # It takes no more than 32 bits.
    np.random.seed(seed % (1 << 32))
    # PyTorch's looks at no more either: half of them away, no item of an epoch begins with the batch's own numbers.
    torch.default_generator.manual_seed(seed ^ (1 << 31))


def _seeding(indices: list[Any], first: int, stride: int) -> Iterator[Any]:
    seed = torch.default_generator.manual_seed
    for number, index in enumerate(indices):
        seed(first + number * stride)
        yield index
