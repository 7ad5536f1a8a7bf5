"""A state saved behind any batch gives the batches that would have followed, bit for bit, in a fresh loader."""

import json
import random
import subprocess
import sys
import warnings
from itertools import cycle

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from fakes import CLASSES, Coded, CodedStream, Drawn, Listed, coded_batches, image, mixed, real_ids, same, stock
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from torchaug_gen import MixedIterableDataset, MixUp

WAYS = ("rebatch", "extend", "replace")


class Seekable(CodedStream):
    """A stream whose coming pass can be begun behind any item of its worker."""

    start = 0

    def seek(self, position):
        self.start = position

    def __iter__(self):
        start, self.start = self.start, 0
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first + start * step, self.length, step):
            yield image(index), index % CLASSES


class Remembers(IterableDataset):
    """A stream that draws from a generator of its own, and keeps its state; in the next epoch it begins anew."""

    carries = False

    def __init__(self, length=23):
        self.length, self.done, self.random = length, 0, random.Random(3)

    def state_dict(self):
        return {"done": self.done, "random": self.random.getstate()}

    def load_state_dict(self, state):
        self.done = state["done"]
        self.random.setstate(state["random"])

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while self.done < len(range(first, self.length, step)):
            self.done += 1
            yield image(first + (self.done - 1) * step), self.random.randrange(CLASSES)
        self.done = 0
        if not self.carries:
            self.random = random.Random(3)


class Carries(Remembers):
    """One whose generator goes on in the next epoch from where it was."""

    carries = True


class Places(IterableDataset):
    """A stream whose state is its place alone, which it goes on from when it is read next, and else from its start."""

    def __init__(self, length=24):
        self.length, self.done, self.asked = length, 0, 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.asked = state["done"]

    def __iter__(self):
        self.done, self.asked = self.asked, 0
        while self.done < self.length:
            self.done += 1
            yield image(self.done - 1), self.done % CLASSES


class Draws(Coded):
    """A data set with random transforms of its own, from all three global generators."""

    def __getitem__(self, index):
        picture, label = super().__getitem__(index)
        picture[2, 1, 1] = torch.randint(256, ())
        picture[2, 1, 2] = random.randrange(256)
        picture[2, 1, 3] = np.random.randint(256)
        return picture, label


class DrawsWhole(Draws):
    """One that loads a whole batch at a time, and draws for all of it before it looks at an index."""

    def __getitems__(self, indices):
        noise = torch.randint(256, (8,)).tolist(), np.random.randint(256), random.randrange(256)
        items = [super(DrawsWhole, self).__getitem__(index) for index in indices]
        for (picture, _), pixel in zip(items, noise[0], strict=False):
            picture[2, 2, :3] = torch.tensor([pixel, *noise[1:]])
        return items


class DrawsBatches(Draws):
    """One whose items are batches, for a loader with ``batch_size=None``."""

    def __getitem__(self, index):
        items = [super(DrawsBatches, self).__getitem__(4 * index + row) for row in range(4)]
        return torch.stack([picture for picture, _ in items]), torch.tensor([label for _, label in items])


class NumpySampler(Sampler):
    """A sampler that draws from NumPy's global generator."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return iter(np.random.permutation(len(self.data)).tolist())


class Shuffles(Sampler):
    """A sampler that draws from a generator of its own, on and on, and shuffles what it shuffled before."""

    def __init__(self):
        self.random, self.order = random.Random(3), list(range(23))

    def __len__(self):
        return len(self.order)

    def __iter__(self):
        self.random.shuffle(self.order)
        return iter(list(self.order))


class Remembering(Shuffles):
    """One that says what it remembers."""

    def state_dict(self):
        return {"random": self.random.getstate(), "order": list(self.order)}

    def load_state_dict(self, state):
        self.random.setstate(state["random"])
        self.order = list(state["order"])


class Pairs(Sampler):
    """A batch sampler of the user's own."""

    batch_size, drop_last = 4, False

    def __iter__(self):
        order = torch.randperm(23).tolist()
        return (order[at : at + 4] for at in range(0, 23, 4))

    def __len__(self):
        return 6


DATA = Coded(23)
MAP_STYLE = {
    "plain": lambda **o: DataLoader(DATA, 4, **o),
    "shuffle": lambda **o: DataLoader(DATA, 4, shuffle=True, **o),
    "drop_last": lambda **o: DataLoader(DATA, 4, shuffle=True, drop_last=True, **o),
    "generator": lambda **o: DataLoader(DATA, 4, shuffle=True, generator=torch.Generator().manual_seed(5), **o),
    "distributed": lambda **o: DataLoader(DATA, 4, sampler=DistributedSampler(DATA, 2, 1), **o),
    "weighted": lambda **o: DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0, 2.0] * 10, 23), **o),
    "subset": lambda **o: DataLoader(Subset(DATA, range(2, 22)), 4, shuffle=True, **o),
    "numpy": lambda **o: DataLoader(DATA, 4, sampler=NumpySampler(DATA), **o),
    "batches": lambda **o: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 4, False), **o),
    "own batches": lambda **o: DataLoader(DATA, batch_sampler=Pairs(), **o),
    "remembering": lambda **o: DataLoader(DATA, 4, sampler=Remembering(), **o),
    "draws": lambda **o: DataLoader(Draws(23), 4, shuffle=True, **o),
    "draws whole batches": lambda **o: DataLoader(DrawsWhole(23), 4, shuffle=True, **o),
}
STREAMS = {
    "seek": lambda **o: DataLoader(Seekable(), 4, **o),
    "seek uneven": lambda **o: DataLoader(Seekable(9), 4, **o),
    "state": lambda **o: DataLoader(Remembers(), 4, **o),
    "carried state": lambda **o: DataLoader(Carries(), 4, **o),
    "list": lambda **o: Listed(coded_batches(4, 4, 1, 9, 2, 0, 3), batch_size=4),
    "nested": lambda **o: mixed(DataLoader(DATA, 4, shuffle=True, **o), 0.2, dtype=torch.uint8, prefetch=1),
}


def between(real):
    """Return a stream of synthetic items between the real ones, which share themselves out over workers."""
    real.splits_itself = True
    return MixedIterableDataset(real, Drawn(), synthetic_fraction=0.3)


STREAMS |= {
    "mixed data set": lambda **o: DataLoader(MixedIterableDataset(DATA, Drawn(), synthetic_fraction=0.3), 4, **o),
    "mixed seek": lambda **o: DataLoader(between(Seekable()), 4, **o),
    "mixed carried state": lambda **o: DataLoader(between(Carries()), 4, **o),
}


def stateful(data, **options):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return torchdata.StatefulDataLoader(data, 4, **options)


STREAMS |= {
    "stateful": lambda **o: stateful(Remembers(24), **o),
    "stateful carried": lambda **o: stateful(Carries(24), **o),
    "stateful mixed": lambda **o: stateful(between(Remembers(24)), **o),
    "stateful map": lambda **o: stateful(Draws(23), shuffle=True, generator=torch.Generator(), **o),
}
LOADERS = MAP_STYLE | STREAMS
# What can only be read again up to a position.
REPEATED = {"unknown": lambda **o: DataLoader(CodedStream(), 4, **o)}


def warm_up(epoch, step):
    """A schedule that begins and ends at nothing."""
    return [0.0, 0.4, 0.75, 0.3, 0.0][(step + epoch) % 5]


def two_epochs(loader):
    """Return the batches of two epochs, and the state behind each, as text."""
    batches, states = [], [json.dumps(loader.state_dict())]
    for _ in range(2):
        for batch in loader:
            batches.append(batch)
            states.append(json.dumps(loader.state_dict()))
    return batches, states


def followers(make, state, epochs=2):
    """Return what a fresh loader delivers from a state on, up to the end of the second epoch."""
    loader = make()
    loader.load_state_dict(json.loads(state))
    assert json.dumps(loader.state_dict()) == state
    epoch = json.loads(state)["epoch"]
    return [batch for _ in range(epochs - epoch) for batch in loader]


def check(make, every=1):
    batches, states = two_epochs(make())
    assert len(batches) >= 4
    assert same([list(make())], [list(make())])
    for done in range(0, len(states), every):
        assert same(followers(make, states[done]), batches[done:]), done


# The two that differ most in all ways, each other one in one of them.
THIN = {(name, way) for name in ("shuffle", "seek") for way in WAYS} | set(zip(LOADERS, cycle(WAYS), strict=False))


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(("name", "mixing"), sorted(THIN))
def test_behind_some_batches_of_two_epochs(name, mixing):
    check(lambda: mixed(LOADERS[name](), 0.3, mixing=mixing, tag="synthetic"), every=5)


@pytest.mark.slow
@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("name", LOADERS)
def test_behind_every_batch_of_two_epochs(name, mixing):
    check(lambda: mixed(LOADERS[name](), 0.3, mixing=mixing, prefetch=2, labels="match", tag="synthetic"))


@pytest.mark.parametrize(
    ("mixing", "prefetch", "every"),
    [("rebatch", 0, 6), ("extend", 4, 4), ("replace", 4, 4)]
    + [pytest.param(mixing, prefetch, 1, marks=pytest.mark.slow) for mixing in WAYS for prefetch in (0, 2, 4)],
)
def test_at_every_prefetch(mixing, prefetch, every):
    def make(prefetch=prefetch):
        stages = [K.RandomAffine(20.0, p=1.0), K.RandomErasing(p=0.5), MixUp(alpha=0.4)]
        return mixed(MAP_STYLE["shuffle"](), warm_up, mixing=mixing, transform=stages, prefetch=prefetch, seed=5)

    check(make, every)
    assert same(list(make(1)), list(make()))


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("make", [lambda: stateful(Places()), lambda: DataLoader(Places(), 4)])
def test_behind_a_whole_epoch_of_a_stream_that_keeps_its_place(make, prefetch):
    loader = mixed(make(), 0.3, prefetch=prefetch)
    list(loader)
    state = loader.state_dict()
    whole = list(loader)
    other = mixed(make(), 0.3, prefetch=prefetch)
    other.load_state_dict(state)
    assert len(whole) > 6 and same(list(other), whole)
    assert same(list(other), list(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torchdata_loader_that_was_asked_for_its_state(workers):
    asked = stateful(DATA, shuffle=True, num_workers=workers)
    asked.state_dict()
    assert same(list(mixed(asked, 0.3)), list(mixed(stateful(DATA, shuffle=True), 0.3)))


class Spoilt:
    """A ``collate_fn`` that raises for the batches with some items."""

    def __init__(self, *items):
        self.items = set(items)

    def __call__(self, items):
        if self.items & set(real_ids([picture for picture, _ in items])):
            raise ZeroDivisionError("by design")
        return default_collate(items)


def with_errors(loader):
    """Return the batches of a pass, ``None`` for each that raised, and the state behind each, as text."""
    running, batches, states = iter(loader), [], []
    while True:
        try:
            batches.append(next(running))
        except ZeroDivisionError:
            batches.append(None)
        except StopIteration:
            return batches, states
        states.append(json.dumps(loader.state_dict()))


@pytest.mark.filterwarnings("ignore:.*cannot be positioned")
@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("name", ["shuffle", "seek", "seek uneven", "state", "unknown"])
def test_behind_a_batch_that_was_lost(name, mixing, prefetch):
    behind_errors(name, mixing, prefetch)


@pytest.mark.parametrize(("name", "mixing"), [("seek", "extend"), ("seek uneven", "rebatch"), ("state", "replace")])
def test_behind_a_batch_that_a_worker_lost(name, mixing):
    behind_errors(name, mixing, 2, num_workers=2)


def behind_errors(name, mixing, prefetch, **options):
    lost = Spoilt(1, 8, 17)
    make = lambda: mixed((LOADERS | REPEATED)[name](collate_fn=lost, **options), 0.3, mixing=mixing, prefetch=prefetch)  # noqa: E731
    batches, states = with_errors(make())
    assert None in batches and None in batches[:-2]
    for done, (batch, state) in enumerate(zip(batches, states, strict=True), 1):
        # Directly behind an error, the place is that behind the batch before it: the lost one is tried again.
        if batch is not None:
            other = make()
            other.load_state_dict(json.loads(state))
            assert same(with_errors(other)[0], batches[done:]), done


@pytest.mark.parametrize("labels", ["balance", [1.0, 2.0, 3.0, 0.0, 1.0], lambda real, positions: positions % CLASSES])
@pytest.mark.parametrize("name", ["shuffle", "seek"])
def test_the_choice_of_classes_goes_on(name, labels):
    check(lambda: mixed(LOADERS[name](), warm_up, labels=labels), every=3)


@pytest.mark.parametrize("fraction", [0.9, 0.95])
def test_batches_without_a_real_row_match_the_latest_labels(fraction):
    check(lambda: mixed(stock(7, 3, shuffle=True), fraction, prefetch=0), every=17)


WITH_WORKERS = (
    *("shuffle", "draws", "draws whole batches", "remembering", "mixed data set", "mixed seek", "stateful mixed"),
    *("seek", "seek uneven", "state", "stateful", "stateful map"),
)


@pytest.mark.parametrize(
    ("name", "mixing", "every"),
    [
        ("draws", "rebatch", 9),
        ("seek", "extend", 9),
        ("mixed data set", "replace", 9),
        ("stateful mixed", "rebatch", 13),
    ]
    + [pytest.param(name, mixing, 2, marks=pytest.mark.slow) for name in WITH_WORKERS for mixing in WAYS],
)
def test_with_workers(name, mixing, every):
    check(lambda: mixed(LOADERS[name](num_workers=2), 0.3, mixing=mixing), every)


@pytest.mark.parametrize("name", ["draws", "seek", "state"])
def test_with_persistent_workers(name):
    loader = lambda: mixed(LOADERS[name](num_workers=2, persistent_workers=True), 0.3)  # noqa: E731
    batches, states = two_epochs(loader())
    half = json.loads(states[3])
    resumed = loader()
    for _ in range(2):
        # Also into a loader whose workers run already, and the epoch behind the resumed one.
        resumed.load_state_dict(half)
        assert same([*resumed, *resumed], batches[3:])


@pytest.mark.parametrize("mixing", WAYS)
def test_what_a_sampler_remembers_is_part_of_the_state(mixing):
    make = lambda: mixed(MAP_STYLE["remembering"](), 0.3, mixing=mixing)  # noqa: E731
    check(make, every=4)
    loader, between = make(), make()
    first, second = list(loader), list(loader)
    assert not same(first, second)
    list(between)
    # Also between two epochs, and into a loader that has come further.
    state = json.dumps(between.state_dict())
    assert same(followers(make, state), second)
    loader.load_state_dict(json.loads(state))
    assert same(list(loader), second)


def test_an_order_that_nothing_tells_is_warned_of():
    def resumed(loader, epoch):
        loader.set_epoch(epoch)
        next(iter(loader))
        loader.load_state_dict(loader.state_dict())

    make = lambda: mixed(DataLoader(DATA, 4, sampler=Shuffles()), 0.3)  # noqa: E731
    with pytest.warns(
        RuntimeWarning, match="the sampler of DataLoader gives another order each time .* epoch 1 cannot"
    ):
        resumed(make(), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed(make(), 0)
        for inner in MAP_STYLE.values():
            resumed(mixed(inner(), 0.3), 1)


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("name", ["draws", "draws whole batches"])
def test_the_number_of_workers_may_change_where_indices_decide(name):
    batches, states = two_epochs(mixed(MAP_STYLE[name](num_workers=2), 0.3))
    assert same(followers(lambda: mixed(MAP_STYLE[name](), 0.3, prefetch=0), states[5]), batches[5:])


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("mixing", ["extend", pytest.param("replace", marks=pytest.mark.slow)])
def test_batches_that_the_data_set_makes(mixing):
    def make(workers=0, **options):
        inner = DataLoader(DrawsBatches(6), batch_size=None, shuffle=True, num_workers=workers)
        return mixed(inner, 0.3, mixing=mixing, **options)

    check(make, every=3)
    batches, states = two_epochs(make(2))
    assert same(followers(make, states[2]), batches[2:])
    assert same(batches[:6], list(make(prefetch=0)))


def test_the_number_of_workers_may_not_change_in_a_stream():
    loader = mixed(STREAMS["seek"](num_workers=2), 0.3)
    next(iter(loader))
    other = mixed(STREAMS["seek"](), 0.3)
    with pytest.raises(ValueError, match=r"num_workers=2 over an IterableDataset.*this loader has 0"):
        other.load_state_dict(loader.state_dict())
    # Refused, it is as it was.
    assert same(list(other), list(mixed(STREAMS["seek"](), 0.3)))
    # And where the number is changed behind the check, every try says so, and none goes on with another epoch.
    other = mixed(STREAMS["seek"](num_workers=2), 0.3)
    other.load_state_dict(loader.state_dict())
    other.num_workers, running = 0, iter(other)
    for _ in range(2):
        with pytest.raises(ValueError, match="num_workers=2 over an IterableDataset"):
            next(running)
    assert json.dumps(other.state_dict()) == json.dumps(loader.state_dict())


class Counted(Listed):
    """A loader with a state of its own, whose words are also ours."""

    done = 0

    def __iter__(self):
        while self.done < len(self):
            self.done += 1
            yield self[self.done - 1]
        self.done = 0

    def state_dict(self):
        return {"states": [self.done], "left": len(self) - self.done}

    def load_state_dict(self, state):
        [self.done] = state["states"]


def test_the_state_of_a_loader_may_have_any_keys():
    check(lambda: mixed(Counted(coded_batches(23, 4), batch_size=4), 0.3, mixing="extend"), every=2)


def test_states_without_that_of_this_rank_are_refused_by_what_differs():
    make = lambda rank, ranks: mixed(DataLoader(DATA, 4, sampler=DistributedSampler(DATA, ranks, rank)))  # noqa: E731
    states = [make(rank, 2).state_dict() for rank in range(2)]
    with pytest.raises(ValueError, match="saved with ranks=2, but this loader has ranks=4"):
        make(3, 4).load_state_dict(states)


class Once:
    """A transform that raises at its first call."""

    def __init__(self, error):
        self.error = error

    def __call__(self, images):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return images


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("name", ["shuffle", "seek", "carried state", "stateful carried"])
def test_before_a_pass_has_delivered_anything_nothing_of_it_is_lost(name, error):
    make = lambda transform=None: mixed(LOADERS[name](), 0.3, transform=transform, prefetch=0)  # noqa: E731
    batches, states = two_epochs(make())
    between = make()
    ahead = len(list(between))
    for done, state in ((0, states[0]), (2, states[2]), (ahead, json.dumps(between.state_dict()))):
        loader = make(Once(error))
        loader.load_state_dict(json.loads(state))
        running = iter(loader)
        with pytest.raises(error):
            next(running)
        del running
        assert same(followers(make, json.dumps(loader.state_dict())), batches[done:]), done


def test_what_keeps_a_pass_from_beginning_costs_no_epoch():
    asked = []

    def schedule(epoch, step):
        # The length of a rebatched epoch is asked for before anything is read.
        asked.append(epoch)
        if len(asked) < 4:
            raise ZeroDivisionError
        return 0.3

    running = iter(mixed(MAP_STYLE["shuffle"](), schedule, prefetch=0))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            next(running)
    assert same(list(running), list(mixed(MAP_STYLE["shuffle"](), 0.3)))
    assert set(asked) == {0}


def test_nothing_that_comes_before_is_loaded():
    for mixing in WAYS:
        loader = mixed(DataLoader(Coded(40), 4, shuffle=True), 0.3, mixing=mixing, prefetch=0)
        running = iter(loader)
        seen = [index for _ in range(5) for index in real_ids(next(running)[0])]
        data = Coded(40)
        other = mixed(DataLoader(data, 4, shuffle=True), 0.3, mixing=mixing, prefetch=0)
        other.load_state_dict(loader.state_dict())
        left = list(other)
        assert left and not set(seen) & set(data.loaded)


def test_a_pass_that_is_broken_off_can_be_gone_on_with():
    make = lambda: mixed(MAP_STYLE["shuffle"](), 0.3, prefetch=4)  # noqa: E731
    whole, loader = list(make()), make()
    for number, _ in enumerate(loader):
        if number == 2:
            break
    other = make()
    other.load_state_dict(loader.state_dict())
    assert same(list(other), whole[3:])
    loader.load_state_dict(loader.state_dict())
    assert same(list(loader), whole[3:])


def test_behind_the_last_batch_the_epoch_is_over_but_not_yet_ended():
    make = lambda: mixed(MAP_STYLE["shuffle"](), 0.3)  # noqa: E731
    loader = make()
    running = iter(loader)
    for _ in range(len(loader)):
        next(running)
    other = make()
    other.load_state_dict(loader.state_dict())
    assert list(other) == []
    first = list(other)
    with pytest.raises(StopIteration):
        next(running)
    assert loader.state_dict()["epoch"] == 1 and loader.state_dict()["step"] == 0
    again = make()
    again.load_state_dict(loader.state_dict())
    assert same(list(again), first)


def test_another_epoch_that_is_set_begins_at_its_start():
    make = lambda: mixed(MAP_STYLE["shuffle"](), 0.3)  # noqa: E731
    loader = make()
    next(iter(loader))
    state, second = loader.state_dict(), list(loader)
    loader.load_state_dict(state)
    loader.set_epoch(0)  # as scripts for DDP do: the same epoch
    assert same(list(loader), list(make())[1:])
    loader.load_state_dict(state)
    loader.set_epoch(1)
    with pytest.warns(RuntimeWarning, match="the state that was loaded is of epoch 0, but epoch 1 was set since"):
        assert same(list(loader), second)


def test_what_cannot_be_positioned_is_read_again_with_a_warning():
    make = lambda: mixed(DataLoader(CodedStream(), 4), 0.3)  # noqa: E731
    batches, states = two_epochs(make())
    with pytest.warns(RuntimeWarning, match=r"DataLoader over CodedStream cannot be positioned: 2 batches are read"):
        assert same(followers(make, states[3]), batches[3:])


def test_a_state_is_small():
    loader = mixed(DataLoader(Coded(4000), 256, shuffle=True), 0.3, labels="balance")
    next(iter(loader))
    assert len(json.dumps(loader.state_dict())) < 2000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "saved with seed=0, but this loader has seed=1"),
        ({"fraction": 0.4}, "synthetic_fraction='3/10', but this loader has synthetic_fraction='2/5'"),
        ({"mixing": "extend"}, "mixing='rebatch'"),
        ({"labels": "balance"}, "labels='match'"),
        ({"inner": {"batch_size": 5}}, "batch_size=4, but this loader has batch_size=5"),
        ({"inner": {"drop_last": True}}, "drop_last=False"),
        ({"inner": {"length": 24}}, "items=23"),
        ({"inner": {"shuffle": True}}, "sampler="),
    ],
)
def test_a_state_of_other_settings_is_refused(options, words):
    state = mixed(stock(), 0.3).state_dict()
    other = mixed(stock(**options.pop("inner", {})), options.pop("fraction", 0.3), **options)
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (3, TypeError, "state must be what state_dict"),
        ({}, ValueError, "a dict with nothing in it"),
        ({"a": 1}, ValueError, "a dict with a"),
        ({"version": 99, "settings": {}}, ValueError, "the state has version 99, but this package reads version 1"),
        ({"version": 1, "settings": {}, "epoch": 0}, ValueError, "the state is damaged: 'step' is missing"),
    ],
)
def test_what_is_no_state_is_refused(state, error, words):
    with pytest.raises(error, match=words):
        mixed(stock()).load_state_dict(state)


FRESH = """
import json, pickle, sys
sys.path[:0] = sys.argv[1:]
from test_resume import LOADERS, mixed, warm_up
from torchaug_gen import MixUp
answers = []
for name, workers, state in json.load(sys.stdin):
    loader = mixed(LOADERS[name](num_workers=workers), warm_up, transform=[MixUp(alpha=0.4)], labels="balance")
    loader.load_state_dict(state)
    answers.append([[part.numpy() for part in batch] for batch in loader])
sys.stdout.buffer.write(pickle.dumps(answers))
"""


def test_in_a_fresh_process():
    import pickle

    asked, expected = [], []
    names = ("shuffle", "draws", "numpy", "distributed", "remembering", "seek", "state")
    beside = ("draws", "draws whole batches", "seek", "mixed data set")
    for name, workers in [*((name, 0) for name in names), *((name, 2) for name in beside)]:
        loader = mixed(LOADERS[name](num_workers=workers), warm_up, transform=[MixUp(alpha=0.4)], labels="balance")
        list(loader)
        running = iter(loader)
        for _ in range(3):
            next(running)
        asked.append((name, workers, loader.state_dict()))
        expected.append([[part.numpy() for part in batch] for batch in running])
    folders = [path for path in sys.path if path.endswith(("tests", "loading"))]
    command = [sys.executable, "-W", "ignore", "-c", FRESH, *folders]
    answer = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, check=True)
    assert same(pickle.loads(answer.stdout), expected)
