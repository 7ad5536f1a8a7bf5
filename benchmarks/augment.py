"""How many images per second does the fused engine augment, and the others? ``python -m benchmarks.augment``.

Six recipes on photographs, each in every library as equally as it allows (a contestant's note says what differs). What
is measured is a batch of uint8 images in memory becoming a batch of float32 images in memory: drawing parameters,
erasing and allocating the output included. Each contestant has a process of its own, kept on as many cores as it has
threads; they take turns, round by round, and are compared within a round. So does a process that only copies as many
bytes as a batch has before and after, on the same cores: what nobody can beat, and each is told its share of it.

On a CUDA device images go from uint8 to bfloat16 on the device, timed by events, and the time of a call on the host is
measured too. That part can only be run where there is such a device.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its own folder would hide packages of the same name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


from benchmarks import common, machine, plots
from benchmarks.contestants import base
from benchmarks.contestants.base import LIMIT, NAMES, RECIPES, Unsupported
from benchmarks.contestants.process import Remote
from benchmarks.rounds import FEWEST, Figure, take_turns

PACKAGES = ("albumentations", "opencv-python-headless", "fuse-augmentations", "nvidia-dali-cuda130", "triton-augment")


def measure(arguments: argparse.Namespace, folder: Path, *, threads: int) -> dict[str, Any]:
    """Return the rates of all contestants with so many threads, a case for each recipe, and why others have none."""
    device = machine.device()
    remotes = [
        Remote(name, folder, threads=threads, pin=arguments.pin and device == "cpu", device=device)
        for name in (*arguments.contestants, LIMIT)
    ]
    try:
        named = {recipe: f"{recipe}, {threads} thread{'s' if threads > 1 else ''}" for recipe in arguments.recipes}
        return {name: _measure_recipe(arguments, recipe, remotes, threads=threads) for recipe, name in named.items()}
    finally:
        for remote in remotes:
            remote.close()


def _measure_recipe(
    arguments: argparse.Namespace, recipe: str, remotes: Sequence[Remote], *, threads: int
) -> dict[str, Any]:
    batch_size = arguments.batch_size or (256 if machine.device() == "cuda" else RECIPES[recipe].batch_size)
    print(f"\n{recipe}, {threads} threads, batches of {batch_size}: {RECIPES[recipe].title}", flush=True)
    works: dict[str, Figure] = {}
    notes, absent, by_name = {}, {}, {}
    for remote in remotes:
        start = time.perf_counter()
        try:
            notes[remote.name], least = remote.prepare(
                recipe, batch_size=batch_size, batches=arguments.batches, limit=arguments.limit
            )
            if arguments.sheets and remote.name != LIMIT:
                _sheet(arguments.sheets, recipe, remote)
            count = max(least, round(arguments.seconds / remote.run(1)))
            count = max(least, round(count * arguments.seconds / remote.run(count)))
        except Unsupported as error:
            absent[remote.name] = str(error)
            print(f"  {remote.name}: {error}", flush=True)
            continue
        print(f"  {remote.name}: ready after {time.perf_counter() - start:.1f} s, {count} batches a round", flush=True)
        by_name[remote.name] = remote
        works[remote.name] = partial(_rate, remote, count, batch_size=batch_size)
    rates = take_turns(works, rounds=arguments.rounds, absent=absent)
    limit = notes.pop(LIMIT) if LIMIT in rates else None
    if limit is not None:
        rates[limit] = rates.pop(LIMIT)
    baseline = next(name for name in rates if name != limit)
    said = {name: note for name, note in notes.items() if note and name in rates}
    result = common.case(rates, baseline=baseline, limit=limit, title=RECIPES[recipe].title, notes=said, absent=absent)
    result |= {"batch_size": batch_size, "rates": rates, "measured": machine.moment()}
    print(common.table(result["summary"], unit="images/s"), flush=True)
    if machine.device() == "cuda":
        result["host_seconds_per_call"] = {name: by_name[name].host_seconds() for name in result["summary"]}
    return result


def _rate(remote: Remote, count: int, *, batch_size: int) -> float:
    return count * batch_size / remote.run(count)


def kept(path: Path, measured: Iterable[str]) -> dict[str, Any]:
    """Return the cases of a result file that were not measured anew.

    Raises:
        ValueError: they come from another machine, other versions, or other code.
    """
    if not path.exists():
        return {}
    document, here = common.load(path), json.loads(json.dumps(machine.describe(PACKAGES, device=machine.device())))
    for what in ("processor", "cores", "gpu", "versions", "commit"):
        theirs = document["machine"].get(what)
        if theirs != here[what]:
            raise ValueError(f"cannot keep the cases of {path}: their {what} is {theirs}, now {here[what]}")
    return {name: case for name, case in document["results"].items() if name not in measured}


def _sheet(folder: Path, recipe: str, remote: Remote) -> None:
    """Draw the first images that a contestant makes, with their boxes, to be looked at."""
    import numpy as np
    from PIL import Image, ImageDraw

    images, boxes = remote.images()
    if RECIPES[recipe].normalized:
        images = images * np.reshape(base.STD, (3, 1, 1)) + np.reshape(base.MEAN, (3, 1, 1))
    tiles = (images[:24].clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    side = tiles.shape[1]
    sheet = Image.new("RGB", (8 * side, 3 * side))
    for place, tile in enumerate(tiles):
        picture = Image.fromarray(tile)
        for box in () if boxes is None else boxes[place]:
            ImageDraw.Draw(picture).rectangle([float(value) for value in box], outline=(255, 0, 0), width=2)
        sheet.paste(picture, (place % 8 * side, place // 8 * side))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / f"{recipe} {remote.name}.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photographs = os.environ.get("TORCHAUG_GEN_PHOTOGRAPHS")
    parser.add_argument(
        "--photographs",
        type=Path,
        default=photographs and Path(photographs),
        help="a folder with .jpg photographs (default: TORCHAUG_GEN_PHOTOGRAPHS)",
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--contestants", nargs="+", choices=NAMES, help="default: all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument("--rounds", type=int, default=FEWEST, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a contestant's round (default: 1)")
    parser.add_argument("--batch-size", type=int, help="(default: the recipe's; 256 on CUDA)")
    parser.add_argument("--batches", type=int, default=4, help="how many different ones take turns (default: 4)")
    parser.add_argument("--limit", type=float, default=180, help="seconds to set up or compile (default: 180)")
    parser.add_argument("--quick", action="store_true", help="R1, two short rounds, saved to results/quick")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the system choose the cores")
    parser.add_argument("--sheets", type=Path, help="a folder for pictures of what each contestant makes")
    parser.add_argument("--keep", action="store_true", help="the file's other cases, of the same machine and versions")
    parser.add_argument("--name", default="augment", help="of the result file (default: augment)")
    parser.add_argument("--output", type=Path, help="the file itself (default: in results, by name and machine)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.recipes, arguments.threads, arguments.rounds, arguments.seconds = ["R1"], [1], 2, 0.3
    if arguments.contestants is None:
        arguments.contestants = NAMES
    if arguments.rounds < FEWEST and not arguments.quick:
        parser.error(f"expected at least {FEWEST} rounds, got {arguments.rounds}")
    if arguments.output is None:
        device = machine.device()
        arguments.output = common.result_path(arguments.name, device=device, quick=arguments.quick)
    if arguments.photographs is None:
        parser.error("expected a folder with photographs: pass --photographs, or set TORCHAUG_GEN_PHOTOGRAPHS")
    return arguments


def main() -> None:
    """Measure, print and save."""
    arguments = _arguments()
    sides = {RECIPES[recipe].side for recipe in arguments.recipes}
    chosen = ("threads", "rounds", "seconds", "batches", "limit", "pin")
    settings = {name: getattr(arguments, name) for name in chosen}
    settings["load_averages"] = [os.getloadavg()]  # a busy machine shows
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings["photographs"] = base.prepare(arguments.photographs, Path(folder), sides=sides, limit=512)
        for count in arguments.threads:  # saved each time: a run that is cut short leaves what it has
            results |= measure(arguments, Path(folder), threads=count)
            settings["load_averages"].append(os.getloadavg())
            path = arguments.output
            both = (kept(path, results) if arguments.keep else {}) | results
            common.save(
                arguments.name,
                settings,
                {name: both[name] for name in sorted(both)},
                unit="images/s",
                packages=PACKAGES,
                device=machine.device(),
                threads=max(arguments.threads),
                quick=arguments.quick,
                path=path,
            )
            print(f"written to {path}, drawn to {plots.plot(path)[0]}", flush=True)


if __name__ == "__main__":
    main()
