"""What moved between two result files, beyond noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import schema


@dataclass(frozen=True)
class Change:
    """How a contestant of a case moved.

    Attributes:
        case: its name.
        contestant: its name.
        before: quartiles and median of what is compared, in the first file: low, median, high.
        after: those in the second.
        what: what is compared: ``ratio`` to the baseline, or the ``rate`` itself, of baselines.
        lower_is_better: whether it is a time rather than a rate.
    """

    case: str
    contestant: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    what: str
    lower_is_better: bool = False

    @property
    def moved(self) -> bool:
        """Whether the ranges between the quartiles have nothing in common."""
        return self.after[0] > self.before[2] or self.after[2] < self.before[0]

    @property
    def factor(self) -> float:
        """The second median as a multiple of the first."""
        return self.after[1] / self.before[1] if self.before[1] else float("inf")

    def __str__(self) -> str:
        word = ("faster" if (self.factor > 1) != self.lower_is_better else "slower") if self.moved else "within noise"
        low, median, high = self.before
        new_low, new_median, new_high = self.after
        return (
            f"{self.case}: {self.contestant}: {self.what} {median:.4g} ({low:.4g} to {high:.4g}) → {new_median:.4g} "
            f"({new_low:.4g} to {new_high:.4g}), {self.factor:.2f} ×, {word}"
        )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Yield how each contestant that is in both result files moved.

    Ratios to the baseline of the same run are compared, since machines differ from day to day; of the baselines
    themselves there is only the rate.

    Raises:
        ValueError: files of different questions, or of different forms.
    """
    for document in (before, after):
        schema.validate(document)
    if before["question"] != after["question"]:
        raise ValueError(f"expected two results of one question, got {before['question']} and {after['question']}")
    later = dict(schema.cases(after))
    for name, case in schema.cases(before):
        if name not in later:
            continue
        if case["baseline"] != later[name]["baseline"]:
            raise ValueError(f"{name} has the baseline {case['baseline']}, then {later[name]['baseline']}")
        if case.get("better") != later[name].get("better"):
            raise ValueError(f"{name} is a rate in one of the files, and a time in the other: measure it again")
        for contestant, row in case["summary"].items():
            if contestant in later[name]["summary"]:
                what = "rate" if contestant == case["baseline"] else "ratio"
                old, new = _range(row, what), _range(later[name]["summary"][contestant], what)
                yield Change(name, contestant, old, new, what, lower_is_better=case.get("better") == "lower")


def _range(row: Mapping[str, float], what: str) -> tuple[float, float, float]:
    if what == "rate":
        return row["quartile_low"], row["median"], row["quartile_high"]
    return row["ratio_quartile_low"], row["ratio_to_baseline"], row["ratio_quartile_high"]
