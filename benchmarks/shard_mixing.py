"""What it costs to mix synthetic images, drawn live through a pool, into a stream of photographs."""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import synthesizers
from benchmarks.shard_costs import timed
from torchaug_gen import AugmentedLoader, JpegFolder, ShardStream, Synthesizer, SyntheticPool, fuse

_FRACTION, _REUSE = 0.3, 16
_OFF, _ON = "mixing off", f"pool {_FRACTION}, drawn live, reuse {_REUSE}"


def mixing(folder: Path, photographs: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a case for each number of workers."""
    from torchvision.transforms import v2

    crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
    fused, drawn = fuse([*crop, v2.Normalize([0.5] * 3, [0.25] * 3)]), synthesizers.of_photographs()

    def loader(workers: int, **options: Any) -> Any:
        stream = ShardStream(folder / "tar", batch_size=arguments.batch_size)
        inner = DataLoader(stream, arguments.batch_size, num_workers=workers, collate_fn=JpegFolder.collate)
        return AugmentedLoader(inner, fused, seed=0, **options)

    results: dict[str, Any] = {}
    for workers in arguments.workers:
        # Kept, and filled in the first epoch: from then on it draws an image for each sixteen that it gives.
        pool = SyntheticPool(drawn, capacity=640, reuse=_REUSE)
        mixed = loader(workers, synthesizer=pool, synthetic_fraction=_FRACTION)
        case = timed(
            {_OFF: loader(workers), _ON: mixed},
            photographs,
            rounds=arguments.rounds,
            baseline=_OFF,
            notes={_ON: "counts synthetic images too"},
        )
        case["real_per_second"] = {_ON: (1 - _FRACTION) * case["summary"][_ON]["median"]}
        results[f"mixing, workers={workers}"] = case
    results["drawing"] = drawing_alone(drawn)
    return results


def drawing_alone(drawn: Synthesizer) -> dict[str, Any]:
    """Return what the synthesizer itself costs: the part of mixing that no loader can save."""
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
