"""Parameters are pure functions of (seed, epoch, position, operation, draw)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchaug_gen import rng
from torchaug_gen.augment.drawing import draw
from torchaug_gen.augment.drawing_kernels import offset
from torchaug_gen.augment.operation import CONSTANTS, Gate, Kind, Operation, Size, constant_range, parameter_names

N = 3000
UNIT = constant_range(0, 1)


def operation(kind, *constants, name="it", **settings):
    return Operation(kind, name, tuple(float(number) for number in constants), **settings)


HUE = operation(Kind.HUE, *UNIT)
CROP = operation(Kind.CROP, Size.FIXED, 5, 6, 0, 0, 0, 0, 0, 0)
RESIZED_CROP = operation(Kind.RESIZED_CROP, 1, 8, 8, 0.1, 1, 0.7, 1.4, 0)
ERASE = operation(Kind.ERASE, 1, 0.02, 0.3, 0.3, 3.3, 1, 0.5, probability=0.6)
JITTER = operation(
    Kind.JITTER, 0, 1, *constant_range(0.5, 1.5), 1, *constant_range(0.5, 1.5), 0, *UNIT, 1, *UNIT, 0, 0, 1, 2, 3,
)  # fmt: skip
EVERYTHING = [
    operation(Kind.HORIZONTAL_FLIP, probability=0.5),
    operation(Kind.QUARTER_TURNS, *constant_range(-3, 3), probability=0.4),
    CROP,
    operation(Kind.PERSPECTIVE, 2, 0.5, probability=0.7),
    RESIZED_CROP,
    JITTER,
    operation(Kind.CHANNEL_SHUFFLE),
    operation(Kind.CHANNEL_DROPOUT, 2, 0.5),
    operation(Kind.PLANCKIAN, 3, 1, 1, 1, 1, 1, 1),
    ERASE,
]


def drawn(operations, n=N, size=(20, 30), channels=3, **changes):
    key = {"seed": 5, "epoch": 3, "positions": np.arange(n)} | changes
    sizes = np.tile(np.int32(size), (len(key["positions"]), 1))
    return draw(operations, sizes=sizes, channels=channels, **key)


@given(
    seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1), position=st.integers(0, 2**63 - 1),
    first=st.integers(0, 99), stream=st.text(max_size=5),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_numbers_are_those_of_rng_bit_for_bit(seed, epoch, position, first, stream):
    shift = operation(Kind.RGB_SHIFT, *UNIT, *UNIT, *UNIT)
    gated = HUE.behind(Gate("gate", 0.0, 0.5))
    row = drawn(
        [shift, gated], seed=seed, epoch=epoch, positions=np.array([position]), first=first, stream=stream
    )[0]  # fmt: skip

    def uniform(name, count):
        return rng.uniform(seed, name, epoch, position, (count,), dtype=torch.float64)[0].tolist()

    assert row[1:4].tolist() == uniform(f"{stream}.{first}", 4)[1:]
    is_open = uniform(f"{stream}.gate.gate", 1)[0] < 0.5
    assert row[4:].tolist() == ([1.0, uniform(f"{stream}.{first + 1}", 2)[1]] if is_open else [0.0, 0.0])


def test_a_sample_does_not_know_its_batch(untouched_rng):
    whole = drawn(EVERYTHING, 40)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(drawn(EVERYTHING, positions=order), whole[order])
    np.testing.assert_array_equal(drawn(EVERYTHING, positions=order[:1]), whole[order[:1]])
    np.testing.assert_array_equal(drawn(EVERYTHING, 40), whole)
    for change in ({"seed": 6}, {"epoch": 4}, {"first": 1}, {"stream": "other"}, {"positions": np.arange(40, 80)}):
        assert not np.array_equal(drawn(EVERYTHING, 40, **change), whole)


def test_an_operation_does_not_know_the_others():
    whole = drawn([JITTER, ERASE])
    width = len(list(parameter_names(Kind.JITTER, 3)))
    np.testing.assert_array_equal(drawn([JITTER]), whole[:, :width])
    np.testing.assert_array_equal(drawn([ERASE], first=1), whole[:, width:])


def test_columns_of_operations_that_do_not_act_are_zero():
    rows = drawn([ERASE])
    idle = rows[:, 0] == 0
    assert 0 < idle.sum() < N
    assert not rows[idle].any()
    assert rows[~idle, 1:].any(axis=1).all()


def test_no_operations_and_no_samples_are_legal():
    assert drawn([]).shape == (N, 0)
    assert drawn([HUE], 0).shape == (0, 2)


RANGES = {
    "uniform": (constant_range(2, 5), lambda v: stats.kstest(v, stats.uniform(2, 3).cdf).pvalue),
    "steps": (constant_range(0, 1, bins=5), lambda v: stats.chisquare(np.unique(v, return_counts=True)[1]).pvalue),
    "one step": (constant_range(7, 9, bins=1), lambda v: float((v == 7).all())),
    "integers": (constant_range(-2, 2, bins=-1), lambda v: stats.chisquare(np.bincount((v + 2).astype(int))).pvalue),
    "signed": (constant_range(1, 2, signed=True), lambda v: stats.binomtest(int((v < 0).sum()), N).pvalue),
    "mirrored": ((0.0, 0.5, 0.0, 2.0), lambda v: stats.binomtest(int((v > 1).sum()), N).pvalue),
}


@pytest.mark.parametrize("name", RANGES)
def test_ranges_mean_what_they_say(name):
    limits, pvalue = RANGES[name]
    values = drawn([operation(Kind.HUE, *limits)])[:, 1]
    assert pvalue(values) > 1e-4
    if name == "signed":
        assert stats.kstest(np.abs(values), stats.uniform(1, 1).cdf).pvalue > 1e-4
    if name == "mirrored":
        assert set(np.unique(values.round(9)[(values > 0.5) & (values < 1.5)])) <= {0.5, 1.5}


@pytest.mark.parametrize("kind, count", [(Kind.CHANNEL_SHUFFLE, 24), (Kind.CHANNEL_DROPOUT, 6)])
def test_channels_are_chosen_uniformly(kind, count):
    constants = (2, 0) if kind is Kind.CHANNEL_DROPOUT else ()
    rows = drawn([operation(kind, *constants)], channels=4)[:, 1:]
    codes, counts = np.unique(rows @ [64, 16, 4, 1], return_counts=True)
    assert len(codes) == count
    assert stats.chisquare(counts).pvalue > 1e-4
    if kind is Kind.CHANNEL_DROPOUT:
        assert (rows.sum(axis=1) == 2).all()


def test_all_orders_of_a_jitter_are_equally_likely():
    counts = np.unique(drawn([JITTER])[:, 5:] @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4
    fixed = list(JITTER.constants)
    at = offset(Kind.JITTER, "fixed")
    fixed[at : at + 5] = [1, 2, 0, -1, -1]
    assert (drawn([operation(Kind.JITTER, *fixed)])[:, 5:] == [2, 0, -1, -1]).all()
    # A factor that is not used is neutral.
    assert (drawn([JITTER])[:, 3] == 1).all()


def test_sizes_follow_the_operations_that_act():
    crop = operation(Kind.CROP, Size.FIXED, 10, 10, 3, 0, 0, 0, 0, 0, probability=0.5)
    shift = operation(
        Kind.AFFINE, 0, 1, *constant_range(0, 0), *constant_range(1, 1), *constant_range(1, 1), 0, 0,
        *constant_range(1, 1), *constant_range(1, 1), 1, *constant_range(0, 0), *constant_range(0, 0), 0, 0, 0,
    )  # fmt: skip
    rows = drawn([crop, shift])
    assert set(map(tuple, rows[:, [0, 5, 6]])) == {(1.0, 10.0, 10.0), (0.0, 30.0, 20.0)}


def test_samples_of_a_batch_may_differ_in_size():
    sizes = np.array([[20, 30], [50, 9], [8, 8]], np.int32)
    together = draw(EVERYTHING, seed=1, epoch=0, positions=np.arange(3), sizes=sizes, channels=3)
    for index in range(3):
        alone = draw(
            EVERYTHING, seed=1, epoch=0, positions=np.array([index]), sizes=sizes[index : index + 1], channels=3
        )
        np.testing.assert_array_equal(alone[0], together[index])


def test_gates_of_one_stream_share_a_number():
    first, second = HUE.behind(Gate("choice", 0.0, 0.3)), HUE.behind(Gate("choice", 0.3, 1.0))
    rows = drawn([first, second])
    assert (rows[:, 0] + rows[:, 2] == 1).all()
    assert stats.binomtest(int(rows[:, 0].sum()), N, 0.3).pvalue > 1e-4
    both = drawn([HUE.behind(Gate("a", 0.0, 0.5)).behind(Gate("b", 0.0, 0.5))])
    assert stats.binomtest(int(both[:, 0].sum()), N, 0.25).pvalue > 1e-4


def test_draws_without_replacement_take_each_share_once():
    operations = [
        HUE.behind(Gate("slot", share / 4, (share + 1) / 4, draw, 4)) for draw in range(3) for share in range(4)
    ]
    acts = drawn(operations)[:, ::2].reshape(N, 3, 4)
    assert (acts.sum(axis=2) == 1).all()
    assert (acts.sum(axis=1) <= 1).all()
    orders = acts.argmax(axis=2) @ [16, 4, 1]
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_shared_gates_and_operations_look_at_the_first_sample():
    shared = operation(Kind.HUE, *UNIT, shared=True)
    gated = HUE.behind(Gate("batch", 0.0, 0.5, shared=True))
    opened = set()
    for start in range(0, 60, 3):
        rows = drawn([shared, gated], positions=np.arange(start, start + 3))
        assert (rows[:, :2] == drawn([shared], positions=np.array([start]))).all()
        assert np.ptp(rows[:, 2]) == 0
        opened.add(rows[0, 2])
        # Behind the gate, each sample draws its own.
        assert rows[0, 2] == 0 or len(set(rows[:, 3])) == 3
    assert opened == {0.0, 1.0}


def test_windows_that_do_not_fit_raise():
    sizes = np.array([[9, 9], [4, 9]], np.int32)
    with pytest.raises(ValueError, match=r"RandomCrop .* sample 1 .*\(4, 9\)"):
        crop = operation(Kind.CROP, Size.FIXED, 5, 6, 0, 0, 0, 0, 0, 0, name="RandomCrop")
        draw([HUE, crop], seed=0, epoch=0, positions=np.arange(2), sizes=sizes, channels=3)
    with pytest.raises(ValueError, match="drops 4 channels, but images have 3"):
        drawn([operation(Kind.CHANNEL_DROPOUT, 4, 0)])
    with pytest.raises(ValueError, match="positions"):
        drawn([HUE], positions=np.array([-1]))


def test_every_range_belongs_to_a_parameter():
    for kind in Kind:
        ranges = {name[:-2] for name in CONSTANTS[kind] if name.endswith("*4")}
        assert ranges <= set(parameter_names(kind, 3)), kind
