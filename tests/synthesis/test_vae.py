"""The network that ``train_vae`` trains, and its bound."""

import math

import pytest
import torch

from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.vae import VaeNet, divergence, negative_log_likelihood


def make(image_shape=(1, 12, 12), num_classes=3, latent_dim=5, width=4):
    with Seeded(1):
        return VaeNet(image_shape=image_shape, latent_dim=latent_dim, num_classes=num_classes, width=width)


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


def test_the_prior_is_fitted_to_mean_and_covariance():
    net = make(num_classes=2, latent_dim=3)
    labels = torch.arange(40_000) % 2
    mixing = torch.tensor([[[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.1]], [[0.3, 0, 0], [0, 3, 0], [0.2, -1, 1]]])
    centres = torch.tensor([[1.0, 2, 3], [-1, 0, 5]])
    mean = centres[labels] + (mixing[labels] @ randn(40_000, 3, 1)).squeeze(-1)
    variance = torch.tensor([0.5, 0.1, 0.2])
    net.fit_prior(mean, variance.log().expand(40_000, 3), labels)
    expected = mixing @ mixing.mT + variance.diag()
    torch.testing.assert_close(net.prior_mean, centres, atol=0.06, rtol=0)
    torch.testing.assert_close(net.prior_scale @ net.prior_scale.mT, expected, atol=0.15, rtol=0.03)


def test_drawing_starts_from_the_fitted_prior():
    net = make()
    codes = randn(50, 5) * 3 + 2
    labels = torch.arange(50) % 3
    net.fit_prior(codes, torch.full((50, 5), -2.0), labels)
    eps, label = randn(4, 5, seed=2), torch.tensor([2, 2, 2, 2])
    z = net.prior_mean[2] + eps @ net.prior_scale[2].T
    torch.testing.assert_close(net(eps, label), net.decode(z, label).clamp(0, 1))


def test_a_class_of_one_image_borrows_the_spread_of_the_others():
    net = make(num_classes=2)
    mean, labels = randn(31, 5), torch.tensor([0] * 30 + [1])
    net.fit_prior(mean, torch.full((31, 5), -8.0), labels)
    widths = torch.linalg.svdvals(net.prior_scale[1])
    assert torch.isfinite(net.prior_scale).all()
    assert widths.min() > 0.3


def test_the_likelihood_is_that_of_the_best_fitting_gaussian():
    images, predicted = randn(4, 3, 10, 7), randn(4, 3, 10, 7, seed=1)
    nll = negative_log_likelihood(predicted, images)

    def exact(sigma):
        return -torch.distributions.Normal(predicted, sigma).log_prob(images).sum() / 4

    best = min(exact(sigma) for sigma in torch.linspace(0.5, 3, 2000))
    constant = 3 * 10 * 7 / 2 * (1 + math.log(2 * math.pi))
    torch.testing.assert_close(nll + constant, best, rtol=1e-5, atol=0)


def test_a_perfect_prediction_is_finite():
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator())
    assert torch.isfinite(negative_log_likelihood(images, images))


def test_divergence_is_that_of_two_gaussians():
    mean, log_variance = randn(6, 4), randn(6, 4, seed=1)
    ours = divergence(mean, log_variance)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    theirs = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(dim=0)
    torch.testing.assert_close(ours, theirs)


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
