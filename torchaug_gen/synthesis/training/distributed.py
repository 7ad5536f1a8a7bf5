"""Several processes that train one synthesizer: each takes its rows of every batch, and gradients are averaged.

Networks are not wrapped in ``DistributedDataParallel``: its hooks average a gradient where it is accumulated, while
the gradient penalties of a GAN differentiate through a gradient first. Averaging once, between ``backward`` and the
optimiser's step, is right for any loss that is a mean over rows.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchaug_gen.ranks import Share
from torchaug_gen.synthesis.digests import digest

# Large enough that the start of a transfer costs nothing against the transfer, small enough to need little memory.
_BUCKET_BYTES = 25 << 20


@contextmanager
def processes(device: torch.device) -> Iterator[Share]:
    """Join the other processes that ``torchrun`` started, for as long as the context lasts.

    They talk through NCCL where ``device`` is a GPU, else through gloo. Where a process group exists it is used, and
    left as it is; a process that was started alone stays alone.

    Args:
        device: where this process trains.

    Yields:
        This process's rank and the number of processes.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2
    if dist.is_initialized() or alone:
        yield share()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield share()
    finally:
        dist.destroy_process_group()


def share() -> Share:
    """Return this process's rank and the number of processes that were joined."""
    return Share(dist.get_rank(), dist.get_world_size()) if _joined() else Share(0, 1)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of these parameters by their means over all processes.

    Args:
        parameters: the same on every process; those without a gradient must be without one everywhere.
    """
    if not _joined():
        return
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = mean(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, averaged in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(averaged.view(gradient.shape))


@torch.no_grad()
def mean(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, without a gradient; alone, the tensor itself, detached.

    For losses that are no mean over rows, such as the logarithm of a mean: what is taken of the whole batch goes
    through here.
    """
    if not _joined():
        return tensor.detach()
    # clone: all_reduce works in place. contiguous: it takes no other.
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()


def joint_mean(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, through which gradients flow; alone, the tensor itself.

    Every process must call it, and its backward pass, in the same order. The gradient is that of the mean of all
    processes' losses once :func:`average_gradients` has averaged.
    """
    if not _joined():
        return tensor
    from torch.distributed.nn.functional import all_reduce

    return cast(Tensor, all_reduce(tensor)) / dist.get_world_size()


def from_first(value: Any) -> Any:
    """Return rank 0's value on every process; it must be one that pickles, and comes from our own process group."""
    if not _joined():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes in the order of their ranks, on every process; see :func:`from_first`."""
    if not _joined():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if _joined():
        dist.barrier()


def check_equal(networks: nn.Module, fingerprint: Mapping[str, Any] | None = None) -> None:
    """Raise ``RuntimeError`` where the networks of the processes differ in a single bit.

    They start equal, take the same averaged gradients, and so stay equal; where they do not, a recipe draws random
    numbers from elsewhere than :mod:`torchaug_gen.rng`, or forgot to reduce gradients.

    Args:
        networks: what to compare.
        fingerprint: more that must be equal, such as a digest of the data.
    """
    if not _joined():
        return
    mine = {name: digest(tensor) for name, tensor in networks.state_dict().items()} | dict(fingerprint or {})
    everyones = gathered(mine)
    for rank, found in enumerate(everyones):
        for name in sorted(everyones[0].keys() | found.keys()):
            if found.get(name) != everyones[0].get(name):
                raise RuntimeError(f"all processes must have the same {name}, but rank {rank} has not that of rank 0")


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of one type and of limited size."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > _BUCKET_BYTES
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
