"""ItemClasses: of which class each synthetic item of a mixed data set is."""

import heapq
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.labels import check_labels, known_labels
from torchaug_gen.mixing import Cursor, LabelSource, check_policy

_NONE = torch.empty(0, dtype=torch.int64)


class ItemClasses:
    """Chooses the class of the k-th synthetic item, whoever asks for it and in whatever order.

    Args:
        policy: ``None`` for each class in turn; ``"match"`` for the label of a real item, drawn anew for each;
            ``"balance"`` for the class of which there are least in the real data set and the synthetic items before,
            the lowest index first; ``(K,)`` weights; or a callable ``(real_labels, positions) -> labels``.
        real: the real data set.
        num_classes: K.
        seed: of the data set.

    Raises:
        ValueError: an unknown policy, or one that needs the labels of all real items, where they are not known
            without loading them.
    """

    def __init__(self, policy: Any, real: Any, num_classes: int, *, seed: int) -> None:
        self._num_classes, self._seed = num_classes, seed
        self._policy = None if policy is None else check_policy(policy, num_classes)
        self._real = _NONE
        if policy is None or isinstance(self._policy, Tensor):
            return
        known = known_labels(real)
        if known is not None:
            check_labels(known, num_classes, what=f"real labels (the synthesizer has {num_classes} classes)")
            self._real = known
        elif isinstance(policy, str):
            raise ValueError(
                f'labels="{policy}" needs the labels of all real items, which {type(real).__name__} does not tell '
                "without loading them: give one weight per class, such as the class counts, or wrap the loader instead"
            )
        self._counts = [
            (number, label) for label, number in enumerate(torch.bincount(self._real, minlength=num_classes).tolist())
        ]
        heapq.heapify(self._counts)
        self._filled: list[int] = []

    def of(self, positions: Tensor, *, epoch: int) -> Tensor:
        """Return the classes ``(S,)`` int64 of synthetic items at ``positions`` ``(S,)``."""
        if self._policy is None:
            return positions % self._num_classes
        if isinstance(self._policy, str) and self._policy == "balance":
            return self._balanced(positions)
        source = LabelSource(self._policy, self._num_classes, seed=self._seed, epoch=epoch)
        source.cursor = Cursor(latest=self._real)
        if callable(self._policy):
            return source.draw(self._real, positions)
        return source.draw(_NONE, positions)

    def _balanced(self, positions: Tensor) -> Tensor:
        # Which class is filled next depends on those before only, so the order grows as far as it is asked for.
        for _ in range(len(self._filled), int(positions.max()) + 1):
            number, label = self._counts[0]
            heapq.heapreplace(self._counts, (number + 1, label))
            self._filled.append(label)
        return torch.tensor([self._filled[position] for position in positions.tolist()], dtype=torch.int64)
