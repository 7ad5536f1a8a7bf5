"""Exact resume with a pool, gates and a schedule together; and what a pool does ahead ends with the pass."""

import gc
import json
import pickle
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch
from fakes import CLASSES, Coded, Drawn, mixed, same, stock
from torch.utils.data import DataLoader

from torchaug_gen import SyntheticPool, schedules
from torchaug_gen.synthesis.synthesizer import Synthesizer

WAYS = ("rebatch", "extend", "replace")


class Spelt(Drawn):
    """Draws little at a time, and as slowly as it is told to."""

    chunk = 4

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def draw(self, labels, *, seed, epoch, positions):
        time.sleep(self.seconds)
        return super().draw(labels, seed=seed, epoch=epoch, positions=positions)


class Third:
    """A gate that turns away a third of the candidates."""

    def passes(self, images, labels, *, seed, epoch, positions):
        return positions % 3 != 1


FRACTIONS = {
    "schedule": schedules.warmup(0.6, epochs=2, steps_per_epoch=6),
    "per class": {0: 0.5, 2: schedules.linear(0.0, 0.8, epochs=2), 4: 0.2},
}


def make(mixing="rebatch", workers=0, prefetch=2, fraction="schedule"):
    pool = SyntheticPool(Spelt(), capacity=2 * 4 * CLASSES, reuse=3, gates=Third())
    inner = DataLoader(Coded(23), 4, shuffle=True, num_workers=workers)
    return mixed(inner, FRACTIONS[fraction], mixing=mixing, prefetch=prefetch, synthesizer=pool, seed=5, tag="t")


def two_epochs(loader):
    batches, states = [], []
    for _ in range(2):
        states.append(json.dumps(loader.state_dict()))
        for batch in loader:
            batches.append(batch)
            states.append(json.dumps(loader.state_dict()))
        states.pop()
    return batches, states


def followers(loader, state):
    loader.load_state_dict(json.loads(state))
    return [batch for _ in range(2 - json.loads(state)["epoch"]) for batch in loader]


@pytest.mark.filterwarnings("ignore:epoch 1 has")
@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("mixing", WAYS)
def test_behind_some_batches(mixing, fraction):
    batches, states = two_epochs(make(mixing, fraction=fraction))
    assert sum(int(batch[2].sum()) for batch in batches) > 5
    for done in (1, len(batches) - 4):
        assert same(followers(make(mixing, prefetch=0, fraction=fraction), states[done]), batches[done:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:epoch 1 has")
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("prefetch", [0, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mixing", WAYS)
def test_behind_every_batch_of_two_epochs(mixing, workers, prefetch, fraction):
    batches, states = two_epochs(make(mixing, workers, prefetch, fraction))
    for done in range(len(batches)):
        assert same(followers(make(mixing, workers, prefetch, fraction), states[done]), batches[done:]), done


FRESH = """
import json, pickle, sys
sys.path[:0] = sys.argv[1:]
from test_resume_pool import followers, make
answers = [followers(make(**options), state) for options, state in json.load(sys.stdin)]
sys.stdout.buffer.write(pickle.dumps([[[part.numpy() for part in batch] for batch in one] for one in answers]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:epoch 1 has")
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_in_a_fresh_process(fraction):
    asked, expected = [], []
    for mixing in WAYS:
        for workers, prefetch in ((0, 0), (0, 4), (2, 2)):
            options = {"mixing": mixing, "workers": workers, "prefetch": prefetch, "fraction": fraction}
            batches, states = two_epochs(make(**options))
            for done in range(len(batches)):
                asked.append((options, states[done]))
                expected.append([[part.numpy() for part in batch] for batch in batches[done:]])
    folders = [path for path in sys.path if path.endswith(("tests", "loading"))]
    command = [sys.executable, "-W", "ignore", "-c", FRESH, *folders]
    answer = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, check=True)
    assert same(pickle.loads(answer.stdout), expected)


def pool_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("torchaug_gen")]


def ended(seconds=2.0):
    """Say whether all threads of the package end in time."""
    limit = time.monotonic() + seconds
    while pool_threads() and time.monotonic() < limit:
        time.sleep(0.01)
    return not pool_threads()


class Interrupted:
    """A consumer who leaves in the middle of a pass."""

    def __init__(self, error=None):
        self.error = error

    def __call__(self, loader):
        for number, _ in enumerate(loader):
            if number == 1:
                break
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("prefetch", "error"),
    [(0, None), (3, None), (3, ZeroDivisionError), (0, KeyboardInterrupt), (3, KeyboardInterrupt)],
)
def test_a_pool_rests_when_a_pass_is_broken_off(prefetch, error):
    pool = SyntheticPool(Spelt(seconds=0.03), capacity=40 * 4 * CLASSES, reuse=2)
    loader = mixed(stock(200, 20), 0.5, synthesizer=Forwarding(pool), prefetch=prefetch)
    for _ in range(2):
        with suppress(ZeroDivisionError, KeyboardInterrupt):
            Interrupted(error)(loader)
        gc.collect()
        assert pool.stats.drawn and ended()


class Forwarding(Synthesizer):
    """A synthesizer around another one."""

    def __init__(self, synthesizer):
        super().__init__(synthesizer.image_shape, num_classes=synthesizer.num_classes)
        self.synthesizer = synthesizer

    def draw(self, labels, **where):
        return self.synthesizer.draw(labels, **where)


class Resting(Drawn):
    """Counts how often it is told to rest, and while it draws."""

    def __init__(self):
        super().__init__()
        self.drawing, self.rested = threading.Event(), []

    def draw(self, labels, **where):
        self.drawing.set()
        time.sleep(0.05)
        images = super().draw(labels, **where)
        self.drawing.clear()
        return images

    def rest(self):
        self.rested.append(self.drawing.is_set())


@pytest.mark.parametrize("prefetch", [0, 2])
def test_rest_comes_behind_the_last_drawing(prefetch):
    synthesizer = Resting()
    loader = mixed(stock(40, 4), 0.5, synthesizer=synthesizer, prefetch=prefetch)
    for _ in loader:
        assert not synthesizer.rested
    assert synthesizer.rested == [False]
    for _ in range(3):
        running = iter(loader)
        next(running)
        del running
        assert ended()
        assert synthesizer.rested[-1] is False


def test_the_stats_of_pool_and_gates_are_shown():
    loader = make()
    list(loader)
    stats = loader.stats.synthesizer
    assert stats is loader._settings.synthesizer.stats and stats.delivered == loader.stats.synthetic
    assert stats.gates.acceptance.nanmean() < 1
    assert "reuse" in str(loader.stats) and "candidates accepted" in str(loader.stats)
    # A pool that is moved begins to count anew, and stats follow it; also through what is around it.
    loader._settings.synthesizer.to("cpu")
    assert loader.stats.synthesizer.delivered == 0
    pool = SyntheticPool(Spelt(), capacity=40, reuse=2)
    assert mixed(stock(), synthesizer=Forwarding(pool)).stats.synthesizer is pool.stats


def test_a_gate_that_lets_nothing_through_ends_in_an_error():
    class Never:
        def passes(self, images, labels, **where):
            return torch.zeros(len(images), dtype=torch.bool)

    pool = SyntheticPool(Drawn(), capacity=40, reuse=2, gates=Never(), max_candidates=16)
    with pytest.raises(ValueError, match="no candidate of class 0 passed in 16"):
        list(mixed(stock(), 0.5, labels=[1, 0, 0, 0, 0], synthesizer=pool))
    assert ended()
