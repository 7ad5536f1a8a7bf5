"""DiffAugment: ranges, independence of rows, and gradients."""

import pytest
import torch

from torchaug_gen.synthesis.gan.diffaugment import OPERATIONS, diffaugment


def augment(images, *operations, seed=0, stream="test", positions=None):
    positions = torch.arange(len(images)) if positions is None else positions
    return diffaugment(images, operations=operations, seed=seed, stream=stream, positions=positions)


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_no_operations_return_the_images_themselves():
    images = randn(3, 1, 8, 8)
    assert augment(images) is images


def test_no_images():
    assert augment(torch.empty(0, 3, 8, 8), *OPERATIONS).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (4, 3, 9, 15), (2, 5, 8, 33)])
def test_shapes_stay(shape):
    augmented = augment(randn(*shape), *OPERATIONS)
    assert augmented.shape == shape
    assert augmented.isfinite().all()


def test_a_row_depends_on_its_position_alone():
    images = randn(6, 3, 16, 16)
    rows = torch.tensor([4, 1])
    whole = augment(images, *OPERATIONS)
    assert torch.equal(augment(images[rows], *OPERATIONS, positions=rows), whole[rows])
    assert not torch.equal(augment(images, *OPERATIONS, seed=1), whole)
    assert not torch.equal(augment(images, *OPERATIONS, stream="other"), whole)


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    augment(randn(4, 3, 16, 16), *OPERATIONS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_is_affine_and_within_its_ranges(channels):
    images = randn(300, channels, 6, 6).clamp(-1, 1)
    augmented = augment(images, "colour")
    # Grey images know no saturation: brightness moves the mean, contrast the distance from it.
    grey = images[:, :1].expand(-1, channels, -1, -1)
    out = augment(grey, "colour")
    moved = out.mean(dim=(1, 2, 3)) - grey.mean(dim=(1, 2, 3))
    scaled = out.std(dim=(1, 2, 3)) / grey.std(dim=(1, 2, 3))
    assert -0.5 <= moved.min() < -0.45
    assert 0.45 < moved.max() <= 0.5
    assert 0.499 < scaled.min() < 0.55
    assert 1.45 < scaled.max() < 1.501
    if channels == 3:
        chroma = [(x - x.mean(dim=1, keepdim=True)).flatten(1).norm(dim=1) for x in (images, augmented)]
        saturation = chroma[1] / chroma[0] / scaled
        assert saturation.min() < 0.05
        assert 1.9 < saturation.max() < 2.001


def test_translation_shifts_whole_pixels_and_fills_with_grey():
    image = torch.zeros(400, 1, 16, 24)
    image[:, :, 8, 12] = 1
    augmented = augment(image, "translation")
    rows, columns = augmented.flatten(1).argmax(dim=1) // 24, augmented.flatten(1).argmax(dim=1) % 24
    assert augmented.flatten(1).amax(dim=1).eq(1).all()
    assert set(rows.tolist()) == set(range(6, 11))
    assert set(columns.tolist()) == set(range(9, 16))
    filled = augment(torch.ones(50, 1, 16, 24), "translation")
    assert set(filled.unique().tolist()) == {0.0, 1.0}


def test_cutout_greys_out_up_to_half_of_each_side():
    augmented = augment(torch.ones(400, 2, 16, 24), "cutout")
    assert set(augmented.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(augmented[:, 0], augmented[:, 1])
    gone = (augmented[:, 0] == 0).flatten(1).sum(dim=1)
    assert gone.max() == 8 * 12
    assert gone.min() >= 4 * 6


def test_gradients_reach_images_far_out_of_range():
    images = (100 * randn(8, 3, 12, 12)).requires_grad_()
    (slope,) = torch.autograd.grad(augment(images, "colour").square().sum(), images)
    assert (slope.abs().flatten(1).amax(dim=1) > 0).all()
    assert (slope != 0).float().mean() > 0.9


def test_the_gradient_is_that_of_finite_differences():
    images = randn(2, 3, 5, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, *OPERATIONS), images)


@pytest.mark.parametrize("operations", [("color",), ("cutout", "flip")])
def test_unknown_operations_are_named(operations):
    with pytest.raises(ValueError, match=r"operations must be some of .*'colour'.*got"):
        augment(randn(1, 1, 8, 8), *operations)
    with pytest.raises(ValueError, match="got 'colour'"):
        diffaugment(randn(1, 1, 8, 8), operations="colour", seed=0, stream="", positions=torch.arange(1))
