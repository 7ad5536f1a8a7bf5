"""Whether drawn images lie in [0, 1], found out without making the host wait for the device that draws them."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from torchaug_gen.pixels import TOLERANCE

_here = threading.local()


class _Verdict(NamedTuple):
    """The smallest and largest value of each image ``(2, N)`` on the host, once the event has come."""

    span: Tensor
    positions: Tensor
    came: torch.cuda.Event | None


class RangeChecks:
    """A context in which this thread's CUDA images are checked as they come to the host, some batches later.

    Reading a value back at once would stall the device, and with it the training that it is busy with. Here the
    extremes of each image are copied to pinned memory behind the drawing, and looked at when the context is entered
    again and they are there; :meth:`finish` waits for the last of them. So an error is raised a few batches late, but
    names the position all the same.
    """

    def __init__(self) -> None:
        self._pending: deque[_Verdict] = deque()

    def __enter__(self) -> RangeChecks:
        while self._pending and (self._pending[0].came is None or self._pending[0].came.query()):
            self._look()
        self._outer = getattr(_here, "checks", None)
        _here.checks = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        _here.checks = self._outer

    def add(self, images: Tensor, positions: Tensor) -> None:
        """Have images ``(N, C, H, W)`` looked at later; ``positions`` ``(N,)`` names them."""
        span = spans(images)
        came = None
        if span.is_cuda:
            host = torch.empty(span.shape, dtype=span.dtype, pin_memory=True)
            span, came = host.copy_(span, non_blocking=True), torch.cuda.Event()
            came.record(torch.cuda.current_stream(images.device))
        self._pending.append(_Verdict(span, positions, came))

    def finish(self) -> None:
        """Look at all that is still to come, and raise what it says.

        Raises:
            ValueError: images outside of [0, 1] by more than rounding, or with NaN.
        """
        while self._pending:
            if (came := self._pending[0].came) is not None:
                came.synchronize()
            self._look()

    def _look(self) -> None:
        # Taken first: who goes on after the error does not meet it again.
        verdict = self._pending.popleft()
        raise_outside(verdict.span, verdict.positions)


def running() -> RangeChecks | None:
    """Return this thread's context, or ``None`` outside of any."""
    checks: RangeChecks | None = getattr(_here, "checks", None)
    return checks


def spans(images: Tensor) -> Tensor:
    """Return the smallest and the largest value of each image: ``(2, N)`` on its device."""
    return torch.stack(torch.aminmax(images.detach().flatten(1), dim=1))


def raise_outside(span: Tensor, positions: Tensor) -> None:
    """Raise ``ValueError`` for the first image that leaves [0, 1] by more than rounding, or holds NaN.

    Args:
        span: of :func:`spans`, on the CPU.
        positions: ``(N,)``.
    """
    low, high = span
    # Written so that NaN, which compares false with everything, counts as bad.
    good = (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)
    if good.all():
        return
    row = int((~good).nonzero()[0])
    found = "NaN" if low[row].isnan() else f"values from {low[row]:.3g} to {high[row]:.3g}"
    raise ValueError(
        f"the synthesizer must return images in [0, 1], got {found} at position {int(positions[row])}; "
        "value_range= in Synthesizer.from_module says what the network gives for black and white"
    )
