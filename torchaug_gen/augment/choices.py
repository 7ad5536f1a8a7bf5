"""Choices: operations of which some act on a sample and the others don't, behind gates of one stream."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from torchaug_gen.augment.operation import Gate, Operation


def choose(
    branches: Sequence[Sequence[Operation]],
    *,
    stream: str,
    weights: Sequence[float] | None = None,
    draw: int = 0,
    without_replacement: bool = False,
) -> list[Operation]:
    """Return operations such that each sample goes through those of one branch.

    Operations of different branches never act on the same sample, so their order does not matter: the first ones of
    all branches come first and share a ``choice``, then the second ones, and so on.

    Args:
        branches: the operations of each branch, in order; an empty one leaves the sample as it is.
        stream: what the choice is drawn from; unique in a program, but for the draws of one choice without replacement.
        weights: how likely each branch is, in proportion; equally where ``None``.
        draw: which of several draws without replacement this one is.
        without_replacement: whether draws of the same stream never choose the same branch for a sample; equal
            weights only.

    Returns:
        The operations behind their gates.
    """
    shares = [1.0] * len(branches) if weights is None else [float(weight) for weight in weights]
    total = sum(shares)
    # The last share ends at 1 whatever the rounding, so that no number falls behind it.
    bounds = [0.0, *(bound / total for bound in accumulate(shares[:-1])), 1.0]
    of = len(branches) if without_replacement else 0
    name = f"{stream}.{draw}" if without_replacement else stream
    slots: list[list[Operation]] = []
    for branch, (low, high) in zip(branches, pairwise(bounds), strict=True):
        for slot, operations in enumerate(_slots(branch)):
            if slot == len(slots):
                slots.append([])
            gate = Gate(stream, low, high, draw, of)
            slots[slot] += [replace(operation.behind(gate), choice=f"{name}.{slot}") for operation in operations]
    return [operation for operations in slots for operation in operations]


def below(path: str, name: object) -> str:
    """Return the path of a part of what stands at ``path``."""
    return f"{path}.{name}" if path else str(name)


def _slots(branch: Sequence[Operation]) -> list[list[Operation]]:
    """Return the operations one by one, and those of an inner choice together."""
    slots: list[list[Operation]] = []
    for operation in branch:
        if slots and operation.choice is not None and slots[-1][-1].choice == operation.choice:
            slots[-1].append(operation)
        else:
            slots.append([operation])
    return slots
