"""Which of how many processes this is."""

import os
from dataclasses import dataclass

import torch.distributed as dist
from torch.utils.data import get_worker_info


@dataclass(frozen=True)
class Share:
    """One of ``count`` equal parties, numbered from 0."""

    index: int
    count: int


def rank() -> Share:
    """Return this process's rank and the world size.

    They come from ``torch.distributed`` where it is initialised, else from the variables ``RANK`` and ``WORLD_SIZE``
    that ``torchrun`` sets (DataLoader workers that are spawned inherit only those), else there is one rank.
    """
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return Share(0, 1)


def consumer() -> Share:
    """Return which of all DataLoader workers of all ranks this is; a process without workers is its own worker."""
    process, worker = rank(), get_worker_info()
    if worker is None:
        return process
    return Share(process.index * worker.num_workers + worker.id, process.count * worker.num_workers)
