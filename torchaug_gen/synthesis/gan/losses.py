"""Losses of generator and critic, and the gradient penalties on the critic."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Critic = Callable[[Tensor], Tensor]


def relativistic_critic_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return what the critic minimises in the relativistic pairing GAN.

    E[log(1 + exp(D(G(z)) - D(x)))]: Jolicoeur-Martineau, "The relativistic discriminator" (ICLR 2019), as in Huang et
    al., arXiv 2501.05441, eq. 2. A synthetic image is judged beside a real one, so that
    every real image keeps a decision boundary of its own, and dropping a mode pays nothing.

    Args:
        real: ``(N,)`` scores of real images.
        synthetic: ``(N,)`` scores of synthetic images, each paired with the real one of its row.
    """
    return F.softplus(synthetic - real).mean()


def relativistic_generator_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return what the generator minimises: :func:`relativistic_critic_loss` with the roles exchanged."""
    return F.softplus(real - synthetic).mean()


def nonsaturating_critic_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the cross entropy of telling real from synthetic (Goodfellow et al., 2014, eq. 1).

    Args:
        real: ``(N,)`` scores before the sigmoid.
        synthetic: ``(N,)`` likewise.
    """
    return F.softplus(-real).mean() + F.softplus(synthetic).mean()


def nonsaturating_generator_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return -E[log D(G(z))] (Goodfellow et al., 2014, section 3), whose gradient doesn't vanish early on."""
    return F.softplus(-synthetic).mean()


def gradient_penalty(critic: Critic, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and ‖∇D(x)‖² of each image.

    Half of its mean, times γ, is R1 on real images (Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do
    actually Converge?", ICML 2018, eq. 9) and R2 on synthetic ones (eq. 10); Huang et al. need both for convergence
    (eq. 3).

    Args:
        critic: images to scores, one of them a function of one image only.
        images: ``(N, C, H, W)``, white 1 and black -1; γ is stated for that range.

    Returns:
        Scores ``(N,)`` and squared norms ``(N,)``, differentiable with respect to the critic's parameters.
    """
    images = images.detach().requires_grad_()
    scores = critic(images)
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return scores, slope.square().flatten(1).sum(dim=1)
