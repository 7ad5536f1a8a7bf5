"""Inner: the user's loader, as the wrapper around it sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import RandomSampler, SequentialSampler

from torchaug_gen import mixing as rules
from torchaug_gen.labels import known_labels
from torchaug_gen.loading import order
from torchaug_gen.loading.adapters import adapted, adapters_device, batch_size_of, drops_last, share_of
from torchaug_gen.loading.fingerprint import fingerprint
from torchaug_gen.loading.readers import Reader, reader_of
from torchaug_gen.loading.settings import Settings
from torchaug_gen.mixing import ClassSchedule
from torchaug_gen.ranks import Share, rank


class Inner:
    """What the loader that is wrapped says of itself, and how it is read under some settings.

    Accelerate's loaders are adapters; what they adapt is read in their stead, from where a state says.

    Args:
        loader: the user's.
        settings: of the wrapper.

    Attributes:
        loader: the user's, without its adapter.
        gradients: Accelerate's state of the gradient accumulation, where there is an adapter.
    """

    def __init__(self, loader: Any, settings: Settings) -> None:
        self.loader = adapted(loader)
        self._settings = settings
        adapter = self.loader is not loader
        self.gradients = getattr(loader, "gradient_state", None) if adapter else None
        self._counted: tuple[Any, int] | None = None
        self._adapters_device: torch.device | None = adapters_device(loader) if adapter else None

    @property
    def batch_size(self) -> int:
        """How many items its batches hold, or 0 where it does not say."""
        return batch_size_of(self.loader)

    @property
    def drop_last(self) -> bool:
        """Whether it drops a short last batch."""
        return drops_last(self.loader)

    @property
    def rank(self) -> Share:
        """This rank, as its distributed sampler counts it, else as the process group does."""
        return share_of(self.loader) or rank()

    @property
    def device(self) -> torch.device | None:
        """Where batches go, with its index, or ``None`` for where they are."""
        device = self._settings.device or self._adapters_device
        # The current device belongs to the consumer's thread, so it is asked here and not in the background.
        if device is not None and device.type == "cuda" and device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return device

    @property
    def regroups(self) -> bool:
        """Whether its indices are regrouped before loading, so that it delivers the real items of one batch each."""
        settings = self._settings
        rebatches = settings.mixes and settings.mixing == "rebatch"
        # Of which class an item is, and so how many synthetic ones go with it, is known once it is loaded.
        return rebatches and order.is_map_style(self.loader) and not isinstance(settings.schedule, ClassSchedule)

    def fingerprint(self, epoch: int, step: int) -> dict[str, Any]:
        """Return what a state of this epoch and step must meet again to be gone on from."""
        sizes: dict[str, Any] = {"batch_size": self.batch_size, "drop_last": self.drop_last}
        return fingerprint(self._settings, self.loader, **sizes, ranks=self.rank.count, epoch=epoch, step=step)

    def reader(self) -> Reader:
        """Return what reads it.

        Raises:
            ValueError: its batches come by chance, or do not say their size where that must be known.
        """
        settings, loader = self._settings, self.loader
        if getattr(loader, "in_order", True) is False:
            raise ValueError(
                "in_order=False delivers batches by chance: positions, and with them seeds, need in_order=True"
            )
        if settings.mixes and settings.mixing == "rebatch" and self.batch_size < 1:
            raise ValueError(
                'mixing="rebatch" needs the size of a batch, but the loader has neither batch_size nor '
                'batch_sampler.batch_size: give it one, or use mixing="extend"'
            )
        # One of ours that is off stands for what it wraps.
        while isinstance(getattr(loader, "_inner", None), Inner) and loader._reader is None:
            loader = loader.loader
        regroup = None
        if self.regroups and not isinstance(settings.schedule, ClassSchedule):
            # It must not hold the wrapper, which would be in a cycle then, and its persistent workers with it.
            options: dict[str, Any] = {"batch_size": self.batch_size, "drop_last": self.drop_last}
            regroup = partial(_regroup, schedule=settings.schedule, **options)
        return reader_of(loader, seed=settings.seed, regroup=regroup, rank=self.rank)

    def check_ranks(self) -> None:
        """Raise ``ValueError`` where ranks would take different numbers of steps."""
        settings, ranks = self._settings, self.rank.count
        if ranks > 1 and settings.mixing == "rebatch" and isinstance(settings.schedule, ClassSchedule):
            raise ValueError(
                f"with a synthetic_fraction per class, {ranks} ranks whose real items are of different classes would "
                'rebatch to different numbers of steps: use mixing="extend" or "replace", which keep them'
            )

    def batches(self, epoch: int) -> int:
        """Return how many batches an epoch has, mixed, or raise ``TypeError`` where that is unknown."""
        settings = self._settings
        if not (settings.mixes and settings.mixing == "rebatch"):
            return len(self.loader)
        size, drop_last = self.batch_size, self.drop_last
        if isinstance(settings.schedule, ClassSchedule):
            items = rules.epoch_items(class_counts(self.loader), settings.schedule)
            return items // size if drop_last else -(-items // size)
        asked = (epoch, order.real_items(self.loader), size, drop_last)
        if self._counted is None or self._counted[0] != asked:
            # Step by step, which takes seconds for millions of items: once for an epoch, however often it is asked.
            splits = rules.rebatch_splits(asked[1], size, settings.schedule.during(epoch), drop_last=drop_last)
            self._counted = asked, sum(1 for _ in splits)
        return self._counted[1]


def _regroup(
    batches: Iterator[Any], epoch: int, *, schedule: rules.Schedule, batch_size: int, drop_last: bool
) -> Iterator[Any]:
    return order.regroup(batches, batch_size=batch_size, fractions=schedule.during(epoch), drop_last=drop_last)


def class_counts(loader: Any) -> list[tuple[int, int]]:
    """Return class and number of the real items of an epoch, or raise ``TypeError`` where they are unknown."""
    sampler: Any = getattr(loader, "sampler", None)
    dataset = getattr(loader, "dataset", None)
    whole = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    labels = known_labels(dataset) if whole and order.is_map_style(loader) else None
    if labels is None or len(sampler) != len(labels) or (loader.drop_last and len(labels) % loader.batch_size):
        raise TypeError(
            "the length of a rebatch with a synthetic_fraction per class is unknown, since it depends on the classes "
            'of all items; mixing="extend" and "replace" keep the length of the loader'
        )
    return list(enumerate(torch.bincount(labels).tolist()))
