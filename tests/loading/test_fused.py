"""Fused transforms behind the loader: targets in step, and numbers that hang on an item's position and nothing else."""

import kornia.augmentation as K
import pytest
import torch
from fakes import Drawn, Listed, mixed, same
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, CutMix, MixUp, fuse
from torchaug_gen.synthesis.synthesizer import Synthesizer

SIZE = (3, 18, 22)
CLASSES = 5


def picture(index, size=SIZE):
    return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(index))


class Pictures(Dataset):
    """Items with an id, so that one can be found again whatever batch it is in; with targets where asked for."""

    def __init__(self, length=23, targets=False):
        self.length, self.targets, self.num_classes = length, targets, CLASSES

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        item = {"image": picture(index), "label": index % CLASSES, "id": index}
        if self.targets:
            x, y = 2.0 + index % 7, 3.0 + index % 5
            item |= {
                "mask": (picture(index)[0] > 99).long(),
                "boxes": torch.tensor([[x, y, x + 9, y + 8]] * (index % 3)).reshape(-1, 4),
                "keypoints": torch.tensor([[x, y], [y, x]]),
            }
        return item


def collate(items):
    batch = {name: [item[name] for item in items] for name in items[0]}
    for name in ("image", "mask", "keypoints"):
        if name in batch:
            batch[name] = torch.stack(batch[name])
    return batch | {"label": torch.tensor(batch["label"]), "id": torch.tensor(batch["id"])}


class Noise(Synthesizer):
    """A synthesizer of any size and dtype."""

    def __init__(self, size=SIZE, dtype=torch.uint8):
        super().__init__(size, num_classes=CLASSES)
        self.dtype = dtype

    def draw(self, labels, *, seed, epoch, positions):
        images = torch.stack([picture(1000 + int(p) % 4096, self.image_shape) for p in positions])
        return images if self.dtype is torch.uint8 else images.to(self.dtype) / 255


def recipe():
    return [
        v2.RandomResizedCrop((14, 16), scale=(0.5, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomRotation(15.0),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        K.RandomGaussianNoise(std=0.1, p=0.5),
        v2.Normalize([0.5] * 3, [0.25] * 3),
        v2.RandomErasing(0.5),
    ]


def by_id(batches, role="image"):
    """Return what was delivered for each real item, by its id."""
    found = {}
    for batch in batches:
        for row, index in enumerate(batch["id"].tolist()):
            if index >= 0:
                assert index not in found
                found[index] = batch[role][row]
    return found


def delivered(data, *, batch_size=4, fraction=0.0, workers=0, **options):
    inner = DataLoader(data, batch_size, collate_fn=collate, num_workers=workers)
    options.setdefault("fields", {"fill": {"id": -1}})
    return list(mixed(inner, fraction, transform=recipe(), synthesizer=Noise(), **options))


@pytest.fixture(scope="module")
def expected():
    """Return what fuse itself makes of the items at their positions."""
    return fuse(recipe())(torch.stack([picture(i) for i in range(23)]), positions=range(23))


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"workers": 2, "prefetch": 2},
        {"workers": 2, "prefetch": 0},
        {"prefetch": 0},
        {"batch_size": 1},
        {"batch_size": 7},
        {"batch_size": 64},
        {"fraction": 0.3},
        {"fraction": 0.75, "mixing": "extend"},
        {"fraction": 0.5, "batch_size": 5, "workers": 2},
    ],
    ids=str,
)
def test_an_item_becomes_what_its_position_says(options, expected):
    images = by_id(delivered(Pictures(), **options))
    assert set(images) == set(range(23))
    assert all(torch.equal(images[index], expected[index]) for index in images)


def test_replaced_items_change_nothing_for_those_that_stay(expected):
    images = by_id(delivered(Pictures(), fraction=0.4, mixing="replace"))
    assert 10 < len(images) < 16
    assert all(torch.equal(image, expected[index]) for index, image in images.items())


def test_another_epoch_or_seed_is_another_augmentation(expected):
    loader = AugmentedLoader(DataLoader(Pictures(), 4, collate_fn=collate), recipe())
    first, second = by_id(loader), by_id(loader)
    assert torch.equal(torch.stack([first[i] for i in range(23)]), expected)
    assert not any(torch.equal(first[i], second[i]) for i in range(23))
    other = by_id(AugmentedLoader(DataLoader(Pictures(), 4, collate_fn=collate), recipe(), seed=1))
    assert not any(torch.equal(first[i], other[i]) for i in range(23))


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_ranks_deliver_what_one_process_would(fraction):
    data = Pictures(24)
    one = by_id(delivered(data, fraction=fraction))
    ranks = {}
    for rank in range(2):
        sampler = DistributedSampler(data, 2, rank, shuffle=False)
        inner = DataLoader(data, 3, sampler=sampler, collate_fn=collate)
        loader = mixed(inner, fraction, transform=recipe(), synthesizer=Noise(), fields={"fill": {"id": -1}})
        ranks |= by_id(loader)
    assert set(ranks) == set(one) and all(torch.equal(ranks[index], one[index]) for index in one)


def test_synthetic_rows_draw_numbers_of_their_own_and_the_same_in_any_batch():
    """Synthetic images equal to the real ones at the same positions come out different."""

    class Twin(Noise):
        def draw(self, labels, *, seed, epoch, positions):
            return torch.stack([picture(int(p)) for p in positions])

    found = []
    for batch_size in (4, 8):
        inner = DataLoader(Pictures(16), batch_size, collate_fn=collate)
        loader = mixed(
            inner, 0.5, transform=recipe(), synthesizer=Twin(), fields={"fill": {"id": -1}}, mixing="extend", tag="t"
        )
        batches = list(loader)
        images = torch.cat([batch["image"][batch["t"]] for batch in batches])
        real = by_id(batches)
        assert len(images) == 16 and not any(torch.equal(images[i], real[i]) for i in range(16))
        found.append(images)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [SIZE, (3, 9, 31), (3, 1, 1)])
def test_synthetic_images_of_another_size_and_dtype_land_in_one_output(size, dtype, expected):
    noise = Noise(size, dtype)
    inner = DataLoader(Pictures(), 4, collate_fn=collate)
    batches = list(
        mixed(inner, 0.5, transform=recipe(), synthesizer=noise, fields={"fill": {"id": -1}}, tag="synthetic")
    )
    transform = fuse(recipe())
    seen = 0
    for batch in batches:
        assert batch["image"].shape[1:] == (3, 14, 16) and batch["image"].dtype is torch.float32
        for row in batch["synthetic"].nonzero()[:, 0].tolist():
            image = noise.draw(None, seed=0, epoch=0, positions=torch.tensor([seen]))
            alone = transform(image, positions=[seen | 1 << 62])[0]
            assert torch.equal(batch["image"][row], alone)
            seen += 1
    real = by_id(batches)
    assert seen >= 23 and all(torch.equal(real[index], expected[index]) for index in range(23))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, None])
def test_the_dtype_and_memory_format_asked_for(dtype):
    inner = DataLoader(Pictures(), 4, collate_fn=collate)
    for ends in ([], [v2.GaussianBlur(3)]):
        transform = [*recipe()[:4], *ends]
        loader = mixed(
            inner,
            0.5,
            transform=transform,
            synthesizer=Noise((3, 9, 9)),
            fields={"fill": {"id": -1}},
            dtype=dtype,
            memory_format=torch.channels_last,
        )
        for batch in loader:
            assert batch["image"].dtype is (dtype or torch.uint8)
            assert batch["image"].is_contiguous(memory_format=torch.channels_last)


# Targets


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_masks_boxes_and_keypoints_go_with_their_images(batch_size, workers):
    data = Pictures(targets=True)
    inner = DataLoader(data, batch_size, collate_fn=collate, num_workers=workers)
    batches = list(AugmentedLoader(inner, recipe()))
    items = collate([data[index] for index in range(23)])
    images, masks, boxes, points = fuse(recipe())(
        items["image"], masks=items["mask"], boxes=items["boxes"], keypoints=items["keypoints"]
    )
    for role, whole in (("image", images), ("mask", masks), ("boxes", boxes), ("keypoints", points)):
        found = by_id(batches, role)
        assert all(torch.equal(found[index], whole[index]) for index in range(23)), role
    assert all(isinstance(batch["boxes"], list) and batch["mask"].dtype is torch.int64 for batch in batches)


def test_targets_of_synthetic_rows_are_filled_or_refused():
    inner = DataLoader(Pictures(targets=True), 4, collate_fn=collate)
    with pytest.raises(ValueError, match="the synthesizer returns none: synthetic rows cannot have them"):
        next(iter(mixed(inner, 0.5, transform=recipe(), synthesizer=Noise(), fields={"fill": {"id": -1}})))
    fill = {"id": -1, "mask": 0, "boxes": torch.zeros(0, 4), "keypoints": -1.0}
    for size in (SIZE, (3, 9, 9)):
        loader = mixed(inner, 0.5, transform=recipe(), synthesizer=Noise(size), fields={"fill": fill}, tag="t")
        batches = list(loader)
        alone = list(AugmentedLoader(inner, recipe()))
        for role in ("image", "mask", "boxes", "keypoints"):
            ours, theirs = by_id(batches, role), by_id(alone, role)
            assert all(torch.equal(ours[index], theirs[index]) for index in range(23)), role
        for batch in batches:
            assert batch["mask"].shape[1:] == (14, 16) and (batch["mask"][batch["t"]] == 0).all()
            assert all(len(batch["boxes"][row]) == 0 for row in batch["t"].nonzero()[:, 0].tolist())


def test_masks_that_do_not_fit_are_refused():
    batch = {
        "image": torch.stack([picture(i) for i in range(4)]),
        "mask": torch.zeros(4, 9, 11),
        "label": torch.arange(4),
    }
    with pytest.raises(ValueError, match=r"masks must have the \(h, w\) of their images, got \[9, 11\] for \[18, 22\]"):
        next(iter(AugmentedLoader(Listed([batch], batch_size=4), recipe())))


def test_lists_of_images_of_different_sizes_are_warped_into_one():
    def loose(items):
        return collate(items) | {"image": [picture(i["id"], (3, 10 + i["id"], 30 - i["id"])) for i in items]}

    class Loose(Pictures):
        def __getitem__(self, index):
            return super().__getitem__(index)

    inner = DataLoader(Loose(12), 4, collate_fn=loose)
    images = by_id(AugmentedLoader(inner, recipe()))
    expected = fuse(recipe())([picture(i, (3, 10 + i, 30 - i)) for i in range(12)])
    assert all(torch.equal(images[index], expected[index]) for index in range(12))
    options = {"synthesizer": Noise((3, 5, 5)), "fields": {"fill": {"id": -1}}}
    both = by_id(mixed(inner, 0.4, transform=recipe(), **options))
    assert all(torch.equal(both[index], expected[index]) for index in range(12))


# Mixing


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("mix", [MixUp, CutMix])
@pytest.mark.parametrize("fraction", [0.0, 0.4])
@pytest.mark.parametrize("size", [SIZE, (3, 9, 11)])
def test_mixes_behind_fused_stages_make_soft_labels_in_every_batch(mix, fraction, size):
    def run(prefetch, workers):
        inner = DataLoader(Pictures(22), 4, collate_fn=collate, num_workers=workers)
        transform = [*recipe(), mix(alpha=1.0, num_classes=CLASSES)]
        options = {"synthesizer": Noise(size), "fields": {"fill": {"id": -1}}, "prefetch": prefetch}
        return list(mixed(inner, fraction, transform=transform, **options))

    batches = run(0, 0)
    assert same(batches, run(2, 2))
    for batch in batches:
        assert batch["image"].shape[1:] == (3, 14, 16) and batch["image"].isfinite().all()
        assert batch["label"].dtype is torch.float32 and batch["label"].shape == (len(batch["image"]), CLASSES)
        torch.testing.assert_close(batch["label"].sum(1), torch.ones(len(batch["label"])))
    assert any((batch["label"].amax(1) < 0.999).any() for batch in batches)


def test_a_fused_transform_is_a_transform_of_a_loader():
    inner = DataLoader(Pictures(), 4, collate_fn=collate)
    assert same(list(AugmentedLoader(inner, fuse(recipe()))), list(AugmentedLoader(inner, recipe())))


def test_the_options_of_targets_reach_the_loader():
    data = Pictures(targets=True)
    inner = DataLoader(data, 8, collate_fn=collate)
    strict = fuse([v2.RandomCrop((9, 9))], min_visibility=0.9, mask_fill=7, box_format="xyxy")
    items = collate([data[index] for index in range(23)])
    _, masks, boxes = strict(items["image"], masks=items["mask"], boxes=items["boxes"])
    batches = list(AugmentedLoader(inner, strict))
    found = by_id(batches, "boxes")
    assert all(torch.equal(found[index], boxes[index]) for index in range(23))
    assert list(map(len, boxes)) == list(map(len, items["boxes"])), "labels elsewhere would not fit any more"
    assert any((rows == 0).all(1).any() for rows in boxes), "none is gone"
    assert torch.equal(torch.cat([batch["mask"] for batch in batches]), masks)


def test_other_options_of_a_fused_transform_reach_the_loader():
    inner = DataLoader(Pictures(8), 8, collate_fn=collate)
    turn = lambda: [K.RandomRotation((20.0, 20.0), p=1.0)]  # noqa: E731
    for options in ({"interpolation": "nearest"}, {"backend": "reference"}, {"antialias": True}):
        strict = fuse(turn(), **options)
        [batch] = AugmentedLoader(inner, strict)
        images = strict(torch.stack([picture(i) for i in range(8)]))
        assert torch.equal(batch["image"], images) and torch.equal(fuse(strict)(inner.dataset[0]["image"]), images[0])
    for options in ({"interpolation": "nearest"}, {"backend": "reference"}, {"min_visibility": 0.5}):
        with pytest.raises(
            ValueError, match=f"inside of another would lose its options {next(iter(options))}: fuse all"
        ):
            AugmentedLoader(inner, [fuse(turn(), **options), v2.ColorJitter(0.1)])


def test_coded_synthesizers_pass_through_exact_geometry():
    inner = DataLoader([(torch.zeros(3, 4, 4, dtype=torch.uint8), 1)] * 8, 4)
    for images, _ in mixed(inner, 0.5, synthesizer=Drawn(), transform=v2.RandomHorizontalFlip(1.0), dtype=None):
        assert images.dtype is torch.uint8
