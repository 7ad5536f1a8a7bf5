"""Whatever goes wrong: it ends within two seconds, nothing is left, and the loader is usable again."""

import gc
import hashlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
import weakref
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from fakes import CLASSES, SIZE, Coded, CodedStream, Drawn, coded_batches, image, mixed, real_ids, same, stock
from torch.utils.data import DataLoader, get_worker_info

from torchaug_gen import AugmentedLoader, SyntheticPool
from torchaug_gen.synthesis.gates.gated import GatedSynthesizer

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
    """A data set that kills its worker, once, and notes when."""

    def __init__(self, length):
        super().__init__(length)
        # In shared memory: what a worker writes there is seen here.
        self.killed = torch.zeros(1, dtype=torch.float64).share_memory_()

    def __getitem__(self, index):
        if index == 39 and not self.killed:
            self.killed[0] = time.monotonic()
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
    while (threads() or multiprocessing.active_children() or shared_memory() - memory) and time.monotonic() < end:
        time.sleep(0.02)
    assert not threads()
    assert not multiprocessing.active_children()
    assert not shared_memory() - memory


def failing(images):
    if 6 in real_ids(images):
        raise ZeroDivisionError("by design")
    return images


class Breaks(Drawn):
    def draw(self, labels, *, seed, epoch, positions):
        if 3 in positions:
            raise ZeroDivisionError("by design")
        return super().draw(labels, seed=seed, epoch=epoch, positions=positions)


class Trips:
    """A gate that breaks once, at one of its calls."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def passes(self, images, labels, *, seed, epoch, positions):
        self.calls += 1
        if self.calls == self.at:
            raise ZeroDivisionError("by design")
        return torch.ones(len(images), dtype=torch.bool)


FAULTS = {
    "data set": lambda **o: mixed(DataLoader(Coded(16, bad=[6]), 4), **o),
    "worker": lambda **o: mixed(DataLoader(Coded(16, bad=[6]), 4, num_workers=2), **o),
    "transform": lambda **o: mixed(stock(16), transform=failing, **o),
    "transform beside workers": lambda **o: mixed(stock(16, num_workers=2), transform=failing, **o),
    "synthesizer": lambda **o: mixed(stock(16), synthesizer=Breaks(), **o),
    "gate": lambda **o: mixed(stock(16), synthesizer=GatedSynthesizer(Drawn(), [Trips(2)]), **o),
    # Its first call is the one that is surely waited for.
    "gate of a pool": lambda **o: mixed(
        stock(16), synthesizer=SyntheticPool(Drawn(), capacity=40, reuse=2, gates=Trips(1)), **o
    ),
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


@pytest.mark.usefixtures("nothing_left")
@PREFETCH
@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_noticed(persistent, prefetch):
    data = Deadly(60)
    inner = DataLoader(data, 4, num_workers=2, persistent_workers=persistent)
    loader = mixed(inner, 0.0, tag="t", prefetch=prefetch)
    running = iter(loader)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        while True:
            next(running)
    # torch looks at its workers every five seconds where no signal tells it.
    assert time.monotonic() - float(data.killed) < 4
    # The signal may have come while the consumer was at work: then the pass says it again, once.
    with suppress(RuntimeError):
        list(running)
    assert list(running) == []
    del running
    assert loader.state_dict()["epoch"] == 0
    assert real_ids(next(iter(loader))[0]) == [0, 1, 2, 3] and len(list(loader)) == 15


class DeadlyStream(CodedStream):
    """A stream that kills one of its workers, where it is told to."""

    deadly = False

    def __iter__(self):
        for number, item in enumerate(super().__iter__()):
            if self.deadly and number == 9 and get_worker_info().id == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


@pytest.mark.filterwarnings("ignore:.*cannot be positioned")
@pytest.mark.usefixtures("nothing_left")
def test_a_worker_that_is_killed_on_the_way_to_a_position_is_noticed():
    data = DeadlyStream(60)
    make = lambda: mixed(DataLoader(data, 4, num_workers=2), 0.0, tag="t", mixing="extend")  # noqa: E731
    loader, other = make(), make()
    running = iter(loader)
    for _ in range(10):
        next(running)
    state = loader.state_dict()
    rest = list(running)
    other.load_state_dict(state)
    data.deadly = True
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(iter(other))
    # It has not begun: the next try goes on there.
    data.deadly = False
    assert same(list(other), rest)


@pytest.mark.usefixtures("nothing_left", "heeds_ctrl_c")
@PREFETCH
@pytest.mark.parametrize("everybody", [False, True])
def test_ctrl_c_stops_workers_in_time(everybody, prefetch):
    """A terminal sends it to all processes, a supervisor to the main one."""
    loader = mixed(DataLoader(Slow(), 4, num_workers=2), 0.0, tag="t", prefetch=prefetch)
    running = iter(loader)
    first = next(running)
    workers = list(running._workers)

    def interrupt():
        for process in [os.getpid(), *(worker.pid for worker in workers if everybody)]:
            os.kill(process, signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(running)
    timer.join()
    start = time.monotonic()
    del running
    assert time.monotonic() - start < 2 and not any(worker.is_alive() for worker in workers)
    # The next pass is of the next epoch, whose first items do not take long either.
    assert same(next(iter(loader)), first)


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
    """A list of batches that are made as they are asked for, each unlike its neighbours."""

    def __init__(self, count):
        self.count, self.batch_size = count, 2

    def __iter__(self):
        for number in range(self.count):
            yield torch.full((2, *SIZE), number % 251, dtype=torch.uint8), torch.tensor([number % 5, number % 3])


def digest(batch):
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).digest()


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_batches_arrive_and_stay_as_they_were_whoever_is_slower(count, prefetch):
    options = {"mixing": "extend", "tag": "t"}
    expected = [digest(batch) for batch in mixed(Sums(count), 0.3, prefetch=0, **options)]
    held, found = [], []
    for number, batch in enumerate(mixed(Sums(count), 0.3, prefetch=prefetch, **options)):
        # In turn, all that may be composed ahead is, and the consumer waits for each.
        if number % 40 < 10:
            time.sleep(0.002)
        # Batches stay theirs who have them, while later ones are made.
        held.append(batch)
        if len(held) > 8:
            found.append(digest(held.pop(0)))
    assert found + [digest(batch) for batch in held] == expected and len(expected) == count


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


def resident():
    gc.collect()
    return psutil.Process().memory_info().rss / (1 << 20)


def test_resident_memory_stays_flat_over_50_epochs():
    """A batch is 0.4 MiB: one that were kept in each epoch would make 20."""
    size = (3, 64, 64)
    data = [(image(index, size), index % CLASSES) for index in range(24)]
    pool = SyntheticPool(Drawn(size), capacity=40, reuse=3)
    loader = mixed(DataLoader(data, 8, shuffle=True), 0.3, synthesizer=pool, prefetch=2)
    for _ in range(10):
        list(loader)
    before = resident()
    for _ in range(50):
        for _ in loader:
            pass
    assert resident() - before < 8


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
    with pytest.warns(RuntimeWarning, match="out of memory while drawing 16 images at a time: drawing 2 at") as warned:
        first = next(running)
    assert len([one for one in warned if "out of memory" in str(one.message)]) == 1
    assert loader.state_dict()["chunk"] == 2
    assert same(first, next(iter(mixed(stock(40, 8), 0.5))))
    other = mixed(stock(40, 8), 0.5, synthesizer=Hungry())
    other.load_state_dict(loader.state_dict())
    with warnings.catch_warnings():
        # Whoever goes on begins with what fits.
        warnings.simplefilter("error")
        assert same(list(other), list(running))


def test_out_of_memory_that_nothing_helps_against_is_raised():
    class Starved(Drawn):
        def draw(self, labels, **options):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        next(iter(mixed(stock(), 0.5, synthesizer=Starved())))
