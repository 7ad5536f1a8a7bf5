"""Distances: how far synthetic images are from real ones, in numbers and in words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchaug_gen.evaluation.coverage import Coverage
from torchaug_gen.evaluation.kernel import KernelDistance

# Precision, recall, density and coverage take N² distances: above so many images they look at a random choice. 10,000
# is what Naeem et al. used.
MOST_NEIGHBOURS = 10_000


@dataclass(frozen=True)
class Distances:
    """How far synthetic images are from real ones; numbers that too few images forbid are ``None``.

    Attributes:
        space: the feature space. Numbers from different spaces, and from FID's, cannot be compared.
        features: how many features it has.
        real: number of real images.
        synthetic: number of synthetic images.
        fd: Fréchet distance; smaller is better. Biased upwards by few images: compare at equal numbers only.
        fd_inf: Fréchet distance extrapolated to infinitely many images.
        kid: kernel distance with its 95 % interval; smaller is better, 0 for the same distribution, without bias.
        coverage: precision, recall, density and coverage; larger is better. Measured on as many
            real as synthetic images.
        per_class: the same for each class, by its name or its label.
        warnings: what these numbers cannot bear, in sentences.
    """

    space: str
    features: int
    real: int
    synthetic: int
    fd: float | None
    fd_inf: float | None
    kid: KernelDistance | None
    coverage: Coverage | None
    per_class: Mapping[str, "Distances"] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def compared(self) -> int:
        """How many images of each side precision, recall, density and coverage take."""
        return min(self.real, self.synthetic, MOST_NEIGHBOURS)

    def __str__(self) -> str:
        lines = [f"{self.real} real and {self.synthetic} synthetic images, {self.features} features of {self.space!r}"]
        lines += [f"  {name:20}{value:>12}  {note}".rstrip() for name, value, note in self._rows()]
        if self.per_class:
            lines += ["", *_table(self.space, self.per_class)]
        lines += [f"Note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them, under names such as ``"FD-effnet"``."""
        kid, near = self.kid, self.coverage
        return {
            "space": self.space,
            "features": self.features,
            "real": self.real,
            "synthetic": self.synthetic,
            f"FD-{self.space}": self.fd,
            f"FD-{self.space}-inf": self.fd_inf,
            f"KID-{self.space}": None if kid is None else kid.value,
            f"KID-{self.space}-interval": None if kid is None else list(kid.interval),
            "precision": None if near is None else near.precision,
            "recall": None if near is None else near.recall,
            "density": None if near is None else near.density,
            "coverage": None if near is None else near.coverage,
            "per_class": {name: distances.as_json() for name, distances in self.per_class.items()},
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        """Return :meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False)

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        if self.kid is not None:
            low, high = self.kid.interval
            verdict = "" if self.kid.tells_apart else "; KID alone cannot tell them apart"
            rows.append(
                (f"KID-{self.space}", f"{self.kid.value:.4g}", f"95 % interval {low:.4g} to {high:.4g}{verdict}")
            )
        if self.fd is not None:
            extrapolated = "" if self.fd_inf is None else f"extrapolated to infinitely many images: {self.fd_inf:.4g}"
            rows.append((f"FD-{self.space}", f"{self.fd:.4g}", extrapolated))
        if self.coverage is not None:
            rows += [
                ("precision", f"{self.coverage.precision:.3f}", "synthetic images that are near a real one"),
                ("recall", f"{self.coverage.recall:.3f}", "real images that are near a synthetic one"),
                ("density", f"{self.coverage.density:.3f}", "about 1 where synthetic images are as dense as real ones"),
                ("coverage", f"{self.coverage.coverage:.3f}", "real images with a synthetic one close by"),
            ]
        return rows


def _table(space: str, classes: Mapping[str, Distances]) -> list[str]:
    width = max(len("class"), *map(len, classes))
    heads = ["real", "synthetic", f"KID-{space}", "±", "precision", "recall", "density", "coverage"]
    lines = [f"  {'class':{width}}" + "".join(f"{head:>{max(len(head) + 2, 11)}}" for head in heads)]
    for name, distances in classes.items():
        kid, near = distances.kid, distances.coverage
        cells = [str(distances.real), str(distances.synthetic)]
        cells += ["-", "-"] if kid is None else [f"{kid.value:.4g}", f"{kid.interval[1] - kid.value:.2g}"]
        if near is None:
            cells += ["-"] * 4
        else:
            cells += [f"{value:.3f}" for value in (near.precision, near.recall, near.density, near.coverage)]
        lines.append(
            f"  {name:{width}}"
            + "".join(f"{cell:>{max(len(head) + 2, 11)}}" for head, cell in zip(heads, cells, strict=True))
        )
    return lines
