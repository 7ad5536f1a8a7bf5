"""Plan: what a program was compiled to, to be read by people."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torchaug_gen.augment.fused import FusedStage
from torchaug_gen.augment.mix import Mix
from torchaug_gen.augment.operation import Filter, Operation
from torchaug_gen.augment.program import Program


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a program.

    Attributes:
        kind: ``"warp"``, ``"colour"``, ``"cover"``, ``"choice"``, ``"mix"``, ``"mixture"`` or ``"opaque"``.
        operations: the names of what runs in it, in order.
        reason: why it is opaque, or how it works; may be empty.
    """

    kind: str
    operations: tuple[str, ...]
    reason: str = ""

    def __str__(self) -> str:
        names = ", ".join(self.operations)
        return f"{self.kind:8}{names}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Plan:
    """The stages of a program, in order; those that are fused with the one before run in the same pass over the pixels.

    Attributes:
        stages: in order.
    """

    stages: tuple[PlannedStage, ...]

    @classmethod
    def of(cls, program: Program) -> "Plan":
        """Return the plan of a program."""
        return cls(tuple(planned for stage in program.stages for planned in _planned(stage)))

    def __str__(self) -> str:
        return "\n".join(f"{number:3} {stage}" for number, stage in enumerate(self.stages, 1)) or "  nothing to do"

    def __repr__(self) -> str:
        return str(self)


def _planned(stage: Any) -> list[PlannedStage]:
    if isinstance(stage, FusedStage):
        return [_run(kind, list(operations)) for (kind, _), operations in groupby(stage.operations, key=_kind)]
    if isinstance(stage, Mix):
        return [PlannedStage("mix", (repr(stage),))]
    return [PlannedStage("mixture" if hasattr(stage, "mixture") else "opaque", (stage.name,), stage.reason)]


def _kind(operation: Operation) -> tuple[str, str | None]:
    if operation.choice is not None:
        return "choice", operation.choice
    return ("warp" if operation.is_geometry else "cover" if operation.is_cover else "colour"), None


def _run(kind: str, operations: list[Operation]) -> PlannedStage:
    names = tuple(dict.fromkeys(operation.name for operation in operations))
    if kind == "choice":
        return PlannedStage(kind, names, "one of them for each sample, or none")
    if kind != "warp":
        return PlannedStage(kind, names)
    resampling = max(operation.filter for operation in operations)
    how = {
        Filter.EXACT: "whole pixels",
        Filter.NEAREST: "nearest",
        Filter.BILINEAR: "bilinear",
        Filter.TENT: "bilinear, antialiased",
    }[resampling]
    return PlannedStage(kind, names, f"one homography, {how}")
