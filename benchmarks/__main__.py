"""All benchmarks by one command: ``python -m benchmarks``; see benchmarks/README.md."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common, plots, tables
from benchmarks.compare import changes, differences
from benchmarks.suite import SUITES, run, select


def main(words: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    arguments = _arguments(words)
    match arguments.command:
        case "plot":
            for path in sorted(common.RESULTS.glob("*.json")):
                drawn = ", ".join(picture.name for picture in plots.plot(path))
                print(f"{path.name}: {drawn or 'nothing to draw'}")
            return 0
        case "compare":
            before, after = common.load(arguments.before), common.load(arguments.after)
            found = sorted(changes(before, after), key=lambda change: not change.moved)
            print("\n".join([*differences(before, after), *map(str, found)]) or "nothing is in both")
            return 0
        case "tables":
            differ = tables.write(check=arguments.check)
            said = "differs" if arguments.check else "written"
            print("\n".join(f"{path}: {said}" for path in differ) or "up to date")
            return int(arguments.check and bool(differ))
    chosen = select(arguments.only, full=arguments.full)
    if arguments.list:
        for suite in chosen:
            needs = f"; needs {', '.join(suite.needs)}" if suite.needs else ""
            print(f"{suite.name}: {suite.minutes:g} minutes in full{needs}")
        return 0
    return int(run(chosen, full=arguments.full) > 0)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="minutes in all, on two cores; to results/quick (default)")
    how.add_argument("--full", action="store_true", help="what the committed results come from; hours only by --only")
    parser.add_argument("--only", nargs="+", choices=[suite.name for suite in SUITES], help="these alone")
    parser.add_argument("--list", action="store_true", help="run nothing; say what would be, and how long it takes")
    commands = parser.add_subparsers(dest="command", metavar="plot | compare | tables")
    commands.add_parser("plot", help="draw every result file, from nothing but the file")
    compare = commands.add_parser("compare", help="say what moved beyond noise between two result files")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    check = commands.add_parser("tables", help="write the tables of the README files from the result files")
    check.add_argument("--check", action="store_true", help="write nothing; fail where a table differs")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
