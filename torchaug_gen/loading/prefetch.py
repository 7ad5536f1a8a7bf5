"""Prefetcher: batches composed ahead of the consumer, in a thread."""

import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

from torchaug_gen.loading.tracebacks import let_go

Plan = TypeVar("Plan")
Batch = TypeVar("Batch")


class Prefetcher(Generic[Plan, Batch]):
    """Compose up to ``depth`` batches ahead in one background thread, in order.

    Plans are made on the consumer's thread, because the inner iterator and the user's samplers live there; only what
    follows, transfer, drawing and transforming, runs beside the consumer. No more than ``depth + 1`` batches are held.

    Args:
        plan: returns the next plan, or raises ``StopIteration`` at the end of the pass.
        compose: makes a batch of a plan.
        depth: how many batches ahead; 0 composes on the consumer's thread and starts none.
    """

    def __init__(self, plan: Callable[[], Plan], compose: Callable[[Plan], Batch], *, depth: int) -> None:
        self._plan, self._compose, self._depth = plan, compose, depth
        self._pending: deque[Future[Batch]] = deque()
        self._failures: list[BaseException] = []
        self._exhausted = False
        self._executor: ThreadPoolExecutor | None = None

    def next(self) -> Batch:
        """Return the next batch.

        Raises:
            StopIteration: the pass is over.
            Exception: whatever planning or composing this batch raised; the next call goes on behind it.
        """
        if self._depth == 0:
            return _finish(self._compose, self._plan())
        # Two plans a call at the most: the lead grows step by step, and the first batch does not wait for all of it.
        for _ in range(2):
            if not self._exhausted and len(self._pending) <= self._depth:
                self._submit()
        if not self._pending:
            raise StopIteration
        # Waited for first: a Ctrl-C meanwhile leaves the batch to the next call.
        wait([self._pending[0]])
        return self._pending.popleft().result()

    @property
    def ended(self) -> bool:
        """Whether the batch returned last is known to be the last one."""
        return self._exhausted and not self._pending

    def let_go(self) -> None:
        """Take from errors that are held back what they hold of this object and of its caller."""
        for error in self._failures:
            let_go(error)
        self._failures.clear()

    def _submit(self) -> None:
        try:
            plan = self._plan()
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            # Held back until the batches before it are delivered.
            failed: Future[Batch] = Future()
            failed.set_exception(error)
            self._pending.append(failed)
            self._failures.append(error)
            # The error's traceback holds this frame: without the name it does not hold itself.
            del failed
        else:
            # A job must not hold the prefetcher, or a pass that is broken off would compose what is pending first.
            self._pending.append(self._thread().submit(_finish, self._compose, plan))

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torchaug_gen")
            # The thread ends with the prefetcher, also where a pass is broken off.
            weakref.finalize(self, self._executor.shutdown, wait=False, cancel_futures=True)
            _stay_single(self._executor)
        return self._executor


def _stay_single(executor: ThreadPoolExecutor) -> None:
    """Keep the executor's thread from starting a team of OpenMP threads, where the consumer trains on the CPU.

    A second team makes more threads than cores. libgomp then stops spinning at barriers, in every team and for good,
    and a training step of many small operations took 40 ms instead of 11 on two cores.
    """
    if torch.cuda.is_available():
        return
    threads = torch.get_num_threads()
    executor.submit(torch.set_num_threads, 1).result()
    # A thread takes the number that was set last when it first asks, and keeps it: it asks before we set ours again.
    executor.submit(torch.get_num_threads).result()
    torch.set_num_threads(threads)


def _finish(compose: Callable[[Plan], Batch], plan: Plan) -> Batch:
    try:
        return compose(plan)
    except StopIteration as error:
        # From a user's transform it would look like the end of the pass.
        raise RuntimeError("the transform or synthesizer raised StopIteration") from error
