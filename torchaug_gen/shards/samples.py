"""Samples: the files of one shard that share a key."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

# Names that webdataset keeps for itself.
_META = re.compile(r"__[^/]*__($|/)")


class Sample(NamedTuple):
    """The wanted files of one key, as bytes; ``repeated`` names a field that came twice."""

    url: str
    key: str
    files: dict[str, bytes]
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


def group(url: str, files: Iterable[tuple[str, bytes]], wanted: Collection[str]) -> Iterator[Sample]:
    """Group neighbouring files of one shard by key.

    What ``files`` raises passes through, and the sample it cut off is not yielded: a sample never takes files from
    two shards, nor from both sides of damage.

    Args:
        url: the shard's.
        files: names and contents, of this shard only.
        wanted: fields to keep; others are read and dropped.
    """
    key: str | None = None
    seen: set[str] = set()
    kept: dict[str, bytes] = {}
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
        elif field in wanted:
            kept[field] = content
        seen.add(field)
    if key is not None:
        yield Sample(url, key, kept, repeated)
