"""What people do with DataLoaders, done with the wrapper: off, with a tag alone, and mixing."""

import copy
import json
import pickle
import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from fakes import CLASSES, Coded, CodedStream, Drawn, image, mixed, real_ids, same, stock
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torchvision import tv_tensors

from torchaug_gen import AugmentedLoader, fuse

MODES = {
    "off": AugmentedLoader,
    "tagged": lambda inner, **o: AugmentedLoader(inner, tag="synthetic", dtype=None, **o),
    "mixing": lambda inner, **o: mixed(inner, 0.3, dtype=None, **o),
}
ALL = pytest.mark.parametrize("mode", MODES)
ON = pytest.mark.parametrize("mode", ["tagged", "mixing"])


def ids(loader):
    return [index for batch in loader for index in real_ids(batch[0])]


def hello(worker):
    torch.manual_seed(worker)


INNER = {
    "plain": lambda: DataLoader(Coded(23), 4),
    "drop_last": lambda: DataLoader(Coded(23), 4, drop_last=True),
    "generator": lambda: DataLoader(Coded(23), 4, shuffle=True, generator=torch.Generator().manual_seed(1)),
    "batch_sampler": lambda: DataLoader(Coded(23), batch_sampler=BatchSampler(SequentialSampler(range(23)), 4, False)),
    "list of batches": lambda: DataLoader(Coded(23), batch_sampler=[[0, 1], [5], [3, 4, 2]]),
    "subset sampler": lambda: DataLoader(Coded(23), 4, sampler=SubsetRandomSampler(range(3, 20))),
    "weighted": lambda: DataLoader(Coded(23), 4, sampler=WeightedRandomSampler([1.0] * 23, 23, replacement=False)),
    "list as sampler": lambda: DataLoader(Coded(23), 4, sampler=[5, 3, 1, 7, 9]),
    "random with fewer": lambda: DataLoader(Coded(23), 4, sampler=RandomSampler(range(23), num_samples=9)),
    "subset": lambda: DataLoader(Subset(Coded(23), [1, 3, 5, 7, 9]), 2),
    "split": lambda: DataLoader(random_split(Coded(23), [20, 3], torch.Generator().manual_seed(0))[0], 4),
    "concatenated": lambda: DataLoader(ConcatDataset([Coded(7), Subset(Coded(23), range(7, 12))]), 4),
    "stream": lambda: DataLoader(CodedStream(23), 4),
    "sized stream": lambda: DataLoader(CodedStream(23, sized=True), 4),
    "chained": lambda: DataLoader(ChainDataset([CodedStream(5)]), 4),
    "workers": lambda: DataLoader(Coded(23), 4, num_workers=1, timeout=30, worker_init_fn=hello, prefetch_factor=3),
    "collate": lambda: DataLoader(Coded(23), 4, collate_fn=lambda items: default_collate(items)[::1]),
    "a list": lambda: DataLoader([(image(index), index % CLASSES) for index in range(23)], 4),
    "batch larger than data": lambda: DataLoader(Coded(3), 64),
}


EXPECTED = {
    "list of batches": range(6),
    "subset sampler": range(3, 20),
    "list as sampler": [5, 3, 1, 7, 9],
    "subset": [1, 3, 5, 7, 9],
    "split": [int(index) for index in random_split(range(23), [20, 3], torch.Generator().manual_seed(0))[0].indices],
    "concatenated": range(12),
    "chained": range(5),
    "batch larger than data": range(3),
}


@pytest.mark.usefixtures("untouched_rng")
@ON
@pytest.mark.parametrize("name", INNER)
def test_every_kind_of_loader_gives_its_items_again_and_again(name, mode):
    inner = INNER[name]()
    if mode == "mixing" and name == "list of batches":
        # Batches of different sizes keep them.
        loader = mixed(inner, 0.3, mixing="extend", dtype=None)
    else:
        loader = MODES[mode](inner)
    expected = EXPECTED.get(name, range(23))
    for _ in range(2):
        found = ids(loader)
        if name in ("drop_last", "random with fewer"):
            # Of a shortened epoch real items are left out; none comes twice.
            assert len(set(found)) == len(found) < 23
        else:
            assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", INNER)
def test_off_is_the_very_loader(name):
    torch.manual_seed(3)
    expected = list(INNER[name]())
    torch.manual_seed(3)
    assert same(list(AugmentedLoader(INNER[name]())), expected)


@ALL
@pytest.mark.parametrize("name", ["plain", "batch_sampler", "stream", "workers", "subset"])
def test_attributes_are_the_inner_loaders(name, mode):
    inner = INNER[name]()
    loader = MODES[mode](inner)
    for attribute in (
        "dataset",
        "batch_size",
        "num_workers",
        "collate_fn",
        "pin_memory",
        "drop_last",
        "timeout",
        "worker_init_fn",
        "generator",
        "prefetch_factor",
        "persistent_workers",
        "batch_sampler",
    ):
        assert getattr(loader, attribute) is getattr(inner, attribute) or getattr(loader, attribute) == getattr(
            inner, attribute
        )
    assert isinstance(loader.sampler, type(inner.sampler))
    assert not hasattr(loader, "no_such_thing") and getattr(loader, "no_such_thing", 3) == 3
    with pytest.raises(AttributeError, match="no_such_thing"):
        loader.no_such_thing  # noqa: B018


@ALL
def test_two_iterators_at_a_time(mode):
    loader = MODES[mode](DataLoader(Coded(23), 4))
    first = iter(loader)
    next(first)
    second = iter(loader)
    pairs = list(zip(first, second, strict=False))
    assert pairs and len(ids([batch for _, batch in pairs])) > 4


@ALL
def test_enumerate_zip_next_and_islice(mode):
    loader = MODES[mode](DataLoader(Coded(23), 4))
    assert len(next(iter(loader))[0]) == 4
    assert [number for number, _ in enumerate(loader)] == list(range(len(loader)))
    running = iter(loader)
    assert iter(running) is running
    assert len(list(running)) == len(loader)
    with pytest.raises(StopIteration):
        next(running)
    assert bool(loader) and next(running, None) is None


@ALL
def test_copies_and_pickles_give_the_same(mode):
    loader = MODES[mode](DataLoader(Coded(23), 4))
    expected = list(MODES[mode](DataLoader(Coded(23), 4)))
    twins = [copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))]
    for other in twins:
        assert same(list(other), expected)
    if mode == "off":
        return
    # What was done to the copies is not done to it.
    for other in twins:
        other.set_epoch(9)
    assert loader.stats.batches == 0 and loader.state_dict()["epoch"] == 0
    assert same(list(loader), expected)
    assert loader.stats.batches == len(expected) and [other.stats.batches for other in twins] == [len(expected)] * 3
    next(iter(loader))
    again = copy.deepcopy(loader)
    assert json.dumps(again.state_dict()) == json.dumps(loader.state_dict()) and len(list(again)) == len(loader)


def test_copies_that_share_a_sampler_do_not_take_each_other_for_somebody_else():
    data = Coded(24)
    loader = mixed(DataLoader(data, 4, sampler=DistributedSampler(data, 2, 0)))
    other = copy.copy(loader)
    other.set_epoch(9)
    list(other)
    expected = mixed(DataLoader(data, 4, sampler=DistributedSampler(data, 2, 0)))
    assert same(list(loader), list(expected))


@ON
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))])
def test_persistent_workers_of_a_copy_are_its_own_and_end_with_it(mode, copied):
    loader = MODES[mode](DataLoader(Coded(23), 4, num_workers=1, persistent_workers=True))
    running = iter(loader)
    first = next(running)
    other = copied(loader)
    theirs = iter(other)
    # The copy begins the next pass, and the one of the original goes on.
    next(theirs)
    [worker] = theirs._workers
    assert [worker.pid] != [one.pid for one in running._workers]
    assert len([first, *running]) == len(loader)
    del theirs, other
    assert not worker.is_alive()


@ALL
def test_persistent_workers_serve_all_epochs(mode):
    loader = MODES[mode](DataLoader(Coded(23), 4, num_workers=1, persistent_workers=True))
    pids = []
    for _ in range(2):
        running = iter(loader)
        next(running)
        pids.append([worker.pid for worker in running._workers])
        assert len(list(running)) == len(loader) - 1
    assert pids[0] == pids[1]


@ON
def test_single_items_are_no_batches(mode):
    """``batch_size=None`` hands out what the data set has: batches of its own, or single items, which are refused."""
    whole = TensorDataset(torch.rand(3, 8, 3, 4, 4), torch.randint(CLASSES, (3, 8)))
    options = {} if mode == "tagged" else {"mixing": "extend"}
    batches = list(MODES[mode](DataLoader(whole, batch_size=None), **options))
    assert len(batches) == 3 and all(len(batch[0]) >= 8 for batch in batches)
    with pytest.raises(ValueError, match=r"images|batch"):
        next(iter(MODES[mode](DataLoader(Coded(5), batch_size=None), **options)))


class Pair(NamedTuple):
    image: Any
    label: Any


Old = namedtuple("Old", ["image", "label"])


@dataclass
class Sample:
    image: Any
    label: Any


def samples(items):
    return Sample(torch.stack([item.image for item in items]), torch.tensor([item.label for item in items]))


class Shaped(Dataset):
    """Items in a structure."""

    def __init__(self, shape, length=11):
        self.shape, self.length = shape, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.shape(image(index), index % CLASSES)


SHAPES = {
    "dict": (lambda x, y: {"image": x, "label": y}, None, lambda b: b["image"], {}),
    "strings": (
        lambda x, y: {"image": x, "label": y, "name": f"n{y}"},
        None,
        lambda b: b["image"],
        {"fill": {"name": "drawn"}},
    ),
    "NamedTuple": (Pair, None, lambda b: b.image, {}),
    "namedtuple": (Old, None, lambda b: b.image, {}),
    "dataclass": (Sample, samples, lambda b: b.image, {}),
    "list": (lambda x, y: [x, y], None, lambda b: b[0], {}),
    "tv_tensor": (lambda x, y: (tv_tensors.Image(x), y), None, lambda b: b[0], {}),
    "numpy": (lambda x, y: (x.numpy(), np.int64(y)), None, lambda b: b[0], {}),
    "nested": (lambda x, y: ({"image": x}, {"meta": {"label": y}}), None, lambda b: b[0]["image"], {}),
    "label first": (lambda x, y: (y, x), None, lambda b: b[1], {"images": 1, "labels": 0}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_items_of_every_shape(name):
    shape, collate, images_of, fields = SHAPES[name]
    inner = DataLoader(Shaped(shape), 4, collate_fn=collate)
    # Off, they come as they are; on, in their own structure.
    assert same(list(AugmentedLoader(inner)), list(inner))
    plain = next(iter(inner))
    batches = list(mixed(inner, 0.3, dtype=None, fields=fields or None))
    assert all(type(batch) is type(plain) for batch in batches)
    assert sorted(index for batch in batches for index in real_ids(images_of(batch))) == list(range(11))
    if name == "strings":
        assert {entry for batch in batches for entry in batch["name"]} == {"drawn", *(f"n{y}" for y in range(CLASSES))}


def test_a_list_that_stands_for_a_loader():
    batches = [(torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 3]))] * 3
    assert len(list(mixed(batches, 0.5, mixing="extend"))) == 3
    assert len(AugmentedLoader(batches, tag="t")) == 3 and len(list(AugmentedLoader(batches, tag="t"))) == 3


@ON
def test_pinned_memory_is_asked_for_without_a_gpu(mode):
    with pytest.warns(UserWarning, match="pin_memory") if not torch.cuda.is_available() else Nothing():
        batches = list(MODES[mode](DataLoader(Coded(11), 4, pin_memory=True)))
    assert sorted(ids(batches)) == list(range(11))


class Nothing:
    def __enter__(self): ...

    def __exit__(self, *_): ...


@ON
def test_out_of_order_delivery_is_refused(mode):
    with pytest.raises(ValueError, match="in_order=False"):
        MODES[mode](DataLoader(Coded(11), 4, num_workers=1, in_order=False))
    AugmentedLoader(DataLoader(Coded(11), 4, num_workers=1, in_order=False))


@ALL
def test_a_timeout_is_torchs_own(mode):
    import time

    class Sleepy(Coded):
        def __getitem__(self, index):
            time.sleep(2 if index == 6 else 0)
            return super().__getitem__(index)

    loader = MODES[mode](DataLoader(Sleepy(11), 4, num_workers=1, timeout=0.3))
    with pytest.raises(RuntimeError, match="timed out"):
        list(loader)


@ALL
def test_settings_of_torchs_that_are_refused_are_refused(mode):
    loader = MODES[mode](DataLoader(Coded(11), 4))
    with pytest.raises(ValueError, match="batch_size"):
        loader.batch_size = 8
    loader.collate_fn = lambda items: [default_collate(items)[0], torch.zeros(len(items), dtype=torch.int64)]
    assert all(label == 0 for label in next(iter(loader))[1][:1])
    assert AugmentedLoader[Any] is not None and "AugmentedLoader" in repr(loader)


@ALL
def test_worker_init_fn_runs_in_every_worker(mode):
    seen = torch.zeros(2, dtype=torch.int64).share_memory_()

    def note(worker):
        seen[worker] += 1

    list(MODES[mode](DataLoader(Coded(11), 4, num_workers=2, worker_init_fn=note)))
    assert seen.tolist() == [1, 1]


def test_random_transforms_of_the_data_set_are_the_seeds():
    class Random(Coded):
        def __getitem__(self, index):
            picture, label = super().__getitem__(index)
            picture[2, 2, 2] = random.randrange(256)
            return picture, label

    loader = lambda workers: AugmentedLoader(DataLoader(Random(11), 4, num_workers=workers), tag="t", seed=4)  # noqa: E731
    assert same(list(loader(0)), list(loader(2)))


def test_a_wrapper_around_a_wrapper():
    inner = AugmentedLoader(stock(11, 4), fuse([]))
    assert sorted(ids(mixed(inner, 0.3, dtype=None))) == list(range(11))
    twice = AugmentedLoader(mixed(stock(11, 4), 0.3, dtype=None), tag="t", dtype=None)
    assert sorted(ids(twice)) == list(range(11)) and all(len(batch) == 3 for batch in twice)


@pytest.mark.parametrize("mode", ["tagged", "mixing"])
def test_an_empty_loader_is_named(mode):
    with pytest.raises(ValueError, match="delivered no batch"):
        list(MODES[mode](DataLoader(Coded(3), 4, drop_last=True)))


def test_a_loader_is_told_from_what_is_none():
    for wrong in (None, 3, Coded):
        with pytest.raises(TypeError, match="loader must be iterable"):
            AugmentedLoader(wrong, synthesizer=Drawn())
