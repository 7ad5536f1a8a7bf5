"""Losses and gradient penalties against what they are defined as."""

import pytest
import torch

from torchaug_gen.synthesis.gan.losses import (
    gradient_penalty,
    nonsaturating_critic_loss,
    nonsaturating_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
)


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_the_relativistic_losses_are_logarithms_of_the_odds_of_a_pair():
    real, synthetic = randn(64), randn(64, seed=1)
    torch.testing.assert_close(relativistic_critic_loss(real, synthetic), -torch.sigmoid(real - synthetic).log().mean())
    torch.testing.assert_close(
        relativistic_generator_loss(real, synthetic), -torch.sigmoid(synthetic - real).log().mean()
    )


def test_only_the_difference_of_a_pair_counts():
    real, synthetic, offset = randn(64), randn(64, seed=1), 10 * randn(64, seed=2)
    for loss in (relativistic_critic_loss, relativistic_generator_loss):
        torch.testing.assert_close(loss(real + offset, synthetic + offset), loss(real, synthetic))


def test_the_critic_minimises_cross_entropy():
    real, synthetic = randn(64), randn(64, seed=1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = entropy(real, torch.ones(64)) + entropy(synthetic, torch.zeros(64))
    torch.testing.assert_close(nonsaturating_critic_loss(real, synthetic), expected)
    expected = entropy(synthetic, torch.ones(64))
    torch.testing.assert_close(nonsaturating_generator_loss(real, synthetic), expected)


@pytest.mark.parametrize("loss", [nonsaturating_generator_loss, relativistic_generator_loss])
def test_a_generator_that_is_seen_through_still_has_a_gradient(loss):
    synthetic = torch.full((4,), -30.0, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(torch.zeros(4), synthetic), synthetic)
    torch.testing.assert_close(slope, torch.full((4,), -0.25))


@pytest.mark.parametrize(
    "loss",
    [
        relativistic_critic_loss,
        relativistic_generator_loss,
        nonsaturating_critic_loss,
        nonsaturating_generator_loss,
    ],
)
def test_absurd_scores_give_finite_losses(loss):
    for real, synthetic in ((1e30, -1e30), (-1e30, 1e30)):
        assert torch.isfinite(loss(torch.full((2,), real), torch.full((2,), synthetic)))


def test_the_penalty_is_the_squared_norm_of_each_image_by_itself():
    weight = randn(3, 4, 4)
    images = randn(5, 3, 4, 4, seed=1)
    scores, squares = gradient_penalty(lambda x: (weight * x**2).flatten(1).sum(dim=1), images)
    torch.testing.assert_close(scores, (weight * images**2).flatten(1).sum(dim=1))
    torch.testing.assert_close(squares, (2 * weight * images).square().flatten(1).sum(dim=1))


def test_the_penalty_can_be_descended():
    layer = torch.nn.Linear(6, 1)
    _, squares = gradient_penalty(lambda x: layer(x).squeeze(1), randn(4, 6))
    squares.mean().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * layer.weight.detach())


def test_the_images_get_no_gradient():
    images = randn(2, 3).requires_grad_()
    _, squares = gradient_penalty(lambda x: x.pow(3).sum(dim=1), images)
    squares.sum().backward()
    assert images.grad is None
