"""A contestant in a process of its own: no library meets another's threads, and one that hangs can be ended."""

import multiprocessing
import os
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants.base import RECIPES, Batches, Contestant, Unsupported, build

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Remote:
    """A contestant for all recipes, with a fixed number of threads.

    Args:
        name: one of ``NAMES``.
        folder: where the photographs are, as ``prepare`` writes them.
        threads: how many it may use.
        pin: whether it is kept on so many cores, whatever threads it starts.
        device: where it works.
    """

    def __init__(self, name: str, folder: Path, *, threads: int, pin: bool, device: str) -> None:
        self.name = name
        self._arguments = {"name": name, "folder": folder, "threads": threads, "pin": pin, "device": device}
        self._process: Any = None
        self._connection: Any = None

    def prepare(self, recipe: str, *, batch_size: int, batches: int, limit: float) -> tuple[str, int]:
        """Set up a recipe, run it twice to compile what compiles, and return its note and the least batches of a round.

        Args:
            recipe: its name.
            batch_size: images per batch.
            batches: how many different ones.
            limit: seconds after which the process is ended.

        Raises:
            Unsupported: there is no such recipe, or it failed, or it took too long. Says why.
        """
        try:
            answer: tuple[str, int] = self._ask(("prepare", recipe, batch_size, batches), limit=limit)
        except TimeoutError as error:
            raise Unsupported(f"not ready after {limit:.0f} s") from error
        return answer

    def run(self, count: int) -> float:
        """Augment so many batches and return the seconds that took."""
        seconds: float = self._ask(("run", count), limit=600)
        return seconds

    def images(self) -> Any:
        """Return one augmented batch, and its boxes or ``None``."""
        return self._ask(("images",), limit=120)

    def host_seconds(self) -> float:
        """Return the median time after which a call returns, whether the device is done or not."""
        seconds: float = self._ask(("host",), limit=120)
        return seconds

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None

    def _ask(self, request: tuple[Any, ...], *, limit: float) -> Any:
        if self._process is None:
            self._start()
        try:
            self._connection.send(request)
            if not self._connection.poll(limit):
                raise TimeoutError
            success, answer = self._connection.recv()
        except (TimeoutError, EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.kill()
            self._process.join()
            code, self._process = self._process.exitcode, None
            if isinstance(error, TimeoutError):
                raise
            raise Unsupported(f"its process died with code {code}") from error
        if not success:
            raise Unsupported(answer)
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        # Libraries read these when they are imported, which is when the new process starts.
        before = {variable: os.environ.get(variable) for variable in _THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(self._arguments["threads"])))
        try:
            # Not a daemon: Albumentations has processes of its own, which end when their connection is closed.
            self._process = context.Process(target=_serve, args=(there,), kwargs=self._arguments)
            self._process.start()
        finally:
            there.close()
            for variable, value in before.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value


def _serve(connection: Connection, *, name: str, folder: Path, threads: int, pin: bool, device: str) -> None:
    if pin:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    contestant: Contestant | None = None
    turn = 0
    while True:
        try:
            what, *arguments = connection.recv()
        except (EOFError, OSError):
            break
        answer: Any = None
        try:
            if what == "prepare":
                if contestant is not None:
                    contestant.close()
                recipe, batch_size, count = arguments
                batches = Batches.load(folder, RECIPES[recipe], batch_size=batch_size, count=count)
                contestant = build(name, recipe, batches, threads, device=device)
                contestant.run(range(2))
                answer = contestant.note, contestant.least_batches
            elif contestant is None:
                raise Unsupported("nothing was prepared")
            elif what == "run":
                indices = range(turn, turn + arguments[0])
                turn = indices.stop
                answer = _timed(contestant, indices)
            elif what == "images":
                answer = contestant.images(), contestant.boxes()
            elif what == "host":
                answer = _host_seconds(contestant)
            connection.send((True, answer))
        except Unsupported as error:
            connection.send((False, str(error)))
        except Exception as error:  # a rival's fault is a result, to be reported beside the others
            traceback.print_exc()
            reason = " ".join(str(error).split())
            connection.send((False, f"{type(error).__name__}: {reason[:300]}"))
    if contestant is not None:
        contestant.close()


def _timed(contestant: Contestant, indices: range) -> float:
    if contestant.device == "cpu":
        start = time.perf_counter()
        contestant.run(indices)
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    contestant.run(indices)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _host_seconds(contestant: Contestant) -> float:
    times = []
    for index in range(50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        contestant.batch(index)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
