"""Reading: the batches of one pass over the inner loader, and the position behind each."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any


class Reading(Iterator[Any]):
    """The inner loader's batches of one pass.

    Args:
        raw: the inner loader's own iterator.
        position: where it stands.
        private: a context for each batch in which the global generators are private.

    Attributes:
        raw: see above.
        position: JSON that says where to go on behind the batch that came last.
    """

    def __init__(self, raw: Iterator[Any], position: Any = 0, *, private: Any = None) -> None:
        self.raw, self.position = raw, position
        self._private = private or nullcontext()

    def __next__(self) -> Any:
        try:
            with self._private:
                batch = next(self.raw)
        except StopIteration:
            raise
        except Exception:
            # A batch that is lost has its place in the order all the same.
            self._advance(None)
            raise
        return self._advance(batch)

    def _advance(self, batch: Any) -> Any:
        """Note that a batch has come, ``None`` for one that was lost, and return what the loader meant to deliver."""
        self.position += 1
        return batch

    def end(self) -> Any:
        """Return what the loader's next pass has to be begun with, where that is not its start."""
        return None
