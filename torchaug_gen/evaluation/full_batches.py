"""Full batches: few images, gone through again and again, without a short batch at the end of each pass."""

import math
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from torchaug_gen import rng


def full_batches(images: Dataset[Any], *, batch_size: int, steps: int, seed: int) -> DataLoader[Any]:
    """Return a loader whose one epoch is a whole training: ``steps`` batches, all of the same size.

    Trainings that are compared must see batches of the same size. A few hundred images end each pass on whatever is
    left, 52 of 500 without synthetic images and 11 with 30 % of them, at 64 a batch; batch normalisation
    suffers from the smaller ones: that alone cost 4.5 points on photographs.

    Args:
        images: a map-style dataset that knows its length. Every image comes once before any comes again.
        batch_size: at most; of fewer images, all of them.
        steps: batches of the epoch.
        seed: decides the order, and nothing else does.
    """
    count = len(images)  # type: ignore[arg-type]
    size = min(batch_size, count)
    passes = math.ceil(steps * size / count)
    order = torch.cat([rng.permutation(seed, "evaluation.order", number, count) for number in range(passes)])
    return DataLoader(Subset(images, order[: steps * size].tolist()), batch_size=size)
