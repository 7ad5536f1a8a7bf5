"""Ending DataLoader workers in time, also where one was killed."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data._utils import signal_handling

# torch waits five seconds for each worker that is busy with an item; all of them together get this many.
PATIENCE = 1.0


def end(iterator: Any) -> None:
    """Stop the workers of a DataLoader's iterator, by force where they do not end within a second."""
    workers = getattr(iterator, "_workers", None)
    if not workers or getattr(iterator, "_shutdown", True):
        return
    if died(iterator):
        abandon(iterator)
        return
    _forget_pids(iterator)
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


def end_broken(loader: Any) -> None:
    """Do so where one of the persistent workers died, or all were stopped for that: they serve no pass any more."""
    iterator = vars(loader).get("_iterator")
    if iterator is not None and (getattr(iterator, "_shutdown", False) or died(iterator)):
        end_persistent(loader)


def died(iterator: Any, error: Exception | None = None) -> bool:
    """Say whether a worker of a DataLoader's iterator was killed, or crashed.

    Args:
        iterator: the DataLoader's.
        error: what it raised, which may be known before the end of the process that it comes from.
    """
    workers = getattr(iterator, "_workers", ())
    if workers and (isinstance(error, OSError | EOFError) or str(error).startswith("DataLoader worker")):
        # torch's signal handler may raise what is known already wherever this thread is.
        with suppress(RuntimeError):
            ended = wait([worker.sentinel for worker in workers], timeout=PATIENCE)
            for worker in workers:
                if worker.sentinel in ended:
                    # Its files are closed a little before it can be told how it ended.
                    worker.join(PATIENCE)
    return any(worker.exitcode not in (None, 0) for worker in workers)


def abandon(iterator: Any) -> None:
    """Stop an iterator one of whose workers died, without asking it to stop itself.

    The worker may have held a lock of a queue or of an event, for which torch's own shutdown would wait for ever.
    """
    iterator._shutdown = True
    _forget_pids(iterator)
    if hasattr(iterator, "_pin_memory_thread_done_event"):
        # The thread looks at it every five seconds, and is a daemon.
        iterator._pin_memory_thread_done_event.set()
    _terminate(iterator._workers)
    for worker in iterator._workers:
        worker.join(PATIENCE / len(iterator._workers))
        if worker.is_alive():
            worker.kill()
            worker.join(PATIENCE)
    for queue in (*iterator._index_queues, iterator._worker_result_queue):
        # What lies in them goes nowhere any more.
        queue.cancel_join_thread()
        queue.close()


def _forget_pids(iterator: Any) -> None:
    """Have torch's signal handler not raise, wherever this thread is, for workers that we end."""
    if getattr(iterator, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
        iterator._worker_pids_set = False


def _terminate(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        with suppress(ValueError):  # closed meanwhile
            if worker.is_alive():
                worker.terminate()
