"""PoolStats: what a pool has drawn, delivered and waited for."""

from dataclasses import dataclass

from torchaug_gen.synthesis.gates.stats import GateStats


@dataclass
class PoolStats:
    """Counts since the pool was made, or since it came into this process.

    Attributes:
        delivered: samples handed out.
        drawn: samples drawn for it, those that are still to be handed out included.
        cold: blocks that were waited for because nothing foretold them: the first of an epoch, and after a jump.
        late: blocks that were waited for although they had been asked for ahead: drawing does not keep up, so raise
            ``reuse``, or lower the synthetic fraction.
        waited: seconds spent waiting for either.
        gates: how many candidates each gate let through, by class; ``None`` without gates.
    """

    delivered: int = 0
    drawn: int = 0
    cold: int = 0
    late: int = 0
    waited: float = 0.0
    gates: GateStats | None = None

    @property
    def reuse(self) -> float:
        """How often a sample that was drawn has been handed out so far, on average."""
        return self.delivered / self.drawn if self.drawn else 0.0

    def __str__(self) -> str:
        text = (
            f"{self.delivered} delivered of {self.drawn} drawn (reuse {self.reuse:.1f}), waited {self.waited:.1f} s "
            f"for {self.cold} cold and {self.late} late blocks"
        )
        return text if self.gates is None else f"{text}; {self.gates}"
