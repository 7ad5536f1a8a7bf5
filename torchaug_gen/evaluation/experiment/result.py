"""ExperimentResult: the cells that were run, what they say, and how it is said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from torchaug_gen.evaluation.experiment.arms import ARMS, QUESTION
from torchaug_gen.evaluation.experiment.statistics import (
    COVERAGE,
    FEW,
    Comparison,
    compare_pairs,
    corrected,
    said_p,
    share_of_gain,
)
from torchaug_gen.evaluation.usefulness import CANNOT_TELL, HELPED, HURT, NO_DIFFERENCE

_EXTRA = "extra-real"


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """What an experiment found so far.

    Attributes:
        name: what the images are.
        about: sizes and settings, in a sentence.
        cells: a record for each cell: ``arm``, ``per_class``, ``seed``, and what
            :func:`torchaug_gen.evaluation.experiment.cell.run_cell` returned.
        metric: ``"accuracy"`` or ``"macro_f1"``, by which arms are compared.
        missing: how many cells are still to be run.
        settings: of the experiment.
        notes: what the reader should know, in sentences.
        tested: number of test images, where known: figures are no finer than one of them.
        splits: how many of them are of which held-out split, where there are several.
        family: comparisons that were planned, for Holm's correction; ``None``: as many as there are.
    """

    name: str
    about: str
    cells: tuple[Mapping[str, Any], ...]
    metric: str
    missing: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    tested: int | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    family: int | None = None

    @property
    def sizes(self) -> list[int]:
        """The sizes of training sets that any cell has, in order."""
        return sorted({cell["per_class"] for cell in self.cells})

    @property
    def arms(self) -> list[str]:
        """The arms that any cell has, in the order of the registry."""
        there = {cell["arm"] for cell in self.cells}
        return [name for name in ARMS if name in there]

    def figures(self, arm: str, per_class: int, metric: str | None = None) -> dict[int, float]:
        """Return an arm's figures by seed."""
        metric = metric or self.metric
        return {
            cell["seed"]: cell[metric]
            for cell in sorted(self.cells, key=lambda cell: int(cell["seed"]))
            if (cell["arm"], cell["per_class"]) == (arm, per_class) and cell.get(metric) is not None
        }

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every arm against its baseline, at every size: one family, corrected together, questions first."""
        names = [name for name in self.arms if ARMS[name].baseline is not None]
        names.sort(key=lambda name: ARMS[name].role != QUESTION)
        raw = [made for size in self.sizes for name in names if (made := self._compare(name, size)) is not None]
        found = corrected(raw, family=self.family)
        extra = {each.per_class: each for each in found if each.arm == _EXTRA}
        return [self._with_share(each, extra.get(each.per_class)) for each in found]

    def on_split(self, split: str) -> "ExperimentResult":
        """Return the result on one of the held-out splits alone.

        Raises:
            ValueError: no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits) or 'none'}, got {split!r}")
        cells = tuple({**cell, **cell["splits"][split]} for cell in self.cells)
        return replace(self, cells=cells, tested=self.splits[split], splits={})

    def of_role(self, role: str) -> list[Comparison]:
        """Return the comparisons of one role."""
        return [found for found in self.comparisons if ARMS[found.arm].role == role]

    @property
    def verdict(self) -> list[str]:
        """Return what was found, in sentences, the plainest first."""
        asked = self.of_role(QUESTION)
        if not asked:
            return ["Nothing can be said yet: no arm with synthetic images has been run beside its baseline."]
        lines = [_summary(asked)]
        lines += [_sentence(found) for outcome in (HURT, HELPED) for found in asked if found.outcome == outcome]
        lines += _undecided(asked)
        lines += [line for found in asked if (line := _one_sided(found))]
        lines += [line for found in asked if (line := self._share(found))]
        lines += [line for found in asked if (line := self._validated(found))]
        few = min(found.pairs for found in asked)
        if few == 1:
            lines.append("Some comparisons rest on one seed, which cannot tell a difference from noise.")
        elif few < FEW:
            lines.append(
                f"Some comparisons rest on {few} seeds, whose intervals are too narrow ({_said_coverage(few)}): a "
                "verdict also needs the corrected t-test, and a small gain or loss is likely to be missed."
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; accuracies are shares in [0, 1]."""
        return {
            "name": self.name,
            "about": self.about,
            "metric": self.metric,
            "missing_cells": self.missing,
            "notes": list(self.notes),
            "tested": self.tested,
            "family": {
                "comparisons": max(self.family or 0, sum(found.p is not None for found in self.comparisons)),
                "about": "Holm's correction over all planned comparisons of an arm with its baseline, at all sizes",
            },
            "verdict": self.verdict,
            **self._figures_as_json(),
            "splits": {
                split: {"tested": count, **self.on_split(split)._figures_as_json()}
                for split, count in self.splits.items()
            },
            "settings": dict(self.settings),
            "cells": [dict(cell) for cell in self.cells],
        }

    def _figures_as_json(self) -> dict[str, Any]:
        return {
            "rows": [self.row(arm, size) for size in self.sizes for arm in self.arms if self.figures(arm, size)],
            "comparisons": [asdict(found) | {"hidden": found.hidden} for found in self.comparisons],
        }

    def row(self, arm: str, per_class: int) -> dict[str, Any]:
        """Return means over the seeds of an arm at a size, and the spread of what is compared."""
        values = list(self.figures(arm, per_class).values())
        row: dict[str, Any] = {"arm": arm, "per_class": per_class, "seeds": len(values)}
        for metric in (
            "accuracy",
            "macro_f1",
            "calibration_error",
            "gap",
            "real_or_synthetic",
            "acceptance",
            "fraction",
        ):
            if found := list(self.figures(arm, per_class, metric).values()):
                row[metric] = mean(found)
        return row | {"spread": stdev(values) if len(values) > 1 else None}

    def _compare(self, name: str, size: int) -> Comparison | None:
        baseline = str(ARMS[name].baseline)
        mine, theirs = self.figures(name, size), self.figures(baseline, size)
        seeds = sorted(mine.keys() & theirs.keys())
        if not seeds:
            return None
        return compare_pairs(
            [theirs[seed] for seed in seeds],
            [mine[seed] for seed in seeds],
            arm=name,
            against=baseline,
            per_class=size,
            tested=self.tested,
        )

    def _with_share(self, found: Comparison, extra: Comparison | None) -> Comparison:
        """Add how much of the further real images' gain an arm reaches, where the same test says that they gain."""
        if ARMS[found.arm].role != QUESTION or extra is None or extra.outcome != HELPED:
            return found
        arms = [self.figures(name, found.per_class) for name in (found.baseline, found.arm, _EXTRA)]
        seeds = sorted(set.intersection(*(set(figures) for figures in arms)))
        if len(seeds) < min(found.pairs, extra.pairs):
            # Not the seeds on which they were found to gain.
            return found
        return replace(found, share=share_of_gain(*([figures[seed] for seed in seeds] for figures in arms)))

    def _validated(self, found: Comparison) -> str | None:
        """Say how often validation let synthetic images in."""
        chosen = self.figures(found.arm, found.per_class, "fraction").values()
        if not ARMS[found.arm].validated or not chosen:
            return None
        return (
            f"{found.per_class} per class: validation on the training images alone let synthetic images in on "
            f"{sum(fraction > 0 for fraction in chosen)} of {len(chosen)} seeds."
        )

    def _share(self, found: Comparison) -> str | None:
        if found.share is None or found.outcome != HELPED:
            return None
        share, low, high = found.share
        return (
            f"{found.per_class} per class: {ARMS[found.arm].title.removeprefix('+ ')} gained {share:.0%} of what "
            f"further real images in the same slots gained (95 % interval {low:.0%} to {high:.0%})."
        )


def _summary(asked: Sequence[Comparison]) -> str:
    counts = {outcome: sum(found.outcome == outcome for found in asked) for outcome in (HELPED, HURT, NO_DIFFERENCE)}
    told = f"Of {len(asked)} comparisons of synthetic images with augmentation alone, {counts[HELPED]} helped, "
    told += f"{counts[HURT]} hurt, and {counts[NO_DIFFERENCE]} made no difference beyond noise"
    untold = sum(found.outcome == CANNOT_TELL for found in asked)
    return told + (f"; {untold} have too few seeds to tell." if untold else ".")


def _sentence(found: Comparison) -> str:
    points, low, high = (100 * value for value in (found.difference, *(found.interval or (0, 0))))
    return (
        f"{found.per_class} per class: {ARMS[found.arm].title.removeprefix('+ ')} {found.outcome}: {points:+.1f} "
        f"points against {ARMS[found.baseline].title} (95 % interval {low:+.1f} to {high:+.1f}, {found.pairs} paired "
        f"seeds, corrected p {said_p(found.adjusted)})."
    )


def _undecided(asked: Sequence[Comparison]) -> list[str]:
    """Say how large a difference could have gone unseen where none was found."""
    found = [each.hidden for each in asked if each.outcome == NO_DIFFERENCE and each.hidden is not None]
    if not found:
        return []
    return [f"Where no difference was found, one of up to {100 * max(found):.1f} points could still hide in the noise."]


def _one_sided(found: Comparison) -> str | None:
    """Say where every seed went the same way and were too few to tell that from chance."""
    if found.outcome != NO_DIFFERENCE or found.pairs not in (found.above, found.below):
        return None
    side = "above" if found.above else "below"
    return (
        f"{found.per_class} per class: {ARMS[found.arm].title.removeprefix('+ ')} was {side} "
        f"{ARMS[found.baseline].title} on all {found.pairs} seeds, too few to tell that from chance "
        f"(corrected p {said_p(found.adjusted)})."
    )


def _said_coverage(seeds: int) -> str:
    """Say how often intervals of about so many seeds cover the mean."""
    known = max((count for count in COVERAGE if count <= seeds), default=min(COVERAGE))
    return f"those of {known} cover the mean {COVERAGE[known]} times in 100, not 95"
