"""From a folder of photographs to batches: every one comes once an epoch, whatever is mixed in, also on resuming."""

import json
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, NoiseSynthesizer, SyntheticPool

SIZE = 24
SYNTHETIC = -1


class Numbered(Dataset):
    """Photographs with their number in the folder, each decoded and cropped at random by the data set itself."""

    def __init__(self, folder, count):
        crop = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(SIZE, antialias=True)])
        self.folder = ImageFolder(folder, transform=crop)
        self.classes = self.folder.classes
        # Some of each class: the folder lists one class after the other.
        self.numbers = torch.linspace(0, len(self.folder) - 1, count).long().tolist()

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        picture, label = self.folder[self.numbers[index]]
        return {"image": picture.as_subclass(torch.Tensor), "label": label, "number": self.numbers[index]}


def loader_of(data, *, workers=0, fraction=0.3, mixing="rebatch", prefetch=2):
    pool = SyntheticPool(NoiseSynthesizer((3, SIZE, SIZE), num_classes=len(data.classes)), capacity=200, reuse=4)
    stages = [v2.RandomHorizontalFlip(0.5), v2.ColorJitter(0.3, 0.3), v2.Normalize([0.5] * 3, [0.25] * 3)]
    fields = {"fill": {"number": SYNTHETIC}}
    inner = DataLoader(data, 16, shuffle=True, num_workers=workers)
    options = {"mixing": mixing, "prefetch": prefetch, "fields": fields, "tag": "synthetic", "seed": 2}
    return AugmentedLoader(inner, stages, synthesizer=pool, synthetic_fraction=fraction, **options)


def check(batches, data, mixing):
    counts, labels = Counter(), {}
    for batch in batches:
        assert batch["image"].dtype is torch.float32 and batch["image"].shape[1:] == (3, SIZE, SIZE)
        assert batch["image"].isfinite().all() and torch.equal(batch["number"] == SYNTHETIC, batch["synthetic"])
        for number, label in zip(batch["number"].tolist(), batch["label"].tolist(), strict=True):
            counts[number] += 1
            labels[number] = label
    counts.pop(SYNTHETIC), labels.pop(SYNTHETIC)
    assert set(counts.values()) == {1}
    assert sorted(counts) == sorted(data.numbers) if mixing != "replace" else set(counts) < set(data.numbers)
    assert all(label == data.folder.targets[number] for number, label in labels.items())


@pytest.mark.parametrize(
    ("count", "workers", "mixing", "fraction"),
    [(90, 0, "rebatch", 0.3), (60, 0, "replace", 0.3), (60, 0, "extend", {0: 0.5, 3: 0.25})]
    + [
        pytest.param(2000, workers, mixing, fraction, marks=pytest.mark.slow)
        for workers in (0, 2)
        for mixing in ("rebatch", "extend", "replace")
        for fraction in (0.3, {0: 0.5, 3: 0.25})
    ],
)
def test_every_photograph_comes_once_and_with_its_label(photographs, count, workers, mixing, fraction):
    data = Numbered(folder_of(photographs), count)
    loader = loader_of(data, workers=workers, fraction=fraction, mixing=mixing)
    whole = list(loader)
    check(whole, data, mixing)
    check(list(loader), data, mixing)
    # Broken off in the middle, saved, and gone on with: the same photographs, the same pixels.
    first, begun = [], loader_of(data, workers=workers, fraction=fraction, mixing=mixing, prefetch=4)
    for batch in begun:
        first.append(batch)
        if len(first) == len(whole) // 2:
            break
    state = json.dumps(begun.state_dict())
    other = loader_of(data, workers=workers, fraction=fraction, mixing=mixing, prefetch=0)
    other.load_state_dict(json.loads(state))
    for one, two in zip([*first, *other], whole, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in two)


def folder_of(photographs):
    """Return the folder that has one folder for each class."""
    train = photographs / "train"
    return train if train.is_dir() else photographs
