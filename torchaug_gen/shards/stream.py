"""ShardStream: samples from tar shards, in the format of webdataset."""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset, get_worker_info

from torchaug_gen import rng
from torchaug_gen.epoch import SharedEpoch
from torchaug_gen.ranks import Share, rank
from torchaug_gen.shards.cache import ShardCache
from torchaug_gen.shards.catalogue import find_catalogue
from torchaug_gen.shards.dealing import Consumer, Remainder, share_of_total
from torchaug_gen.shards.decode import UndecodableError, load_decoder
from torchaug_gen.shards.faults import KINDS, Faults
from torchaug_gen.shards.fields import parse_fields
from torchaug_gen.shards.items import item_of
from torchaug_gen.shards.passes import IndexedPass, ShardPass, Shuffling, StreamedPass
from torchaug_gen.shards.progress import NextStart, Progress, left_of
from torchaug_gen.shards.samples import Sample
from torchaug_gen.shards.urls import Urls, expand, name_of

_NEIGHBOURS = (
    "without an index, the files of a sample must be neighbours, and no links: pack them with tar --sort=name -h "
    "--hard-dereference, or run torchaug-gen shards index"
)

__all__ = ["KINDS", "ShardStream", "SizedShardStream"]


class ShardStream(IterableDataset[tuple[Any, ...]]):
    """Stream the samples of tar shards, each once an epoch over all DataLoader workers of all ranks.

    A shard is a tar archive, also compressed with gzip, in which neighbouring files with the same name up to
    the basename's first dot make a sample: ``train/7.jpg`` and ``train/7.cls``. Items are tuples in the order
    of ``fields``. Images (jpg, jpeg, png, webp, gif) become uint8 tensors ``(C, H, W)`` with 1 or 3 channels,
    ``cls`` and ``id`` integers, ``json`` what it holds, ``txt`` strings, ``npy`` tensors, other fields stay bytes;
    ``__key__`` and ``__url__`` are the sample's key and shard. Nothing is ever unpickled.

    **With an index** beside the shards (:func:`write_shards` writes it, and ``torchaug-gen shards index`` does so for
    other people's), an epoch has one order, a pure function of (seed, epoch). Sample i of it goes to rank i modulo
    ranks, and with ``batch_size`` a DataLoader delivers each rank's samples in that order, whatever its number of
    workers. The length is known, a pass can be begun anywhere without reading what comes before, also with other
    numbers of workers and ranks (:meth:`resume`), and every file is compared with its checksum.

    **Without one**, order depends on the number of consumers too, that is of ranks × workers: where there are at
    least as many shards as consumers, each reads its own; else each reads all and keeps every count-th sample.

    Args:
        urls: a brace pattern, glob, path, folder (its ``*.tar``), or ``file:``, ``http(s)://`` or, with fsspec and the
            store's package, ``s3://``, ``gs://``, ``hf://`` … URL, or several of these. A ``Path`` is taken literally.
        fields: file extensions; ``"jpg;png"`` takes the first that a sample holds.
        shuffle: how many samples wait to be drawn from; 0 keeps the order of shards and samples.
        seed: 0 ≤ seed < 2⁶⁴.
        on_error: ``"raise"``, or ``"skip"``: count what is damaged in :attr:`stats` and warn once.
        even: makes all ranks deliver the same number of samples, ``None`` does not. Where their shares differ,
            ``"pad"`` repeats the epoch's first samples, and ``"drop"`` leaves out its last; where a damaged sample is
            skipped, another one, from shortly before it in the epoch's order, comes in its place. Needs an index.
        batch_size: the DataLoader's, per rank, for one order with any number of workers; an
            :class:`torchaug_gen.AugmentedLoader` sets it.
        index: ``"auto"`` for the ``index.jsonl`` in the shards' folders, the path or URL of another, or ``None`` to
            read without.
        cache_dir: folder for copies of remote shards, which may be shared by processes and streams. Without it, indexed
            shards are read in parts, and others as a stream.
        cache_gib: how many GiB copies may take; those not used for longest are deleted.
        allow_pipe: allow ``pipe:`` URLs, which run shell commands.
        errors_in_a_row: ``"skip"`` gives up where so many samples or shards one after the other are damaged.

    Raises:
        ValueError: no shard, an unknown URL scheme, a pickled field, an option out of range, an index that does not
            fit; while iterating, a damaged shard or sample, named with its shard and key, or, with
            ``on_error="skip"``, too many of them in a row, or an epoch in which nothing else came.
        FileNotFoundError: a path, glob or folder without a shard.
        OSError: an index that cannot be read.

    Example:
        >>> stream = ShardStream("train/{000..099}.tar", fields=("jpg;png", "cls"), batch_size=64)  # doctest: +SKIP
        >>> loader = DataLoader(stream, batch_size=64, num_workers=4)  # doctest: +SKIP
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     stream.set_epoch(epoch)
        ...     for images, labels in loader: ...
    """

    #: Every consumer gets its own share already: whoever wraps this stream must not split it again.
    splits_itself: bool = True

    def __init__(
        self,
        urls: Urls,
        *,
        fields: Sequence[str] = ("jpg", "cls"),
        shuffle: int = 1000,
        seed: int = 0,
        on_error: Literal["skip", "raise"] = "skip",
        even: Literal["pad", "drop"] | None = None,
        batch_size: int = 1,
        index: Literal["auto"] | str | Path | None = "auto",
        cache_dir: str | Path | None = None,
        cache_gib: float = 100.0,
        allow_pipe: bool = False,
        errors_in_a_row: int = 100,
    ) -> None:
        for name, value, least in (
            ("shuffle", shuffle, 0),
            ("batch_size", batch_size, 1),
            ("errors_in_a_row", errors_in_a_row, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if on_error not in ("skip", "raise"):
            raise ValueError(f'on_error must be "skip" or "raise", got {on_error!r}')
        if even not in ("pad", "drop", None):
            raise ValueError(f'even must be "pad", "drop" or None, got {even!r}')
        if not cache_gib > 0:
            raise ValueError(f"cache_gib must be above 0, got {cache_gib}")
        self._fields = parse_fields(fields)
        self._wanted = frozenset(name for field in self._fields for name in field.alternatives)
        self._shuffle, self._seed = shuffle, rng.check_seed(seed)
        self._even, self._batch_size = even, batch_size
        self._shards = expand(urls, allow_pipe=allow_pipe)
        self._catalogue = find_catalogue(self._shards, index)
        load_decoder(self._wanted)
        self._cache = None if cache_dir is None else ShardCache(cache_dir, int(cache_gib * (1 << 30)))
        self._epoch = SharedEpoch()
        self._faults = Faults(skip=on_error == "skip", most_in_a_row=errors_in_a_row)
        self._start = NextStart()
        self._running: Progress | None = None
        self._rank: Share | None = None
        self._part: Consumer | None = None
        if self._catalogue is not None:
            # What has no index must have no __len__ either: that is how others tell.
            self.__class__ = SizedShardStream
        elif even is not None:
            raise ValueError(f"even={even!r} needs the number of samples: make an index with torchaug-gen shards index")

    def set_epoch(self, epoch: int) -> None:
        """Make every pass that starts from now on pass ``epoch``, in this process and in its workers."""
        self._epoch.set(epoch)
        self._running = None
        if (start := self._start.get()) is not None and start.epoch not in (None, epoch):
            self._start.set(None)

    @property
    def current_epoch(self) -> int:
        """The epoch of the next pass."""
        return self._epoch.get()

    @property
    def field_names(self) -> tuple[str, ...]:
        """What the elements of an item are."""
        return tuple(map(str, self._fields))

    def set_batch_size(self, batch_size: int) -> None:
        """Deal samples to workers by batches of a DataLoader with this ``batch_size`` ≥ 1, from the next pass on."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._batch_size = batch_size

    @property
    def stats(self) -> dict[str, int]:
        """How many were skipped since the stream was made, by kind, in this process and in all its workers.

        ``read``: shards that could not be opened or read on, once for each worker that needed them. ``tar``: damaged
        archives; what precedes the damage is delivered. ``checksum``: samples whose bytes are not those that were
        indexed. ``repeated``: samples with one field twice. ``missing``: samples without a field. ``image``,
        ``label``, ``data``: samples with a file that could not be decoded, or a label without a class. ``replaced``:
        samples that came in the place of a damaged one, with ``even``.
        """
        return self._faults.counts

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their labels, where the index tells."""
        return None if self._catalogue is None else self._catalogue.classes

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        start = self._start.take() or Progress(None)
        running = self._running = start.begun(self._epoch.get(), self._here(), self._batch_size)
        return self._items(running)

    def seek(self, position: int) -> None:
        """Make the next pass in this consumer begin behind its first ``position`` samples, once.

        A consumer is the DataLoader worker, or the process where there is none, that iterates. Damaged samples count.
        Nothing that comes before is decoded; with an index, it is not read either.

        Raises:
            ValueError: a negative position.
        """
        if position < 0:
            raise ValueError(f"position must be at least 0, got {position}")
        self._start.set(Progress(None, taken=int(position)))

    def repeat(self, lap: int) -> None:
        """Make the next pass in this consumer go through the epoch once more, in the order of ``lap`` ≥ 0."""
        self._start.set(Progress(None, lap=lap))

    def skip(self, samples: int) -> None:
        """Make the next pass begin behind the first ``samples`` of the epoch's order, counted over all ranks, once.

        Behind n batches on each rank, of a DataLoader with the same ``batch_size``, these are
        ``n · batch_size · ranks``. Call it in the main process; workers must start after it. Needs an index.

        Raises:
            ValueError: a negative number, or no index.
        """
        if samples < 0:
            raise ValueError(f"samples must be at least 0, got {samples}")
        self._check_indexed("skip")
        self._start.set(Progress(None, remainder=Remainder(start=int(samples))))

    def resume(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Make the next pass deliver what is left of an epoch, to any number of workers and ranks, each sample once.

        Call it in the main process of each rank, with the same states; workers must start after it. Needs an index.

        Args:
            states: from :meth:`state_dict`, one of each worker that has delivered something, of all ranks.

        Raises:
            ValueError: no index, states of other shards, seeds or epochs, or none of some rank.
        """
        self._check_indexed("resume")
        told = [Progress.from_json(state, self._settings()) for state in states]
        if not told:
            raise ValueError("states must hold at least one state, got none")
        self._begin_at(left_of(told, length=self._length()))

    def after(self, state: Mapping[str, Any], items: int, *, rank: Share, worker: Share) -> dict[str, Any]:
        """Return the state of a worker of a rank when it has delivered ``items`` more than in ``state``.

        They are read again, because damaged samples among them count.

        Raises:
            ValueError: as for :meth:`load_state_dict`.
        """
        twin = self._aside(Consumer(rank, worker))
        twin.load_state_dict(state)
        delivered = sum(1 for _ in islice(iter(twin), items))
        if delivered < items:
            raise ValueError(f"{items} items were delivered behind the state, but only {delivered} are there")
        return twin.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, where this consumer's pass is: behind the item that it delivered last."""
        progress = self._start.get() or self._running or Progress(None)
        return progress.to_json(self._settings())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make this consumer's next pass go on from where ``state`` was saved, once; the epoch is that one's.

        Where that pass was over, and the epoch has been set to another since, the next pass begins at its start.

        Raises:
            ValueError: a state of other shards, another seed, or another number of workers or ranks; for those there
                is :meth:`resume`.
        """
        progress = Progress.from_json(state, self._settings())
        if progress.finished and progress.epoch != self._epoch.get():
            progress = Progress(None)
        progress.check(self._here(), self._batch_size)
        self._begin_at(progress)

    def __getstate__(self) -> dict[str, Any]:
        # On its way to a spawned worker.
        return {**self.__dict__, "_rank": rank()}

    def _here(self) -> Consumer:
        return self._part or Consumer.here(self._rank)

    def _aside(self, part: Consumer) -> "ShardStream":
        """Return a copy that plays the part of a consumer, and neither counts faults nor moves this one."""
        twin = copy.copy(self)
        twin._part, twin._start, twin._running = part, NextStart(), None
        twin._epoch, twin._faults = (
            SharedEpoch(self.current_epoch),
            Faults(skip=True, most_in_a_row=1 << 62, warn=False),
        )
        return twin

    def _begin_at(self, progress: Progress) -> None:
        self._start.set(progress)
        if progress.epoch is not None:
            self._epoch.set(progress.epoch)

    def _items(self, running: Progress) -> Iterator[tuple[Any, ...]]:
        whole, delivered, met = not running.taken and running.remainder == Remainder(), 0, self._faults.begin()
        this_pass = self._pass(running)
        with closing(this_pass.samples(running.taken)) as samples:
            for sample in samples:
                # A damaged sample keeps its position.
                position, running.taken = running.taken, running.taken + 1
                item = None if sample is None else self._item(sample)
                if item is not None:
                    self._faults.delivered()
                elif self._even is not None:
                    item = self._stand_in(this_pass.stand_ins(position))
                if item is not None:
                    delivered += 1
                    yield item
        if whole:
            self._faults.end(delivered, met)
        # A process on its own goes on with the next epoch, of which the state of a worker knows nothing.
        running.finished = get_worker_info() is None

    def _pass(self, running: Progress) -> ShardPass:
        consumer = running.consumer or self._here()
        seed = rng.derive_seed(self._seed, "shards.lap", position=running.lap) if running.lap else self._seed
        shuffling = Shuffling(self._shuffle, seed, running.epoch or 0)
        if self._catalogue is None:
            return StreamedPass(
                self._shards, self._wanted, shuffling, consumer=consumer, cache=self._cache, faults=self._faults
            )
        return IndexedPass(
            self._catalogue,
            self._wanted,
            shuffling,
            consumer=consumer,
            batch_size=running.batch_size,
            even=self._even,
            remainder=running.remainder,
            cache=self._cache,
            faults=self._faults,
        )

    def _item(self, sample: Sample[bytes]) -> tuple[Any, ...] | None:
        try:
            return item_of(sample, self._fields, self.classes)
        except UndecodableError as error:
            if error.kind == "missing" and self._catalogue is None:
                error = UndecodableError(error.kind, f"{error}; {_NEIGHBOURS}")
            self._faults.report(error.kind, f"shard {sample.url}, sample {sample.key!r}", error)
            return None

    def _stand_in(self, samples: Iterator[Sample[bytes]]) -> tuple[Any, ...]:
        """Return the first item that can be made of these samples; their faults are counted at their own positions."""
        for sample in samples:
            with suppress(UndecodableError):
                item = item_of(sample, self._fields, self.classes)
                self._faults.replaced()
                return item
        raise ValueError(f"even={self._even!r}: no whole sample was found to come in the place of a damaged one")

    def _length(self) -> int:
        return 0 if self._catalogue is None else sum(self._catalogue.counts)

    def _check_indexed(self, what: str) -> None:
        if self._catalogue is None:
            raise ValueError(f"{what} needs an index of the shards: make one with torchaug-gen shards index")

    def _settings(self) -> dict[str, Any]:
        """Return what decides the order: a state of another order cannot be gone on from."""
        names = hashlib.sha256("\n".join(map(name_of, self._shards)).encode()).hexdigest()[:16]
        shards = names if self._catalogue is None else self._catalogue.digest()
        return {"seed": self._seed, "shuffle": self._shuffle, "even": self._even, "shards": shards}


class SizedShardStream(ShardStream):
    """A :class:`ShardStream` over shards with an index, whose length is known."""

    def __len__(self) -> int:
        """Return how many samples this rank delivers in an epoch, where none is damaged."""
        return share_of_total(self._length(), rank(), self._even)
