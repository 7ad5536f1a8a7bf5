"""What no contestant can beat on this machine, measured in the same rounds: copying, decoding, multiplying.

Each function returns a name and the work to put beside the contestants; :func:`benchmarks.common.case` is then told the
name, takes the row out, and gives every contestant's share of it::

    name, work = limits.copying(bytes_per_item, items=batch_size)
    rates = common.interleave({**contestants, name: work}, rounds=9)
    common.case(rates, baseline=..., limit=name)
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

Work = Callable[[], int]

# What one call moves or multiplies at least, so that a round lasts milliseconds and not microseconds.
_BYTES, _OPERATIONS = 1 << 28, 1 << 32
# The edge of the square matrices: large enough for the best rate, small enough to stay in a cache of the second level.
_EDGE = 512
_BUFFERS = 4


def copying(bytes_per_item: int, *, items: int, device: str = "cpu") -> tuple[str, Work]:
    """Return the limit of what moves memory: copying as many bytes, and nothing else.

    The working set is that of a batch, since what stays in a cache is copied faster than what does not.

    Args:
        bytes_per_item: read and written by whoever reads each input once and writes each output once.
        items: in a batch.
        device: where the memory is.
    """
    half = max(1, bytes_per_item * items // 2)
    sources = [torch.ones(half, dtype=torch.uint8, device=device) for _ in range(_BUFFERS)]
    target = torch.empty_like(sources[0])
    passes = -(-_BYTES // (2 * half * _BUFFERS))

    def work() -> int:
        for _ in range(passes):
            for source in sources:
                target.copy_(source)
        finish(target)
        return passes * _BUFFERS * items

    return f"copying {said_bytes(bytes_per_item)} an image", work


def decoding(folder: Path | str, *, workers: int = 0, most: int = 512) -> tuple[str, Work]:
    """Return the limit of what reads JPEG files: the decoder alone, on files that are in memory.

    Args:
        folder: with the files, anywhere below it.
        workers: threads that decode; 0 for one on each core.
        most: how many of the files, evenly chosen.

    Raises:
        FileNotFoundError: there are no JPEG files.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise FileNotFoundError(f"expected a folder with .jpg files, found none under {folder}")
    chosen = paths[:: -(-len(paths) // most)]
    files = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in chosen]
    threads = workers or (os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)

    def share(first: int) -> None:
        for content in files[first::threads]:
            decode_jpeg(content, mode=ImageReadMode.RGB)

    def work() -> int:
        list(pool.map(share, range(threads)))
        return len(files)

    return f"the decoder alone, {threads} thread{'s' if threads > 1 else ''}", work


def multiplying(net: nn.Module, *inputs: Tensor, share: float = 1.0) -> tuple[str, Work]:
    """Return the limit of what runs a network: as many multiplications, in products of square float32 matrices.

    What computes in bfloat16, or with TensorFloat-32, may beat it.

    Args:
        net: the network.
        *inputs: of one batch, rows first.
        share: of the images that go through the network.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(*inputs)
    per_item: float = counter.get_total_flops() / len(inputs[0]) * share
    left, right = torch.ones(2, _EDGE, _EDGE, device=inputs[0].device)
    product = torch.empty_like(left)
    count = -(-_OPERATIONS // (2 * _EDGE**3))

    def work() -> int:
        for _ in range(count):
            torch.mm(left, right, out=product)
        finish(product)
        return int(count * 2 * _EDGE**3 / per_item)

    return f"{per_item / 1e6:,.0f} million operations an image, as products of float32 matrices", work


def finish(tensor: Tensor) -> None:
    """Wait until the device has done what it was told, where it is one that is told."""
    if tensor.is_cuda:
        torch.cuda.synchronize()


def said_bytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:.2g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"
