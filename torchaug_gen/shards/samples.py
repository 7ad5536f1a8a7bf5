"""Samples: the files of one shard that share a key."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from torchaug_gen.shards.tar import TarError

# Names that webdataset keeps for itself.
_META = re.compile(r"__[^/]*__($|/)")
# No data set has so many; an archive that claims them would fill the memory with names.
_MOST_FIELDS = 1000

Content = TypeVar("Content")


class Sample(NamedTuple, Generic[Content]):
    """The wanted files of one key, as bytes or where to find them; ``repeated`` names a field that came twice."""

    url: str
    key: str
    files: dict[str, Content]
    repeated: str | None


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and field of a file's name, split at the basename's first dot; ``None`` for a file without either.

    >>> split_name("train/v1.0/cat_7.seg.PNG")
    ('train/v1.0/cat_7', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    if not stem or not field or _META.match(name):
        return None
    return folder + slash + stem, field.lower()


def group(
    url: str, files: Iterable[tuple[str, Content | None]], wanted: Collection[str] | None = None
) -> Iterator[Sample[Content]]:
    """Group neighbouring files of one shard by key.

    What ``files`` raises passes through, and the sample it cut off is not yielded: a sample never takes files from
    two shards, nor from both sides of damage.

    Args:
        url: the shard's.
        files: names and contents, of this shard only; ``None`` for a file that it names and does not hold.
        wanted: fields to keep, all where it is ``None``; others are read and dropped.

    Raises:
        TarError: a sample of more than a thousand files.
    """
    key: str | None = None
    seen: set[str] = set()
    kept: dict[str, Content] = {}
    repeated: str | None = None
    for name, content in files:
        parts = split_name(name)
        if parts is None:
            continue
        if parts[0] != key:
            if key is not None:
                yield Sample(url, key, kept, repeated)
            key, seen, kept, repeated = parts[0], set(), {}, None
        field = parts[1]
        if field in seen:
            repeated = field
        elif content is not None and (wanted is None or field in wanted):
            kept[field] = content
        seen.add(field)
        if len(seen) > _MOST_FIELDS:
            raise _too_many(key)
    if key is not None:
        yield Sample(url, key, kept, repeated)


def gather(url: str, files: Iterable[tuple[str, Content | None]]) -> list[Sample[Content]]:
    """Group all files of one shard by key, wherever in it they are.

    Args:
        url: the shard's.
        files: as for :func:`group`.

    Raises:
        TarError: a sample of more than a thousand files.
    """
    found: dict[str, Sample[Content]] = {}
    for sample in group(url, files):
        known = found.setdefault(sample.key, sample)
        if known is sample:
            continue
        twice = next((field for field in sample.files if field in known.files), None)
        known.files.update(sample.files)
        if len(known.files) > _MOST_FIELDS:
            raise _too_many(sample.key)
        found[sample.key] = known._replace(repeated=known.repeated or sample.repeated or twice)
    return list(found.values())


def _too_many(key: str) -> TarError:
    return TarError(f"sample {key[:100]!r} has more than {_MOST_FIELDS} files")
