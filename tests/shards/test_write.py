import hashlib
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from shard_files import picture, shown
from torch.utils.data import Dataset, TensorDataset

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
    assert paths == [tmp_path / f"{n:06d}.tar" for n in range(3)] == sorted(tmp_path.iterdir())
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
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000000.tar", "000001.tar"]
    assert [label for _, label in read(tmp_path, "png", "cls")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"out_dir must hold no shards, but .* holds 000000\.tar"):
        write_shards(Endless(), tmp_path)


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
        ({"__key__": "a"}, ValueError, "file extensions"),
        ({"a/b": b""}, ValueError, "file extensions"),
        ({"json": {1j}}, TypeError, "JSON"),
        ({"txt": "\ud800"}, ValueError, "surrogates"),
        ({"npy": np.array([{}])}, ValueError, "pickle"),
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
        ([GOOD], {"image_format": "gif"}, ValueError, "image_format"),
        ([GOOD], {"quality": 0}, ValueError, "quality"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, items, options, error, reason):
    with pytest.raises(error, match=reason):
        write_shards(items, tmp_path, **options)
