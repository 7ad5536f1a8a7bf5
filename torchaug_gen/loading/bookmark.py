"""Bookmark: how far the consumer has come, where the next pass begins, and the state that tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchaug_gen.loading import elastic
from torchaug_gen.loading.drawing import chunk_of, set_chunk
from torchaug_gen.loading.fingerprint import check_fingerprint
from torchaug_gen.loading.inner import Inner
from torchaug_gen.loading.notices import Notices
from torchaug_gen.loading.plan import Delivery
from torchaug_gen.loading.readers import Reader
from torchaug_gen.loading.state import Progress, from_state, to_state


class Bookmark:
    """Where a loader is.

    Args:
        inner: the inner loader.
        synthesizer: the loader's, whose chunk is part of a state.
    """

    def __init__(self, inner: Inner, synthesizer: Any) -> None:
        self._inner, self._synthesizer = inner, synthesizer
        # Behind the batch that was handed over last, and where the next pass begins if not at a start.
        self._progress: Progress | None = None
        self._resume: Progress | None = None
        self._chunk: int | None = None

    def handed_over(self, delivery: Delivery) -> None:
        """Note what the consumer has now."""
        self._progress, self._chunk = delivery.after, delivery.chunk

    def finished(self, epoch: int, end: Any) -> None:
        """Note that an epoch is over, and what the inner loader's next pass has to be begun with."""
        self._progress = None if end is None else Progress(epoch + 1, position=end)

    def start(self, epoch: int, notices: Notices) -> Progress:
        """Return where the pass of an epoch begins: at its start, or where a state said."""
        resume = self._resume
        if resume is None or resume.epoch == epoch:
            return resume or Progress(epoch)
        if not resume.step:
            return replace(resume, epoch=epoch)
        # Lightning saves behind the last batch of an epoch, and sets the next one where it goes on.
        notices.of_epoch(resume, epoch, self._inner.batches)
        return Progress(epoch)

    def begun(self, start: Progress) -> None:
        """Note that a pass has begun there; until a batch is handed over, that is how far it has come."""
        self._resume, self._progress = None, start

    def to_state(self, epoch: int) -> dict[str, Any]:
        """Return where the loader is, as JSON; ``epoch`` is that of the coming pass."""
        progress = self._resume or self._progress or Progress(epoch)
        chunk = chunk_of(self._synthesizer) if self._chunk is None else self._chunk
        settings = self._inner.fingerprint(progress.epoch, progress.step)
        return to_state(progress, settings, self._inner.rank, chunk=chunk)

    def load(self, given: Mapping[str, Any] | Sequence[Mapping[str, Any]], reader: Reader) -> int:
        """Take up a state, and return its epoch.

        Args:
            given: what :meth:`to_state` returned, here or, where the data set deals anew, on each rank.
            reader: of the inner loader, in which the position must be one.
        """
        state = elastic.own(given, self._inner)
        progress = from_state(state)
        check_fingerprint(state, self._inner.fingerprint(progress.epoch, progress.step))
        rank, own = self._inner.rank.index, bool(progress.cursor.seen or progress.classes.tallies)
        if state["rank"] != rank and (own or not reader.shared_by_ranks):
            raise ValueError(
                f'the state was saved by rank {state["rank"]}, but this is rank {rank}: with labels="balance", a '
                "synthetic_fraction per class or an IterableDataset each rank has a state of its own, so save one from "
                "each"
            )
        reader.check(progress.position)
        self._resume, self._chunk = progress, None
        set_chunk(self._synthesizer, state["chunk"])
        return progress.epoch
