"""How many photographs per second come out of shards, and in how much memory? ``python -m benchmarks.shards FOLDER``.

FOLDER holds JPEG files, a subfolder for each class; where it is left out, the variable ``TORCHAUG_GEN_PHOTOGRAPHS``
names it (its ``train``, where there is one). Four questions:

- *reading*: decoded uint8 images, in a shuffled order, with 0 and 2 workers, beside plain webdataset, files in
  folders, litdata and mosaicml-streaming where they are installed.
- *memory*: the most that a reader's processes hold, each in a new process, shared pages counted once.
- *mixing*: :class:`AugmentedLoader` over a stream, with a fused crop, with and without three tenths of images that a
  generator draws live, through a pool.
- *resume*: seconds until the first batch in the middle of 10,000 samples, beside those at the start.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import common, plots
from benchmarks.loader import counted
from benchmarks.shard_readers import NAMES, NOTES, OURS, PLAIN, prepare, quiet, read, resident
from torchaug_gen import JpegFolder

PACKAGES = ("webdataset", "litdata", "mosaicml-streaming", "pillow")

_EVERY_S = 0.02
_SAMPLES = 10_000
_OFF, _ON = "mixing off", "pool .3, drawn live, reuse 16"


def reading(folder: Path, photographs: Path, absent: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a case for each number of workers."""
    results = {}
    for workers in arguments.workers:
        options = {"workers": workers, "batch_size": arguments.batch_size}
        contestants: dict[str, Callable[[], int]] = {}
        for name in NAMES:
            if name not in absent:
                contestants[name] = partial(_counted, name, folder, photographs, options)
        rates = common.interleave(contestants, rounds=arguments.rounds)
        results[f"reading, workers={workers}"] = common.case(
            rates, baseline=PLAIN if PLAIN in contestants else OURS, notes=NOTES, absent=absent
        )
    return results


def _counted(name: str, folder: Path, photographs: Path, options: dict[str, Any]) -> int:
    return counted(read(name, folder, photographs, **options))


def memory(folder: Path, photographs: Path, absent: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the most MiB that each reader's processes hold during a pass, and what importing alone takes."""
    found: dict[str, Any] = {"unit": "MiB"}
    for workers in arguments.workers[-1:] if arguments.quick else arguments.workers:
        names = [name for name in NAMES if name not in absent]
        found[f"workers={workers}"] = {
            name: _peak(name, folder, photographs, workers, arguments.batch_size) for name in ("nothing", *names)
        }
    return found


def _peak(name: str, folder: Path, photographs: Path, workers: int, batch_size: int) -> float:
    told = json.dumps([name, str(folder), str(photographs), workers, batch_size])
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.shards", "--hold", told], stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}")
    return round(most / 2**20, 1)


def hold(name: str, folder: str, photographs: str, workers: int, batch_size: int) -> None:
    """Read everything once, in a process of its own that is measured from outside."""
    if name != "nothing":
        counted(read(name, Path(folder), Path(photographs), workers=workers, batch_size=batch_size))


def write_many(folder: Path, photographs: Path) -> None:
    """Write 10,000 samples, so that an epoch is long against the filling of a pool, and its middle far."""
    from torchaug_gen.shards.files import ImageFiles
    from torchaug_gen.shards.write import write_shards

    files = ImageFiles(photographs)
    # Without their keys, which would come twice.
    held = [{name: value for name, value in files[n].items() if name != "__key__"} for n in range(len(files))]
    items: Iterator[dict[str, Any]] = (held[n % len(held)] for n in range(_SAMPLES))
    write_shards(items, folder / "many", samples_per_shard=1000, classes=files.classes)


def mixing(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a case for each number of workers."""
    from torchvision.transforms import v2

    from torchaug_gen import AugmentedLoader, ShardStream, SyntheticPool, fuse

    crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
    fused, drawn = fuse([*crop, v2.Normalize([0.5] * 3, [0.25] * 3)]), generator()

    def deliver(workers: int, **options: Any) -> int:
        stream = ShardStream(folder / "many", batch_size=arguments.batch_size)
        inner = DataLoader(stream, arguments.batch_size, num_workers=workers, collate_fn=JpegFolder.collate)
        return counted(AugmentedLoader(inner, fused, seed=0, **options))

    def mixed(workers: int) -> int:
        # A pool that is kept would have the samples of the round before.
        pool = SyntheticPool(drawn, capacity=640, reuse=16)
        return deliver(workers, synthesizer=pool, synthetic_fraction=0.3)

    results = {}
    for workers in arguments.workers:
        contestants: dict[str, Callable[[], int]] = {_OFF: partial(deliver, workers), _ON: partial(mixed, workers)}
        rates = common.interleave(contestants, rounds=arguments.rounds)
        results[f"mixing, workers={workers}"] = common.case(
            rates, baseline=_OFF, notes={_ON: "counts synthetic images too"}
        )
    return results


def generator() -> Any:
    """Return a class-conditional generator of 64 px images, with random weights: only its cost counts."""
    from torchaug_gen import Synthesizer

    class Generator(nn.Module):
        draws_noise = False

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 16)
            layers: list[nn.Module] = [nn.Linear(80, 64 * 64), nn.Unflatten(1, (64, 8, 8))]
            for channels in (64, 32, 16):
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, max(channels // 2, 16), 3, padding=1)]
                layers += [nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1), nn.Tanh())

        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            images: torch.Tensor = self.layers(torch.cat((z, self.embed(labels)), dim=1))
            return images

    return Synthesizer.from_module(Generator(), latent_dim=64, image_shape=(3, 64, 64), num_classes=10)


def resume(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds until the first batch of 10,000 samples, from the start and from a saved middle."""
    from torchaug_gen import AugmentedLoader, ShardStream

    def loader(workers: int) -> Any:
        stream = ShardStream(folder / "many", batch_size=arguments.batch_size)
        return AugmentedLoader(
            DataLoader(stream, arguments.batch_size, num_workers=workers, collate_fn=JpegFolder.collate),
            device="cpu",
            dtype=None,
        )

    def first(workers: int, state: Any) -> float:
        begin = time.perf_counter()
        made = loader(workers)
        if state is not None:
            made.load_state_dict(state)
        next(batches := iter(made))
        seconds = time.perf_counter() - begin
        batches.close()
        return seconds

    found: dict[str, Any] = {"unit": "seconds until the first batch", "samples": _SAMPLES}
    for workers in arguments.workers:
        made = loader(workers)
        batches = iter(made)
        consume(islice(batches, _SAMPLES // 2 // arguments.batch_size))
        state = json.loads(json.dumps(made.state_dict()))
        batches.close()
        times: dict[str, list[float]] = {"from the start": [], "from the middle": []}
        for _ in range(max(3, arguments.rounds)):
            times["from the start"].append(round(first(workers, None), 4))
            times["from the middle"].append(round(first(workers, state), 4))
        found[f"workers={workers}"] = times | {"state_bytes": len(json.dumps(state))}
    return found


def consume(batches: Iterable[Any]) -> None:
    """Go through batches."""
    for _ in batches:
        pass


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("photographs", type=Path, nargs="?", help="JPEG files, a folder for each class")
    option("--rounds", type=int, default=7, help="how often each contestant is measured (default: 7)")
    option("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader workers (default: 0 2)")
    option("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    option(
        "--quick",
        action="store_true",
        help="few rounds, a third of the photographs, memory with the last number of workers only",
    )
    option("--out", type=Path, help="JSON file to write (default: results/shards-cpu.json beside this file)")
    option("--hold", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet()
    if arguments.hold:
        hold(*json.loads(arguments.hold))
        return
    if arguments.quick:
        arguments.rounds = 3
    photographs = folder_of(arguments.photographs)
    named = f"{photographs.parent.name}/{photographs.name}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photographs = third(photographs, folder / "photographs") if arguments.quick else photographs
        absent = prepare(folder, photographs)
        write_many(folder, photographs)
        results = reading(folder, photographs, absent, arguments) | mixing(folder, arguments)
        for name, case in results.items():
            print(f"{name}\n{common.table(case['summary'], unit='images/s')}\n", flush=True)
        results["memory"] = memory(folder, photographs, absent, arguments)
        results["resume"] = resume(folder, arguments)
    for name in ("memory", "resume"):
        print(f"{name}\n{json.dumps(results[name], indent=1)}\n", flush=True)
    settings = vars(arguments) | {"photographs": named}
    settings = {name: value for name, value in settings.items() if name not in ("hold", "out")}
    path = common.save("shards", settings, results, unit="images/s", packages=PACKAGES, path=arguments.out)
    print(f"written to {path}, drawn in {plots.plot(path)}")


def third(photographs: Path, folder: Path) -> Path:
    """Return a folder with links to every third photograph of each class."""
    for tree in sorted(path for path in photographs.iterdir() if path.is_dir()):
        (folder / tree.name).mkdir(parents=True)
        for path in sorted(tree.iterdir())[::3]:
            (folder / tree.name / path.name).symlink_to(path.resolve())
    return folder


def folder_of(given: Path | None) -> Path:
    """Return the folder of photographs that was named, by argument or variable.

    Raises:
        SystemExit: none was.
    """
    named = given or Path(os.environ.get("TORCHAUG_GEN_PHOTOGRAPHS", ""))
    if not (given or os.environ.get("TORCHAUG_GEN_PHOTOGRAPHS")) or not named.is_dir():
        raise SystemExit(f"no folder of photographs: name one, or set TORCHAUG_GEN_PHOTOGRAPHS (got {str(named)!r})")
    return named / "train" if (named / "train").is_dir() else named


if __name__ == "__main__":
    main()
