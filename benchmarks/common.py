"""What all benchmarks share: cases of medians and quartiles, and the result file."""

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, schema

RESULTS = Path(__file__).parent / "results"
# Between the quartiles, as a share of the median: beyond that a figure says nothing, and is not reported.
MAX_SPREAD = 0.4
# Of a curve, below which its law is not told.
LEAST_EXPLAINED = 0.8
_STARTED = time.perf_counter()


def summarise(figures: Mapping[str, list[float]], *, baseline: str | None) -> dict[str, dict[str, Any]]:
    """Return median and quartiles of each contestant, and of its ratio to the baseline, round by round.

    A contestant is ``too_noisy`` where its ratio spreads more than ``MAX_SPREAD``, or without a baseline, its figure.

    Args:
        figures: by contestant, one for each round.
        baseline: what the others are compared with; None where a ratio would mean nothing.

    Raises:
        ValueError: a figure of the baseline is not above 0, so that nothing is a multiple of it.
    """
    if baseline is not None and (least := min(figures[baseline])) <= 0:
        raise ValueError(f"figures of the baseline {baseline!r} must be above 0, got {least:g}: compare with another")
    summary: dict[str, dict[str, Any]] = {}
    for name, values in figures.items():
        low, median, high = quartiles(values)
        row: dict[str, Any] = {"median": median, "quartile_low": low, "quartile_high": high, "rounds": len(values)}
        if baseline is None:
            summary[name] = row | {"too_noisy": high - low > MAX_SPREAD * abs(median)}
            continue
        ratios = [mine / base for mine, base in zip(values, figures[baseline], strict=True)]
        low, ratio, high = quartiles(ratios)
        row |= {"ratio_to_baseline": ratio, "ratio_quartile_low": low, "ratio_quartile_high": high}
        if (interval := median_interval(ratios)) is not None:
            row["ratio_interval"] = interval
        summary[name] = row | {"too_noisy": high - low > MAX_SPREAD * ratio}
    return summary


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median, and the upper quartile."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def median_interval(values: Sequence[float]) -> list[float] | None:
    """Return between which of the values the median lies, with 95 % confidence and whatever their distribution.

    None where they are fewer than six: the smallest and the largest of five hold it in 94 of 100 cases only.
    """
    count, outside = len(values), 0.0
    for left_out in range(count // 2):
        outside += 2 * math.comb(count, left_out) / 2**count
        if outside > 0.05:
            if left_out == 0:
                return None
            ordered = sorted(values)
            return [ordered[left_out - 1], ordered[count - left_out]]
    return None


def case(
    figures: Mapping[str, list[float]],
    *,
    baseline: str | None,
    limit: str | Mapping[str, Any] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """Return a case of a result file.

    Args:
        figures: of :func:`benchmarks.rounds.take_turns`.
        baseline: the contestant that all are compared with, or None.
        limit: what nobody can beat, of which each row then says its share: the name of one in ``figures`` that took
            turns with the others (:mod:`benchmarks.limits` has some), or a dict of ``what`` it is and its ``value``.
        **about: ``title``, ``unit`` (where it is not the file's), ``better`` ("lower", where less is better), and
            ``notes`` and ``absent`` by contestant.
    """
    measured = {name: values for name, values in figures.items() if name != limit}
    summary = summarise(measured, baseline=baseline)
    about = {"baseline": baseline, "summary": summary, **about}
    if limit is None:
        return about
    if isinstance(limit, str):
        alone = figures[limit]
        low, median, high = quartiles(alone)
        for name, values in measured.items():
            shares = (mine / most for mine, most in zip(values, alone, strict=True))
            summary[name]["share_of_limit"] = statistics.median(shares)
        return about | {"limit": {"what": limit, "value": median, "quartile_low": low, "quartile_high": high}}
    for row in summary.values():
        share = row["median"] / limit["value"]
        row["share_of_limit"] = 1 / share if about.get("better") == "lower" else share
    return about | {"limit": dict(limit)}


def result_path(question: str, *, device: str = "cpu", quick: bool = False) -> Path:
    """Return where the results on this kind of machine are; those of a quick run are kept apart, and not committed."""
    return (RESULTS / "quick" if quick else RESULTS) / f"{question}-{machine.kind(device)}.json"


def save(
    question: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    unit: str,
    packages: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    quick: bool = False,
    path: Path | None = None,
) -> Path:
    """Write a result file, and return its path.

    Args:
        question: what it answers; it is named for that.
        settings: what was chosen.
        results: cases and figures by name, see :mod:`benchmarks.schema`.
        unit: of the figures.
        packages: whose versions count beside the usual ones.
        device: what was measured, "cpu" or "cuda"; the file is named for the processor or the GPU.
        threads: of each process that was measured; by default those of this one.
        quick: whether it only shows that everything runs: it goes to a folder of its own, and may rest on few rounds.
        path: where else to write it.

    Raises:
        ValueError: the results have not the form that :mod:`benchmarks.schema` describes.
    """
    path = path or result_path(question, device=device, quick=quick)
    path.parent.mkdir(exist_ok=True, parents=True)
    document = {
        "version": schema.VERSION,
        "question": question,
        "unit": unit,
        "quick": quick,
        "command": command(),
        "seconds": round(time.perf_counter() - _STARTED, 1),
        "settings": settings,
        "machine": machine.describe(packages, device=device, threads=threads),
        "results": results,
    }
    content = json.dumps(document, indent=2, default=str) + "\n"
    schema.validate(json.loads(content), where=f"the result of {question}")
    path.write_text(content)
    return path


def command() -> str:
    """Return how this process was started, without where anything lies: that is nobody's business."""
    program = Path(sys.argv[0])
    module = f"-m benchmarks.{program.stem}" if program.parent == Path(__file__).parent else program.name
    return " ".join(["python", module, *map(_without_place, sys.argv[1:])])


def _without_place(word: str) -> str:
    """Return an argument, ``PATH`` or ``NAME=PATH``, with the last part alone of an absolute path."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def load(path: Path) -> dict[str, Any]:
    """Return a result file.

    Raises:
        ValueError: it is malformed.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    schema.validate(document, where=str(path))
    return document


def table(summary: Mapping[str, Mapping[str, Any]], *, unit: str) -> str:
    """Return a summary as lines to print."""
    width = max(map(len, summary))
    lines = []
    for name, row in summary.items():
        share = f", {percent(row['share_of_limit'])} of the limit" if shown(row) and "share_of_limit" in row else ""
        lines.append(f"{name:{width}}  {said(row):>16} {unit}  {said_ratio(row)}{share}  ({row['rounds']} rounds)")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Return a number as people read it: three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as people read it: two digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def shown(row: Mapping[str, Any]) -> bool:
    """Return whether a row's figure may be told."""
    return not row["too_noisy"]


def said(row: Mapping[str, Any]) -> str:
    """Return a row's median; its quartiles, where they are far apart; and no figure where its ratio is too noisy."""
    if not shown(row):
        return "too noisy"
    low, median, high = row["quartile_low"], row["median"], row["quartile_high"]
    return f"{figure(low)} to {figure(high)}" if high - low > MAX_SPREAD * abs(median) else figure(median)


def said_ratio(row: Mapping[str, Any]) -> str:
    """Return a row's ratio in words, or that it spread too widely to be one."""
    if not shown(row):
        return "too noisy to compare: run it again on a quieter machine"
    return f"{row['ratio_to_baseline']:.3g} × baseline" if "ratio_to_baseline" in row else ""


def said_law(curve: Mapping[str, Any]) -> str:
    """Return the law of a curve in words: flat, or its exponent and how much of the curve it explains."""
    law, medians = curve["fit"], [point["median"] for point in curve["points"]]
    if law["flat"]:
        return f"flat within {percent(max(medians) / min(medians) - 1)}"
    if law["r_squared"] < LEAST_EXPLAINED:
        return f"{figure(medians[-1] / medians[0])} × from end to end, by no clear law (R² {law['r_squared']:.2f})"
    return f"exponent {law['exponent']:.2f} above {figure(law['constant'])} (R² {law['r_squared']:.2f})"
