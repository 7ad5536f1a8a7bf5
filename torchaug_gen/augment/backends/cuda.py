"""The CUDA backend: Triton kernels over records that reach the device in one copy."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from torchaug_gen.augment.backends import cuda_kernels
from torchaug_gen.augment.backends.cuda_records import Array, Plan, pack, plan, size_of
from torchaug_gen.augment.tables import Tables

logger = logging.getLogger("torchaug_gen")

_TYPES = {
    torch.uint8: tl.uint8,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
}

_TILE = cuda_kernels.TILE_HEIGHT, cuda_kernels.TILE_WIDTH

# Programs along the second and third axis of a grid.
_MOST = (1 << 16) - 1

# A graph copies its tables anew whenever it is replayed, from where they were when it was captured.
_captured: list[Tensor] = []

# What kernels have been compiled for.
_compiled: set[Any] = set()


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

    All tables travel in one copy from pinned memory. A pass takes one kernel, one more for each statistic that follows
    another in a chain, and one more for each SHARPEN. The same sample gets the same bits in whatever batch.

    The call can be captured in a CUDA graph once a call like it has run: replays read the images and write the output
    where they were, with the same tables, which stay in memory for the life of the process.

    Args:
        tables: what to compute; all samples have the output size ``size``.
        images: ``(N, C, H, W)``, or N images ``(C, H, W)`` whose sizes may differ; on one CUDA device, any strides;
            uint8 in 0..255 or floating in [0, 1]. Other floating dtypes than float16 and bfloat16 are read as float32.
        size: height and width of the output.
        dtype: of the output: uint8 (rounded and clamped), float32, float16 or bfloat16.
        memory_format: of the output: ``torch.contiguous_format`` or ``torch.channels_last``.
        out: where to write instead, ``(M, C, h, w)`` of ``dtype`` on the device of the images, any strides.
        rows: ``(N,)`` int64 on the CPU, the rows of ``out`` that the samples go to; by default the first N.

    Returns:
        ``(N, C, h, w)``, or ``out``.

    Raises:
        ValueError: another number of images or channels than the tables', images on a CPU or on several devices,
            outputs of another size, or an ``out`` that does not fit.
        TypeError: images or outputs of a dtype that is not among the above.
    """
    channels = tables.fill.shape[-1]
    if dtype not in _TYPES:
        raise TypeError(f"dtype must be uint8, float16, bfloat16 or float32, got {dtype}")
    if len(images) == 0:
        device = images.device if isinstance(images, Tensor) else None
        return torch.empty((0, channels, *size), dtype=dtype, device=device) if out is None else out
    images = _readable(images)
    sources = _sources(images)
    _check(tables, sources, size)
    if out is None:
        shape = len(images), channels, *size
        out = torch.empty(shape, dtype=dtype, device=sources.device, memory_format=memory_format)
    places = np.arange(len(images)) if rows is None else rows.numpy()
    _check_out(out, places, (channels, *size), dtype, sources.device)
    if out.numel():
        with _on(out.device), _notice((channels, sources.dtype, dtype, out.device)):
            _launch(tables, sources, out, places)
    return out


class _Sources(NamedTuple):
    """Where images are: N addresses, (N, 3) shapes, (N, 3) strides, int64; and what they have in common."""

    addresses: Array
    shapes: Array
    strides: Array
    dtype: torch.dtype
    device: torch.device


def _readable(images: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
    """Return images in one dtype that the kernels read."""
    if isinstance(images, Tensor):
        return images if images.dtype in _TYPES or not images.is_floating_point() else images.float()
    dtypes = {image.dtype for image in images}
    if len(dtypes) == 1 and (dtypes <= _TYPES.keys() or not images[0].is_floating_point()):
        return images
    return [image.float() / 255 if image.dtype is torch.uint8 else image.float() for image in images]


def _sources(images: Tensor | Sequence[Tensor]) -> _Sources:
    n = len(images)
    if isinstance(images, Tensor):
        if images.dim() != 4:
            raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}")
        addresses = images.data_ptr() + np.arange(n) * (images.stride(0) * images.element_size())
        shapes, strides = np.empty((n, 3), np.int64), np.empty((n, 3), np.int64)
        shapes[:], strides[:] = images.shape[1:], images.stride()[1:]
        return _Sources(addresses, shapes, strides, images.dtype, images.device)
    for at, image in enumerate(images):
        if image.dim() != 3:
            raise ValueError(f"images must be (C, H, W), got {tuple(image.shape)} at {at}")
        if image.device != images[0].device:
            raise ValueError(f"images must be on one device, got {images[0].device} at 0 and {image.device} at {at}")
    addresses = np.array([image.data_ptr() for image in images])
    # Four times as fast as an array of tuples.
    shapes, strides = (
        np.fromiter(chain.from_iterable(rows), np.int64, 3 * n).reshape(n, 3)
        for rows in ([image.shape for image in images], [image.stride() for image in images])
    )
    return _Sources(addresses, shapes, strides, images[0].dtype, images[0].device)


def _check(tables: Tables, sources: _Sources, size: tuple[int, int]) -> None:
    channels, shapes = tables.fill.shape[-1], sources.shapes
    if len(shapes) != len(tables):
        raise ValueError(f"images must be as many as the tables have samples, {len(tables)}, got {len(shapes)}")
    if max(len(shapes), channels) > _MOST:
        raise ValueError(f"images may be at most {_MOST}, and as many channels, got {len(shapes)} and {channels}")
    if sources.dtype not in _TYPES:
        raise TypeError(f"images must be uint8 or floating, got {sources.dtype}")
    if sources.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"images must be on a CUDA device, got {sources.device}")
    wrong = np.flatnonzero((shapes[:, 0] != channels) | (shapes == 0).any(1))
    if len(wrong):
        raise ValueError(f"images must be ({channels}, H, W), got {tuple(shapes[wrong[0]].tolist())} at {wrong[0]}")
    # Offsets within an image are computed in 32 bits.
    if ((shapes - 1) * sources.strides).sum(1).max() >= 1 << 31:
        raise ValueError("an image must span fewer than 2**31 values; make it contiguous")
    outputs = tables.size[np.arange(len(tables)), tables.passes - 1]
    if (outputs != size).any():
        at = int((outputs != size).any(1).argmax())
        raise ValueError(f"outputs must have size {tuple(size)}, got {tuple(outputs[at].tolist())} at {at}")


def _check_out(out: Tensor, places: Array, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if out.dim() != 4 or out.shape[1:] != shape or out.dtype is not dtype or out.device != device:
        raise ValueError(
            f"out must be (M, {', '.join(map(str, shape))}) of {dtype} on {device}, "
            f"got {tuple(out.shape)} of {out.dtype} on {out.device}"
        )
    if places.min() < 0 or places.max() >= len(out):
        raise ValueError(f"rows must be in 0..{len(out) - 1}, got {places.min()}..{places.max()}")


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which kernels are launched on a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _notice(what: Any) -> Iterator[None]:
    """Say so where kernels have to be compiled, which takes time on a machine's first use."""
    if what in _compiled or triton.knobs.runtime.interpret:
        yield
        return
    notice = threading.Timer(1.0, logger.warning, ["compiling the CUDA kernels, once for this machine: up to a minute"])
    notice.daemon = True
    notice.start()
    try:
        yield
        _compiled.add(what)
    finally:
        notice.cancel()


def _launch(tables: Tables, sources: _Sources, out: Tensor, places: Array) -> None:
    """Launch the kernels of all steps, each behind those of its statistics."""
    channels, device = tables.fill.shape[-1], out.device
    planned = plan(tables, _TILE)
    scratch = torch.empty(planned.scratch, device=device)
    buffer = _host_buffer(size_of(tables, planned), device)
    pack(
        tables,
        planned,
        buffer.numpy(),
        sources=(sources.addresses, sources.shapes[:, 1:], sources.strides),
        targets=(out.data_ptr() + places * (out.stride(0) * out.element_size()), np.array(out.stride()[1:])),
        scratch=scratch.data_ptr(),
    )
    table = buffer.view(torch.int32).to(device, non_blocking=True)
    partials, histograms = _statistics(planned, channels, device)
    for step, (tiles, barriers) in enumerate(zip(planned.tiles.tolist(), planned.barriers.tolist(), strict=True)):
        options = cuda_kernels.options(channels, step > 0)
        options["SOURCE"] = _TYPES[sources.dtype] if step == 0 else tl.float32
        shared = (table, partials, histograms, planned.words, len(planned.tiles), step, tiles, barriers)
        grid = tiles, len(tables), channels // options["GROUP"]
        if step > 0 and planned.equalizes:
            histograms.zero_()
        for depth in range(barriers):
            cuda_kernels.measure[grid](*shared, depth, **options)
        cuda_kernels.render[grid](*shared, TARGET=_TYPES[out.dtype], **options)


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


def _statistics(planned: Plan, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return memory for partial statistics and for histograms, the latter zeros."""
    samples, most = len(planned.counts), int((planned.barriers * planned.tiles).max())
    partials = torch.empty(samples * most * 2 * channels, device=device)
    bins = samples * int(planned.barriers.max()) * channels * 256 if planned.equalizes else 0
    return partials, torch.zeros(bins, dtype=torch.int32, device=device)
