"""Curves: how the losses of a training went, read back from its history."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchaug_gen.synthesis.training.history import HISTORY

_POINTS = 160
_MAX_BYTES = 1 << 28
_LOSSES = 12


@dataclass(frozen=True)
class Curves:
    """The losses of a training.

    Attributes:
        steps: optimiser steps that were taken.
        seconds: how long they took, or ``None`` where the history does not say.
        losses: for each loss its points (step, mean), each a mean over neighbouring steps; what is not finite is left
            out.
        last: for each loss its mean over the last tenth of the steps; ``None`` where a value there was not finite.
        rollbacks: for each time that the training went back, the step it went back to and why.
    """

    steps: int
    seconds: float | None
    losses: dict[str, tuple[tuple[float, float], ...]]
    last: dict[str, float | None]
    rollbacks: tuple[tuple[int, str], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them, without the points."""
        return {name: value for name, value in asdict(self).items() if name != "losses"}


def read_curves(run: Path) -> Curves | None:
    """Read ``history.jsonl`` of a run folder; ``None`` where there is none.

    Raises:
        ValueError: a file that is none of this package's, or of more than 256 MiB.
    """
    path = run / HISTORY
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_BYTES >> 20} MiB, got {path.stat().st_size >> 20}")
    # A training that went back takes its steps again: the later line counts.
    values: dict[str, dict[int, float]] = {}
    rollbacks: list[tuple[int, str]] = []
    steps, seconds = 0, None
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        row = _row(line, path, number)
        if "event" in row:
            rollbacks.append((_step(row.get("to"), path, number), str(row.get("reason", row["event"]))))
            continue
        step = _step(row.get("step"), path, number)
        steps, seconds = max(steps, step + 1), _number(row.get("seconds"))
        for name, value in row.items():
            if name not in ("step", "seconds") and (found := _number(value)) is not None:
                values.setdefault(name, {})[step] = found
    kept = dict(list(values.items())[:_LOSSES])
    return Curves(
        steps,
        seconds,
        {name: _points(by_step, steps) for name, by_step in kept.items()},
        {name: _last(by_step, steps) for name, by_step in kept.items()},
        tuple(rollbacks),
    )


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}, must be JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}, must be a JSON object, got a {type(row).__name__}")
    return row


def _step(value: Any, path: Path, number: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{path}, line {number}, must name a step of at least 0, got {value!r}")
    return value


def _number(value: Any) -> float | None:
    # A huge integer in a file from elsewhere has no float.
    return float(value) if type(value) is float or (type(value) is int and abs(value) < 1 << 53) else None


def _points(by_step: dict[int, float], steps: int) -> tuple[tuple[float, float], ...]:
    width = max(steps / _POINTS, 1)
    cells: dict[int, list[tuple[int, float]]] = {}
    for step, value in by_step.items():
        if math.isfinite(value):
            cells.setdefault(int(step / width), []).append((step, value))
    return tuple(
        (sum(step for step, _ in cell) / len(cell), sum(value for _, value in cell) / len(cell))
        for _, cell in sorted(cells.items())
    )


def _last(by_step: dict[int, float], steps: int) -> float | None:
    tail = [value for step, value in by_step.items() if step >= steps - max(steps // 10, 1)]
    mean = sum(tail) / len(tail) if tail else math.nan
    return mean if math.isfinite(mean) else None
