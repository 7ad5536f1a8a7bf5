"""What the shards of a stream hold, as the indexes beside them say."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torchaug_gen.shards.index import INDEX_NAME, MAX_INDEX_BYTES, Shard, ShardIndex, Span
from torchaug_gen.shards.remote import read_small
from torchaug_gen.shards.samples import Sample
from torchaug_gen.shards.urls import beside, name_of, scheme, shown

# Shards whose samples are kept parsed: shuffling goes to and fro between a few.
_PARSED = 8


class Catalogue:
    """The samples of a stream's shards, by number of shard and of sample within it.

    Args:
        urls: the shards.
        indexes: where each is described.

    Raises:
        ValueError: a shard that its index does not know, or a local one of another size.
    """

    def __init__(self, urls: Sequence[str], indexes: Sequence[ShardIndex]) -> None:
        self.urls = tuple(urls)
        self._indexes = tuple(indexes)
        self._numbers = [_number(url, index) for url, index in zip(urls, indexes, strict=True)]
        self._parsed: OrderedDict[int, list[Sample[Span]]] = OrderedDict()
        #: Names of the classes in the order of their labels, where all indexes have the same.
        self.classes = indexes[0].classes if len({index.classes for index in indexes}) == 1 else None

    @property
    def counts(self) -> list[int]:
        """How many samples each shard holds."""
        return [self.shard(place).samples for place in range(len(self.urls))]

    def shard(self, place: int) -> Shard:
        """Return what the index says of a shard."""
        return self._indexes[place].shards[self._numbers[place]]

    def sample(self, place: int, ordinal: int) -> Sample[Span]:
        """Return where the files of a sample are; ``ValueError`` where the index is damaged."""
        samples = self._parsed.get(place)
        if samples is None:
            samples = self._indexes[place].samples(self._numbers[place])
            self._parsed[place] = samples
            if len(self._parsed) > _PARSED:
                self._parsed.popitem(last=False)
        return samples[ordinal]

    def digest(self) -> str:
        """Return what tells these samples from others: the same wherever the shards lie."""
        state = hashlib.sha256()
        for place in range(len(self.urls)):
            state.update(self.shard(place).sha256.encode())
        return state.hexdigest()[:16]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_parsed": OrderedDict()}


def find_catalogue(urls: Sequence[str], index: str | Path | None) -> Catalogue | None:
    """Return the catalogue of shards, or ``None`` where they have no index.

    Args:
        urls: the shards.
        index: ``"auto"`` for the ``index.jsonl`` in each shard's folder, of which none may be missing; ``None`` for
            no index; or one file or URL for all shards.

    Raises:
        ValueError: an index that is damaged, or does not fit the shards.
        OSError: it cannot be read.
    """
    if index is None:
        return None
    read: dict[str, ShardIndex | None] = {}
    found: list[ShardIndex] = []
    for url in urls:
        if scheme(url) == "pipe":
            return None
        where = beside(url, INDEX_NAME) if index == "auto" else str(index)
        if where not in read:
            read[where] = _read(where)
        described = read[where]
        if described is None:
            if index == "auto":
                return None
            raise FileNotFoundError(f"index: {shown(where)!r} does not exist")
        found.append(described)
    return Catalogue(urls, found)


def _read(where: str) -> ShardIndex | None:
    try:
        content = read_small(where, MAX_INDEX_BYTES)
    except OSError as error:
        raise OSError(
            f"the index {shown(where)} cannot be read, which decides the order of samples: {error}; "
            "pass index=None to stream without it"
        ) from error
    return None if content is None else ShardIndex.from_bytes(content, shown(where))


def _number(url: str, index: ShardIndex) -> int:
    name = name_of(url)
    again = "make it again: torchaug-gen shards index, or pass index=None to stream without it"
    if name not in index.numbers:
        raise ValueError(f"shard {shown(url)} is not in the index beside it; {again}")
    number = index.numbers[name]
    expected = index.shards[number].bytes
    # A shard that vanished is met, and counted, where it is read.
    if not scheme(url) and Path(url).exists() and (size := Path(url).stat().st_size) != expected:
        raise ValueError(f"shard {url} has {size} bytes, but {expected} in the index beside it; {again}")
    return number
