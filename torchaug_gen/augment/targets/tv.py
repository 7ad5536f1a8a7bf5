"""torchvision's ``tv_tensors``: told apart and put back without importing torchvision where nobody has."""

import sys
from typing import Any

from torch import Tensor


def kind(value: Any) -> str | None:
    """Return ``"Mask"``, ``"BoundingBoxes"`` or ``"KeyPoints"`` for one of torchvision's, ``None`` for all else."""
    module = sys.modules.get("torchvision.tv_tensors")
    if module is None or type(value) is Tensor:
        return None
    names = ("Mask", "BoundingBoxes", "KeyPoints")
    # KeyPoints are younger than the others.
    return next((name for name in names if hasattr(module, name) and isinstance(value, getattr(module, name))), None)


def plain(value: Tensor) -> Tensor:
    """Return a tensor without torchvision's class around it."""
    return value if type(value) is Tensor else value.as_subclass(Tensor)


def like(result: Tensor, original: Any, size: tuple[int, int]) -> Tensor:
    """Return a tensor in torchvision's class of the original one, where it has one, on a canvas (h, w)."""
    found = kind(original)
    if found is None:
        return result
    from torchvision import tv_tensors

    options = {} if found == "Mask" else {"canvas_size": size}
    wrapped: Tensor = tv_tensors.wrap(result, like=original, **options)
    return wrapped
