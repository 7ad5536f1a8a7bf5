"""The order of a DataLoader's indices: from a seed, regrouped for mixing, the user's loader left as it is."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from torchaug_gen import rng
from torchaug_gen.loading.adapters import is_dataloader
from torchaug_gen.loading.items import PrivateState, SeededIndex, SeededIndices
from torchaug_gen.loading.remembering import nested, remembers
from torchaug_gen.mixing import Fractions, Tally, fraction_at
from torchaug_gen.ranks import Share
from torchaug_gen.seeded import Seeded

_END = object()

# Turns the batches of indices of an epoch into others.
Regroup = Callable[[Iterator[Any], int], Iterator[Any]]


class SeededOrder:
    """A sampler, or batch sampler, whose random choices come from (seed, epoch), and that can begin anywhere.

    Samplers that would read a global generator, or one that the user gave them, get a private one. Those that seed
    themselves (``DistributedSampler``), or that remember (:mod:`.remembering`), keep their own order.

    Args:
        sampler: the loader's own sampler or batch sampler.
        seed: the loader's seed.
        regroup: turns the sampler's batches of an epoch into others, or ``None`` to leave them.
        rank: this process among those that share the epoch; ``None`` to leave the items' random numbers alone.
        batched: whether it gives batches of indices.

    Attributes:
        epoch: of the next iteration.
        skip: how many batches, or indices of a sampler, the next iteration leaves out at its start.
        here: whether items are loaded in this process, right behind each ``next``.
    """

    def __init__(
        self,
        sampler: Any,
        *,
        seed: int,
        regroup: Regroup | None = None,
        rank: Share | None = None,
        batched: bool = True,
    ) -> None:
        self._sampler = sampler
        self._seed = seed
        self._regroup = regroup
        self._rank = rank
        self._batched = batched
        self.epoch = 0
        self.skip = 0
        self.here = False

    def __len__(self) -> int:
        return len(self._sampler)

    def is_repeatable(self, epoch: int) -> bool:
        """Say whether an epoch begins the same twice, as it does not where a sampler draws from a generator of its own.

        Of torch's own samplers, and those that remember, it is known.
        """
        if _is_stock(self._sampler) or any(map(remembers, nested(self._sampler))):
            return True
        first, second = (repr(next(self._batches(epoch), None)) for _ in range(2))
        return first == second

    def __iter__(self) -> Iterator[Any]:
        # torch calls iter() twice for each new iterator over workers; a generator does nothing until its first next.
        return self._from(self.epoch, self.skip, self.here)

    def _from(self, epoch: int, skip: int, here: bool) -> Iterator[Any]:
        """Yield the epoch's batches from number ``skip`` on."""
        batches = self._batches(epoch)
        if self._regroup is not None:
            batches = self._regroup(batches, epoch)
        # Neighbouring seeds make unrelated numbers: the generator scrambles them, as it has to for torch's workers.
        base, ordinal = rng.derive_seed(self._seed, "loader.items", epoch), 0
        for number, batch in enumerate(batches):
            if number >= skip:
                yield self._seeded(batch, base, ordinal, here=here)
            ordinal += len(batch) if self._is_list(batch) else 1

    def _seeded(self, batch: Any, base: int, ordinal: int, *, here: bool) -> Any:
        """Return what the sampler gave with the seeds of its items, the first of which has this ordinal."""
        if self._rank is None:
            return batch
        first, stride = base + ordinal * self._rank.count + self._rank.index, self._rank.count
        seeded = SeededIndices(batch, first, stride) if self._is_list(batch) else SeededIndex(batch, first)
        return seeded.arrive() if here else seeded

    def _is_list(self, batch: Any) -> bool:
        # A tuple may be one index, but not of a loader that makes batches.
        return isinstance(batch, list) or (self._batched and isinstance(batch, tuple))

    def _batches(self, epoch: int) -> Iterator[Any]:
        seed = rng.derive_seed(self._seed, "loader.order", epoch)
        private = _Private(seed, foreign=not _is_stock(self._sampler))
        with private():
            batches = iter(_with_generator(self._sampler, torch.Generator().manual_seed(seed)))
        while True:
            # Entered anew for each batch: a context around the yield would stay open in the consumer's code.
            with private():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch


class _Private:
    """Contexts in which a sampler draws from generators of its own, one after the other.

    Args:
        seed: of the generators.
        foreign: whether the sampler may draw from Python's or NumPy's generators, as none of torch's own does.
    """

    def __init__(self, seed: int, *, foreign: bool) -> None:
        self._torch = Seeded(seed)
        self._others = PrivateState(seed) if foreign else None

    def __call__(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        if self._others is not None:
            stack.enter_context(self._others)
        stack.enter_context(self._torch)
        return stack


def _is_stock(sampler: Any) -> bool:
    """Say whether a sampler, and the one inside it, are torch's own."""
    if sampler is None:
        return True
    ours = type(sampler).__module__.startswith("torch.utils.data") or isinstance(sampler, list | tuple | range)
    return ours and _is_stock(getattr(sampler, "sampler", None))


def regroup(
    batches: Iterator[Iterable[int]], *, batch_size: int, fractions: Fractions, drop_last: bool
) -> Iterator[list[int]]:
    """Yield the indices of ``batches`` in the groups of real items that mixed batches of ``batch_size`` hold.

    Batches that hold no real item are passed over here: they need no indices.
    """
    indices = (index for batch in batches for index in batch)
    tally = Tally()
    for step in count():
        fraction = fraction_at(fractions, step)
        split = tally.split(fraction, batch_size)
        tally = tally.after(fraction, split)
        if split.real == 0:
            continue
        group = [index for _, index in zip(range(split.real), indices, strict=False)]
        if not group or (drop_last and len(group) < split.real):
            return
        yield group
        if len(group) < split.real:
            return


def is_map_style(loader: Any) -> bool:
    """Say whether indices decide what the loader delivers, batch by batch."""
    return (
        is_dataloader(loader) and not isinstance(loader.dataset, IterableDataset) and loader.batch_sampler is not None
    )


def twin_of(loader: DataLoader[Any], order: SeededOrder | None, generator: torch.Generator) -> DataLoader[Any]:
    """Return a loader that shares the user's dataset and settings, but has its own order, workers and generator.

    The user's loader stays as it is: its samplers, its generator, and the global one, from which it would
    seed its workers.
    """
    twin = copy.copy(loader)
    # DataLoader refuses to have these set after its construction, since workers may be running; the twin has none.
    settings = twin.__dict__
    settings["generator"] = generator
    settings["_iterator"] = None
    # torchdata's loader has an iterator in store once it was asked for its state, as by Accelerate; the twin has none.
    settings["_initial_iter_for_state_dict"] = False
    if order is not None:
        settings["sampler" if loader.batch_sampler is None else "batch_sampler"] = order
    return twin


def refresh(twin: DataLoader[Any], loader: DataLoader[Any]) -> None:
    """Pass on to a twin what was set on the user's loader since: workers, ``collate_fn``, ``timeout``."""
    own = {"generator", "_iterator", "_initial_iter_for_state_dict", "sampler", "batch_sampler"}
    vars(twin).update({name: value for name, value in vars(loader).items() if name not in own})


def real_items(loader: Any) -> int:
    """Return how many real items an epoch of the loader delivers.

    Raises:
        TypeError: the loader does not tell.
    """
    if is_map_style(loader):
        sampler = loader.batch_sampler
        if type(sampler) is not BatchSampler:
            raise TypeError("the length of a rebatch over a custom batch_sampler is unknown: its items are not counted")
        sized: Any = sampler.sampler
        items, batch_size, drop_last = len(sized), sampler.batch_size, sampler.drop_last
    elif is_dataloader(loader) and not (loader.drop_last and loader.num_workers > 1):
        sized = loader.dataset
        items, batch_size, drop_last = len(sized), loader.batch_size or 1, loader.drop_last
    else:
        raise TypeError(f"the number of items that {type(loader).__name__} delivers is unknown")
    return items // batch_size * batch_size if drop_last else items


def _with_generator(sampler: Any, generator: torch.Generator) -> Any:
    """Return the sampler, or a copy in which a generator that the user gave it or its inner sampler is replaced."""
    changes: dict[str, Any] = {}
    if remembers(sampler):
        # A copy would remember for itself.
        return sampler
    if isinstance(getattr(sampler, "generator", None), torch.Generator):
        changes["generator"] = generator
    # Accelerate's samplers keep the batch sampler that they share out as ``batch_sampler``.
    for name in ("sampler", "batch_sampler"):
        inner = getattr(sampler, name, None)
        if inner is not None and (changed := _with_generator(inner, generator)) is not inner:
            changes[name] = changed
    if not changes:
        return sampler
    changed = copy.copy(sampler)
    vars(changed).update(changes)
    return changed
