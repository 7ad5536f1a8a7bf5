"""The files in a tar archive, read from a stream in one pass."""

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

_BLOCK = 512
_PIECE = 1 << 24
# Names and extended headers are a few hundred bytes; a claim of more than this is damage.
_LONGEST_HEADER = 1 << 20
_REGULAR = b"\0", b"0", b"7"
# Links, devices, directories and pipes have no content, whatever their size says.
_WITHOUT_CONTENT = b"1", b"2", b"3", b"4", b"5", b"6"


class TarError(ValueError):
    """An archive is damaged, or of a kind that is not read."""


def read_tar(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each regular file of an archive, which may be compressed with gzip.

    ``tarfile`` ends without a word at a damaged header and at a truncation that falls between two files, and
    samples are lost unnoticed; here both raise, as does anything but zeros behind the end mark. The formats are
    ustar, GNU and pax; links, directories and devices are passed over.

    Args:
        stream: open for reading at the archive's first byte; need not be seekable. ``read(n)`` must return ``n``
            bytes except at the end.

    Raises:
        TarError: the archive is damaged; everything yielded before is whole.
        OSError: the stream cannot be read.
    """
    head = stream.read(_BLOCK)
    if not head.startswith(b"\x1f\x8b"):
        yield from _files(stream, head)
        return
    rejoined: Any = _Rejoined(head, stream)
    unpacked = gzip.GzipFile(fileobj=rejoined, mode="rb")
    try:
        yield from _files(unpacked, unpacked.read(_BLOCK))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TarError(f"damaged gzip compression ({error})") from error


def _files(stream: BinaryIO | gzip.GzipFile, header: bytes) -> Iterator[tuple[str, bytes]]:
    name: str | None = None
    size: int | None = None
    while header.strip(b"\0"):
        _check(header)
        kind = header[156:157]
        if kind in (b"L", b"x"):
            extension = _read(stream, _number(header[124:136]), _LONGEST_HEADER)
            if kind == b"L":
                name = _text(extension)
            else:
                name, size = _pax(extension, name, size)
        elif kind in _WITHOUT_CONTENT:
            name = size = None
        elif kind == b"S":
            raise TarError(f"{_name(header)!r} is a sparse file; write the archive without --sparse")
        else:
            content = _read(stream, _number(header[124:136]) if size is None else size)
            path = _name(header) if name is None else name
            # Archives older than POSIX mark a directory by its last slash only.
            if kind in _REGULAR and not path.endswith("/"):
                yield path, content
            # The long name before a long link name ("K"), or a global header ("g"), belongs to what comes after.
            if kind not in (b"K", b"g"):
                name = size = None
        header = stream.read(_BLOCK)
    if len(header) < _BLOCK:
        raise TarError("the archive ends without its end mark: truncated, or not closed by its writer")
    while rest := stream.read(_PIECE):
        if rest.strip(b"\0"):
            raise TarError("data after the archive's end mark: were archives joined? (`tar --concatenate` joins them)")


def _check(header: bytes) -> None:
    if len(header) < _BLOCK:
        raise TarError(f"truncated within a header, {len(header)} of {_BLOCK} bytes")
    expected = _number(header[148:156])
    # The checksum counts its own eight bytes as spaces.
    if sum(header) - sum(header[148:156]) + 8 * 0x20 != expected:
        raise TarError("bad header: its checksum is wrong, so this is no tar archive, or a damaged one")


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


def _pax(records: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Return name and size, as far as the extended header's ``length key=value`` records give them."""
    while records.strip(b"\0"):
        length, _, _ = records.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(records):
            raise TarError("bad extended header")
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit():
                raise TarError(f"bad extended header: size {value!r}")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise TarError("holds a sparse file; write the archive without --sparse")
        records = records[int(length) :]
    return name, size


def _read(stream: BinaryIO | gzip.GzipFile, size: int, most: int | None = None) -> bytes:
    """Return the next ``size`` bytes, and step over the padding behind them."""
    if most is not None and size > most:
        raise TarError(f"bad header: an extended header of {size} bytes")
    padded = -(-size // _BLOCK) * _BLOCK
    # A damaged size can claim terabytes, and read(n) would allocate them before it reads.
    if padded <= _PIECE:
        content = stream.read(padded)
    else:
        pieces, missing = [], padded
        while missing and (piece := stream.read(min(missing, _PIECE))):
            pieces.append(piece)
            missing -= len(piece)
        content = b"".join(pieces)
    if len(content) < padded:
        raise TarError(f"truncated within a file, {len(content)} of {padded} bytes")
    return content[:size]


class _Rejoined:
    """A stream with the bytes that were already read from it put back in front."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head or self._stream.read(size)
