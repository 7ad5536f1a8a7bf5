"""MixedIterableDataset: a stream with synthetic items between the real ones."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, count, islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from torchaug_gen.datasets.drawing import check_class_count, tell
from torchaug_gen.datasets.items import SyntheticItems
from torchaug_gen.datasets.place import Place, can_seek, keeps_state, state_of
from torchaug_gen.mixing import Tally, as_fraction
from torchaug_gen.ranks import Share, consumer


class MixedIterableDataset(IterableDataset[Any]):
    """A stream of all items of a real data set, with synthetic ones between them, shared out over workers and ranks.

    The items are those of :class:`MixedDataset`, the same for any number of workers and ranks: each of them delivers
    every n-th real item, and between those every n-th synthetic one. Only where the real data set shares itself out,
    each worker keeps the pattern for itself: of the first n items it delivers, ``ceil(synthetic_fraction · n)`` are
    synthetic.

    Args:
        real: a data set of tensors as for :class:`MixedDataset`, or an ``IterableDataset`` of such items. That one is
            read by every worker of every rank, unless it has a true attribute ``splits_itself``, as
            :class:`torchaug_gen.ShardStream` has: then it is read as it comes.
        synthetic: as for :class:`MixedDataset`; may also be an ``IterableDataset``, which starts again at its end.
        synthetic_fraction: synthetic items / all items, in [0, 1).
        labels: as for :class:`MixedDataset`.
        seed: 0 ≤ seed < 2⁶⁴.

    Raises:
        ValueError: as for :class:`MixedDataset`.
        TypeError: likewise.

    A pass can be gone on with where it was broken off: :meth:`state_dict`, which an :class:`AugmentedLoader` around a
    ``DataLoader`` of this data set saves for each worker.
    """

    splits_itself = True

    def __init__(
        self,
        real: Any,
        synthetic: Any,
        *,
        synthetic_fraction: float | Fraction,
        labels: Any = None,
        seed: int = 0,
    ) -> None:
        self.dataset = real
        self._fraction = as_fraction(synthetic_fraction)
        self._synthetic = SyntheticItems(synthetic, seed, real=real, labels=labels)
        check_class_count(real, synthetic)
        self._start: Place | None = None
        self._running: Place | None = None

    def set_epoch(self, epoch: int) -> None:
        """Draw other synthetic items from the next iteration on; data sets inside are told."""
        self._running = None
        self._synthetic.epoch.set(epoch)
        tell(epoch, self.dataset, self._synthetic.source)

    def state_dict(self) -> dict[str, Any]:
        """Return where this consumer's pass is: behind the item that it delivered last.

        It holds the state of the real data set where that keeps one, and is as good for JSON as that is.
        """
        return (self._running or self._start or Place()).to_state(self.dataset)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make this consumer's next pass go on from where ``state`` was saved, once.

        Nothing that comes before is loaded where the real data set is map-style, keeps a state, or has
        ``seek(position)``; else, and where synthetic items are a stream, it is read and thrown away. The epoch, and the
        numbers of workers and ranks, have to be those of the state.
        """
        self._running, self._start = None, Place.from_state(state, self.dataset)

    def __iter__(self) -> Iterator[Any]:
        place, self._start = self._start or Place(), None
        self._running = place
        return self._items(place)

    def _items(self, place: Place) -> Iterator[Any]:
        worker, alone = consumer(), Share(0, 1)
        # Whoever shares out the items keeps the pattern: this data set, or the real one inside.
        share, inner = (alone, worker) if getattr(self.dataset, "splits_itself", False) else (worker, alone)
        synthetic = self._synthetic_items(worker, share, inner, skip=place.synthetic)
        real = iter(()) if place.ended else _real_items(self.dataset, share, first=place.real)
        while not place.ended:
            mine = place.real % share.count == share.index
            if mine and self._waiting(place, share, place.real + 1):
                # The real item is read before the synthetic ones in front of it are delivered: only if it is there.
                place.inner = state_of(self.dataset)
            item = next(real, _END)
            if item is _END:
                place.ended, place.inner = True, None
                break
            if mine:
                self._synthetic.imitate(item, self.dataset)
                while self._waiting(place, share, place.real + 1):
                    place.synthetic += 1
                    yield next(synthetic)
            place.real, place.inner = place.real + 1, None
            if mine:
                yield self._synthetic.checked(item)
        # Synthetic items that stand before real ones of other workers.
        while place.real and self._waiting(place, share, place.real):
            self._imitate_the_first()
            place.synthetic += 1
            yield next(synthetic)
        if self._running is place and get_worker_info() is None:
            # A process on its own goes on with the next pass; the pass of a worker stays over until another begins.
            self._running = None

    def _waiting(self, place: Place, share: Share, real: int) -> bool:
        """Say whether a synthetic item of this consumer stands before the last of the first ``real`` real ones."""
        return share.index + place.synthetic * share.count < self._due(real)

    def _imitate_the_first(self) -> None:
        """Have synthetic items look like the first real one, where this consumer has seen none."""
        if not self._synthetic.needs_example:
            return
        state = state_of(self.dataset)
        self._synthetic.imitate(None, self.dataset)
        if state is not None:
            self.dataset.load_state_dict(state)

    def _due(self, real: int) -> int:
        """Return how many synthetic items stand before the last of the first ``real`` real ones."""
        return Tally().extend(self._fraction, real).synthetic

    def _synthetic_items(self, worker: Share, share: Share, inner: Share, *, skip: int) -> Iterator[Any]:
        """Yield the synthetic items that are this worker's to deliver, behind the first ``skip``, without end."""
        source = self._synthetic.source
        if isinstance(source, IterableDataset):
            return islice(_endless(source, worker), skip, None)
        # Drawn some at a time, because a network runs on many rows for little more than on one.
        ahead = getattr(source, "chunk", 16)
        # The same ones together, wherever a pass begins: what a network makes of a row may depend on those beside it.
        first = skip // ahead * ahead
        numbers = count(share.index + first * share.count, share.count)
        positions = (number * inner.count + inner.index for number in numbers)
        drawn = (self._synthetic.items(list(islice(positions, ahead))) for _ in count())
        return islice(chain.from_iterable(drawn), skip - first, None)


_END = object()


def _real_items(dataset: Any, share: Share, *, first: int) -> Iterator[Any]:
    """Yield the real items from number ``first`` on, where a stream that can be positioned stands already.

    Those of other consumers are not read where that is possible; then ``None`` comes in their place.
    """
    if not isinstance(dataset, IterableDataset):
        for number in range(first, len(dataset)):
            yield dataset[number] if number % share.count == share.index else None
        return
    positioned = keeps_state(dataset) or can_seek(dataset)
    yield from islice(dataset, 0 if positioned else first, None)


def _endless(dataset: IterableDataset[Any], worker: Share) -> Iterator[Any]:
    """Yield the worker's share of a stream, again and again."""
    while True:
        items = iter(dataset)
        if not getattr(dataset, "splits_itself", False):
            items = islice(items, worker.index, None, worker.count)
        empty = True
        for item in items:
            empty = False
            yield item
        if empty:
            raise ValueError(
                f"the synthetic stream has no item for worker {worker.index} of {worker.count}: give it at least one "
                "for each worker of each rank"
            )
