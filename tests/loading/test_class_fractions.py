"""A synthetic fraction for each class, through the loader."""

import json
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from fakes import CLASSES, REAL, Coded, CodedStream, Drawn, Listed, coded_batches, codes, mixed, real_ids, same, stock
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from torchaug_gen import AugmentedLoader, MixUp, NoiseSynthesizer, schedules
from torchaug_gen.mixing import as_fraction

PER_CLASS = {0: 0.5, 1: 0.3, 2: 0.9, 4: 0.05}  # class 3 has none
WAYS = ("rebatch", "extend", "replace")
INNER = {
    "map": lambda: stock(41, 6, shuffle=True),
    "workers": lambda: stock(41, 6, shuffle=True, num_workers=2),
    "stream": lambda: DataLoader(CodedStream(41), 6),
    "list": lambda: Listed(coded_batches(5, 0, 1, 12, 3), batch_size=6),
}


def check_law(batches, fractions):
    """Fail where a batch's rows are not what their labels say, or a class is off its exact target after a batch."""
    target, synthetic = Counter(), Counter()
    for step, (images, labels) in enumerate(batches):
        for (first, mark, third), label in zip(codes(images), labels.tolist(), strict=True):
            target[label] += as_fraction(fractions(step, label))
            if mark == REAL:
                assert (first + 256 * third) % CLASSES == label
            else:
                assert third == label
                synthetic[label] += 1
        assert all(synthetic[label] == math.ceil(target[label]) for label in range(CLASSES)), step
    return synthetic


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("name", INNER)
def test_each_class_is_exact_after_every_batch_and_no_real_item_is_lost(name, mixing):
    loader = mixed(INNER[name](), PER_CLASS, mixing=mixing)
    for _ in range(2):
        batches = list(loader)
        check_law(batches, lambda step, label: PER_CLASS.get(label, 0))
        ids = sorted(index for images, _ in batches for index in real_ids(images))
        items = 21 if name == "list" else 41
        assert ids == list(range(items)) if mixing != "replace" else set(ids) < set(range(items))
        if mixing == "rebatch":
            assert {len(images) for images, _ in batches[:-1]} == {6} and len(batches[-1][0]) <= 6
        if mixing == "replace" and name in ("map", "workers"):
            assert len(batches) == len(loader) == 7


@pytest.mark.parametrize("mixing", WAYS)
def test_schedules_per_class(mixing):
    warm = schedules.linear(0.0, 0.6, epochs=1, steps_per_epoch=5)
    fractions = {0: warm, 1: 0.25, 2: lambda epoch, step: [0.0, 0.9][step % 2]}
    loader = mixed(stock(60, 6, shuffle=True), fractions, mixing=mixing)
    values = lambda step, label: 0 if label not in fractions else 0.25 if label == 1 else fractions[label](0, step)  # noqa: E731
    assert check_law(list(loader), values)[0] > 0


def test_a_sequence_is_the_same_as_a_mapping():
    row = [PER_CLASS.get(label, 0.0) for label in range(CLASSES)]
    expected = list(mixed(stock(), PER_CLASS))
    for value in (row, tuple(row), torch.tensor(row), torch.tensor(row).numpy()):
        assert same(list(mixed(stock(), value)), expected)


def test_no_fraction_for_any_class_is_none():
    assert same(list(mixed(stock(), {})), list(mixed(stock(), 0.0)))
    # An epoch's real items are those of the plain loader, and of a class alone nothing else changes.
    only = mixed(stock(40, 8), {2: 0.5})
    assert {
        label
        for images, labels in only
        for code, label in zip(codes(images), labels.tolist(), strict=True)
        if code[1] != REAL
    } == {2}


def test_the_counts_are_shown():
    loader = mixed(stock(40, 8), PER_CLASS)
    list(loader)
    shares = loader.stats.fraction_by_class
    assert all(abs(shares[label] - PER_CLASS.get(label, 0)) < 1 / 8 for label in range(CLASSES)) and shares[3] == 0


def test_a_short_last_batch_is_dropped_where_the_loader_says_so():
    whole = list(mixed(stock(40, 8), PER_CLASS))
    assert len(whole[-1][0]) < 8
    assert same(list(mixed(stock(40, 8, drop_last=True), PER_CLASS)), whole[:-1])


def tensors(n=40):
    return TensorDataset(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.arange(n) % CLASSES)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"drop_last": True, "shuffle": True}])
@pytest.mark.parametrize("make", [tensors, lambda: Subset(tensors(50), range(3, 43))])
def test_the_length_is_known_where_the_labels_are(make, options):
    loader = AugmentedLoader(
        DataLoader(make(), 8, **options), synthesizer=Drawn(), synthetic_fraction=PER_CLASS, dtype=None
    )
    assert len(loader) == len(list(loader)) == len(list(loader))


@pytest.mark.parametrize(
    "make",
    [
        lambda: mixed(stock(), PER_CLASS),
        lambda: mixed(DataLoader(tensors(), 8), {0: lambda epoch, step: 0.1}),
        lambda: mixed(DataLoader(tensors(), 8, sampler=DistributedSampler(tensors(), 1, 0)), PER_CLASS),
        lambda: mixed(DataLoader(tensors(41), 8, drop_last=True), PER_CLASS),
    ],
)
def test_an_unknown_length_is_a_type_error(make):
    with pytest.raises(TypeError, match="length"):
        len(make())


def check_resume(make, every):
    batches, states = [], []
    loader = make()
    for _ in range(2):
        states.append(json.dumps(loader.state_dict()))
        for batch in loader:
            batches.append(batch)
            states.append(json.dumps(loader.state_dict()))
        states.pop()
    starts = list(range(0, len(batches), every))
    for done in starts:
        other = make()
        other.load_state_dict(json.loads(states[done]))
        epochs = 2 - json.loads(states[done])["epoch"]
        assert same([batch for _ in range(epochs) for batch in other], batches[done:]), done


@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_resume_is_exact(mixing, prefetch):
    warm = {0: lambda epoch, step: 0.3 * (step % 3), 2: 0.85, 1: 0.3}
    stages = [MixUp(alpha=0.4)]
    check_resume(lambda: mixed(INNER["map"](), warm, mixing=mixing, prefetch=prefetch, transform=stages), 7)


def test_a_state_of_other_fractions_is_refused():
    state = mixed(stock(), PER_CLASS).state_dict()
    for other in (PER_CLASS | {0: 0.4}, 0.3, {0: lambda epoch, step: 0.5}):
        with pytest.raises(ValueError, match="saved with synthetic_fraction="):
            mixed(stock(), other).load_state_dict(state)
    many = NoiseSynthesizer((3, 4, 4), num_classes=1000)
    state = mixed(DataLoader(tensors(), 4), [0.3] * 1000, synthesizer=many).state_dict()
    assert len(json.dumps(state)) < 2000
    with pytest.raises(ValueError, match="per class, digest"):
        mixed(DataLoader(tensors(), 4), [0.4] * 1000, synthesizer=many).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"synthesizer": None}, ValueError, "per class needs a synthesizer"),
        ({"synthesizer": NoiseSynthesizer((3, 4, 4))}, ValueError, "the synthesizer has no classes"),
        ({"labels": "balance"}, ValueError, "decides the classes, so labels must be left out, got 'balance'"),
        ({"labels": [1.0] * CLASSES}, ValueError, "decides the classes"),
        ({"synthetic_fraction": {7: 0.1}}, ValueError, r"classes in 0\.\.4, got class 7"),
    ],
)
def test_bad_settings_are_named(options, error, words):
    with pytest.raises(error, match=words):
        AugmentedLoader(stock(), **{"synthesizer": Drawn(), "synthetic_fraction": PER_CLASS} | options)


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        ((torch.zeros(4, 3, 4, 4), torch.full((4, CLASSES), 0.2)), {}, r"field 1 holds probabilities"),
        ((torch.zeros(4, 3, 4, 4), torch.full((4,), 5)), {}, r"must be in 0\.\.4, got 5"),
        ((torch.zeros(4, 3, 4, 4),), {"fields": {"labels": None}}, "needs labels, but the batch has none"),
    ],
)
@pytest.mark.parametrize("mixing", WAYS)
def test_bad_batches_are_named(batch, options, words, mixing):
    with pytest.raises(ValueError, match=words):
        list(mixed(Listed([batch], batch_size=4), PER_CLASS, mixing=mixing, **options))


def test_who_goes_on_behind_a_bad_batch_gets_the_others():
    good = coded_batches(4, 4, 4)
    good[1] = (good[1][0], torch.full((4,), 9))
    running, ids = iter(mixed(Listed(good, batch_size=4), {0: 0.5}, prefetch=0)), []
    for _ in range(20):
        try:
            ids += real_ids(next(running)[0])
        except ValueError:
            pass
        except StopIteration:
            break
    assert ids == [0, 1, 2, 3, 8, 9, 10, 11]


def test_ranks_that_would_fall_out_of_step_are_refused(monkeypatch):
    make = lambda mixing: mixed(  # noqa: E731
        DataLoader(Coded(40), 4, sampler=DistributedSampler(Coded(40), 2, 1)), PER_CLASS, mixing=mixing
    )
    with pytest.raises(ValueError, match=r'2 ranks .* different numbers of steps: use mixing="extend"'):
        next(iter(make("rebatch")))
    assert len(list(make("extend"))) == len(list(make("replace"))) == 5
    one = make("extend")
    next(iter(one))
    other = mixed(DataLoader(Coded(40), 4, sampler=DistributedSampler(Coded(40), 2, 0)), PER_CLASS, mixing="extend")
    with pytest.raises(ValueError, match="synthetic_fraction per class"):
        other.load_state_dict(one.state_dict())


def test_a_function_that_returns_many_is_told_how_to_say_so():
    loader = mixed(stock(), lambda epoch, step: [Fraction(1, 2)] * CLASSES, mixing="extend")
    with pytest.raises(TypeError, match="for a schedule per class give a mapping of classes to schedules"):
        next(iter(loader))
