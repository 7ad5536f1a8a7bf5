"""Transforms of every library run as they are, and reproducibly."""

import kornia.augmentation as K
import pytest
import torch
from fakes import Drawn, mixed, same
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, MixUp

SHAPE = (3, 16, 16)


def inner():
    images = torch.randint(256, (12, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return DataLoader([(image, row % 5) for row, image in enumerate(images)], 5, shuffle=True)


TRANSFORMS = {
    "AugmentationSequential": (
        lambda: K.AugmentationSequential(K.RandomAffine(30.0), K.RandomGaussianNoise(p=1.0), data_keys=["input"]),
        torch.float32,
    ),
    "ImageSequential": (lambda: K.ImageSequential(K.RandomPerspective(p=1.0), K.ColorJitter(0.2)), torch.bfloat16),
    "Sequential of uint8": (lambda: nn.Sequential(K.RandomErasing(p=1.0), K.RandomRotation(30.0)), torch.uint8),
    "Sequential of what comes": (lambda: nn.Sequential(K.RandomErasing(p=1.0)), None),
    "Compose": (lambda: v2.Compose([v2.RandAugment(), v2.RandomResizedCrop(12)]), None),
    "JPEG": (lambda: v2.JPEG((5, 50)), None),
    "AutoAugment": (v2.AutoAugment, torch.uint8),
    "lambda": (lambda: lambda x: x + torch.rand_like(x), torch.float32),
    "list": (
        lambda: [K.RandomCrop((12, 12)), v2.RandomErasing(1.0), lambda x: x * torch.rand(1), MixUp(alpha=1.0)],
        torch.float64,
    ),
}


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("fraction", [0, 0.4])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_run_and_repeat(name, fraction):
    make, dtype = TRANSFORMS[name]
    options = {"synthesizer": Drawn(SHAPE), "dtype": dtype}
    loader = mixed(inner(), fraction, transform=make(), **options)
    first, second = list(loader), list(loader)
    assert same(first, list(mixed(inner(), fraction, transform=make(), prefetch=0, **options)))
    assert not same(first, second)
    for images, _ in first:
        assert images.ndim == 4 and (dtype is None or images.dtype is dtype)


def test_the_first_batch_says_what_a_transform_returned():
    with pytest.raises(TypeError, match=r"transform <lambda> must return images \(5, C, H, W\).* got NoneType"):
        next(iter(AugmentedLoader(inner(), lambda images: None)))


def test_real_and_synthetic_rows_are_resized_alike():
    loader = mixed(inner(), 0.4, synthesizer=Drawn((3, 9, 11)), transform=v2.RandomResizedCrop(10))
    assert all(images.shape[1:] == (3, 10, 10) for images, _ in loader)


def test_the_device_is_where_all_tensors_go():
    loader = AugmentedLoader(inner(), device="cpu", tag="t")
    assert all(part.device.type == "cpu" for part in next(iter(loader)))
