"""VaeNet: a convolutional, class-conditional variational autoencoder."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchaug_gen.synthesis.vae import prior
from torchaug_gen.synthesis.vae.prior import Codes, Mixture

MIN_SIDE = 8
# Sides are halved until the shorter is at most this: 28 becomes 7, 64 becomes 4, 8 becomes 4.
_SMALLEST = 7
_LOG_VARIANCE_BOUNDS = (-12.0, 6.0)


class VaeNet(nn.Module):
    """A variational autoencoder (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014) for small images.

    The encoder halves the image with strided convolutions. The decoder doubles it with bilinear upsampling between
    convolutions, which leaves no checkerboard as transposed convolutions do (Odena, Dumoulin and Olah,
    "Deconvolution and Checkerboard Artifacts", 2016). Sides need be neither equal nor divisible by anything.

    Codes for drawing come from a mixture of full-covariance Gaussians per class, which :meth:`fit_prior` fits to the
    codes of real images, since these only resemble the N(0, I) that training pulls them to; before that it is N(0, I).

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        latent_dim: width of the code.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels at full and half resolution; they double with each further halving, up to ``4 * width``.
        components: the most Gaussians that the prior of a class may be a mixture of.

    Raises:
        ValueError: a size that is not an integer or below its minimum; a mixture of codes of a single dimension.
    """

    # A code tells everything about an image.
    draws_noise = False

    prior_weight: Tensor
    prior_mean: Tensor
    prior_scale: Tensor

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int | None = None,
        width: int = 16,
        components: int = 1,
    ) -> None:
        super().__init__()
        groups = 1 if num_classes is None else num_classes
        _check_sizes(image_shape, latent_dim=latent_dim, num_classes=groups, width=width, components=components)
        if latent_dim == 1 and components > 1:
            raise ValueError(f"components must be 1 where latent_dim is 1, got {components}")
        channels, *side = image_shape
        sizes = _halvings(side[0], side[1])
        widths = [min(2**level, 4) * width for level in range(len(sizes))]
        smallest = (widths[-1], *sizes[-1])
        label_dim = 0 if num_classes is None else latent_dim
        self.latent_dim, self.width, self.components = latent_dim, width, components
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, label_dim)
        self.encoder = nn.Sequential(
            *(_Down(inputs, outputs) for inputs, outputs in pairwise((channels, *widths[1:]))),
            _Residual(widths[-1]),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.to_code = nn.Linear(math.prod(smallest) + label_dim, 2 * latent_dim)
        self.from_code = nn.Sequential(
            nn.Linear(latent_dim + label_dim, math.prod(smallest)), nn.Unflatten(1, smallest)
        )
        ups = zip(pairwise(widths[::-1]), sizes[-2::-1], strict=True)
        self.decoder = nn.Sequential(
            _Residual(widths[-1]),
            *(_Up(inputs, outputs, size) for (inputs, outputs), size in ups),
            nn.SiLU(),
            _last(width, channels),
        )
        for name, part in prior.standard(groups, components, latent_dim)._asdict().items():
            self.register_buffer(f"prior_{name}", part)

    @property
    def arguments(self) -> dict[str, int]:
        """The constructor's arguments beyond the sizes of image, code and classes."""
        return {"width": self.width, "components": self.components}

    @property
    def prior(self) -> Mixture:
        """What codes are drawn from, for each class."""
        return Mixture(self.prior_weight, self.prior_mean, self.prior_scale)

    def forward(self, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            eps: ``(N, latent_dim)`` standard normal.
            labels: ``(N,)`` int64 where the network has classes.

        Returns:
            ``(N, C, H, W)`` in [0, 1].
        """
        codes = prior.draw(self.prior, eps, self.groups(eps, labels))
        return self.decode(codes, labels).clamp(0, 1)

    def groups(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        """Return which of the prior's mixtures each of ``rows`` (N, ...) belongs to: its label, or 0 without labels."""
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device) if labels is None else labels

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each ``(N, latent_dim)``, of the codes of ``(N, C, H, W)`` in [0, 1]."""
        # Channels last is 1.3 times as fast on the CPU, and is spelled out since it decides the last bits.
        features = self.encoder((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        mean, log_variance = self.to_code(self._with_label(features, labels)).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_BOUNDS)

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean images ``(N, C, H, W)`` of codes; not bounded, so that no pixel's gradient saturates."""
        features = self.from_code(self._with_label(codes, labels))
        return cast(Tensor, self.decoder(features.contiguous(memory_format=torch.channels_last)))

    def fit_prior(
        self, mean: Tensor, log_variance: Tensor, labels: Tensor | None = None, *, views: int = 1, seed: int = 0
    ) -> None:
        """Fit the prior to the codes of real images; see :func:`torchaug_gen.synthesis.vae.prior.fit`.

        Args:
            mean: ``(views * N, latent_dim)`` of :meth:`encode`, over all N training images.
            log_variance: likewise.
            labels: ``(views * N,)`` int64; each class has an image.
            views: how often all images come, one time after the other, each time warped otherwise.
            seed: of the first guesses.
        """
        image = torch.arange(len(mean), device=mean.device) % (len(mean) // views)
        codes = Codes(mean, log_variance.exp(), image)
        groups = self.groups(mean, labels)
        fitted = prior.fit(codes, groups, num_groups=len(self.prior_mean), components=self.components, seed=seed)
        for buffer, part in zip(self.prior, fitted, strict=True):
            buffer.copy_(part)

    def _with_label(self, features: Tensor, labels: Tensor | None) -> Tensor:
        return features if self.embedding is None else torch.cat((features, self.embedding(labels)), dim=1)


def _last(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a convolution that begins at about grey.

    As PyTorch initialises it, a decoder of 64 px begins with a squared error of 1 to 2, from which training recovers
    late: without a term against blur, the error after 110 steps at a learning rate of 2e-3 was twice what it is so.
    """
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    with torch.no_grad():
        convolution.weight.mul_(0.1)
    nn.init.constant_(cast(Tensor, convolution.bias), 0.5)
    return convolution


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        # Begins as the identity (Zhang, Dauphin and Ma, "Fixup Initialization", 2019).
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.body = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.body(features))


class _Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return F.silu(self.halve(features))


class _Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        # Narrowed before it is enlarged, where a convolution costs a quarter.
        self.narrow = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.blend = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        doubled = F.interpolate(self.narrow(F.silu(features)), scale_factor=2, mode="bilinear")
        # An odd side was rounded up when it was halved.
        return cast(Tensor, self.blend(F.silu(doubled[..., : self.size[0], : self.size[1]])))


def _halvings(height: int, width: int) -> list[tuple[int, int]]:
    """Return the size at each level, from the image down to the smallest."""
    sizes = [(height, width)]
    while min(sizes[-1]) > _SMALLEST:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _check_sizes(image_shape: Sequence[int], **counts: int) -> None:
    if len(image_shape) != 3 or image_shape[0] < 1 or min(image_shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"image_shape must be (channels, height, width) with sides of at least {MIN_SIDE}, got {tuple(image_shape)}"
        )
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
