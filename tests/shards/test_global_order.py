"""The order of an epoch, and how it is dealt."""

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen.ranks import Share
from torchaug_gen.shards import order as orders
from torchaug_gen.shards.dealing import Deal, Remainder, share_of_total, shared_total
from torchaug_gen.shards.order import GlobalOrder


def places(counts, positions=None, **options):
    order = GlobalOrder(counts, **{"window": 10, "seed": 3, "epoch": 1, **options})
    return list(order.places(np.arange(len(order)) if positions is None else np.asarray(positions, np.int64)))


@settings(deadline=None, max_examples=20)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    window=st.sampled_from([0, 1, 2, 7, 1000, 10**12]),
    block=st.sampled_from([4, 64]),
)
def test_every_sample_has_one_place_wherever_one_begins(counts, window, block):
    kept, orders._BLOCK = orders._BLOCK, block
    try:
        whole = places(counts, window=window)
        assert sorted(whole) == [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]
        for begin in range(0, len(whole), 5):
            assert places(counts, range(begin, len(whole), 3), window=window) == whole[begin::3]
    finally:
        orders._BLOCK = kept


def test_the_block_size_changes_nothing(monkeypatch):
    whole = places([500, 30, 700], window=200)
    monkeypatch.setattr(orders, "_BLOCK", 64)
    assert places([500, 30, 700], window=200) == whole


def test_the_window_bounds_how_far_a_sample_moves():
    rows = [sample for _, sample in places([5000], window=400)]
    moved = np.abs(np.array(rows) - np.arange(5000))
    assert moved.max() < 400 and moved.mean() > 80
    assert places([50, 50], window=0) == [(shard, sample) for shard in (0, 1) for sample in range(50)]
    assert {shard for shard, _ in places([1] * 50, window=1)[:10]} != set(range(10))


def test_seed_and_epoch_decide():
    assert places([40, 40]) == places([40, 40])
    assert len({tuple(places([40, 40], seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_far_into_a_large_set_costs_no_more():
    start = time.process_time()
    found = places([10_000] * 10_000, range(90_000_000, 90_000_010), window=1000)
    assert len(set(found)) == 10 and time.process_time() - start < 1.0


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(0, 60),
    layouts=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4),
    data=st.data(),
)
def test_what_is_left_is_left_exactly_however_often_it_is_dealt_anew(length, layouts, data):
    remainder, seen = Remainder(), []
    for ranks, workers, batch_size in layouts:
        deal, taken = Deal(ranks, workers, batch_size), {}
        left = remainder.count(length)
        for rank in range(ranks):
            for worker in range(workers):
                mine = deal.places(rank, worker, np.arange(length + 1))
                mine = mine[mine < left]
                count = data.draw(st.integers(0, len(mine)))
                taken[rank, worker] = count
                seen += remainder.at(mine[:count]).tolist()
        remainder = remainder.after(deal, taken, length)
        remainder = Remainder.from_json(remainder.to_json())
    seen += remainder.at(np.arange(remainder.count(length))).tolist()
    assert sorted(seen) == list(range(length))


@settings(deadline=None, max_examples=30)
@given(ranks=st.integers(1, 5), workers=st.integers(1, 4), batch_size=st.integers(1, 6), count=st.integers(0, 80))
def test_a_deal_reaches_everyone_and_everything_once(ranks, workers, batch_size, count):
    deal = Deal(ranks, workers, batch_size)
    who, which, ordinals = deal.takers(np.arange(count))
    back = [int(deal.places(r, w, np.array([t]))[0]) for r, w, t in zip(who, which, ordinals, strict=True)]
    assert back == list(range(count))
    for even in (None, "pad", "drop"):
        shares = [share_of_total(count, Share(rank, ranks), even) for rank in range(ranks)]
        assert sum(shares) == shared_total(count, ranks, even)
        assert max(shares) - min(shares) <= (even is None)
