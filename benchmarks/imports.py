"""How long does ``import torchaug_gen`` take beside ``import torch``? ``python -m benchmarks.imports``.

Each import has a fresh interpreter, and the three take turns. The figure is CPU time until the import is done, counted
as imports per second so that more is better as everywhere.
"""

import argparse
import os
import subprocess
import sys

from benchmarks import common

# What a child prints: the CPU seconds of its own life so far.
_CHILD = "import time, {module}; print(time.process_time())"
MODULES = ("torch", "torchaug_gen", "kornia.augmentation", "torchvision.transforms.v2")


def cpu_seconds(module: str) -> float:
    """Return the CPU seconds that an interpreter needs to start and to import a module."""
    command = [sys.executable, "-c", _CHILD.format(module=module)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured, at least 2 (default: 7)")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {f"import {module}": [] for module in MODULES}
    for turn in range(arguments.rounds + 1):
        for module in MODULES:
            seconds = cpu_seconds(module)
            if turn:
                rates[f"import {module}"].append(1 / seconds)
    case = common.case(rates, baseline="import torch")
    print(common.table(case["summary"], unit="imports/s"))
    path = common.save("imports", vars(arguments), {"a fresh interpreter": case}, unit="imports per CPU second")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
