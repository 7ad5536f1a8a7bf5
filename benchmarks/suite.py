"""The benchmarks that ``python -m benchmarks`` runs, in order."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Suite:
    """A benchmark, and how it is run.

    Attributes:
        name: of the module in this folder.
        quick: arguments of a run of a minute or two.
        full: arguments of the run whose results are committed; None where it takes hours, and is run by itself.
        needs: the environment variable without which it cannot run; it names a folder of photographs.
    """

    name: str
    quick: Sequence[str] | None
    full: Sequence[Sequence[str]]
    needs: str | None = None

    def runs(self, *, full: bool) -> list[Sequence[str]]:
        """Return the arguments of each run."""
        return list(self.full) if full else [] if self.quick is None else [self.quick]


PHOTOGRAPHS = "TORCHAUG_GEN_PHOTOGRAPHS"
SUITES = (
    Suite("imports", ["--quick"], [[]]),
    Suite("augment", ["--quick"], [["--threads", "1"]], needs=PHOTOGRAPHS),
    Suite("sampling", ["--quick"], [[]]),
    Suite("loader", ["--quick"], [[]]),
    Suite("shards", ["--quick"], [[]], needs=PHOTOGRAPHS),
    Suite("memory", ["--quick"], [[]]),
    Suite("scaling", ["--quick"], [[]]),
    # Trainings: hours, and no figure of a shorter run says anything.
    Suite("synthesis", None, [["--data", "photographs"]], needs=PHOTOGRAPHS),
)


def run(suites: Sequence[Suite], *, full: bool) -> int:
    """Run benchmarks one after the other, each in a process of its own, and return how many failed.

    What cannot be run here is said, not passed over.
    """
    failed = 0
    for suite in suites:
        if suite.needs and suite.needs not in os.environ:
            print(f"== {suite.name}: not run: it needs a folder of photographs in {suite.needs}", flush=True)
            continue
        runs = suite.runs(full=full)
        if not runs:
            print(f"== {suite.name}: not run: it has no quick form, see --full", flush=True)
        for arguments in runs:
            command = [sys.executable, "-m", f"benchmarks.{suite.name}", *arguments]
            print(f"== python {' '.join(command[1:])}", flush=True)
            root = Path(__file__).resolve().parent.parent
            failed += subprocess.run(command, cwd=root, check=False).returncode != 0
    return failed
