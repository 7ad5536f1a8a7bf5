"""The files in a tar archive, read from a stream in one pass."""

import gzip
import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

# What a reader holds in memory at most for one file of an archive.
MAX_FILE_BYTES = 1 << 30

_BLOCK = 512
_PIECE = 1 << 24
# Names and extended headers are a few hundred bytes; a claim of more than this is damage.
_LONGEST_HEADER = 1 << 20
_REGULAR = b"\0", b"0", b"7"
# Links, devices, directories and pipes have no content, whatever their size says.
_HARD_LINK, _SYMBOLIC_LINK = b"1", b"2"
_LINKS = _HARD_LINK, _SYMBOLIC_LINK
_WITHOUT_CONTENT = *_LINKS, b"3", b"4", b"5", b"6"
# How files begin that people call archives, and what they are.
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"PK": "zip"}
# Writers fill archives up to whole records, of 10 KiB unless told otherwise.
_MOST_PADDING = 1 << 26
# Text packs to a fifth, images not at all; a gzip stream of zeros unpacks to a thousand times its size.
_MOST_RATIO = 100


class TarError(ValueError):
    """An archive is damaged, or of a kind that is not read."""


class Member(NamedTuple):
    """A file of an archive.

    Attributes:
        name: with its folder.
        offset: counts the archive's unpacked bytes before its content.
        content: none of a link.
        target: the name of the file that a link stands for, as a path in the archive; ``None`` for a regular file.
    """

    name: str
    offset: int
    content: bytes
    target: str | None = None


def read_tar(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each regular file of an archive; see :func:`walk_tar`."""
    for member in walk_tar(stream):
        if member.target is None:
            yield member.name, member.content


def walk_tar(stream: BinaryIO, keep: Callable[[str], bool] | None = None) -> Iterator[Member]:
    """Yield the regular files and the links of an archive, which may be compressed with gzip.

    ``tarfile`` ends without a word at a damaged header and at a truncation that falls between two files, and
    samples are lost unnoticed; here both raise, as does anything but zeros behind the end mark. The formats are
    ustar, GNU and pax; directories and devices are passed over.

    Args:
        stream: open for reading at the archive's first byte; need not be seekable. ``read(n)`` must return ``n``
            bytes except at the end.
        keep: says by name whether a file's content is wanted; others come with none, whatever their size.

    Raises:
        TarError: the archive is damaged, unpacks to more than a hundred times its size, or a wanted file has more than
            :data:`MAX_FILE_BYTES`; everything yielded before is whole.
        OSError: the stream cannot be read.
    """
    head = stream.read(_BLOCK)
    if not is_gzip(head):
        _check_kind(head)
        yield from _files(_Counted(stream), head, keep)
        return
    packed: Any = _Rejoined(head, stream)
    unpacked = _Counted(gzip.GzipFile(fileobj=packed, mode="rb"), packed)
    try:
        yield from _files(unpacked, unpacked.read(_BLOCK), keep)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TarError(f"damaged gzip compression ({error})") from error


def is_gzip(head: bytes) -> bool:
    """Say whether a file that begins so is compressed with gzip."""
    return head.startswith(b"\x1f\x8b")


class _Told(NamedTuple):
    """What the headers before a file's own say of it, because it has no room there."""

    name: str | None = None
    size: int | None = None
    target: str | None = None


_NOTHING = _Told()


def _files(stream: "_Counted", header: bytes, keep: Callable[[str], bool] | None) -> Iterator[Member]:
    told = _NOTHING
    stream.position = len(header)
    while header.strip(b"\0"):
        _check(header)
        kind = header[156:157]
        if kind in (b"L", b"K", b"x"):
            told = _extended(told, kind, _read(stream, _number(header[124:136]), _LONGEST_HEADER))
        elif kind == b"S":
            raise TarError(f"{_name(header)!r} is a sparse file; write the archive without --sparse")
        else:
            path = _name(header) if told.name is None else told.name
            if kind in _LINKS:
                target = _text(header[157:257]) if told.target is None else told.target
                # A hard link names its file as the archive does, and a symbolic one from its own folder.
                folder = "" if kind == _HARD_LINK else posixpath.dirname(path)
                yield Member(path, stream.position, b"", posixpath.join(folder, target))
            elif kind not in _WITHOUT_CONTENT:
                length, offset = _number(header[124:136]) if told.size is None else told.size, stream.position
                # Archives older than POSIX mark a directory by its last slash only.
                regular = kind in _REGULAR and not path.endswith("/")
                content = _content(stream, path, length, wanted=regular and (keep is None or keep(path)))
                if regular:
                    yield Member(path, offset, content)
            # A global header ("g") belongs to what comes after.
            if kind != b"g":
                told = _NOTHING
        header = stream.read(_BLOCK)
    if len(header) < _BLOCK:
        raise TarError("the archive ends without its end mark: truncated, or not closed by its writer")
    _check_rest(stream)


def _content(stream: "_Counted", path: str, length: int, *, wanted: bool) -> bytes:
    """Return a file's content, or step over it where it is not wanted."""
    if not wanted:
        _skip(stream, length)
        return b""
    if length > MAX_FILE_BYTES:
        _check_claim(stream, path, length)
    return _read(stream, length)


def _check_claim(stream: "_Counted", path: str, length: int) -> None:
    """Tell a file that is too large from a damaged size."""
    try:
        _skip(stream, length)
    except TarError as error:
        raise error from None
    raise TarError(f"{path!r} has {length} bytes, but files may have at most {MAX_FILE_BYTES}")


def _check_rest(stream: "_Counted") -> None:
    padding = 0
    while rest := stream.read(_PIECE):
        if rest.strip(b"\0"):
            raise TarError("data after the archive's end mark: were archives joined? (`tar --concatenate` joins them)")
        padding += len(rest)
        if padding > _MOST_PADDING:
            raise TarError(f"more than {_MOST_PADDING} bytes of zeros behind the archive's end mark")


def _check_kind(head: bytes) -> None:
    """Name what a file is that begins like this, where it is known and no tar archive."""
    kinds = [name for start, name in _OTHERS.items() if head.startswith(start)]
    try:
        _check(head)
    except TarError:
        if kinds:
            raise TarError(f"no tar archive, but {kinds[0]}, which is not read: use tar, or tar -z") from None


def _check(header: bytes) -> None:
    if len(header) < _BLOCK:
        raise TarError(f"truncated within a header, {len(header)} of {_BLOCK} bytes")
    expected = _number(header[148:156])
    # The checksum counts its own eight bytes as spaces.
    if _sum(header[:256]) + _sum(header[256:]) - sum(header[148:156]) + 8 * 0x20 != expected:
        raise TarError("bad header: its checksum is wrong, so this is no tar archive, or a damaged one")


def _sum(half: bytes) -> int:
    """Return the sum of up to 256 bytes, which ends below the 65521 of Adler-32, several times as fast as ``sum``."""
    return zlib.adler32(half, 0) & 0xFFFF


def _number(field: bytes) -> int:
    """Return a number stored as octal digits or, above 8 GiB, in base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise TarError(f"bad header: {field!r} is no octal number") from None
    if number < 0:
        raise TarError(f"bad header: {field!r} is negative")
    return number


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # GNU archives keep times where ustar has the prefix.
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _extended(told: _Told, kind: bytes, content: bytes) -> _Told:
    """Return what is told once an extended header, GNU's or that of pax, has told more."""
    if kind == b"x":
        return _pax(content, told)
    return told._replace(name=_text(content)) if kind == b"L" else told._replace(target=_text(content))


def _pax(records: bytes, told: _Told) -> _Told:
    """Return what the extended header's ``length key=value`` records tell."""
    while records.strip(b"\0"):
        length, _, _ = records.partition(b" ")
        # More digits than the longest header has would be turned into a number for seconds.
        if not length.isdigit() or len(length) > 7 or not len(length) < int(length) <= len(records):
            raise TarError("bad extended header")
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            told = told._replace(name=_text(value))
        elif key == b"linkpath":
            told = told._replace(target=_text(value))
        elif key == b"size":
            if not value.isdigit() or len(value) > 19:
                raise TarError(f"bad extended header: size {value[:40]!r}")
            told = told._replace(size=int(value))
        elif key.startswith(b"GNU.sparse."):
            raise TarError("holds a sparse file; write the archive without --sparse")
        records = records[int(length) :]
    return told


def _read(stream: "_Counted", size: int, most: int | None = None) -> bytes:
    """Return the next ``size`` bytes, and step over the padding behind them."""
    if most is not None and size > most:
        raise TarError(f"bad header: an extended header of {size} bytes")
    padded = -(-size // _BLOCK) * _BLOCK
    # A damaged size can claim terabytes, and read(n) would allocate them before it reads.
    content = stream.read(padded) if padded <= _PIECE else b"".join(_pieces(stream, padded))
    if len(content) < padded:
        raise TarError(f"truncated within a file, {len(content)} of {padded} bytes")
    return content[:size]


def _skip(stream: "_Counted", size: int) -> None:
    padded = -(-size // _BLOCK) * _BLOCK
    skipped = sum(map(len, _pieces(stream, padded)))
    if skipped < padded:
        raise TarError(f"truncated within a file, {skipped} of {padded} bytes")


def _pieces(stream: "_Counted", size: int) -> Iterator[bytes]:
    while size and (piece := stream.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


class _Counted:
    """A stream that knows how much of it was read, and refuses to unpack a bomb."""

    def __init__(self, stream: Any, packed: "_Rejoined | None" = None) -> None:
        self._stream, self._packed = stream, packed
        self.position = 0

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self.position += len(content)
        if self._packed is not None and self.position > _MOST_RATIO * self._packed.position + _MOST_PADDING:
            raise TarError(f"unpacks to more than {_MOST_RATIO} times its size")
        return content


class _Rejoined:
    """A stream with the bytes that were already read from it put back in front."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream
        self.position = 0

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        content = head or self._stream.read(size)
        self.position += len(content)
        return content
