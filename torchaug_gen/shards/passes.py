"""One pass of one consumer over its share of an epoch, undecoded, from any position on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice

import numpy as np

from torchaug_gen import rng
from torchaug_gen.shards.ahead import read_ahead
from torchaug_gen.shards.buffer import shuffled
from torchaug_gen.shards.cache import ShardCache
from torchaug_gen.shards.catalogue import Catalogue
from torchaug_gen.shards.dealing import Consumer, Deal, Remainder, shared_total
from torchaug_gen.shards.faults import Faults
from torchaug_gen.shards.order import GlobalOrder, Place
from torchaug_gen.shards.remote import EndError, open_shard
from torchaug_gen.shards.samples import Sample, group, split_name
from torchaug_gen.shards.spans import ChecksumError, SpanReader
from torchaug_gen.shards.tar import TarError, walk_tar
from torchaug_gen.shards.urls import scheme, shown

# Positions that are worked out at a time.
_CHUNK = 1024
# A round trip to an object store takes 10 to 50 ms, and a sample is decoded in 1 to 5.
_THREADS, _AHEAD = 8, 32
# Samples that are read in search of a whole one.
_MOST_STAND_INS = 1000


@dataclass(frozen=True)
class Shuffling:
    """What decides the order of an epoch.

    Attributes:
        window: how many samples wait to be drawn from; 0 for no shuffling, also of shards.
        seed: 0 ≤ seed < 2⁶⁴.
        epoch: 0 ≤ epoch < 2³².
    """

    window: int
    seed: int
    epoch: int


class ShardPass(ABC):
    """A consumer's share of an epoch."""

    @abstractmethod
    def samples(self, taken: int) -> Generator[Sample[bytes] | None, None, None]:
        """Yield what comes behind the first ``taken`` samples; ``None`` in the place of one that could not be read."""

    def stand_ins(self, taken: int) -> Iterator[Sample[bytes]]:
        """Yield samples that may come in the place of the one behind the first ``taken``; none where there is no index.

        Which they are does not depend on the number of workers and ranks, nor on where the pass began.
        """
        yield from ()


class IndexedPass(ShardPass):
    """Samples in the one order that all consumers share, each read by itself.

    Args:
        catalogue: of the shards.
        wanted: fields to read.
        shuffling: decides the order.
        consumer: whose share it is.
        batch_size: of the runs that are dealt to the workers in turn.
        even: see :func:`shared_total`.
        remainder: what is left of the epoch.
        cache: for remote shards.
        faults: are told what is damaged.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        wanted: Collection[str],
        shuffling: Shuffling,
        *,
        consumer: Consumer,
        batch_size: int,
        even: str | None,
        remainder: Remainder,
        cache: ShardCache | None,
        faults: Faults,
    ) -> None:
        self._catalogue, self._faults = catalogue, faults
        self._order = GlobalOrder(catalogue.counts, window=shuffling.window, seed=shuffling.seed, epoch=shuffling.epoch)
        self._consumer, self._remainder = consumer, remainder
        self._deal = Deal(consumer.rank.count, consumer.worker.count, batch_size)
        self._left = remainder.count(len(self._order))
        self._total = shared_total(self._left, consumer.rank.count, even)
        self._reader = SpanReader(catalogue, wanted, cache)
        # Shards that were told of, and those of them that are not tried again.
        self._failed: set[int] = set()
        self._lost: set[int] = set()

    def samples(self, taken: int) -> Generator[Sample[bytes] | None, None, None]:
        """Yield what comes behind the first ``taken`` samples; nothing before is read."""
        read, places = self._reader.read, self._places(taken)
        if not any(scheme(url) for url in self._catalogue.urls):
            for place in places:
                yield None if place.shard in self._lost else self._checked(place, partial(read, place))
            return
        # An error that somebody keeps would keep the generator, and its threads, with it.
        with closing(read_ahead(read, places, threads=_THREADS, depth=_AHEAD)) as results:
            for place, result in results:
                yield None if place.shard in self._lost else self._checked(place, result)

    def stand_ins(self, taken: int) -> Iterator[Sample[bytes]]:
        """Yield samples from before that one in the epoch's order."""
        length = len(self._order)
        (position,) = self._positions(taken, 1).tolist()
        # Twice as far each time: a run of damaged samples is soon left, and each of them gets another stand-in, from
        # shards that are read at this time anyway. Then any.
        steps = chain((1 << power for power in range(length.bit_length())), range(1, length))
        for step in islice(steps, _MOST_STAND_INS):
            (place,) = self._order.places(np.array([(position - step) % length]))
            if place.shard not in self._lost:
                with suppress(OSError, ChecksumError):
                    yield self._reader.read(place)

    def _places(self, taken: int) -> Iterator[Place]:
        for begin in count(taken, _CHUNK):
            positions = self._positions(begin, _CHUNK)
            yield from self._order.places(positions)
            if len(positions) < _CHUNK:
                return

    def _positions(self, taken: int, most: int) -> np.ndarray:
        """Return the positions in the epoch's order of the next samples of this share."""
        rank, worker = self._consumer.rank.index, self._consumer.worker.index
        places = self._deal.places(rank, worker, np.arange(taken, taken + most, dtype=np.int64))
        # Places behind the last sample are filled up with the first ones.
        return self._remainder.at(places[places < self._total] % max(self._left, 1))

    def _checked(self, place: Place, read: Callable[[], Sample[bytes]]) -> Sample[bytes] | None:
        try:
            return read()
        except OSError as error:
            # What comes before the end of a shard is whole, whoever met the end; of others all samples fail likewise.
            if not isinstance(error, EndError):
                self._lost.add(place.shard)
            # They are one fault together.
            if place.shard not in self._failed:
                self._failed.add(place.shard)
                self._faults.report("read", f"shard {shown(self._catalogue.urls[place.shard])}", error)
        except ChecksumError as error:
            where, key = shown(self._catalogue.urls[place.shard]), self._catalogue.sample(*place).key
            self._faults.report("checksum", f"shard {where}, sample {key!r}", error)
        return None


class StreamedPass(ShardPass):
    """Samples of shards without an index, read from front to back.

    Where there are at least as many shards as consumers, each reads its own; else each reads all, and keeps every
    count-th sample.

    Args:
        urls: the shards.
        wanted: fields to read.
        shuffling: decides the order.
        consumer: whose share it is.
        cache: for remote shards.
        faults: are told what is damaged.
    """

    def __init__(
        self,
        urls: Sequence[str],
        wanted: Collection[str],
        shuffling: Shuffling,
        *,
        consumer: Consumer,
        cache: ShardCache | None,
        faults: Faults,
    ) -> None:
        self._urls, self._wanted, self._shuffling = list(urls), wanted, shuffling
        self._consumer, self._cache, self._faults = consumer.share, cache, faults

    def samples(self, taken: int) -> Generator[Sample[bytes] | None, None, None]:
        """Yield what comes behind the first ``taken`` samples; these are read, but not decoded."""
        how, samples = self._shuffling, self._in_order()
        if how.window:
            samples = shuffled(samples, how.window, seed=how.seed, epoch=how.epoch, consumer=self._consumer)
        yield from islice(samples, taken, None)

    def _in_order(self) -> Iterator[Sample[bytes]]:
        urls, mine = self._order(), self._consumer
        if len(urls) >= mine.count:
            for url in urls[mine.index :: mine.count]:
                yield from self._read(url)
            return
        for place, url in enumerate(urls):
            # Samples are counted within their shard, so that one consumer's failed download shifts no other's
            # share, and from another consumer on in each shard, so that remainders spread.
            for ordinal, sample in enumerate(self._read(url), start=place):
                if ordinal % mine.count == mine.index:
                    yield sample

    def _order(self) -> list[str]:
        """Return the epoch's order of shards, on which all consumers agree."""
        if not self._shuffling.window:
            return self._urls
        order = rng.permutation(self._shuffling.seed, "shards.order", self._shuffling.epoch, len(self._urls))
        return [self._urls[index] for index in order.tolist()]

    def _read(self, url: str) -> Iterator[Sample[bytes]]:
        where, cached = shown(url), self._cache is not None and scheme(url) not in ("", "pipe")
        try:
            with self._cache.open(url, None) if cached and self._cache else open_shard(url) as stream:
                # What a link stands for has gone by.
                members = walk_tar(stream, self._wants)
                files = ((name, content if target is None else None) for name, _, content, target in members)
                yield from group(where, files, self._wanted)
        except TarError as error:
            self._faults.report("tar", f"shard {where}", error)
        except OSError as error:
            self._faults.report("read", f"shard {where}", error)

    def _wants(self, name: str) -> bool:
        parts = split_name(name)
        return parts is not None and parts[1] in self._wanted
