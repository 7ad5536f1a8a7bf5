"""Reading what a synthesizer learns from, and warping it."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import Items, bars
from torch.utils.data import IterableDataset, TensorDataset

from torchaug_gen import ShardStream, write_shards
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import read_images, warp
from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae


def test_floating_images_and_tensor_labels_are_read_like_bytes(tmp_path):
    data = TensorDataset(torch.tensor([0, 128, 255]).view(3, 1, 1, 1).expand(3, 1, 8, 8) / 255, torch.tensor([0, 1, 0]))
    read = read_images(data)
    assert read.images[:, 0, 0, 0].tolist() == [0, 128, 255]
    assert read.labels.tolist() == [0, 1, 0]
    assert (read.num_classes, read.classes) == (2, None)


def write_tree(path):
    for name, grey in (("cat", 50), ("dog", 200)):
        (path / name).mkdir(parents=True)
        for index in range(3):
            size = (20 + index, 30) if index else (40, 16)
            Image.new("L", size, grey).save(path / name / f"{index}.png")


def test_a_folder_of_images(tmp_path):
    write_tree(tmp_path / "data")
    config = VaeConfig(steps=2, batch_size=4, latent_dim=4, width=4, image_size=(10, 12))
    synthesizer = train_vae(str(tmp_path / "data"), config, out=tmp_path / "run", progress=False)
    assert synthesizer.image_shape == (1, 10, 12)
    assert synthesizer.classes == ("cat", "dog")
    assert Synthesizer.load(tmp_path / "run").classes == ("cat", "dog")
    read = read_images(tmp_path / "data", image_size=(10, 12))
    assert read.images.flatten(1).float().mean(dim=1).tolist() == [50] * 3 + [200] * 3
    assert read.labels.tolist() == [0] * 3 + [1] * 3


def test_images_keep_their_proportions_and_their_centre():
    image = Image.new("L", (40, 20))
    image.paste(255, (10, 0, 30, 20))
    read = read_images(Items([image]), image_size=(10, 10))
    assert read.images.float().mean() > 240


def test_grey_among_colour_becomes_colour():
    read = read_images(Items([Image.new("L", (8, 8), 7), Image.new("RGBA", (8, 8), (1, 2, 3, 255))]))
    assert read.images[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


IMAGE = torch.zeros(1, 8, 8)


@pytest.mark.parametrize(
    ("items", "classes", "message"),
    [
        ([], None, "at least one image, got none"),
        (
            [(IMAGE, 0), (torch.zeros(1, 9, 8), 0)],
            None,
            r"\(1, 8, 8\) at index 0 and \(1, 9, 8\) at index 1; image_size=",
        ),
        ([(torch.zeros(8, 8), 0)], None, r"\(C, H, W\), got \(8, 8\) at index 0"),
        ([(IMAGE, 0), (IMAGE + 2, 0)], None, r"\[0, 1\], got 2 to 2 at index 1"),
        ([(IMAGE * float("nan"), 0)], None, r"\[0, 1\], got nan"),
        ([(IMAGE.int(), 0)], None, "uint8 or floating, got torch.int32"),
        ([(np.zeros((1, 8, 8)), 0)], None, "tensors or PIL images, got ndarray at index 0"),
        ([(Image.new("I;16", (8, 8)), 0)], None, "8 bits per channel, got mode I;16"),
        ([(IMAGE, 0), (IMAGE, -1)], None, "at least 0, got -1 at index 1"),
        ([(IMAGE, 0.5)], None, "integers, got 0.5 at index 0"),
        ([(IMAGE, torch.zeros(2))], None, "integers"),
        ([(IMAGE, 0), (IMAGE, None)], None, "a label or none, got none at index 1"),
        ([(IMAGE, 0), (IMAGE, 2)], None, "got none of class 1 of 3"),
        ([(IMAGE, 2)], ["a", "b"], r"0\.\.1 .*, got 2"),
        ([(IMAGE, 0, 1)], None, "pairs, got 3 values"),
    ],
)
def test_bad_data_are_named(items, classes, message):
    with pytest.raises(ValueError, match=message):
        read_images(Items(items, classes))


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got generator"):
        read_images(item for item in ())
    with pytest.raises(FileNotFoundError, match="data must be a folder of images, but there is no folder"):
        read_images(tmp_path / "nowhere")


class Stream(IterableDataset):
    def __init__(self, items, read=None):
        self.items, self.read = items, read if read is not None else []

    def __iter__(self):
        for item in self.items:
            self.read.append(item)
            yield item


def test_an_iterable_is_read_whole_in_an_order_of_its_own():
    items = list(bars(n=12))
    read, turned = read_images(Stream(items)), read_images(Stream(items[::-1]))
    assert torch.equal(read.images, turned.images) and torch.equal(read.labels, turned.labels)
    mapped = read_images(Items(items))
    assert sorted(map(str, zip(read.images.flatten(1).tolist(), read.labels.tolist(), strict=True))) == sorted(
        map(str, zip(mapped.images.flatten(1).tolist(), mapped.labels.tolist(), strict=True))
    )
    assert read_images(Stream([image for image, _ in items])).labels is None


def test_shards_are_read_like_the_items_they_were_written_from(tmp_path):
    items = list(bars((3, 16, 16), n=10))
    write_shards(items, tmp_path, samples_per_shard=4, image_format="png")
    stream = ShardStream(tmp_path, fields=("png", "cls"), seed=3)
    read, expected = read_images(stream), read_images(Stream(items))
    assert torch.equal(read.images, expected.images) and torch.equal(read.labels, expected.labels)


def test_images_that_memory_cannot_hold_are_refused_early():
    class Endless(Items):
        def __len__(self):
            return 10_000_000

        def __getitem__(self, index):
            assert index == 0, "the second was read"
            return torch.zeros(3, 64, 64, dtype=torch.uint8)

    with pytest.raises(ValueError, match=r"10,000,000 images of \(3, 64, 64\) take 114 GiB .* max_data_gib=8"):
        read_images(Endless([]))
    gib = 5 * 8 * 8 / (1 << 30)
    read = []
    with pytest.raises(ValueError, match="6 images so far"):
        read_images(Stream([torch.zeros(1, 8, 8)] * 100, read), max_gib=gib)
    assert len(read) == 6
    assert len(read_images(Items([torch.zeros(1, 8, 8)] * 5), max_gib=gib)) == 5
    # It is the resized images that count.
    assert len(read_images(Items([torch.zeros(1, 16, 16)] * 5), image_size=(8, 8), max_gib=gib)) == 5


def test_a_warp_is_a_function_of_seed_and_position():
    images = torch.rand(5, 2, 9, 14, generator=torch.Generator().manual_seed(0))
    warped = warp(images, strength=1, seed=3, positions=torch.arange(5))
    torch.testing.assert_close(warp(images[3:4], strength=1, seed=3, positions=torch.tensor([3])), warped[3:4])
    assert not torch.equal(warped, warp(images, strength=1, seed=4, positions=torch.arange(5)))
    assert torch.equal(warp(images, strength=0, seed=3, positions=torch.arange(5)), images)
    assert 0 <= warped.min() <= warped.max() <= 1


def test_a_warp_stays_small_and_leaves_no_black_border():
    vertical, horizontal = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 20), indexing="ij")
    images = torch.stack((vertical, horizontal, torch.ones(40, 20))).expand(200, 3, 40, 20)
    warped = warp(images, strength=1, seed=0, positions=torch.arange(200))
    torch.testing.assert_close(warped[:, 2], torch.ones(200, 40, 20))
    moved = (warped - images)[:, :2].abs().amax(dim=(1, 2, 3))
    assert 0.1 < moved.max() < 0.35
    assert moved.min() > 0.005
    inside = slice(5, -5)
    torch.testing.assert_close(warped.mean(dim=0)[:, inside, inside], images[0, :, inside, inside], atol=0.02, rtol=0)
