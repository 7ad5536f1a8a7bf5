"""How does cost grow? ``python -m benchmarks.scaling``.

The fused engine over batch size, image size and length of the chain; the loader over the synthetic fraction, the reuse
of its pool, workers and ranks; a stream over the number of shards; resident memory over epochs. Each curve is CPU time
per unit of work (of the process and its workers, so that a shared machine does not bend it), the median of rounds in
which all points take turns; the exponent is that of the power law fitted to the medians: 1 is proportional, 0 is flat.
Where all points share a cost that has nothing to do with x, as delivering has none with drawing, that is measured
beside them, and the power law is that of what they cost above it.
"""

import argparse
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from benchmarks import common, plots
from torchaug_gen import AugmentedLoader, ShardStream, Synthesizer, SyntheticPool, fuse, write_shards

Work = Callable[[], int]


def curve(
    works: Mapping[int, Work] | Mapping[float, Work], *, over: str, unit: str, rounds: int, without: Work | None = None
) -> dict[str, Any]:
    """Return CPU time per unit of work at each point.

    Args:
        works: by x, what does the work and returns how many units it did.
        over: what x is.
        unit: what a unit of work is.
        rounds: how often each point is measured, after once to warm up.
        without: does all that has nothing to do with x; the power law is fitted to what the points cost above that.
    """
    turns: list[Work] = [*works.values()] if without is None else [*works.values(), without]
    taken: list[list[float]] = [[] for _ in turns]
    for turn in range(rounds + 1):
        for work, micros in zip(turns, taken, strict=True):
            start = cpu_seconds()
            units = work()
            if turn:
                micros.append((cpu_seconds() - start) / units * 1e6)
    apart = 0.0 if without is None else statistics.median(taken.pop())
    points = []
    for x, values in zip(works, taken, strict=True):
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        points.append({"x": x, "median": median, "quartile_low": low, "quartile_high": high})
    fitted = [(float(point["x"]), float(point["median"]) - apart) for point in points if point["median"] > apart]
    exponent = fit(*zip(*fitted, strict=True)) if len(fitted) > 1 else None
    found = {"over": over, "unit": f"CPU µs per {unit}", "points": points, "exponent": exponent}
    return found if without is None else found | {"without": apart}


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def fit(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent of the power law nearest to the points, by least squares of logarithms."""
    return statistics.linear_regression([math.log(value) for value in x], [math.log(value) for value in y]).slope


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


def generator() -> Synthesizer:
    """Return a small generator of 32² images, with random weights: only its cost counts."""
    net = nn.Sequential(
        nn.Linear(64, 32 * 8 * 8),
        nn.Unflatten(1, (32, 8, 8)),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(32, 3, 3, padding=1),
        nn.Tanh(),
    )
    return Synthesizer.from_module(net, latent_dim=64, image_shape=(3, 32, 32))


def loading(fraction: float, *, reuse: int = 16, items: int = 2048) -> Work:
    """Return what delivers an epoch of 32² images with a share out of a pool."""
    data = TensorDataset(pixels(items, 32))
    pool = SyntheticPool(generator(), capacity=512, reuse=reuse)
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
    import psutil

    process, work = psutil.Process(), loading(0.3)
    points = []
    for epoch in range(1, epochs + 1):
        work()
        resident = process.memory_info().rss / 2**20
        points.append({"x": epoch, "median": resident, "quartile_low": resident, "quartile_high": resident})
    # The first epoch fills the pool and the allocator.
    settled = points[1:]
    exponent = fit([point["x"] for point in settled], [point["median"] for point in settled])
    return {"over": "epoch", "unit": "resident MiB", "points": points, "exponent": exponent}


def curves(folder: Path, *, rounds: int, repeats: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Return all curves by name."""
    flat = memory(epochs)  # before there is anything else in it
    two, real = geometry(2), loading(0.0)
    batches = {n: augmenting(pixels(n, 64), two, per_batch=True, repeats=repeats) for n in (1, 4, 16, 64, 256)}
    sides = {s: augmenting(pixels(16, s), two, per_batch=False, repeats=repeats) for s in (32, 64, 128, 256, 512)}
    chains = {n: augmenting(pixels(64, 64), geometry(n), per_batch=False, repeats=repeats) for n in (1, 2, 4, 8, 16)}
    shares = {share: loading(share) for share in (0.1, 0.2, 0.3, 0.5, 0.7)}
    reuses = {reuse: loading(0.3, reuse=reuse) for reuse in (1, 2, 4, 8, 16, 32)}
    crews = {count: working(count) for count in (1, 2, 4)}
    ranks = {count: sharing(count) for count in (1, 2, 4, 8)}
    shards = {count: streaming(count, folder) for count in (1, 4, 16, 64)}
    return {
        "engine, batch size": curve(batches, over="images of 64² in a batch", unit="batch", rounds=rounds),
        "engine, image size": curve(sides, over="side of 16 images, pixels", unit="image", rounds=rounds),
        "engine, chain length": curve(chains, over="warps in the chain", unit="image of 64²", rounds=rounds),
        "loader, fraction": curve(shares, over="synthetic fraction", unit="item", rounds=rounds, without=real),
        "loader, reuse": curve(
            reuses, over="deliveries of each pooled sample", unit="item", rounds=rounds, without=real
        ),
        "loader, workers": curve(crews, over="workers", unit="item", rounds=rounds),
        "loader, ranks": curve(ranks, over="ranks, each with as many items", unit="item", rounds=rounds),
        "stream, shards": curve(shards, over="shards of as many samples in all", unit="sample", rounds=rounds),
        "loader, memory": flat,
    }


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each point is measured (default: 9)")
    parser.add_argument("--quick", action="store_true", help="three rounds; nothing is saved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"rounds": 3 if arguments.quick else arguments.rounds, "repeats": 4, "epochs": 20}
    with tempfile.TemporaryDirectory() as folder:
        found = curves(Path(folder), **settings)
    for name, line in found.items():
        ends = f"{line['points'][0]['median']:.3g} to {line['points'][-1]['median']:.3g}"
        above = f" of what is above {line['without']:.3g}" if "without" in line else ""
        said = "" if line["exponent"] is None else f", exponent{above} {line['exponent']:.2f}"
        print(f"{name}: {ends} {line['unit']}{said}")
    if not arguments.quick:
        path = common.save("scaling", settings, {"curves": found}, unit="CPU µs", packages=["psutil"])
        print(f"written to {path}, drawn to {plots.plot(path)}")


if __name__ == "__main__":
    main()
