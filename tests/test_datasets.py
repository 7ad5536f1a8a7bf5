import json
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, get_worker_info

from torchaug_gen import MixedDataset, MixedIterableDataset, NoiseSynthesizer, SyntheticDataset
from torchaug_gen.mixing import as_fraction

NOISE = NoiseSynthesizer((3, 4, 4), num_classes=10)


class Real(Dataset):
    """Constant images whose value is their index, and labels ``index % 10``."""

    def __init__(self, n=35, classes=10):
        self.n, self.classes, self.loaded = n, [str(c) for c in range(classes)], []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.loaded.append(index)
        return torch.full((3, 4, 4), index, dtype=torch.uint8), index % 10


class Stream(IterableDataset):
    """The same as a stream; read whole by every worker, or shared out by itself."""

    def __init__(self, n=35, splits_itself=False):
        self.n, self.splits_itself = n, splits_itself

    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if self.splits_itself and info else (0, 1)
        for index in range(start, self.n, step):
            yield torch.full((3, 4, 4), index, dtype=torch.uint8), index % 10


def is_real(image):
    return bool((image == image[0, 0, 0]).all())


def key(item):
    return item[0].double().flatten().tolist(), int(item[1])


def items_of(loader):
    return [(image, label) for images, labels in loader for image, label in zip(images, labels, strict=True)]


def real_ids(items):
    return sorted(int(image[0, 0, 0]) for image, _ in items if is_real(image))


# --- SyntheticDataset


@pytest.mark.usefixtures("untouched_rng")
def test_synthetic_items_do_not_depend_on_how_they_are_asked_for():
    dataset = SyntheticDataset(NOISE, 20, seed=3)
    one_by_one = [dataset[i] for i in range(20)]
    for size in (1, 7):
        together = items_of(DataLoader(dataset, batch_size=size, generator=torch.Generator()))
        assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(one_by_one, together, strict=True))
    assert [label for _, label in one_by_one] == [i % 10 for i in range(20)]
    assert torch.equal(dataset[-1][0], dataset[19][0])
    assert len(list(dataset)) == 20


def test_epochs_and_seeds_draw_other_items():
    dataset = SyntheticDataset(NOISE, 5)
    first = dataset[2][0]
    dataset.set_epoch(1)
    assert not torch.equal(first, dataset[2][0])
    dataset.set_epoch(0)
    assert torch.equal(first, dataset[2][0])
    assert not torch.equal(first, SyntheticDataset(NOISE, 5, seed=1)[2][0])


def test_persistent_workers_hear_of_the_epoch():
    dataset = SyntheticDataset(NOISE, 6)
    loader = DataLoader(dataset, batch_size=3, num_workers=1, persistent_workers=True)
    first = items_of(loader)
    dataset.set_epoch(1)
    second = items_of(loader)
    assert torch.equal(second[0][0], dataset[0][0])
    assert not torch.equal(first[0][0], second[0][0])


def test_chosen_labels_and_a_transform():
    dataset = SyntheticDataset(NOISE, 3, labels=[4, 4, 9], transform=lambda image: image + torch.rand(()))
    assert [dataset[i][1] for i in range(3)] == [4, 4, 9]
    assert torch.equal(dataset[1][0], dataset[1][0])
    unlabelled = SyntheticDataset(NoiseSynthesizer((1, 2, 2)), 3)
    assert unlabelled[0].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 3, "labels": [1, 2]}, r"labels must be \(3,\)"),
        ({"length": 1, "labels": [10]}, r"labels must be in 0\.\.9, got 10"),
        ({"length": 1, "labels": [0], "synthesizer": NoiseSynthesizer((1, 2, 2))}, "no classes"),
    ],
)
def test_bad_synthetic_datasets_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        SyntheticDataset(arguments.pop("synthesizer", NOISE), **arguments)


# --- MixedDataset


@given(st.integers(1, 60), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, Fraction(1, 3)]))
@settings(max_examples=30, deadline=None)
def test_a_mixed_dataset_holds_every_real_item_once_and_the_fraction(n, fraction):
    real = Real(n)
    mixed = MixedDataset(real, NOISE, synthetic_fraction=fraction)
    items = [mixed[i] for i in range(len(mixed))]
    assert real_ids(items) == list(range(n))
    exact = as_fraction(fraction)
    for count in range(1, len(items) + 1):
        synthetic = sum(not is_real(image) for image, _ in items[:count])
        assert synthetic == -(-exact.numerator * count // exact.denominator)
    with pytest.raises(IndexError):
        mixed[len(mixed)]


def test_a_stock_loader_asks_for_whole_batches():
    calls = []

    class Counting(NoiseSynthesizer):
        def draw(self, labels, **where):
            calls.append(len(labels))
            return super().draw(labels, **where)

    mixed = MixedDataset(Real(), Counting((3, 4, 4), num_classes=10), synthetic_fraction=0.3)
    items = items_of(DataLoader(mixed, batch_size=10))
    assert calls == [3, 3, 3, 3, 3]
    direct = [mixed[i] for i in range(len(mixed))]
    assert all(key(a) == key(b) for a, b in zip(items, direct, strict=True))


def test_a_shuffled_loader_delivers_the_same_items():
    mixed = MixedDataset(Real(), NOISE, synthetic_fraction=0.3)
    shuffled = items_of(DataLoader(mixed, batch_size=8, shuffle=True, num_workers=2))
    assert sorted(map(key, shuffled)) == sorted(key(mixed[i]) for i in range(len(mixed)))


def test_two_data_sets_mix():
    synthetic = SyntheticDataset(NOISE, 4)
    real = TensorDataset(torch.zeros(6, 3, 4, 4), torch.arange(6))
    mixed = MixedDataset(real, synthetic, synthetic_fraction=0.5)
    drawn = [mixed[i] for i in range(len(mixed)) if not is_real(mixed[i][0])]
    # Four items for six places: from the start again.
    assert [key(item) for item in drawn] == [key(synthetic[k % 4]) for k in range(6)]


def test_synthetic_items_look_like_real_ones():
    class Pair(NamedTuple):
        image: torch.Tensor
        label: torch.Tensor

    class Structured(Real):
        def __init__(self, make):
            super().__init__(8)
            self.make = make

        def __getitem__(self, index):
            return self.make(*super().__getitem__(index))

    makes = {
        "bytes": lambda x, y: (x, y),
        "half": lambda x, y: (x.half() / 255, torch.tensor(y, dtype=torch.int32)),
        "dict": lambda x, y: {"image": x.float() / 255, "label": y},
        "named": lambda x, y: Pair(x, torch.tensor(y)),
        "soft": lambda x, y: (x, torch.nn.functional.one_hot(torch.tensor(y), 10).float()),
        "list": lambda x, y: [x, y],
    }
    for make in makes.values():
        mixed = MixedDataset(Structured(make), NOISE, synthetic_fraction=0.5)
        first, real = mixed[0], mixed[1]
        assert type(first) is type(real)
        values = [list(item.values()) if isinstance(item, dict) else list(item) for item in (first, real)]
        assert values[0][0].dtype is values[1][0].dtype
        assert type(values[0][1]) is type(values[1][1])
        assert getattr(values[0][1], "dtype", None) == getattr(values[1][1], "dtype", None)
        assert not is_real(values[0][0])


# --- MixedIterableDataset


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("make", [Real, Stream], ids=["map", "stream"])
def test_a_stream_has_the_same_items_for_any_number_of_workers(make, fraction):
    expected = MixedDataset(Real(), NOISE, synthetic_fraction=fraction)
    wanted = sorted(key(expected[i]) for i in range(len(expected)))
    for workers in (0, 1, 2, 4):
        stream = MixedIterableDataset(make(), NOISE, synthetic_fraction=fraction)
        assert sorted(map(key, items_of(DataLoader(stream, batch_size=4, num_workers=workers)))) == wanted


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_worker_mixes_evenly(fraction, workers):
    stream = MixedIterableDataset(Real(200), NOISE, synthetic_fraction=fraction)
    for worker in range(workers):
        # One worker's batches are those that come at its turn.
        batches = list(DataLoader(stream, batch_size=8, num_workers=workers, drop_last=True))[worker::workers]
        counts = torch.tensor([sum(not is_real(image) for image in images) for images, _ in batches]).cumsum(0)
        target = torch.arange(1, len(batches) + 1) * 8 * fraction
        assert (counts - target).abs().max() <= 2 / (1 - fraction)


def test_a_stream_that_splits_itself_is_read_as_it_comes():
    stream = MixedIterableDataset(Stream(splits_itself=True), NOISE, synthetic_fraction=0.3)
    items = items_of(DataLoader(stream, batch_size=4, num_workers=3))
    assert real_ids(items) == list(range(35))
    synthetic = [tuple(key(item)[0]) for item in items if not is_real(item[0])]
    assert len(set(synthetic)) == len(synthetic) in range(15, 19)


def test_ranks_share_a_stream(monkeypatch):
    items = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        stream = MixedIterableDataset(Real(), NOISE, synthetic_fraction=0.3)
        items += items_of(DataLoader(stream, batch_size=4, num_workers=2))
    expected = MixedDataset(Real(), NOISE, synthetic_fraction=0.3)
    assert sorted(map(key, items)) == sorted(key(expected[i]) for i in range(len(expected)))


def test_a_synthetic_stream_starts_again():
    mixed = MixedIterableDataset(Stream(10), Stream(2), synthetic_fraction=0.5)
    assert len(list(mixed)) == 20


class Seekable(Stream):
    """One that can be begun behind a number of items."""

    start, read = 0, 0

    def seek(self, position):
        self.start = position

    def __iter__(self):
        start, self.start = self.start, 0
        for index in range(start, self.n):
            self.read += 1
            yield torch.full((3, 4, 4), index, dtype=torch.uint8), index % 10


class Remembering(Stream):
    """One that keeps a state, and passes over items that it does not deliver."""

    done, read = 0, 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]

    def __iter__(self):
        while self.done < self.n:
            self.done += 1
            if self.done % 5:
                self.read += 1
                yield torch.full((3, 4, 4), self.done, dtype=torch.uint8), self.done % 10
        self.done = 0


def begun(dataset, items):
    """Return the state behind so many items, as it comes back from JSON."""
    running = iter(dataset)
    for _ in range(items):
        next(running)
    return json.loads(json.dumps(dataset.state_dict()))


def gone_on(dataset, state):
    dataset.load_state_dict(state)
    assert json.loads(json.dumps(dataset.state_dict())) == state
    return list(map(key, dataset))


@pytest.mark.parametrize(("ranks", "fraction"), [(1, 0.3), (3, 0.3), (2, 0.8)])
@pytest.mark.parametrize("make", [Real, Seekable, Remembering, lambda n: Remembering(n, splits_itself=True)])
def test_a_mixed_stream_goes_on_behind_any_item(make, fraction, ranks, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        mixed = lambda: MixedIterableDataset(make(12), NOISE, synthetic_fraction=fraction)  # noqa: E731
        whole = list(map(key, mixed()))
        for done in (0, 2, len(whole) - 2, len(whole) - 1, len(whole)):
            resumed = mixed()
            assert gone_on(resumed, begun(mixed(), done)) == whole[done:], done
            assert list(map(key, resumed)) == whole


class Positioned(Stream):
    """One whose state says at its end that it has ended, and that begins where it was told to, once."""

    start = done = 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.start = self.done = state["done"]

    def __iter__(self):
        start, self.start = self.start, 0
        for index in range(start, self.n):
            self.done = index + 1
            yield torch.full((3, 4, 4), index, dtype=torch.uint8), index % 10


def test_a_mixed_stream_begins_anew_behind_its_end(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        mixed = MixedIterableDataset(Positioned(12), NOISE, synthetic_fraction=0.8)
        first = list(map(key, mixed))
        assert list(map(key, mixed)) == first and len(first) > 10


def test_a_mixed_stream_reads_nothing_of_what_came_before():
    for real, read in ((Real(), lambda real: len(real.loaded)), (Seekable(), lambda real: real.read)):
        state = begun(MixedIterableDataset(Real(), NOISE, synthetic_fraction=0.3), 40)
        resumed = MixedIterableDataset(real, NOISE, synthetic_fraction=0.3)
        assert len(gone_on(resumed, state)) == 10 and read(real) <= 8


def test_a_mixed_stream_that_cannot_be_positioned_says_so():
    mixed = lambda: MixedIterableDataset(Stream(), Stream(), synthetic_fraction=0.3)  # noqa: E731
    whole, state = list(map(key, mixed())), begun(mixed(), 20)
    with pytest.warns(RuntimeWarning, match="Stream cannot be positioned: 14 items are read and thrown away"):
        assert gone_on(mixed(), state) == whole[20:]


# --- what they refuse


class OnCuda(NoiseSynthesizer):
    """Claims to be on CUDA, which no worker may use."""

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda synthesizer: SyntheticDataset(synthesizer, 4),
        lambda synthesizer: MixedDataset(Real(4), synthesizer, synthetic_fraction=0.5),
        lambda synthesizer: MixedIterableDataset(Real(4), synthesizer, synthetic_fraction=0.5),
    ],
)
def test_a_synthesizer_on_cuda_is_refused_in_workers(make):
    dataset = make(OnCuda((3, 4, 4), num_classes=10))
    with pytest.raises(ValueError, match=r"on cuda:0, which DataLoader workers cannot use: draw in the main process"):
        next(iter(DataLoader(dataset, num_workers=1)))


def make_mixed(real, synthesizer=NOISE):
    mixed = MixedDataset(real, synthesizer, synthetic_fraction=0.5)
    return [mixed[i] for i in range(len(mixed))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MixedDataset(Real(), NOISE, synthetic_fraction=1.0), r"must be in \[0, 1\), got 1.0"),
        (lambda: MixedDataset(Real(0), NOISE, synthetic_fraction=0.5), "empty"),
        (lambda: MixedDataset(Real(), Real(0), synthetic_fraction=0.5), "synthetic data set must have items"),
        (
            lambda: list(MixedIterableDataset(Real(), Stream(0), synthetic_fraction=0.5)),
            "has no item for worker 0 of 1",
        ),
        (
            lambda: make_mixed(TensorDataset(torch.zeros(5, 3, 4, 4), torch.arange(5) + 7)),
            r"the synthesizer has 10 classes\) must be in 0\.\.9, got 10\.\.10",
        ),
        (
            lambda: make_mixed(
                TensorDataset(torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 4, 4), torch.arange(5))
            ),
            r"must be in \[0, 1\] to have synthetic ones beside them, got 2\.\.2",
        ),
        (
            lambda: make_mixed(TensorDataset(torch.rand(5, 3, 4, 4), torch.ones(5, 10))),
            r"labels of real items must be class probabilities, .* got one in 1\.\.1 that sums to 10",
        ),
        (lambda: MixedDataset(Real(classes=3), NOISE, synthetic_fraction=0.5), "3 classes, but the synthesizer has 10"),
        (lambda: make_mixed(Real(), NoiseSynthesizer((1, 4, 4), num_classes=10)), "one size"),
        (lambda: make_mixed(Real(), NoiseSynthesizer((3, 8, 8), num_classes=10)), "one size"),
        (lambda: make_mixed(Real(), NoiseSynthesizer((3, 4, 4))), "labels, but the synthesizer has no classes"),
        (lambda: make_mixed(TensorDataset(torch.randn(5, 3, 4, 4), torch.arange(5))), r"must be in \[0, 1\]"),
        (lambda: make_mixed(TensorDataset(torch.rand(5, 3, 4, 4), torch.arange(5), torch.arange(5))), "also have 2"),
    ],
)
def test_bad_mixed_datasets_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MixedDataset(Real(), torch.nn.Linear(3, 4), synthetic_fraction=0.5),
        lambda: MixedIterableDataset(Real(), 3, synthetic_fraction=0.5),
        lambda: SyntheticDataset(torch.nn.Linear(3, 4), 5),
    ],
)
def test_what_does_not_draw_is_named(make):
    with pytest.raises(TypeError, match=r"got (Linear|int): wrap a network with Synthesizer.from_module"):
        make()


def test_images_that_are_no_tensors_are_named(photographs):
    from torchvision.datasets import ImageFolder

    noise = NoiseSynthesizer((3, 4, 4), num_classes=10)
    with pytest.raises(ValueError, match="must be tensors"):
        make_mixed(ImageFolder(photographs / "test"), noise)


# --- the classes of synthetic items


def skewed(n=40):
    """A data set of classes 0 to 3 of ten, most of them 0."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])[torch.arange(n) % 8]
    return TensorDataset(torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4).clone(), labels)


def drawn_classes(dataset):
    return [int(label) for image, label in (dataset[at] for at in range(len(dataset))) if not is_real(image)]


def counted(labels):
    return torch.bincount(torch.tensor(labels), minlength=10).tolist()


def test_classes_in_turn_matched_balanced_weighted_or_called_for():
    def of(labels, fraction=0.5):
        return drawn_classes(MixedDataset(skewed(), NOISE, synthetic_fraction=fraction, labels=labels))

    assert of(None)[:12] == [*range(10), 0, 1]
    matched = counted(of("match", 0.95))
    assert sum(matched[4:]) == 0 and matched[0] > matched[1] > matched[3] > 0
    # 20, 10, 5, 5 and none of six classes: the first go there, until all have five.
    assert of("balance")[:6] == [4, 5, 6, 7, 8, 9]
    totals = [a + b for a, b in zip(counted(of("balance", 0.75)), [20, 10, 5, 5] + [0] * 6, strict=True)]
    assert totals[0] == 20 and max(totals[1:]) - min(totals[1:]) <= 1
    assert set(of([0, 0, 1.0, 0, 0, 0, 0, 1.0, 0, 0])) == {2, 7}
    assert of(lambda real, positions: real[positions % len(real)]) == skewed().tensors[1].tolist()


@pytest.mark.parametrize("labels", ["match", "balance", [1.0] * 10, lambda real, positions: positions % 7])
def test_chosen_classes_do_not_depend_on_workers_or_order(labels):
    mixed = MixedDataset(Subset(skewed(), range(30)), NOISE, synthetic_fraction=0.4, labels=labels, seed=3)
    mixed.set_epoch(2)
    expected = [key(mixed[at]) for at in range(len(mixed))]
    other = MixedDataset(Subset(skewed(), range(30)), NOISE, synthetic_fraction=0.4, labels=labels, seed=3)
    other.set_epoch(2)
    assert [key(other[at]) for at in reversed(range(len(other)))] == expected[::-1]
    assert [key(item) for item in items_of(DataLoader(mixed, 7, num_workers=2))] == expected
    stream = MixedIterableDataset(Subset(skewed(), range(30)), NOISE, synthetic_fraction=0.4, labels=labels, seed=3)
    stream.set_epoch(2)
    for workers in (0, 1, 2, 4):
        found = [key(item) for item in items_of(DataLoader(stream, 1, num_workers=workers))]
        assert sorted(found) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("make", [MixedDataset, MixedIterableDataset])
def test_spawned_workers_of_two_ranks_have_each_item_once(make, monkeypatch):
    mixed = make(skewed(), NOISE, synthetic_fraction=0.4, labels="match", seed=3)
    expected = sorted(key(item) for item in items_of(DataLoader(mixed, 1)))
    for context in ("fork", "spawn"):
        found = []
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
            sampler = None if make is MixedIterableDataset else range(rank, len(mixed), 2)
            loader = DataLoader(mixed, 3, sampler=sampler, num_workers=2, multiprocessing_context=context)
            found += map(key, items_of(loader))
        assert sorted(found) == expected


@pytest.mark.parametrize(
    ("real", "synthetic", "labels", "words"),
    [
        (Real(), NOISE, "match", r'labels="match" needs the labels of all real items, which Real does not tell'),
        (Stream(), NOISE, "balance", "which Stream does not tell"),
        (Real(), NOISE, "rare", 'labels must be "match"'),
        (Real(), NOISE, [1.0], "labels has 1 weights, but the synthesizer has 10 classes"),
        (Real(), Real(), "match", "items of a synthetic data set have theirs"),
        (Real(), NoiseSynthesizer((3, 4, 4)), [1.0], "the synthesizer has no classes"),
    ],
)
def test_a_bad_choice_of_classes_is_named(real, synthetic, labels, words):
    make = MixedIterableDataset if isinstance(real, IterableDataset) else MixedDataset
    with pytest.raises(ValueError, match=words):
        make(real, synthetic, synthetic_fraction=0.3, labels=labels)
