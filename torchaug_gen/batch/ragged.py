"""RaggedImages: a list of images of different sizes that travels between processes and to devices in one piece."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# (C, H, W), and whether all channels are the one that is kept, as of a grey image that was expanded.
Shape = tuple[int, int, int, bool]


class RaggedImages(list[Tensor]):
    """A list of images ``(C, H, W)`` of one dtype whose sizes may differ.

    Where a DataLoader's worker sends it, it goes as one flat tensor, in one piece of shared memory: 64 images sent one
    by one need 64 files, and as many system calls to open and to map each.
    """

    def __copy__(self) -> "RaggedImages":
        return type(self)(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if len({(image.dtype, image.device) for image in self}) != 1:
            return type(self), (list(self),)
        return unpack, pack(self)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "RaggedImages":
        """Return the images on a device, in one copy, which goes there from pinned memory where it does not wait."""
        if not self or all(image.device == device for image in self):
            return self
        if len({(image.dtype, image.device) for image in self}) != 1:
            return type(self)(image.to(device, non_blocking=non_blocking) for image in self)
        flat, shapes = pack(self, pin=non_blocking and device.type == "cuda")
        return unpack(flat.to(device, non_blocking=non_blocking), shapes)


def pack(images: Sequence[Tensor], *, pin: bool = False) -> tuple[Tensor, list[Shape]]:
    """Return images of one dtype and device as a flat tensor, each with its channels last, and their shapes.

    Args:
        images: ``(C, H, W)`` each.
        pin: into pinned memory.
    """
    shapes, parts = [], []
    for image in images:
        repeated = image.shape[0] > 1 and image.stride(0) == 0
        channels, height, width = image.shape
        shapes.append((channels, height, width, repeated))
        parts.append((image[:1] if repeated else image).permute(1, 2, 0).reshape(-1))
    flat = torch.empty(sum(map(len, parts)), dtype=images[0].dtype, device=images[0].device, pin_memory=pin)
    torch.cat(parts, out=flat)
    return flat, shapes


def unpack(flat: Tensor, shapes: Sequence[Shape]) -> RaggedImages:
    """Return what :func:`pack` packed, as views of the flat tensor."""
    sizes = [height * width * (1 if repeated else channels) for channels, height, width, repeated in shapes]
    images = RaggedImages()
    for part, (channels, height, width, repeated) in zip(flat.split(sizes), shapes, strict=True):
        image = part.view(height, width, 1 if repeated else channels).permute(2, 0, 1)
        images.append(image.expand(channels, -1, -1) if repeated else image)
    return images
