"""What a VAE is trained on."""

import math

import pytest
import torch
import torch.nn.functional as F

from torchaug_gen.synthesis.vae.losses import detail_error, divergence, negative_log_likelihood


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def rand(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


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


def blurred(images):
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (3, 3, 64, 40), (1, 1, 8, 8), (2, 4, 9, 33)])
def test_the_more_blurred_the_greater_the_detail_error(shape):
    images = rand(*shape)
    errors = [float(detail_error(seen, images)) for seen in (images, blurred(images), blurred(blurred(images)))]
    assert errors[0] == 0
    assert errors[1] > 0.05
    assert errors[2] > errors[1]


def test_noise_of_the_same_strength_elsewhere_has_nearly_the_same_detail():
    images = rand(4, 1, 64, 64)
    assert detail_error(rand(4, 1, 64, 64, seed=1), images) < 0.25 * detail_error(images * 0.5, images)


def test_too_much_detail_is_an_error_as_too_little_is():
    images = rand(4, 1, 32, 32) * 0.4 + 0.3
    much, little = (detail_error((images - 0.5) * gain + 0.5, images) for gain in (1.3, 0.7))
    torch.testing.assert_close(much, little, rtol=0.05, atol=0)


def test_the_detail_error_is_a_mean_over_images():
    predicted, images = rand(6, 3, 20, 20), rand(6, 3, 20, 20, seed=1) * 0.5
    parts = [detail_error(predicted[rows], images[rows]) for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(detail_error(predicted, images), sum(parts) / 2)


def test_flat_images_have_a_finite_gradient():
    predicted = torch.full((2, 1, 16, 16), 0.5, requires_grad=True)
    detail_error(predicted, rand(2, 1, 16, 16)).backward()
    assert torch.isfinite(predicted.grad).all()
