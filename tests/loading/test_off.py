"""Off means off: the very batches of the inner loader, its order and its use of random numbers."""

import pytest
import torch
from fakes import Coded, CodedStream, Drawn, coded_batches, mixed, same, stock
from torch.utils.data import DataLoader, SequentialSampler

from torchaug_gen import AugmentedLoader

MAKERS = {
    "plain": stock,
    "shuffle": lambda: stock(shuffle=True),
    "workers": lambda: stock(shuffle=True, num_workers=2),
    "generator": lambda: stock(shuffle=True, generator=torch.Generator().manual_seed(3)),
    "collate": lambda: stock(shuffle=True, collate_fn=lambda items: {"odd": [len(items)], "text": "x"}),
    "stream": lambda: DataLoader(CodedStream(), 4),
    "stream of workers": lambda: DataLoader(CodedStream(), 4, num_workers=2),
    "unbatched": lambda: DataLoader(Coded(5), batch_size=None),
    "strings": lambda: ["a", None, 3],
    "empty": lambda: [],
}


@pytest.mark.parametrize("options", [{}, {"transform": [], "seed": 5, "prefetch": 4, "dtype": torch.uint8}])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_batches_order_and_generators_are_the_bare_loaders(make, options):
    results = []
    for wrap in (lambda loader: loader, lambda loader: AugmentedLoader(loader, **options)):
        torch.manual_seed(11)
        loader = wrap(make())
        results.append(([list(loader), list(loader)], torch.get_rng_state().tolist()))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_very_objects_come_through():
    batches = coded_batches(2, 2)
    assert all(map(lambda a, b: a is b, AugmentedLoader(batches), batches))
    loader = stock(num_workers=2)
    assert type(iter(AugmentedLoader(loader))) is type(iter(loader))


class Stateful(DataLoader):
    remainder = 3

    def state_dict(self):
        return {"mine": 7}

    def load_state_dict(self, state):
        self.loaded = state


def test_off_the_state_is_the_inner_loaders():
    inner = Stateful(Coded(9), 4)
    loader = AugmentedLoader(inner)
    assert loader.state_dict() == {"mine": 7}
    loader.load_state_dict({"mine": 8})
    assert inner.loaded == {"mine": 8}
    bare = AugmentedLoader(stock())
    assert bare.state_dict() == {}
    bare.load_state_dict({})
    with pytest.raises(ValueError, match="augments or mixes, but this one is off"):
        bare.load_state_dict(mixed(stock()).state_dict())


@pytest.mark.parametrize("tag", [None, "t"])
def test_attributes_are_forwarded(tag):
    inner = Stateful(Coded(9), 4)
    loader = AugmentedLoader(inner, tag=tag)
    for name in ("nonsense", "__fancy__"):
        assert not hasattr(loader, name)
    assert loader.remainder == 3 and loader.dataset is inner.dataset and loader.batch_sampler is inner.batch_sampler
    assert isinstance(loader.sampler, SequentialSampler) and list(loader.sampler) == list(range(9))
    assert len(loader.sampler) == 9 and loader.sampler.data_source is inner.dataset
    assert loader.batch_size == 4 and loader.loader is inner and not loader.drop_last


def test_tag_device_transform_or_synthesizer_turn_it_on():
    for options in ({"tag": "t"}, {"device": "cpu"}, {"transform": lambda x: x}, {"synthesizer": Drawn()}):
        assert next(iter(AugmentedLoader(stock(), **options)))[0].dtype is torch.float32
    assert next(iter(AugmentedLoader(stock())))[0].dtype is torch.uint8


def test_iter_alone_changes_nothing():
    data = Coded()
    loader = mixed(DataLoader(data, 4, shuffle=True, num_workers=0), tag="t")
    before = torch.get_rng_state()
    for _ in range(3):
        iter(loader)
    assert torch.equal(before, torch.get_rng_state()) and not data.loaded and loader.stats.batches == 0
    assert same(list(loader), list(mixed(stock(shuffle=True), tag="t")))


def test_fraction_zero_delivers_the_real_items_only():
    loader = mixed(stock(), 0, tag="t")
    for (images, labels, tag), (x, y) in zip(loader, stock(), strict=True):
        assert torch.equal(images, x / 255) and torch.equal(labels, y) and not tag.any()
