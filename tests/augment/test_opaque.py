import kornia.augmentation as K
import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchaug_gen.augment.opaque import OpaqueStage

X = torch.rand(4, 3, 8, 8)
RAGGED = [torch.rand(3, 8, 8), torch.rand(3, 6, 9)]


class Noisy(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images, 0.5) + torch.rand_like(images)


class OwnFlip(K.RandomHorizontalFlip):
    pass


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("images", [X, RAGGED], ids=["tensor", "ragged"])
def test_the_seed_decides(images):
    stage = OpaqueStage(Noisy())
    first, again, other = (list(stage(images, seed=seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize(
    ("transform", "needs_float"),
    [
        (K.RandomHorizontalFlip(), True),
        (K.AugmentationSequential(K.RandomHorizontalFlip(), data_keys=["input"]), True),
        (K.ImageSequential(K.RandomHorizontalFlip()), True),
        (nn.Sequential(nn.Identity(), nn.Sequential(K.RandomHorizontalFlip())), True),
        (OwnFlip(), True),
        (nn.Sequential(nn.Identity()), False),
        (v2.RandomHorizontalFlip(), False),
        (lambda images: images, False),
    ],
)
def test_kornia_is_known_to_refuse_integers_wherever_it_hides(transform, needs_float):
    assert OpaqueStage(transform).needs_float is needs_float


def test_results_are_plain_and_without_gradient():
    stage = OpaqueStage(lambda images: tv_tensors.Image(images * nn.Parameter(torch.ones(1))))
    result = stage(X.clone().requires_grad_(), seed=0)
    assert type(result) is torch.Tensor and not result.requires_grad


def test_a_list_of_one_result_and_an_empty_batch_pass():
    assert torch.equal(OpaqueStage(lambda images: [images])(X, seed=0), X)
    assert OpaqueStage(lambda images: 1 / 0)(X[:0], seed=0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (lambda images: None, "NoneType"),
        (lambda images: images[:-1], r"\(3, 3, 8, 8\) torch.float32"),
        (lambda images: images[0], r"\(3, 8, 8\)"),
        (lambda images: images.long(), "torch.int64"),
        (lambda images: (images, images), "tuple"),
        (v2.ToPILImage(), None),
    ],
)
def test_garbage_is_named(transform, got):
    if got is None:
        with pytest.raises(ValueError):
            OpaqueStage(transform)(X, seed=0)
    else:
        with pytest.raises(TypeError, match=rf"must return images \(4, C, H, W\), uint8 or floating, got .*{got}"):
            OpaqueStage(transform)(X, seed=0)


@pytest.mark.parametrize("transform", [3, "flip", [nn.Identity()]])
def test_what_cannot_be_called_is_refused(transform):
    with pytest.raises(TypeError, match="transform must be callable or a list of callables, got"):
        OpaqueStage(transform)


@pytest.mark.parametrize(
    "make",
    [
        lambda: K.RandomMixUpV2(p=1.0),
        lambda: nn.Sequential(K.RandomHorizontalFlip(), K.RandomCutMixV2(p=1.0)),
        lambda: v2.MixUp(num_classes=10),
        lambda: v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([v2.CutMix(num_classes=10)])]),
    ],
)
def test_transforms_that_blend_images_but_not_labels_are_refused(make):
    with pytest.raises(ValueError, match=r"blends images, but would leave their labels as they are: use torchaug_gen"):
        OpaqueStage(make())
