"""How long does it take to import torchaug_gen beside ``import torch``? ``python -m benchmarks.imports``.

Names of the package are imported when they are asked for, so a loader alone and everything are asked for too.
Each import has a fresh interpreter, and they take turns. The figure is the CPU time until the import is done, of one
thread, starting the interpreter included: less is better.
"""

import argparse
import os
import subprocess
import sys

from benchmarks import common, plots

# What a child prints: the CPU seconds of its own life so far.
_CHILD = "{statement}; import time; print(time.process_time())"
_BASELINE = "import torch"
STATEMENTS = (
    _BASELINE,
    "import torchaug_gen",
    "from torchaug_gen import AugmentedLoader",
    "from torchaug_gen import *",
    "import kornia.augmentation",
    "import torchvision.transforms.v2",
)


def cpu_seconds(statement: str) -> float:
    """Return the CPU seconds that an interpreter needs to start and to run a statement."""
    command = [sys.executable, "-c", _CHILD.format(statement=statement)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured, at least 2 (default: 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds; nothing is saved")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    seconds: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for turn in range(rounds + 1):
        for statement in STATEMENTS:
            taken = cpu_seconds(statement)
            if turn:  # the first reads the files from the disk
                seconds[statement].append(taken)
    case = common.case(seconds, baseline=_BASELINE, better="lower")
    print(common.table(case["summary"], unit="CPU seconds"))
    if not arguments.quick:
        path = common.save("imports", {"rounds": rounds}, {"a fresh interpreter": case}, unit="CPU seconds")
        print(f"written to {path}, drawn to {plots.plot(path)}")


if __name__ == "__main__":
    main()
