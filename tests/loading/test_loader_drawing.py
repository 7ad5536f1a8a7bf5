"""Drawing on the consumer's thread, ahead where that fills chunks."""

import threading

import pytest
import torch
from fakes import CLASSES, mixed, same, stock
from torch import nn

from torchaug_gen import Synthesizer

pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="there, drawing has its place in the background"
)


class Net(nn.Module):
    """A generator of images 3×4×4 that counts the rows it is run on, and notes the threads."""

    def __init__(self, noisy=False, bad=()):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 48), nn.Unflatten(1, (3, 4, 4)), nn.Tanh())
        self.noisy, self.bad, self.rows, self.threads, self.calls = noisy, set(bad), 0, set(), 0

    def forward(self, z, labels):
        self.rows += len(z)
        self.calls += 1
        self.threads.add(threading.current_thread())
        if self.calls in self.bad:
            raise FloatingPointError("no image today")
        images = self.layers(z)
        return (images + torch.rand_like(images)) / 2 if self.noisy else images


def loader(net=None, prefetch=2, **options):
    synthesizer = Synthesizer.from_module(
        net or Net(), latent_dim=8, image_shape=(3, 4, 4), num_classes=CLASSES, chunk=8
    )
    return mixed(
        stock(length=60, batch_size=10, shuffle=True), 0.3, synthesizer=synthesizer, prefetch=prefetch, **options
    )


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_what_is_drawn_ahead_is_what_would_have_been_drawn(prefetch, noisy):
    assert same(list(loader(Net(noisy), prefetch)), list(loader(Net(noisy), 0)))


def test_chunks_are_filled():
    alone, ahead = Net(), Net()
    delivered = sum(len(labels) for _, labels, *_ in loader(alone, 0)) - 60
    list(loader(ahead, 2))
    assert delivered <= ahead.rows <= 0.7 * alone.rows


def test_it_runs_on_the_consumers_thread():
    net = Net()
    list(loader(net, 2))
    assert net.threads == {threading.current_thread()}


def test_an_error_costs_its_batch_only():
    batches, errors, running = [], 0, iter(loader(Net(bad={2}), 2))
    while True:
        try:
            batches.append(next(running))
        except FloatingPointError:
            errors += 1
        except StopIteration:
            break
    expected = list(loader(Net(), 0))
    assert errors == 1 and len(batches) == len(expected) - 1
    assert all(any(same(batch, other) for other in expected) for batch in batches)


def test_the_consumers_contexts_do_not_change_images():
    expected = list(loader(Net(), 0))
    for prefetch in (0, 2):
        with torch.autocast("cpu", torch.bfloat16):
            assert same(list(loader(Net(), prefetch)), expected)
        with torch.inference_mode():
            assert same(list(loader(Net(), prefetch, allow_eval=True)), expected)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_pass_that_goes_on_draws_the_same(noisy):
    expected = list(loader(Net(noisy), 2))
    for step in (1, 3, 4):
        begun = loader(Net(noisy), 2)
        running = iter(begun)
        for _ in range(step):
            next(running)
        resumed = loader(Net(noisy), 2)
        resumed.load_state_dict(begun.state_dict())
        assert same(list(resumed), expected[step:])
