"""The benchmarks that ``python -m benchmarks`` runs, what is read most first."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.data import CWGAN, FASHION_MNIST, PHOTOGRAPHS
from benchmarks.machine import ROOT

Arguments = Sequence[str]


@dataclass(frozen=True)
class Suite:
    """A benchmark, and how it is run.

    Attributes:
        name: of the result files, before the kind of machine.
        module: in this folder.
        minutes: that its full run takes on two cores, roughly.
        full: arguments of each run whose results are committed; ``{VARIABLE}`` is replaced from the environment.
        quick: arguments of a run that only shows that everything works; None where there is none.
        needs: environment variables without which it cannot run; each names where some data are.
    """

    name: str
    module: str
    minutes: float
    full: Sequence[Arguments] = ((),)
    quick: Arguments | None = ("--quick",)
    needs: Sequence[str] = ()

    @property
    def long(self) -> bool:
        """Whether its full run takes hours, so that it only runs when it is asked for by name."""
        return self.minutes > 30

    def runs(self, *, full: bool) -> list[list[str]]:
        """Return the arguments of each run, with the environment's variables as they are."""
        chosen = list(self.full) if full else [] if self.quick is None else [self.quick]
        return [[*arguments] for arguments in chosen]


SUITES = (
    Suite("augment", "augment", 14, needs=[PHOTOGRAPHS]),
    Suite("loader", "loader", 4, needs=[PHOTOGRAPHS]),
    Suite("shards", "shards", 5, needs=[PHOTOGRAPHS]),
    Suite("imports", "imports", 1.5),
    Suite("memory", "memory", 3),
    Suite("sampling", "sampling", 2.5),
    Suite("scaling", "scaling", 2),
    Suite("loader-train", "loader", 1.5, [["--train"]], quick=["--train", "--quick"]),
    # A gate whose classifier learned for less lets next to nothing through, and takes longer.
    Suite("gates", "gates", 4, quick=None, needs=[CWGAN]),
    Suite(
        "augment-two-threads",
        "augment",
        4,
        [["--name", "augment-two-threads", "--recipes", "R1", "--threads", "2"]],
        quick=None,
        needs=[PHOTOGRAPHS],
    ),
    # Trainings: no figure of a shorter run says anything.
    Suite("synthesis-photographs", "synthesis", 60, [["--data", "photographs"]], quick=None, needs=[PHOTOGRAPHS]),
    Suite(
        "synthesis-fashion-mnist",
        "synthesis",
        60,
        [["--data", "fashion-mnist"]],
        quick=None,
        needs=[FASHION_MNIST],
    ),
    Suite(
        "usefulness",
        "usefulness",
        480,
        [
            ["--data", f"clothing={{{PHOTOGRAPHS}}}", f"fashion={{{FASHION_MNIST}}}", "--hours", "8", *more]
            for more in ((), ("--report",))
        ],
        quick=None,
        needs=[PHOTOGRAPHS, FASHION_MNIST],
    ),
)


def select(names: Sequence[str] | None, *, full: bool) -> list[Suite]:
    """Return the suites of these names, or all; of full runs, all but those that take hours."""
    if names is not None:
        return [suite for suite in SUITES if suite.name in names]
    return [suite for suite in SUITES if not (full and suite.long)]


def run(suites: Sequence[Suite], *, full: bool, environment: Mapping[str, str] | None = None) -> int:
    """Run benchmarks one after the other, each in a process of its own, and return how many failed.

    What cannot be run here is said, not passed over; what fails does not keep the others from running.

    Args:
        suites: which.
        full: run what the committed results come from, rather than what only shows that everything works.
        environment: by default that of this process.
    """
    environment = os.environ if environment is None else environment
    failed = 0
    for suite in suites:
        if missing := [name for name in suite.needs if name not in environment]:
            print(f"== {suite.name}: not run: set {' and '.join(missing)}", flush=True)
            continue
        runs = suite.runs(full=full)
        if not runs:
            print(f"== {suite.name}: not run: it has no quick form, see --full", flush=True)
        for arguments in runs:
            failed += _run(suite, [argument.format_map(environment) for argument in arguments], environment) != 0
    return failed


def _run(suite: Suite, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    command = [sys.executable, "-m", f"benchmarks.{suite.module}", *arguments]
    print(f"== {suite.name}: python {' '.join(command[1:])}", flush=True)
    start = time.perf_counter()
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    print(f"== {suite.name}: status {status} after {time.perf_counter() - start:.0f} s", flush=True)
    return status
