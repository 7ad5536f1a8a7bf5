"""The order in which a training takes its images: an endless chain of shuffles, cut into batches."""

from functools import lru_cache

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.ranks import Share
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Batch

ALONE = Share(0, 1)


def take(
    images: TrainingImages, *, seed: int, position: int, size: int, device: torch.device, share: Share = ALONE
) -> Batch:
    """Return a process's rows of the batch that begins at a position of the chain.

    Batches are cut from the chain without regard to where one shuffle ends and the next begins, and a batch is cut
    into as many equal parts as there are processes.

    Args:
        images: the data.
        seed: decides the order.
        position: place of the batch's first image in the chain, ≥ 0.
        size: images in the batch, a multiple of the number of processes.
        device: where the rows are put.
        share: this process.
    """
    rows = size // share.count
    positions = torch.arange(rows) + (position + share.index * rows)
    shuffle = positions // len(images)
    orders = range(int(shuffle[0]), int(shuffle[-1]) + 1)
    order = torch.cat([_order(seed, epoch, len(images)) for epoch in orders])
    chosen = order[positions - shuffle[0] * len(images)]
    batch = _to(images.images[chosen], device).float() / 255
    labels = None if images.labels is None else _to(images.labels[chosen], device)
    return Batch(batch, labels, positions)


def _to(rows: Tensor, device: torch.device) -> Tensor:
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return rng.permutation(seed, "training.order", epoch, count)
