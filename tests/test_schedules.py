"""Fractions that change: where they start, end and stay, in one piece and put together."""

import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen import schedules
from torchaug_gen.mixing import Schedule, Tally

EVERY = [
    schedules.linear(0.1, 0.7, epochs=4, steps_per_epoch=10),
    schedules.linear(0, 0, epochs=1),
    schedules.cosine(0.5, 0.0, epochs=2.5, begin=1.0, steps_per_epoch=7),
    schedules.warmup(0.3, epochs=5),
    schedules.anneal(0.3, total_epochs=10, share=0.2, steps_per_epoch=3),
    schedules.anneal(schedules.warmup(schedules.cosine(0.4, 0.2, epochs=3), epochs=2), total_epochs=6, share=0.5),
    schedules.recommended(total_epochs=30, steps_per_epoch=11),
]


def half(epoch, step):
    return 0.5


def test_lines_and_cosines_begin_and_end_where_they_are_told():
    for make, middle in ((schedules.linear, 0.3), (schedules.cosine, 0.3)):
        schedule = make(0.1, 0.5, epochs=4, begin=2)
        assert [schedule(epoch, 0) for epoch in (0, 1, 2, 4, 6, 7, 1000)] == [0.1, 0.1, 0.1, middle, 0.5, 0.5, 0.5]
    line, curve = schedules.linear(0.0, 0.4, epochs=4), schedules.cosine(0.0, 0.4, epochs=4)
    assert line(1, 0) == 0.1
    assert curve(1, 0) == round(0.2 * (1 - math.cos(math.pi / 4)), 9)


def test_steps_count_only_where_their_number_is_known():
    assert {schedules.linear(0.0, 0.5, epochs=5)(1, step) for step in range(50)} == {0.1}
    fine = schedules.linear(0.0, 0.5, epochs=5, steps_per_epoch=10)
    assert [fine(1, step) for step in (0, 1, 5, 9)] == [0.1, 0.11, 0.15, 0.19]


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_an_epoch_longer_than_told_never_makes_time_run_backwards(make):
    schedule = make(0.0, 0.9, epochs=3, steps_per_epoch=4)
    values = [schedule(epoch, step) for epoch in range(3) for step in range(7)]
    assert values == sorted(values)
    assert schedule(0, 6) == schedule(1, 0)


def test_warming_up_and_annealing_begin_and_end_at_nothing():
    schedule = schedules.anneal(schedules.warmup(0.3, epochs=2), total_epochs=20, share=0.1)
    assert schedule(0, 0) == 0
    assert schedule(2, 0) == schedule(18, 0) == 0.3
    assert schedule(19, 0) == 0.15
    assert [schedule(epoch, 5) for epoch in (20, 21, 10**6)] == [0, 0, 0]


def test_the_recommended_one_is_0_at_both_ends_and_flat_between():
    schedule = schedules.recommended(total_epochs=40, steps_per_epoch=100)
    values = [schedule(epoch, step) for epoch in range(40) for step in range(100)]
    assert values[0] == 0 and values[-1] < 0.001
    assert all(value == 0.3 for value in values[400:3401])
    assert max(values) == 0.3
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 0\.5\], got 0\.6"):
        schedules.recommended(0.6, total_epochs=40)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EVERY), st.integers(0, 2**32 - 1), st.integers(0, 10**9))
def test_every_fraction_is_legal_and_short(schedule, epoch, step):
    fraction = Schedule.of(schedule)(epoch, step)
    assert 0 <= fraction < 1
    assert 10**9 % fraction.denominator == 0
    assert float(fraction) == schedule(epoch, step)


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_schedules_pickle_compare_and_print_as_what_makes_them(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule and hash(again) == hash(schedule)
    assert eval(repr(schedule), vars(schedules)) == schedule


def test_any_callable_can_be_put_inside():
    assert schedules.warmup(half, epochs=2)(1, 0) == 0.25
    assert "half" in repr(schedules.warmup(half, epochs=2))


def test_counts_stay_exact_under_every_schedule():
    for schedule in EVERY:
        for epoch in range(4):
            tally, target, delivered = Tally(), Fraction(0), 0
            for step in range(12):
                fraction = Schedule.of(schedule)(epoch, step)
                split = tally.split(fraction, 13)
                assert min(split) >= 0
                tally = tally.after(fraction, split)
                target, delivered = target + fraction * 13, delivered + split.synthetic
                assert 0 <= delivered - target < 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.linear(0.1, 1.0, epochs=2), ValueError, r"must be in \[0, 1\), got 1\.0"),
        (lambda: schedules.linear(-0.1, 0.5, epochs=2), ValueError, r"must be in \[0, 1\), got -0\.1"),
        (lambda: schedules.linear(0.1, float("nan"), epochs=2), ValueError, r"\[0, 1\), got nan"),
        (lambda: schedules.linear(0.1, "a", epochs=2), TypeError, "got 'a'"),
        (lambda: schedules.cosine(0.1, 0.2, epochs=0), ValueError, "epochs must be above 0 and finite, got 0"),
        (lambda: schedules.cosine(0.1, 0.2, epochs=math.nan), ValueError, "epochs must be above 0 and finite, got nan"),
        (lambda: schedules.cosine(0.1, 0.2, epochs=1, begin=-1), ValueError, "begin must be .* got -1"),
        (lambda: schedules.warmup(1.5, epochs=1), ValueError, r"\[0, 1\), got 1\.5"),
        (lambda: schedules.warmup(None, epochs=1), TypeError, "got None"),
        (lambda: schedules.warmup(0.3, epochs=1, steps_per_epoch=0), ValueError, "steps_per_epoch .* got 0"),
        (lambda: schedules.warmup(0.3, epochs=1, steps_per_epoch=1.5), ValueError, r"steps_per_epoch .* got 1\.5"),
        (lambda: schedules.anneal(0.3, total_epochs=5, share=0), ValueError, r"share must be in \(0, 1\], got 0"),
        (lambda: schedules.anneal(0.3, total_epochs=-1), ValueError, "total_epochs must be above 0"),
    ],
)
def test_what_is_wrong_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_bad_fraction_inside_says_where_it_came_from():
    def wild(epoch, step):
        return 7

    with pytest.raises(ValueError, match=r"wild.* at epoch 0, step 4 must be in \[0, 1\), got 7"):
        schedules.warmup(wild, epochs=1)(0, 4)
