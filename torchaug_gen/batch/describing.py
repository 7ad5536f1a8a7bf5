"""What a batch and its leaves are, for error messages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from torchaug_gen.batch.images import has_pixels, is_channels_last, is_image_list
from torchaug_gen.batch.structure import Path, leaves_of, show

# Leaves listed in an error message, at the most.
_MOST_SHOWN = 8


def describe(batch: Any) -> str:
    """List a batch's leaves with their types, for error messages."""
    shown = [f"{show(path)}: {describe_leaf(value)}" for path, value in leaves_of(batch, (), ends_in_images)]
    if len(shown) > _MOST_SHOWN:
        shown[_MOST_SHOWN:] = [f"and {len(shown) - _MOST_SHOWN} more"]
    return "; ".join(shown) or f"an empty {type(batch).__name__}"


def describe_leaf(value: Any) -> str:
    """Say what a leaf is, for error messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} {value.dtype}"
    if is_image_list(value):
        return f"list of {len(value)} images"
    return type(value).__name__


def image_hint(value: Any, where: str) -> str:
    """Return what would make images of a value that looks as if it were meant to be some, to be put behind an error."""
    if isinstance(value, Tensor):
        if is_channels_last(value):
            return f"; if {where} has its channels last, bring them forward with permute(0, 3, 1, 2)"
        if value.ndim == 4:
            return f"; if {where} holds images, convert integer images to uint8 or to floating in [0, 1]"
        if value.ndim == 3 and has_pixels(value):
            return f"; if {where} holds grey images, add the channel dimension with unsqueeze(1)"
    if isinstance(value, np.ndarray) and value.ndim >= 3:
        return f"; if {where} holds images, make a tensor of them with torch.from_numpy in the collate_fn"
    if type(value).__module__.split(".")[0] == "PIL":
        return "; make tensors of PIL images in the data set, for example with torchvision.transforms.v2.PILToTensor()"
    return ""


def ends_in_images(path: Path, value: Sequence[Any]) -> bool:
    """Say whether a list is one of images, where a walk over leaves is to stop."""
    return is_image_list(value)
