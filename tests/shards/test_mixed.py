import json
from collections import Counter

import pytest
from shard_files import FIELDS, consumer, labels_of, make_shards, sample, tar
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from torchaug_gen.shards.index import index_folder
from torchaug_gen.shards.mixed import MixedShardStream
from torchaug_gen.shards.stream import ShardStream


@pytest.fixture(scope="module", params=[True, False], ids=["indexed", "plain"])
def folders(request, tmp_path_factory):
    """Three folders, of 30, 10 and 8 samples, labelled from 0, 100 and 200 on."""
    made = []
    for first, count in ((0, 30), (100, 10), (200, 8)):
        folder = tmp_path_factory.mktemp("mix")
        for half in (0, 1):
            labels = range(first + half * count // 2, first + (half + 1) * count // 2)
            (folder / f"{half}.tar").write_bytes(tar([file for label in labels for file in sample(label)]))
        if request.param:
            index_folder(folder)
        made.append(folder)
    return made


def mix(folders, weights=(6, 2, 2), repeat=False, epoch=0, **options):
    streams = [ShardStream(folder, fields=FIELDS, shuffle=7, on_error="raise", **options) for folder in folders]
    made = MixedShardStream(streams, weights, repeat=repeat)
    made.set_epoch(epoch)
    return made


EVERYTHING = [*range(30), *range(100, 110), *range(200, 208)]


def test_each_sample_comes_once_and_as_often_as_its_weight_says(folders):
    labels = labels_of(mix(folders))
    assert sorted(labels) == EVERYTHING
    # Until the third stream ends, behind 40 items, no stream is off by more than one.
    for n in range(1, 41):
        counts = Counter(label // 100 for label in labels[:n])
        assert all(abs(counts[number] - share * n) <= 1 for number, share in enumerate((0.6, 0.2, 0.2)))
    assert labels == labels_of(mix(folders)) != labels_of(mix(folders, epoch=1))


def test_repeated_streams_come_until_each_has_ended(folders):
    labels = labels_of(mix(folders, (1, 1, 0), repeat=True))
    counts = Counter(labels)
    assert all(counts[label] == 1 for label in range(30)) and sum(counts.values()) in (60, 61)
    assert set(counts) == {*range(30), *range(100, 110)} and {counts[label] for label in range(100, 110)} == {3}
    second = [label for label in labels if label >= 100]
    assert sorted(second[:10]) == sorted(second[10:20]) and second[:10] != second[10:20]


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_exactly(folders, workers, repeat):
    def make():
        return StatefulDataLoader(
            mix(folders, repeat=repeat, batch_size=4), batch_size=4, num_workers=workers, collate_fn=labels_of
        )

    whole = list(make())
    for done in (1, len(whole) - 2):
        loader = make()
        running = iter(loader)
        assert [next(running) for _ in range(done)] == whole[:done]
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert list(resumed) == whole[done:]


def test_workers_and_ranks_share_it(folders):
    labels = []
    for rank in range(3):
        for worker in range(2):
            with consumer(worker, 2, rank, 3):
                labels += labels_of(mix(folders))
    assert sorted(labels) == EVERYTHING


def test_with_indexes_what_is_left_goes_to_others(folders):
    states, done = [], []
    for worker in range(2):
        with consumer(worker, 2):
            made = mix(folders)
            items = iter(made)
            done += labels_of(next(items) for _ in range(5 + worker))
            states.append(made.state_dict())
    if not (folders[0] / "index.jsonl").exists():
        with pytest.raises(ValueError, match="needs an index"):
            mix(folders).resume(states)
        return
    left = []
    for rank in range(3):
        with consumer(rank=rank, ranks=3):
            made = mix(folders)
            made.resume(states)
            left += labels_of(made)
    assert sorted(done + left) == EVERYTHING


def test_its_length_is_known_where_theirs_are(folders):
    if (folders[0] / "index.jsonl").exists():
        loader = DataLoader(mix(folders), batch_size=None)
        assert len(loader) == len(list(loader)) == 48 and len(mix(folders, (1, 0, 1))) == 38
    else:
        with pytest.raises(TypeError):
            len(mix(folders))
    with pytest.raises(TypeError):
        len(mix(folders, repeat=True))


def test_an_empty_share_does_not_hang(tmp_path):
    for name, size in (("one", 1), ("more", 9)):
        make_shards(tmp_path / name, [size], index=True)
    for worker in range(3):
        with consumer(worker, 3):
            assert len(labels_of(mix([tmp_path / "one", tmp_path / "more"], (1, 1), repeat=True))) < 10


@pytest.mark.parametrize("weights", [(), (1,), (1, -1, 1), (0, 0, 0), (1, float("nan"), 1)])
def test_wrong_weights_are_named(folders, weights):
    with pytest.raises(ValueError, match="weights must be"):
        mix(folders, weights)


def test_other_mistakes_are_named(folders):
    with pytest.raises(TypeError, match="ShardStreams, got list"):
        MixedShardStream([[]], [1])
    streams = [ShardStream(folders[0], fields=fields) for fields in (("png",), ("png", "cls"))]
    with pytest.raises(ValueError, match="same number of fields, got png; png, cls"):
        MixedShardStream(streams, [1, 1])
    with pytest.raises(ValueError, match="saved with weights"):
        mix(folders).load_state_dict(mix(folders, (1, 1, 1)).state_dict())
    with pytest.raises(ValueError, match="state must be"):
        mix(folders).load_state_dict({})
