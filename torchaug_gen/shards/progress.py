"""How far a consumer's pass over shards has come, and what is left when all of them are put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import get_worker_info

from torchaug_gen.shards.dealing import Consumer, Deal, Remainder
from torchaug_gen.shards.faults import ROWS, row

VERSION = 1


@dataclass
class Progress:
    """Where a consumer is in an epoch.

    Attributes:
        epoch: the epoch; ``None`` for whichever comes.
        taken: how many samples it has taken of its share, the damaged ones too.
        remainder: what the share was dealt from.
        consumer: whose share it is; ``None`` where nobody has begun.
        batch_size: of the runs that were dealt to the workers in turn.
        finished: whether the pass is over, and this process would begin the next one.
        lap: how many times the same epoch was gone through before, each in another order.
    """

    epoch: int | None
    taken: int = 0
    remainder: Remainder = field(default_factory=Remainder)
    consumer: Consumer | None = None
    batch_size: int = 1
    finished: bool = False
    lap: int = 0

    def begun(self, epoch: int, consumer: Consumer, batch_size: int) -> "Progress":
        """Return the progress of a consumer that goes on from here."""
        self.check(consumer, batch_size)
        return replace(
            self,
            epoch=epoch if self.epoch is None else self.epoch,
            consumer=consumer,
            batch_size=batch_size,
            finished=False,
        )

    def check(self, consumer: Consumer, batch_size: int) -> None:
        """Raise ``ValueError`` where another consumer than the one that has begun would go on."""
        if self.consumer is None:
            return
        for name, theirs, mine in (
            ("batch_size", self.batch_size, batch_size),
            ("ranks", self.consumer.rank.count, consumer.rank.count),
            ("workers", self.consumer.worker.count, consumer.worker.count),
            ("rank", self.consumer.rank.index, consumer.rank.index),
            ("worker", self.consumer.worker.index, consumer.worker.index),
        ):
            if theirs != mine:
                raise ValueError(
                    f"the state was saved with {name}={theirs}, but here is {name}={mine}: with an index, "
                    "resume(states) deals what is left of the epoch anew"
                )

    def to_json(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the progress as JSON, with the settings that it must meet again."""
        return {
            "version": VERSION,
            "epoch": self.epoch,
            "taken": self.taken,
            "remainder": self.remainder.to_json(),
            "consumer": None if self.consumer is None else self.consumer.to_json(),
            "batch_size": self.batch_size,
            "finished": self.finished,
            "lap": self.lap,
            "settings": dict(settings),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any], settings: Mapping[str, Any]) -> "Progress":
        """Return the progress that :meth:`to_json` wrote.

        Raises:
            TypeError: no mapping.
            ValueError: no such state, one of another version, or of a stream with other settings.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be what state_dict() returned, got {type(state).__name__}")
        if state.get("version") != VERSION:
            raise ValueError(
                f"the state has version {state.get('version')!r}, but this package reads version {VERSION}"
            )
        try:
            for name, mine in settings.items():
                if state["settings"][name] != mine:
                    raise ValueError(
                        f"the state was saved with {name}={state['settings'][name]!r}, but this stream has "
                        f"{name}={mine!r}: its samples would come in another order"
                    )
            return cls(
                epoch=None if state["epoch"] is None else int(state["epoch"]),
                taken=int(state["taken"]),
                remainder=Remainder.from_json(state["remainder"]),
                consumer=None if state["consumer"] is None else Consumer.from_json(state["consumer"]),
                batch_size=int(state["batch_size"]),
                finished=bool(state["finished"]),
                lap=int(state["lap"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state is damaged: {type(error).__name__}: {error}") from None


class NextStart:
    """Where the next pass begins, once: also where workers begin it, who tell the main process in shared memory."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._number = 0
        # Which start each worker has used; that of a worker's own has no number.
        self._used = torch.zeros(ROWS, dtype=torch.int64).share_memory_()

    def set(self, progress: Progress | None) -> None:
        """Make the next pass begin here."""
        self._progress = progress
        self._number = self._number + 1 if get_worker_info() is None else -1

    def get(self) -> Progress | None:
        """Return where the next pass begins, if not at a start."""
        used = self._number > 0 and bool((self._used == self._number).any())
        return None if used else self._progress

    def take(self) -> Progress | None:
        """Return where this consumer's next pass begins, and the one behind it at a start again."""
        progress, self._progress = self._progress, None
        if progress is None or self._number < 0:
            return progress
        if int(self._used[row()]) == self._number:
            return None
        self._used[row()] = self._number
        return progress


def left_of(told: Sequence[Progress], *, length: int) -> Progress:
    """Return where an epoch stands that these consumers have begun together.

    Args:
        told: the progress of each that has taken something; those that are missing have taken nothing.
        length: of the epoch.

    Raises:
        ValueError: they are not of one epoch, dealt in one way; or nothing is known of a rank.
    """
    begun = [progress for progress in told if progress.consumer is not None]
    # Who has not begun may have been told no epoch yet.
    epochs = {progress.epoch for progress in told} - {None}
    if len(epochs) > 1 or len({(progress.lap, progress.remainder) for progress in told}) > 1:
        raise ValueError("states must be of one epoch, and of one pass over it, saved at the same time")
    epoch, first = next(iter(epochs), None), told[0]
    if not begun:
        return Progress(epoch, remainder=first.remainder, lap=first.lap)
    layouts = {(p.consumer.rank.count, p.consumer.worker.count, p.batch_size) for p in begun if p.consumer is not None}
    if len(layouts) > 1:
        raise ValueError(f"states must be of one number of ranks, workers and batch_size, got {sorted(layouts)}")
    deal = Deal(*layouts.pop())
    taken = {(p.consumer.rank.index, p.consumer.worker.index): p.taken for p in begun if p.consumer is not None}
    known = {rank for rank, _ in taken}
    if missing := sorted(set(range(deal.ranks)) - known):
        raise ValueError(
            f"states must be of all {deal.ranks} ranks, but none is of rank {', '.join(map(str, missing))}"
        )
    return Progress(epoch, remainder=first.remainder.after(deal, taken, length), lap=first.lap)
