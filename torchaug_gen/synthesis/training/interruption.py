"""Interruption: Ctrl-C and SIGTERM as a wish that a training heeds between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """A training stopped because it was asked to; its message says where it stands and how to go on."""


class Interruption:
    """While this context lasts, SIGINT and SIGTERM only set :attr:`asked`; a second SIGINT interrupts at once.

    Outside the main thread, which alone may handle signals, it changes nothing.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {name: signal.signal(name, self._ask) for name in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._earlier.items():
            # None is a handler that was not installed from Python, which cannot be put back.
            signal.signal(name, signal.SIG_DFL if handler is None else handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # torchrun answers Ctrl-C with a SIGTERM to its processes, which must not cut the checkpoint short.
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
