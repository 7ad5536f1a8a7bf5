"""An epoch over shards goes on with other numbers of workers and ranks, and mixes: each real item comes once."""

import json
import warnings
from functools import partial

import pytest
from fakes import Drawn
from shard_files import FIELDS, consumer, make_shards
from test_with_loader import SIZE, make, real_labels
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from torchaug_gen import AugmentedLoader
from torchaug_gen.shards.mixed import MixedShardStream
from torchaug_gen.shards.stream import ShardStream

SIZES = [19, 5, 24, 17, 15]
TOTAL = sum(SIZES)


@pytest.fixture(scope="module", params=["whole", "damaged"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    paths = make_shards(folder, SIZES, index=True)
    expected = list(range(TOTAL))
    if request.param == "damaged":
        content = bytearray(paths[2].read_bytes())
        for label in (25, 26, 30, 41, 42, 43):
            content[content.index(f"{label:06d}.png".encode()) + 512 + 700] ^= 1
            expected.remove(label)
        paths[2].write_bytes(content)
    return folder, expected


def begun(build, ranks, workers, steps):
    """Batches of each rank, and their states as a file would hold them."""
    batches, states = [], []
    for rank in range(ranks):
        with consumer(rank=rank, ranks=ranks):
            loader = build(workers=workers)
            loader.set_epoch(2)
            running = iter(loader)
            batches += [next(running) for _ in range(steps)]
            states.append(json.loads(json.dumps(loader.state_dict())))
            del running
    return batches, states


def gone_on(build, states, ranks, workers, steps=None):
    batches, told = [], []
    for rank in range(ranks):
        with consumer(rank=rank, ranks=ranks):
            loader = build(workers=workers)
            loader.load_state_dict(states)
            running = iter(loader)
            batches += list(running) if steps is None else [next(running) for _ in range(steps)]
            told.append(json.loads(json.dumps(loader.state_dict())))
            del running
    return batches, told


LAYOUTS = [(ranks, workers) for ranks in (1, 2, 4) for workers in (0, 1, 2, 4)]
GRID = [(old, new) for old in LAYOUTS for new in LAYOUTS]
# Each layout once as a start, and once as a target.
SAMPLE = [(LAYOUTS[at], LAYOUTS[(5 * at + 3) % 12]) for at in range(12)]


def each_item_comes_once(case, mixing, old, new):
    folder, expected = case

    def build(workers):
        return make(folder, workers=workers, mixing=mixing, batch_size=3)

    first, states = begun(build, *old, steps=3)
    second, again = gone_on(build, states, *new, steps=2)
    third, _ = gone_on(build, again, 3, 0)
    assert sorted(real_labels(first + second + third)) == expected


@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
@pytest.mark.parametrize("case", ["damaged"], indirect=True)
@pytest.mark.parametrize("number", range(len(SAMPLE)))
def test_each_real_item_comes_once(case, number):
    each_item_comes_once(case, ("rebatch", "extend")[number % 2], *SAMPLE[number])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
@pytest.mark.parametrize("mixing", ["rebatch", "extend"])
@pytest.mark.parametrize(("old", "new"), GRID)
def test_each_real_item_comes_once_for_any_two_layouts(case, mixing, old, new):
    each_item_comes_once(case, mixing, old, new)


@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
@pytest.mark.parametrize("even", ["pad", "drop"])
@pytest.mark.parametrize(("old", "new"), [((2, 0), (3, 0)), ((1, 2), (4, 0)), ((3, 0), (2, 1))])
def test_ranks_take_as_many_steps_behind_a_resume_on_others(case, even, old, new):
    folder, expected = case

    def build(workers):
        return make(folder, workers=workers, batch_size=3, even=even)

    first, states = begun(build, *old, steps=3)
    shares = []
    for rank in range(new[0]):
        with consumer(rank=rank, ranks=new[0]):
            loader = build(new[1])
            loader.load_state_dict(states)
            shares.append(list(loader))
    assert len({len(share) for share in shares}) == 1
    delivered = real_labels([*first, *(batch for share in shares for batch in share)])
    left = set(expected) - set(delivered)
    assert not left if even == "pad" else len(left) < new[0]


@pytest.mark.parametrize(("old", "new"), [((2, 0), (1, 0)), ((1, 0), (2, 0)), ((1, 2), (1, 0)), ((1, 0), (1, 1))])
def test_over_a_stateful_data_loader_it_says_what_goes_on(tmp_path, old, new):
    make_shards(tmp_path, SIZES, index=True)

    def build(workers, loader=StatefulDataLoader):
        stream = ShardStream(tmp_path, fields=("png", "cls"), batch_size=3)
        synthesizer = Drawn(SIZE, num_classes=1000)
        return AugmentedLoader(loader(stream, 3, num_workers=workers), synthesizer=synthesizer, synthetic_fraction=0.3)

    for one, other in (
        (StatefulDataLoader, StatefulDataLoader),
        (StatefulDataLoader, DataLoader),
        (DataLoader, StatefulDataLoader),
    ):
        _, states = begun(partial(build, loader=one), *old, steps=2)
        with pytest.raises(ValueError, match="wrap a plain DataLoader"):
            gone_on(partial(build, loader=other), states if len(states) > 1 else states[0], *new)


def test_a_mix_of_streams_too(case):
    folder, expected = case

    def build(workers):
        streams = [ShardStream(folder / f"00{n}.tar", fields=("png", "cls"), shuffle=9) for n in range(5)]
        loader = DataLoader(MixedShardStream(streams, [5, 1, 4, 2, 1]), 3, num_workers=workers)
        return AugmentedLoader(
            loader, synthesizer=Drawn(SIZE, num_classes=1000), synthetic_fraction=0.3, dtype=None, tag="s", seed=3
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, states = begun(build, 2, 2, steps=4)
        second, again = gone_on(build, states, 1, 0, steps=3)
        third, _ = gone_on(build, again, 2, 0)
    assert sorted(real_labels(first + second + third)) == expected


def test_other_workers_change_no_bit_where_nothing_is_damaged(tmp_path):
    make_shards(tmp_path, SIZES, index=True)
    whole = list(make(tmp_path, batch_size=3))
    for old, new in ((0, 2), (2, 0), (2, 1)):
        loader = make(tmp_path, workers=old, batch_size=3)
        running = iter(loader)
        for _ in range(7):
            next(running)
        resumed = make(tmp_path, workers=new, batch_size=3)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        del running
        left = list(resumed)
        assert len(left) == len(whole) - 7
        for one, other in zip(left, whole[7:], strict=True):
            assert all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_states_of_all_ranks_are_exact_where_nothing_changes(tmp_path, ranks):
    make_shards(tmp_path, SIZES, index=True)

    def build(workers):
        return make(tmp_path, workers=workers, batch_size=3)

    _, states = begun(build, ranks, 0, steps=4)
    for rank in range(ranks):
        with consumer(rank=rank, ranks=ranks):
            whole, resumed = build(0), build(0)
            whole.set_epoch(2)
            resumed.load_state_dict(states)
            expected, left = list(whole)[4:], list(resumed)
        assert len(left) == len(expected)
        for one, other in zip(left, expected, strict=True):
            assert all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_all_ranks_must_be_told(case):
    folder, _ = case

    def build(workers):
        return make(folder, workers=workers, batch_size=3)

    _, states = begun(build, 2, 0, steps=2)
    with pytest.raises(ValueError, match=r"one of each of the 2 ranks that saved them, got those of ranks \[0\]"):
        gone_on(build, states[0], 1, 0)
    assert FIELDS
