"""Which sample a position is given: every sample as often as was said, from a window that is never too wide."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen.synthesis.pool.turnover import Ahead, Turnover, class_shares, divided

SIZES = {"block": st.integers(1, 5), "window": st.integers(1, 7), "laps": st.integers(1, 9)}


def positions_until(turnover, blocks):
    """Return enough positions for the first ``blocks`` blocks to come and go."""
    laps = -(-(blocks + turnover.window) * turnover.laps // turnover.window)
    return np.arange((laps + 1) * turnover.window * turnover.block)


@settings(max_examples=80, deadline=None)
@given(**SIZES)
def test_every_sample_is_given_to_as_many_positions_as_there_are_laps(block, window, laps):
    turnover, blocks = Turnover(block, window, laps), 2 * window + 3
    samples = turnover.samples(positions_until(turnover, blocks), seed=3, epoch=1)
    counts = np.bincount(samples)[: blocks * block]
    assert counts.tolist() == [laps] * (blocks * block)


@settings(max_examples=60, deadline=None)
@given(where=st.tuples(st.integers(0, 200), st.integers(1, 20), st.integers(1, 4)), **SIZES)
def test_a_position_is_given_the_same_alone_and_among_others(where, block, window, laps):
    start, count, step = where
    turnover, positions = Turnover(block, window, laps), np.arange(start, start + count * step, step)
    together = turnover.samples(positions, seed=3, epoch=1)
    every = turnover.samples(np.arange(positions[-1] + 1), seed=3, epoch=1)
    alone = [int(turnover.samples(positions[i : i + 1], seed=3, epoch=1)[0]) for i in range(count)]
    assert together.tolist() == alone == every[positions].tolist()


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_no_more_than_the_window_is_in_use(block, window, laps):
    turnover = Turnover(block, window, laps)
    numbers = turnover.samples(positions_until(turnover, 2 * window + 3), seed=0, epoch=0) // block
    # From the first of its positions to the last a block is in use; how many are at once is a running sum.
    first, last = (
        {number: where for where, number in order}
        for order in (reversed(list(enumerate(numbers.tolist()))), enumerate(numbers.tolist()))
    )
    changes = np.zeros(len(numbers) + 1, dtype=np.int64)
    for number in first:
        changes[first[number]] += 1
        changes[last[number] + 1] -= 1
    assert changes.cumsum().max() <= window


@settings(max_examples=40, deadline=None)
@given(**SIZES, seed=st.integers(0, 2**64 - 1))
def test_a_position_alone_is_given_what_it_is_given_among_others(block, window, laps, seed):
    turnover = Turnover(block, window, laps)
    positions = positions_until(turnover, window + 2)
    samples = turnover.samples(positions, seed=seed, epoch=5)
    picked = np.random.default_rng(0).permutation(positions)[:20]
    assert turnover.samples(picked, seed=seed, epoch=5).tolist() == samples[picked].tolist()
    assert [int(turnover.samples(picked[i : i + 1], seed=seed, epoch=5)[0]) for i in range(5)] == samples[
        picked[:5]
    ].tolist()


def test_orders_differ_between_laps_epochs_and_seeds():
    turnover = Turnover(50, 1, 1000)
    laps = turnover.samples(np.arange(200), seed=0, epoch=0).reshape(4, 50)
    for lap in laps:
        assert sorted(lap.tolist()) == list(range(50))
    orders = [*laps, turnover.samples(np.arange(50), seed=1, epoch=0), turnover.samples(np.arange(50), seed=0, epoch=1)]
    assert len({tuple(order.tolist()) for order in orders}) == 6


@settings(max_examples=60, deadline=None)
@given(**SIZES)
def test_what_comes_next_is_what_is_given_next(block, window, laps):
    turnover = Turnover(block, window, laps)
    numbers = turnover.samples(positions_until(turnover, 2 * window + 3), seed=0, epoch=0) // block
    seen = -1
    for position in range(len(numbers) - 2 * window * block):
        seen = max(seen, int(numbers[position]))
        entering, share = turnover.coming(position)
        assert 0 <= share < 1
        # Of the blocks in use by now all have entered; those to come have not been given yet.
        assert entering.start > seen
        assert len(entering) <= -(-window // laps)


@given(st.integers(2, 500), st.integers(1, 200))
def test_the_window_leaves_room_for_what_enters_next(blocks, laps):
    turnover = Turnover.within(blocks, block=4, laps=laps)
    assert turnover.window + -(-turnover.window // laps) <= blocks
    wider = turnover.window + 1
    assert wider + -(-wider // laps) > blocks


@given(st.integers(20, 3000), st.integers(1, 40), st.lists(st.floats(0.01, 1), min_size=1, max_size=10))
def test_classes_share_the_capacity(capacity, chunk, weights):
    shares = class_shares(weights, len(weights))
    block, blocks = divided(capacity, chunk, shares)
    assert 1 <= block <= chunk
    assert block * sum(blocks) <= capacity
    assert min(blocks) >= 2
    if capacity >= 2 * chunk * len(weights):
        assert block == chunk
    left = capacity // block - 2 * len(weights)
    assert all(abs(count - 2 - left * share) <= 1 for count, share in zip(blocks, shares.tolist(), strict=True))


def test_classes_alike_fill_full_chunks_as_soon_as_there_is_room_for_two_each():
    for classes in (1, 3, 7, 10, 49, 1000):
        shares = class_shares(None, classes)
        assert divided(64 * classes, 32, shares) == (32, [2] * classes)
        assert divided(2 * classes, 32, shares) == (1, [2] * classes)
        with pytest.raises(ValueError, match=rf"{classes} classes, {2 * classes}, got {2 * classes - 1}"):
            divided(2 * classes - 1, 32, shares)


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 0], [1, 2, -1], [1, 2, float("nan")], torch.ones(3, 1)])
def test_bad_weights_are_named(weights):
    with pytest.raises(ValueError, match=r"weights must be \(3,\)"):
        class_shares(weights, 3)


def test_what_enters_next_is_asked_for_in_time_once_and_only_of_classes_in_use():
    turnover = Turnover(4, 3, 30)
    ahead, asked = Ahead(0, 0, [turnover] * 6), []
    for position in range(2000):
        asked += ahead.due([1, 4], position)
        entering, share = turnover.coming(position)
        due = [pair for pair in asked if pair[1] in entering]
        assert len(due) >= min(2, int(share * 2) + 1)
    assert len(set(asked)) == len(asked)
    assert {label for label, _ in asked} == {1, 4}
