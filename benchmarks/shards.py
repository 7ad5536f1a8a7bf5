"""How many photographs per second come out of shards, and in how much memory? ``python -m benchmarks.shards FOLDER``.

FOLDER holds JPEG files, a subfolder for each class; where it is left out, the variable ``TORCHAUG_GEN_PHOTOGRAPHS``
names it (its ``train``, where there is one). Four questions:

- *reading*: decoded uint8 images, in a shuffled order, with 0 and 2 workers, beside plain webdataset, files in
  folders, litdata and mosaicml-streaming where they are installed.
- *mixing*: :class:`AugmentedLoader` over a stream, with a fused crop, with and without three tenths of images that a
  synthesizer draws live, through a pool.
- *memory*: the most that a reader's processes hold, each in a new process, shared pages counted once.
- *resume*: seconds until the first batch in the middle of 10,000 samples, beside those at the start.

Every contestant is a loader that is kept, and goes from epoch to epoch as in a training; the first epoch is not
counted. Images per second are those of the clock, and suffer where other programs run; milliseconds of processor time
per image, of the process and its workers together, suffer less.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common, data, plots
from benchmarks.shard_costs import timed
from benchmarks.shard_memory import peak
from benchmarks.shard_mixing import mixing
from benchmarks.shard_readers import NAMES, NOTES, OURS, PLAIN, prepare, quiet, read
from benchmarks.shard_resume import resume, write_many

PACKAGES = ("webdataset", "litdata", "mosaicml-streaming")


def reading(folder: Path, photographs: Path, absent: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a case for each number of workers."""
    results = {}
    for workers in arguments.workers:
        loaders = {
            name: read(name, folder, photographs, workers=workers, batch_size=arguments.batch_size)
            for name in NAMES
            if name not in absent
        }
        results[f"reading, workers={workers}"] = timed(
            loaders,
            photographs,
            rounds=arguments.rounds,
            baseline=PLAIN if PLAIN in loaders else OURS,
            notes=NOTES,
            absent=absent,
        )
    return results


def memory(folder: Path, photographs: Path, absent: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the most MiB that each reader's processes hold during a pass, and what importing alone takes."""
    workers = arguments.workers[-1]
    names = [name for name in ((OURS, PLAIN) if arguments.quick else NAMES) if name not in absent]
    found = {name: peak(name, folder, photographs, workers, arguments.batch_size) for name in ("nothing", *names)}
    return {"unit": "MiB", f"workers={workers}": found}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("photographs", type=Path, nargs="?", help="JPEG files, a folder for each class")
    option("--rounds", type=int, default=5, help="how often each contestant is measured (default: 5)")
    option("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader workers (default: 0 2)")
    option("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    option(
        "--quick",
        action="store_true",
        help="two rounds, a sixth of the photographs, memory of two readers only; saved to results/quick",
    )
    option(
        "--out",
        type=Path,
        help="JSON file to write (default: shards-cpu.json in results or results/quick)",
    )
    arguments = parser.parse_args()
    quiet()
    if arguments.quick:
        arguments.rounds = 2
    photographs = data.photographs(arguments.photographs)
    named = f"{photographs.parent.name}/{photographs.name}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photographs = data.part(photographs, folder / "photographs", every=6) if arguments.quick else photographs
        absent = prepare(folder, photographs)
        write_many(folder, photographs)
        results = shown(reading(folder, photographs, absent, arguments)) | shown(mixing(folder, photographs, arguments))
        results |= shown({"memory": memory(folder, photographs, absent, arguments)})
        results |= shown({"resume": resume(folder, arguments)})
    settings = vars(arguments) | {"photographs": named}
    settings = {name: value for name, value in settings.items() if name != "out"}
    path = common.save(
        "shards",
        settings,
        results,
        unit="images/s",
        packages=PACKAGES,
        threads=1,
        quick=arguments.quick,
        path=arguments.out,
    )
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


def shown(results: dict[str, Any]) -> dict[str, Any]:
    """Print results, and return them."""
    for name, result in results.items():
        if "summary" in result:
            said = common.table(result["summary"], unit="images/s")
            said += f"\nms of processor time per image: {json.dumps(result['processor_ms'])}"
        else:
            said = json.dumps(result, indent=1)
        print(f"{name}\n{said}\n", flush=True)
    return results


if __name__ == "__main__":
    main()
