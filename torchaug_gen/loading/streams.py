"""Positions in the IterableDataset of a plain DataLoader, whose workers each read a stream of their own.

Each batch comes with the number of the worker that made it and of the items that went into it. To resume, the worker
whose turn it was has to come first: worker p of the new loader plays the part of worker ``(p + turn) % workers``, and
its data set is positioned behind the items that that one has delivered, by ``seek(position)``, or by
``load_state_dict(state)`` where the data set keeps a state itself. Workers that had come to their end come to it at
once, and the others keep taking turns in the same order.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

from torchaug_gen.loading import codec
from torchaug_gen.loading.reading import Reading

PLAIN_GOES_ON = (
    "go on with the number of workers and ranks that began the epoch, or wrap a plain DataLoader, which over a "
    "ShardStream with an index goes on with any"
)


# Of a position.
_KEYS = {"workers", "turn", "items", "states", "ended"}


class Marked(NamedTuple):
    """A batch as a worker sends it, or what was raised in making it of its items."""

    worker: int
    items: int
    ended: bool
    state: str
    batch: Any
    error: Exception | ExceptionWrapper | None


class Start:
    """Where each worker's stream begins.

    Args:
        position: of a :class:`StreamReading`, or ``None`` for the start.
        workers: how many streams there are.
    """

    def __init__(self, position: Mapping[str, Any] | None, workers: int) -> None:
        self.turn: int = 0 if position is None else position["turn"]
        self.items: list[int] = [0] * workers if position is None else list(position["items"])
        self.states: list[str] = [""] * workers if position is None else list(position["states"])
        self.ended: list[bool] = [False] * workers if position is None else list(position["ended"])

    def place(self, dataset: Any, worker: int) -> None:
        """Position the data set of one worker; the state of a data set that has one comes first."""
        if self.states[worker]:
            dataset.load_state_dict(codec.decode(json.loads(self.states[worker])))
        elif self.items[worker]:
            dataset.seek(self.items[worker])


class Positioning:
    """A ``worker_init_fn`` that lets a worker play its part, and positions its data set.

    Args:
        inner: the user's ``worker_init_fn``.
        start: where to begin.
    """

    def __init__(self, inner: Callable[[int], None] | None, start: Start) -> None:
        self._inner, self._start = inner, start

    def __call__(self, worker: int) -> None:
        """Set up this worker; runs in it before its data set is iterated."""
        info = get_worker_info()
        if info is None:
            return
        part = (worker + self._start.turn) % info.num_workers
        if part != worker:
            base_seed = info.seed - worker
            # A data set asks for these to know its share; torch means them to stay as they are.
            object.__setattr__(info, "id", part)
            object.__setattr__(info, "seed", base_seed + part)
            _seed_as_torch(base_seed, part)
        if self._inner is not None:
            self._inner(part)
        self._start.place(info.dataset, part)


class Marking:
    """A ``collate_fn`` that says which worker has made a batch, of how many items.

    Args:
        inner: the user's ``collate_fn``.
        batch_size: how many items it is given at a time; ``None`` for single ones.
        dataset: the data set of a loader without workers; workers have their own copy.
    """

    def __init__(self, inner: Callable[[Any], Any], batch_size: int | None, dataset: Any) -> None:
        self._inner, self._batch_size, self._dataset = inner, batch_size, dataset

    def __call__(self, items: Any) -> Marked:
        """Return the batch of these items, marked; an error too, since the items are gone and have to be counted."""
        info = get_worker_info()
        dataset: Any = self._dataset if info is None else info.dataset
        # As text, it stays what it was at this batch, and travels unchanged.
        state = state_text(dataset)
        count = 1 if self._batch_size is None else len(items)
        # Behind a short batch the data set's iterator has ended, and may have put its state back to a start.
        ended = bool(state) and self._batch_size is not None and count < self._batch_size
        batch, error = self._made(items, None if info is None else info.id)
        return Marked(0 if info is None else info.id, count, ended, state, batch, error)

    def _made(self, items: Any, worker: int | None) -> tuple[Any, Exception | ExceptionWrapper | None]:
        try:
            return self._inner(items), None
        except StopIteration:
            # To torch it is the end of the stream.
            raise
        except Exception as error:
            # From a worker it comes as torch sends errors, with the text of its traceback.
            where = f"in DataLoader worker process {worker}"
            return None, error if worker is None else ExceptionWrapper(where=where)


def is_position(position: Any) -> bool:
    """Say whether a position is one in streams of a plain ``DataLoader``, or what such an epoch has left."""
    # All of its keys: a loader's own state may have some of them too.
    return isinstance(position, Mapping) and set(position) in ({"left"}, _KEYS, _KEYS | {"over"})


def check_position(position: Any) -> None:
    """Raise ``ValueError`` where a position is none of a :class:`StreamReading`."""
    if not is_position(position):
        raise ValueError(
            "the state was not saved over a plain DataLoader, so that what its workers had delivered is unknown: "
            f"{PLAIN_GOES_ON}"
        )


def torchdata_workers(position: Any) -> int | None:
    """Return of how many workers a state of torchdata's ``StatefulDataLoader`` is, ``None`` for anything else."""
    if not isinstance(position, Mapping):
        return None
    if isinstance(snapshot := position.get("_snapshot"), Mapping):
        workers = snapshot.get("_main_snapshot", {}).get("_num_workers")
        return None if workers is None else int(workers)
    return 0 if "_num_yielded" in position else None


def is_over(position: Any) -> bool:
    """Say whether a position is that behind a whole pass over a data set that was read in its own process."""
    if torchdata_workers(position) == 0:
        return bool(position.get("_iterator_finished"))
    return isinstance(position, Mapping) and bool(position.get("over"))


def state_text(dataset: Any) -> str:
    """Return the state of a data set as JSON, or nothing where it has none."""
    if not callable(getattr(dataset, "state_dict", None)):
        return ""
    return json.dumps(codec.encode(dataset.state_dict(), where="the data set's state"))


class StreamReading(Reading):
    """A reading that counts what each worker has delivered."""

    def __init__(
        self,
        raw: Iterator[Any],
        start: Start,
        workers: int,
        dataset: Any,
        *,
        anew: Callable[[], Iterator[Any]] | None = None,
    ) -> None:
        super().__init__(raw, anew=anew)
        self._workers, self._start, self._dataset = workers, start, dataset
        self._items, self._states, self._turn = list(start.items), list(start.states), start.turn
        self._ended = list(start.ended)
        self.position = self._position()

    def __next__(self) -> Any:
        if all(self._start.ended):
            raise StopIteration
        self._again = False
        batch = super().__next__()
        while self._again:
            batch = super().__next__()
        return batch

    def _advance(self, batch: Marked | None) -> Any:
        if batch is None:
            return None
        # A worker that had ended when the state was saved may begin anew, and is not asked for.
        self._again = self._start.ended[batch.worker]
        if self._again:
            return None
        self._ended[batch.worker] = batch.ended
        self._items[batch.worker] += batch.items
        self._states[batch.worker] = batch.state
        self._turn = (batch.worker + 1) % len(self._items)
        self.position = self._position()
        if isinstance(batch.error, ExceptionWrapper):
            batch.error.reraise()
        elif batch.error is not None:
            raise batch.error
        return batch.batch

    def _position(self) -> dict[str, Any]:
        return {
            "workers": self._workers,
            "turn": self._turn,
            "items": list(self._items),
            "states": list(self._states),
            "ended": list(self._ended),
        }

    def end(self) -> Any:
        """Return the state of a data set that is read in this process, where it goes on in the next pass."""
        state = "" if self._workers else state_text(self._dataset)
        if not state:
            return None
        return {"workers": 0, "turn": 0, "items": [0], "states": [state], "ended": [False], "over": True}


def _seed_as_torch(base_seed: int, worker: int) -> None:
    """Seed a worker's generators as torch does for the worker of that number."""
    from torch.utils.data._utils.worker import _generate_state

    torch.manual_seed(base_seed + worker)
    random.seed(base_seed + worker)
    np.random.seed(_generate_state(base_seed, worker))
