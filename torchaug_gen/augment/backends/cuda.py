"""The CUDA backend: Triton kernels over records that reach the device in one copy."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from torchaug_gen.augment.backends import cuda_kernels
from torchaug_gen.augment.backends.cuda_records import Packed, Sources, Steps, pack, scratch_sizes, size_of
from torchaug_gen.augment.tables import Tables

_TYPES = {
    torch.uint8: tl.uint8,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
}

# FP fusion is what the tolerances were measured with; Triton is about to change its default.
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}

_TILE = cuda_kernels.TILE_HEIGHT, cuda_kernels.TILE_WIDTH

# A graph copies its tables anew whenever it is replayed, from where they were when it was captured.
_captured: list[Tensor] = []


def run(
    tables: Tables,
    images: Tensor | Sequence[Tensor],
    *,
    size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    out: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Compute the output of every sample, on the current stream and without waiting for it.

    All tables travel in one copy from pinned memory. Every step of the samples takes one kernel, and one more for
    each statistic that follows another in a chain. The same tables and images give the same bits, in whatever batch.

    The call can be captured in a CUDA graph: replays read the images and write the output where they were, with the
    same tables, which stay in memory for the life of the process.

    Args:
        tables: what to compute; all samples have the output size ``size``.
        images: ``(N, C, H, W)``, or N images ``(C, H, W)`` whose sizes may differ; on one CUDA device, any strides;
            uint8, float16, bfloat16 or float32 (others are read as float32).
        size: height and width of the output.
        dtype: of the output: uint8 (rounded and clamped), float32, float16 or bfloat16.
        memory_format: of the output: ``torch.contiguous_format`` or ``torch.channels_last``.
        out: where to write instead, ``(M, C, h, w)`` of ``dtype``, any strides.
        rows: ``(N,)`` int64 on the CPU, the rows of ``out`` that the samples go to; by default the first N.

    Returns:
        ``(N, C, h, w)``, or ``out``.

    Raises:
        ValueError: another number of images or channels than the tables', images on a CPU or on several devices, or
            an ``out`` that does not fit.
        TypeError: a dtype that is not among the above.
    """
    images = _readable(images)
    _check(tables, images, size, dtype, out)
    channels, device = tables.fill.shape[-1], images[0].device if len(images) else None
    if out is None:
        out = torch.empty((len(images), channels, *size), dtype=dtype, device=device, memory_format=memory_format)
    if len(images) == 0 or out.numel() == 0:
        return out
    with _on(out.device):
        _launch(tables, images, out, np.arange(len(images)) if rows is None else rows.numpy())
    return out


def _readable(images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Return images detached, of one dtype that the kernels read."""
    if isinstance(images, Tensor):
        return images.detach() if images.dtype in _TYPES else images.detach().float()
    images = [image.detach() for image in images]
    if len({image.dtype for image in images}) <= 1 and (not images or images[0].dtype in _TYPES):
        return images
    return [image.float() / 255 if image.dtype is torch.uint8 else image.float() for image in images]


def _check(
    tables: Tables, images: Tensor | list[Tensor], size: tuple[int, int], dtype: torch.dtype, out: Tensor | None
) -> None:
    channels = tables.fill.shape[-1]
    if len(images) != len(tables):
        raise ValueError(f"images must be as many as the tables have samples, {len(tables)}, got {len(images)}")
    if dtype not in _TYPES:
        raise TypeError(f"dtype must be uint8, float16, bfloat16 or float32, got {dtype}")
    for n, image in enumerate(images[:1] if isinstance(images, Tensor) else images):
        if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(f"images must be ({channels}, H, W), got {tuple(image.shape)} at {n}")
        if image.device != images[0].device or not (image.is_cuda or triton.knobs.runtime.interpret):
            raise ValueError(f"images must be on one CUDA device, got {image.device} at {n}")
        reach = sum(step * (side - 1) for step, side in zip(image.stride(), image.shape, strict=True))
        if reach >= 1 << 31:
            raise ValueError(f"an image must span fewer than 2**31 values, got {tuple(image.shape)} at {n}")
    if out is None:
        return
    if out.dtype is not dtype or out.shape[1:] != (channels, *size) or (len(images) and out.device != images[0].device):
        raise ValueError(
            f"out must be (M, {channels}, {size[0]}, {size[1]}) of {dtype} beside the images, "
            f"got {tuple(out.shape)} of {out.dtype} on {out.device}"
        )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which kernels are launched on a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _launch(tables: Tables, images: Tensor | list[Tensor], out: Tensor, rows: Any) -> None:
    """Launch the kernels of all steps, each behind those of its statistics."""
    channels, device = tables.fill.shape[-1], out.device
    sources, steps = Sources.of(images), Steps.of(tables)
    sizes = scratch_sizes(tables, steps)
    scratch = torch.empty(int(sizes.sum()), device=device)
    buffer = _host_buffer(size_of(tables, steps), device)
    packed = pack(
        tables,
        sources,
        steps,
        targets=out.data_ptr() + rows * (out.stride(0) * out.element_size()),
        strides=out.stride()[1:],
        scratch=scratch.data_ptr() + 4 * (np.cumsum(sizes) - sizes.reshape(-1)).reshape(sizes.shape),
        tile=_TILE,
        buffer=buffer.numpy(),
    )
    table = buffer.view(torch.int32).to(device, non_blocking=True)
    partials, histograms = _statistics(packed, len(tables), channels, device)
    constants = cuda_kernels.constants(channels)
    programs = len(tables) * (channels // constants["GROUP"])
    for step, (tiles, barriers) in enumerate(zip(packed.tiles, packed.barriers, strict=True)):
        first = _TYPES[sources.dtype] if step == 0 else tl.float32
        shared = (table, partials, histograms, packed.record, steps.of_pass.shape[1], step, tiles, barriers)
        options = {**constants, "SOURCE": first, "LATER": step > 0, **_OPTIONS}
        if step > 0 and packed.equalizes:
            histograms.zero_()
        for depth in range(barriers):
            cuda_kernels.measure[(programs * tiles,)](*shared, depth, **options)
        cuda_kernels.render[(programs * tiles,)](*shared, TARGET=_TYPES[out.dtype], **options)


def _host_buffer(size: int, device: torch.device) -> Tensor:
    """Return host memory that a copy to the device does not wait for.

    PyTorch's allocator gives pinned memory out again only when the copies from it are done.
    """
    if device.type != "cuda":
        return torch.empty(size, dtype=torch.uint8)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(buffer)
    return buffer


def _statistics(packed: Packed, samples: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return memory for partial statistics and for histograms, the latter zeros."""
    most = max(barriers * tiles for barriers, tiles in zip(packed.barriers, packed.tiles, strict=True))
    partials = torch.empty(samples * most * 2 * channels, device=device)
    bins = samples * max(packed.barriers) * channels * 256 if packed.equalizes else 0
    return partials, torch.zeros(bins, dtype=torch.int32, device=device)


def tile_count(size: tuple[int, int]) -> int:
    """Return how many tiles an output has."""
    return math.prod(-(-side // edge) for side, edge in zip(size, _TILE, strict=True))
