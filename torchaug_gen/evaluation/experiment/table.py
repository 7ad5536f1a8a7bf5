"""The experiment's table, in Markdown."""

from typing import Any

from torchaug_gen.evaluation.experiment.arms import ARMS, said_outcome
from torchaug_gen.evaluation.experiment.result import ExperimentResult
from torchaug_gen.evaluation.experiment.statistics import Comparison, said_p

_METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def markdown(result: ExperimentResult) -> str:
    """Return a page with the verdict and a table for each size of the training set."""
    parts = [f"# Do synthetic images help? {result.name}", "", result.about, ""]
    parts += [f"- {line}" for line in result.verdict]
    if result.missing:
        parts.append(f"- {result.missing} cells are still to be run; the same command goes on with them.")
    parts += [f"- {note}" for note in result.notes]
    compared = {(found.arm, found.per_class): found for found in result.comparisons}
    for size in result.sizes:
        parts += ["", f"## {size} per class", "", *_head(result.metric)]
        for arm in result.arms:
            if result.figures(arm, size):
                parts.append(_line(result, arm, size, compared.get((arm, size))))
    return "\n".join([*parts, "", _LEGEND, ""])


_LEGEND = (
    "Gained: mean of the paired differences with the arm's baseline, with its 95 % bootstrap interval. p: paired "
    "t-test after Holm's correction over all comparisons that were planned. ECE: expected calibration error. Gap: "
    "accuracy on the training images less that on the test images. Told apart: how often a linear probe tells "
    "synthetic images from real ones that nothing was trained on; 50 % is a guess. Share: how much of what further "
    "real images in the same slots gain, where these gain beyond noise. Intervals and tests are over the seeds: they "
    "take the test images as given, and the training sets of different seeds overlap where images are few."
)


def _head(metric: str) -> list[str]:
    names = [
        "arm",
        "seeds",
        _METRICS[metric],
        "gained",
        "p",
        "outcome",
        "macro-F1" if metric == "accuracy" else "accuracy",
    ]
    names += ["ECE", "gap", "told apart", "share"]
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _line(result: ExperimentResult, arm: str, size: int, found: Comparison | None) -> str:
    row = result.row(arm, size)
    other = "macro_f1" if result.metric == "accuracy" else "accuracy"
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
    cells = [
        ARMS[arm].title,
        str(row["seeds"]),
        f"{100 * row[result.metric]:.1f}{spread}",
        _gained(found),
        "" if found is None or found.adjusted is None else said_p(found.adjusted).removeprefix("= "),
        "" if found is None else said_outcome(arm, found.outcome),
        _percent(row, other),
        _percent(row, "calibration_error"),
        _percent(row, "gap"),
        _percent(row, "real_or_synthetic"),
        "" if found is None or found.share is None else f"{found.share[0]:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _gained(found: Comparison | None) -> str:
    if found is None:
        return ""
    if found.interval is None:
        return f"{100 * found.difference:+.1f}"
    low, high = found.interval
    return f"{100 * found.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _percent(row: dict[str, Any], name: str) -> str:
    return f"{100 * row[name]:.1f}" if name in row else ""
