"""MixedShardStream: several streams of shards as one, by weight."""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from torchaug_gen.ranks import Share
from torchaug_gen.shards.dealing import Consumer
from torchaug_gen.shards.stream import ShardStream, SizedShardStream

VERSION = 1


@dataclass
class _Mix:
    """How far one consumer's mix has come, stream by stream: items drawn, laps begun anew, and who came to its end."""

    drawn: list[int]
    laps: list[int]
    ended: list[bool]
    finished: bool = False
    streams: list[dict[str, Any]] = field(default_factory=list)


class MixedShardStream(IterableDataset[tuple[Any, ...]]):
    """Stream several :class:`ShardStream` as one, in which the items of each come as often as its weight says.

    Nothing is drawn by chance: in each consumer, item k of a stream (from 0) has the time ``(k + 1/2) / weight``, and
    items come in the order of these times, so that after any number of items no stream is ahead or behind by more
    than about one. Each stream shares its samples out over workers and ranks itself, and shuffles them itself.

    Args:
        streams: with the same number of fields.
        weights: one for each, at least 0; 0 leaves a stream out.
        repeat: ``False`` delivers each sample once: behind the end of a stream the others go on. ``True`` begins a
            stream that has ended anew, in another order, until each has come to its end at least once.

    Raises:
        ValueError: no stream, another number of weights, a negative one or none above 0, or different fields.
        TypeError: something else than streams.

    Example:
        >>> photographs, drawings = ShardStream("photos/*.tar"), ShardStream("art/*.tar")  # doctest: +SKIP
        >>> both = MixedShardStream([photographs, drawings], [0.8, 0.2])  # doctest: +SKIP
    """

    splits_itself: bool = True

    def __init__(self, streams: Sequence[ShardStream], weights: Sequence[float], *, repeat: bool = False) -> None:
        self.streams, self.weights, self.repeats = tuple(streams), tuple(map(float, weights)), repeat
        for stream in self.streams:
            if not isinstance(stream, ShardStream):
                raise TypeError(f"streams must be ShardStreams, got {type(stream).__name__}")
        if not self.streams or len(self.streams) != len(self.weights):
            raise ValueError(
                f"weights must be one for each of at least one stream, got {len(self.weights)} for {len(self.streams)}"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights) or not sum(self.weights):
            raise ValueError(f"weights must be at least 0, and one above it, got {self.weights}")
        if len({len(stream.field_names) for stream in self.streams}) > 1:
            names = "; ".join(", ".join(stream.field_names) for stream in self.streams)
            raise ValueError(f"streams must have the same number of fields, got {names}")
        self._start: _Mix | None = None
        self._running: _Mix | None = None
        if not repeat and all(isinstance(stream, SizedShardStream) for stream in self.streams):
            self.__class__ = _SizedMixedShardStream

    def set_epoch(self, epoch: int) -> None:
        """Make every pass that starts from now on pass ``epoch``; see :meth:`ShardStream.set_epoch`."""
        for stream in self.streams:
            stream.set_epoch(epoch)
        self._running = None

    def set_batch_size(self, batch_size: int) -> None:
        """Tell all streams the DataLoader's ``batch_size``; see :meth:`ShardStream.set_batch_size`."""
        for stream in self.streams:
            stream.set_batch_size(batch_size)

    @property
    def stats(self) -> dict[str, int]:
        """How many samples and shards of all streams were skipped, by kind."""
        total: Counter[str] = Counter()
        for stream in self.streams:
            total.update(stream.stats)
        return dict(total)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where all streams have the same."""
        told = {stream.classes for stream in self.streams}
        return told.pop() if len(told) == 1 else None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        start, self._start = self._start, None
        count = len(self.streams)
        mix = self._running = start or _Mix([0] * count, [0] * count, [False] * count)
        return self._items(mix, [iter(stream) for stream in self.streams])

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, where this consumer's pass is; see :meth:`ShardStream.state_dict`."""
        mix = self._start or self._running
        return {
            "version": VERSION,
            "weights": list(self.weights),
            "repeat": self.repeats,
            "epoch": self.streams[0].current_epoch,
            "mix": None if mix is None else {**asdict(mix), "streams": None},
            "streams": [stream.state_dict() for stream in self.streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make this consumer's next pass go on from where ``state`` was saved; see :meth:`ShardStream.load_state_dict`.

        Raises:
            ValueError: a state of another mix, or of other streams.
        """
        self._check(state)
        mix = None if state["mix"] is None else _Mix(**{**state["mix"], "streams": []})
        if mix is not None and mix.finished and state["epoch"] != self.streams[0].current_epoch:
            mix = None
        else:
            for stream, inner in zip(self.streams, state["streams"], strict=True):
                stream.load_state_dict(inner)
        if mix is not None:
            mix.finished = False
        self._start = mix

    def resume(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Make the next pass deliver what is left of each stream; see :meth:`ShardStream.resume`.

        Raises:
            ValueError: as there; or streams that repeat and have begun anew.
        """
        for state in states:
            self._check(state)
            if state["mix"] is not None and any(state["mix"]["laps"]):
                raise ValueError("a mix that has begun a stream anew cannot be dealt to other workers and ranks")
        for number, stream in enumerate(self.streams):
            stream.resume([state["streams"][number] for state in states])

    def after(self, state: Mapping[str, Any], items: int, *, rank: Share, worker: Share) -> dict[str, Any]:
        """Return the state of a worker that has delivered ``items`` more; see :meth:`ShardStream.after`."""
        twin = copy.copy(self)
        twin.streams = tuple(stream._aside(Consumer(rank, worker)) for stream in self.streams)
        twin._start = twin._running = None
        twin.load_state_dict(state)
        delivered = sum(1 for _ in islice(iter(twin), items))
        if delivered < items:
            raise ValueError(f"{items} items were delivered behind the state, but only {delivered} are there")
        return twin.state_dict()

    def _items(self, mix: _Mix, sources: list[Iterator[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
        alive = [number for number, weight in enumerate(self.weights) if weight]
        # How often in a row a stream came to its end without an item. One that was resumed may do so once.
        empty = [0] * len(sources)
        while alive:
            number = min(alive, key=lambda number: (mix.drawn[number] + 0.5) / self.weights[number])
            item = next(sources[number], None)
            if item is not None:
                mix.drawn[number] += 1
                empty[number] = -1
                yield item
                continue
            mix.ended[number], empty[number] = True, empty[number] + 1
            if self.repeats and all(mix.ended[other] for other in alive):
                break
            if not self.repeats or empty[number] > 1:
                alive.remove(number)
                continue
            mix.laps[number] += 1
            self.streams[number].repeat(mix.laps[number])
            sources[number] = iter(self.streams[number])
        mix.finished = get_worker_info() is None

    def _check(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or state.get("version") != VERSION or "mix" not in state:
            raise ValueError("state must be what a MixedShardStream's state_dict() returned")
        for name, mine in (("weights", list(self.weights)), ("repeat", self.repeats)):
            if state[name] != mine:
                raise ValueError(f"the state was saved with {name}={state[name]}, but this mix has {name}={mine}")


class _SizedMixedShardStream(MixedShardStream):
    """A mix whose length is known."""

    def __len__(self) -> int:
        """Return how many samples this rank delivers in an epoch, where none is damaged."""
        pairs = zip(self.streams, self.weights, strict=True)
        return sum(len(stream) for stream, weight in pairs if weight and isinstance(stream, SizedShardStream))
