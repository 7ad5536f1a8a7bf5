"""Ending DataLoader workers in time."""

import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

# torch waits five seconds for each worker that is busy with an item; all of them together get this many.
PATIENCE = 1.0


def end(iterator: Any) -> None:
    """Stop the workers of a DataLoader's iterator, by force where they do not end within a second."""
    workers = getattr(iterator, "_workers", None)
    if not workers or getattr(iterator, "_shutdown", True):
        return
    timer = threading.Timer(PATIENCE, _terminate, [workers])
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:
        # The interpreter is shutting down, and starts no thread any more.
        _terminate(workers)
    try:
        iterator._shutdown_workers()
    finally:
        timer.cancel()


def end_persistent(loader: Any) -> None:
    """Stop the persistent workers of a DataLoader, so that its next iterator starts others."""
    iterator = vars(loader).get("_iterator")
    vars(loader)["_iterator"] = None
    end(iterator)


def _terminate(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
