"""The same bits, however they are made; errors, and how passes end."""

import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from fakes import Coded, Drawn, coded_batches, mixed, real_ids, same, stock
from torch import nn
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader, MixUp


def kornia():
    return K.AugmentationSequential(
        K.RandomAffine(20.0, p=1.0), K.ColorJitter(0.3, 0.3, 0.3, 0.1), K.RandomErasing(p=0.5), data_keys=["input"]
    )


def augmented(prefetch=2, **options):
    return mixed(stock(30, 8, shuffle=True, **options), 0.4, transform=[kornia(), MixUp(alpha=0.5)], prefetch=prefetch)


@pytest.fixture(scope="module")
def expected():
    loader = augmented(prefetch=0)
    return [list(loader), list(loader)]


def no_thread(seconds=2.0):
    end = time.monotonic() + seconds
    while any(thread.name.startswith("torchaug_gen") for thread in threading.enumerate()):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(
    ("workers", "prefetch"),
    [(0, 0), (0, 1), (0, 2), (0, 4), (2, 0), *(pytest.param(2, n, marks=pytest.mark.slow) for n in (1, 2, 4))],
)
def test_prefetch_and_workers_do_not_change_a_bit(expected, prefetch, workers):
    torch.manual_seed(prefetch)  # must not matter
    np.random.seed(1)
    state = torch.get_rng_state()
    loader = augmented(prefetch, **({"num_workers": 2, "multiprocessing_context": "fork"} if workers else {}))
    assert same([list(loader), list(loader)], expected)
    assert not same(*expected)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(0)


@pytest.fixture
def untouched_rng():
    """Keep the state that this module seeds on purpose."""
    states = torch.get_rng_state(), np.random.get_state()
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])


@pytest.mark.slow
def test_spawned_workers_do_not_change_a_bit(expected):
    loader = augmented(num_workers=1, multiprocessing_context="spawn")
    assert same(list(loader), expected[0])


@pytest.mark.slow
def test_another_process_gets_the_same_bits(expected):
    code = (
        "import sys, pickle, torch; sys.path[:0] = sys.argv[1:]; torch.manual_seed(99)\n"
        "from test_prefetch import augmented\n"
        "sys.stdout.buffer.write(pickle.dumps([[t.numpy() for t in b] for b in augmented()]))"
    )
    folders = [path for path in sys.path if path.endswith(("tests", "loading"))]
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *folders], capture_output=True, check=True)
    there = pickle.loads(answer.stdout)
    assert same(there, [[part.numpy() for part in batch] for batch in expected[0]])


def test_seeds_tell_loaders_apart_and_none_means_zero():
    batches = {
        seed: list(mixed(stock(shuffle=True), transform=kornia(), seed=seed)) for seed in (None, 0, 1, 2**64 - 1)
    }
    assert same(batches[None], batches[0])
    assert not same(batches[0], batches[1]) and not same(batches[1], batches[2**64 - 1])


@pytest.mark.parametrize("prefetch", [0, 3])
def test_the_consumers_dropout_is_not_disturbed(prefetch):
    dropout, x = nn.Dropout(0.5), torch.ones(500)
    torch.manual_seed(7)
    alone = [dropout(x) for _ in range(8)]
    torch.manual_seed(7)
    beside = [
        dropout(x) for _ in zip(range(8), mixed(stock(40, 4), transform=kornia(), prefetch=prefetch), strict=False)
    ]
    assert same(alone, beside)


@pytest.mark.parametrize("prefetch", [0, 1, 2, 4])
def test_only_as_many_batches_are_loaded_as_asked_for(prefetch):
    data = Coded(40)
    running = iter(AugmentedLoader(DataLoader(data, 4), tag="t", prefetch=prefetch))
    for taken in range(1, 6):
        next(running)
        assert len(data.loaded) / 4 <= taken + prefetch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_bad_item_costs_its_batch_only(workers, prefetch, fraction):
    inner = DataLoader(Coded(16, bad=[5]), 4, num_workers=workers)
    running, got, errors = iter(mixed(inner, fraction, prefetch=prefetch)), [], []
    whole = [real_ids(images) for images, _ in mixed(stock(16), fraction)]
    while True:
        try:
            got.append(real_ids(next(running)[0]))
        except StopIteration:
            break
        except KeyError as error:
            errors.append((len(got), str(error)))
    [(at, message)] = errors
    assert "item 5 is bad" in message and 5 in whole[at]
    assert got == [ids for ids in whole if 5 not in ids]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError, StopIteration])
def test_a_transform_that_raises_costs_its_batch_only(prefetch, error):
    def transform(images):
        if 6 in real_ids(images):
            raise error("no")
        return images

    running, got = iter(AugmentedLoader(stock(16), transform, prefetch=prefetch)), []
    got.append(real_ids(next(running)[0]))
    with pytest.raises(RuntimeError if error is StopIteration else error):
        next(running)
    got.extend(real_ids(images) for images, _ in running)
    assert got == [[0, 1, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15]]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_label_out_of_range_costs_its_batch_only(prefetch):
    batches = coded_batches(4, 4, 4)
    batches[1][1][2] = 77
    running = iter(mixed(batches, mixing="extend", prefetch=prefetch))
    next(running)
    with pytest.raises(
        ValueError, match=r"real labels \(the synthesizer has 5 classes\) must be in 0\.\.4, got 0\.\.77"
    ):
        next(running)
    assert real_ids(next(running)[0]) == [8, 9, 10, 11]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loader_of_errors_only_ends(prefetch):
    running = iter(AugmentedLoader(DataLoader(Coded(2, bad=[0, 1]), 2), tag="t", prefetch=prefetch))
    with pytest.raises(KeyError):
        next(running)
    with pytest.raises(StopIteration):
        next(running)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_thread_is_left_after_a_pass_is_broken_off(workers):
    gc.collect()  # passes that the errors of earlier tests still hold
    loader = mixed(stock(40, 4, num_workers=workers), transform=kornia(), prefetch=4)
    for _ in loader:
        break
    del loader
    assert no_thread()
    running = iter(mixed(stock(40, 4, num_workers=workers), prefetch=2))
    next(running)
    processes = list(getattr(running, "_workers", []))
    assert len(processes) == workers
    del running
    assert no_thread() and not any(process.is_alive() for process in processes)


def test_pending_batches_are_not_composed_any_more():
    composed = []

    def slow(images):
        composed.append(len(images))
        time.sleep(0.2)
        return images

    running = iter(AugmentedLoader(coded_batches(*[4] * 20), slow, prefetch=6))
    for _ in range(6):
        next(running)
    del running
    assert no_thread()
    assert len(composed) <= 7


def test_the_thread_starts_no_team_beside_the_consumers():
    teams = []

    def transform(images):
        teams.append(torch.get_num_threads())
        return images

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in AugmentedLoader([torch.rand(2, 1, 4, 4)], transform, prefetch=1):
            pass
        assert teams == [torch.get_num_threads() if torch.cuda.is_available() else 1]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_no_thread_is_left_after_an_error():
    running = iter(AugmentedLoader(DataLoader(Coded(40, bad=[6]), 4), tag="t"))
    with pytest.raises(KeyError):
        list(running)
    del running
    gc.collect()
    assert no_thread()


class Interrupted(Coded):
    def __getitem__(self, index):
        if index == 9:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_ctrl_c_reaches_the_consumer_at_once(prefetch):
    running = iter(AugmentedLoader(DataLoader(Interrupted(), 4), tag="t", prefetch=prefetch))
    with pytest.raises(KeyboardInterrupt):
        list(running)
    del running
    gc.collect()
    assert no_thread()


class Threads(Coded):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def __getitem__(self, index):
        self.names.append(threading.current_thread())
        return super().__getitem__(index)


def test_nothing_but_the_background_thread_composes():
    names = []
    spy = lambda images: (names.append(threading.current_thread().name), images)[1]  # noqa: E731
    for prefetch, prefix in ((0, "MainThread"), (2, "torchaug_gen")):
        names.clear()
        list(AugmentedLoader(stock(), spy, prefetch=prefetch))
        assert names and all(name.startswith(prefix) for name in names)
    data = Threads(names)
    names.clear()
    list(mixed(DataLoader(data, 4), synthesizer=Drawn()))
    assert set(names) == {threading.main_thread()}


@pytest.mark.parametrize("options", [{"mixing": "rebatch"}, {"mixing": "extend"}, {"mixing": "replace"}, {"tag": "t"}])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_nothing_waits_for_the_garbage_collector(options, prefetch):
    # Worker processes in a cycle live until it is collected, and are then joined for five seconds each.
    gc.collect()
    gc.disable()
    try:
        loader = mixed(stock(shuffle=True), prefetch=prefetch, **options)
        running = iter(loader)
        next(running)
        held = [weakref.ref(thing) for thing in (loader, running, running._opened.reading, running._opened.prefetcher)]
        del loader, running
        assert [thing() for thing in held] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_threads_that_share_a_pass_get_each_batch_once(prefetch):
    running = iter(AugmentedLoader(stock(60, 2), lambda images: images.clone(), prefetch=prefetch))
    got, errors = [], []

    def consume():
        try:
            for images, _ in running:
                got.extend(real_ids(images))
        except Exception as error:
            errors.append(error)

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    assert not errors and sorted(got) == list(range(60))


def test_persistent_workers_end_with_their_loader():
    loader = mixed(stock(num_workers=2, persistent_workers=True))
    running = iter(loader)
    next(running)
    processes = running._workers
    del loader, running
    assert not any(process.is_alive() for process in processes)
