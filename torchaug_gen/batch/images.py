"""Images in a batch: one tensor of them, or a list whose sizes may differ."""

from typing import Any

import torch
from torch import Tensor

from torchaug_gen.batch.structure import is_sequence

Images = Tensor | list[Tensor]


def count(images: Images) -> int:
    """Return how many images there are."""
    return len(images)


def is_images(value: Any) -> bool:
    """Say whether a value is a tensor of images ``(N, C, H, W)``, uint8 or floating."""
    return isinstance(value, Tensor) and value.ndim == 4 and has_pixels(value)


def is_image_list(value: Any) -> bool:
    """Say whether a value is a list of images ``(C, H, W)`` whose sizes may differ."""
    return (
        is_sequence(value)
        and len(value) > 0
        and all(isinstance(item, Tensor) and item.ndim == 3 and has_pixels(item) for item in value)
    )


def is_channels_last(images: Any) -> bool:
    """Say whether a batch is (N, H, W, C): 3 or 4 in the last place, and no number of channels in the second."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return False
    _, second, third, last = images.shape
    return last in (3, 4) and min(second, third) >= 8


def has_pixels(value: Tensor) -> bool:
    """Say whether a tensor is of a dtype that images have."""
    return value.dtype is torch.uint8 or value.is_floating_point()
