"""Prefetcher: batches composed ahead of the consumer, in a thread."""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

from torchaug_gen.loading.tracebacks import let_go

Plan = TypeVar("Plan")
Batch = TypeVar("Batch")

# Jobs that the thread has at a time where plans are prepared: one that it does, one that comes next.
_SUBMITTED = 2


class Prefetcher(Generic[Plan, Batch]):
    """Compose up to ``depth`` batches ahead in one background thread, in order.

    Plans are made on the consumer's thread, because the inner iterator and the user's samplers live there; only what
    follows, transfer, drawing and transforming, runs beside the consumer. No more than ``depth + 1`` batches are held.

    Args:
        plan: returns the next plan, or raises ``StopIteration`` at the end of the pass.
        compose: makes a batch of a plan.
        depth: how many batches ahead; 0 composes on the consumer's thread and starts none.
        prepare: given a plan and those behind it that are known, does on the consumer's thread what belongs there, and
            returns what ``compose`` takes in the plan's stead. Not asked where the depth is 0.
        finish: called behind the last batch; may raise what was found out late.
    """

    def __init__(
        self,
        plan: Callable[[], Plan],
        compose: Callable[[Any], Batch],
        *,
        depth: int,
        prepare: Callable[[Sequence[Plan]], Any] | None = None,
        finish: Callable[[], None] | None = None,
    ) -> None:
        self._finish = finish
        self._plan, self._compose, self._depth, self._prepare = plan, compose, depth, prepare
        # In order: what the thread has got, and what it will get.
        self._pending: deque[Future[Batch]] = deque()
        self._planned: deque[Plan | Failed] = deque()
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
            try:
                plan = self._plan()
            except StopIteration:
                self._end()
                raise
            return _finish(self._compose, plan)
        # Two plans a call at the most: the lead grows step by step, and the first batch does not wait for all of it.
        for _ in range(2):
            if not self._exhausted and len(self._pending) + len(self._planned) <= self._depth:
                self._ask()
        self._submit()
        if not self._pending:
            self._end()
            raise StopIteration
        # Waited for first: a Ctrl-C meanwhile leaves the batch to the next call.
        # This takes a third of the time of concurrent.futures.wait.
        self._pending[0].exception()
        return self._pending.popleft().result()

    @property
    def ended(self) -> bool:
        """Whether the batch returned last is known to be the last one."""
        return self._exhausted and not self._pending and not self._planned

    def let_go(self) -> None:
        """Take from errors that are held back what they hold of this object and of its caller."""
        for error in self._failures:
            let_go(error)
        self._failures.clear()

    def _end(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def _ask(self) -> None:
        """Plan the next batch."""
        try:
            self._planned.append(self._plan())
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            self._planned.append(Failed(error))
            self._failures.append(error)

    def _submit(self) -> None:
        """Give the thread what is planned; where plans are prepared, as late as possible, when most is known."""
        while self._planned and (self._prepare is None or len(self._pending) < _SUBMITTED):
            job: Any = self._planned[0]
            if self._prepare is not None and not isinstance(job, Failed):
                try:
                    job = self._prepare([plan for plan in self._planned if not isinstance(plan, Failed)])
                except Exception as error:
                    job = Failed(error)
                    self._failures.append(error)
            # Only now: a Ctrl-C meanwhile leaves the plan to the next call.
            self._planned.popleft()
            if isinstance(job, Failed):
                self._pending.append(job.future())
            else:
                # A job must not hold the prefetcher, or a pass that is broken off would compose what is pending first.
                self._pending.append(self._thread().submit(_finish, self._compose, job))

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torchaug_gen")
            # The thread ends with the prefetcher, also where a pass is broken off.
            weakref.finalize(self, self._executor.shutdown, wait=False, cancel_futures=True)
            _stay_single(self._executor)
        return self._executor


class Failed:
    """In the place of a plan: an error that is held back until the batches before it are delivered."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def future(self) -> Future[Any]:
        """Return a future that raises it."""
        failed: Future[Any] = Future()
        failed.set_exception(self._error)
        return failed


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


def _finish(compose: Callable[[Any], Batch], job: Any) -> Batch:
    try:
        return compose(job)
    except StopIteration as error:
        # From a user's transform it would look like the end of the pass.
        raise RuntimeError("the transform or synthesizer raised StopIteration") from error
