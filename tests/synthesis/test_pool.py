"""A pool delivers by arithmetic, never by timing, from a bounded store, and leaves no thread behind."""

import copy
import gc
import pickle
import random
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from fakes import stock
from torch.utils.data import DataLoader, Dataset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer
from torchaug_gen.synthesis.pool.pool import SyntheticPool
from torchaug_gen.synthesis.pool.refill import Refill
from torchaug_gen.synthesis.synthesizer import Synthesizer

CLASSES = 4
SIZE = (3, 2, 4)


class Spelt(Synthesizer):
    """Spells position, label, epoch and seed in the pixels; may be slow, and may fail."""

    chunk = 8

    def __init__(self, num_classes=CLASSES, sleep=0.0, bad=(), size=SIZE):
        super().__init__(size, num_classes=num_classes)
        self.sleep, self.bad, self.calls = sleep, set(bad), []

    def draw(self, labels, *, seed, epoch, positions):
        self.calls.append(len(positions))
        if self.sleep:
            time.sleep(random.Random(len(self.calls)).random() * self.sleep)
        if self.bad & set(positions.tolist()):
            raise ArithmeticError("cannot draw")
        pixels = torch.zeros(len(positions), *self.image_shape, dtype=torch.uint8)
        pixels[:, 0, 0] = torch.stack([(positions >> shift) & 255 for shift in (0, 8, 16, 24)], dim=1)
        pixels[:, 1] = 0 if labels is None else labels[:, None, None]
        pixels[:, 2, 0, 0], pixels[:, 2, 0, 1] = epoch, seed
        return pixels


class Third:
    """A gate that turns away two thirds of the candidates."""

    def passes(self, images, labels, *, seed, epoch, positions):
        return positions % 3 == 1


def spelt(images):
    """Return (position, label, epoch, seed) of each image."""
    pixels = images.long()
    positions = sum(pixels[:, 0, 0, byte] << 8 * byte for byte in range(4))
    rest = (pixels[:, 1, 0, 0], pixels[:, 2, 0, 0], pixels[:, 2, 0, 1])
    return list(zip(positions.tolist(), *(part.tolist() for part in rest), strict=True))


def pool(source=None, **options):
    return SyntheticPool(source or Spelt(), **{"capacity": 160, "reuse": 5} | options)


def no_thread(seconds=2.0):
    end = time.monotonic() + seconds
    while any(thread.name.startswith("torchaug_gen") for thread in threading.enumerate()):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert no_thread()


N = 3000
LABELS = torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(0))


def taken(of, rows, **options):
    rows = torch.as_tensor(rows)
    return of.sample(labels=LABELS[rows], positions=rows, **{"seed": 7, "epoch": 2} | options)[0]


@pytest.fixture(scope="module")
def expected():
    of = pool()
    return torch.cat([taken(of, range(start, start + 30)) for start in range(0, N, 30)])


@pytest.fixture(scope="module")
def gated():
    of = pool(gates=Third())
    return torch.cat([taken(of, range(start, start + 30)) for start in range(0, N, 30)])


def test_images_are_the_synthesizers_own_of_the_label_epoch_and_seed(expected):
    positions, labels, epochs, seeds = zip(*spelt(expected), strict=True)
    assert list(labels) == LABELS.tolist()
    assert set(epochs) == {2} and set(seeds) == {7}
    assert {position % CLASSES == label for position, label in zip(positions, labels, strict=True)} == {True}
    again, _ = Spelt().sample(labels=LABELS, positions=positions, seed=7, epoch=2)
    assert torch.equal(expected, again)


def test_samples_are_reused_as_often_as_was_asked_on_average_and_never_more_than_for_one_class(expected):
    counts = torch.tensor(list({code: spelt(expected).count(code) for code in set(spelt(expected))}.values()))
    assert counts.max() <= 5 * CLASSES
    # The last blocks were still in use.
    assert 3.5 < counts.double().mean() <= 5.5
    of = pool()
    for start in range(0, 20_000, 200):
        of.sample(labels=torch.arange(200) % CLASSES, positions=range(start, start + 200))
    assert 4.7 < of.stats.reuse < 5.1


@pytest.mark.parametrize("sizes", [(1,), (7,), (500,), (3, 64, 1, 200), (N,)])
def test_any_split_into_batches_gives_the_same(expected, sizes):
    of, start, step = pool(), 0, 0
    stop = 400 if sizes == (1,) else N
    while start < stop:
        size = min(sizes[step % len(sizes)], stop - start)
        assert torch.equal(taken(of, range(start, start + size)), expected[start : start + size])
        start, step = start + size, step + 1


@pytest.mark.parametrize("gates", [(), Third()])
def test_any_timing_gives_the_same(expected, gated, gates):
    of, pause = pool(Spelt(sleep=0.004), gates=gates), random.Random(1)
    for start in range(0, 1200, 40):
        wanted = (gated if gates else expected)[start : start + 40]
        assert torch.equal(taken(of, range(start, start + 40)), wanted)
        time.sleep(pause.random() * 0.01)
    assert of.stats.late + of.stats.cold and of.stats.waited > 0


@pytest.mark.parametrize("start", [1, 77, 640, 1999, 2970])
def test_a_pool_that_starts_anywhere_goes_on_as_if_it_had_been_there(expected, gated, start):
    for of, wanted in ((pool(), expected), (pool(gates=[Third()]), gated)):
        assert torch.equal(taken(of, range(start, start + 30)), wanted[start : start + 30])
        # What it draws for that is no more than it holds.
        assert of.stats.drawn <= of.capacity


def test_random_access_gives_the_same(expected):
    of, order = pool(), torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for rows in order[:900].split(90):
        assert torch.equal(taken(of, rows), expected[rows])


def test_two_ranks_together_get_what_one_gets(expected):
    ranks = [pool(), pool()]
    for start in range(0, 1000, 50):
        for rank, of in enumerate(ranks):
            rows = range(start + rank, start + 50, 2)
            assert torch.equal(taken(of, rows), expected[list(rows)])


def test_lanes_spare_ranks_each_others_samples():
    whole = pool(lanes=2)
    together = torch.cat([taken(whole, range(start, start + 60)) for start in range(0, N, 60)])
    for rank in range(2):
        of = pool(lanes=2)
        mine = torch.cat([taken(of, range(start + rank, start + 60, 2)) for start in range(0, N, 60)])
        assert torch.equal(mine, together[rank::2])
        shared = pool()
        for start in range(0, N, 60):
            taken(shared, range(start + rank, start + 60, 2))
        assert of.stats.reuse > 1.5 * shared.stats.reuse
    first, second = (set(spelt(together[rank::2])) for rank in range(2))
    assert not first & second


def test_epochs_and_seeds_have_samples_of_their_own():
    of = pool()
    keys = [(0, 7), (1, 7), (1, 8), (0, 8), (0, 7)]
    drawn = [spelt(taken(of, range(300), epoch=epoch, seed=seed)) for epoch, seed in keys]
    assert [{code[2:] for code in codes} for codes in drawn] == [{key} for key in keys]
    assert drawn[0] == drawn[4]
    assert [code[0] for code in drawn[0]] != [code[0] for code in drawn[1]] != [code[0] for code in drawn[2]]


def test_two_consumers_at_once_get_what_each_gets_alone():
    of, wrong = pool(Spelt(sleep=0.001)), []
    alone = {epoch: torch.cat([taken(pool(), range(600), epoch=epoch)]) for epoch in (0, 1)}

    def consume(epoch):
        for start in range(0, 600, 20):
            if not torch.equal(taken(of, range(start, start + 20), epoch=epoch), alone[epoch][start : start + 20]):
                wrong.append((epoch, start))

    threads = [threading.Thread(target=consume, args=(epoch,)) for epoch in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("capacity", [8, 64, 160, 1000])
@pytest.mark.parametrize("reuse", [2, 50])
def test_no_more_is_held_than_there_is_capacity_for(capacity, reuse):
    of = pool(capacity=capacity, reuse=reuse)
    seen = torch.cat([taken(of, range(start, start + 25)) for start in range(0, 1000, 25)])
    assert no_thread()
    held = [shelf._images for shelf in of._shelves.values()]
    assert sum(images.flatten(0, 1).shape[0] for images in held) <= capacity
    assert torch.equal(seen, taken(pool(capacity=capacity, reuse=reuse), range(1000)))


def test_chunks_are_always_full():
    source = Spelt()
    of = pool(source)
    for start in range(0, 2000, 13):
        taken(of, range(start, start + 13))
    assert no_thread()
    assert set(source.calls) == {source.chunk}


@pytest.mark.parametrize("num_classes", [CLASSES, None])
def test_reuse_of_one_is_always_fresh_and_the_synthesizers_own(num_classes):
    noise = NoiseSynthesizer((1, 5, 5), num_classes=num_classes)
    of = SyntheticPool(noise, capacity=50, reuse=1)
    images, labels = of.sample(100, seed=3)
    fresh, own = noise.sample(100, seed=3)
    assert torch.equal(images, fresh.mul(255).round().to(torch.uint8))
    assert labels is own is None or torch.equal(labels, own)
    assert of.stats.drawn == of.stats.delivered == 100


def test_without_classes_every_sample_is_delivered_exactly_as_often_as_was_asked():
    of = pool(Spelt(num_classes=None), capacity=48, reuse=3)
    images = torch.cat([of.sample(positions=range(start, start + 10))[0] for start in range(0, 3000, 10)])
    numbers = torch.tensor([code[0] for code in spelt(images)])
    counts = numbers.bincount()
    assert set(counts[: -2 * 48].tolist()) == {3}


def test_weights_let_common_classes_be_reused_no_more_than_rare_ones():
    weights = [12, 4, 2, 2]
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(weights).double().multinomial(N, replacement=True, generator=generator)

    def reuse(of):
        batches = zip(labels.split(50), torch.arange(N).split(50), strict=True)
        codes = [code for part, rows in batches for code in spelt(of.sample(labels=part, positions=rows)[0])]
        return [int((labels == label).sum()) / len({code for code in codes if code[1] == label}) for label in range(4)]

    alike, weighted = reuse(pool(capacity=640)), reuse(pool(capacity=640, weights=weights))
    assert max(alike) > 3 * min(alike)
    assert max(weighted) < 1.3 * min(weighted)


def test_with_weights_too_a_batch_may_hold_any_classes():
    labels = torch.tensor([0, 3, 3, 1, 0, 2])
    whole = spelt(pool(capacity=640, weights=[12, 4, 2, 2]).sample(labels=labels)[0])
    of = pool(capacity=640, weights=[12, 4, 2, 2])
    assert [spelt(of.sample(labels=labels[row : row + 1], positions=[row])[0])[0] for row in range(6)] == whole


def test_a_jump_is_cold_and_what_was_asked_for_and_is_not_there_is_late():
    of = pool()
    taken(of, range(30))
    assert (of.stats.cold, of.stats.late) == (CLASSES, 0)
    slow = pool(Spelt(sleep=0.03))
    for start in range(0, 900, 30):
        taken(slow, range(start, start + 30))
    assert slow.stats.late > 5 and slow.stats.waited > 0.1
    easy = pool()
    for start in range(0, 900, 30):
        taken(easy, range(start, start + 30))
        assert no_thread()
    assert (easy.stats.cold, easy.stats.late) == (CLASSES, 0)
    assert "4 cold and 0 late" in str(easy.stats)


class Items(Dataset):
    """Items out of a pool, for workers to draw."""

    def __init__(self, of):
        self.of = of

    def __len__(self):
        return 400

    def __getitems__(self, rows):
        return list(taken(self.of, rows))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_draw_the_same(expected, method):
    of = pool(Spelt(sleep=0.002))
    taken(of, range(200))  # the thread is at work when workers are forked off
    loader = DataLoader(Items(of), 25, num_workers=2, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), expected[:400])
    assert torch.equal(taken(of, range(200, 400)), expected[200:400])


def test_copies_hold_nothing_and_draw_the_same(expected):
    of = pool()
    taken(of, range(500))
    for twin in (pickle.loads(pickle.dumps(of)), copy.deepcopy(of)):
        assert twin.stats.delivered == 0 and not twin._shelves
        assert torch.equal(taken(twin, range(400, 500)), expected[400:500])
    assert len(pickle.dumps(of)) < 10_000


def test_a_failure_is_raised_where_its_sample_is_needed_and_only_there(expected):
    codes = spelt(expected)
    bad = codes[1500][0]
    first = next(
        row
        for row, code in enumerate(codes)
        if code[0] // CLASSES // 8 == bad // CLASSES // 8 and code[1] == bad % CLASSES
    )
    source = Spelt(bad=[bad])
    of = pool(source)
    for start in range(0, first, 1):
        assert torch.equal(taken(of, [start]), expected[start : start + 1])
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="cannot draw"):
            taken(of, [first])
    source.bad = set()
    assert torch.equal(taken(of, [first]), expected[first : first + 1])


def test_a_pool_that_is_dropped_ends_its_thread_and_frees_its_store():
    of = pool(Spelt(sleep=0.05), capacity=1000, reuse=2)
    taken(of, range(100))
    gone = weakref.ref(of)
    del of
    gc.collect()
    assert no_thread(1.0)
    gc.collect()
    assert gone() is None


def test_a_pool_at_rest_draws_nothing_more_and_goes_on_when_asked(expected):
    source = Spelt(sleep=0.1)
    of = pool(source, capacity=1000, reuse=2)
    taken(of, range(300))
    assert len(of._refill._pending) > 1
    of.rest()
    calls = len(source.calls)
    assert no_thread(0.3)
    assert len(source.calls) <= calls + 1
    fresh = pool(capacity=1000, reuse=2)
    assert torch.equal(taken(of, range(300, 400)), taken(fresh, range(300, 400)))


def test_the_program_ends_while_the_thread_is_at_work():
    code = (
        "import sys, time; sys.path[:0] = sys.argv[1:]\n"
        "from test_pool import Spelt, pool, taken\n"
        "of = pool(Spelt(sleep=0.2), capacity=4000, reuse=2); taken(of, range(20)); print('done', flush=True)\n"
        "of._refill._pending and print('pending', flush=True)"
    )
    folders = [path for path in sys.path if path.endswith(("tests", "synthesis"))]
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, *folders], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"done\n"
    end = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - end < 2.0 + 0.5 * (end - start)


def test_the_global_generators_are_not_touched(untouched_rng):
    of = pool(NoiseSynthesizer((1, 8, 8), num_classes=CLASSES), gates=Third())
    for start in range(0, 400, 20):
        taken(of, range(start, start + 20))


def test_no_images_are_no_error():
    images, labels = pool().sample(0)
    assert images.shape == (0, *SIZE) and labels.shape == (0,)


def test_images_can_be_trained_on_and_drawn_in_inference_mode(expected):
    of = pool()
    with torch.inference_mode():
        taken(of, range(20))
    images = taken(of, range(20))
    weight = torch.ones(1, requires_grad=True)
    (images.float() * weight).sum().backward()
    assert torch.equal(images, expected[:20])


@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
def test_a_loader_gives_the_same_batches_however_far_ahead_it_is(mixing):
    def batches(prefetch, gates=()):
        source = pool(Spelt(num_classes=5, size=(3, 4, 4), sleep=0.002), gates=gates)
        loader = AugmentedLoader(
            stock(60, 8, shuffle=True), synthesizer=source, synthetic_fraction=0.4, mixing=mixing, prefetch=prefetch
        )
        return [part for _ in range(2) for batch in loader for part in batch]

    expected = batches(0)
    assert all(torch.equal(a, b) for a, b in zip(batches(3), expected, strict=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be an integer of at least 1, got 0"),
        ({"capacity": 7}, ValueError, "capacity must be at least two for each of 4 classes, 8, got 7"),
        ({"capacity": 2.5}, ValueError, r"capacity must be an integer .* got 2\.5"),
        ({"reuse": 0}, ValueError, "reuse must be an integer of at least 1, got 0"),
        ({"reuse": True}, ValueError, "reuse must be .* got True"),
        ({"lanes": 0}, ValueError, "lanes must be"),
        ({"weights": [1, 2]}, ValueError, r"weights must be \(4,\)"),
        ({"gates": [3]}, TypeError, "a gate must be an object with passes"),
        ({"gates": Third}, TypeError, "a gate must be an object with passes"),
        ({"source": "model"}, TypeError, "synthesizer must be a Synthesizer, got str"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        pool(**options)


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match=r"0\.\.3, got 0\.\.4"):
        pool().sample(labels=[0, 4])
    with pytest.raises(ValueError, match="positions must be at least 0, got -1"):
        pool().sample(labels=[0], positions=[-1])


def test_a_pool_has_nothing_to_save(tmp_path):
    with pytest.raises(TypeError, match="no file format"):
        pool().save(tmp_path)
    assert repr(pool()) == "SyntheticPool(Spelt, capacity=160, reuse=5)"


class Once:
    """Work that fails the first time it is done for each key."""

    def __init__(self, error=ZeroDivisionError):
        self.done, self.error = [], error

    def work(self, key):
        self.done.append(key)
        if self.done.count(key) == 1:
            raise self.error("by design")
        return key


def test_what_failed_ahead_is_told_to_who_needs_it_and_then_tried_again():
    once = Once()
    refill = Refill(once.work)
    ahead, _ = refill.ask("a", urgent=False)
    assert isinstance(ahead.exception(timeout=10), ZeroDivisionError)
    again, known = refill.ask("a", urgent=False)
    assert again is ahead and known and once.done == ["a"]
    needed, known = refill.ask("a", urgent=True)
    with pytest.raises(ZeroDivisionError):
        needed.result()
    assert known and refill.ask("a", urgent=True)[0].result(timeout=10) == "a"


def test_what_lacked_memory_ahead_is_tried_again_once_it_is_needed():
    once = Once(torch.OutOfMemoryError)
    refill = Refill(once.work)
    ahead, _ = refill.ask("a", urgent=False)
    assert isinstance(ahead.exception(timeout=10), torch.OutOfMemoryError)
    assert refill.ask("a", urgent=True)[0].result(timeout=10) == "a"
