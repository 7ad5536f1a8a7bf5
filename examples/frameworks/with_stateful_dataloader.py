"""torchdata's StatefulDataLoader inside: ``python examples/frameworks/with_stateful_dataloader.py``.

It is not needed for exact resume over a map-style data set. Over an ``IterableDataset`` that has a state, it keeps the
states of all workers.
"""

import json
from collections.abc import Iterator
from typing import Any

from digits import augmented, digits, summary
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader


class Stream(IterableDataset[Any]):
    """Digits as a stream that workers share, and that knows where it is."""

    def __init__(self, count: int = 500) -> None:
        self.data, self.done = digits(count), 0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while (index := first + self.done * step) < len(self.data):
            self.done += 1
            yield self.data[index]
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many items were read."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind them."""
        self.done = state["done"]


def loader(workers: int = 2) -> Any:
    """Return a loader of the stream."""
    return augmented(StatefulDataLoader(Stream(), 50, num_workers=workers))


def resumed(stop_after: int = 4, workers: int = 2) -> tuple[list[Any], list[Any]]:
    """Return the batches of an epoch before and behind a stop, the second part from a fresh loader."""
    first, begun = [], loader(workers)
    for batch in begun:
        first.append(batch)
        if len(first) == stop_after:
            break
    state = json.dumps(begun.state_dict())
    other = loader(workers)
    other.load_state_dict(json.loads(state))
    return first, list(other)


if __name__ == "__main__":
    first, rest = resumed()
    print(summary(index for _, _, index in [*first, *rest]))
