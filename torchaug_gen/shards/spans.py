"""Read single samples of indexed shards, from where the index says their files are."""

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torchaug_gen.shards.cache import ShardCache
from torchaug_gen.shards.catalogue import Catalogue
from torchaug_gen.shards.index import Span
from torchaug_gen.shards.order import Place
from torchaug_gen.shards.remote import EndError, read_range
from torchaug_gen.shards.samples import Sample
from torchaug_gen.shards.urls import scheme, shown

# Shuffling goes to and fro between a few shards; systems allow 1024 open files or more.
_OPEN = 16
# What lies between two files of a sample is read along where that is less than another request costs.
_GAP = 1 << 16


class ChecksumError(ValueError):
    """The bytes of a file are not those that were indexed."""


class SpanReader:
    """Reads samples of the shards of a catalogue, in any number of threads.

    A shard that could not be read once is not tried again: each sample of it would fail after all tries. One that ends
    too early is: else it would depend on which thread is faster what is read of its beginning.

    Args:
        catalogue: of the shards.
        wanted: the fields to read.
        cache: where copies of remote shards are kept; without it, parts of them are asked for.
    """

    def __init__(self, catalogue: Catalogue, wanted: Collection[str], cache: ShardCache | None) -> None:
        self._catalogue, self._wanted, self._cache = catalogue, wanted, cache
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._opening: dict[int, threading.Lock] = {}
        self._lost: dict[int, str] = {}

    def read(self, place: Place) -> Sample[bytes]:
        """Return a sample.

        Raises:
            OSError: its shard cannot be read.
            ChecksumError: the bytes are not those that were indexed.
            ValueError: the index is damaged.
        """
        found = self._catalogue.sample(place.shard, place.sample)
        spans = {field: span for field, span in found.files.items() if field in self._wanted}
        files = self._files_of(place.shard, spans)
        for field, span in spans.items():
            if zlib.crc32(files[field]) != span.crc32:
                raise ChecksumError(f"field {field!r}: its bytes are not those that were indexed")
        return Sample(shown(self._catalogue.urls[place.shard]), found.key, files, found.repeated)

    def _files_of(self, shard: int, spans: dict[str, Span]) -> dict[str, bytes]:
        if not spans:
            return {}
        begin = min(span.offset for span in spans.values())
        end = max(span.offset + span.size for span in spans.values())
        if end - begin > sum(span.size for span in spans.values()) + _GAP:
            return {field: self._range(shard, span.offset, span.offset + span.size) for field, span in spans.items()}
        content = memoryview(self._range(shard, begin, end))
        return {
            field: bytes(content[span.offset - begin : span.offset - begin + span.size])
            for field, span in spans.items()
        }

    def _range(self, shard: int, begin: int, end: int) -> bytes:
        url = self._catalogue.urls[shard]
        if scheme(url) and self._cache is None:
            with self._losing(shard):
                return read_range(url, begin, end)
        file = self._file(shard, url)
        content = os.pread(file.number, end - begin, begin)
        # A read stops at 2 GiB, and at the end.
        while len(content) < end - begin:
            more = os.pread(file.number, end - begin - len(content), begin + len(content))
            if not more:
                raise EndError(f"the shard ends after {begin + len(content)} bytes, within a sample")
            content += more
        return content

    def _file(self, shard: int, url: str) -> "_File":
        file = self._files.get(shard)
        if file is not None:
            return file
        # One thread opens a shard, or finds that it is lost; the others wait for it.
        with self._opening.setdefault(shard, threading.Lock()), self._losing(shard):
            file = self._files.get(shard) or self._opened(shard, url)
            self._files[shard] = file
        if len(self._files) > _OPEN:
            self._files.popitem(last=False)
        return file

    def _opened(self, shard: int, url: str) -> "_File":
        if scheme(url) and self._cache is not None:
            with self._cache.open(url, self._catalogue.shard(shard)) as copy:
                return _File(os.dup(copy.fileno()))
        return _File(os.open(url, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))

    @contextmanager
    def _losing(self, shard: int) -> Iterator[None]:
        """Note where a shard cannot be read; raise at once where that is known."""
        if shard in self._lost:
            raise OSError(self._lost[shard])
        try:
            yield
        except EndError:
            raise
        except OSError as error:
            self._lost.setdefault(shard, str(error))
            raise


class _File:
    """An open file, closed once no thread reads it any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)
