"""Refill: work done ahead in a thread that lives only while there is some."""

import os
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# How long a fork waits for a job to end, in seconds.
_PATIENCE = 10.0


class Refill(Generic[Key, Value]):
    """Do jobs one after the other in a background thread.

    The thread starts with a job and ends with the last: none is left behind. It stops between jobs when the program
    ends, or when the object whose method does them is gone. In a process that is forked off there is none, and
    nothing asked for; the fork waits for the job that runs, which may hold locks of native libraries.

    A job that failed while nobody waited for it, unless for want of memory, is not tried again: whoever needs it is
    told.

    Args:
        work: a bound method that does a job, given its key. It is held weakly.

    Attributes:
        lock: held only for moments, by this and by whoever shares data with the job; a new one after a fork.
        busy: held while a job is done.
    """

    def __init__(self, work: Callable[[Key], Value]) -> None:
        self._work = weakref.WeakMethod(work)
        self.reset()
        _EVERY.add(self)

    def reset(self) -> None:
        """Forget all jobs, as in a process that was forked off, where no thread does them."""
        self.lock, self.busy = threading.Lock(), threading.RLock()
        self._pending: OrderedDict[Key, Future[Value]] = OrderedDict()
        self._awaited: set[Key] = set()
        self._failed: dict[Key, Future[Value]] = {}
        self._thread: threading.Thread | None = None

    def ask(self, key: Key, *, urgent: bool) -> tuple[Future[Value], bool]:
        """Return the future of a job, and whether it was asked for before.

        Args:
            key: of the job.
            urgent: do it before all that are not.
        """
        with self.lock:
            if (failed := self._failed.get(key)) is not None:
                if urgent:
                    del self._failed[key]
                return failed, True
            known = key in self._pending
            future = self._pending.setdefault(key, Future())
            if urgent:
                self._awaited.add(key)
                if not future.running():
                    self._pending.move_to_end(key, last=False)
            if self._thread is None:
                thread = threading.Thread(target=_run, args=(self,), name="torchaug_gen pool")
                thread.start()
                self._thread = thread
        return future, known

    def rest(self) -> None:
        """Forget the jobs that nobody waits for, but not the one that runs."""
        with self.lock:
            for key, future in list(self._pending.items()):
                if key not in self._awaited and not future.running():
                    del self._pending[key]

    def take(self) -> Key | None:
        """Return the next job, or ``None`` where the thread is to end."""
        with self.lock:
            # The program ends: whoever still waits hears of it.
            if not threading.main_thread().is_alive():
                for future in self._pending.values():
                    future.cancel()
                self._pending.clear()
                self._awaited.clear()
            for key, future in self._pending.items():
                if future.set_running_or_notify_cancel():
                    return key
            self._thread = None
            return None

    def finish(self, key: Key) -> bool:
        """Do a job, and say whether it could be done: not where the worker is gone."""
        future = self._pending[key]
        work = self._work()
        if work is None:
            with self.lock:
                self._thread = None
            return False
        try:
            with self.busy, torch.no_grad():
                value = work(key)
        except BaseException as error:
            if error.__traceback__ is not None:
                # It says where, and need not hold what was there.
                traceback.clear_frames(error.__traceback__.tb_next)
            with self.lock:
                # Memory may suffice once it is needed; where not, that one failure is enough to halve a chunk for all.
                if key not in self._awaited and not isinstance(error, torch.OutOfMemoryError):
                    self._failed[key] = future
            self._forget(key)
            future.set_exception(error)
            # The error's traceback holds this frame: without the names it holds neither itself nor the worker.
            del future, work
        else:
            self._forget(key)
            future.set_result(value)
        return True

    def _forget(self, key: Key) -> None:
        with self.lock:
            self._pending.pop(key, None)
            self._awaited.discard(key)


def _run(refill: Refill[Any, Any]) -> None:
    if not torch.cuda.is_available():
        _stay_single()
    while (key := refill.take()) is not None:
        if not refill.finish(key):
            return


def _stay_single() -> None:
    """Keep this thread from starting a team of OpenMP threads beside that of a training on the CPU.

    Two teams are more threads than cores, which makes libgomp stop spinning at barriers: steps of many small operations
    then take several times as long.
    """
    # Asked first: a thread takes the process's number when it first needs it, and would forget ours then.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # That set the process's number too. Setting it back here would set this thread's, so another does.
    restore = threading.Thread(target=torch.set_num_threads, args=(threads,), name="torchaug_gen pool")
    restore.start()
    restore.join()


_EVERY: "weakref.WeakSet[Refill[Any, Any]]" = weakref.WeakSet()
_paused = threading.local()


def _before_fork() -> None:
    _paused.locks = [refill.busy for refill in list(_EVERY) if refill.busy.acquire(timeout=_PATIENCE)]


def _after_fork_in_parent() -> None:
    for lock in _paused.locks:
        lock.release()
    _paused.locks = []


def _after_fork_in_child() -> None:
    _paused.locks = []
    for refill in list(_EVERY):
        refill.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
