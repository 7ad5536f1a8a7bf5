"""What pixel values mean: uint8 in 0..255 or floating in [0, 1], and how one becomes the other."""

import torch
from torch import Tensor

# Half a level of an 8-bit image: what rounding in an operation can explain.
TOLERANCE = 0.5 / 255


def convert(images: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return images in another dtype with the same meaning; ``None`` keeps what comes.

    uint8 to floating divides by 255; floating to uint8 multiplies by 255 and rounds.

    Args:
        images: uint8 or floating, of any shape.
        dtype: ``torch.uint8``, a floating dtype, or ``None``.

    Raises:
        ValueError: floating values outside [0, 1] by more than rounding on the way to uint8, such as normalised ones.
    """
    if dtype is None or images.dtype is dtype:
        return images
    if dtype.is_floating_point:
        if images.is_floating_point():
            return images.to(dtype)
        # Divided in float32: half precision could not tell neighbouring levels near 1 apart before the division.
        return images.to(torch.promote_types(dtype, torch.float32)).div_(255).to(dtype)
    check_range(
        images,
        f"images must be in [0, 1] to become {dtype}, got {{}}: deliver normalised images in a floating dtype",
    )
    return images.mul(255).round_().clamp_(0, 255).to(dtype)


def check_range(images: Tensor, message: str) -> None:
    """Raise ``ValueError`` where floating images leave [0, 1] by more than rounding or hold NaN.

    On CUDA the device asserts it when it comes to that, so that the host need not wait.

    Args:
        images: of any shape.
        message: with ``{}`` where the values found go.
    """
    if images.is_cuda:
        if images.is_floating_point() and images.numel():
            low, high = images.aminmax()
            torch._assert_async((low >= -TOLERANCE) & (high <= 1 + TOLERANCE), message.format("others"))
    elif span := outside(images):
        raise ValueError(message.format(span))


def outside(images: Tensor) -> str | None:
    """Return ``"low..high"`` where floating images leave [0, 1] by more than rounding or hold NaN, else ``None``."""
    if not images.is_floating_point() or not images.numel():
        return None
    low, high = images.aminmax()
    # Written so that NaN, which compares false with everything, counts as outside.
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return None
    return f"{low:.3g}..{high:.3g}"


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return ``dtype`` where images can be delivered in it.

    Raises:
        TypeError: neither uint8, nor floating, nor ``None``.
    """
    if dtype is None or dtype is torch.uint8 or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise TypeError(f"dtype must be torch.uint8, a floating torch.dtype, or None for what comes, got {dtype!r}")
