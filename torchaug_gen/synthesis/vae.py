"""VaeNet: a convolutional, class-conditional variational autoencoder."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below this a side is not halved again: 28 becomes 7, 64 becomes 4, 8 becomes 4.
_BOTTOM = 7
MIN_SIDE = 8


class VaeNet(nn.Module):
    """A variational autoencoder (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014) for small images.

    The encoder halves the image with strided convolutions, the decoder doubles it with bilinear upsampling followed
    by convolutions, which unlike a transposed convolution leaves no checkerboard (Odena, Dumoulin and Olah,
    "Deconvolution and Checkerboard Artifacts", 2016). Sides need not be powers of two nor equal.

    Drawing does not start from N(0, I), which the encoder's codes only resemble, but from one full-covariance
    Gaussian per class, fitted to the codes by :meth:`fit_prior`; until then it is N(0, I).

    Args:
        image_shape: ``(C, H, W)`` with sides of at least 8.
        latent_dim: width of the code.
        num_classes: number of classes, or ``None`` for a network without labels.
        width: channels at full resolution; they double with each halving, up to four times ``width``.

    Raises:
        ValueError: a size below its minimum.
    """

    prior_mean: Tensor
    prior_scale: Tensor

    def __init__(
        self, *, image_shape: Sequence[int], latent_dim: int, num_classes: int | None = None, width: int = 16
    ) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        if channels < 1 or min(height, width_px) < MIN_SIDE:
            raise ValueError(
                f"image_shape must be (channels, height, width) with sides of at least {MIN_SIDE}, "
                f"got {tuple(image_shape)}"
            )
        if latent_dim < 1 or width < 1 or (num_classes is not None and num_classes < 1):
            raise ValueError(
                f"latent_dim, width and num_classes must be at least 1, got {latent_dim}, {width} and {num_classes}"
            )
        self.latent_dim, self.num_classes, self.width = latent_dim, num_classes, width
        sizes = _halvings(height, width_px)
        widths = [min(2**level, 4) * width for level in range(len(sizes))]
        bottom = (widths[-1], *sizes[-1])
        features = bottom[0] * bottom[1] * bottom[2]
        labels = 0 if num_classes is None else latent_dim
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, labels)
        self.encoder = nn.Sequential(
            *(_Down(a, b) for a, b in pairwise((channels, *widths[1:]))),
            _Residual(widths[-1]),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.to_code = nn.Linear(features + labels, 2 * latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim + labels, features),
            _Unflatten(1, bottom),
            _Residual(widths[-1]),
            *(_Up(a, b, size) for (a, b), size in zip(pairwise(widths[::-1]), sizes[-2::-1], strict=True)),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        groups = 1 if num_classes is None else num_classes
        self.register_buffer("prior_mean", torch.zeros(groups, latent_dim))
        self.register_buffer("prior_scale", torch.eye(latent_dim).repeat(groups, 1, 1))

    @property
    def arguments(self) -> dict[str, Any]:
        return {"width": self.width}

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.to_code(
            self._with_label(
                self.encoder((images * 2 - 1).contiguous(memory_format=torch.channels_last)), labels
            )
        ).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 6)

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.decoder(self._with_label(codes, labels))
        return images

    def forward(self, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        rows = torch.zeros(len(eps), dtype=torch.int64, device=eps.device) if labels is None else labels
        codes = self.prior_mean[rows] + (self.prior_scale[rows] @ eps.unsqueeze(-1)).squeeze(-1)
        return self.decode(codes, labels).clamp(0, 1)

    def _with_label(self, features: Tensor, labels: Tensor | None) -> Tensor:
        if self.embedding is None:
            return features
        return torch.cat((features, self.embedding(labels)), dim=1)

    @torch.no_grad()
    def fit_prior(self, means: Tensor, log_variances: Tensor, labels: Tensor | None = None) -> None:
        means, variances = means.double(), log_variances.double().exp()
        rows = torch.zeros(len(means), dtype=torch.int64) if labels is None else labels
        groups = range(len(self.prior_mean))
        centres = torch.stack([means[rows == k].mean(0) for k in groups])
        spread = means - centres[rows]
        scatter = [
            spread[rows == k].T @ spread[rows == k] + variances[rows == k].sum(0).diag() for k in groups
        ]
        counts = [int((rows == k).sum()) for k in groups]
        pooled = torch.stack(scatter).sum(0) / len(means)
        for k in groups:
            covariance = (scatter[k] + self.latent_dim * pooled) / (counts[k] + self.latent_dim)
            self.prior_mean[k] = centres[k]
            self.prior_scale[k] = torch.linalg.cholesky(covariance)


class _Unflatten(nn.Unflatten):
    def forward(self, x):
        return super().forward(x).contiguous(memory_format=torch.channels_last)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Down(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.halve(x))


class _Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.narrow = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.blend = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.narrow(F.silu(x)), scale_factor=2, mode="bilinear")
        return self.blend(F.silu(x[..., : self.size[0], : self.size[1]]))


def _halvings(height: int, width: int) -> list[tuple[int, int]]:
    """Return the size at each level, from the image down to the smallest."""
    sizes = [(height, width)]
    while min(sizes[-1]) > _BOTTOM:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
