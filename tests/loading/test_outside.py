"""What code that expects a DataLoader does with one: a slice of PyTorch's own tests, on the loader off and on."""

import pytest
import torch
from fakes import Coded, CodedStream, image, mixed, real_ids, stock
from torch.utils.data import DataLoader, Dataset, get_worker_info

from torchaug_gen import AugmentedLoader

KINDS = {
    "off": AugmentedLoader,
    "tagged": lambda loader: AugmentedLoader(loader, tag="t"),
    "mixed": lambda loader: mixed(loader, 0.25),
}


@pytest.fixture(params=KINDS)
def wrap(request):
    return KINDS[request.param]


def test_subscripting():
    assert isinstance(AugmentedLoader[tuple](stock()), AugmentedLoader)
    assert len(AugmentedLoader[int](stock(), tag="t")) == 6


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_attributes_that_a_loader_refuses_are_refused(wrap, name):
    loader = wrap(stock())
    with pytest.raises(ValueError, match=f"{name} attribute should not be set after DataLoader is initialized"):
        setattr(loader, name, {})


def test_other_attributes_are_set_where_they_are(wrap):
    inner = stock()
    loader = wrap(inner)
    loader.timeout = 3.0
    loader.mixup_enabled = True
    assert inner.timeout == 3.0 and not hasattr(inner, "mixup_enabled") and loader.mixup_enabled


def test_len_of_streams(wrap):
    assert len(wrap(DataLoader(CodedStream(8, sized=True), 4))) in (2, 3)
    with pytest.raises(TypeError):
        len(wrap(DataLoader(CodedStream(), 4)))
    assert len(list(wrap(DataLoader(CodedStream(8), 4)))) in (2, 3)


def test_len_of_a_running_pass(wrap):
    loader = wrap(stock(20, 4))
    running = iter(loader)
    assert len(running) == len(loader) == len(list(running))


def test_workers_are_reached_through_the_iterator(wrap):
    running = iter(wrap(stock(num_workers=2)))
    next(running)
    assert len(running._workers) == 2 and all(worker.is_alive() for worker in running._workers)
    for name in ("nonsense", "__nonsense__"):
        with pytest.raises(AttributeError):
            getattr(running, name)


class Which(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        info = get_worker_info()
        assert info.num_workers == 2 and isinstance(info.dataset, Which)
        return image(index), info.id


def test_worker_info_and_init(wrap):
    loader = wrap(DataLoader(Which(), 2, num_workers=2, worker_init_fn=torch.manual_seed))
    assert {int(label) for batch in loader for label in batch[1]} <= {0, 1}
    assert get_worker_info() is None


class OwnError(Exception):
    pass


def fail(worker):
    raise OwnError(f"worker {worker} failed")


def test_errors_in_workers_have_their_type(wrap):
    with pytest.raises(OwnError, match="worker 0 failed"):
        list(wrap(stock(num_workers=1, worker_init_fn=fail)))
    with pytest.raises(KeyError, match="item 3 is bad"):
        list(wrap(DataLoader(Coded(8, bad=[3]), 4, num_workers=1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_goes_on_after_an_error(wrap, workers):
    running, seen = iter(wrap(DataLoader(Coded(12, bad=[1]), 4, num_workers=workers))), []
    with pytest.raises(KeyError):
        next(running)
    seen = [index for batch in running for index in real_ids(batch[0])]
    assert set(range(4, 12)) <= set(seen) and not {0, 1, 2} & set(seen)


def test_it_is_no_loader_by_class_but_by_behaviour(wrap):
    loader = wrap(stock())
    assert not isinstance(loader, DataLoader)
    assert iter(loader) is not iter(loader)
    running = iter(loader)
    assert iter(running) is running
