"""What all benchmarks share: interleaved timing, the machine, and the result file."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import schema

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "kornia", "numpy", "torchaug_gen")
# Between the quartiles of a ratio, as a share of its median: beyond that a figure says nothing, and is not reported.
MAX_SPREAD = 0.4


def interleave(contestants: Mapping[str, Callable[[], int]], *, rounds: int) -> dict[str, list[float]]:
    """Return items per second of each contestant, once per round, after one round to warm up.

    Every round runs all contestants one after the other, so that a machine that slows down slows all of them.

    Args:
        contestants: functions by name that do the work and return the number of items.
        rounds: how often each is measured.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            items = work()
            if turn:
                rates[name].append(items / (time.perf_counter() - start))
    return rates


def summarise(rates: Mapping[str, list[float]], *, baseline: str) -> dict[str, dict[str, float]]:
    """Return median and quartiles of each contestant, and of its ratio to the baseline, round by round.

    A contestant is ``too_noisy`` where its ratio spreads more than ``MAX_SPREAD``.
    """
    summary: dict[str, dict[str, float]] = {}
    for name, values in rates.items():
        ratios = [mine / base for mine, base in zip(values, rates[baseline], strict=True)]
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4, method="inclusive")
        summary[name] = {
            "median": median,
            "quartile_low": low,
            "quartile_high": high,
            "rounds": len(values),
            "ratio_to_baseline": ratio,
            "ratio_quartile_low": ratio_low,
            "ratio_quartile_high": ratio_high,
            "too_noisy": ratio_high - ratio_low > MAX_SPREAD * ratio,
        }
    return summary


def case(
    rates: Mapping[str, list[float]], *, baseline: str, limit: str | Mapping[str, Any] | None = None, **about: Any
) -> dict[str, Any]:
    """Return a timed case of a result file.

    Args:
        rates: of :func:`interleave`.
        baseline: the contestant that all are compared with.
        limit: what nobody can beat, of which each row then says its share: the name of one in ``rates`` that took
            turns with the others (:mod:`benchmarks.limits` has some), or a dict of ``what`` it is and its ``value``.
        **about: ``title``, ``unit`` (where it is not the file's), ``better`` ("lower", where less is better), and
            ``notes`` and ``absent`` by contestant.
    """
    measured = {name: values for name, values in rates.items() if name != limit}
    summary = summarise(measured, baseline=baseline)
    if limit is None:
        return {"baseline": baseline, "summary": summary, **about}
    if isinstance(limit, str):
        alone = rates[limit]
        low, median, high = statistics.quantiles(alone, n=4, method="inclusive")
        for name, values in measured.items():
            shares = (mine / most for mine, most in zip(values, alone, strict=True))
            summary[name]["share_of_limit"] = statistics.median(shares)
        limit = {"what": limit, "value": median, "quartile_low": low, "quartile_high": high}
    else:
        for row in summary.values():
            row["share_of_limit"] = row["median"] / limit["value"]
    return {"baseline": baseline, "summary": summary, "limit": limit, **about}


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the figures depend on, with the versions of further packages."""
    versions = {}
    for package in (*PACKAGES, *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        **moment(),
    }


def moment() -> dict[str, Any]:
    """Return when a case was measured, for files that are measured in parts: the commit, and what else ran."""
    return {"commit": _commit(), "load_average": [round(value, 2) for value in os.getloadavg()]}


def kind() -> str:
    """Return the kind of this machine, which result files are named for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def result_path(question: str) -> Path:
    """Return where the results on this kind of machine are."""
    return RESULTS / f"{question}-{kind()}.json"


def save(
    question: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    unit: str,
    packages: Sequence[str] = (),
    path: Path | None = None,
) -> Path:
    """Write a result file, by default named for the question and the kind of machine, and return its path.

    Raises:
        ValueError: the results have not the form that :mod:`benchmarks.schema` describes.
    """
    path = path or result_path(question)
    path.parent.mkdir(exist_ok=True)
    about = {"unit": unit, "settings": settings, "machine": machine(packages)}
    document = {"version": schema.VERSION, "question": question, **about, "results": results}
    content = json.dumps(document, indent=2, default=str) + "\n"
    schema.validate(json.loads(content), where=f"the result of {question}")
    path.write_text(content)
    return path


def load(path: Path) -> dict[str, Any]:
    """Return a result file.

    Raises:
        ValueError: it is malformed.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    schema.validate(document, where=str(path))
    return document


def table(summary: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Return a summary as lines to print."""
    width = max(map(len, summary))
    lines = []
    for name, row in summary.items():
        low, median, high = (figure(row[key]) for key in ("quartile_low", "median", "quartile_high"))
        share = f", {percent(row['share_of_limit'])} of the limit" if "share_of_limit" in row else ""
        lines.append(f"{name:{width}}  {median:>10} {unit}  ({low} to {high})  {said_ratio(row)}{share}")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Return a number as people read it: three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as people read it: two digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def said_ratio(row: Mapping[str, float]) -> str:
    """Return a row's ratio in words, or that it spread too widely to be one."""
    if row.get("too_noisy"):
        low, high = row["ratio_quartile_low"], row["ratio_quartile_high"]
        return f"too noisy to compare ({low:.3g} to {high:.3g} × baseline): run it again on a quieter machine"
    return f"{row['ratio_to_baseline']:.3g} × baseline"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """Return the commit that is measured, marked where files differ from it."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
