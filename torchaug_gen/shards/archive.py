"""ShardFile: a tar archive whose bytes depend on nothing but what is put into it."""

import tarfile
from collections.abc import Mapping
from typing import BinaryIO

_BLOCK = 512
_RECORD = tarfile.RECORDSIZE


class ShardFile:
    """Writes the samples of one shard, in pax format, without the time and the user.

    Args:
        file: open for writing, empty.

    Attributes:
        samples: how many were added.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._keys: set[str] = set()

    @property
    def samples(self) -> int:
        """How many samples were added."""
        return len(self._keys)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Append a sample.

        Raises:
            ValueError: another sample has this key.
        """
        if key in self._keys:
            raise ValueError(f"key {key!r} comes twice in one shard, and readers could not tell its samples apart")
        self._keys.add(key)
        for field in sorted(files):
            # Content behind its header, so that a shard in memory is one copy of the sample at most.
            content = files[field]
            self._write(_header(f"{key}.{field}", len(content)))
            self._write(content)
            self._write(bytes(-len(content) % _BLOCK))

    def size_with(self, key: str, files: Mapping[str, bytes]) -> int:
        """Return how many bytes the shard has if this sample is its last."""
        size = self._size
        for field, content in files.items():
            size += len(_header(f"{key}.{field}", len(content))) + len(content) + -len(content) % _BLOCK
        return _closed(size)

    def close(self) -> None:
        """Write the end mark."""
        self._write(bytes(_closed(self._size) - self._size))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._size += len(content)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _closed(size: int) -> int:
    """Return the size of an archive that ends here: two empty blocks, and whole records as tar pads to."""
    return -(-(size + 2 * _BLOCK) // _RECORD) * _RECORD
