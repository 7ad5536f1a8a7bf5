"""History: the losses of a training, a JSON line per step, and by choice for TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from torchaug_gen.synthesis.training import distributed

HISTORY = "history.jsonl"
TENSORBOARD = "tensorboard"


class Pending:
    """Losses of the latest steps that still lie on the device; reading them waits for it."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, tuple[str, ...]]] = []
        self._values: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep a step's losses, each without dimensions."""
        self._steps.append((step, tuple(losses)))
        self._values.extend(loss.detach().float() for loss in losses.values())

    def read(self, flag: bool) -> tuple[list[tuple[int, dict[str, float]]], bool]:
        """Return steps with their losses averaged over all processes, and whether any process raised its flag."""
        device = self._values[0].device if self._values else torch.device("cpu")
        values = torch.stack([*(value.to(device) for value in self._values), torch.tensor(float(flag), device=device)])
        *numbers, flags = distributed.mean(values).tolist()
        remaining = iter(numbers)
        rows = [(step, {name: next(remaining) for name in names}) for step, names in self._steps]
        self._steps.clear()
        self._values.clear()
        return rows, flags > 0


class History:
    """``history.jsonl`` of a run folder.

    Args:
        run: the run folder.
        lines: how many lines of an earlier part of the training to keep; what follows them is cut off.
        step: the step to go on at.
        tensorboard: write to ``run/tensorboard`` too.

    Raises:
        ModuleNotFoundError: ``tensorboard`` without the package installed.
    """

    def __init__(self, run: Path, *, lines: int = 0, step: int = 0, tensorboard: bool = False) -> None:
        path = run / HISTORY
        kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
        self.lines = len(kept)
        self._began = time.perf_counter() - (json.loads(kept[-1])["seconds"] if kept else 0.0)
        self._board = _board(run / TENSORBOARD, step) if tensorboard else None
        path.write_text("".join(kept))
        # Line by line, so that who follows the file sees each step.
        self._file: TextIO = path.open("a", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line with the step, these values and the seconds since the training began."""
        seconds = time.perf_counter() - self._began
        self._file.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        self.lines += 1
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            "tensorboard=True needs the package tensorboard: pip install tensorboard, or leave it out"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)
