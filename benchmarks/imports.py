"""How long does it take to import torchaug_gen beside ``import torch``? ``python -m benchmarks.imports``.

Names of the package are imported when they are asked for, so a loader alone and everything are asked for too.
Each import has a fresh interpreter, and they take turns. The figure is the CPU time until the import is done, of one
thread, starting the interpreter included: less is better. Nobody who imports torch can be faster than the baseline,
which is therefore the limit too.
"""

import argparse
import functools
import os
import subprocess
import sys

from benchmarks import common, plots
from benchmarks.rounds import FEWEST, take_turns

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
    parser.add_argument("--rounds", type=int, default=FEWEST, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two rounds, saved to results/quick")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    # The first round reads the files from the disk.
    seconds = take_turns({name: functools.partial(cpu_seconds, name) for name in STATEMENTS}, rounds=rounds)
    case = common.case(seconds, baseline=_BASELINE, better="lower")
    print(common.table(case["summary"], unit="CPU seconds"))
    results = {"a fresh interpreter": case}
    path = common.save("imports", {"rounds": rounds}, results, unit="CPU seconds", threads=1, quick=arguments.quick)
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


if __name__ == "__main__":
    main()
