import hashlib
import multiprocessing
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from shard_files import picture, shown
from torch.utils.data import Dataset, TensorDataset

from torchaug_gen.shards.index import ShardIndex, index_folder, read_index
from torchaug_gen.shards.keys import safe_key
from torchaug_gen.shards.stream import ShardStream
from torchaug_gen.shards.write import write_shards

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 9, 8), dtype=np.uint8))
LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2])


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def read(folder, *fields):
    return list(ShardStream(folder, fields=fields, shuffle=0, on_error="raise"))


def test_png_gives_the_very_images_and_labels(tmp_path):
    paths = write_shards(TensorDataset(IMAGES, LABELS), tmp_path, samples_per_shard=3, image_format="png")
    assert paths == [tmp_path / f"{n:06d}.tar" for n in range(3)]
    assert sorted(tmp_path.iterdir()) == [*paths, tmp_path / "index.jsonl"]
    items = read(tmp_path, "png", "cls", "__key__", "__url__")
    assert all(image.equal(IMAGES[n]) for n, (image, *_) in enumerate(items))
    assert [item[1:] for item in items] == [
        (int(label), f"{n:09d}", str(paths[n // 3])) for n, label in enumerate(LABELS)
    ]


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_lossy_formats_keep_images_close_and_quality_counts(tmp_path, image_format):
    coarse = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 8, 8), dtype=np.uint8))
    smooth = (
        torch.nn.functional.interpolate(coarse[None].float(), 64, mode="bicubic")[0]
        .clamp(0, 255)
        .byte()
        .expand(3, -1, -1)
    )
    sizes = []
    for quality in (95, 10):
        (path,) = write_shards([(smooth, 1)] * 20, tmp_path / str(quality), image_format=image_format, quality=quality)
        sizes.append(path.stat().st_size)
        image, label = read(path.parent, image_format, "cls")[0]
        assert label == 1 and (image.int() - smooth.int()).abs().float().mean() < (3 if quality == 95 else 20)
    assert sizes[0] > sizes[1]


def test_every_kind_of_image_gives_the_same_picture(tmp_path):
    pixels = picture(7)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [pixels, tensor, tensor / 255, (tensor / 255).double(), Image.fromarray(pixels)]
    kinds += [Image.fromarray(pixels).convert("RGBA")]
    write_shards([(image, 0) for image in kinds], tmp_path / "rgb", image_format="png")
    assert [shown(image) for image, _ in read(tmp_path / "rgb", "png", "cls")] == [7] * len(kinds)
    grey = IMAGES[0, :1]
    kinds = [grey, grey / 255, grey[0].numpy(), grey.permute(1, 2, 0).numpy(), Image.fromarray(grey[0].numpy())]
    write_shards([(image, 0) for image in kinds], tmp_path / "grey", image_format="png")
    assert all(image.equal(grey) for image, _ in read(tmp_path / "grey", "png", "cls"))


def test_mappings_hold_any_field(tmp_path):
    values = {"png": IMAGES[0], "cls": np.int64(3), "txt": "grün", "meta.json": {"a": [1.5]}, "bin": b"\0"}
    values |= {"npy": torch.arange(3.0), "mask.png": IMAGES[0, :1], "jpg": Image.new("RGB", (4, 4))}
    write_shards(iter([values]), tmp_path)
    (item,) = read(tmp_path, *values)
    found = dict(zip(values, item, strict=True))
    assert found["png"].equal(IMAGES[0]) and found["mask.png"].equal(IMAGES[0, :1]) and found["jpg"].shape == (3, 4, 4)
    assert found["npy"].equal(torch.arange(3.0)) and found["meta.json"] == {"a": [1.5]}
    assert (found["cls"], found["txt"], found["bin"]) == (3, "grün", b"\0")


def test_the_same_items_give_the_same_bytes(tmp_path, monkeypatch):
    items = list(zip(IMAGES, LABELS.tolist(), strict=True))
    first = write_shards(items, tmp_path / "a", samples_per_shard=4)
    monkeypatch.setattr("time.time", lambda: 2e9)
    second = write_shards(iter(items), tmp_path / "b", samples_per_shard=4)
    third = write_shards([{"cls": label, "jpg": image} for image, label in items], tmp_path / "c", samples_per_shard=4)
    assert digests(first) == digests(second) == digests(third)
    with tarfile.open(first[0]) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_webdataset_reads_what_is_written(tmp_path):
    write_shards(TensorDataset(IMAGES, LABELS), tmp_path, samples_per_shard=4, image_format="png")
    theirs = webdataset.WebDataset(f"{tmp_path}/{{000000..000001}}.tar", shardshuffle=False)
    items = list(theirs.decode("rgb8").to_tuple("png", "cls"))
    assert [label for _, label in items] == LABELS.tolist()
    assert all((image == IMAGES[n].permute(1, 2, 0).numpy()).all() for n, (image, _) in enumerate(items))


class Endless(Dataset):
    """A map-style dataset that never raises IndexError, as many do not."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return picture(index), index % 5


def test_a_dataset_is_walked_by_its_length(tmp_path):
    write_shards(Endless(), tmp_path, image_format="png")
    assert [label for _, label in read(tmp_path, "png", "cls")] == list(range(5))


def test_an_interrupted_run_leaves_whole_shards_only(tmp_path):
    def items():
        for label in range(5):
            yield picture(label), label
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(items(), tmp_path, samples_per_shard=2, image_format="png")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".writing", "000000.tar", "000001.tar"]
    assert [label for _, label in read(tmp_path, "png", "cls")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"but .* holds 000000\.tar; resume=True .* goes on"):
        write_shards(Endless(), tmp_path)


class Counted(Dataset):
    """Remembers in a file what was read of it; ``kill_at`` ends the process at once."""

    classes = ("even", "odd")

    def __init__(self, log, n=50, kill_at=None):
        self.log, self.n, self.kill_at = Path(log), n, kill_at

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        # What the global generator gave would differ between the workers.
        noise = torch.randint(256, (3, 6, 5), dtype=torch.uint8)
        return noise, index % 2

    @property
    def read(self):
        return list(map(int, self.log.read_text().split()))


def shards_and_places(folder):
    """What shards and their index hold; the index also says how they were written."""
    index = read_index(folder)
    return (
        digests(sorted(folder.glob("*.tar"))),
        index.shards,
        index.classes,
        [index.line(n) for n in range(len(index.shards))],
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_bytes_do_not_depend_on_the_workers_and_no_global_generator_moves(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    options = {"samples_per_shard": 12, "image_format": "png", "shuffle": True, "seed": 3}
    for workers in (0, 1, 3):
        write_shards(Counted(tmp_path / f"log{workers}"), tmp_path / str(workers), workers=workers, **options)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")
    assert torch.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all()
    read = Counted(tmp_path / "log0").read
    assert sorted(read) == list(range(50)) != read


def test_the_items_of_an_iterable_are_encoded_by_workers_too(tmp_path):
    for workers in (0, 2):
        items = ((IMAGES[n % 7], n % 5) for n in range(40))
        write_shards(items, tmp_path / str(workers), workers=workers, samples_per_shard=15, image_format="png")
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    with pytest.raises((ValueError, TypeError), match=r"^item 0: .*pickle"):
        write_shards(iter([(IMAGES[0], lambda: 0)]), tmp_path / "other", workers=1)


def test_an_index_is_written_beside_with_the_classes(tmp_path):
    write_shards(Counted(tmp_path / "log", n=7), tmp_path / "out", samples_per_shard=4, image_format="png")
    index = ShardIndex.from_bytes((tmp_path / "out" / "index.jsonl").read_bytes(), "index")
    assert [shard.samples for shard in index.shards] == [4, 3] and index.classes == ("even", "odd")
    for number, shard in enumerate(index.shards):
        content = (tmp_path / "out" / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
        for sample in index.samples(number):
            span = sample.files["cls"]
            assert int(content[span.offset : span.offset + span.size]) == int(sample.key) % 2
    stream = ShardStream(tmp_path / "out", fields=("png", "cls"))
    assert len(stream) == 7


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"item 1: label must be in 0\.\.1 as classes says, got b'2'"):
        write_shards([(picture(0), 1), (picture(0), 2)], tmp_path, classes=("cat", "dog"))


def test_max_shard_bytes_bounds_shards_and_large_samples_have_their_own(tmp_path):
    sizes = [100, 100, 30000, 100, 9000, 9000, 100]
    items = [{"bin": bytes([n]) * size} for n, size in enumerate(sizes)]
    paths = write_shards(items, tmp_path, max_shard_bytes=20480)
    held = [int(count) for count in (shard_samples(path) for path in paths)]
    assert held == [2, 1, 2, 2] and [path.stat().st_size <= 20480 for path in paths] == [True, False, True, True]
    assert [len(item[0]) for item in read(tmp_path, "bin")] == sizes
    # As many as fit: one more would not have.
    tight = write_shards([{"bin": bytes(9216)}] * 4, tmp_path / "tight", max_shard_bytes=20480)
    assert [shard_samples(path) for path in tight] == [2, 2] and {path.stat().st_size for path in tight} == {20480}


def shard_samples(path):
    with tarfile.open(path) as archive:
        return len({name.partition(".")[0] for name in archive.getnames()})


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_goes_on_with_the_same_bytes(tmp_path, workers):
    whole = Counted(tmp_path / "whole")
    write_shards(whole, tmp_path / "a", samples_per_shard=8, shuffle=True)
    part = Counted(tmp_path / "part")
    part.n = 50

    class Broken(Counted):
        def __getitem__(self, index):
            if len(self.read if self.log.exists() else []) >= 29:
                raise KeyError("gone")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match=r"^item \d+: KeyError: 'gone'"):
        write_shards(Broken(part.log), tmp_path / "b", samples_per_shard=8, shuffle=True)
    first = sorted(path.name for path in (tmp_path / "b").glob("*.tar"))
    assert first == ["000000.tar", "000001.tar", "000002.tar"]
    stamps = [(tmp_path / "b" / name).stat().st_mtime_ns for name in first]
    part.log.unlink()
    paths = write_shards(part, tmp_path / "b", samples_per_shard=8, shuffle=True, resume=True, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(paths) == 7
    # Nothing that was finished was read or written again.
    assert len(part.read) == 50 - 24
    assert [(tmp_path / "b" / name).stat().st_mtime_ns for name in first] == stamps
    assert write_shards(part, tmp_path / "b", samples_per_shard=8, shuffle=True, resume=True) == paths
    assert len(part.read) == 50 - 24


def test_an_iterable_goes_on_behind_what_was_written(tmp_path):
    def items(stop):
        for label in range(stop):
            yield picture(label), label
        if stop < 11:
            raise KeyboardInterrupt

    options = {"max_shard_bytes": 25600, "image_format": "png"}
    write_shards(items(11), tmp_path / "a", **options)
    for stop in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            write_shards(items(stop), tmp_path / "b", resume=True, **options)
    write_shards(items(11), tmp_path / "b", resume=True, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(list((tmp_path / "a").glob("*.tar"))) > 1


def test_a_killed_process_leaves_no_half_shard(tmp_path):
    doomed = Counted(tmp_path / "log", kill_at=29)
    # Forked, because a new process would import for seconds.
    process = multiprocessing.get_context("fork").Process(
        target=write_shards, args=(doomed, tmp_path / "b"), kwargs={"samples_per_shard": 8}, daemon=True
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert left[-3:] == ["000000.tar", "000001.tar", "000002.tar"]
    # The shard that was being written has no name that a reader takes for a shard's.
    assert [name for name in left if name.endswith(".partial")] == left[:1]
    assert len(read(tmp_path / "b", "jpg", "cls")) == 24
    write_shards(Counted(tmp_path / "log"), tmp_path / "b", samples_per_shard=8, resume=True)
    write_shards(Counted(tmp_path / "log"), tmp_path / "a", samples_per_shard=8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_resume_refuses_what_is_another_run(tmp_path):
    def two(stop):
        yield from [GOOD] * stop
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(two(2), tmp_path, samples_per_shard=2)
    with pytest.raises(ValueError, match="quality was 95 when the writing began, and is 60 now"):
        write_shards(two(2), tmp_path, samples_per_shard=2, quality=60, resume=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "000000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="no run left a note of them"):
        write_shards([GOOD], tmp_path / "foreign", resume=True)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"items": 5}, "items was 4 .*, and is 5 now"),
        ({"image_format": "jpg"}, "image_format was 'png' .*, and is 'jpg' now"),
        ({"samples_per_shard": 3}, "samples_per_shard was 2 .*, and is 3 now"),
        ({"quality": 3}, "quality was 95 .*, and is 3 now"),
        ({"classes": ("x",)}, r"classes was None .*, and is \['x'\] now"),
        ({"fields": ("png", "cls")}, "fields was None"),
        ({"max_shard_bytes": 10**6}, "max_shard_bytes was None"),
        ({"shuffle": True, "seed": 4}, "order was None .*, and is 4 now"),
    ],
)
def test_resume_refuses_other_settings_than_those_of_a_finished_run(tmp_path, options, name):
    same = {"items": 4, "samples_per_shard": 2, "image_format": "png"}

    def write(items, **options):
        return write_shards([GOOD] * items, tmp_path, resume=True, **options)

    paths = write(**same)
    assert write(**same) == paths and write(**same, workers=1, on_error="skip") == paths
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"^{name}"):
        write(**(same | options))
    # Also where the index was made anew.
    assert index_folder(tmp_path).written["samples_per_shard"] == 2
    with pytest.raises(ValueError, match=f"^{name}"):
        write(**(same | options))
    assert contents(tmp_path) == before


def test_a_finished_run_that_lost_a_shard_is_not_taken_for_whole(tmp_path):
    write_shards([GOOD] * 4, tmp_path, samples_per_shard=2)
    (tmp_path / "000001.tar").unlink()
    with pytest.raises(ValueError, match=r"a finished run, but its 000001\.tar is lost"):
        write_shards([GOOD] * 4, tmp_path, samples_per_shard=2, resume=True)


def test_shards_that_others_indexed_are_no_run(tmp_path):
    write_shards([GOOD] * 4, tmp_path, samples_per_shard=2)
    (tmp_path / "index.jsonl").unlink()
    assert index_folder(tmp_path).written is None
    with pytest.raises(ValueError, match="no run left a note of them"):
        write_shards([GOOD] * 4, tmp_path, samples_per_shard=2, resume=True)


def test_a_run_that_met_a_damaged_item_goes_on_without_it(tmp_path):
    items = [GOOD] * 4 + [0] + [GOOD] * 3
    with pytest.raises(TypeError, match=r"^item 4: "):
        write_shards(items, tmp_path / "a", samples_per_shard=2)
    with pytest.warns(RuntimeWarning, match="skipped 1 items"):
        write_shards(items, tmp_path / "a", samples_per_shard=2, resume=True, on_error="skip")
    with pytest.warns(RuntimeWarning, match="skipped 1 items"):
        write_shards(items, tmp_path / "b", samples_per_shard=2, on_error="skip")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # The other way round items would be missing.
    with pytest.raises(ValueError, match=r"on_error was 'skip' .*, and is 'raise' now"):
        write_shards(items, tmp_path / "a", samples_per_shard=2, resume=True)


def test_a_shard_that_was_lost_is_written_again(tmp_path):
    with pytest.raises(TypeError, match="item 6"):
        write_shards([GOOD] * 6 + [0], tmp_path, samples_per_shard=2)
    (tmp_path / "000001.tar").unlink()
    write_shards([GOOD] * 7, tmp_path / "whole", samples_per_shard=2)
    write_shards([GOOD] * 7, tmp_path, samples_per_shard=2, resume=True)
    assert contents(tmp_path / "whole").items() <= contents_of_files(tmp_path).items()


def test_two_that_write_at_once_are_told(tmp_path):
    def items():
        yield GOOD
        # Another process begins, while this one is writing its first shard.
        write_shards([GOOD], tmp_path)
        yield GOOD

    with pytest.raises(FileNotFoundError, match="another process is writing the same file"):
        write_shards(items(), tmp_path)
    assert len(read(tmp_path, "jpg", "cls")) == 1


@pytest.mark.parametrize("content", [b"", b"{"])
def test_damaged_notes_are_none(tmp_path, content):
    with pytest.raises(TypeError, match="item 4"):
        write_shards([GOOD] * 4 + [0], tmp_path / "a", samples_per_shard=2)
    (tmp_path / "a" / ".writing" / "000001.json").write_bytes(content)
    write_shards([GOOD] * 5, tmp_path / "a", samples_per_shard=2, resume=True)
    write_shards([GOOD] * 5, tmp_path / "b", samples_per_shard=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents_of_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("workers", [0, 1])
def test_items_that_cannot_be_written_are_skipped_where_asked_and_keep_their_number(tmp_path, workers):
    class Torn(Endless):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("torn file")
            return (picture(index), index) if index != 1 else (picture(index), "one")

    with pytest.warns(RuntimeWarning, match="skipped 2 items .*the first: item 1: field 'cls': expected an integer"):
        write_shards(Torn(), tmp_path / "a", on_error="skip", image_format="png", workers=workers)
    assert [item[1:] for item in read(tmp_path / "a", "png", "cls", "__key__")] == [
        (label, f"{label:09d}") for label in (0, 2, 4)
    ]
    with pytest.raises(TypeError, match=r"^item 1: field 'cls'"):
        write_shards(Torn(), tmp_path / "b", image_format="png", workers=workers)


class Faulty(Endless):
    """Raises an error for item 2."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("PngReadError"), ValueError, "RuntimeError: PngReadError"),
        (KeyError("label"), ValueError, "KeyError: 'label'"),
        (TypeError("no column"), TypeError, "no column"),
        (IndexError(), ValueError, "IndexError"),
        (StopIteration(), ValueError, "StopIteration"),
        (Image.DecompressionBombError("large"), ValueError, "DecompressionBombError: large"),
    ],
)
def test_whatever_a_dataset_raises_is_skipped_or_named(tmp_path, workers, error, kind, reason):
    options = {"image_format": "png", "workers": workers}
    with pytest.raises(kind, match=rf"^item 2: {reason}$") as raised:
        write_shards(Faulty(error), tmp_path / "a", **options)
    assert workers or raised.value.__cause__ is error
    # By the dataset's own index, in whatever order.
    with pytest.warns(RuntimeWarning, match=rf"skipped 1 items .*the first: item 2: {reason}$"):
        write_shards(Faulty(error), tmp_path / "b", on_error="skip", shuffle=True, **options)
    assert sorted(label for (label,) in read(tmp_path / "b", "cls")) == [0, 1, 3, 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_an_iterable_raises_comes_through_because_nothing_follows(tmp_path, workers):
    def items():
        yield from [GOOD] * 5
        raise RuntimeError("connection lost")

    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="connection lost") as raised:
        write_shards(items(), tmp_path, samples_per_shard=2, on_error="skip", workers=workers)
    assert raised.value.__notes__ == ["raised by items, which were asked for item 5"]
    assert [path.name for path in sorted(tmp_path.glob("*"))] == [".writing", "000000.tar", "000001.tar"]
    assert before.issuperset(multiprocessing.active_children())


def test_ctrl_c_in_an_iterable_leaves_no_worker(tmp_path):
    def items():
        yield from [GOOD] * 40
        raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        write_shards(items(), tmp_path, workers=2)
    assert before.issuperset(multiprocessing.active_children()) and not list(tmp_path.glob("*.tar"))


def test_an_item_that_cannot_be_sent_to_a_worker_is_skipped_too(tmp_path):
    items = [GOOD, (picture(1), lambda: 0), (picture(2), 2)]
    for workers in (0, 1):
        with pytest.warns(RuntimeWarning, match="skipped 1 items .*the first: item 1: "):
            write_shards(iter(items), tmp_path / str(workers), on_error="skip", workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


def test_keys_are_kept_and_made_safe(tmp_path):
    keys = [
        "train/cat_7",
        "../../etc/passwd",
        "/abs",
        "a.b",
        "a_b",
        "__meta__/x",
        "x\ny",
        "-rf",
        "ключ",
        "k" * 300,
        "..",
        "a//b",
    ]
    items = [{"__key__": key, "png": picture(n), "cls": n} for n, key in enumerate(keys)]
    write_shards(items, tmp_path)
    found = [key for _, key in read(tmp_path, "cls", "__key__")]
    assert len(set(found)) == len(keys) and found[0] == "train/cat_7" and found[4] == "a_b" and found[8] == "ключ"
    for key in found:
        assert ".." not in key and not key.startswith(("/", "-", "__", ".")) and len(key.encode()) < 200
        assert "\n" not in key and key.rpartition("/")[2].count(".") == 0
    assert found == [safe_key(key) for key in keys]
    with pytest.raises(ValueError, match="item 1: key 'a' comes twice in one shard"):
        write_shards([{"__key__": "a", "cls": 0}] * 2, tmp_path / "twice")


def test_other_tuples_are_named_by_fields(tmp_path):
    fields = ("__key__", "png", "cls", "json")
    written = [("one", picture(1), 1, {"a": 1}), ("two", picture(2), True, None)]
    write_shards(written, tmp_path / "a", fields=fields)
    found = read(tmp_path / "a", *fields)
    assert [(key, shown(image), label, data) for key, image, label, data in found] == [
        ("one", 1, 1, {"a": 1}),
        ("two", 2, 1, None),
    ]
    # What is read can be written again, also where nothing is known of its length.
    write_shards(ShardStream(tmp_path / "a", fields=fields, shuffle=0), tmp_path / "b", fields=fields)
    assert shards_and_places(tmp_path / "a") == shards_and_places(tmp_path / "b")


def test_columns_called_image_and_label_are_taken_for_what_they_are(tmp_path):
    write_shards([{"image": Image.fromarray(picture(3)), "label": 3, "id": 8}], tmp_path, image_format="png")
    ((image, label, number),) = read(tmp_path, "png", "cls", "id")
    assert (shown(image), label, number) == (3, 3, 8)


def test_sixteen_bits_are_kept_as_npy(tmp_path):
    deep = np.arange(65536, dtype=np.uint16)[:: 65536 // 20].reshape(3, 7)
    items = [{"npy": deep}, {"npy": Image.fromarray(deep)}, {"npy": torch.from_numpy(deep)}]
    write_shards(items, tmp_path)
    assert all((array.numpy() == deep).all() and array.dtype is torch.uint16 for (array,) in read(tmp_path, "npy"))


def test_settings_may_be_numpy_integers_and_bytes_of_any_kind(tmp_path):
    items = [{"bin": bytearray(b"a")}, {"bin": memoryview(b"b")}, {"bin": b"c"}]
    options = {"samples_per_shard": np.int64(2), "quality": np.uint8(90), "seed": np.int64(3), "shuffle": True}
    paths = write_shards(items, tmp_path, max_shard_bytes=np.int32(20480), **options)
    assert len(paths) == 2 and sorted(read(tmp_path, "bin")) == [(b"a",), (b"b",), (b"c",)]


def test_tar_lists_and_unpacks_what_is_written(tmp_path):
    (path,) = write_shards([{"__key__": "ä/" + "x" * 150, "cls": 1}, {"cls": 2}], tmp_path)
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert len(listed.stdout.split()) == 2 and not listed.stderr
    subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True)
    assert (tmp_path / "000000001.cls").read_text() == "2"


GOOD = (picture(0), 0)


@pytest.mark.parametrize(
    ("item", "error", "reason"),
    [
        (picture(0), TypeError, "expected \\(image, label\\) or a mapping from field to value, got ndarray"),
        ((picture(0), 1, 2), TypeError, "got 3 elements"),
        ((picture(0), 1.0), TypeError, "field 'cls': expected an integer"),
        ((picture(0), "cat"), TypeError, "field 'cls': expected an integer"),
        ((torch.zeros(4, 5, 5), 0), ValueError, r"1 or 3 channels, got shape \(4, 5, 5\)"),
        ((torch.full((3, 5, 5), 1.2), 0), ValueError, r"in \[0, 1\] to become torch.uint8, got 1.2\.\.1.2"),
        ((torch.full((3, 5, 5), torch.nan), 0), ValueError, "got nan..nan"),
        ((torch.zeros(3, 5, 5, dtype=torch.int64), 0), TypeError, "torch.int64"),
        ((torch.zeros(3, 0, 5), 0), ValueError, "at least one pixel"),
        ((np.zeros((5, 5, 3)), 0), ValueError, "float64"),
        ((Image.new("I;16", (4, 4)), 0), ValueError, "mode 'I;16'"),
        (("a.jpg", 0), TypeError, "got str"),
        ({}, ValueError, "at least one field"),
        ({"pkl": b""}, ValueError, "pickled"),
        ({"JPG": picture(0)}, ValueError, "lower case"),
        ({"__key__": "a"}, ValueError, "at least one field"),
        ({"__key__": 7, "cls": 0}, TypeError, "a key must be a string, got 7"),
        ({"__key__": "", "cls": 0}, ValueError, "must not be empty"),
        ({"image": object()}, TypeError, "images must be tensors.*got object"),
        ({"a/b": b""}, ValueError, "file extensions"),
        ({"json": {1j}}, TypeError, "JSON"),
        ({"txt": "\ud800"}, ValueError, "surrogates"),
        ({"npy": np.array([{}])}, ValueError, "pickle"),
        ((picture(0), 1 << 63), ValueError, "field 'cls': integers must have at most 64 bits, got 9223372036854775808"),
        ((Image.new("1", (10000, 10000)), 0), ValueError, "at most 89478485 pixels, got 10000 × 10000"),
        ((Image.new("RGB", (0, 4)), 0), ValueError, "at least one pixel"),
    ],
)
def test_an_item_that_cannot_be_written_is_named_by_its_index(tmp_path, item, error, reason):
    with pytest.raises(error, match=rf"^item 2: .*{reason}"):
        write_shards([GOOD, GOOD, item], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("items", "options", "error", "reason"),
    [
        ([], {}, ValueError, "at least one item"),
        (3, {}, TypeError, "dataset or an iterable"),
        ([GOOD], {"samples_per_shard": 0}, ValueError, "samples_per_shard must be at least 1, got 0"),
        ([GOOD], {"samples_per_shard": 2.5}, TypeError, "samples_per_shard must be an integer, got 2.5"),
        ([GOOD], {"max_shard_bytes": "1"}, TypeError, "max_shard_bytes must be an integer, got '1'"),
        ([GOOD], {"quality": 50.5}, TypeError, "quality must be an integer, got 50.5"),
        ([GOOD], {"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
        ([GOOD], {"image_format": "gif"}, ValueError, "image_format"),
        ([GOOD], {"quality": 0}, ValueError, "quality"),
        ([GOOD], {"max_shard_bytes": 0}, ValueError, "max_shard_bytes must be at least 1"),
        ([GOOD], {"workers": -1}, ValueError, "workers must be at least 0, got -1"),
        ([GOOD], {"on_error": "warn"}, ValueError, "on_error"),
        ([GOOD], {"fields": "jpg"}, TypeError, "sequence of names"),
        ([GOOD], {"fields": ("cls", "cls")}, ValueError, "every element once"),
        ([GOOD], {"fields": ("a b", "cls")}, ValueError, "file extensions"),
        ([GOOD], {"classes": "ab"}, TypeError, "classes must be a sequence of names"),
        (TensorDataset, {}, TypeError, "dataset or an iterable, got <class"),
        ([GOOD], {"classes": []}, ValueError, "item 0: label must be in 0..-1"),
        (iter([GOOD]), {"shuffle": True}, ValueError, "shuffle needs a map-style dataset"),
        ({"jpg": picture(0)}, {}, TypeError, "item 0: expected .*got str"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, items, options, error, reason):
    with pytest.raises(error, match=reason):
        write_shards(items, tmp_path, **options)
