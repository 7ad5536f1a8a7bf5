"""On CUDA nothing waits, and nothing is read before it is written; needs a device."""

import kornia.augmentation as K
import pytest
import torch
from fakes import CLASSES, Coded, mixed, same
from torch import nn
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader, Synthesizer, fuse

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Net(nn.Module):
    """A generator for images 3×4×4 on the device."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 48), nn.Unflatten(1, (3, 4, 4)), nn.Tanh())

    def forward(self, z, labels):
        return self.layers(z)


def network():
    torch.manual_seed(0)
    return Synthesizer.from_module(Net().cuda(), latent_dim=8, image_shape=(3, 4, 4), num_classes=CLASSES)


def loader(prefetch=2, **options):
    stages = fuse([K.RandomHorizontalFlip(), K.ColorJitter(0.2, 0.2, 0.2, 0.1)])
    inner = DataLoader(Coded(96), 8, shuffle=True, pin_memory=options.pop("pin_memory", False))
    return mixed(inner, 0.4, synthesizer=network(), transform=stages, device="cuda", prefetch=prefetch, **options)


@pytest.mark.parametrize("pin_memory", [False, True])
def test_no_call_synchronises(pin_memory):
    batches = loader(pin_memory=pin_memory)
    list(batches)  # compile, and set up
    running = iter(batches)
    next(running)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in running:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_prefetch_does_not_change_a_bit():
    expected = [[part.cpu() for part in batch] for batch in loader(0)]
    for prefetch in (1, 4):
        assert same([[part.cpu() for part in batch] for batch in loader(prefetch)], expected)


@pytest.mark.parametrize("slow", ["consumer", "producer"])
def test_batches_are_whole_whoever_is_slower(slow):
    busy = torch.rand(2000, 2000, device="cuda")
    sums = []
    expected = [int(batch[1].sum()) for batch in loader(0)]

    def work(images):
        for _ in range(5):
            busy @ busy
        return images

    batches = loader(3) if slow == "consumer" else AugmentedLoader(loader(0), work, prefetch=3)
    with torch.cuda.stream(torch.cuda.Stream()):
        for batch in batches:
            if slow == "consumer":
                work(None)
            # Read on another stream than the one it was made on, and much later.
            sums.append(batch[1].sum())
            del batch
        got = [int(one) for one in sums]
    assert got == expected


def test_one_side_stream_for_the_loaders_life():
    batches = loader()
    for _ in range(3):
        list(batches)
    assert len(batches._streams._streams) == 1


def test_batches_that_are_on_the_device_already():
    images, labels = torch.rand(8, 3, 4, 4, device="cuda"), torch.arange(8, device="cuda") % CLASSES
    for x, y in AugmentedLoader([(images, labels)] * 4, lambda x: x * 1, prefetch=2):
        assert torch.equal(x, images) and torch.equal(y, labels)
