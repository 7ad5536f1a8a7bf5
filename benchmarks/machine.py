"""The machine that a benchmark ran on, the versions of what it ran, and the commit."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
# Ours are compiled by Numba; Pillow decodes for torchvision's and webdataset's own readers.
PACKAGES = ("torch", "torchvision", "kornia", "numpy", "numba", "pillow", "torchaug_gen")
# What a figure depends on: saving a result, or writing about it, must not make the next one look like other code.
_CODE = ("torchaug_gen", "benchmarks", "examples", "pyproject.toml")
_NO_CODE = (":(exclude)benchmarks/results", ":(exclude,glob)**/*.md")


def describe(packages: Sequence[str] = (), *, device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Return what the figures depend on.

    Args:
        packages: whose versions count beside the usual ones.
        device: what was measured, "cpu" or "cuda".
        threads: of each process that was measured; by default those of this one.
    """
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in dict.fromkeys((*PACKAGES, *packages))},
        **moment(),
    }


def moment() -> dict[str, Any]:
    """Return when a case was measured, for files that are measured in parts: the commit, and what else ran."""
    return {"commit": commit(), "load_average": [round(value, 2) for value in os.getloadavg()]}


def device() -> str:
    """Return where a benchmark runs that can use a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def kind(device: str = "cpu") -> str:
    """Return what result files are named for: "cpu", or the GPU's name, as in "nvidia-h200"."""
    return "cpu" if device == "cpu" else slug(torch.cuda.get_device_name())


def slug(name: str) -> str:
    """Return a name as it can be part of a file's."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def processor() -> str:
    """Return the processor's model, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit(root: Path = ROOT) -> str | None:
    """Return the last commit that changed code, marked "-dirty" where code differs from it; None outside of git."""
    try:
        changed = _git(root, "log", "-1", "--format=%h", "--", *_CODE, *_NO_CODE)
        dirty = _git(root, "status", "--porcelain", "--", *_CODE, *_NO_CODE)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{changed}-dirty" if dirty else changed or None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
