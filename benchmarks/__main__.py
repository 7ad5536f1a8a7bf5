"""All benchmarks by one command: ``python -m benchmarks``; see benchmarks/README.md."""

import argparse
import sys
from pathlib import Path

from benchmarks import common, plots, tables
from benchmarks.compare import changes
from benchmarks.suite import SUITES, run


def main() -> int:
    """Run the command, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="minutes in all, on two cores (default)")
    parser.add_argument("--full", action="store_true", help="what the committed results come from: hours")
    parser.add_argument("--only", nargs="+", choices=[suite.name for suite in SUITES], help="these alone")
    commands = parser.add_subparsers(dest="command", metavar="plot | compare | tables")
    commands.add_parser("plot", help="draw every result file, from nothing but the file")
    compare = commands.add_parser("compare", help="say what moved beyond noise between two result files")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    check = commands.add_parser("tables", help="write the tables of the README files from the result files")
    check.add_argument("--check", action="store_true", help="write nothing; fail where a table differs")
    arguments = parser.parse_args()
    if arguments.command == "plot":
        for path in sorted(common.RESULTS.glob("*.json")):
            print(f"{path.name}: {drawn if (drawn := plots.plot(path)) else 'nothing to draw'}")
        return 0
    if arguments.command == "compare":
        found = list(changes(common.load(arguments.before), common.load(arguments.after)))
        print("\n".join(map(str, sorted(found, key=lambda change: not change.moved))) or "nothing is in both")
        return 0
    if arguments.command == "tables":
        differ = tables.write(check=arguments.check)
        print("\n".join(f"{path}: {'differs' if arguments.check else 'written'}" for path in differ) or "up to date")
        return int(arguments.check and bool(differ))
    chosen = [suite for suite in SUITES if arguments.only is None or suite.name in arguments.only]
    return int(run(chosen, full=arguments.full) > 0)


if __name__ == "__main__":
    sys.exit(main())
