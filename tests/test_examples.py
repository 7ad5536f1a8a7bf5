"""The examples that users copy run, and draw what they say."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Return a function that imports an example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classification", ["--epochs", "2"]),
        ("detection", []),
        ("segmentation", ["--epochs", "1"]),
        ("medical_16bit", []),
        ("faces", ["--epochs", "2"]),
        ("driving", ["--epochs", "1"]),
    ],
)
def test_an_example_draws_a_picture(name, options, example, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *options, "--out", str(tmp_path / "picture.png")])
    example(name).main()
    picture = read_image(str(tmp_path / "picture.png"))
    assert picture.shape[0] == 3 and min(picture.shape[1:]) > 200
    # Pictures, and not one of few colours.
    assert len(picture.flatten(1).T.unique(dim=0)) > 200


def batches(module, data, transform, collate, **options):
    from torch.utils.data import DataLoader

    from torchaug_gen import AugmentedLoader

    return AugmentedLoader(DataLoader(data, len(data), collate_fn=collate), transform, **options)


def test_coins_lie_in_their_boxes(example):
    module = example("detection")
    data = module.Coins()
    assert len(data.boxes) == 24
    for image, target in (data[0], data[5]):
        for x0, y0, x1, y1 in target["boxes"].int().tolist():
            inside = image[0, y0:y1, x0:x1].float().mean()
            around = image[0, max(y0 - 6, 0) : y1 + 6, max(x0 - 6, 0) : x1 + 6].float()
            assert inside > around.mean()


def test_landmarks_stay_on_what_they_mark(example):
    from torchvision.transforms import v2

    module = example("faces")
    data = module.Faces()
    fields = {"images": "image", "keypoints": "landmarks"}
    steps = [v2.RandomResizedCrop((256, 256), scale=(0.9, 1), antialias=False), v2.RandomRotation(20)]
    batch = next(iter(batches(module, data, steps, module.collate, fields=fields)))
    for face, image, landmarks in zip(data, batch["image"], batch["landmarks"], strict=True):
        for before, after in zip(face["landmarks"].long(), landmarks.round().long(), strict=True):
            old = face["image"][:, before[1] - 2 : before[1] + 3, before[0] - 2 : before[0] + 3].float().mean((1, 2))
            new = image[:, after[1] - 2 : after[1] + 3, after[0] - 2 : after[0] + 3].mean((1, 2)) * 255
            assert (old - new).abs().max() < 25


def test_a_flip_swaps_the_names_of_the_eyes(example):
    from torchvision.transforms import v2

    module = example("faces")
    fields = {"images": "image", "keypoints": "landmarks"}
    flipped = next(iter(batches(module, module.Faces(), v2.RandomHorizontalFlip(p=1.0), module.collate, fields=fields)))
    for landmarks in flipped["landmarks"]:
        first, second, _ = module.named(landmarks)
        assert first[0] < second[0] and landmarks[0, 0] > landmarks[1, 0]


def test_scans_keep_their_levels(example, tmp_path):
    module = example("medical_16bit")
    module.write_scans(tmp_path)
    scan = module.Scans(tmp_path, low=2000, high=40000)[0]
    assert scan.dtype == torch.float32 and len(scan.unique()) > 4096 and 0 <= scan.min() < scan.max() <= 1


def test_masks_keep_their_classes(example):
    import kornia.augmentation as K
    from torch.utils.data import DataLoader, TensorDataset

    from torchaug_gen import AugmentedLoader, fuse

    module = example("segmentation")
    steps = fuse(K.RandomAffine(180.0, p=1.0), mask_fill=module.IGNORED)
    loader = AugmentedLoader(DataLoader(TensorDataset(*module.tiles()), 16), steps, fields={"images": 0, "masks": 1})
    _, masks = next(iter(loader))
    assert masks.unique().tolist() == [0, 1, module.IGNORED]


def test_the_right_camera_sees_the_motorcycle_further_left(example):
    module = example("driving")
    data = module.Cameras()
    (_, left), (_, right) = data[0], data[1]
    shift = left["boxes"][:, 0] - right["boxes"][:, 0]
    assert ((shift > 10) & (shift < 80)).all() and torch.equal(left["boxes"][:, 1::2], right["boxes"][:, 1::2])
    for target in (left, right):
        x0, y0, x1, y1 = target["boxes"][0].int().tolist()
        near = target["masks"][0].bool()
        assert near[y0:y1, x0:x1].float().mean() > 0.5 and near[:y0].float().mean() < 0.05


def test_coins_that_a_window_cuts_keep_their_boxes(example):
    module = example("detection")
    data = module.Coins()
    for image, target in map(data.__getitem__, range(len(data))):
        widths = target["boxes"][:, 2] - target["boxes"][:, 0]
        assert (widths >= module.VISIBLE * (data.boxes[:, 2] - data.boxes[:, 0]).min()).all()
        assert target["boxes"].min() >= 0 and target["boxes"].max() <= image.shape[1]
    rights = torch.stack([data[index][1]["boxes"][:, 2].max() for index in range(len(data) - 1)])
    assert (rights == image.shape[1]).all(), "all windows but the last cut coins at the right"
