"""Threads that read ahead, where each read waits for a network."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from torchaug_gen.shards.stopping import Stop

In = TypeVar("In")
Out = TypeVar("Out")


class Promise(Generic[Out]):
    """What a thread will have read."""

    def __init__(self, work: Callable[[], Out]) -> None:
        self._work = work
        self._done = threading.Event()
        self._value: Any = None
        self._error: Exception | None = None

    def fulfil(self) -> None:
        """Do the work; its error waits for whoever asks for the value."""
        try:
            self._value = self._work()
        except Exception as error:
            self._error = error
        self._done.set()

    def value(self) -> Out:
        """Return the value, or raise the error."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        value: Out = self._value
        return value


def read_ahead(
    read: Callable[[In], Out], wanted: Iterable[In], *, threads: int, depth: int
) -> Generator[tuple[In, Callable[[], Out]], None, None]:
    """Yield each of ``wanted`` with a function that returns what ``read`` makes of it, in order.

    The threads end with the generator, within a moment where it is closed early.

    Args:
        read: is called in several threads at a time.
        wanted: what to read.
        threads: how many.
        depth: how many reads are under way or done at most, before they are asked for.
    """
    queue: SimpleQueue[Promise[Out] | None] = SimpleQueue()
    stop = Stop()

    def work() -> None:
        stop.heed()
        while (promise := queue.get()) is not None and not stop.is_set():
            promise.fulfil()

    # Daemons: a process that ends does not wait for a server that does not answer.
    for _ in range(threads):
        threading.Thread(target=work, daemon=True, name="torchaug_gen shards").start()
    waiting: deque[tuple[In, Promise[Out]]] = deque()
    try:
        for one in wanted:
            promise = Promise(lambda one=one: read(one))  # type: ignore[misc]
            queue.put(promise)
            waiting.append((one, promise))
            if len(waiting) > depth:
                first, oldest = waiting.popleft()
                yield first, oldest.value
        while waiting:
            first, oldest = waiting.popleft()
            yield first, oldest.value
    finally:
        stop.set()
        for _ in range(threads):
            queue.put(None)
