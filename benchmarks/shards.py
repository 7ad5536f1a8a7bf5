"""How many photographs per second come out of shards, and in how much memory? ``python -m benchmarks.shards FOLDER``.

FOLDER holds JPEG files, a subfolder for each class; where it is left out, the variable ``TORCHAUG_GEN_PHOTOGRAPHS``
names it (its ``train``, where there is one). Four questions:

- *reading*: decoded uint8 images, in a shuffled order, with 0 and 2 workers, beside plain webdataset, files in
  folders, litdata and mosaicml-streaming where they are installed.
- *mixing*: :class:`AugmentedLoader` over a stream, with a fused crop, with and without three tenths of images that a
  generator draws live, through a pool.
- *memory*: the most that a reader's processes hold, each in a new process, shared pages counted once.
- *resume*: seconds until the first batch in the middle of 10,000 samples, beside those at the start.

Every contestant is a loader that is kept, and goes from epoch to epoch as in a training; the first epoch is not
counted. Images per second are those of the clock, and suffer where other programs run; milliseconds of processor time
per image, of the process and its workers together, suffer less.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import common, limits, plots
from benchmarks.loader import counted
from benchmarks.shard_memory import peak
from benchmarks.shard_readers import NAMES, NOTES, OURS, PLAIN, prepare, quiet, read
from torchaug_gen import JpegFolder, ShardStream

PACKAGES = ("webdataset", "litdata", "mosaicml-streaming", "pillow")

_SAMPLES = 10_000
_FRACTION, _REUSE = 0.3, 16
_OFF, _ON = "mixing off", f"pool {_FRACTION}, drawn live, reuse {_REUSE}"


class Metered:
    """A contestant that goes through one more epoch at each call, and notes what that costs.

    Args:
        loader: kept from call to call.

    Attributes:
        costs: milliseconds of processor time per image of each epoch, of this process and the workers that it started.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self.costs: list[float] = []

    def __call__(self) -> int:
        """Go through an epoch, and return how many images it had."""
        dataset = getattr(self._loader, "dataset", None)
        if isinstance(dataset, ShardStream):
            dataset.set_epoch(len(self.costs))
        before = _processor_seconds()
        images = counted(self._loader)
        # Workers are counted once they have ended.
        gc.collect()
        self.costs.append((_processor_seconds() - before) / images * 1e3)
        return images


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def timed(
    loaders: dict[str, Iterable[Any]], photographs: Path, *, rounds: int, baseline: str, **about: Any
) -> dict[str, Any]:
    """Return a case, with the processor time of an image beside the rates, and the decoder alone as the limit."""
    contestants = {name: Metered(loader) for name, loader in loaders.items()}
    limit, decode = limits.decoding(photographs)
    rates = common.interleave({**contestants, limit: decode}, rounds=rounds)
    costs = {name: round(statistics.median(metered.costs[1:]), 4) for name, metered in contestants.items()}
    return common.case(rates, baseline=baseline, limit=limit, processor_ms=costs, **about)


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


def write_many(folder: Path, photographs: Path) -> None:
    """Write 10,000 samples, so that the middle of an epoch is far from its start."""
    from torchaug_gen.shards.files import ImageFiles
    from torchaug_gen.shards.write import write_shards

    files = ImageFiles(photographs)
    # Without their keys, which would come twice.
    held = [{name: value for name, value in files[n].items() if name != "__key__"} for n in range(len(files))]
    items: Iterator[dict[str, Any]] = (held[n % len(held)] for n in range(_SAMPLES))
    write_shards(items, folder / "many", samples_per_shard=1000, classes=files.classes)


def mixing(folder: Path, photographs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a case for each number of workers."""
    from torchvision.transforms import v2

    from torchaug_gen import AugmentedLoader, SyntheticPool, fuse

    crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
    fused, drawn = fuse([*crop, v2.Normalize([0.5] * 3, [0.25] * 3)]), generator()

    def loader(workers: int, **options: Any) -> Any:
        stream = ShardStream(folder / "tar", batch_size=arguments.batch_size)
        inner = DataLoader(stream, arguments.batch_size, num_workers=workers, collate_fn=JpegFolder.collate)
        return AugmentedLoader(inner, fused, seed=0, **options)

    results: dict[str, Any] = {}
    for workers in arguments.workers:
        # Kept, and filled in the first epoch: from then on it draws an image for each sixteen that it gives.
        pool = SyntheticPool(drawn, capacity=640, reuse=_REUSE)
        mixed = loader(workers, synthesizer=pool, synthetic_fraction=_FRACTION)
        results[f"mixing, workers={workers}"] = timed(
            {_OFF: loader(workers), _ON: mixed},
            photographs,
            rounds=arguments.rounds,
            baseline=_OFF,
            notes={_ON: "counts synthetic images too"},
        )
    results["drawing"] = drawing_alone(drawn)
    return results


def drawing_alone(drawn: Any) -> dict[str, Any]:
    """Return what the generator itself costs: the part of mixing that no loader can save."""
    labels, positions = torch.arange(64) % 10, torch.arange(64)
    costs = []
    for _ in range(5):
        start = time.process_time()
        drawn.sample(labels=labels, positions=positions)
        costs.append((time.process_time() - start) / len(labels) * 1e3)
    cost = statistics.median(costs)
    shared = cost * _FRACTION / _REUSE
    return {
        "unit": "ms of processor time",
        "per image drawn": round(cost, 4),
        f"per image delivered, at fraction {_FRACTION} and reuse {_REUSE}": round(shared, 4),
    }


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
    from torchaug_gen import AugmentedLoader

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
        del batches
        return seconds

    found: dict[str, Any] = {"unit": "seconds until the first batch", "samples": _SAMPLES}
    for workers in arguments.workers:
        made = loader(workers)
        batches = iter(made)
        consume(islice(batches, _SAMPLES // 2 // arguments.batch_size))
        state = json.loads(json.dumps(made.state_dict()))
        del batches
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
    option("--rounds", type=int, default=5, help="how often each contestant is measured (default: 5)")
    option("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader workers (default: 0 2)")
    option("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    option(
        "--quick",
        action="store_true",
        help="two rounds, a third of the photographs, memory of two readers only; saved only with --out",
    )
    option("--out", type=Path, help="JSON file to write (default: results/shards-cpu.json beside this file)")
    arguments = parser.parse_args()
    quiet()
    if arguments.quick:
        arguments.rounds = 2
    photographs = folder_of(arguments.photographs)
    named = f"{photographs.parent.name}/{photographs.name}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photographs = third(photographs, folder / "photographs") if arguments.quick else photographs
        absent = prepare(folder, photographs)
        write_many(folder, photographs)
        results = shown(reading(folder, photographs, absent, arguments)) | shown(mixing(folder, photographs, arguments))
        results |= shown({"memory": memory(folder, photographs, absent, arguments)})
        results |= shown({"resume": resume(folder, arguments)})
    if arguments.quick and arguments.out is None:
        return
    settings = vars(arguments) | {"photographs": named}
    settings = {name: value for name, value in settings.items() if name != "out"}
    path = common.save("shards", settings, results, unit="images/s", packages=PACKAGES, path=arguments.out)
    print(f"written to {path}, drawn in {plots.plot(path)}")


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
