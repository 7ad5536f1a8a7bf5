"""How does cost grow? ``python -m benchmarks.scaling``.

The fused engine over batch size, image size and length of the chain; the loader over the synthetic fraction and the
reuse of its pool; resident memory over epochs. Each curve is CPU time per unit of work (of the whole process, so that a
shared machine does not bend it), the median of rounds in which all points take turns; the exponent is that of the
power law fitted to the medians: 1 is proportional, 0 is flat.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, plots
from torchaug_gen import AugmentedLoader, Synthesizer, SyntheticPool, fuse

Work = Callable[[], int]


def curve(
    works: Mapping[int, Work] | Mapping[float, Work], *, over: str, unit: str, rounds: int, fitted: bool = True
) -> dict[str, Any]:
    """Return CPU time per unit of work at each point.

    Args:
        works: by x, what does the work and returns how many units it did.
        over: what x is.
        unit: what a unit of work is.
        rounds: how often each point is measured, after once to warm up.
        fitted: whether a power law is fitted.
    """
    seconds: dict[float, list[float]] = {x: [] for x in works}
    for turn in range(rounds + 1):
        for x, work in works.items():
            start = time.process_time()
            units = work()
            if turn:
                seconds[x].append((time.process_time() - start) / units)
    points = []
    for x, values in seconds.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        points.append({"x": x, "median": median * 1e6, "quartile_low": low * 1e6, "quartile_high": high * 1e6})
    exponent = fit([point["x"] for point in points], [point["median"] for point in points]) if fitted else None
    return {"over": over, "unit": f"CPU µs per {unit}", "points": points, "exponent": exponent}


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

    def work() -> int:
        return sum(len(images) for (images,) in loader)

    return work


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


def curves(*, rounds: int, repeats: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Return all curves by name."""
    two = geometry(2)
    batches = {n: augmenting(pixels(n, 64), two, per_batch=True, repeats=repeats) for n in (1, 4, 16, 64, 256)}
    sides = {s: augmenting(pixels(16, s), two, per_batch=False, repeats=repeats) for s in (32, 64, 128, 256, 512)}
    chains = {n: augmenting(pixels(64, 64), geometry(n), per_batch=False, repeats=repeats) for n in (1, 2, 4, 8, 16)}
    shares = {share: loading(share) for share in (0.0, 0.1, 0.3, 0.5, 0.7)}
    reuses = {reuse: loading(0.3, reuse=reuse) for reuse in (1, 2, 4, 8, 16, 32)}
    return {
        "engine, batch size": curve(batches, over="images of 64² in a batch", unit="batch", rounds=rounds),
        "engine, image size": curve(sides, over="side of 16 images, pixels", unit="image", rounds=rounds),
        "engine, chain length": curve(chains, over="warps in the chain", unit="image of 64²", rounds=rounds),
        "loader, fraction": curve(shares, over="synthetic fraction", unit="item", rounds=rounds, fitted=False),
        "loader, reuse": curve(reuses, over="deliveries of each pooled sample", unit="item", rounds=rounds),
        "loader, memory": memory(epochs),
    }


def main() -> None:
    """Measure, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each point is measured (default: 9)")
    parser.add_argument("--quick", action="store_true", help="three rounds; nothing is saved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"rounds": 3 if arguments.quick else arguments.rounds, "repeats": 4, "epochs": 20}
    found = curves(**settings)
    for name, line in found.items():
        ends = f"{line['points'][0]['median']:.3g} to {line['points'][-1]['median']:.3g}"
        said = "" if line["exponent"] is None else f", exponent {line['exponent']:.2f}"
        print(f"{name}: {ends} {line['unit']}{said}")
    if not arguments.quick:
        path = common.save("scaling", settings, {"curves": found}, unit="CPU µs", packages=["psutil"])
        print(f"written to {path}, drawn to {plots.plot(path)}")


if __name__ == "__main__":
    main()
