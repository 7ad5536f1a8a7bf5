"""Output buffers that are used again once nobody looks at them any more.

A fresh tensor of 38 MB costs over 9,000 page faults, which take longer than augmenting the batch that goes into it.
"""

import math
import threading
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Smaller ones come fast from the allocator, which keeps them too.
_SMALLEST = 1 << 18
# How many free buffers of one size are kept: a consumer seldom holds more batches than this at a time.
_MOST_KEPT = 4

_ITEMSIZE = {torch.uint8: 1, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}


class Buffers:
    """Gives out memory and takes it back when the last tensor that shows it dies."""

    def __init__(self) -> None:
        self._free: dict[int, deque[npt.NDArray[np.uint8]]] = {}
        self._lock = threading.RLock()

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Return an uninitialised ``(N, C, H, W)`` CPU tensor.

        Args:
            shape: N, C, H, W.
            dtype: uint8, float32, float16 or bfloat16.
            memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.
        """
        size = math.prod(shape) * _ITEMSIZE[dtype]
        if size < _SMALLEST:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format)
        with self._lock:
            free = self._free.get(size)
            base = free.pop() if free else np.empty(size, np.uint8)
        # Every tensor that shares the storage keeps this view alive, and nothing else does.
        view = base.view()
        weakref.finalize(view, self._give_back, base).atexit = False
        tensor = torch.from_numpy(view).view(dtype)
        if memory_format == torch.channels_last:
            n, c, h, w = shape
            return tensor.view(n, h, w, c).permute(0, 3, 1, 2)
        return tensor.view(shape)

    def _give_back(self, base: npt.NDArray[np.uint8]) -> None:
        # May run in any thread, also in the middle of ``empty`` where garbage is collected: the lock is reentrant.
        with self._lock:
            free = self._free.setdefault(base.nbytes, deque())
            if len(free) < _MOST_KEPT:
                free.append(base)
            # Sizes that have gone out of use would stay for ever.
            for size in [size for size in self._free if size != base.nbytes][:-_MOST_KEPT]:
                del self._free[size]
