"""Nothing is lost, fractions are exact, and len is true, whichever way and over whatever loader."""

import functools
import math
import operator
from collections import Counter
from fractions import Fraction

import pytest
import torch
from fakes import (
    Coded,
    CodedStream,
    Drawn,
    Listed,
    coded_batches,
    drawn,
    image,
    mixed,
    real_ids,
    stock,
    synthetic_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from torchaug_gen.mixing import as_fraction
from torchaug_gen.mixing import synthetic_rows as pattern

FRACTIONS = st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.75, 0.9, Fraction(1, 7), Fraction(2, 3)])


class Whole(Dataset):
    """Items that are batches already."""

    def __init__(self, *sizes):
        self.batches = coded_batches(*sizes)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class OddBatches:
    """A custom batch sampler whose batches differ in size."""

    batch_size = 4

    def __iter__(self):
        yield from ([0, 5, 7], [1], [2, 3, 4, 6, 8], [9, 10])

    def __len__(self):
        return 4


def loaders():
    """Yield a name, a maker of a loader, and whether rebatching knows the number of its items."""
    data = Coded(23)
    yield "plain", lambda: DataLoader(data, 4), True
    yield "shuffle", lambda: DataLoader(data, 4, shuffle=True), True
    yield "drop_last", lambda: DataLoader(data, 4, shuffle=True, drop_last=True), True
    yield "generator", lambda: DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(4)), True
    yield "subset", lambda: DataLoader(Subset(data, range(3, 20, 2)), 4, shuffle=True), True
    yield "weighted", lambda: DataLoader(data, 4, sampler=WeightedRandomSampler([1.0, 2.0, 3.0] * 7, 17)), True
    yield "random subset", lambda: DataLoader(data, 4, sampler=SubsetRandomSampler(range(11), torch.Generator())), True
    yield "distributed", lambda: DataLoader(data, 4, sampler=DistributedSampler(data, 2, 1)), True
    yield "batch sampler", lambda: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, False)), True
    yield "list sampler", lambda: DataLoader(data, 4, sampler=[5, 1, 1, 8, 2, 2]), True
    yield "custom batch sampler", lambda: DataLoader(data, batch_sampler=OddBatches()), False
    yield "two workers", lambda: DataLoader(data, 4, shuffle=True, num_workers=2), True
    yield "one item", lambda: DataLoader(Coded(1), 4), True
    yield "batches of one", lambda: DataLoader(Coded(5), 1), True
    yield "huge batch", lambda: DataLoader(data, 1000, shuffle=True), True
    yield "stream", lambda: DataLoader(CodedStream(), 4), False
    yield "sized stream", lambda: DataLoader(CodedStream(sized=True), 4), True
    yield "sized stream drop_last", lambda: DataLoader(CodedStream(sized=True), 4, drop_last=True), True
    yield "stream of two workers", lambda: DataLoader(CodedStream(), 4, num_workers=2), False
    yield "list", lambda: Listed(coded_batches(4, 4, 1, 9, 2), batch_size=4), False
    yield "list drop_last", lambda: Listed(coded_batches(4, 4, 4), batch_size=4, drop_last=True), False
    yield "list with empty batches", lambda: Listed(coded_batches(0, 4, 0, 3, 0), batch_size=4), False
    yield "batch_size=None", lambda: DataLoader(Whole(4, 4, 2), batch_size=None, shuffle=True), False


LOADERS = [pytest.param(make, known, id=name) for name, make, known in loaders()]


def check_fractions(loader, fraction, sizes):
    total = synthetic = 0
    for images, _ in loader:
        total, synthetic = total + len(images), synthetic + sum(synthetic_rows(images))
        assert synthetic == math.ceil(as_fraction(fraction) * total)
        sizes.append(len(images))


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(("make", "known"), LOADERS)
@pytest.mark.parametrize("fraction", [0.3, 0.5])
@pytest.mark.parametrize("mixing", ["rebatch", "extend"])
def test_nothing_is_lost_or_repeated(make, known, fraction, mixing):
    if mixing == "rebatch" and make().batch_size is None and not hasattr(make().batch_sampler, "batch_size"):
        with pytest.raises(ValueError, match=r'needs the size of a batch.*mixing="extend"'):
            mixed(make(), fraction)
        return
    loader, real = mixed(make(), fraction, mixing=mixing), mixed(make(), 0, prefetch=0)
    passes = []
    for _ in range(2):
        passes.append(list(loader))
        delivered = [index for images, _ in passes[-1] for index in real_ids(images)]
        expected = [index for images, _ in real for index in real_ids(images)]
        if mixing == "rebatch" and getattr(loader, "drop_last", False):
            # The short last batch is dropped, as the inner loader says.
            assert len(expected) - 4 < len(delivered) and delivered == expected[: len(delivered)]
            assert {len(images) for images, _ in passes[-1]} == {4}
        else:
            assert delivered == expected
    if known or mixing == "extend":
        try:
            assert len(loader) == len(passes[0]) == len(passes[1])
        except TypeError:
            assert not known
    else:
        with pytest.raises(TypeError):
            len(loader)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), FRACTIONS, st.sampled_from(["rebatch", "extend", "replace"]), st.booleans()
)
def test_fractions_are_exact_after_every_batch_and_len_is_true(length, size, fraction, mixing, drop_last):
    inner = stock(length, size, drop_last=drop_last)
    loader = mixed(inner, fraction, mixing=mixing, prefetch=0)
    if not len(loader):
        with pytest.raises(ValueError, match="no batch"):
            next(iter(loader))
        return
    sizes = []
    check_fractions(loader, fraction, sizes)
    assert len(sizes) == len(loader)
    assert loader.stats.batches == len(sizes) and loader.stats.real + loader.stats.synthetic == sum(sizes)
    if mixing == "rebatch":
        assert all(n == size for n in sizes[:-1]) and (sizes[-1] == size or not drop_last)
    if mixing == "replace":
        assert sizes == [len(images) for images, _ in inner]


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize(("size", "fraction"), [(1, 0.9), (1, 0.5), (2, 0.9), (4, 0.75), (3, 1 / 3)])
def test_carrying_rows_delivers_what_regrouping_indices_does(size, fraction, carried):
    inner = stock(7, size)
    loader = mixed(Listed(list(inner), batch_size=size) if carried else inner, fraction)
    batches = list(loader)
    assert [index for images, _ in batches for index in real_ids(images)] == list(range(7))
    assert [len(images) for images, _ in batches[:-1]] == [size] * (len(batches) - 1)
    if not carried:
        assert len(batches) == len(loader)


def test_real_rows_keep_their_order_and_rows_are_spread():
    for images, _ in mixed(stock(40, 10), 0.3):
        rows = torch.tensor(synthetic_rows(images))
        assert torch.equal(rows, pattern(len(rows), int(rows.sum())))
    assert [i for images, _ in mixed(stock(40, 10), 0.3) for i in real_ids(images)] == list(range(40))


def test_labels_stay_with_their_images():
    for images, labels in mixed(stock(60, 7, shuffle=True), 0.4):
        for (low, mark, third), label in zip(
            [*map(tuple, images[:, :, 0, 0].mul(255).round().int().tolist())], labels, strict=False
        ):
            assert label == (low % 5 if mark == 255 else third)


def test_replacing_keeps_shape_and_label_and_changes_with_the_epoch():
    loader = mixed(stock(20, 5), 0.4, mixing="replace")
    replaced = []
    for _ in range(5):
        delivered = set()
        for step, (images, labels) in enumerate(loader):
            assert labels.tolist() == [(5 * step + row) % 5 for row in range(5)]
            assert [label for _, _, label in drawn(images)] == labels[torch.tensor(synthetic_rows(images))].tolist()
            delivered |= set(real_ids(images))
        replaced.append(frozenset(range(20)) - delivered)
        assert len(replaced[-1]) == 8
    assert len(set(replaced)) == 5
    # Five turns of five rows: no item is kept out more often than another.
    assert set(Counter(index for gone in replaced for index in gone).values()) == {2}


def test_synthetic_positions_count_the_epoch_without_a_gap():
    loader = mixed(stock(20, 5), 0.4)
    for epoch in range(2):
        seen = [code for images, _ in loader for code in drawn(images)]
        assert [position for position, _, _ in seen] == list(range(len(seen)))
        assert {number for _, number, _ in seen} == {epoch}


def test_ranks_share_the_positions():
    data, seen = Coded(24), []
    for rank in range(3):
        loader = mixed(DataLoader(data, 4, sampler=DistributedSampler(data, 3, rank, shuffle=False)), 0.5)
        seen.append([position for images, _ in loader for position, _, _ in drawn(images)])
    assert sorted(functools.reduce(operator.iadd, seen, [])) == list(range(24))
    assert all(position % 3 == rank for rank, positions in enumerate(seen) for position in positions)


def test_a_dataset_is_asked_for_each_item_once():
    data = Coded(23)
    list(mixed(DataLoader(data, 4, shuffle=True), 0.5))
    assert sorted(data.loaded) == list(range(23))


def test_a_collate_function_sees_exactly_the_real_items_of_one_batch():
    seen = []

    def collate(items):
        seen.append(len(items))
        return torch.stack([x for x, _ in items]), [y for _, y in items]

    batches = list(mixed(DataLoader(Coded(9), 4, collate_fn=collate), 0.5))
    assert seen == [2, 2, 2, 2, 1]
    assert all(isinstance(labels, list) and len(labels) == len(images) for images, labels in batches)


@pytest.mark.parametrize("keep", [2, 0])
def test_a_collate_function_may_leave_items_out(keep):
    def collate(items):
        items = [item for item in items if item[1] < keep] if keep else items * 2
        images = torch.stack([x for x, _ in items]) if items else torch.zeros(0, 3, 4, 4, dtype=torch.uint8)
        return images, torch.tensor([y for _, y in items], dtype=torch.int64)

    inner = DataLoader(Coded(20), 3, collate_fn=collate)
    expected = Counter(i for images, _ in inner for i in real_ids(images))
    batches = list(mixed(inner, 0.25, tag="synthetic"))
    assert Counter(i for images, *_ in batches for i in real_ids(images)) == expected
    assert all(len(batch) == 3 and len(batch[2]) == len(batch[0]) for batch in batches)


def test_ragged_lists_are_split_and_joined():
    sizes = [torch.Size((3, 4 + i % 3, 5)) for i in range(11)]
    ragged = [[image(i, size) for i, size in enumerate(sizes)][first : first + 4] for first in (0, 4, 8)]
    batches = [(images, [i % 5 for i in range(len(images))]) for images in ragged]
    resize = torch.nn.Upsample((4, 4))
    loader = mixed(Listed(batches, batch_size=4), 0.5, transform=resize)
    assert [i for images, _ in loader for i in real_ids(images)] == list(range(11))
    # Without synthetic rows a ragged batch needs no resizing.
    plain = list(mixed(batches, 0.0, tag="t"))
    assert all(isinstance(images, list) for images, *_ in plain)
    assert [x.shape for images, *_ in plain for x in images] == sizes


@pytest.mark.parametrize("mixing", ["rebatch", "replace"])
@pytest.mark.parametrize("dtype", [None, torch.uint8, torch.float32])
def test_all_synthetic_batches_look_like_the_others(mixing, dtype):
    singles = [([image(i)], [i % 5]) for i in range(4)]
    for x, y in mixed(Listed(singles, batch_size=1), 0.5, mixing=mixing, dtype=dtype):
        assert isinstance(x, list) and x[0].shape == (3, 4, 4) and isinstance(y, list) and type(y[0]) is int
        assert x[0].dtype is (dtype or torch.uint8)


def test_a_synthesizer_without_classes_serves_batches_without_labels():
    inner = DataLoader([image(i) for i in range(10)], 4)
    batches = list(mixed(inner, 0.3, synthesizer=Drawn(num_classes=None)))
    assert sorted(i for images in batches for i in real_ids(images)) == list(range(10))
