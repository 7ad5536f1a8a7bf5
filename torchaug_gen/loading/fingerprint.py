"""Fingerprint: the settings that decide which items come when, which a state must meet again to be gone on from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from torchaug_gen import schedules
from torchaug_gen.loading.rest import layers
from torchaug_gen.loading.settings import Settings
from torchaug_gen.mixing import ClassSchedule, Schedule

# Where a schedule is compared by what it returns: callables have no names that two processes could compare.
_PROBED_EPOCHS, _PROBED_STEPS = (0, 1, 5, 20, 100), (0, 1, 10, 100, 1000)
# And ahead of where a state was saved.
_EPOCHS_AHEAD, _STEPS_AHEAD = (1, 2, 3, 5, 10, 20), (0, 1, 2, 5, 20, 50, 200)

# What synthesizers of this package say of themselves; pools of how they turn over.
_TOLD = ("image_shape", "low", "high", "threshold", "max_candidates", "capacity", "reuse", "lanes", "layout")

# Characters from which on a digest stands for a value: a thousand classes would make megabytes.
_LONG = 300


def fingerprint(
    settings: Settings, loader: Any, *, batch_size: int, drop_last: bool, ranks: int, epoch: int, step: int
) -> dict[str, Any]:
    """Return, as JSON, the settings that decide which items come when.

    How items are transformed and delivered is left out: that may be changed on the way. So is what resume does not
    depend on, as workers and prefetch. The weights of a synthesizer are not compared.

    Args:
        settings: of the wrapper.
        loader: the inner one.
        batch_size: its.
        drop_last: likewise.
        ranks: how many share the epoch.
        epoch: of the state, around which a schedule is looked at.
        step: likewise.
    """
    dataset, synthesizer = getattr(loader, "dataset", None), settings.synthesizer
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if batch_sampler is None else batch_sampler
    return {
        "seed": settings.seed,
        "mixing": settings.mixing if settings.mixes else None,
        "synthetic_fraction": _fractions(settings.schedule, epoch, step) if settings.mixes else None,
        "labels": _named(settings.labels) if settings.mixes else None,
        "num_classes": getattr(synthesizer, "num_classes", None) if settings.mixes else None,
        "synthesizer": [_described(layer) for layer in layers(synthesizer)] if settings.mixes else None,
        "batch_size": batch_size,
        "drop_last": drop_last,
        "ranks": ranks,
        "items": _length(dataset),
        "sampler": _sampler_names(sampler),
    }


def check_fingerprint(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a state was saved under other settings; it names the first that differs."""
    for name, value in mine.items():
        then = state["settings"].get(name)
        if then != value:
            theirs, ours = _differing(then, value)
            raise ValueError(
                f"the state was saved with {name}={_short(theirs)}, but this loader has {name}={_short(ours)}: the "
                f"batches that would have followed cannot be made with another {name}"
            )


def _fractions(schedule: Schedule | ClassSchedule, epoch: int, step: int) -> Any:
    if not isinstance(schedule, ClassSchedule):
        return _values(schedule, epoch, step)
    each = sorted(schedule.values.items())
    found = _brief({str(label): _values(Schedule(value), epoch, step) for label, value in each})
    return f"per class, {found}" if isinstance(found, str) else found


def _values(schedule: Schedule, epoch: int, step: int) -> Any:
    if not schedule.varies:
        return str(schedule(0, 0))
    text = repr(schedule.value)
    # Ours print as the code that makes them, but for functions of the user's inside.
    if type(schedule.value).__module__ == schedules.__name__ and " at 0x" not in text:
        return text
    places = [(number, at) for number in _PROBED_EPOCHS for at in _PROBED_STEPS]
    places += [(epoch, step + ahead) for ahead in _STEPS_AHEAD] + [(epoch + ahead, 0) for ahead in _EPOCHS_AHEAD]
    return [_value(schedule, *place) for place in places]


def _value(schedule: Schedule, epoch: int, step: int) -> str:
    try:
        return str(schedule(epoch, step))
    except Exception as error:
        # A schedule need not reach farther than its training.
        return type(error).__name__


def _described(synthesizer: Any) -> dict[str, Any]:
    """Return class and settings of a synthesizer, without those inside it."""
    told = {name: getattr(synthesizer, name, None) for name in _TOLD}
    # Of others' attributes of these names it is not known what they are.
    known = {name: _brief(value) for name, value in told.items() if isinstance(value, int | float | str | tuple)}
    gates = getattr(synthesizer, "gates", ())
    if isinstance(gates, tuple) and gates:
        known["gates"] = [_shown(gate) for gate in gates]
    return {"class": type(synthesizer).__qualname__, **known}


def _shown(gate: Any) -> str:
    text = repr(gate)
    return type(gate).__qualname__ if " at 0x" in text else text


def _brief(value: Any) -> Any:
    """Return a value as it comes back from JSON, or a digest of it where it is long."""
    text = json.dumps(value, default=repr)
    return json.loads(text) if len(text) < _LONG else f"digest {hashlib.sha256(text.encode()).hexdigest()[:16]}"


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


def _differing(theirs: Any, mine: Any) -> tuple[Any, Any]:
    """Return, of two lists or dicts, from where on they differ: the part of them that an error has room for."""
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        first = next(number for number, pair in enumerate(zip(theirs, mine, strict=True)) if pair[0] != pair[1])
        return _differing(theirs[first], mine[first])
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
        return {key: theirs.get(key) for key in keys}, {key: mine.get(key) for key in keys}
    return theirs, mine


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
