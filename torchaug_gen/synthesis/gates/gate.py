"""Gate: what a test of synthetic images has to be."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Gate(Protocol):
    """Decides which synthetic images may be delivered; any object with this method is one.

    A decision may depend on nothing but the image, its label, and (seed, epoch, position): what is tested with it
    must not matter. Networks therefore run on chunks of one size, and random decisions come from
    :mod:`torchaug_gen.rng`. A gate that holds modules has ``to(device)`` too, and one that decides by a number may tell
    it: ``scores(images, labels)`` returns ``(N,)``, which shards of synthetic samples keep beside each image.
    """

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return ``(N,)`` bool on the images' device, True where an image may be delivered.

        Args:
            images: ``(N, C, H, W)`` float32 in [0, 1], on the synthesizer's device; N is at least 1.
            labels: ``(N,)`` int64 beside them, the classes that were asked for; ``None`` without classes.
            seed: the caller's seed.
            epoch: the caller's epoch.
            positions: ``(N,)`` int64 on the CPU, a number for each candidate of the epoch.
        """


def as_gates(gates: Any) -> tuple[Gate, ...]:
    """Return one gate or a sequence of them as a tuple.

    Raises:
        TypeError: something else.
    """
    if not isinstance(gates, Sequence):
        gates = (gates,)
    for gate in gates:
        if not isinstance(gate, Gate) or isinstance(gate, type):
            raise TypeError(f"a gate must be an object with passes(images, labels, ...), got {gate!r}")
    return tuple(gates)
