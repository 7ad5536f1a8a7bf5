"""Shelf: where a pool's blocks lie, each at a place of its own."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.batch import put, take
from torchaug_gen.synthesis.gates.gated import to_host


class Shelf:
    """Blocks of images, uint8, by class and number: block j of a class with T places is at place j mod T.

    Readers and the one writer hold the pool's lock where it says so. On CUDA the writer works on a stream of its own.

    Args:
        places: T of each class.
        shape: ``(block, C, H, W)``.
        device: where blocks lie.
        pinned: on the CPU, in pinned memory.
    """

    def __init__(
        self, places: Sequence[int], shape: Sequence[int], *, device: torch.device | str, pinned: bool = False
    ) -> None:
        self._places = np.array(places, dtype=np.int64)
        self._first = self._places.cumsum() - self._places
        total = int(self._places.sum())
        self._images = torch.empty(total, *shape, dtype=torch.uint8, device=device, pin_memory=pinned)
        self._block = shape[0]
        # Which block lies at each place; number -1 for none.
        self._number = np.full(total, -1, dtype=np.int64)
        self._epoch = np.zeros(total, dtype=np.int64)
        self._seed = np.zeros(total, dtype=np.uint64)
        self._stream: torch.cuda.Stream | None = None
        self._readers: dict[int, torch.cuda.Event] = {}

    def holds(self, label: int, number: int, *, seed: int, epoch: int) -> bool:
        """Say whether a block is there; under the lock."""
        place = self._first[label] + number % self._places[label]
        return bool(self._there(place[None], np.array([number]), seed=seed, epoch=epoch)[0])

    def read(
        self,
        images: Tensor,
        rows: np.ndarray,
        *,
        classes: np.ndarray,
        numbers: np.ndarray,
        within: np.ndarray,
        seed: int,
        epoch: int,
    ) -> np.ndarray:
        """Copy the images that are there into ``rows`` of a batch, and return which were, ``(N,)``; under the lock.

        Args:
            images: ``(B, C, H, W)`` uint8, on the shelf's device.
            rows: ``(N,)`` rows to fill.
            classes: ``(N,)``.
            numbers: ``(N,)`` of the blocks.
            within: ``(N,)`` which image of its block.
            seed: of the blocks.
            epoch: of the blocks.
        """
        places = self._first[classes] + numbers % self._places[classes]
        there = self._there(places, numbers, seed=seed, epoch=epoch)
        if not there.any():
            return there
        source = torch.from_numpy((places * self._block + within)[there])
        flat = self._images.flatten(0, 1)
        put(images, torch.from_numpy(rows[there]), take(flat, source))
        if flat.is_cuda:
            stream = torch.cuda.current_stream(flat.device)
            self._readers.setdefault(stream.cuda_stream, torch.cuda.Event()).record(stream)
        return there

    def aside(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context to draw in: on CUDA a stream of its own."""
        if device.type != "cuda":
            return nullcontext()
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
            # Weights may still be on their way.
            self._stream.wait_stream(torch.cuda.default_stream(device))
        return torch.cuda.stream(self._stream)

    def clear(self, label: int, number: int) -> None:
        """Take away what lies at a block's place; under the lock, before writing."""
        self._number[self._first[label] + number % self._places[label]] = -1
        if self._stream is not None:
            for read in self._readers.values():
                self._stream.wait_event(read)

    def write(self, images: Tensor, label: int, number: int) -> Tensor:
        """Put a block's images at its place, and return them where the shelf is, once they are there."""
        place = self._first[label] + number % self._places[label]
        if images.is_cuda and not self._images.is_cuda:
            images = to_host(images)
        self._images[place].copy_(images)
        if images.is_cuda:
            done = torch.cuda.Event()
            done.record()
            done.synchronize()
        return images

    def mark(self, label: int, number: int, *, seed: int, epoch: int) -> None:
        """Say which block lies at its place from now on; under the lock, after writing."""
        place = self._first[label] + number % self._places[label]
        self._seed[place], self._epoch[place], self._number[place] = seed, epoch, number

    def _there(self, places: np.ndarray, numbers: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        same_epoch = (self._epoch[places] == epoch) & (self._seed[places] == np.uint64(seed))
        return np.asarray(same_epoch & (self._number[places] == numbers))
