"""Synthesizers with random weights: only what they cost counts."""

import torch
from torch import Tensor, nn

from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.network import NetworkSynthesizer

LATENT = 64


class Conditional(nn.Module):
    """A network that draws images of a class.

    Args:
        layers: from latents and embedded labels ``(N, LATENT + embedded)`` to images.
        embedded: numbers that a label becomes.
    """

    draws_noise = False

    def __init__(self, layers: nn.Module, *, embedded: int) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(10, embedded), layers

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images of latents ``(N, LATENT)`` and labels ``(N,)``."""
        images: Tensor = self.layers(torch.cat((z, self.embed(labels)), dim=1))
        return images


def of_digits() -> NetworkSynthesizer:
    """Return a synthesizer of ten classes of (1, 28, 28), of the size that suits digits."""
    layers = nn.Sequential(
        nn.Linear(LATENT + 10, 64 * 7 * 7),
        nn.Unflatten(1, (64, 7, 7)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(64, 1, 3, padding=1),
        nn.Tanh(),
    )
    net = Conditional(layers, embedded=10)
    return Synthesizer.from_module(net, latent_dim=LATENT, image_shape=(1, 28, 28), num_classes=10)


def of_photographs() -> NetworkSynthesizer:
    """Return a synthesizer of ten classes of (3, 64, 64)."""
    layers: list[nn.Module] = [nn.Linear(LATENT + 16, 64 * 64), nn.Unflatten(1, (64, 8, 8))]
    for channels in (64, 32, 16):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, max(channels // 2, 16), 3, padding=1), nn.ReLU()]
    net = Conditional(nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1), nn.Tanh()), embedded=16)
    return Synthesizer.from_module(net, latent_dim=LATENT, image_shape=(3, 64, 64), num_classes=10)


def of_thumbnails() -> NetworkSynthesizer:
    """Return a small synthesizer of (3, 32, 32), without classes."""
    net = nn.Sequential(
        nn.Linear(LATENT, 32 * 8 * 8),
        nn.Unflatten(1, (32, 8, 8)),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(32, 3, 3, padding=1),
        nn.Tanh(),
    )
    return Synthesizer.from_module(net, latent_dim=LATENT, image_shape=(3, 32, 32))
