"""The deep convolutional GAN of the tutorials: the baseline that other networks are compared with."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchaug_gen.synthesis.gan.network import check_sizes, levels
from torchaug_gen.synthesis.training import distributed

# The paper's narrowest network has eight times, for images that are learned in days.
_WIDEST = 4


class DcganGeneratorNet(nn.Module):
    """The generator of Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
    Generative Adversarial Networks" (ICLR 2016, section 3): strided transposed convolutions, batch normalisation,
    rectifiers, and a hyperbolic tangent at the end; an embedding of the class beside the latent vector.

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        latent_dim: width of the latent vector.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels before the last layer; they double with each halving of the side, up to four times.

    Raises:
        ValueError: a size that is not an integer or below its minimum.
    """  # noqa: D205

    # A latent vector tells everything about an image.
    draws_noise = False

    def __init__(
        self, *, image_shape: Sequence[int], latent_dim: int, num_classes: int | None = None, width: int = 64
    ) -> None:
        super().__init__()
        check_sizes(
            image_shape, latent_dim=latent_dim, num_classes=1 if num_classes is None else num_classes, width=width
        )
        channels, *side = image_shape
        sizes, widths = levels(side[0], side[1], width, widest=_WIDEST)
        # The width is that of the features that become the image, which are at half its resolution.
        sizes, widths = sizes[1:], widths[1:]
        self.size = (side[0], side[1])
        self.latent_dim, self.width = latent_dim, width
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_dim)
        inputs = latent_dim if num_classes is None else 2 * latent_dim
        self.basis = nn.Linear(inputs, widths[-1] * math.prod(sizes[-1]), bias=False)
        layers: list[nn.Module] = [nn.Unflatten(1, (widths[-1], *sizes[-1])), BatchNorm(widths[-1]), nn.ReLU()]
        for (wide, narrow), size in zip(pairwise(widths[::-1]), sizes[-2::-1], strict=True):
            up = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)
            layers += [up, _Crop(size), BatchNorm(narrow), nn.ReLU()]
        layers += [nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), _Crop(self.size), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        _initialise(self)

    @property
    def arguments(self) -> dict[str, int]:
        """The constructor's arguments beyond the sizes of image, latent vector and classes."""
        return {"width": self.width}

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw ``(N, C, H, W)`` images in [0, 1]; see :class:`~torchaug_gen.synthesis.gan.network.GeneratorNet`."""
        return (self.generate(z, labels) + 1) / 2

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images whose black is -1 and white 1."""
        if self.embedding is not None:
            z = torch.cat((z, self.embedding(labels)), dim=1)
        # Channels last is 1.1 to 1.25 times as fast on the CPU, and is spelled out since it decides the last bits.
        features = self.layers[0](self.basis(z)).contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.layers[1:](features))


class DcganCriticNet(nn.Module):
    """The discriminator to :class:`DcganGeneratorNet`; it sees the class as one more channel of the image.

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels after the first layer; they double with each halving of the side, up to four times.

    Raises:
        ValueError: a size that is not an integer or below its minimum.
    """

    def __init__(self, *, image_shape: Sequence[int], num_classes: int | None = None, width: int = 64) -> None:
        super().__init__()
        check_sizes(image_shape, num_classes=1 if num_classes is None else num_classes, width=width)
        channels, *side = image_shape
        sizes, widths = levels(side[0], side[1], width, widest=_WIDEST)
        sizes, widths = sizes[1:], widths[1:]
        self.size = (side[0], side[1])
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, math.prod(side))
        inputs = channels if num_classes is None else channels + 1
        layers: list[nn.Module] = [_Halve(inputs, width, bias=True), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            layers += [_Halve(narrow, wide, bias=False), BatchNorm(wide), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * math.prod(sizes[-1]), 1))
        _initialise(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores ``(N,)`` before the sigmoid; see :class:`~torchaug_gen.synthesis.gan.network.CriticNet`."""
        if self.embedding is not None:
            images = torch.cat((images, self.embedding(labels).view(-1, 1, *self.size)), dim=1)
        return cast(Tensor, self.layers(images)).squeeze(1)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the rows of all processes, each of which has as many.

    :class:`torch.nn.SyncBatchNorm` does so on GPUs only.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``, by the statistics of the whole batch while training."""
        if not self.training or distributed.share().count == 1:
            return super().forward(features)
        # Half precision would lose the variance of features that are far from 0.
        exact = features.float()
        mean = distributed.joint_mean(exact.mean(dim=(0, 2, 3)))
        centred = exact - mean.view(1, -1, 1, 1)
        variance = distributed.joint_mean(centred.square().mean(dim=(0, 2, 3)))
        self._remember(mean, variance, distributed.share().count * features[:, 0].numel())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Let the running statistics follow, the variance without bias, as PyTorch does."""
        momentum, following = cast(float, self.momentum), variance * count / (count - 1)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(following, momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)


class _Crop(nn.Module):
    """Cut what a doubled side has too much where the side is odd."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        return features[..., : self.size[0], : self.size[1]]


class _Halve(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        return cast(Tensor, self.conv(F.pad(features, (0, width % 2, 0, height % 2))))


def _initialise(net: nn.Module) -> None:
    """Draw weights from N(0, 0.02²), section 4 of the paper; scales of batch normalisation about 1."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
