"""A fraction for each class: exact in each of them, whatever the order, the room and the schedule."""

import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen.mixing import ClassSchedule, ClassTally, as_fraction, epoch_items

CLASSES = 4
FRACTIONS = st.one_of(
    st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 0.5, 0.9, 0.97, Fraction(1, 7)]), st.floats(0, 0.95, allow_nan=False)
).map(as_fraction)
PER_CLASS = st.lists(FRACTIONS, min_size=CLASSES, max_size=CLASSES)
LABELS = st.lists(st.integers(0, CLASSES - 1), max_size=30)


class Law:
    """Adds up what the exact target of each class is."""

    def __init__(self):
        self.target, self.synthetic = Counter(), Counter()

    def after(self, fractions, real, synthetic):
        for label in [*real, *synthetic]:
            self.target[label] += fractions[label]
        self.synthetic.update(synthetic)
        for label in range(CLASSES):
            assert self.synthetic[label] == math.ceil(self.target[label])


@given(st.lists(st.tuples(LABELS, PER_CLASS), max_size=8))
@settings(deadline=None, max_examples=60)
def test_extended_batches_are_exact_in_each_class(batches):
    tally, law = ClassTally(), Law()
    for real, fractions in batches:
        merged = tally.merge(real, fractions.__getitem__)
        assert merged.real == len(real) and set(merged.synthetic) <= set(real)
        law.after(fractions, real, merged.synthetic)
        tally = merged.tally


@given(LABELS, st.integers(1, 9), st.lists(PER_CLASS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_rebatched_items_are_exact_in_each_class_and_come_in_order(real, room, schedule):
    tally, law, left, step, items = ClassTally(), Law(), real, 0, 0
    while left:
        fractions = schedule[step % len(schedule)]
        merged = tally.merge(left, fractions.__getitem__, room=room)
        taken, left = left[: merged.real], left[merged.real :]
        assert merged.items == room or (not left and merged.items < room)
        law.after(fractions, taken, merged.synthetic)
        # The way through JSON changes nothing.
        tally, step, items = ClassTally.from_json(json.loads(json.dumps(merged.tally.to_json()))), step + 1, items + 1
        assert step < 2000
    if len(schedule) == 1:
        counts = [(label, real.count(label)) for label in range(CLASSES)]
        total = epoch_items(counts, ClassSchedule.of(schedule[0], CLASSES))
        assert total == len(real) + sum(law.synthetic.values())


@given(st.lists(st.tuples(LABELS, PER_CLASS), max_size=8))
@settings(deadline=None, max_examples=60)
def test_replaced_items_are_exact_in_each_class(batches):
    tally, law = ClassTally(), Law()
    for step, (labels, fractions) in enumerate(batches):
        classes = torch.tensor(labels, dtype=torch.int64)
        rows, tally = tally.replace(classes, fractions.__getitem__, shift=step)
        assert rows.shape == classes.shape
        law.after(fractions, classes[~rows].tolist(), classes[rows].tolist())


@pytest.mark.parametrize(
    "value",
    [
        [0.3, 0.0, 0.5],
        (Fraction(3, 10), 0, 0.5),
        {0: 0.3, 2: 0.5},
        {np.int64(0): 0.3, 2: 0.5, 1: 0},
        torch.tensor([0.3, 0.0, 0.5]),
        np.array([0.3, 0.0, 0.5], dtype=np.float32),
    ],
)
def test_what_a_schedule_per_class_is_given_as(value):
    assert ClassSchedule.describes(value)
    schedule = ClassSchedule.of(value, 3)
    assert [schedule(0, 0)(label) for label in range(3)] == [Fraction(3, 10), 0, Fraction(1, 2)]
    assert schedule.delivers and not schedule.varies


def test_a_class_may_have_a_schedule():
    schedule = ClassSchedule.of({1: lambda epoch, step: 0.1 * epoch, 2: 0.5}, 3)
    assert schedule.varies and [schedule(2, 0)(label) for label in range(3)] == [0, Fraction(1, 5), Fraction(1, 2)]
    with pytest.raises(TypeError, match="depends on the order"):
        epoch_items([(0, 3)], schedule)
    bad = ClassSchedule.of({1: lambda epoch, step: 1.5}, 3)
    with pytest.raises(ValueError, match=r"synthetic_fraction\[1\]\(epoch=4, step=7\) must be in \[0, 1\), got 1.5"):
        bad(4, 7)(1)
    assert bad(4, 7)(0) == 0


@pytest.mark.parametrize(
    "value", [0.3, Fraction(1, 3), np.float32(0.3), torch.tensor(0.3), lambda epoch, step: 0.1, "x"]
)
def test_one_fraction_for_all_is_no_schedule_per_class(value):
    assert not ClassSchedule.describes(value)


def test_nothing_for_any_class_is_nothing():
    assert not ClassSchedule.of({}, 3).delivers and not ClassSchedule.of([0, 0.0, 0], 3).delivers


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([0.3], ValueError, "one value for each of the synthesizer's 3 classes, got 1"),
        ([0.3, 0.2, 1.0], ValueError, r"synthetic_fraction\[2\] must be in \[0, 1\), got 1.0"),
        ([0.3, 0.2, float("nan")], ValueError, r"synthetic_fraction\[2\] must be in"),
        (torch.zeros(3, 1), ValueError, "one value for each of"),
        ({3: 0.1}, ValueError, r"classes in 0\.\.2, got class 3"),
        ({-1: 0.1}, ValueError, "got class -1"),
        ({"cat": 0.1}, TypeError, "got 'cat' as a class"),
        ({True: 0.1}, TypeError, "got True as a class"),
        ({0: "a"}, TypeError, r"synthetic_fraction\[0\] must be a number in \[0, 1\), got 'a'"),
        ({0: None}, TypeError, r"synthetic_fraction\[0\] must be a number"),
    ],
)
def test_bad_fractions_per_class_are_named(value, error, words):
    with pytest.raises(error, match=words):
        ClassSchedule.of(value, 3)
