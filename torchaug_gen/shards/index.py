"""The index of a folder of shards: which samples each holds, and where their files are.

It is a file of JSON lines, ``index.jsonl``, beside the shards. The first line holds the format's version, the names of
the classes where they are known, and for each shard its name, size, SHA-256 and number of samples; each further line
the samples of one shard, in the same order: ``[key, {field: [offset, size, CRC-32], ...}]``, and the name of a field
that comes twice.
"""

import hashlib
import json
import posixpath
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from torchaug_gen.shards.atomic import whole_or_not
from torchaug_gen.shards.samples import Sample, gather
from torchaug_gen.shards.tar import MAX_FILE_BYTES, Member, TarError, is_gzip, walk_tar

INDEX_NAME = "index.jsonl"
# 100 bytes a sample: room for twenty million.
MAX_INDEX_BYTES = 1 << 31
VERSION = 1

_FORMAT = "torchaug_gen shards"


class Span(NamedTuple):
    """Where a file's content is in its shard, and its checksum."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class Shard:
    """A shard as an index knows it.

    Attributes:
        name: of its file, without a folder.
        bytes: its size.
        sha256: of its bytes.
        samples: how many it holds.
    """

    name: str
    bytes: int
    sha256: str
    samples: int


class ShardIndex:
    """What is in the shards of a folder.

    Args:
        shards: in order.
        lines: the samples of each, as JSON; parsed when they are asked for.
        classes: the names of the classes in the order of their labels.
        written: the settings that :func:`write_shards` wrote them with, where it did, as JSON holds them.

    Raises:
        ValueError: a name that comes twice.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        lines: Iterable[bytes],
        classes: Sequence[str] | None = None,
        written: Mapping[str, Any] | None = None,
    ) -> None:
        self.shards = tuple(shards)
        self.classes = None if classes is None else tuple(classes)
        self.written = written
        self.numbers = {shard.name: number for number, shard in enumerate(self.shards)}
        # One object: forked workers would copy the pages of many to count their references.
        self._lines = b"\n".join([*lines, b""])
        self._ends = np.flatnonzero(np.frombuffer(self._lines, np.uint8) == ord("\n"))
        if len(self.numbers) < len(self.shards):
            raise ValueError("an index must hold each shard once")
        if len(self._ends) != len(self.shards):
            raise ValueError(
                f"it must have a line for each of its {len(self.shards)} shards, but has {len(self._ends)}"
            )

    def samples(self, number: int) -> list[Sample[Span]]:
        """Return the samples of a shard, with the places of their files.

        Raises:
            ValueError: the index is damaged.
        """
        shard = self.shards[number]
        try:
            found = [_sample(shard, *entry) for entry in json.loads(self.line(number))]
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"the index is damaged where it tells of {shard.name}: {_short(error)}") from error
        if len(found) != shard.samples:
            raise ValueError(f"the index is damaged: {shard.name} has {shard.samples} samples, but {len(found)} listed")
        return found

    def line(self, number: int) -> bytes:
        """Return the samples of a shard as JSON."""
        begin = int(self._ends[number - 1]) + 1 if number else 0
        return self._lines[begin : int(self._ends[number])]

    def to_bytes(self) -> bytes:
        """Return the index as it is written."""
        header: dict[str, Any] = {"format": _FORMAT, "version": VERSION, "classes": self.classes}
        if self.written is not None:
            header["written"] = self.written
        header["shards"] = [asdict(shard) for shard in self.shards]
        return json.dumps(header).encode() + b"\n" + self._lines

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "ShardIndex":
        """Return the index that a file holds.

        Args:
            content: the file's.
            where: its name, for errors.

        Raises:
            ValueError: no index, one of another version, or a damaged one.
        """
        first, _, rest = content.partition(b"\n")
        try:
            header = json.loads(first)
            if header["format"] != _FORMAT:
                raise ValueError("another format")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{where} is no index of shards ({_short(error)})") from error
        if header.get("version") != VERSION:
            raise ValueError(f"{where} has version {header.get('version')!r}, but this package reads version {VERSION}")
        try:
            shards = [_shard(**entry) for entry in header["shards"]]
            classes = header["classes"]
            if rest and not rest.endswith(b"\n"):
                raise ValueError("its last line is cut off")
            written = header.get("written")
            return cls(
                shards,
                [rest[:-1]] if rest else [],
                None if classes is None else [str(name) for name in classes],
                written if isinstance(written, dict) else None,
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(
                f"{where} is damaged ({_short(error)}); make it again: torchaug-gen shards index"
            ) from error


def read_index(folder: Path) -> ShardIndex | None:
    """Return the index of a local folder, or ``None`` where there is none.

    Raises:
        ValueError: it is damaged, named.
    """
    path = folder / INDEX_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return ShardIndex.from_bytes(content, str(path))


def index_shard(path: Path, name: str | None = None) -> tuple[Shard, bytes]:
    """Read a shard, and return what the index says of it: its entry, and the line of its samples.

    The files of a sample may be anywhere in the shard, and links to other files of it stand for these.

    Args:
        path: of an uncompressed tar archive.
        name: what it will be called; as it is called now where left out.

    Raises:
        ValueError: a shard that is damaged, compressed, or larger than it can be indexed, named.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if is_gzip(file.read(2)):
            raise ValueError(f"shard {path} is compressed, and samples in it have no places of their own: gunzip it")
        file.seek(0)
        hashed = _Hashed(file)
        stream = cast(BinaryIO, hashed)
        try:
            samples = gather(str(path), _places(walk_tar(stream)))
        except TarError as error:
            raise ValueError(f"shard {path}: {error}") from error
    shard = Shard(name or path.name, hashed.position, hashed.state.hexdigest(), len(samples))
    entries = [[s.key, s.files] if s.repeated is None else [s.key, s.files, s.repeated] for s in samples]
    return shard, json.dumps(entries, separators=(",", ":")).encode()


def index_folder(folder: str | Path, *, classes: Sequence[str] | None = None) -> ShardIndex:
    """Index all shards of a folder (its ``*.tar``), and write the index beside them.

    Args:
        folder: a local one.
        classes: the names of the classes in the order of their labels. Where they are left out, those of an earlier
            index are kept: shards themselves do not hold them.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: a shard that is damaged or compressed, named; no index is written then.
    """
    from tqdm.auto import tqdm

    paths = sorted(path for path in Path(folder).glob("*.tar") if path.is_file())
    if not paths:
        raise FileNotFoundError(f"the folder {str(folder)!r} holds no *.tar")
    # disable=None: no bar where the output is no terminal.
    found = [index_shard(path) for path in tqdm(paths, unit="shard", delay=2.0, disable=None)]
    known = _known_header(Path(folder) / INDEX_NAME)
    same = known.get("shards") == [asdict(shard) for shard, _ in found]
    return write_index(
        Path(folder),
        found,
        known.get("classes") if classes is None else classes,
        known.get("written") if same else None,
    )


def write_index(
    folder: Path,
    found: Iterable[tuple[Shard, bytes]],
    classes: Sequence[str] | None,
    written: Mapping[str, Any] | None = None,
) -> ShardIndex:
    """Write the index of a folder, whole or not at all, and return it; see :class:`ShardIndex`."""
    shards, lines = zip(*found, strict=True)
    index = ShardIndex(shards, lines, classes, written)
    with whole_or_not(folder / INDEX_NAME) as file:
        file.write(index.to_bytes())
    return index


def _known_header(path: Path) -> dict[str, Any]:
    """Return what the first line of an index says, also where it is damaged behind that; empty where it is no index."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(MAX_INDEX_BYTES))
        known: dict[str, Any] = header if header["format"] == _FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    classes = known.get("classes")
    return known | {"classes": [str(name) for name in classes] if isinstance(classes, list) else None}


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.state = hashlib.sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.state.update(content)
        self.position += len(content)
        return content


def _places(members: Iterable[Member]) -> list[tuple[str, Span | None]]:
    """Return where each file is; ``None`` for a link to something that the archive does not hold."""
    files: list[tuple[str, Span | None]] = []
    # Archives of "." begin names with "./", and links leave it out.
    spans: dict[str, Span] = {}
    links: dict[str, str] = {}
    for member in members:
        span = None
        if member.target is None:
            span = Span(member.offset, len(member.content), zlib.crc32(member.content))
            spans[posixpath.normpath(member.name)] = span
        else:
            links[posixpath.normpath(member.name)] = posixpath.normpath(member.target)
        files.append((member.name, span))

    def place(name: str) -> Span | None:
        # As many links in a row as Linux follows.
        for _ in range(40):
            name = links.get(name, name)
        return spans.get(name)

    return [(name, place(posixpath.normpath(name)) if span is None else span) for name, span in files]


def _shard(name: Any, bytes: Any, sha256: Any, samples: Any) -> Shard:
    if type(name) is not str or "/" in name or not name:
        raise ValueError(f"a shard's name must have no folder, got {name!r}")
    if type(bytes) is not int or type(samples) is not int or not 0 <= samples <= bytes:
        raise ValueError(f"{name} cannot have {samples!r} samples in {bytes!r} bytes")
    return Shard(name, bytes, str(sha256), samples)


def _sample(shard: Shard, key: Any, files: Any, repeated: Any = None) -> Sample[Span]:
    spans = {str(field): _checked(shard, *place) for field, place in files.items()}
    return Sample("", str(key), spans, None if repeated is None else str(repeated))


def _checked(shard: Shard, offset: Any, size: Any, crc32: Any) -> Span:
    if not (type(offset) is type(size) is type(crc32) is int):
        raise TypeError("places must be integers")
    if offset < 0 or not 0 <= size <= MAX_FILE_BYTES or offset + size > shard.bytes:
        raise ValueError(f"{size} bytes from {offset} on are not in a shard of {shard.bytes}")
    return Span(offset, size, crc32)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
