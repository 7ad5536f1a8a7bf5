import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, batch
from torchaug_gen.batch.ragged import RaggedImages
from torchaug_gen.folder import JpegFolder

SIZES = [(20, 30), (31, 17), (24, 24), (40, 21), (18, 50)]


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name / "more").mkdir(parents=True)
        for number, (height, width) in enumerate(SIZES):
            place = tmp_path / name / ("more" if number % 2 else "") / f"{number}.jpg"
            picture(height, width, 10 * label + number).save(place, quality=95)
    return tmp_path


def test_it_finds_what_image_folder_finds(root):
    (root / "cats" / "notes.txt").write_text("no image")
    ours, theirs = JpegFolder(root), ImageFolder(root)
    assert (ours.samples, ours.imgs, ours.targets) == (theirs.samples, theirs.imgs, theirs.targets)
    assert (ours.classes, ours.class_to_idx, len(ours)) == (theirs.classes, theirs.class_to_idx, len(theirs))
    for (image, label), (expected, expected_label) in zip(ours, theirs, strict=True):
        assert label == expected_label
        assert torch.equal(image, torch.from_numpy(np.array(expected)).permute(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")]
)
def test_every_mode_has_the_channels_asked_for(tmp_path, mode, form, channels):
    (tmp_path / "a").mkdir()
    image = picture(20, 30).convert(mode)
    # The content decides, not the name.
    image.save(tmp_path / "a" / "x.jpg", format=form)
    (got, _), expected = JpegFolder(tmp_path, channels=channels)[0], Image.open(tmp_path / "a" / "x.jpg").convert("RGB")
    assert got.shape == (channels, 20, 30) and got.dtype is torch.uint8
    reference = np.atleast_3d(np.array(expected if channels == 3 else expected.convert("L"))).astype(int)
    assert np.abs(got.permute(1, 2, 0).numpy() - reference).max() <= 1


def test_large_images_come_reduced(tmp_path):
    (tmp_path / "a").mkdir()
    picture(100, 130).save(tmp_path / "a" / "x.jpg")
    picture(100, 130).save(tmp_path / "a" / "y.png")
    shapes = {side: JpegFolder(tmp_path, min_side=side)[0][0].shape for side in (10, 25, 50, 51, 200)}
    assert shapes == {
        10: (3, 13, 17), 25: (3, 25, 33), 50: (3, 50, 65), 51: (3, 100, 130), 200: (3, 100, 130),
    }  # fmt: skip
    assert JpegFolder(tmp_path, min_side=10)[1][0].shape == (3, 100, 130)


def test_what_cannot_be_decoded_is_named(root):
    place = root / "cats" / "0.jpg"
    whole = place.read_bytes()
    sixteen = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(sixteen, format="PNG")
    for content in (whole[:200], b"", b"GIF", sixteen.getvalue()):
        place.write_bytes(content)
        for folder in (JpegFolder(root), JpegFolder(root, min_side=4)):
            with pytest.raises(ValueError, match=r"cats/0\.jpg cannot be decoded: "):
                folder[0]
    with pytest.raises(ValueError, match="16-bit PNG"):
        JpegFolder(root)[0]


def test_bad_folders_and_arguments(root, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="a folder for each class"):
        JpegFolder(empty)
    (empty / "birds").mkdir()
    with pytest.raises(FileNotFoundError, match="birds must hold images"):
        JpegFolder(empty)
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a folder .* no such folder"):
        JpegFolder(empty / "nowhere")
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        JpegFolder(root, channels=4)
    with pytest.raises(ValueError, match="min_side must be"):
        JpegFolder(root, min_side=0)
    with pytest.raises(IndexError):
        JpegFolder(root)[10]
    assert JpegFolder(root)[-1][1] == 1


def test_a_pickled_folder_is_the_same(root):
    folder = JpegFolder(root, min_side=12)
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.samples == folder.samples and torch.equal(copy[3][0], folder[3][0])


def test_ragged_images_travel_as_one_tensor():
    colour = torch.arange(60, dtype=torch.uint8).view(3, 4, 5)
    grey = torch.arange(6, dtype=torch.uint8).view(1, 2, 3).expand(3, -1, -1)
    laid_out = torch.arange(24, dtype=torch.uint8).view(2, 4, 3).permute(2, 0, 1)
    images = RaggedImages([colour, grey, laid_out])
    copy = pickle.loads(pickle.dumps(images))
    assert type(copy) is RaggedImages and all(map(torch.equal, images, copy))
    assert len({image.untyped_storage().data_ptr() for image in copy}) == 1
    assert copy[1].untyped_storage().nbytes() == 60 + 6 + 24
    mixed = RaggedImages([colour, colour.float()])
    assert all(map(torch.equal, mixed, pickle.loads(pickle.dumps(mixed))))
    assert pickle.loads(pickle.dumps(RaggedImages())) == []


def test_ragged_images_are_changed_like_a_list():
    images = RaggedImages([torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)])
    changed = batch.replace((images, 1), {(0, 1): torch.ones(1, 3, 3)})
    assert type(changed[0]) is RaggedImages
    assert float(changed[0][1].sum()) == 9 and float(images[1].sum()) == 0
    assert type(batch.move((images, 1), torch.device("cpu"))[0]) is RaggedImages


def batches(root, workers=0, prefetch=2, **options):
    data = JpegFolder(root, channels=3)
    inner = DataLoader(data, 4, shuffle=True, num_workers=workers, collate_fn=JpegFolder.collate, **options)
    stages = [v2.RandomResizedCrop(12, antialias=True), v2.RandomHorizontalFlip()]
    return list(AugmentedLoader(inner, stages, prefetch=prefetch, seed=3))


def test_batches_do_not_depend_on_workers_or_prefetch(root):
    expected = batches(root, prefetch=0)
    assert [images.shape for images, _ in expected] == [(4, 3, 12, 12), (4, 3, 12, 12), (2, 3, 12, 12)]
    for options in ({"workers": 2}, {"workers": 1, "multiprocessing_context": "spawn"}, {"prefetch": 2}):
        got = batches(root, **options)
        assert all(torch.equal(a, b) for pair in zip(got, expected, strict=True) for a, b in zip(*pair, strict=True))


def test_a_transform_sees_each_image(root):
    folder = JpegFolder(root, transform=lambda image: image[:, :8, :8])
    assert not folder.draws_nothing and JpegFolder(root).draws_nothing
    images, labels = JpegFolder.collate(folder.__getitems__([0, 9]))
    assert [image.shape for image in images] == [(3, 8, 8)] * 2 and labels.tolist() == [0, 1]
