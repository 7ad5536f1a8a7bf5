"""Progress: how far a pass has come, and the state dict that it is saved as."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

from torchaug_gen.loading.settings import Settings
from torchaug_gen.mixing import ClassSchedule, ClassTally, Cursor, Schedule, Tally
from torchaug_gen.ranks import Share

VERSION = 1

# Where a schedule is compared by what it returns: callables have no names that two processes could compare.
_PROBED_EPOCHS, _PROBED_STEPS = (0, 1, 5, 20, 100), (0, 1, 10, 100, 1000)


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


def fingerprint(settings: Settings, loader: Any, *, batch_size: int, drop_last: bool, ranks: int) -> dict[str, Any]:
    """Return, as JSON, the settings that decide which items come when.

    How items are transformed and delivered is left out: that may be changed on the way. So is what resume does not
    depend on, as workers and prefetch.
    """
    dataset, synthesizer = getattr(loader, "dataset", None), settings.synthesizer
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if batch_sampler is None else batch_sampler
    return {
        "seed": settings.seed,
        "mixing": settings.mixing if settings.mixes else None,
        "synthetic_fraction": _probed(settings) if settings.mixes else None,
        "labels": _named(settings.labels) if settings.mixes else None,
        "num_classes": getattr(synthesizer, "num_classes", None) if settings.mixes else None,
        "batch_size": batch_size,
        "drop_last": drop_last,
        "ranks": ranks,
        "items": _length(dataset),
        "sampler": _sampler_names(sampler),
    }


def check_fingerprint(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a state was saved under other settings; it names the first that differs."""
    theirs = state["settings"]
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"the state was saved with {name}={_short(theirs.get(name))}, but this loader has "
                f"{name}={_short(value)}: the batches that would have followed cannot be made with another {name}"
            )


def _probed(settings: Settings) -> Any:
    schedule = settings.schedule
    if not isinstance(schedule, ClassSchedule):
        return _values(schedule)
    values = {str(label): _values(Schedule(value)) for label, value in sorted(schedule.values.items())}
    text = json.dumps(values)
    # A thousand classes with schedules would make megabytes.
    return values if len(text) < 300 else f"per class, digest {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _values(schedule: Schedule) -> Any:
    if not schedule.varies:
        return str(schedule(0, 0))
    return [str(schedule(epoch, step)) for epoch in _PROBED_EPOCHS for step in _PROBED_STEPS]


def _named(labels: Any) -> Any:
    if isinstance(labels, torch.Tensor):
        return labels.tolist()
    return getattr(labels, "__qualname__", type(labels).__qualname__) if callable(labels) else labels


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _sampler_names(sampler: Any) -> list[str]:
    names: list[str] = []
    while sampler is not None and len(names) < 4:
        names.append(type(sampler).__qualname__)
        sampler = getattr(sampler, "sampler", None)
    return names


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
