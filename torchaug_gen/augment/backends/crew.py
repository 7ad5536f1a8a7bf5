"""Crew: threads that help a call, and go home when there is nothing to do."""

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

# Seconds: longer than a consumer takes between two batches, mostly, and shorter than anyone waits for an end.
_PATIENCE = 1.0

_Job = tuple[Future[None], Callable[[], None]]


class Crew:
    """Run jobs on threads that end when they were idle for a second.

    An executor of the standard library keeps its threads for the life of the process; and in a forked child it waits
    for threads that only the parent has. Here a child starts with none.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Start ``work()`` on a thread, and return its future."""
        if self._process != os.getpid():
            self._reset()
        future: Future[None] = Future()
        self._jobs.put((future, work))
        with self._lock:
            starts = self._idle < self._jobs.qsize()
        if starts:
            threading.Thread(target=self._run, args=(self._jobs,), name="torchaug_gen-cpu", daemon=True).start()
        return future

    def _run(self, jobs: "queue.SimpleQueue[_Job]") -> None:
        while (job := self._wait(jobs)) is not None:
            future, work = job
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            # Idle threads must not keep the last batch alive.
            del job, future, work

    def _wait(self, jobs: "queue.SimpleQueue[_Job]") -> _Job | None:
        """Return the next job, or ``None`` where none came for a while."""
        with self._lock:
            self._idle += 1
        try:
            job = jobs.get(timeout=_PATIENCE)
        except queue.Empty:
            job = None
        with self._lock:
            self._idle -= 1
            # One may have come in between, and its sender have counted on this thread.
            stays = job is None and not jobs.empty()
        return self._wait(jobs) if stays else job
