"""With ``even`` all ranks deliver the same number, whatever is damaged: else one would wait for the others for ever."""

import json
import warnings
from functools import partial

import pytest
from shard_files import FIELDS, consumer, labels_of, make_shards, rank_items
from test_with_loader import make

from torchaug_gen.shards.stream import ShardStream

SIZES = [7, 12, 5, 8]
TOTAL = sum(SIZES)
GONE = range(7, 19)
# One alone, two neighbours, and the first of all.
DAMAGED = {0, 3, 24, 25, *GONE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards with an index, in which some samples are damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    paths = make_shards(folder, SIZES, index=True)
    for path in paths:
        content = bytearray(path.read_bytes())
        for label in DAMAGED:
            if (at := content.find(f"{label:06d}.png".encode())) >= 0:
                content[at + 512 + 700] ^= 1
        path.write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def stream(folder, **options):
    made = ShardStream(folder, **{"fields": FIELDS, "shuffle": 6, "seed": 2, "even": "pad", **options})
    # A shard vanishes before it is read.
    made._catalogue.urls = tuple(url.replace("001.tar", "gone.tar") for url in made._catalogue.urls)
    return made


def epoch_of(folder, ranks, workers, **options):
    """What each rank delivers."""
    make = partial(stream, folder, batch_size=3, **options)
    return [
        labels_of(rank_items(make, workers=workers, batch_size=3, rank=rank, ranks=ranks)[0]) for rank in range(ranks)
    ]


@pytest.mark.parametrize("even", ["pad", "drop"])
@pytest.mark.parametrize("shuffle", [0, 6])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_deliver_as_much_as_they_say(folder, even, shuffle, ranks):
    shares = epoch_of(folder, ranks, 0, even=even, shuffle=shuffle)
    with consumer(rank=0, ranks=ranks):
        expected = len(stream(folder, even=even))
    assert [len(share) for share in shares] == [expected] * ranks
    delivered = {label for share in shares for label in share}
    whole = set(range(TOTAL)) - DAMAGED
    assert delivered == whole if even == "pad" else delivered <= whole and len(whole - delivered) < ranks


@pytest.mark.parametrize("shuffle", [0, 6])
def test_stand_ins_are_those_of_the_epoch_for_any_number_of_workers_and_ranks(folder, shuffle):
    (order,) = epoch_of(folder, 1, 0, shuffle=shuffle)
    for ranks in (1, 2, 4):
        for workers in (0, 1, 4):
            assert epoch_of(folder, ranks, workers, shuffle=shuffle) == [order[rank::ranks] for rank in range(ranks)]


@pytest.mark.parametrize("even", ["pad", None])
def test_of_a_shard_cut_short_the_beginning_comes_for_any_number_of_workers_and_behind_a_resume(tmp_path, even):
    path = make_shards(tmp_path, SIZES, index=True)[1]
    whole = path.read_bytes()

    def make():
        # It is cut behind the stream's look at its size.
        path.write_bytes(whole)
        made = ShardStream(tmp_path, fields=FIELDS, shuffle=20, seed=2, even=even, batch_size=3)
        path.write_bytes(whole[: len(whole) // 2])
        return made

    (order, _), made = rank_items(make, workers=0, batch_size=3), make()
    order = labels_of(order)
    assert 10 < len({*order} & {*range(TOTAL)}) < TOTAL and 7 in order and 18 not in order
    assert labels_of(made) == order and made.stats["read"] == 1
    first, states = rank_items(make, workers=0, batch_size=3, batches=6)
    rest, _ = rank_items(make, workers=0, batch_size=3, states=states)
    assert labels_of(first + rest) == order
    for workers in (2, 4):
        items = labels_of(rank_items(make, workers=workers, batch_size=3)[0])
        assert items == order if even else sorted(items) == sorted(order)


def test_no_sample_comes_much_more_often_than_others(folder):
    for shuffle in (0, 6):
        (order,) = epoch_of(folder, 1, 0, shuffle=shuffle)
        # 16 of 32 are damaged, 12 of them in a row where nothing is shuffled: one for each power of two, at most.
        assert max(map(order.count, order)) <= 6


def test_they_are_counted_and_the_damage_too(folder):
    made = stream(folder)
    assert len(list(made)) == TOTAL
    assert made.stats == {**made.stats, "read": 1, "checksum": len(DAMAGED) - len(GONE), "replaced": len(DAMAGED)}
    with pytest.raises(ValueError, match="indexed"):
        list(stream(folder, on_error="raise"))


@pytest.mark.parametrize("workers", [0, 2])
def test_states_go_on_exactly(folder, workers):
    make = partial(stream, folder, batch_size=3)
    for rank in range(2):
        whole, _ = rank_items(make, workers=workers, batch_size=3, rank=rank, ranks=2)
        for batches in (2, 4) if workers else (1, 3):
            first, states = rank_items(make, workers=workers, batch_size=3, rank=rank, ranks=2, batches=batches)
            states = json.loads(json.dumps(states))
            rest, _ = rank_items(make, workers=workers, batch_size=3, rank=rank, ranks=2, states=states)
            assert labels_of(first + rest) == labels_of(whole)


@pytest.mark.parametrize("even", ["pad", "drop"])
@pytest.mark.parametrize("old", [(2, 2), (0, 3)])
@pytest.mark.parametrize("new", [(0, 1), (2, 3)])
def test_behind_a_resume_on_others_ranks_are_even_again(folder, even, old, new):
    (old_workers, old_ranks), (workers, ranks) = old, new
    make, states, delivered = partial(stream, folder, even=even), [], []
    for rank in range(old_ranks):
        items, told = rank_items(
            partial(make, batch_size=2), workers=old_workers, batch_size=2, rank=rank, ranks=old_ranks, batches=3
        )
        delivered += labels_of(items)
        states += [state for state in told if state is not None]

    def resumed():
        made = make(batch_size=3)
        made.resume(json.loads(json.dumps(states)))
        return made

    shares = [
        labels_of(rank_items(resumed, workers=workers, batch_size=3, rank=rank, ranks=ranks)[0])
        for rank in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    delivered += [label for share in shares for label in share]
    left = set(range(TOTAL)) - DAMAGED - set(delivered)
    assert not left if even == "pad" else len(left) < ranks


@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
def test_loaders_of_all_ranks_take_the_same_steps(tmp_path, mixing):
    (path,) = make_shards(tmp_path, [16], index=True)
    content = bytearray(path.read_bytes())
    for label in (4, 8):
        content[content.index(f"{label:06d}.png".encode()) + 512 + 700] ^= 1
    path.write_bytes(content)
    steps = []
    for rank in range(2):
        with consumer(rank=rank, ranks=2):
            loader = make(tmp_path, mixing=mixing, batch_size=2, shuffle=0, even="pad")
            steps += [len(loader), len(list(loader))]
    assert len(set(steps)) == 1


def test_where_nothing_is_whole_it_says_so(tmp_path):
    (path,) = make_shards(tmp_path, [4], index=True)
    path.write_bytes(path.read_bytes().replace(b"\x4d", b"\x4e"))
    with pytest.raises(ValueError, match="even='pad': no whole sample was found"):
        list(ShardStream(tmp_path, fields=FIELDS, even="pad"))
