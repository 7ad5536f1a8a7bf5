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
from torchaug_gen.augment.backends.crew import Crew
from torchaug_gen.augment.tables import Tables

logger = logging.getLogger("torchaug_gen")

KINDS = {torch.uint8: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}

# More slices than threads, so that a thread that is held up does not hold up the batch.
_SLICES_PER_THREAD = 8

_buffers = Buffers()
_scratch = threading.local()
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
    floats, words = _scratch_sizes(tables, channels)
    kernel = _kernel()

    def work(first: int, last: int) -> None:
        kernel(first, last, *arguments, *_scratch_memory(floats, words))

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


def _scratch_sizes(tables: Tables, channels: int) -> tuple[int, int]:
    """Return how many floats and words a thread needs: the largest results and windows."""
    results = 2 * channels * int(tables.size.astype(np.int64).prod(axis=2).max())
    # A window reaches beyond the canvas by the legal coordinates, the widest tent and a margin.
    reach = 2 * (2 * int(np.ceil(tables.radius.max())) + 5)
    width, height = (tables.canvas[..., axis + 2] - tables.canvas[..., axis] + reach for axis in range(2))
    window = int((width.astype(np.int64) * height).max())
    return results + channels * window, window


def _scratch_memory(floats: int, words: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32]]:
    """Return this thread's scratch memory, which grows and stays."""
    if getattr(_scratch, "floats", None) is None or len(_scratch.floats) < floats:
        _scratch.floats = np.empty(floats, np.float32)
    if getattr(_scratch, "words", None) is None or len(_scratch.words) < words:
        _scratch.words = np.empty(words, np.uint32)
    return _scratch.floats, _scratch.words


@cache
def _kernel() -> Any:
    """Return the compiled kernel, and say so where that takes time, on a machine's first use."""
    from torchaug_gen.augment.backends import cpu_kernels

    notice = threading.Timer(1.0, logger.warning, ["compiling the CPU kernels, once for this machine: up to a minute"])
    notice.daemon = True
    notice.start()
    try:
        # Named, since the arguments hold but their addresses.
        image, output = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        tables = Tables.empty(1, 1, 1, 1, 1)
        tables.size[:], tables.matrix[:], tables.canvas[:] = 1, np.eye(3), (0, 0, 1, 1)
        arguments = _arguments(tables, image, output, 1)
        cpu_kernels.run_samples(0, 1, *arguments, *_scratch_memory(*_scratch_sizes(tables, 1)))
    finally:
        notice.cancel()
    return cpu_kernels.run_samples
