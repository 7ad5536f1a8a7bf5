"""GeneratorNet and CriticNet: residual networks without normalisation for small images."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SIDE = 8
# Sides are halved until the shorter is at most this: 28 becomes 7, 64 becomes 4, 8 becomes 4.
_SMALLEST = 7
# Channels grow with each halving up to this multiple of the width, which is that at half resolution. At 64 pixels and a
# width of 16, eight instead of four doubles the parameters and takes 6 % longer: maps of 4 pixels are cheap.
_WIDEST = 8
_SLOPE = 0.2
# Above this side the critic's first layer halves the image: maps at 64 pixels took a fifth of its time.
_STRIDED_ABOVE = 48


class GeneratorNet(nn.Module):
    """The generator of a GAN: a latent vector and a class become an image.

    The plan is that of Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline" (NeurIPS 2024, arXiv
    2501.05441, section 4): a linear map of the latent vector beside an embedding of the class, then at each resolution
    residual blocks that are convolutions and leaky rectifiers only. Instead of normalisation, blocks begin as the
    identity (see :class:`Residual`). Resolutions are joined by an interpolating filter: transposed convolutions that
    are learned leave checkerboards and a spectrum that gives them away (Durall, Keuper and Keuper, "Watch your
    Up-Convolution", CVPR 2020). Each resolution draws an image, and their enlarged sum is the result (Karras et al.,
    "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 4.1, "output skips"): the coarse ones
    are learned first. Sides need be neither equal nor divisible by anything.

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        latent_dim: width of the latent vector.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels at half resolution, twice those at full; they double with each halving, up to eight times.
        blocks: residual blocks at each resolution.

    Attributes:
        phase: how much the class counts, 0..1; see :func:`torchaug_gen.synthesis.gan.recipe.class_phase`.

    Raises:
        ValueError: a size that is not an integer or below its minimum.
    """

    # A latent vector tells everything about an image.
    draws_noise = False

    phase: Tensor

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        latent_dim: int,
        num_classes: int | None = None,
        width: int = 16,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(
            image_shape,
            latent_dim=latent_dim,
            num_classes=1 if num_classes is None else num_classes,
            width=width,
            blocks=blocks,
        )
        channels, *side = image_shape
        sizes, widths = levels(side[0], side[1], width)
        smallest = (widths[-1], *sizes[-1])
        self.latent_dim, self.width, self.blocks = latent_dim, width, blocks
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_dim)
        inputs = latent_dim if num_classes is None else 2 * latent_dim
        self.basis = nn.Linear(inputs, math.prod(smallest))
        depth = (len(sizes) - 1) * blocks
        self.unflatten = nn.Unflatten(1, smallest)
        self.levels, self.narrow, self.to_image = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.enlarge = nn.ModuleList(_Enlarge(size) for size in sizes[-2::-1])
        for wide, narrow in pairwise(widths[::-1]):
            self.levels.append(nn.Sequential(*(Residual(wide, depth) for _ in range(blocks))))
            self.to_image.append(_to_image(wide, channels, 1, parts=len(sizes)))
            self.narrow.append(_linear(wide, narrow, 1))
        self.to_image.append(_to_image(widths[0], channels, 3, parts=len(sizes)))
        self.register_buffer("phase", torch.ones(()))
        nn.init.kaiming_normal_(self.basis.weight, nonlinearity="linear")
        nn.init.zeros_(self.basis.bias)

    @property
    def arguments(self) -> dict[str, int]:
        """The constructor's arguments beyond the sizes of image, latent vector and classes."""
        return {"width": self.width, "blocks": self.blocks}

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            z: ``(N, latent_dim)`` standard normal.
            labels: ``(N,)`` int64 where the network has classes.

        Returns:
            ``(N, C, H, W)`` in [0, 1].
        """
        return ((self.generate(z, labels) + 1) / 2).clamp(0, 1)

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images whose black is -1 and white 1; not bounded, so that no pixel's gradient vanishes."""
        if self.embedding is not None:
            z = torch.cat((z, self.phase * self.embedding(labels)), dim=1)
        features = self.unflatten(self.basis(z)).contiguous(memory_format=torch.channels_last)
        *coarse, fine = self.to_image
        image = features.new_zeros(())
        for blocks, draw, narrow, enlarge in zip(self.levels, coarse, self.narrow, self.enlarge, strict=True):
            features = blocks(features)
            image = enlarge(image + draw(F.leaky_relu(features, _SLOPE)))
            # Narrowed before it is enlarged, where a convolution costs a quarter.
            features = enlarge(narrow(features))
        return cast(Tensor, image + fine(F.leaky_relu(features, _SLOPE)))


class CriticNet(nn.Module):
    """The critic (discriminator) of a GAN: :class:`GeneratorNet` turned around.

    The score of an image x of class y is ⟨base + phase · e_y, φ(x)⟩, the projection discriminator (Miyato and Koyama,
    "cGANs with Projection Discriminator", ICLR 2018).

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels at half resolution, twice those at full; they double with each halving, up to eight times.
        blocks: residual blocks at each resolution.
        features: width of φ.

    Attributes:
        phase: how much the class counts, 0..1.

    Raises:
        ValueError: a size that is not an integer or below its minimum.
    """

    phase: Tensor

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        num_classes: int | None = None,
        width: int = 16,
        blocks: int = 1,
        features: int = 128,
    ) -> None:
        super().__init__()
        check_sizes(
            image_shape,
            num_classes=1 if num_classes is None else num_classes,
            width=width,
            blocks=blocks,
            features=features,
        )
        channels, *side = image_shape
        sizes, widths = levels(side[0], side[1], width)
        depth = (len(sizes) - 1) * blocks
        layers: list[nn.Module] = []
        self.stem_stride = 2 if min(side) > _STRIDED_ABOVE else 1
        if self.stem_stride == 2:
            self.from_image = _linear(channels, widths[1], 4, stride=2)
            layers += [Residual(widths[1], depth) for _ in range(blocks)]
            widths = widths[1:]
        else:
            self.from_image = _linear(channels, widths[0], 3)
        for narrow, wide in pairwise(widths):
            layers += [_Down(narrow, wide), *(Residual(wide, depth) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.to_features = nn.Linear(widths[-1] * math.prod(sizes[-1]), features)
        self.base = nn.Parameter(torch.randn(features))
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, features)
        self.register_buffer("phase", torch.ones(()))
        nn.init.kaiming_normal_(self.to_features.weight, nonlinearity="linear")

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scores, higher for what looks real.

        Args:
            images: ``(N, C, H, W)`` whose black is -1 and white 1.
            labels: ``(N,)`` int64 where the network has classes.

        Returns:
            ``(N,)``.
        """
        if self.stem_stride == 2:
            images = F.pad(images, (0, images.shape[3] % 2, 0, images.shape[2] % 2))
        features = self.from_image(images.contiguous(memory_format=torch.channels_last))
        features = self.to_features(self.layers(F.leaky_relu(features, _SLOPE)))
        direction = self.base if self.embedding is None else self.base + self.phase * self.embedding(labels)
        return cast(Tensor, (features * direction).sum(dim=1) / math.sqrt(features.shape[1]))


class Residual(nn.Module):
    """x + F(x), F three convolutions with a bottleneck's shape, of which the last begins at 0.

    Without normalisation the variance of a deep residual network would grow exponentially with its depth; as in Zhang,
    Dauphin and Ma, "Fixup Initialization" (ICLR 2019, section 3), the last layer of each branch begins at 0 and the
    m - 1 = 2 before it are scaled by L^(-1/(2m - 2)), L the number of branches.

    Args:
        channels: of the input and the output.
        depth: L.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.expand = nn.Conv2d(channels, channels, 1)
        for layer in (self.reduce, self.mix):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
            with torch.no_grad():
                layer.weight.mul_(depth**-0.25)
        nn.init.zeros_(self.expand.weight)
        for layer in (self.reduce, self.mix, self.expand):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        branch = F.leaky_relu(self.reduce(features), _SLOPE)
        branch = F.leaky_relu(self.mix(branch), _SLOPE)
        return features + cast(Tensor, self.expand(branch))


class _Enlarge(nn.Module):
    """Double the sides, or one less where an odd side was rounded up when it was halved."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        kernel = 4 * _binomial(features)
        doubled = F.conv_transpose2d(features, kernel.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)
        return doubled[..., : self.size[0], : self.size[1]]


class _Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = _linear(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        channels, height, width = features.shape[1:]
        if height % 2 or width % 2:
            features = F.pad(features, (0, width % 2, 0, height % 2))
        kernel = _binomial(features).expand(channels, 1, 4, 4)
        return cast(Tensor, self.widen(F.conv2d(features, kernel, stride=2, padding=1, groups=channels)))


def _to_image(inputs: int, channels: int, side: int, *, parts: int) -> nn.Conv2d:
    """Return what draws one of the ``parts`` images whose sum begins with the variance of a single one."""
    layer = _linear(inputs, channels, side)
    with torch.no_grad():
        layer.weight.mul_(parts**-0.5)
    return layer


def _linear(inputs: int, outputs: int, side: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the variance: PyTorch's own would leave a third of it, at every resolution."""
    layer = nn.Conv2d(inputs, outputs, side, stride=stride, padding=(side - stride + 1) // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def _binomial(like: Tensor) -> Tensor:
    """Return the ``(4, 4)`` kernel [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64.

    It is the pair [1, 1] / 2 of halving or doubling after a smoothing by [1, 2, 1] / 4: as a strided convolution it
    shrinks without aliasing (Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019), transposed it
    is bilinear interpolation, at a fifth of the time of ``F.interpolate`` with its gradient on a CPU.
    """
    # Computed on the device: a copy from the host would make CUDA wait, and a buffer would have to be saved.
    line = (2 - (torch.arange(4, device=like.device, dtype=like.dtype) - 1.5).abs()) / 4
    return line[:, None] * line


def levels(height: int, width: int, channels: int, *, widest: int = _WIDEST) -> tuple[list[tuple[int, int]], list[int]]:
    """Return size and channels at each resolution, from the image down to the smallest."""
    sizes = [(height, width)]
    while min(sizes[-1]) > _SMALLEST:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes, [max(channels // 2, 1), *(min(2**level, widest) * channels for level in range(len(sizes) - 1))]


def check_sizes(image_shape: Sequence[int], **counts: int) -> None:
    """Raise ``ValueError`` for an image shape or a count that no network can have."""
    if len(image_shape) != 3 or image_shape[0] < 1 or min(image_shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"image_shape must be (channels, height, width) with sides of at least {MIN_SIDE}, got {tuple(image_shape)}"
        )
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
