"""What all benchmarks share: interleaved timing, the machine, and the result file."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "kornia", "numpy", "torchaug_gen")


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
    """Return median and quartiles of each contestant, and of its ratio to the baseline, round by round."""
    summary = {}
    for name, values in rates.items():
        ratios = [mine / base for mine, base in zip(values, rates[baseline], strict=True)]
        low, median, high = statistics.quantiles(values, n=4)
        ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4)
        summary[name] = {
            "median": median,
            "quartile_low": low,
            "quartile_high": high,
            "ratio_to_baseline": ratio,
            "ratio_quartile_low": ratio_low,
            "ratio_quartile_high": ratio_high,
        }
    return summary


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
    }


def result_path(question: str) -> Path:
    """Return where the results on this kind of machine are."""
    return RESULTS / f"{question}-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"


def save(
    question: str,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    unit: str,
    packages: Sequence[str] = (),
    path: Path | None = None,
) -> Path:
    """Write a result file, by default named for the question and the kind of machine, and return its path."""
    path = path or result_path(question)
    path.parent.mkdir(exist_ok=True)
    about = {"unit": unit, "settings": settings, "machine": machine(packages)}
    document = {"question": question, **about, "results": results}
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def table(summary: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Return a summary as lines to print."""
    width = max(map(len, summary))
    return "\n".join(
        f"{name:{width}}  {row['median']:10,.0f} {unit}  ({row['quartile_low']:,.0f} to {row['quartile_high']:,.0f})"
        f"  {row['ratio_to_baseline']:.3g} × baseline"
        for name, row in summary.items()
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
