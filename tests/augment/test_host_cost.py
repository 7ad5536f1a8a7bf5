"""What a longer chain costs beside the pixels: counted, since times depend on the machine."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.scaling import geometry
from torchaug_gen import fuse


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked to do."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def calls(function):
    """Return how many functions a call calls, those written in C included."""
    count = 0

    def called(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def costs(length, backend):
    transform, images = fuse(geometry(length), backend=backend), torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    transform(images)
    with Operations() as operations:
        transform(images, epoch=1)
    assert len(transform.plan().stages) == 1
    return operations.count, calls(lambda: transform(images, epoch=2))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_chain_of_warps_costs_as_many_operations_as_one(backend):
    alone, few = costs(1, backend)
    for length in (4, 16):
        operations, made = costs(length, backend)
        assert operations == alone
        # Its parameters are drawn for the whole batch: a few calls for each warp, not for each image.
        assert made - few <= 8 * (length - 1)
