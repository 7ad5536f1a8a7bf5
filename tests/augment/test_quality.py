"""What one resampling saves: a chain of warps on photographs against a supersampled oracle, beside Kornia's chain."""

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from torchaug_gen import fuse

SIZE = 128
SUPER = 8


@pytest.fixture(scope="module")
def photos(photographs):
    """Return eight photographs (8, 3, SIZE, SIZE) in [0, 1]."""
    files = sorted(photographs.glob("**/*.jpg"))[::25][:8]
    assert len(files) == 8
    images = [decode_image(str(file), ImageReadMode.RGB) for file in files]
    small = [v2.functional.resize(v2.functional.center_crop(i, [min(i.shape[1:])] * 2), [SIZE, SIZE]) for i in images]
    return torch.stack(small).double() / 255


def modules(name):
    turns = [K.RandomRotation(20.0, p=1.0) for _ in range(3)]
    return {
        "three rotations and a flip": [*turns[:2], K.RandomHorizontalFlip(p=1.0), turns[2]],
        "rotation, scale, shear, rotation": [
            turns[0],
            K.RandomAffine(0.0, scale=(0.85, 1.15), p=1.0),
            K.RandomShear((-8.0, 8.0), p=1.0),
            turns[1],
        ],
    }[name]


def sequential(chain, images, parameters):
    """Return what Kornia makes of images, one augmentation after the other, with drawn parameters."""
    for module, (_, columns) in zip(chain, parameters, strict=True):
        n = len(images)
        own = module.forward_parameters(torch.Size(images.shape))
        if isinstance(module, K.RandomRotation):
            own["degrees"] = columns["angle"]
        elif isinstance(module, K.RandomAffine):
            own["scale"] = torch.stack((columns["scale_x"], columns["scale_y"]), 1)
            own["angle"], own["translations"] = torch.zeros(n), torch.zeros(n, 2)
        elif isinstance(module, K.RandomShear):
            own["shear_x"], own["shear_y"] = columns["shear_x"], columns["shear_y"]
        with torch.no_grad():
            images = module(images.double(), params=own)
    return images


def oracle(images, matrix):
    """Return the warp by one matrix: a bicubic picture, sampled SUPER² times in each pixel, and averaged."""
    height, width = images.shape[2:]
    step = (torch.arange(SUPER * SIZE, dtype=torch.float64) + 0.5) / SUPER - 0.5
    y, x = torch.meshgrid(step, step, indexing="ij")
    places = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3)
    results = []
    for image, forward in zip(images, matrix, strict=True):
        source = places @ torch.linalg.inv(forward).T
        grid = (2 * source[:, :2] / source[:, 2:] + 1) / torch.tensor([width, height]) - 1
        fine = F.grid_sample(
            image[None], grid.reshape(1, SUPER * SIZE, SUPER * SIZE, 2), mode="bicubic", align_corners=False
        )
        results.append(F.avg_pool2d(fine, SUPER)[0])
    return torch.stack(results)


def interior(margin=0.72):
    """Return where all of a chain's steps show the picture: a disc that no turn takes out of the frame."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return torch.from_numpy(np.hypot(x, y) < margin * SIZE / 2)


def psnr(images, exact, mask):
    return float(-10 * torch.log10((images.double() - exact)[..., mask].square().mean()))


def measured(name, photos, backend):
    chain = modules(name)
    transform = fuse(chain, backend=backend)
    parameters = transform.parameters_for(photos.float(), seed=3)
    fused = transform(photos.float(), seed=3)
    exact, mask = oracle(photos, transform.matrix), interior()
    return psnr(sequential(chain, photos, parameters), exact, mask), psnr(fused, exact, mask)


@pytest.mark.parametrize("backend", ["cpu"])
@pytest.mark.parametrize("name", ["three rotations and a flip", "rotation, scale, shear, rotation"])
def test_one_warp_is_sharper_than_four(name, photos, backend):
    theirs, ours = measured(name, photos, backend)
    assert ours > theirs + 6, f"PSNR {theirs:.1f} dB step by step, {ours:.1f} dB fused"
