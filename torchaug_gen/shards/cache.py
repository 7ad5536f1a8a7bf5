"""Copies of remote shards on a local disk, shared by all processes, and bounded in size."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from torchaug_gen.shards import stopping
from torchaug_gen.shards.atomic import whole_or_not
from torchaug_gen.shards.index import Shard
from torchaug_gen.shards.remote import open_shard

_PIECE = 1 << 20
# The size of a shard without an index shows as it comes, and is compared with the bound so often.
_CHECK = 1 << 26
_POLL_S = 0.05
# Longer than any download takes that has not failed: whoever holds the lock then hangs.
_PATIENCE_S = 1800.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class ShardCache:
    """A folder of copies, whose names are hashes of what they are copies of.

    Copies that were not used for longest go first when a new one needs their place. A copy that another process
    is reading can be deleted all the same: it stays readable until it is closed.

    Args:
        folder: made where it does not exist; several streams, processes and machines may share it.
        most_bytes: what its copies may take together.
    """

    def __init__(self, folder: str | Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = Path(folder), most_bytes
        self._folder.mkdir(parents=True, exist_ok=True)

    def open(self, url: str, shard: Shard | None) -> BinaryIO:
        """Open the copy of a shard, made now if there is none.

        Args:
            url: where it comes from.
            shard: what an index says of it: then copies are known by content, and checked.

        Raises:
            OSError: the shard cannot be read, is not what the index says, or has no room here.
        """
        path = self._folder / _name(url, shard)
        while True:
            # Another process may delete it at any time, to make room.
            with suppress(FileNotFoundError):
                file = path.open("rb")
                os.utime(file.fileno())
                return file
            with _locked(self._folder / f".{path.name}.lock"):
                # Another process may have made it in the meantime.
                if not path.exists():
                    return self._copy(url, shard, path)

    def _copy(self, url: str, shard: Shard | None, path: Path) -> BinaryIO:
        state, size = hashlib.sha256(), 0
        with whole_or_not(path) as copy, open_shard(url) as stream:
            if shard is not None:
                # Other processes see what it is going to take.
                copy.truncate(shard.bytes)
                self._make_room(shard.bytes)
            while piece := stream.read(_PIECE):
                stopping.pause()
                size += len(piece)
                if shard is None and size // _CHECK != (size - len(piece)) // _CHECK:
                    self._make_room(size)
                if shard is not None and size > shard.bytes:
                    break
                state.update(piece)
                copy.write(piece)
            if shard is not None and state.hexdigest() != shard.sha256:
                raise OSError("the shard is not the one that its index describes: its SHA-256 differs")
            if size > self._most_bytes:
                self._make_room(size)
            # Opened before it has its name, and can be deleted again.
            file = os.fdopen(os.open(copy.name, os.O_RDONLY), "rb")
        self._make_room(size)
        return file

    def _make_room(self, size: int) -> None:
        """Delete the oldest copies until all, with those that are being made, keep to the bound."""
        if size > self._most_bytes:
            raise OSError(
                f"a shard of {size} bytes or more does not fit in cache_dir, which may hold {self._most_bytes}"
            )
        with _locked(self._folder / ".lock"):
            copies = sorted(_copies(self._folder), key=lambda entry: entry[1].st_mtime)
            taken = sum(stat.st_size for _, stat in copies)
            for path, stat in copies[:-1]:
                if taken <= self._most_bytes:
                    return
                # What a process is writing stays, and what a dead one left goes.
                if path.suffix == ".partial" and time.time() - stat.st_mtime < _PATIENCE_S:
                    continue
                with suppress(FileNotFoundError):
                    path.unlink()
                    taken -= stat.st_size


def _name(url: str, shard: Shard | None) -> str:
    """Return a name that no other shard has, whatever its folder; the end of it is for people."""
    key = f"url {url}" if shard is None else f"content {shard.sha256} {shard.bytes}"
    readable = _UNSAFE.sub("_", url.partition("?")[0].rpartition("/")[2])[-60:]
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}-{readable}"


def _copies(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if path.suffix != ".lock" and path.name != ".lock":
            with suppress(FileNotFoundError):
                yield path, path.stat()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes and threads; it ends with whoever holds it."""
    since = time.monotonic()
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() - since > _PATIENCE_S:
                raise TimeoutError(f"{path} was locked by another process for {_PATIENCE_S:.0f} s")
            stopping.pause(_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    # Elsewhere two processes may fetch a shard twice, which is wasteful and harmless.
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
