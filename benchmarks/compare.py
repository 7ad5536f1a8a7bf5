"""What moved between two result files, beyond noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import schema
from benchmarks.common import figure
from benchmarks.rounds import FEWEST

Range = tuple[float, float, float]
# Without which figures are not of the same thing.
_ABOUT = ("processor", "cores", "threads", "gpu", "python", "versions")


@dataclass(frozen=True)
class Change:
    """How a contestant of a case, or a point of a curve, moved.

    Attributes:
        case: its name.
        contestant: its name.
        before: quartiles and median of what is compared, in the first file: low, median, high.
        after: those in the second.
        what: what is compared: ``ratio`` to the baseline, or the figure itself, where there is no other.
        lower_is_better: whether it is a time rather than a rate.
        doubt: why nothing can be said, where that is so.
    """

    case: str
    contestant: str
    before: Range
    after: Range
    what: str
    lower_is_better: bool = False
    doubt: str = ""

    @property
    def moved(self) -> bool:
        """Whether the ranges between the quartiles have nothing in common, and are to be trusted."""
        return not self.doubt and (self.after[0] > self.before[2] or self.after[2] < self.before[0])

    @property
    def factor(self) -> float:
        """The second median as a multiple of the first."""
        return self.after[1] / self.before[1] if self.before[1] else float("inf")

    def __str__(self) -> str:
        where = f"{self.case}: {self.contestant}: {self.what}"
        if self.doubt:
            return f"{where}: {self.doubt}"
        word = ("better" if (self.factor > 1) != self.lower_is_better else "worse") if self.moved else "within noise"
        return f"{where} {_said(self.before)} → {_said(self.after)}, {self.factor:.2f} ×, {word}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Yield how each contestant and each point that is in both result files moved.

    Ratios to the baseline of the same run are compared, since machines differ from day to day; of the baselines
    themselves there is only the figure.

    Raises:
        ValueError: files of different questions, or of different forms.
    """
    for document in (before, after):
        schema.validate(document)
    if before["question"] != after["question"]:
        raise ValueError(f"expected two results of one question, got {before['question']} and {after['question']}")
    later = dict(schema.cases(after))
    for name, case in schema.cases(before):
        if name in later:
            yield from _of_case(name, case, later[name])
    curves = [document["results"].get("curves", {}) for document in (before, after)]
    for name, curve in curves[0].items():
        if name in curves[1]:
            yield from _of_curve(name, curve, curves[1][name])


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two runs besides their figures: machine, versions, settings, contestants."""
    pairs = [(what, before["machine"].get(what), after["machine"].get(what)) for what in _ABOUT]
    pairs += [("settings", before["settings"], after["settings"]), *_contestants(before, after)]
    return [f"not alike: {line}" for what, old, new in pairs for line in _differing(what, old, new)]


def _differing(what: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differing(f"{what}: {key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{what} {old}, then {new}"


def _contestants(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    later = dict(schema.cases(after))
    for name, case in schema.cases(before):
        there = sorted(later[name]["summary"]) if name in later else None
        yield f"contestants of {name}:", sorted(case["summary"]), there


def _of_case(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    if old["baseline"] != new["baseline"]:
        raise ValueError(f"{name} has the baseline {old['baseline']}, then {new['baseline']}")
    if old.get("better") != new.get("better"):
        raise ValueError(f"{name} is a rate in one of the files, and a time in the other: measure it again")
    lower = old.get("better") == "lower"
    for contestant, row in old["summary"].items():
        if (other := new["summary"].get(contestant)) is None:
            continue
        what = "figure" if old["baseline"] in (None, contestant) else "ratio"
        yield Change(name, contestant, _range(row, what), _range(other, what), what, lower, _doubt(row, other))


def _of_curve(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    later = {point["x"]: point for point in new["points"]}
    few = min(curve.get("rounds", FEWEST) for curve in (old, new)) < FEWEST
    doubt = "too few rounds to tell" if few else ""
    for point in old["points"]:
        if (other := later.get(point["x"])) is not None:
            where = f"{old['over']} {point['x']:g}"
            yield Change(name, where, _range(point, "figure"), _range(other, "figure"), old["unit"], True, doubt)


def _doubt(*rows: Mapping[str, Any]) -> str:
    if any(row["too_noisy"] for row in rows):
        return "too noisy to tell"
    return "too few rounds to tell" if min(row["rounds"] for row in rows) < FEWEST else ""


def _range(row: Mapping[str, float], what: str) -> Range:
    if what == "figure":
        return row["quartile_low"], row["median"], row["quartile_high"]
    return row["ratio_quartile_low"], row["ratio_to_baseline"], row["ratio_quartile_high"]


def _said(values: Range) -> str:
    low, median, high = map(figure, values)
    return f"{median} ({low} to {high})"
