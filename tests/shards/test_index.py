import gzip
import io
import json
import subprocess
import tarfile

import numpy as np
import pytest
from shard_files import FIELDS, labels_of, make_shards, sample, shown, tar

from torchaug_gen.shards.catalogue import find_catalogue
from torchaug_gen.shards.index import INDEX_NAME, ShardIndex, index_folder, index_shard
from torchaug_gen.shards.stream import ShardStream, SizedShardStream


def test_it_says_where_the_bytes_are_and_survives_its_file(tmp_path):
    paths = make_shards(tmp_path, [3, 0, 5])
    index = index_folder(tmp_path, classes=["cat", "dog"])
    again = ShardIndex.from_bytes((tmp_path / INDEX_NAME).read_bytes(), "it")
    assert again.classes == index.classes == ("cat", "dog") and again.shards == index.shards
    assert [shard.samples for shard in again.shards] == [3, 0, 5]
    label = 0
    for number, path in enumerate(paths):
        content = path.read_bytes()
        for found in again.samples(number):
            span = found.files["cls"]
            assert int(content[span.offset : span.offset + span.size]) == label == int(found.key)
            label += 1


@pytest.mark.parametrize("damage", [b"", b"[broken\n"])
def test_classes_that_an_earlier_index_knew_are_kept(tmp_path, damage):
    make_shards(tmp_path, [3])
    index_folder(tmp_path, classes=["cat", "dog", "emu"])
    with (tmp_path / INDEX_NAME).open("ab") as file:
        file.write(damage)
    (tmp_path / "new.tar").write_bytes(tar(sample(2, "more")))
    index = index_folder(tmp_path)
    assert index.classes == ("cat", "dog", "emu") and len(index.shards) == 2
    assert ShardStream(tmp_path).classes == ("cat", "dog", "emu")
    assert index_folder(tmp_path, classes=["a", "b", "c"]).classes == ("a", "b", "c")


@pytest.mark.parametrize("header", ["", "[]", "{}", '{"format": "other", "classes": ["x"]}', "\xff{"])
def test_classes_of_something_else_are_not_taken(tmp_path, header):
    make_shards(tmp_path, [3])
    (tmp_path / INDEX_NAME).write_text(header)
    assert index_folder(tmp_path).classes is None


def test_it_keeps_what_is_strange_about_a_sample(tmp_path):
    one = sample(1)
    (tmp_path / "0.tar").write_bytes(tar([*one, one[0], ("ü\udcff.CLS", b"2"), ("x.cls", b"3")]))
    index_folder(tmp_path)
    first, second, third = find_catalogue([str(tmp_path / "0.tar")], "auto")._indexes[0].samples(0)
    assert first.repeated == "cls" and (second.key, third.key) == ("ü\udcff", "x")
    stream = ShardStream(tmp_path, fields=("cls", "__key__"), shuffle=0)
    with pytest.warns(RuntimeWarning, match="'cls' comes more than once"):
        assert list(stream) == [(2, "ü\udcff"), (3, "x")]
    assert stream.stats["repeated"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(gzip.compress(tar(sample(1)), mtime=0), "gunzip"), (tar(sample(1))[:700], "truncated"), (b"", "end mark")],
)
def test_a_damaged_or_packed_shard_is_named_and_no_index_written(tmp_path, content, reason):
    make_shards(tmp_path, [2])
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(ValueError, match=rf"shard .*bad\.tar.*{reason}"):
        index_folder(tmp_path)
    assert not (tmp_path / INDEX_NAME).exists()
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.tar"):
        (tmp_path / "empty").mkdir()
        index_folder(tmp_path / "empty")


def pack(folder, out, *options):
    """Pack a folder as somebody would: in the order in which the disk names the files, unless told otherwise."""
    subprocess.run(["tar", *options, "-cf", out, "-C", folder.parent, folder.name], check=True)


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for label in range(30):
        for name, content in sample(label):
            (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("how", ["by field", "at random", "as the disk does"])
def test_files_of_a_sample_may_be_anywhere_in_an_indexed_shard(tmp_path, unpacked, how):
    shards = tmp_path / "shards"
    shards.mkdir()
    files = [file for label in range(30) for file in sample(label)]
    if how == "as the disk does":
        pack(unpacked, shards / "0.tar")
    else:
        order = np.random.default_rng(0).permutation(60) if how == "at random" else [*range(0, 60, 2), *range(1, 60, 2)]
        (shards / "0.tar").write_bytes(tar([files[at] for at in order]))
    index = index_folder(shards)
    assert index.shards[0].samples == 30
    stream = ShardStream(shards, fields=("png", "cls"), on_error="raise")
    assert sorted((shown(image), label) for image, label in stream) == [(label, label) for label in range(30)]
    # Nothing but what is written there holds such shards together.
    if how != "as the disk does":
        with pytest.raises(ValueError, match=r"'png' is missing, it holds cls; without an index.*tar --sort=name"):
            list(ShardStream(shards, fields=("png", "cls"), index=None, on_error="raise", shuffle=0))


def test_a_key_in_two_places_with_one_field_twice_is_no_sample(tmp_path):
    one, two = sample(1), sample(2)
    (tmp_path / "0.tar").write_bytes(tar([*one, *two, one[0]]))
    assert index_folder(tmp_path).shards[0].samples == 2
    stream = ShardStream(tmp_path, fields=FIELDS)
    with pytest.warns(RuntimeWarning, match="'000001': field 'cls' comes more than once"):
        assert labels_of(stream) == [2]


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar"])
def test_links_stand_for_what_they_point_to(tmp_path, unpacked, form):
    deep = unpacked / ("d" * 60) / ("e" * 60)
    for folder in (deep, tmp_path / "shards"):
        folder.mkdir(parents=True)
    for field, label in (("png", 3), ("cls", 3)):
        # A hard link, a symbolic one, one from another folder, one to a link, one whose name is long, and a dead one.
        (unpacked / f"hard.{field}").hardlink_to(unpacked / f"{label:06d}.{field}")
        (unpacked / f"soft.{field}").symlink_to(f"{label:06d}.{field}")
        (deep / f"deep.{field}").symlink_to(f"../../{label:06d}.{field}")
        (unpacked / f"twice.{field}").symlink_to(f"soft.{field}")
        (unpacked / f"dead.{field}").symlink_to(f"/etc/{field}")
        if form != "ustar":
            (unpacked / f"long.{field}").symlink_to(f"{'./' * 60}{deep.relative_to(unpacked)}/deep.{field}")
    pack(unpacked, tmp_path / "shards" / "0.tar", f"--format={form}", "--sort=name")
    index_folder(tmp_path / "shards")
    stream = ShardStream(tmp_path / "shards", fields=("png", "cls", "__key__"))
    with pytest.warns(RuntimeWarning, match="sample 'files/dead': field 'png' is missing"):
        found = {key.rpartition("/")[2]: (shown(image), label) for image, label, key in stream}
    linked = ["hard", "soft", "deep", "twice"] + ["long"] * (form != "ustar")
    assert all(found[key] == (3, 3) for key in linked) and len(found) == 30 + len(linked)
    assert stream.stats["missing"] == 1
    # What has gone by when a link comes cannot be read again from a stream.
    streamed = ShardStream(tmp_path / "shards", fields=("png", "cls"), index=None)
    with pytest.warns(RuntimeWarning, match="and no links"):
        assert len(list(streamed)) == 30
    assert streamed.stats["missing"] == len(linked) + 1


def test_links_in_a_circle_end(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, target in (("a.cls", "b.cls"), ("b.cls", "a.cls")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    (tmp_path / "0.tar").write_bytes(content.getvalue())
    index_folder(tmp_path)
    stream = ShardStream(tmp_path, fields=("cls",), on_error="raise")
    with pytest.raises(ValueError, match="'cls' is missing"):
        list(stream)


def _edit(content, change):
    header, *lines = content.split(b"\n")
    header = json.loads(header)
    lines = change(header, lines) or lines
    return b"\n".join([json.dumps(header).encode(), *lines])


DAMAGES = {
    "nothing": lambda content: b"",
    "no JSON": lambda content: b"\xff" + content,
    "another format": lambda content: _edit(content, lambda header, _: header.update(format="x")),
    "a list": lambda content: b"[]\n" + content,
    "deep": lambda content: b"[" * 100_000 + content,
    "a newer version": lambda content: _edit(content, lambda header, _: header.update(version=99)),
    "no version": lambda content: _edit(content, lambda header, _: header.pop("version") and None),
    "cut": lambda content: content[:-20],
    "a line less": lambda content: _edit(content, lambda _, lines: lines[1:]),
    "a shard twice": lambda content: _edit(
        content, lambda header, _: header["shards"].__setitem__(1, header["shards"][0])
    ),
    "a folder": lambda content: _edit(content, lambda header, _: header["shards"][0].update(name="../000.tar")),
    "a negative count": lambda content: _edit(content, lambda header, _: header["shards"][0].update(samples=-1)),
    "no shards": lambda content: _edit(content, lambda header, _: header.update(shards=None)),
    "another field": lambda content: _edit(content, lambda header, _: header["shards"][0].update(x=1)),
    "another size": lambda content: _edit(content, lambda header, _: header["shards"][0].update(bytes=99999)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_refused_at_once(tmp_path, damage):
    make_shards(tmp_path, [3, 2], index=True)
    path = tmp_path / INDEX_NAME
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match="index"):
        ShardStream(tmp_path, fields=FIELDS)
    assert sorted(labels_of(ShardStream(tmp_path, fields=FIELDS, index=None))) == list(range(5))


@pytest.mark.parametrize(
    "entry",
    [
        b"[]",
        b"{}",
        b"[[1]]",
        b'[["a", {"cls": [0, 1]}], 2, 3]',
        b'[["a", {"cls": [-5, 1, 1]}]]',
        b'[["a", {"cls": [0, 1099511627776, 1]}]]',
        b'[["a", {"cls": [0.5, 1, 1]}]]',
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_met_where_it_is_read(tmp_path, entry):
    make_shards(tmp_path, [1], index=True)
    path = tmp_path / INDEX_NAME
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + entry + b"\n")
    stream = ShardStream(tmp_path, fields=FIELDS)
    with pytest.raises(ValueError, match=r"index is damaged.* 000\.tar"):
        list(stream)


def test_shards_that_the_index_does_not_know_are_named(tmp_path):
    paths = make_shards(tmp_path, [2, 2], index=True)
    (tmp_path / "002.tar").write_bytes(tar(sample(9)))
    with pytest.raises(ValueError, match=r"002\.tar is not in the index beside it; make it again"):
        ShardStream(tmp_path)
    (tmp_path / "002.tar").unlink()
    paths[0].write_bytes(paths[0].read_bytes() + b"\0" * 512)
    with pytest.raises(ValueError, match=r"000\.tar has \d+ bytes, but \d+ in the index"):
        ShardStream(tmp_path)


def test_an_index_may_lie_elsewhere_and_cover_more(tmp_path):
    paths = make_shards(tmp_path / "shards", [2, 3], index=True)
    moved = (tmp_path / "shards" / INDEX_NAME).rename(tmp_path / "other.jsonl")
    assert type(ShardStream(tmp_path / "shards")) is ShardStream
    stream = ShardStream(paths[1], index=moved, fields=FIELDS, on_error="raise")
    assert isinstance(stream, SizedShardStream) and len(stream) == 3 and sorted(labels_of(stream)) == [2, 3, 4]
    with pytest.raises(FileNotFoundError, match=r"index: .*none"):
        ShardStream(paths[1], index=tmp_path / "none")


def test_folders_each_have_their_own(tmp_path):
    make_shards(tmp_path / "a", [2, 3], index=True)
    make_shards(tmp_path / "b", [4], index=True)
    urls = f"{tmp_path}/{{a,b}}/*.tar"
    assert len(ShardStream(urls)) == len(list(ShardStream(urls, fields=FIELDS, on_error="raise"))) == 9
    (tmp_path / "b" / INDEX_NAME).unlink()
    assert type(ShardStream(urls)) is ShardStream


def test_labels_without_a_class_are_damaged(tmp_path):
    make_shards(tmp_path, [4])
    index_folder(tmp_path, classes=["a", "b", "c"])
    stream = ShardStream(tmp_path, fields=FIELDS)
    assert stream.classes == ("a", "b", "c")
    with pytest.warns(RuntimeWarning, match=r"'000003': field 'cls': expected a class in 0\.\.2, got 3"):
        assert sorted(labels_of(stream)) == [0, 1, 2]
    assert stream.stats["label"] == 1


def test_an_entry_alone_is_the_same(tmp_path):
    (path,) = make_shards(tmp_path, [3])
    shard, line = index_shard(path, "new.tar")
    assert shard.name == "new.tar" and shard.bytes == path.stat().st_size
    assert ShardIndex([shard], [line]).samples(0)[2].key == "000002"
