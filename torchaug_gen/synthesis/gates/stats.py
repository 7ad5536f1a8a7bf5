"""GateStats: how many candidates each gate has seen and let through, by class."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor


class GateStats:
    """Counts since the gated synthesizer was made; a class that nobody asked for has none.

    They count what was looked at, which is more than what was delivered where candidates are tested a chunk at a time.

    Args:
        names: of the gates, in their order.
        num_classes: 1 for a synthesizer without classes.

    Attributes:
        names: of the gates.
        seen: ``(G, K)`` int64, the candidates that each gate was shown.
        passed: ``(G, K)`` int64, those it let through.
    """

    def __init__(self, names: Sequence[str], num_classes: int) -> None:
        self.names = tuple(names)
        self.seen = torch.zeros(len(names), num_classes, dtype=torch.int64)
        self.passed = torch.zeros_like(self.seen)
        self._lock = Lock()

    @property
    def acceptance(self) -> Tensor:
        """The share of each class's candidates that passed all gates, ``(K,)`` float64; NaN where there were none."""
        return self.passed[-1].double() / self.seen[0]

    @property
    def by_gate(self) -> dict[str, Tensor]:
        """The share that each gate let through of what it was shown, ``(K,)`` float64 by its name."""
        return dict(zip(self.names, self.passed.double() / self.seen, strict=True))

    def count(self, gate: int, labels: Tensor, passed: Tensor) -> None:
        """Count candidates ``(N,)`` of these classes that one gate was shown, and which ones it let through."""
        classes = self.seen.shape[1]
        seen = torch.bincount(labels, minlength=classes), torch.bincount(labels[passed], minlength=classes)
        with self._lock:
            self.seen[gate] += seen[0]
            self.passed[gate] += seen[1]

    def strictest(self, label: int) -> int:
        """Return the gate that lets the smallest share of a class through."""
        shares = self.passed[:, label].double() / self.seen[:, label].clamp(min=1)
        shares[self.seen[:, label] == 0] = 1.0
        return int(shares.argmin())

    def as_json(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them."""
        return {
            name: {"seen": self.seen[gate].tolist(), "passed": self.passed[gate].tolist()}
            for gate, name in enumerate(self.names)
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = Lock()

    def __str__(self) -> str:
        seen, passed = int(self.seen[0].sum()), int(self.passed[-1].sum())
        if not seen:
            return "no candidates yet"
        shares = self.acceptance
        known = (~shares.isnan()).nonzero()[:, 0]
        worst = int(known[shares[known].argmin()])
        return (
            f"{passed} of {seen} candidates accepted ({passed / seen:.1%}); "
            f"least of class {worst}, {float(shares[worst]):.1%}"
        )
