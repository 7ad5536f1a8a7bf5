"""Errors that a consumer may keep, without keeping what they came through."""

from contextlib import suppress
from types import FrameType

# Frames of these hold passes, iterators and workers; those of data sets and transforms are left to debuggers.
_CLEARED = ("torchaug_gen.loading", "torch.utils.data", "torchdata", "concurrent.futures", "accelerate.data_loader")


def let_go(error: BaseException) -> None:
    """Clear the local variables of the loader's own frames in an error's traceback, and in those behind it.

    A traceback keeps the frames that it names, and each of them its variables: whoever keeps the error, as a notebook
    does, would keep the pass, with its thread and its worker processes.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
        trace = each.__traceback__
        while trace is not None:
            # An error that was kept for later has come through frames below the one that caught it.
            frame: FrameType | None = trace.tb_frame
            while frame is not None and frame.f_globals.get("__name__", "").startswith(_CLEARED):
                # A frame that still runs cannot be cleared, and is not finished with its variables.
                with suppress(RuntimeError):
                    frame.clear()
                frame = frame.f_back
            trace = trace.tb_next
