"""Reading: the batches of one pass over the inner loader, and the position behind each."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from torchaug_gen.loading import workers


class Reading(Iterator[Any]):
    """The inner loader's batches of one pass.

    Args:
        raw: the inner loader's own iterator.
        position: where it stands.
        private: a context for each batch in which the global generators are private.
        anew: begins the pass once more if nothing comes of it, as where the data set was given the place that it had
            behind the pass before; ``None`` where that means that there is nothing.

    Attributes:
        raw: see above.
        position: JSON that says where to go on behind the batch that came last.
        broken: whether a worker died, so that nothing more comes.
    """

    def __init__(
        self,
        raw: Iterator[Any],
        position: Any = 0,
        *,
        private: Any = None,
        anew: Callable[[], Iterator[Any]] | None = None,
    ) -> None:
        self.raw, self.position = raw, position
        self._anew = anew
        self._private = private or nullcontext()
        self.broken = False
        self._seconds = 0.0

    def __next__(self) -> Any:
        anew, self._anew = self._anew, None
        try:
            return self._read()
        except StopIteration:
            if anew is None:
                raise
        self.raw = anew()
        return self._read()

    def _read(self) -> Any:
        if self.broken:
            raise StopIteration
        start = time.perf_counter()
        try:
            if workers.died(self.raw):
                raise RuntimeError("DataLoader worker was killed, or crashed")
            with self._private:
                batch = next(self.raw)
        except StopIteration:
            raise
        except Exception as error:
            # A batch that is lost has its place in the order all the same.
            self._advance(None)
            if not workers.died(self.raw, error):
                raise
            # Who asks again would wait for ever for what the worker had to do.
            self.broken = True
            workers.abandon(self.raw)
            if isinstance(error, RuntimeError):
                raise
            raise RuntimeError("DataLoader worker was killed, or crashed, while it sent a batch") from error
        finally:
            self._seconds += time.perf_counter() - start
        return self._advance(batch)

    def take_seconds(self) -> float:
        """Return the seconds spent on the inner loader since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _advance(self, batch: Any) -> Any:
        """Note that a batch has come, ``None`` for one that was lost, and return what the loader meant to deliver."""
        self.position += 1
        return batch

    def end(self) -> Any:
        """Return what the loader's next pass has to be begun with, where that is not its start."""
        return None
