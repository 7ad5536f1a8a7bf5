"""The tensors of a batch, and where they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.batch.ragged import RaggedImages
from torchaug_gen.batch.structure import Path, leaves_of, never, replace


def move(batch: Any, device: torch.device) -> Any:
    """Return the batch with all its tensors on ``device``; copies to a CUDA device go through pinned memory.

    Fields of other types that have ``to(device)``, such as graphs, are moved by that.
    """
    moved: dict[Path, Any] = {}
    for path, value in leaves_of(batch, (), _is_ragged):
        if isinstance(value, RaggedImages):
            # One copy for all of them.
            moved[path] = value.to(device, non_blocking=True)
        elif isinstance(value, Tensor):
            moved[path] = to_device(value, device)
        elif _is_movable(value):
            moved[path] = value.to(device)
    return replace(batch, moved)


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield all tensors in a batch, also those that fields with ``to(device)`` have as attributes."""
    waiting, seen = [batch], set[int]()
    while waiting:
        for _, value in leaves_of(waiting.pop(), (), never):
            if isinstance(value, Tensor):
                yield value
            elif _is_movable(value) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(dict(getattr(value, "__dict__", {})))


def _is_movable(value: Any) -> bool:
    return callable(getattr(value, "to", None)) and not isinstance(value, type)


def _is_ragged(path: Path, value: Sequence[Any]) -> bool:
    return isinstance(value, RaggedImages)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor, in its dtype, without making the host wait for a CUDA device."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.layout is torch.strided:
        # Only from pinned memory the host need not wait; asking for it starts CUDA, so it is asked only here.
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)
    return tensor.to(device)
