"""SyntheticDataset, MixedDataset, MixedIterableDataset: synthetic items as, and beside, the items of a data set."""

import operator
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from torchaug_gen import batch as batches
from torchaug_gen import rng
from torchaug_gen.epoch import SharedEpoch
from torchaug_gen.labels import check_labels, class_count
from torchaug_gen.mixing import Tally, as_fraction
from torchaug_gen.pixels import convert, outside
from torchaug_gen.ranks import Share, consumer
from torchaug_gen.seeded import Seeded


class SyntheticDataset(Dataset[Any]):
    """A map-style data set whose items are drawn by a synthesizer when they are asked for.

    Item i is a function of (seed, epoch, i): the same for any batch size, order and number of workers.

    Args:
        synthesizer: a :class:`torchaug_gen.Synthesizer`, on the CPU if DataLoader workers are to draw.
        length: the number of items, ≥ 1.
        labels: ``(length,)`` classes to draw; left out, item i has class ``i % num_classes``.
        seed: 0 ≤ seed < 2⁶⁴.
        transform: called with each image, ``(C, H, W)``, under a seeded generator.

    Items are ``(image, label)``: a tensor ``(C, H, W)``, floating in [0, 1] or uint8, and an int; for a synthesizer
    without classes, the image alone.

    Raises:
        ValueError: a length below 1, labels that do not fit, or a synthesizer on CUDA in a DataLoader worker.
    """

    def __init__(
        self,
        synthesizer: Any,
        length: int,
        *,
        labels: Tensor | Sequence[int] | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if not _draws(synthesizer):
            raise TypeError(
                f"synthesizer must have .sample(...), got {type(synthesizer).__name__}: wrap a network with "
                "Synthesizer.from_module"
            )
        if operator.index(length) < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.synthesizer = synthesizer
        self.length = length
        self.seed = rng.check_seed(seed)
        self.transform = transform
        self.labels = _item_labels(synthesizer, length, labels)
        self._epoch = SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on, also in persistent workers."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        positions = torch.tensor([_index(index, self.length) for index in indices])
        epoch = self._epoch.get()
        labels = None if self.labels is None else self.labels[positions]
        images, _ = draw(self.synthesizer, positions, labels, seed=self.seed, epoch=epoch)
        items = [self._transformed(image, epoch, int(at)) for image, at in zip(images, positions, strict=True)]
        return items if labels is None else list(zip(items, labels.tolist(), strict=True))

    def _transformed(self, image: Tensor, epoch: int, position: int) -> Any:
        if self.transform is None:
            return image
        with Seeded(rng.derive_seed(self.seed, "synthetic_dataset.transform", epoch, position)):
            return self.transform(image)


class MixedDataset(Dataset[Any]):
    """A map-style data set of all items of a real one, with synthetic ones between them.

    The first n items hold ``ceil(synthetic_fraction · n)`` synthetic ones, for every n, and each real item comes once.
    Which item stands where is index arithmetic. A stock ``DataLoader`` asks for whole batches at a time, so that the
    synthesizer draws a batch's synthetic items together.

    Args:
        real: a map-style data set of tensors: ``image``, ``(image, label)``, or a structure of them.
        synthetic: a :class:`torchaug_gen.Synthesizer`, whose k-th item has class ``k % num_classes`` and looks like a
            real one (dtype, type of label), or a map-style data set, taken in order and from its start again.
        synthetic_fraction: synthetic items / all items, in [0, 1).
        seed: 0 ≤ seed < 2⁶⁴.

    Raises:
        ValueError: a fraction out of range, an empty data set, classes, channels or sizes that differ between real and
            synthetic, real images outside [0, 1], fields that a synthesizer cannot fill, or a synthesizer on CUDA
            in a DataLoader worker.
        TypeError: ``synthetic`` is neither a synthesizer nor a data set.

    Without shuffling, a sampler that takes every n-th item may meet the pattern of real and synthetic ones: shuffle, or
    wrap the loader instead.
    """

    def __init__(self, real: Any, synthetic: Any, *, synthetic_fraction: float | Fraction, seed: int = 0) -> None:
        if len(real) == 0:
            raise ValueError("the real data set must have items, got an empty one")
        self.dataset = real
        self._fraction = as_fraction(synthetic_fraction)
        self._length = sum(Tally().extend(self._fraction, len(real)))
        self._synthetic = _SyntheticItems(synthetic, seed)
        check_class_count(real, synthetic)

    def set_epoch(self, epoch: int) -> None:
        """Draw other synthetic items from now on, also in persistent workers; a data set inside is told."""
        self._synthetic.epoch.set(epoch)
        _tell(epoch, self.dataset, self._synthetic.source)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        wanted = [_index(index, self._length) for index in indices]
        places = {index: _synthetic_before(self._fraction, index) for index in wanted}
        synthetic = {at: k for at, k in places.items() if _synthetic_before(self._fraction, at + 1) > k}
        real = [at for at in dict.fromkeys(wanted) if at not in synthetic]
        items = dict(zip(real, fetch(self.dataset, [at - places[at] for at in real]), strict=True))
        # A real item shows what synthetic ones have to look like; one of this batch costs nothing.
        if self._fraction:
            self._synthetic.imitate(items[real[0]] if real else None, self.dataset)
        for at in real:
            self._synthetic.checked(items[at])
        if synthetic:
            items |= zip(synthetic, self._synthetic.items(list(synthetic.values())), strict=True)
        return [items[at] for at in wanted]


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
        seed: 0 ≤ seed < 2⁶⁴.

    Raises:
        ValueError: as for :class:`MixedDataset`.
        TypeError: likewise.
    """

    splits_itself = True

    def __init__(self, real: Any, synthetic: Any, *, synthetic_fraction: float | Fraction, seed: int = 0) -> None:
        self.dataset = real
        self._fraction = as_fraction(synthetic_fraction)
        self._synthetic = _SyntheticItems(synthetic, seed)
        check_class_count(real, synthetic)

    def set_epoch(self, epoch: int) -> None:
        """Draw other synthetic items from the next iteration on; data sets inside are told."""
        self._synthetic.epoch.set(epoch)
        _tell(epoch, self.dataset, self._synthetic.source)

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


class _SyntheticItems:
    """Synthetic items by position, from a synthesizer or a data set."""

    def __init__(self, source: Any, seed: int) -> None:
        if not _draws(source) and not isinstance(source, IterableDataset):
            if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
                raise TypeError(
                    f"synthetic must be a synthesizer or a data set, got {type(source).__name__}: wrap a network with "
                    "Synthesizer.from_module"
                )
            if len(source) == 0:
                raise ValueError("the synthetic data set must have items, got an empty one")
        self.source = source
        self.epoch = SharedEpoch()
        self._seed = rng.check_seed(seed)
        self._template: _Template | None = None

    def imitate(self, item: Any, real: Any) -> None:
        """Make a synthesizer's items look like ``item``, or like the first of ``real`` where there is none at hand."""
        if self._template is None and _draws(self.source):
            if item is None and isinstance(real, IterableDataset):
                item = next(iter(real))
            self._template = _Template(real[0] if item is None else item, self.source)

    def checked(self, item: Any) -> Any:
        """Return a real item, or raise ``ValueError`` where it cannot stand beside synthetic ones."""
        if self._template is not None:
            self._template.check(item)
        return item

    def items(self, positions: list[int]) -> list[Any]:
        if self._template is None:
            return fetch(self.source, [position % len(self.source) for position in positions])
        where = torch.tensor(positions)
        classes = getattr(self.source, "num_classes", None)
        labels = None if classes is None else where % classes
        images, labels = draw(self.source, where, labels, seed=self._seed, epoch=self.epoch.get())
        return self._template.items(images, labels)


class _Template:
    """Turns drawn images and labels into items of the structure, dtype and types of a real item."""

    def __init__(self, item: Any, synthesizer: Any) -> None:
        self._item = item
        try:
            batch = default_collate([item])
        except TypeError as error:
            raise ValueError(
                "real items must be tensors or structures of them to have synthetic ones beside them: add a transform "
                f"such as torchvision.transforms.v2.PILToTensor() to the real data set ({error})"
            ) from None
        fields = batches.find_fields(batch)
        self._images, self._labels = fields.images, fields.labels
        others = [path for path, _ in batches.columns(batch, 1) if path not in (self._images, self._labels)]
        if others:
            raise ValueError(
                "synthetic items have an image and a label, but real ones also have "
                + ", ".join(map(batches.show, others))
            )
        if self._labels is not None and getattr(synthesizer, "num_classes", None) is None:
            raise ValueError("real items have labels, but the synthesizer has no classes: give it num_classes")
        self._num_classes: int | None = getattr(synthesizer, "num_classes", None)
        self.check(item)

    def check(self, item: Any) -> None:
        """Raise ``ValueError`` where a real item's pixels or label do not go with what the synthesizer draws."""
        if self._labels is not None and self._num_classes is not None:
            label = torch.as_tensor(batches.get(item, self._labels))
            if label.ndim == 0:
                known = f"real labels (the synthesizer has {self._num_classes} classes)"
                check_labels(label[None], self._num_classes, what=known)
        if span := outside(batches.get(item, self._images)):
            raise ValueError(
                f"real images must be in [0, 1] to have synthetic ones beside them, got {span}: normalise after "
                "mixing, for example in AugmentedLoader's transform"
            )

    def items(self, images: Tensor, labels: Tensor | None) -> list[Any]:
        like = batches.get(self._item, self._images)
        if images.shape[1:] != like.shape:
            raise ValueError(
                f"real and synthetic images must have one size, got {tuple(like.shape)} and {tuple(images.shape[1:])}"
            )
        images = convert(images, like.dtype).cpu()
        if self._labels is None or labels is None:
            return [batches.replace(self._item, {self._images: image}) for image in images]
        return [
            batches.replace(self._item, {self._images: image, self._labels: self._label(label)})
            for image, label in zip(images, labels.tolist(), strict=True)
        ]

    def _label(self, label: int) -> Any:
        like = batches.get(self._item, self._labels or ())
        if not isinstance(like, Tensor):
            return type(like)(label)
        if like.ndim == 1:
            return torch.nn.functional.one_hot(torch.tensor(label), len(like)).to(like.dtype)
        return torch.tensor(label, dtype=like.dtype)


def draw(synthesizer: Any, positions: Tensor, labels: Tensor | None, *, seed: int, epoch: int) -> Any:
    """Draw images and labels for a data set, in the main process or in a DataLoader worker.

    Raises:
        ValueError: a synthesizer on CUDA in a worker.
    """
    device = getattr(synthesizer, "device", None)
    if get_worker_info() is not None and getattr(device, "type", "cpu") != "cpu":
        raise ValueError(
            f"the synthesizer is on {device}, which DataLoader workers cannot use: draw in the main process with "
            "AugmentedLoader(loader, synthesizer=...), move it with synthesizer.to('cpu'), or use num_workers=0"
        )
    if labels is None:
        return synthesizer.sample(len(positions), seed=seed, epoch=epoch, positions=positions)
    return synthesizer.sample(labels=labels, seed=seed, epoch=epoch, positions=positions)


def fetch(dataset: Any, indices: list[int]) -> list[Any]:
    """Return items of a map-style data set, all at once where it can."""
    if not indices:
        return []
    if callable(getattr(dataset, "__getitems__", None)):
        return list(dataset.__getitems__(indices))
    return [dataset[index] for index in indices]


def check_class_count(real: Any, synthesizer: Any) -> None:
    """Raise ``ValueError`` where a real data set tells its classes and the synthesizer has another number of them."""
    known, told = getattr(synthesizer, "num_classes", None), class_count(real)
    if known is not None and told is not None and told != known:
        raise ValueError(f"the real data set has {told} classes, but the synthesizer has {known}")


def _draws(source: Any) -> bool:
    return callable(getattr(source, "sample", None))


def _item_labels(synthesizer: Any, length: int, labels: Tensor | Sequence[int] | None) -> Tensor | None:
    num_classes = getattr(synthesizer, "num_classes", None)
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels were given, but the synthesizer has no classes")
        return None
    if labels is None:
        cycled: Tensor = torch.arange(length) % num_classes
        return cycled
    given = torch.as_tensor(labels)
    if given.shape != (length,) or given.is_floating_point():
        raise ValueError(f"labels must be ({length},) class indices, got {tuple(given.shape)} of {given.dtype}")
    check_labels(given, num_classes)
    return given.to(torch.int64)


def _synthetic_before(fraction: Fraction, n: int) -> int:
    """Return how many of the first ``n`` items are synthetic: ceil(fraction · n)."""
    return -(-fraction.numerator * n // fraction.denominator)


def _tell(epoch: int, *datasets: Any) -> None:
    """Tell the epoch to those data sets that listen."""
    for dataset in datasets:
        if callable(getattr(dataset, "set_epoch", None)):
            dataset.set_epoch(epoch)


def _index(index: int, length: int) -> int:
    index = int(index)
    if not -length <= index < length:
        raise IndexError(f"index must be in {-length}..{length - 1}, got {index}")
    return index % length
