"""A shuffle buffer whose order is a pure function of (seed, epoch, consumer)."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import TypeVar

from torchaug_gen import rng
from torchaug_gen.ranks import Share

T = TypeVar("T")

_CHUNK = 1024


def shuffled(items: Iterable[T], size: int, *, seed: int, epoch: int, consumer: Share) -> Iterator[T]:
    """Yield every item once; each is drawn from the ``size`` that wait.

    Args:
        items: in any order.
        size: how many wait at most, ≥ 1; 1 keeps the order.
        seed: 0 ≤ seed < 2⁶⁴.
        epoch: 0 ≤ epoch < 2³².
        consumer: consumers draw different numbers.
    """
    numbers = _numbers(seed, epoch, consumer)
    waiting: list[T] = []
    for item in items:
        if len(waiting) < size:
            waiting.append(item)
            continue
        place = next(numbers) * size >> 32
        drawn, waiting[place] = waiting[place], item
        yield drawn
    while waiting:
        place = next(numbers) * len(waiting) >> 32
        waiting[place], waiting[-1] = waiting[-1], waiting[place]
        yield waiting.pop()


def _numbers(seed: int, epoch: int, consumer: Share) -> Iterator[int]:
    """Yield random 32-bit integers without end, drawn in chunks because a single draw costs a hundred times more."""
    stream = f"shards.buffer.{consumer.index}/{consumer.count}"
    for chunk in count():
        yield from rng.integers(seed, stream, epoch, chunk, (_CHUNK,), high=1 << 32).flatten().tolist()
