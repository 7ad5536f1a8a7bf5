"""What a loader has delivered."""

from dataclasses import dataclass


@dataclass
class Stats:
    """Counts since the loader was made, over all its passes."""

    batches: int = 0
    real: int = 0
    synthetic: int = 0

    def count(self, *, real: int, synthetic: int) -> None:
        """Count one delivered batch."""
        self.batches += 1
        self.real += real
        self.synthetic += synthetic
