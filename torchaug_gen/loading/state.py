"""Progress: how far a pass has come, and the state dict that it is saved as."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

from torchaug_gen.mixing import ClassTally, Cursor, Tally
from torchaug_gen.ranks import Share

VERSION = 1


@dataclass(frozen=True)
class Progress:
    """All that the batches to follow depend on.

    Attributes:
        epoch: the epoch.
        step: how many batches it has delivered.
        real: how many real items the inner loader has handed out for them on this rank.
        tally: the synthetic items due and delivered.
        cursor: where the choice of classes is.
        classes: the synthetic items due and delivered of each class, where each has a fraction of its own.
        position: of the inner loader; ``None`` for its start.
        rows: how many rows of the inner batch at that position have been delivered.
    """

    epoch: int
    step: int = 0
    real: int = 0
    tally: Tally = field(default_factory=Tally)
    cursor: Cursor = field(default_factory=Cursor)
    classes: ClassTally = field(default_factory=ClassTally)
    position: Any = None
    rows: int = 0


def to_state(progress: Progress, fingerprint: Mapping[str, Any], rank: Share, *, chunk: int | None) -> dict[str, Any]:
    """Return progress as JSON, with what it must meet again to be gone on from.

    Args:
        progress: behind the batch that was handed over last.
        fingerprint: of the settings.
        rank: whose progress it is.
        chunk: rows that the synthesizer draws at a time, where it says so.
    """
    return {
        "version": VERSION,
        "epoch": progress.epoch,
        "step": progress.step,
        "real": progress.real,
        "target": str(progress.tally.target),
        "synthetic": progress.tally.synthetic,
        "seen": list(progress.cursor.seen),
        "latest": progress.cursor.latest.tolist(),
        "classes": progress.classes.to_json(),
        "position": progress.position,
        "rows": progress.rows,
        "rank": rank.index,
        "chunk": chunk,
        "settings": dict(fingerprint),
    }


def from_state(state: Any) -> Progress:
    """Return the progress that a state dict tells of.

    Raises:
        TypeError: no dict.
        ValueError: no state of an :class:`AugmentedLoader`, or of a version that this one cannot read.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be what state_dict() returned, got {type(state).__name__}")
    if "version" not in state or "settings" not in state:
        raise ValueError(
            "state must be what an AugmentedLoader's state_dict() returned, got a dict with "
            f"{', '.join(map(str, state)) or 'nothing in it'}"
        )
    if state["version"] != VERSION:
        raise ValueError(f"the state has version {state['version']!r}, but this package reads version {VERSION}")
    try:
        return Progress(
            epoch=int(state["epoch"]),
            step=int(state["step"]),
            real=int(state["real"]),
            tally=Tally(Fraction(state["target"]), int(state["synthetic"])),
            cursor=Cursor(tuple(state["seen"]), torch.tensor(state["latest"], dtype=torch.int64)),
            classes=ClassTally.from_json(state["classes"]),
            position=state["position"],
            rows=int(state["rows"]),
        )
    except KeyError as error:
        raise ValueError(f"the state is damaged: {error.args[0]!r} is missing") from None
