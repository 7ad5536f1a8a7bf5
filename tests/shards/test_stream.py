import copy
import http.server
import subprocess
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from shard_files import FIELDS, consumer, encoded, labels_of, make_shards, picture, sample, shown, tar
from torch.utils.data import DataLoader

from torchaug_gen.shards.index import index_folder
from torchaug_gen.shards.stream import KINDS, ShardStream

CLOTHING = Path(__file__).parents[2].parent / "shared" / "data" / "clothing" / "test"


def strict(urls, **options):
    return ShardStream(urls, **{"fields": FIELDS, "on_error": "raise", **options})


def stats(**counts):
    return {**dict.fromkeys(KINDS, 0), **counts}


def labels_at(epoch, urls, **options):
    stream = strict(urls, **options)
    stream.set_epoch(epoch)
    return labels_of(stream)


# Order


def test_without_shuffle_everything_comes_in_order(tmp_path):
    make_shards(tmp_path, [3, 4, 1])
    assert labels_at(0, tmp_path, shuffle=0) == labels_at(5, tmp_path, shuffle=0) == list(range(8))


@pytest.mark.parametrize("shuffle", [1, 7, 1000])
def test_shuffled_epochs_differ_and_repeat(tmp_path, shuffle):
    make_shards(tmp_path, [10] * 6)
    first, second = (labels_at(epoch, tmp_path, shuffle=shuffle) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second and first != sorted(first)
    assert first == labels_at(0, tmp_path, shuffle=shuffle)
    assert first != labels_at(0, tmp_path, shuffle=shuffle, seed=1)


def test_the_buffer_mixes_samples_of_one_shard(tmp_path):
    make_shards(tmp_path, [200])
    order = labels_at(0, tmp_path, shuffle=100)
    # A buffer of 100 can bring nothing forward by more than 100 places, and moves most samples by many.
    assert all(label - place <= 100 for place, label in enumerate(order))
    assert np.abs(np.array(order) - np.arange(200)).mean() > 20


def test_global_generators_are_neither_read_nor_moved(tmp_path):
    import random

    make_shards(tmp_path, [5, 5])

    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    first = labels_at(0, tmp_path)
    assert states() == before
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert labels_at(0, tmp_path) == first


# Sharing


@pytest.mark.parametrize("sizes", [[3, 1, 5, 2, 4, 6, 2], [7, 2], [11]])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_consumers_share_without_duplicates_or_losses(tmp_path, monkeypatch, sizes, world, workers):
    make_shards(tmp_path, sizes)
    labels = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        stream = strict(tmp_path, shuffle=4)
        stream.set_epoch(3)
        labels += labels_of(DataLoader(stream, batch_size=None, num_workers=workers))
    assert sorted(labels) == list(range(sum(sizes)))


def test_fewer_shards_than_consumers_are_shared_evenly_whatever_is_damaged(tmp_path, monkeypatch):
    files = [file for label in range(40) for file in sample(label)]
    files[2 * 8] = ("000008.cls", b"cat")
    (tmp_path / "0.tar").write_bytes(tar(files))
    monkeypatch.setenv("WORLD_SIZE", "4")
    shares = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares.append(labels_of(ShardStream(tmp_path, fields=FIELDS, shuffle=0)))
    assert shares == [[label for label in range(rank, 40, 4) if label != 8] for rank in range(4)]


def _epochs(loader, stream, count=2):
    orders = []
    for epoch in range(count):
        stream.set_epoch(epoch)
        orders.append(labels_of(loader))
    return orders


@pytest.mark.parametrize("contexts", [("fork",), pytest.param(("fork", "spawn"), marks=pytest.mark.slow)])
def test_persistent_workers_see_the_epoch_whether_forked_or_spawned(tmp_path, contexts):
    make_shards(tmp_path, [4] * 4)
    orders = {}
    for context in contexts:
        stream = strict(tmp_path)
        loader = DataLoader(
            stream, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=context
        )
        orders[context] = _epochs(loader, stream)
        del loader
    assert orders[contexts[0]] == orders[contexts[-1]]
    first, second = orders["fork"]
    assert sorted(first) == sorted(second) == list(range(16)) and first != second


def test_four_workers_batch_and_are_left_early(tmp_path):
    make_shards(tmp_path, [8] * 5)
    loader = DataLoader(strict(tmp_path, fields=("png", "cls")), batch_size=4, num_workers=4)
    for images, labels in loader:
        assert images.shape == (4, 3, 20, 18) and [shown(image) for image in images] == labels.tolist()
        break
    assert sum(len(labels) for _, labels in loader) == 40


def test_it_has_no_length_and_says_that_it_splits_itself(tmp_path):
    make_shards(tmp_path, [1])
    with pytest.raises(TypeError):
        len(strict(tmp_path))
    assert ShardStream.splits_itself is True


# Damage


def damaged(tmp_path, *shards):
    """Stream damaged shards by skipping; return the labels, the counts and the warnings."""
    for number, content in enumerate(shards):
        (tmp_path / f"{number}.tar").write_bytes(content)
    stream = ShardStream(tmp_path, fields=FIELDS, shuffle=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = labels_of(stream)
    return labels, stream.stats, [str(one.message) for one in caught if one.category is RuntimeWarning]


def test_a_truncated_shard_never_lends_its_label_to_the_next(tmp_path):
    # The first shard breaks off between label and image of key 000002; the second begins with the image of that key.
    first = tar([*sample(1), ("000002.cls", b"1"), ("000002.png", encoded(picture(1)))])
    cut = first.index(b"000002.png") + 512 + 20
    second = tar([("000002.png", encoded(picture(2))), ("000002.cls", b"2"), *sample(3)])
    labels, counts, messages = damaged(tmp_path, first[:cut], second)
    assert labels == [1, 2, 3]
    assert counts == stats(tar=1)
    assert len(messages) == 1 and "0.tar" in messages[0] and "truncated" in messages[0]


CASES = {
    "repeated": (
        [*sample(1), *sample(2), ("000002.png", encoded(picture(9))), *sample(3)],
        r"sample '000002': field 'png' comes more than once",
    ),
    "missing": ([*sample(1), sample(2)[0], *sample(3)], r"sample '000002': field 'png' is missing, it holds cls"),
    "image": (
        [*sample(1), ("000002.cls", b"2"), ("000002.png", encoded(picture(2))[:60]), *sample(3)],
        r"sample '000002': field 'png': damaged PNG",
    ),
    "label": (
        [*sample(1), ("000002.cls", b"cat"), ("000002.png", encoded(picture(2))), *sample(3)],
        r"sample '000002': field 'cls': expected a 64-bit integer, got b'cat'",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_damaged_samples_are_counted_or_raise_with_shard_key_and_reason(tmp_path, kind):
    files, reason = CASES[kind]
    labels, counts, messages = damaged(tmp_path, tar(files))
    assert labels == [1, 3] and counts == stats(**{kind: 1}) and len(messages) == 1
    with pytest.raises(ValueError, match=rf"^shard .*0\.tar, {reason}"):
        list(strict(tmp_path))


def test_a_key_in_two_places_is_two_samples_without_a_field_each(tmp_path):
    one, two = sample(1), sample(2)
    labels, counts, _ = damaged(tmp_path, tar([one[0], *two, one[1]]))
    assert labels == [2] and counts == stats(missing=2)


def test_a_bad_header_ends_its_shard_only_and_it_warns_once(tmp_path):
    first = bytearray(tar([file for label in range(4) for file in sample(label)]))
    first[first.index(b"000002.cls")] ^= 1
    labels, counts, messages = damaged(tmp_path, bytes(first), b"", tar(sample(7)))
    assert labels == [0, 7] and counts == stats(tar=2) and len(messages) == 1
    with pytest.raises(ValueError, match=r"0\.tar: bad header"):
        list(strict(tmp_path, shuffle=0))


def test_a_shard_that_vanishes_is_counted(tmp_path):
    paths = make_shards(tmp_path, [2, 2])
    stream = ShardStream(tmp_path, fields=FIELDS)
    paths[0].unlink()
    with pytest.warns(RuntimeWarning, match="000.tar"):
        assert sorted(labels_of(stream)) == [2, 3]
    assert stream.stats == stats(read=1)


def test_an_error_in_a_worker_arrives_as_it_is(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar(CASES["label"][0]))
    with pytest.raises(ValueError, match="sample '000002'"):
        list(DataLoader(strict(tmp_path), batch_size=None, num_workers=1))


# Fields


def test_fields_come_in_order_and_the_first_alternative_wins(tmp_path):
    files = [("a/x.PNG", encoded(picture(1))), ("a/x.meta.json", b'{"k": 1}'), ("a/x.bin", b"\0"), ("a/y.jpeg", b"")]
    files[3] = ("a/y.jpeg", encoded(picture(2), "JPEG"))
    files += [
        ("a/y.meta.json", b"[]"),
        ("a/y.bin", b""),
        ("a/._y.png", b"?"),
        ("__meta__/z.png", b"?"),
        ("README", b""),
    ]
    (tmp_path / "0.tar").write_bytes(tar(files))
    fields = ("bin", "jpg;png;jpeg;webp", "meta.json", "__key__", "__url__")
    first, second = ShardStream(tmp_path, fields=fields, shuffle=0, on_error="raise")
    assert first[0] == b"\0" and shown(first[1]) == 1 and first[2:] == ({"k": 1}, "a/x", str(tmp_path / "0.tar"))
    assert second[1].shape == (3, 20, 18) and second[2:4] == ([], "a/y")


@pytest.mark.parametrize("name", ["pkl", "pickle", "pyd", "pth", "pt", "jpg;pkl", "meta.PKL", "pkl.gz"])
def test_pickled_fields_are_refused_at_once(tmp_path, name):
    make_shards(tmp_path, [1])
    with pytest.raises(ValueError, match="pickle"):
        ShardStream(tmp_path, fields=("png", name))


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"fields": "jpg"}, TypeError, "sequence of names"),
        ({"fields": ()}, ValueError, "at least one"),
        ({"fields": (".jpg",)}, ValueError, "file extensions"),
        ({"fields": ("jpg;",)}, ValueError, "file extensions"),
        ({"fields": ("__index__",)}, ValueError, "file extensions"),
        ({"shuffle": -1}, ValueError, "shuffle must be at least 0, got -1"),
        ({"seed": -1}, ValueError, "seed"),
        ({"on_error": "warn"}, ValueError, "on_error"),
        ({"even": "cut"}, ValueError, "even must be"),
        ({"even": "pad"}, ValueError, "needs the number of samples"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"errors_in_a_row": 0}, ValueError, "errors_in_a_row must be at least 1"),
        ({"cache_gib": 0}, ValueError, "cache_gib must be above 0"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, error, reason):
    make_shards(tmp_path, [1])
    with pytest.raises(error, match=reason):
        ShardStream(tmp_path, **options)


# Other people's shards


def test_reads_what_webdataset_writes(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/%03d.tar", maxcount=4, verbose=0) as writer:
        for label in range(10):
            writer.write({"__key__": f"{label:06d}", "png": picture(label), "cls": label, "json": {"n": label}})
    items = list(strict(tmp_path, fields=(*FIELDS, "json"), shuffle=0))
    assert labels_of(item[:4] for item in items) == [item[4]["n"] for item in items] == list(range(10))


def test_reads_what_gnu_tar_packs_from_a_folder(tmp_path):
    (tmp_path / "x").mkdir()
    for label in range(10):
        for name, content in sample(label):
            (tmp_path / "x" / name).write_bytes(content)
    subprocess.run(["tar", "--sort=name", "-cf", "s.tar", "-C", "x", "."], cwd=tmp_path, check=True)
    items = list(strict(tmp_path, fields=("png", "cls", "__key__"), shuffle=0))
    assert [(shown(image), label, key) for image, label, key in items] == [(n, n, f"./{n:06d}") for n in range(10)]


def test_photographs(tmp_path):
    if not CLOTHING.is_dir():
        pytest.skip("the folder of clothing photographs is not there")
    photographs = sorted(CLOTHING.glob("*/*.jpg"))[::20]
    files = [
        (f"{n:03d}.{end}", content)
        for n, path in enumerate(photographs)
        for end, content in (("cls", str(n).encode()), ("jpg", path.read_bytes()))
    ]
    (tmp_path / "0.tar").write_bytes(tar(files))
    found = {label: image for image, label in ShardStream(tmp_path, on_error="raise")}
    from torchvision.io import ImageReadMode, read_image

    assert len(found) == len(photographs) > 5
    assert all(found[n].equal(read_image(str(path), ImageReadMode.RGB)) for n, path in enumerate(photographs))


# Elsewhere


class _Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        if self.path.endswith(".jsonl"):
            return self.send_error(404)
        content = Path(self.directory, self.path.removeprefix("/cut/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 1024 * 512])


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("torchaug_gen.shards.web.BACKOFF_S", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_reads_over_http_and_counts_what_fails(tmp_path, server):
    make_shards(tmp_path, [4, 4, 4])
    stream = strict(f"{server}/{{000..002}}.tar")
    assert sorted(labels_of(DataLoader(stream, batch_size=None, num_workers=2))) == list(range(12))
    skipping = ShardStream([f"{server}/000.tar", f"{server}/404.tar", f"{server}/cut/002.tar"], fields=FIELDS)
    with pytest.warns(RuntimeWarning):
        labels = labels_of(skipping)
    # What came before the connection broke is whole and delivered.
    assert {0, 1, 2, 3} < set(labels) < {0, 1, 2, 3, 8, 9, 10, 11}
    assert skipping.stats == stats(read=2)
    with pytest.raises(ValueError, match=r"404\.tar: HTTP status 404"):
        list(strict(f"{server}/404.tar"))


def test_pipes_need_leave(tmp_path):
    (path,) = make_shards(tmp_path, [3])
    with pytest.raises(ValueError, match="allow_pipe=True"):
        strict(f"pipe:cat {path}")
    assert sorted(labels_of(strict(f"pipe:cat {path}", allow_pipe=True))) == [0, 1, 2]
    with pytest.raises(ValueError, match="exit status 3"):
        list(strict(f"pipe:cat {path}; exit 3", allow_pipe=True))


def test_leaving_early_ends_the_command(tmp_path):
    (path,) = make_shards(tmp_path, [3])
    items = iter(strict(f"pipe:cat {path}; exec sleep 60", allow_pipe=True, shuffle=0))
    next(items)
    start = time.monotonic()
    items.close()
    assert time.monotonic() - start < 2


def test_silence_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("torchaug_gen.shards.remote.STALL_S", 0.2)
    with pytest.raises(ValueError, match="nothing came"):
        list(strict("pipe:exec sleep 60", allow_pipe=True))


# All processes together


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_faults_of_workers_are_counted_in_the_main_process(tmp_path, context):
    files = [file for label in range(8) for file in sample(label)]
    files[2 * 5] = ("000005.cls", b"cat")
    (tmp_path / "0.tar").write_bytes(tar(files))
    (tmp_path / "1.tar").write_bytes(tar([*sample(8), *sample(9)])[:1800])
    stream = ShardStream(tmp_path, fields=FIELDS)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert 7 <= len(labels_of(loader)) <= 8
    assert stream.stats == stats(label=1, tar=1)


@pytest.mark.parametrize("index", [False, True])
def test_too_many_faults_in_a_row_end_it(tmp_path, index):
    files = [file for label in range(20) for file in sample(label)]
    for label in (2, 3, *range(10, 15)):
        files[2 * label] = (f"{label:06d}.cls", b"cat")
    (tmp_path / "0.tar").write_bytes(tar(files))
    if index:
        index_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(list(ShardStream(tmp_path, fields=FIELDS, shuffle=0, errors_in_a_row=6))) == 13
        seen = []
        with pytest.raises(ValueError, match=r"4 faults in a row.*the last: shard .*sample '000013'"):
            seen.extend(ShardStream(tmp_path, fields=FIELDS, shuffle=0, errors_in_a_row=4))
        assert len(seen) == 8


def test_a_shard_that_vanishes_is_counted_once_with_an_index_too(tmp_path):
    paths = make_shards(tmp_path, [200, 4], index=True)
    stream = ShardStream(tmp_path, fields=FIELDS, shuffle=20)
    paths[0].unlink()
    with pytest.warns(RuntimeWarning, match=r"000\.tar"):
        assert sorted(labels_of(stream)) == [200, 201, 202, 203]
    assert stream.stats == stats(read=1)


@pytest.mark.parametrize("index", ["auto", None])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_nothing_is_an_error(tmp_path, index, workers):
    paths = make_shards(tmp_path, [2] * 5, index=True)
    stream = ShardStream(tmp_path, fields=("png", "cls"), shuffle=0, index=index)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=str)
    for path in paths:
        path.rename(path.with_suffix(".gone"))
    with pytest.raises(ValueError, match=r"nothing of the epoch could be delivered.*No such file"):
        list(loader)
    # One shard that is left is enough, whoever of the workers has it.
    paths[3].with_suffix(".gone").rename(paths[3])
    assert len(list(loader)) == 2
    assert stream.stats == stats(read=9 if index is None or not workers else 18)


@pytest.mark.parametrize("last", [0, 1])
def test_an_epoch_of_nothing_is_an_error_whichever_worker_is_the_last(tmp_path, last):
    (path,) = make_shards(tmp_path, [1], index=True)
    stream = ShardStream(tmp_path, fields=FIELDS)
    path.unlink()
    # As of a fork, only memory is shared. The second worker has nothing to deliver.
    forks = [copy.copy(stream) for _ in range(2)]
    for fork in forks:
        fork._faults = copy.copy(stream._faults)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with consumer(1 - last, 2):
            assert list(forks[1 - last]) == []
        with consumer(last, 2), pytest.raises(ValueError, match="nothing of the epoch could be delivered"):
            list(forks[last])


@pytest.mark.parametrize("index", ["auto", None])
def test_workers_without_a_share_are_no_error(tmp_path, index):
    make_shards(tmp_path, [1], index=True)
    loader = DataLoader(strict(tmp_path, index=index), batch_size=None, num_workers=2, collate_fn=list)
    assert [len(list(loader)) for _ in range(2)] == [1, 1]


def test_all_workers_in_all_epochs_warn_once(tmp_path, monkeypatch):
    shards, told = tmp_path / "shards", tmp_path / "told"
    (path,) = make_shards(shards, [12], index=True)
    content = bytearray(path.read_bytes())
    # One of the first worker's share, and one of the second's.
    for label in (0, 11):
        content[content.index(f"{label:06d}.cls".encode()) + 512] ^= 1
    path.write_bytes(content)

    def show(message, *_):
        with told.open("a") as file:
            file.write(f"{message}\n")

    loader = DataLoader(ShardStream(shards, shuffle=0, fields=("cls",)), 1, num_workers=2)
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", show)
        for _ in range(3):
            assert len(list(loader)) == 10
    assert told.read_text().count("skipped shard") == 1


def test_an_indexed_shard_cut_short_is_counted_once(tmp_path):
    paths = make_shards(tmp_path, [6, 4], index=True)
    stream = ShardStream(tmp_path, fields=FIELDS, shuffle=0)
    paths[0].write_bytes(paths[0].read_bytes()[: 3 * 3072 + 600])
    with pytest.warns(RuntimeWarning, match=r"the shard ends after \d+ bytes, within a sample"):
        assert labels_of(stream) == [0, 1, 2, 6, 7, 8, 9]
    assert stream.stats == stats(read=1)


def test_files_far_apart_in_a_sample_are_read_one_by_one(tmp_path):
    one = sample(1)
    (tmp_path / "0.tar").write_bytes(tar([one[0], ("000001.bin", bytes(300_000)), one[1]]))
    index_folder(tmp_path)
    assert labels_of(strict(tmp_path)) == [1]


def test_an_index_changes_what_is_delivered_in_nothing_but_order(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/%03d.tar", maxcount=4, verbose=0) as writer:
        for label in range(10):
            writer.write({"__key__": f"{label:06d}", "png": picture(label), "cls": label, "json": {"n": label}})
    plain = list(strict(tmp_path, fields=(*FIELDS, "json"), shuffle=0))
    index_folder(tmp_path)
    indexed = list(strict(tmp_path, fields=(*FIELDS, "json"), shuffle=0))
    for one, other in zip(plain, indexed, strict=True):
        assert one[0].equal(other[0]) and one[1:] == other[1:]
