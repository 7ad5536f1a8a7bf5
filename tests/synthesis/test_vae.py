"""The network that ``train_vae`` trains."""

import math

import pytest
import torch

from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.vae.network import VaeNet


def make(image_shape=(1, 12, 12), num_classes=3, latent_dim=5, width=4, **options):
    with Seeded(1):
        return VaeNet(image_shape=image_shape, latent_dim=latent_dim, num_classes=num_classes, width=width, **options)


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 40, 24), (4, 9, 31), (3, 128, 8), (2, 65, 128)])
def test_any_shape_comes_back(shape, num_classes):
    net = make(shape, num_classes)
    labels = None if num_classes is None else torch.tensor([0, 2])
    mean, log_variance = net.encode(torch.rand(2, *shape, generator=torch.Generator()), labels)
    assert mean.shape == log_variance.shape == (2, 5)
    assert net.decode(mean, labels).shape == (2, *shape)
    images = net(randn(2, 5), labels)
    assert images.shape == (2, *shape)
    assert 0 <= images.min() <= images.max() <= 1


def test_every_pixel_can_be_reached_from_the_code():
    net = make((3, 29, 22))
    with torch.no_grad():
        images = net.decode(randn(16, 5), torch.zeros(16, dtype=torch.int64))
    assert (images.var(dim=0) > 0).all()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_training_begins_at_about_grey(shape):
    net = make(shape, width=16)
    with torch.no_grad():
        images = net.decode(randn(16, 5), torch.zeros(16, dtype=torch.int64))
    assert (images - 0.5).abs().max() < 0.3


def test_the_label_matters_to_both_halves():
    net, images = make(), torch.rand(1, 1, 12, 12, generator=torch.Generator())
    labels = torch.tensor([0]), torch.tensor([1])
    means = [net.encode(images, label)[0] for label in labels]
    assert not torch.equal(*means)
    assert not torch.equal(*(net.decode(means[0], label) for label in labels))


def test_initialisation_leaves_the_global_generator_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, second = make(), make()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_drawing_starts_from_the_fitted_prior():
    net = make()
    codes = randn(50, 5) * 3 + 2
    labels = torch.arange(50) % 3
    net.fit_prior(codes, torch.full((50, 5), -2.0), labels)
    eps, label = randn(4, 5, seed=2), torch.tensor([2, 2, 2, 2])
    z = net.prior_mean[2, 0] + eps @ net.prior_scale[2, 0].T
    torch.testing.assert_close(net(eps, label), net.decode(z, label).clamp(0, 1))


def test_a_network_can_be_built_again_from_its_arguments():
    net = make(components=3)
    again = VaeNet(image_shape=(1, 12, 12), latent_dim=5, num_classes=3, **net.arguments)
    again.load_state_dict(net.state_dict())
    assert again.prior_mean.shape == (3, 3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (1, 7, 12)}, r"at least 8, got \(1, 7, 12\)"),
        ({"image_shape": (0, 8, 8)}, "image_shape"),
        ({"image_shape": (8, 8)}, "image_shape"),
        ({"latent_dim": 0}, "latent_dim must be an integer of at least 1, got 0"),
        ({"width": -1}, "width"),
        ({"width": 2.0}, "width must be an integer"),
        ({"num_classes": 0}, "num_classes"),
        ({"components": 0}, "components must be an integer of at least 1"),
        ({"components": 2, "latent_dim": 1}, "components must be 1 where latent_dim is 1, got 2"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_codes_stay_finite_on_absurd_images():
    net = make()
    with torch.no_grad():
        mean, log_variance = net.encode(torch.full((1, 1, 12, 12), 1e6), torch.tensor([0]))
    assert torch.isfinite(mean).all()
    assert math.exp(log_variance.max()) < 1000
