"""How does cost grow? ``python -m benchmarks.scaling``.

The fused engine over batch size, image size and length of the chain; the loader over the synthetic fraction, the reuse
of its pool, workers and ranks; a stream over the number of shards; resident memory over epochs. Each curve is CPU time
per unit of work (of the process and its workers, so that a shared machine does not bend it), the median of rounds in
which all points take turns.

To the medians a constant plus a power of x is fitted (:mod:`benchmarks.growth`): its exponent says how the part grows
that grows at all, 1 in proportion. Where all points share a cost that has nothing to do with x, as delivering has none
with drawing, that is measured beside them, and is the constant. A curve whose points lie within a tenth of each other
is called flat. Curves have no limit: they ask how a cost grows, not how low it could be.

Ranks are not processes here: one process does the share of the first of so many ranks, as a sampler deals it out.
"""

import argparse
import functools
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from benchmarks import common, plots, resident, synthesizers
from benchmarks.growth import fit
from benchmarks.rounds import Work, take_turns
from torchaug_gen import AugmentedLoader, ShardStream, SyntheticPool, fuse, write_shards

_WITHOUT = "without"


def curve(
    works: Mapping[int, Work] | Mapping[float, Work], *, over: str, unit: str, rounds: int, without: Work | None = None
) -> dict[str, Any]:
    """Return CPU time per unit of work at each point.

    Args:
        works: by x, what does the work and returns how many units it did.
        over: what x is.
        unit: what a unit of work is.
        rounds: how often each point is measured, after once to warm up.
        without: does all that has nothing to do with x, which is the constant of the law.
    """
    turns = {str(x): functools.partial(_micros, work) for x, work in works.items()}
    if without is not None:
        turns[_WITHOUT] = functools.partial(_micros, without)
    taken = take_turns(turns, rounds=rounds)
    apart = None if without is None else statistics.median(taken.pop(_WITHOUT))
    points = []
    for x in works:
        low, median, high = common.quartiles(taken[str(x)])
        points.append({"x": x, "median": median, "quartile_low": low, "quartile_high": high})
    found = {"over": over, "unit": f"CPU µs per {unit}", "points": points, "rounds": rounds}
    law = fit([point["x"] for point in points], [point["median"] for point in points], constant=apart)
    return found | {"fit": asdict(law)} | ({} if apart is None else {"without": apart})


def _micros(work: Work) -> float:
    start = cpu_seconds()
    units = work()
    return (cpu_seconds() - start) / units * 1e6


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def augmenting(images: torch.Tensor, steps: Sequence[nn.Module], *, per_batch: bool, repeats: int) -> Work:
    """Return what runs the fused engine on a batch, counted in batches or in images."""
    transform = fuse(list(steps))

    def work() -> int:
        for epoch in range(repeats):
            transform(images, seed=0, epoch=epoch)
        return repeats if per_batch else repeats * len(images)

    return work


def geometry(count: int) -> list[nn.Module]:
    """Return a chain of so many warps."""
    from torchvision.transforms import v2

    kinds = [lambda: v2.RandomRotation(15), v2.RandomHorizontalFlip, lambda: v2.RandomAffine(5, (0.1, 0.1))]
    return [kinds[number % 3]() for number in range(count)]


def pixels(batch: int, side: int) -> torch.Tensor:
    """Return random uint8 images (batch, 3, side, side)."""
    return torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def loading(fraction: float, *, reuse: int = 16, items: int = 2048) -> Work:
    """Return what delivers an epoch of 32² images with a share out of a pool."""
    data = TensorDataset(pixels(items, 32))
    pool = SyntheticPool(synthesizers.of_thumbnails(), capacity=512, reuse=reuse)
    inner = DataLoader(data, 64, shuffle=True)
    loader = AugmentedLoader(
        inner, geometry(2), synthesizer=pool, synthetic_fraction=fraction, prefetch=0, fields={"images": 0}
    )

    return _epoch(loader)


def working(workers: int, *, items: int = 8192) -> Work:
    """Return what delivers an augmented epoch of 32² images from so many workers, their start included."""
    inner = DataLoader(TensorDataset(pixels(items, 32)), 64, shuffle=True, num_workers=workers)
    return _epoch(AugmentedLoader(inner, geometry(2), prefetch=0, fields={"images": 0}))


def sharing(ranks: int, *, items: int = 8192) -> Work:
    """Return what delivers the share of the first of so many ranks, of as many items each."""
    data = TensorDataset(pixels(64, 32).repeat(items * ranks // 64, 1, 1, 1))
    sampler: DistributedSampler[Any] = DistributedSampler(data, num_replicas=ranks, rank=0)
    inner = DataLoader(data, 64, sampler=sampler)
    return _epoch(AugmentedLoader(inner, geometry(2), prefetch=0, fields={"images": 0}))


def streaming(shards: int, folder: Path, *, items: int = 2048) -> Work:
    """Return what streams as many samples from so many shards, with an index."""
    images = pixels(64, 32)
    where = folder / str(shards)
    write_shards(((images[index % 64], index % 10) for index in range(items)), where, samples_per_shard=items // shards)
    return _epoch(DataLoader(ShardStream(str(where / "*.tar"), shuffle=256), 64))


def _epoch(loader: Any) -> Work:
    return lambda: sum(len(batch[0]) for batch in loader)


def memory(epochs: int) -> dict[str, Any]:
    """Return the resident memory after each epoch, MiB: a loader that keeps nothing stays flat."""
    work = loading(0.3)
    work()  # fills the pool and the allocator
    points = []
    for epoch in range(1, epochs + 1):
        work()
        held = resident.now()
        points.append({"x": epoch, "median": held, "quartile_low": held, "quartile_high": held})
    law = fit([point["x"] for point in points], [point["median"] for point in points])
    return {"over": "epoch", "unit": "resident MiB", "points": points, "fit": asdict(law), "rounds": 1}


def curves(folder: Path, *, rounds: int, repeats: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Return all curves by name."""
    flat = memory(epochs)  # before there is anything else in it
    two, real = geometry(2), loading(0.0)
    batches = {n: augmenting(pixels(n, 64), two, per_batch=True, repeats=repeats) for n in (1, 4, 16, 64, 256)}
    sides = {s * s: augmenting(pixels(16, s), two, per_batch=False, repeats=repeats) for s in (32, 64, 128, 256, 512)}
    chains = {n: augmenting(pixels(64, 64), geometry(n), per_batch=False, repeats=repeats) for n in (1, 2, 4, 8, 16)}
    shares = {share: loading(share) for share in (0.1, 0.2, 0.3, 0.5, 0.7)}
    reuses = {reuse: loading(0.3, reuse=reuse) for reuse in (1, 2, 4, 8, 16, 32)}
    crews = {count: working(count) for count in (1, 2, 3, 4)}
    ranks = {count: sharing(count) for count in (1, 2, 4, 8)}
    shards = {count: streaming(count, folder) for count in (1, 4, 16, 64)}
    return {
        "engine, batch size": curve(batches, over="images of 64² in a batch", unit="batch", rounds=rounds),
        "engine, image size": curve(sides, over="pixels of each of 16 images", unit="image", rounds=rounds),
        "engine, chain length": curve(chains, over="warps in the chain", unit="image of 64²", rounds=rounds),
        "loader, fraction": curve(shares, over="synthetic fraction", unit="item", rounds=rounds, without=real),
        "loader, reuse": curve(
            reuses, over="deliveries of each pooled sample", unit="item", rounds=rounds, without=real
        ),
        "loader, workers": curve(crews, over="workers", unit="item", rounds=rounds),
        "loader, ranks (the first, in one process)": curve(
            ranks, over="ranks, each with as many items", unit="item", rounds=rounds
        ),
        "stream, shards": curve(shards, over="shards of as many samples in all", unit="sample", rounds=rounds),
        "loader, memory": flat,
    }


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each point is measured (default: 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds, saved to results/quick")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"rounds": arguments.rounds, "repeats": 4, "epochs": 20}
    if arguments.quick:
        settings = {"rounds": 2, "repeats": 1, "epochs": 3}
    with tempfile.TemporaryDirectory() as folder:
        found = curves(Path(folder), **settings)
    for name, line in found.items():
        ends = f"{line['points'][0]['median']:.3g} to {line['points'][-1]['median']:.3g}"
        print(f"{name}: {ends} {line['unit']}, {common.said_law(line)}")
    path = common.save("scaling", settings, {"curves": found}, unit="CPU µs", quick=arguments.quick)
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


if __name__ == "__main__":
    main()
