"""A pass goes on where a state says: exactly with the same workers and ranks, and each sample once with others."""

import json
import warnings
from functools import partial

import pytest
from shard_files import FIELDS, consumer, labels_of, make_shards, rank_items
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from torchaug_gen.shards.spans import SpanReader
from torchaug_gen.shards.stream import ShardStream

SIZES = [9, 2, 14, 0, 7, 5]
TOTAL = sum(SIZES)
LAYOUTS = [(workers, ranks) for workers in (0, 1, 2, 4) for ranks in (1, 2, 4)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder with an index."""
    folder = tmp_path_factory.mktemp("indexed")
    make_shards(folder, SIZES, index=True)
    return folder


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder whose index fits, in which some samples are damaged; and the labels of the others."""
    folder = tmp_path_factory.mktemp("damaged")
    paths = make_shards(folder, SIZES, index=True)
    bad = set()
    for path, first, count in ((paths[0], 0, 9), (paths[2], 11, 14)):
        content = bytearray(path.read_bytes())
        for label in range(first, first + count, 3):
            content[content.index(f"{label:06d}.png".encode()) + 512 + 700] ^= 1
            bad.add(label)
        path.write_bytes(content)
    return folder, sorted(set(range(TOTAL)) - bad)


def stream(folder, epoch=1, **options):
    made = ShardStream(folder, **{"fields": FIELDS, "shuffle": 10, "seed": 4, "on_error": "raise", **options})
    made.set_epoch(epoch)
    return made


def joined(batches):
    return [item for batch in batches for item in batch]


def quietly(call, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return call(*args, **options)


def test_with_an_index_the_order_is_that_of_the_epoch_for_any_number_of_workers(shards):
    order = labels_of(stream(shards))
    assert sorted(order) == list(range(TOTAL)) and order != labels_of(stream(shards, epoch=2))
    for workers, ranks in LAYOUTS:
        for rank in range(ranks):
            make = partial(stream, shards, batch_size=3)
            items, _ = rank_items(make, workers=workers, batch_size=3, rank=rank, ranks=ranks)
            assert labels_of(items) == order[rank::ranks]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_delivers_that_order_too(shards, workers):
    loader = DataLoader(stream(shards, batch_size=3, fields=("png", "cls")), batch_size=3, num_workers=workers)
    batches = [labels.tolist() for _, labels in loader]
    assert joined(batches) == labels_of(stream(shards))
    assert len(loader) == len(batches) == -(-TOTAL // 3)


@pytest.mark.parametrize("taken", [0, 1, 7, TOTAL, TOTAL + 5])
@pytest.mark.parametrize("indexed", ["auto", None])
@pytest.mark.parametrize("layout", [(0, 1), (3, 2)])
def test_seek_begins_behind_the_first_samples_once(shards, taken, indexed, layout):
    workers, ranks = layout
    with consumer(1 if workers else 0, workers, 0, ranks):
        made = stream(shards, index=indexed)
        whole = labels_of(made)
        made.seek(taken)
        assert labels_of(made) == whole[taken:]
        assert labels_of(made) == whole


@pytest.mark.parametrize("indexed", ["auto", None])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("spoilt", [False, True])
def test_states_go_on_exactly(shards, damaged, indexed, workers, spoilt):
    make = partial(stream, damaged[0] if spoilt else shards, index=indexed, batch_size=4)
    if spoilt:
        make = partial(make, on_error="skip")
    whole, _ = quietly(rank_items, make, workers=workers, batch_size=4)
    for batches in (0, 3, 6, 10):
        first, states = quietly(rank_items, make, workers=workers, batch_size=4, batches=batches)
        states = json.loads(json.dumps(states))
        # Rank items goes through the workers in turn, and so the first to go on is the one whose turn it was.
        turn = batches % max(workers, 1)
        rest = [
            labels_of(quietly(one_worker, make, worker, workers, states[worker])) for worker in range(max(workers, 1))
        ]
        parts = [labels_of(quietly(one_worker, make, worker, workers, None)) for worker in range(max(workers, 1))]
        assert sorted(labels_of(first) + joined(rest)) == sorted(labels_of(whole)), turn
        assert all(part[len(part) - len(left) :] == left for part, left in zip(parts, rest, strict=True))


def one_worker(make, worker, workers, state):
    with consumer(worker, workers):
        made = make()
        if state is not None:
            made.load_state_dict(state)
        return list(made)


@pytest.mark.parametrize("old", LAYOUTS)
def test_what_is_left_comes_once_to_any_other_layout(shards, old):
    elastic(partial(stream, shards), range(TOTAL), old)


@pytest.mark.parametrize("old", [(0, 2), (2, 2), (4, 1)])
def test_damage_changes_nothing_about_that(damaged, old):
    elastic(partial(stream, damaged[0], on_error="skip"), damaged[1], old)


def elastic(make, expected, old):
    workers, ranks = old
    done, states = [], []
    for rank in range(ranks):
        # Ranks need not be equally far.
        items, told = quietly(
            rank_items, partial(make, batch_size=3), workers=workers, batch_size=3, rank=rank, ranks=ranks, batches=3
        )
        done += labels_of(items)
        states += [state for state in told if state is not None]
    states = json.loads(json.dumps(states))
    for new_workers, new_ranks in LAYOUTS:
        delivered, again, rest = list(done), [], []
        for rank in range(new_ranks):
            resumed = partial(resumed_stream, make, states, batch_size=2)
            items, told = quietly(
                rank_items, resumed, workers=new_workers, batch_size=2, rank=rank, ranks=new_ranks, batches=2
            )
            delivered += labels_of(items)
            again += [state for state in told if state is not None]
        # And once more, to a third layout.
        for rank in range(3):
            last, _ = quietly(
                rank_items, partial(resumed_stream, make, again), workers=0, batch_size=1, rank=rank, ranks=3
            )
            rest += labels_of(last)
        assert sorted(delivered + rest) == list(expected), (old, new_workers, new_ranks)


def resumed_stream(make, states, **options):
    made = make(epoch=0, **options)
    made.resume(states)
    return made


def test_resumed_workers_run_once_from_there_and_then_from_the_start(shards):
    _, states = rank_items(partial(stream, shards, batch_size=3), workers=0, batch_size=3, batches=4)
    order = labels_of(stream(shards))
    for workers in (0, 2):
        made = stream(shards, epoch=0, batch_size=3)
        made.resume(states)
        loader = DataLoader(made, batch_size=3, num_workers=workers, collate_fn=list)
        assert labels_of(joined(loader)) == order[12:]
        # Nobody has set an epoch since: the same one comes again, whole.
        assert labels_of(joined(loader)) == order
        made.skip(TOTAL - 4)
        assert labels_of(joined(loader)) == order[-4:]
        made.resume(states)
        made.set_epoch(2)
        assert labels_of(joined(loader)) == labels_of(stream(shards, epoch=2))


@pytest.mark.parametrize(("workers", "indexed"), [(0, "auto"), (0, None), (2, "auto")])
def test_a_stateful_data_loader_resumes_exactly(shards, workers, indexed):
    def make():
        made = stream(shards, index=indexed, batch_size=3)
        return StatefulDataLoader(made, batch_size=3, num_workers=workers, collate_fn=labels_of)

    whole = list(make())
    for done in (0, 5, len(whole) - 1, len(whole)) if workers == 0 else (5, len(whole)):
        loader = make()
        running = iter(loader)
        assert [next(running) for _ in range(done)] == whole[:done]
        state = loader.state_dict()
        resumed = make()
        resumed.load_state_dict(state)
        left = list(resumed)
        assert left == whole[done:] or (done == len(whole) and left in ([], whole))
        assert sorted(joined(resumed)) == list(range(TOTAL))


def test_states_that_do_not_fit_are_refused(shards, tmp_path):
    with consumer(0, 2):
        made = stream(shards)
        next(iter(made))
        state = made.state_dict()
    with pytest.raises(ValueError, match=r"saved with workers=2, but here is workers=1.*resume"):
        stream(shards).load_state_dict(state)
    for options, reason in (({"seed": 5}, "seed=4"), ({"shuffle": 0}, "shuffle=10"), ({"index": None}, "shards=")):
        with pytest.raises(ValueError, match=f"saved with {reason}"):
            stream(shards, **options).load_state_dict(state)
    for wrong in ({}, {"version": 9}, {**state, "taken": None}, {**state, "consumer": [0]}):
        with pytest.raises(ValueError, match="state"):
            stream(shards).load_state_dict(wrong)
    with pytest.raises(TypeError, match="state must be"):
        stream(shards).load_state_dict(3)
    with consumer(0, 0, 0, 2):
        half = stream(shards)
        next(iter(half))
    with pytest.raises(ValueError, match=r"all 2 ranks, but none is of rank 1"):
        stream(shards).resume([half.state_dict()])
    with pytest.raises(ValueError, match="one number of ranks"):
        stream(shards).resume([half.state_dict(), state])
    with pytest.raises(ValueError, match="at least one"):
        stream(shards).resume([])
    make_shards(tmp_path, [3])
    for call in (lambda made: made.skip(1), lambda made: made.resume([state])):
        with pytest.raises(ValueError, match="needs an index"):
            call(stream(tmp_path))
    for call in (lambda made: made.seek(-1), lambda made: made.skip(-1)):
        with pytest.raises(ValueError, match="at least 0"):
            call(stream(shards))


def test_nothing_that_comes_before_is_read(shards, monkeypatch):
    read, inner = [], SpanReader._range
    monkeypatch.setattr(SpanReader, "_range", lambda self, *where: read.append(where) or inner(self, *where))
    made = stream(shards)
    made.seek(TOTAL - 2)
    assert len(list(made)) == len(read) == 2


@pytest.mark.parametrize("even", [None, "pad", "drop"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_get_the_same_number_by_choice(shards, even, ranks):
    counts, delivered = [], []
    for rank in range(ranks):
        with consumer(rank=rank, ranks=ranks):
            made = stream(shards, even=even)
            labels = labels_of(made)
            assert len(made) == len(labels)
        counts.append(len(labels))
        delivered += labels
    whole = list(range(TOTAL))
    if even is None:
        assert sorted(delivered) == whole
    elif even == "pad":
        assert len(set(counts)) == 1 and set(delivered) == set(whole) and len(delivered) - TOTAL < ranks
    else:
        assert len(set(counts)) == 1 and len(set(delivered)) == len(delivered) > TOTAL - ranks


def test_more_ranks_than_samples(tmp_path):
    make_shards(tmp_path, [3], index=True)
    for even, expected in ((None, [1, 1, 1, 0, 0]), ("pad", [1] * 5), ("drop", [0] * 5)):
        for rank in range(5):
            with consumer(rank=rank, ranks=5):
                assert len(labels_of(stream(tmp_path, even=even))) == expected[rank]
