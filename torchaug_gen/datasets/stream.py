"""MixedIterableDataset: a stream with synthetic items between the real ones."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count, islice
from typing import Any

from torch.utils.data import IterableDataset

from torchaug_gen.datasets.drawing import check_class_count, tell
from torchaug_gen.datasets.items import SyntheticItems
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

    def set_epoch(self, epoch: int) -> None:
        """Draw other synthetic items from the next iteration on; data sets inside are told."""
        self._synthetic.epoch.set(epoch)
        tell(epoch, self.dataset, self._synthetic.source)

    def __iter__(self) -> Iterator[Any]:
        worker, alone = consumer(), Share(0, 1)
        # Whoever shares out the items keeps the pattern: this data set, or the real one inside.
        share, inner = (alone, worker) if getattr(self.dataset, "splits_itself", False) else (worker, alone)
        synthetic = self._synthetic_items(worker, share, inner)
        drawn, total = share.index, 0
        for number, item in _numbered(self.dataset, share):
            total = number + 1
            if item is _NOT_MINE:
                continue
            self._synthetic.imitate(item, self.dataset)
            while drawn < self._due(total):
                yield next(synthetic)
                drawn += share.count
            yield self._synthetic.checked(item)
        # Synthetic items that stand before real ones of other workers.
        self._synthetic.imitate(None, self.dataset)
        while total and drawn < self._due(total):
            yield next(synthetic)
            drawn += share.count

    def _due(self, real: int) -> int:
        """Return how many synthetic items stand before the last of the first ``real`` real ones."""
        return Tally().extend(self._fraction, real).synthetic

    def _synthetic_items(self, worker: Share, share: Share, inner: Share) -> Iterator[Any]:
        """Yield the synthetic items that are this worker's to deliver, without end."""
        source = self._synthetic.source
        if isinstance(source, IterableDataset):
            yield from _endless(source, worker)
        positions = (number * inner.count + inner.index for number in count(share.index, share.count))
        # Drawn some at a time, because a network runs on many rows for little more than on one.
        ahead = getattr(source, "chunk", 16)
        while True:
            yield from self._synthetic.items(list(islice(positions, ahead)))


_NOT_MINE = object()


def _numbered(dataset: Any, share: Share) -> Iterator[tuple[int, Any]]:
    """Yield each real item with its number; those of others as ``_NOT_MINE``, unread where that is possible."""
    if isinstance(dataset, IterableDataset):
        for number, item in enumerate(dataset):
            yield number, item if number % share.count == share.index else _NOT_MINE
    else:
        for number in range(len(dataset)):
            yield number, dataset[number] if number % share.count == share.index else _NOT_MINE


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
