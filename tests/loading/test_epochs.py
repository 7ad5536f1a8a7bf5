import pytest
import torch
from fakes import Coded, coded_batches, drawn, mixed, real_ids, same, stock
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from torchaug_gen import AugmentedLoader


def epoch_of(batch):
    [epoch] = {epoch for _, epoch, _ in drawn(batch[0])}
    return epoch


def distributed():
    data = Coded(24)
    return DataLoader(data, 4, sampler=DistributedSampler(data, 2, 0, seed=9))


def test_each_pass_is_the_next_epoch_whether_the_one_before_was_finished_or_not():
    loader = mixed(stock(), 0.5)
    assert {epoch_of(batch) for batch in loader} == {0}
    for batch in loader:
        assert epoch_of(batch) == 1
        break
    iter(loader)
    assert [epoch_of(next(iter(loader))) for _ in range(2)] == [2, 3]


def test_set_epoch_makes_the_next_pass_that_epoch():
    loader = mixed(stock(shuffle=True))
    first, second = list(loader), list(loader)
    assert not same(first, second)
    loader.set_epoch(0)
    assert same(list(loader), first) and same(list(loader), second)
    loader.set_epoch(7)
    loader.set_epoch(1)
    assert same(list(loader), second)


@pytest.mark.parametrize(("epoch", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_epochs_that_are_none_raise(epoch, error):
    with pytest.raises(error):
        mixed(stock()).set_epoch(epoch)


def test_an_epoch_begins_at_the_first_next():
    loader = mixed(stock())
    early, late = iter(loader), iter(loader)
    assert epoch_of(next(late)) == 0 and epoch_of(next(early)) == 1


def test_two_passes_at_a_time_do_not_disturb_each_other():
    loader = mixed(stock(shuffle=True))
    expected = list(loader), list(loader)
    loader.set_epoch(0)
    both = list(zip(iter(loader), iter(loader), strict=True))
    assert same([list(batches) for batches in zip(*both, strict=True)], list(expected))


def test_samplers_are_told():
    inner = distributed()
    loader = mixed(inner, 0.5)
    orders = []
    for epoch in range(3):
        orders.append([i for images, _ in loader for i in real_ids(images)])
        assert inner.sampler.epoch == epoch
        assert orders[-1] == list(inner.sampler)
    assert len({tuple(order) for order in orders}) == 3
    loader.set_epoch(5)
    assert inner.sampler.epoch == 5 and epoch_of(next(iter(loader))) == 5


def test_an_epoch_that_somebody_else_has_set_is_adopted():
    inner = distributed()
    loader = mixed(inner, 0.5)
    for epoch in (0, 1, 2, 9, 4):
        inner.sampler.set_epoch(epoch)
        assert {epoch_of(batch) for batch in loader} == {epoch}
        assert inner.sampler.epoch == epoch
    assert epoch_of(next(iter(loader))) == 5


class Told(Coded):
    epochs = ()

    def set_epoch(self, epoch):
        self.epochs = (*self.epochs, epoch)


def test_datasets_are_told():
    data = Told()
    loader = mixed(DataLoader(data, 4))
    list(loader), list(loader)
    loader.set_epoch(8)
    list(loader)
    assert data.epochs == (0, 1, 8, 8)


def test_a_loader_in_a_loader_is_told():
    loader = mixed(mixed(stock(), 0.3, mixing="extend"), 0.3, mixing="extend", tag="outer")
    loader.set_epoch(3)
    images, _, outer = next(iter(loader))
    assert {epoch for _, epoch, _ in drawn(images[~outer])} == {3}


@pytest.mark.parametrize("finish", [True, False])
def test_persistent_workers_serve_one_epoch_after_the_other(finish):
    loader = mixed(stock(shuffle=True, num_workers=2, persistent_workers=True))
    expected = mixed(stock(shuffle=True))
    for _ in range(3):
        fresh = list(expected)
        running = iter(loader)
        batches = list(running) if finish else [next(running), next(running)]
        assert same(batches, fresh[: len(batches)])
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(new)
    with pytest.raises(RuntimeError, match="a newer pass over the loader took over its persistent workers"):
        next(old)
    assert len(list(new)) == len(loader) - 1


def test_exhausted_passes_stay_exhausted():
    for prefetch in (0, 2):
        running = iter(mixed(coded_batches(4), mixing="extend", prefetch=prefetch))
        next(running)
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(running)


def test_balance_counts_each_epoch_by_itself():
    loader = mixed(stock(23, 4), 0.4, labels="balance")
    first = torch.cat([labels for _, labels in loader])
    second = torch.cat([labels for _, labels in loader])
    assert torch.equal(first, second)


def test_a_sampler_that_does_not_show_what_it_was_told_is_not_taken_for_one_that_somebody_set():
    class Deaf(RandomSampler):
        epoch = 0

        def __init__(self, data):
            super().__init__(data)
            self.told = []

        def set_epoch(self, epoch):
            self.told.append(epoch)

    sampler = Deaf(range(4))
    loader = AugmentedLoader(DataLoader(torch.rand(4, 1, 2, 2), 2, sampler=sampler), device="cpu")
    for _ in range(4):
        list(loader)
    assert sampler.told == [0, 1, 2, 3]
