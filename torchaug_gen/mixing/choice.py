"""Of which class synthetic items are, where one fraction holds for all classes."""

from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from typing import Any

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.batch import take


@dataclass(frozen=True)
class Cursor:
    """How far the choice of classes has come in an epoch.

    Attributes:
        seen: for ``"balance"``, how many items of each class the epoch has seen.
        latest: for ``"match"``, ``(R,)`` int64, the classes of the latest batch that had real rows.
    """

    seen: tuple[int, ...] = ()
    latest: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


class LabelSource:
    """Chooses the classes of synthetic items for one epoch.

    Args:
        policy: ``"match"`` draws from the labels of the batch's real rows, or the latest before them; ``"balance"``
            gives each item the class that the epoch has seen least of, real and synthetic together, the lowest index
            first; ``(K,)`` weights draw each class with that probability; a callable gets ``(real_labels, positions)``,
            int64 tensors, and returns one class per position.
        num_classes: K.
        seed: the loader's seed.
        epoch: the epoch.
    """

    def __init__(self, policy: Any, num_classes: int, *, seed: int, epoch: int) -> None:
        self._policy = check_policy(policy, num_classes)
        self._num_classes = num_classes
        self._seed, self._epoch = seed, epoch
        self._latest = torch.empty(0, dtype=torch.int64)
        self.seen = torch.zeros(num_classes, dtype=torch.int64)

    @property
    def cursor(self) -> Cursor:
        """What the classes of later items depend on, as far as the policy asks for it."""
        if self._balances:
            return Cursor(seen=tuple(self.seen.tolist()))
        return Cursor(latest=self._latest) if isinstance(self._policy, str) else Cursor()

    @cursor.setter
    def cursor(self, cursor: Cursor) -> None:
        if cursor.seen:
            self.seen = torch.tensor(cursor.seen, dtype=torch.int64)
        self._latest = cursor.latest

    def draw(self, real: Tensor, positions: Tensor) -> Tensor:
        """Return the class of each synthetic item of a batch.

        Args:
            real: ``(R,)`` int64 classes of the batch's real rows, on the CPU.
            positions: ``(S,)`` int64 positions of its synthetic items.

        Raises:
            ValueError: a callable that returns something else than S classes in 0..K-1.
        """
        if len(real):
            self._latest = real
        if self._balances:
            self.seen += torch.bincount(real, minlength=self._num_classes)
        if not len(positions):
            return torch.empty(0, dtype=torch.int64)
        if callable(self._policy):
            return self._checked(self._policy(real, positions), len(positions))
        if isinstance(self._policy, Tensor):
            return self._weighted(self._policy, positions)
        return self._balanced(len(positions)) if self._balances else self._matched(positions)

    @property
    def _balances(self) -> bool:
        return isinstance(self._policy, str) and self._policy == "balance"

    def _matched(self, positions: Tensor) -> Tensor:
        # Before the first real row there is nothing to match, so every class is as good.
        pool = self._latest if len(self._latest) else torch.arange(self._num_classes)
        rows = rng.integers(self._seed, "loader.labels", self._epoch, positions, high=len(pool))
        matched: Tensor = take(pool, rows)
        return matched

    def _weighted(self, weights: Tensor, positions: Tensor) -> Tensor:
        draws = rng.uniform(self._seed, "loader.labels", self._epoch, positions, dtype=torch.float64)
        return torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), draws, right=True)

    def _balanced(self, n: int) -> Tensor:
        # Numbers of Python: a tensor takes 10 us for each item.
        least = [(count, label) for label, count in enumerate(self.seen.tolist())]
        heapify(least)
        labels = []
        for _ in range(n):
            count, label = least[0]
            labels.append(label)
            heapreplace(least, (count + 1, label))
        chosen = torch.tensor(labels, dtype=torch.int64)
        self.seen += torch.bincount(chosen, minlength=self._num_classes)
        return chosen

    def _checked(self, answer: Any, n: int) -> Tensor:
        try:
            labels = torch.as_tensor(answer).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"labels= must return {n} class indices, got {type(answer).__name__}") from None
        if labels.shape != (n,) or labels.is_floating_point():
            raise ValueError(
                f"labels= must return {n} class indices, got shape {tuple(labels.shape)} of {labels.dtype}"
            )
        if labels.min() < 0 or labels.max() >= self._num_classes:
            raise ValueError(f"labels= must return classes in 0..{self._num_classes - 1}, got {labels.tolist()}")
        return labels.to(torch.int64)


def check_policy(policy: Any, num_classes: int | None = None) -> Any:
    """Return a label policy with weights as a float64 tensor that sums to 1.

    Raises:
        ValueError: an unknown name, or weights that are negative, all zero, or not one per class.
    """
    if callable(policy) or (isinstance(policy, str) and policy in ("match", "balance")):
        return policy
    expected = 'labels must be "match", "balance", one weight per class, or a callable'
    if isinstance(policy, str) or policy is None:
        raise ValueError(f"{expected}, got {policy!r}")
    weights = torch.as_tensor(policy, dtype=torch.float64)
    if weights.ndim != 1 or not len(weights) or not weights.isfinite().all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError(f"{expected}; weights must be (K,), finite, not negative, not all zero, got {policy!r}")
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"labels has {len(weights)} weights, but the synthesizer has {num_classes} classes")
    return weights / weights.sum()
