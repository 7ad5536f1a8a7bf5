"""The CPU backend: compiled kernels on a pool of threads, slice by slice of the batch."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.backends.buffers import Buffers
from torchaug_gen.augment.backends.cpu_kernels import ARENA, CHAIN, TILE, WARP, run_samples
from torchaug_gen.augment.backends.crew import Crew
from torchaug_gen.augment.tables import Tables

logger = logging.getLogger("torchaug_gen")

KINDS = {torch.uint8: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}

# More slices than threads, so that a thread that is held up does not hold up the batch.
_SLICES_PER_THREAD = 8

# Outputs above this size would push everything else out of the caches, and are written past them.
_STREAMED = 1 << 21

_CACHE_LINE = 64


class _Scratch(threading.local):
    """Each thread's scratch memory, which grows and stays, and the records of the kernels' state."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._states = np.zeros(1, WARP), np.zeros(1, CHAIN), np.zeros(1, ARENA)

    def records(self, size: int) -> tuple[npt.NDArray[Any], ...]:
        """Return the states of warp, chain and arena, the last with ``size`` bytes to hand out."""
        if len(self._memory) < size + _CACHE_LINE:
            self._memory = np.empty(size + _CACHE_LINE, np.uint8)
        begin = -(-self._memory.ctypes.data // _CACHE_LINE) * _CACHE_LINE
        self._states[2]["next"], self._states[2]["end"] = begin, begin + size
        return self._states


_buffers = Buffers()
_scratch = _Scratch()
_crew = Crew()


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
    """Compute the output of every sample.

    Args:
        tables: what to compute; all samples have the output size ``size``.
        images: ``(N, C, H, W)``, or N images ``(C, H, W)`` whose sizes may differ; CPU, uint8 or floating, any strides.
        size: height and width of the output.
        dtype: of the output: uint8 (rounded and clamped), float32, float16 or bfloat16.
        memory_format: of the output: ``torch.contiguous_format`` or ``torch.channels_last``.
        out: where to write instead, ``(M, C, h, w)`` of ``dtype``.
        rows: ``(N,)`` int64, the rows of ``out`` that the samples go to; by default the first N.

    Returns:
        ``(N, C, h, w)``, or ``out``. Its memory is used again for a later batch once no tensor shows it any more.
    """
    images = _readable(images)
    channels = int(images[0].shape[0]) if len(images) else 0
    output = empty((len(images), channels, *size), dtype, memory_format) if out is None else out
    if not (len(images) and output.numel()):
        return output
    arguments = _arguments(tables, images, output, channels, rows)
    scratch = _scratch_size(tables, channels)
    kernel = _kernel()

    def work(first: int, last: int) -> None:
        if not kernel(first, last, *arguments, *_scratch.records(scratch)):
            raise RuntimeError(f"{scratch} bytes of scratch memory are too few for samples {first} to {last - 1}")

    spread(len(images), work)
    return output


def spread(n: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for slices that cover ``0..n``, on as many threads as PyTorch uses in this one.

    The caller's thread takes its share. An error in any slice is raised.
    """
    threads = min(torch.get_num_threads(), n)
    if threads <= 1:
        work(0, n)
        return
    edges = np.linspace(0, n, min(n, threads * _SLICES_PER_THREAD) + 1).astype(int).tolist()
    slices = list(pairwise(edges))

    def take() -> None:
        while slices:
            try:
                # Atomic, also where another thread has taken the last one since.
                first, last = slices.pop()
            except IndexError:
                return
            work(first, last)

    jobs = [_crew.submit(take) for _ in range(threads - 1)]
    take()
    for job in jobs:
        job.result()


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Return an uninitialised ``(N, C, H, W)`` tensor whose memory is used again once no tensor shows it any more."""
    return _buffers.empty(shape, dtype, memory_format)


def _readable(images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Return images as the kernels read them: detached, uint8 or float32."""
    if isinstance(images, Tensor):
        images = images.detach()
        return images if images.dtype in (torch.uint8, torch.float32) else images.float()
    images = [image.detach() for image in images]
    if all(image.dtype is torch.uint8 for image in images) or all(image.dtype is torch.float32 for image in images):
        return images
    return [image.float() / 255 if image.dtype is torch.uint8 else image.float() for image in images]


def _arguments(
    tables: Tables, images: Tensor | list[Tensor], output: Tensor, channels: int, rows: Tensor | None = None
) -> tuple[Any, ...]:
    """Return what the kernels take, in their order."""
    n = len(images)
    if isinstance(images, Tensor):
        itemsize, step = images.element_size(), images.stride(0)
        sources = images.data_ptr() + np.arange(n, dtype=np.int64) * (step * itemsize)
        # Filled, not broadcast: a read-only array would be another type, and compiled for once more.
        shapes, strides = np.empty((n, 2), np.int64), np.empty((n, 3), np.int64)
        shapes[:], strides[:] = images.shape[2:], images.stride()[1:]
        kind = KINDS[images.dtype]
    else:
        sources = np.array([image.data_ptr() for image in images], np.int64)
        shapes = np.array([image.shape[1:] for image in images], np.int64)
        strides = np.array([image.stride() for image in images], np.int64)
        kind = KINDS[images[0].dtype]
    places = np.arange(n, dtype=np.int64) if rows is None else rows.numpy()
    outputs = output.data_ptr() + places * (output.stride(0) * output.element_size())
    return (
        channels,
        sources,
        shapes,
        strides,
        kind,
        outputs,
        np.array(output.stride()[1:], np.int64),
        KINDS[output.dtype],
        int(output.nbytes >= _STREAMED),
        tables.passes,
        tables.size,
        tables.matrix,
        tables.filter,
        tables.radius,
        tables.padding,
        tables.fill,
        tables.canvas,
        tables.canvas_padding,
        tables.links,
        tables.codes,
        tables.arguments,
        tables.keys,
        tables.positions,
        tables.epoch,
    )


def _scratch_size(tables: Tables, channels: int) -> int:
    """Return how many bytes of scratch memory any slice of the batch needs at most."""
    sizes = tables.size.astype(np.int64)
    height, width = int(sizes[..., 0].max()), int(sizes[..., 1].max())
    longest, tile = max(height, width), channels * max(TILE, width)
    # A window reaches beyond the canvas by the legal coordinates, the widest tent and a margin.
    radius = int(np.ceil(tables.radius.max()))
    reach = 2 * (2 * radius + 5)
    columns, rows = (
        tables.canvas[..., axis + 2].astype(np.int64) - tables.canvas[..., axis] + reach for axis in range(2)
    )
    window = channels * int((columns * rows).max()) + int(columns.max() + rows.max())
    results = 2 * channels * int(sizes.prod(axis=-1).max())
    taps = 2 * radius + 2
    lines = (20 + 2 * taps + taps * channels) * longest
    arguments = tables.arguments.shape[-1]
    size: int = 4 * (2 * tile + results + window + lines + arguments + 4 * taps) + 4096 * channels + 8192
    return size


@cache
def _kernel() -> Any:
    """Return the compiled kernel, and say so where that takes time, on a machine's first use."""
    notice = threading.Timer(1.0, logger.warning, ["compiling the CPU kernels, once for this machine: about 20 s"])
    notice.daemon = True
    notice.start()
    try:
        # Named, since the arguments hold but their addresses.
        image, output = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        tables = Tables.empty(1, 1, 1, 1, 1)
        tables.size[:], tables.matrix[:], tables.canvas[:] = 1, np.eye(3), (0, 0, 1, 1)
        arguments = _arguments(tables, image, output, 1)
        run_samples(0, 1, *arguments, *_scratch.records(_scratch_size(tables, 1)))
    finally:
        notice.cancel()
    return run_samples
