"""The order of a shuffling loader comes from (seed, epoch), and the user's own objects stay as they are."""

import copy
import functools
import operator
import pickle

import pytest
import torch
from fakes import Coded, mixed, real_ids, same, stock
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from torchaug_gen import AugmentedLoader
from torchaug_gen.loading.order import SeededOrder, regroup
from torchaug_gen.mixing import as_fraction, rebatch_splits

DATA = Coded(30)
SAMPLERS = {
    "shuffle": lambda g: {"shuffle": True, "generator": g},
    "random": lambda g: {"sampler": RandomSampler(DATA, replacement=True, num_samples=20, generator=g)},
    "weighted": lambda g: {"sampler": WeightedRandomSampler([1.0] * 30, 20, generator=g)},
    "subset": lambda g: {"sampler": SubsetRandomSampler(range(20), generator=g)},
}


def order(loader):
    return [index for batch in loader for index in real_ids(batch[0])]


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fraction", [0.0, 0.4])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_order_comes_from_the_seed_and_not_from_generators(name, fraction, workers):
    orders = []
    for own in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)):
        before = own.get_state()
        loader = mixed(DataLoader(DATA, 4, num_workers=workers, **SAMPLERS[name](own)), fraction, prefetch=1)
        orders.append([order(loader), order(loader)])
        assert torch.equal(before, own.get_state())
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    other = mixed(DataLoader(DATA, 4, **SAMPLERS[name](own)), fraction, seed=1)
    assert order(other) != orders[0][0]


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(
    "name",
    [
        *list(SAMPLERS)[:3],
        "subset",
    ],
)
def test_samplers_without_a_generator_leave_the_global_one(name):
    orders = []
    for state in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            orders.append(order(mixed(DataLoader(DATA, 4, **SAMPLERS[name](None)), 0.4)))
    assert orders[0] == orders[1]


def test_mixing_does_not_change_the_order_of_the_real_items():
    assert order(mixed(stock(shuffle=True), 0.0)) == order(mixed(stock(shuffle=True), 0.5))


def test_an_order_may_be_asked_for_twice():
    seeded = SeededOrder(RandomSampler(DATA), seed=3)
    early, late = iter(seeded), iter(seeded)
    assert list(early) == list(late) == list(seeded) and len(seeded) == 30
    seeded.epoch = 1
    assert list(seeded) != list(iter(SeededOrder(RandomSampler(DATA), seed=3)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 6), max_size=8),
    st.integers(1, 7),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    st.booleans(),
)
def test_groups_are_what_the_schedule_says(sizes, batch_size, fraction, drop_last):
    indices = iter(range(sum(sizes)))
    batches = iter([[next(indices) for _ in range(size)] for size in sizes])
    exact = as_fraction(fraction)
    options = {"batch_size": batch_size, "fractions": exact, "drop_last": drop_last}
    groups = list(regroup(batches, **options))
    splits = rebatch_splits(sum(sizes), batch_size, exact, drop_last=drop_last)
    assert [len(group) for group in groups] == [split.real for split in splits if split.real]
    assert functools.reduce(operator.iadd, groups, []) == list(range(sum(map(len, groups))))


def test_what_is_set_on_the_loader_later_counts():
    loader = mixed(stock(), 0.4)
    next(iter(loader))
    loader.collate_fn = lambda items: {"image": torch.stack([x for x, _ in items]), "label": [y for _, y in items]}
    assert set(next(iter(loader))) == {"image", "label"}
    loader.num_workers, loader.prefetch_factor = 2, 2
    running = iter(loader)
    next(running)
    assert len(running._workers) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
@pytest.mark.parametrize("begun", [False, True])
def test_loaders_can_be_copied_and_pickled(copied, begun):
    loader = mixed(stock(shuffle=True), 0.4)
    running = iter(loader)
    if begun:
        next(running)
    other = copied(loader)
    assert same(list(other), list(mixed(stock(shuffle=True), 0.4)) if not begun else list(loader))
    assert len(other) == len(loader)


def test_another_loader_is_wrapped_anew():
    loader = AugmentedLoader(stock(), tag="t")
    with pytest.raises(AttributeError, match="loader cannot be changed: wrap the other"):
        loader.loader = stock()
