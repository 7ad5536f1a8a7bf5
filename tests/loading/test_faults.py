"""Whatever goes wrong: it ends within two seconds, nothing is left, and the loader is usable again."""

import gc
import hashlib
import multiprocessing
import os
import signal
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fakes import Coded, Drawn, coded_batches, mixed, real_ids, same, stock
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader

PREFETCH = pytest.mark.parametrize("prefetch", [0, 2])


class Slow(Coded):
    """A data set whose items take long, but the first few."""

    def __init__(self, length=40, quick=8, seconds=20.0):
        super().__init__(length)
        self.quick, self.seconds = quick, seconds

    def __getitem__(self, index):
        if index >= self.quick:
            time.sleep(self.seconds)
        return super().__getitem__(index)


class Deadly(Coded):
    """A data set that kills its worker."""

    def __getitem__(self, index):
        if index == 39:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("torchaug_gen")]


def shared_memory():
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("torch_*")} if folder.is_dir() else set()


@pytest.fixture
def nothing_left():
    """Fail where a thread, a process or shared memory is left two seconds after the test."""
    gc.collect()
    memory = shared_memory()
    yield
    end = time.monotonic() + 2
    while (threads() or multiprocessing.active_children()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not threads()
    assert not multiprocessing.active_children()
    assert shared_memory() <= memory


def failing(images):
    if 6 in real_ids(images):
        raise ZeroDivisionError("by design")
    return images


class Breaks(Drawn):
    def draw(self, labels, *, seed, epoch, positions):
        if 3 in positions:
            raise ZeroDivisionError("by design")
        return super().draw(labels, seed=seed, epoch=epoch, positions=positions)


FAULTS = {
    "data set": lambda **o: mixed(DataLoader(Coded(16, bad=[6]), 4), **o),
    "worker": lambda **o: mixed(DataLoader(Coded(16, bad=[6]), 4, num_workers=2), **o),
    "transform": lambda **o: mixed(stock(16), transform=failing, **o),
    "transform beside workers": lambda **o: mixed(stock(16, num_workers=2), transform=failing, **o),
    "synthesizer": lambda **o: mixed(stock(16), synthesizer=Breaks(), **o),
}


@pytest.mark.usefixtures("nothing_left")
@PREFETCH
@pytest.mark.parametrize("name", FAULTS)
def test_who_keeps_an_error_does_not_keep_the_pass(name, prefetch):
    loader = FAULTS[name](prefetch=prefetch)
    running = iter(loader)
    with pytest.raises((ZeroDivisionError, KeyError)) as kept:
        list(running)
    pass_, gone = weakref.ref(running), weakref.ref(running._opened.reading)
    gc.disable()
    try:
        del running
        assert pass_() is None and gone() is None
    finally:
        gc.enable()
    # The place is named: by the traceback in the process that failed, or by the text that the worker sends.
    assert "fakes.py" in str(kept.getrepr()) or "test_faults.py" in str(kept.getrepr())
    # The loader is usable again.
    assert len(next(iter(loader))[0]) == 4


@pytest.mark.usefixtures("nothing_left")
@PREFETCH
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_are_busy_end_in_time(persistent, prefetch):
    loader = mixed(DataLoader(Slow(), 4, num_workers=2, persistent_workers=persistent), 0.0, tag="t", prefetch=prefetch)
    running = iter(loader)
    next(running)
    workers = running._workers
    start = time.monotonic()
    del running, loader
    assert time.monotonic() - start < 2 and not any(worker.is_alive() for worker in workers)


@PREFETCH
def test_a_killed_worker_is_noticed(prefetch):
    loader = mixed(DataLoader(Deadly(60), 4, num_workers=2), 0.0, tag="t", prefetch=prefetch)
    running = iter(loader)
    workers = None
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        while True:
            next(running)
            workers = running._workers
    assert time.monotonic() - start < 20 and workers
    # The signal may have come while the consumer was at work: then the pass says it again, once.
    with suppress(RuntimeError):
        list(running)
    assert list(running) == []
    start = time.monotonic()
    del running
    while (threads() or any(worker.is_alive() for worker in workers)) and time.monotonic() < start + 2:
        time.sleep(0.02)
    assert not threads() and not any(worker.is_alive() for worker in workers)
    assert loader.state_dict()["epoch"] == 0 and len(next(iter(loader))[0]) == 4


@pytest.mark.usefixtures("nothing_left")
@PREFETCH
@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_break_the_loader_goes_on(workers, prefetch):
    loader, other = (mixed(stock(24, num_workers=workers, shuffle=True), prefetch=prefetch) for _ in range(2))
    for _ in loader:
        break
    list(other)
    assert same(list(loader), list(other))


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_while_waiting_costs_no_batch():
    def slow(images):
        time.sleep(0.6)
        return images

    loader = AugmentedLoader(coded_batches(4, 4, 4), slow, prefetch=2)
    running = iter(loader)
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert [real_ids(images) for images, _ in running] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


class Sums:
    """A list of batches made as they are asked for, and the digests that they should arrive with."""

    def __init__(self, count):
        self.count, self.batch_size = count, 2

    def __iter__(self):
        for number in range(self.count):
            yield torch.full((2, 1, 2, 2), number % 251, dtype=torch.uint8), torch.tensor([number % 7, number % 5])


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_batches_arrive_as_they_were_whoever_is_slower(count):
    digest, expected = hashlib.sha256(), hashlib.sha256()
    for images, labels in Sums(count):
        expected.update(images.numpy().tobytes() + labels.numpy().tobytes())
    for number, (images, labels) in enumerate(AugmentedLoader(Sums(count), tag=None, device="cpu", dtype=None)):
        if number % 100 == 0:
            time.sleep(0.02)
        digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    assert digest.digest() == expected.digest()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
def test_no_more_batches_are_alive_than_said(prefetch, mixing):
    alive, most = weakref.WeakSet(), []

    def watched(images):
        made = images.clone()
        alive.add(made)
        return made

    for _ in mixed(stock(60), 0.3, mixing=mixing, transform=watched, dtype=None, prefetch=prefetch):
        time.sleep(0.003)  # the thread gets as far ahead as it may
        most.append(len(alive))
    assert max(most) <= prefetch + 2


@pytest.mark.parametrize("prefetch", [0, 3])
def test_what_a_batch_was_made_of_is_not_kept(prefetch):
    alive, most = weakref.WeakSet(), []

    def collate(items):
        made = torch.stack([picture for picture, _ in items])
        alive.add(made)
        return made, torch.tensor([label for _, label in items])

    for _ in mixed(stock(60, collate_fn=collate), 0.3, transform=lambda images: images + 0, prefetch=prefetch):
        time.sleep(0.005)
        most.append(len(alive))
    # One waits to be composed, one is held back by the regrouping.
    assert most[-1] <= 2 and max(most) <= prefetch + 2


def test_memory_stays_flat_over_50_epochs():
    loader = mixed(stock(40, 4), 0.3, prefetch=2)
    list(loader), list(loader)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            for _ in loader:
                pass
        after = len(gc.get_objects())
    finally:
        gc.enable()
    assert after - before < 50  # less than one object an epoch
    assert not threads() or len(threads()) <= 1


class Hungry(Drawn):
    """A synthesizer that has memory for three rows at a time."""

    chunk = 16

    def draw(self, labels, *, seed, epoch, positions):
        if self.chunk > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().draw(labels, seed=seed, epoch=epoch, positions=positions)


def test_out_of_memory_halves_the_chunk_and_the_state_says_so():
    loader = mixed(stock(40, 8), 0.5, synthesizer=Hungry(), prefetch=0)
    running = iter(loader)
    assert loader.state_dict()["chunk"] == 16
    with pytest.warns(RuntimeWarning, match="out of memory while drawing 16 images at a time: drawing 8") as warned:
        first = next(running)
    assert len([one for one in warned if "out of memory" in str(one.message)]) == 3
    assert loader.state_dict()["chunk"] == 2
    assert same(first, next(iter(mixed(stock(40, 8), 0.5))))
    other = mixed(stock(40, 8), 0.5, synthesizer=Hungry())
    other.load_state_dict(loader.state_dict())
    assert same(list(other), list(running))
    Hungry.chunk = 1
    try:
        mixed(stock(40, 8), 0.5, synthesizer=Breaks())
    finally:
        Hungry.chunk = 16


def test_out_of_memory_that_nothing_helps_against_is_raised():
    class Starved(Drawn):
        def draw(self, labels, **options):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        next(iter(mixed(stock(), 0.5, synthesizer=Starved())))
