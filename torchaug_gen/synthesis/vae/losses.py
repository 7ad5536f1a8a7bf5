"""What a variational autoencoder is trained on: likelihood, divergence, and a term against blur."""

import torch.nn.functional as F
from torch import Tensor

# The variance of rounding to 8 bits. No likelihood may claim to know a pixel better.
MIN_VARIANCE = 1 / (12 * 255**2)

# Bands of detail: of about 1 to 2, and 2 to 4 pixels. A third one made digits no sharper.
_BANDS = 2
_WINDOW = 8
# Of a local energy; the root's slope is infinite at 0. It is the square of 2.5 of 255 levels.
_FLOOR = 1e-4


def squared_error(predicted: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared error in float32, at least that of rounding to 8 bits."""
    return F.mse_loss(predicted.float(), images.float()).clamp(min=MIN_VARIANCE)


def negative_log_likelihood(predicted: Tensor, images: Tensor) -> Tensor:
    """Return nats per image, up to a constant, under Gaussian noise whose level is the one that fits the batch best.

    With the noise level σ learned, the balance of likelihood and divergence is no matter of the pixels' scale. Its
    best value for a batch is the root mean square error, so it takes no parameter (Rybkin, Daniilidis and Levine,
    "Simple and Effective VAE Training with Calibrated Decoders", 2021).

    Args:
        predicted: ``(N, C, H, W)`` mean images.
        images: ``(N, C, H, W)`` in [0, 1].
    """
    return images[0].numel() / 2 * squared_error(predicted, images).log()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q ‖ N(0, I)) per dimension in nats, averaged over the batch (Kingma and Welling 2014, appendix B).

    Args:
        mean: ``(N, latent_dim)``.
        log_variance: ``(N, latent_dim)``.

    Returns:
        ``(latent_dim,)`` float32.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)


def detail_error(predicted: Tensor, images: Tensor) -> Tensor:
    """Return how far the strength of detail is from that of the images, whatever its place.

    A squared error is least where every uncertain edge is averaged into a blur. This compares, in each band of a
    Laplacian pyramid (Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983), root mean squares over
    windows, the local energies by which textures are told apart (Portilla and Simoncelli, "A Parametric Texture Model
    Based on Joint Statistics of Complex Wavelet Coefficients", 2000). A sharp edge that is a pixel off costs little,
    and a blurred one much. An L1 distance between the bands themselves, at a weight as high, left digits nearly as
    blurred as without (Laplacian variance 0.31 of the real one's, against 0.52 with this and 0.29 without).

    Args:
        predicted: ``(N, C, H, W)`` mean images.
        images: ``(N, C, H, W)`` in [0, 1].

    Returns:
        A float32 number without dimensions, in the unit of pixels: a mean over images.
    """
    ours, theirs = predicted.float(), images.float()
    total = ours.new_zeros(())
    for _ in range(_BANDS):
        ours_low, theirs_low = _blur(ours), _blur(theirs)
        total = total + (_local_rms(ours - ours_low) - _local_rms(theirs - theirs_low)).abs().mean()
        ours, theirs = F.avg_pool2d(ours_low, 2), F.avg_pool2d(theirs_low, 2)
    return total


def _local_rms(band: Tensor) -> Tensor:
    window = min(_WINDOW, *band.shape[-2:])
    energy = F.avg_pool2d(band.square().mean(dim=1, keepdim=True), window, stride=max(1, window // 2))
    return (energy + _FLOOR).sqrt()


def _blur(images: Tensor) -> Tensor:
    """Convolve with the binomial kernel [1, 4, 6, 4, 1] / 16 along both axes."""
    channels = images.shape[1]
    line = images.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = (line[:, None] * line).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
