import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen import mixing
from torchaug_gen.mixing import LabelSource, Split, Tally

FRACTIONS = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.9, 0.99, Fraction(1, 7)]),
    st.floats(0, 0.95, allow_nan=False),
).map(mixing.as_fraction)


@given(st.lists(st.tuples(FRACTIONS, st.integers(0, 70)), max_size=40))
def test_splits_follow_the_exact_target_under_any_schedule(batches):
    tally, target, synthetic = Tally(), Fraction(0), 0
    for fraction, items in batches:
        split = tally.split(fraction, items)
        assert sum(split) == items and min(split) >= 0
        tally = tally.after(fraction, split)
        target, synthetic = target + fraction * items, synthetic + split.synthetic
        assert synthetic == math.ceil(target)


@given(st.lists(st.tuples(FRACTIONS, st.integers(0, 70)), max_size=40))
def test_extending_keeps_every_real_item_and_the_target(batches):
    tally, target, synthetic = Tally(), Fraction(0), 0
    for fraction, real in batches:
        split = tally.extend(fraction, real)
        assert split.real == real and split.synthetic >= 0
        # It is the smallest batch that does: one item fewer would miss the target.
        if split.synthetic:
            fewer = tally.split(fraction, sum(split) - 1)
            assert fewer.real < real
        tally = tally.after(fraction, split)
        target, synthetic = target + fraction * sum(split), synthetic + split.synthetic
        assert synthetic == math.ceil(target)


@given(st.integers(0, 300), st.integers(1, 40), FRACTIONS)
@settings(deadline=None)
def test_rebatching_delivers_all_real_items_in_full_batches(real, batch_size, fraction):
    splits = list(mixing.rebatch_splits(real, batch_size, fraction, drop_last=False))
    assert sum(split.real for split in splits) == real
    assert all(sum(split) == batch_size for split in splits[:-1])
    assert all(0 < sum(split) <= batch_size for split in splits[-1:])
    dropped = list(mixing.rebatch_splits(real, batch_size, fraction, drop_last=True))
    assert dropped == [split for split in splits if sum(split) == batch_size]


@pytest.mark.parametrize(("real", "fraction", "expected"), [(7, 0.3, 10), (32, 0.5, 64), (10, 0.0, 10)])
def test_extended_batches_have_the_size_that_the_fraction_says(real, fraction, expected):
    assert sum(Tally().extend(mixing.as_fraction(fraction), real)) == expected


def test_a_decimal_fraction_is_taken_at_its_word():
    assert mixing.as_fraction(0.1) == Fraction(1, 10)
    assert Tally().split(mixing.as_fraction(0.1), 10) == Split(9, 1)


@pytest.mark.parametrize("value", [-0.1, 1, 1.4, float("nan"), float("inf")])
def test_fractions_out_of_range_raise(value):
    with pytest.raises(ValueError, match=r"synthetic_fraction must be in \[0, 1\), got"):
        mixing.as_fraction(value)


@pytest.mark.parametrize("value", ["0.3", None, True, [0.3]])
def test_fractions_that_are_no_numbers_raise(value):
    with pytest.raises(TypeError, match="synthetic_fraction must be a number"):
        mixing.as_fraction(value)


@given(st.integers(1, 200), st.data(), st.integers(0, 1000))
def test_synthetic_rows_are_spread_evenly(n, data, shift):
    synthetic = data.draw(st.integers(0, n))
    rows = mixing.synthetic_rows(n, synthetic, shift=shift)
    assert rows.dtype is torch.bool and len(rows) == n and int(rows.sum()) == synthetic
    plain = mixing.synthetic_rows(n, synthetic)
    expected = [(i + 1) * synthetic // n > i * synthetic // n for i in range(n)]
    assert plain.tolist() == expected
    # Every window holds its share to within one item.
    before = torch.cat((torch.zeros(1, dtype=torch.int64), plain.cumsum(0)))
    assert (before - torch.arange(n + 1) * synthetic / n).abs().max() < 1
    # Over n epochs the turned pattern makes every row synthetic equally often.
    if n < 30:
        total = sum(mixing.synthetic_rows(n, synthetic, shift=shift + turn).long() for turn in range(n))
        assert set(total.tolist()) == {synthetic}


def source(policy, num_classes=10, seed=0, epoch=0):
    return LabelSource(policy, num_classes, seed=seed, epoch=epoch)


def test_match_draws_what_the_real_rows_have():
    labels = source("match").draw(torch.tensor([3, 3, 3, 7]), torch.arange(4000))
    assert set(labels.tolist()) == {3, 7}
    assert 0.70 < (labels == 3).double().mean() < 0.80


def test_match_falls_back_on_the_latest_labels_and_then_on_all():
    chooser = source("match", num_classes=4)
    none = torch.empty(0, dtype=torch.int64)
    assert set(chooser.draw(none, torch.arange(200)).tolist()) == {0, 1, 2, 3}
    chooser.draw(torch.tensor([2]), torch.arange(0))
    assert set(chooser.draw(none, torch.arange(200, 300)).tolist()) == {2}


def test_balance_fills_the_rarest_classes_first():
    chooser = source("balance", num_classes=3)
    labels = chooser.draw(torch.tensor([0] * 5 + [1] * 2), torch.arange(8))
    assert torch.bincount(labels, minlength=3).tolist() == [0, 3, 5]
    assert chooser.seen.tolist() == [5, 5, 5]


@given(st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=9), st.integers(0, 20)), max_size=6))
def test_balance_gives_each_item_the_class_seen_least_the_lowest_first(batches):
    chooser, seen = source("balance", num_classes=6), [0] * 6
    for real, count in batches:
        for label in real:
            seen[label] += 1
        for label in chooser.draw(torch.tensor(real, dtype=torch.int64), torch.arange(count)).tolist():
            assert label == seen.index(min(seen))
            seen[label] += 1
        assert chooser.seen.tolist() == seen


def test_weights_are_obeyed():
    labels = source([0, 1, 3, 0], num_classes=4).draw(torch.tensor([0]), torch.arange(8000))
    share = torch.bincount(labels, minlength=4) / 8000
    assert share[0] == share[3] == 0
    assert 0.22 < share[1] < 0.28


def test_a_callable_chooses():
    labels = source(lambda real, positions: positions % 3).draw(torch.tensor([0]), torch.arange(4))
    assert labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("policy", ["match", [1.0] * 10])
def test_a_label_depends_on_its_position_alone(policy):
    real = torch.arange(10)
    whole = source(policy).draw(real, torch.arange(20))
    parts = source(policy)
    halves = torch.cat([parts.draw(real, torch.arange(7)), parts.draw(real, torch.arange(7, 20))])
    assert torch.equal(whole, halves)
    assert not torch.equal(whole, source(policy, epoch=1).draw(real, torch.arange(20)))
    assert not torch.equal(whole, source(policy, seed=1).draw(real, torch.arange(20)))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("balanced", "labels must be"),
        (None, "labels must be"),
        ([1.0, -1.0], "not negative"),
        ([0.0, 0.0], "not all zero"),
        ([1.0, float("nan")], "finite"),
        ([[1.0]], r"\(K,\)"),
        ([1.0, 2.0], "2 weights, but the synthesizer has 10 classes"),
    ],
)
def test_bad_policies_are_named(policy, words):
    with pytest.raises(ValueError, match=words):
        source(policy)


@pytest.mark.parametrize(
    ("answer", "words"),
    [([0, 1], "must return 3 class indices"), ([0, 1, 10], r"classes in 0\.\.9"), ([0.5] * 3, "class indices")],
)
def test_bad_answers_of_a_callable_are_named(answer, words):
    with pytest.raises(ValueError, match=words):
        source(lambda real, positions: answer).draw(torch.tensor([0]), torch.arange(3))
