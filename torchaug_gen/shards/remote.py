"""Open shards, here or elsewhere, for reading."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any, BinaryIO, cast

from torchaug_gen.shards.urls import scheme

# curl tries again for a minute by itself before it gives up; after that, silence means a dead connection.
STALL_S = 120.0
_EXIT_S = 10.0
_BUFFER = 1 << 18


@contextmanager
def open_shard(url: str) -> Iterator[BinaryIO]:
    """Open a shard for reading from its first byte.

    Remote shards and ``pipe:`` commands are read from a process that webdataset starts. It is killed where the
    reader leaves before the end.

    Raises:
        OSError: a shard that cannot be opened; while reading, a process that failed, or that sent nothing
            for :data:`STALL_S` seconds.
    """
    if not scheme(url):
        with Path(url).open("rb") as file:
            yield file
        return
    from webdataset.gopen import gopen

    pipe = gopen(url)
    try:
        yield cast(BinaryIO, io.BufferedReader(_ProcessOutput(pipe.proc), _BUFFER))
    finally:
        pipe.proc.kill()
        pipe.proc.stdout.close()
        pipe.proc.wait()


class _ProcessOutput(io.RawIOBase):
    """What a process writes; its failure is an error where its output ends, not an end like any other."""

    def __init__(self, process: Popen[bytes]) -> None:
        if process.stdout is None:
            raise ValueError("the process must write to a pipe")
        self._process, self._pipe = process, process.stdout.fileno()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not wait([self._pipe], STALL_S):
            raise TimeoutError(f"nothing came for {STALL_S:.0f} s")
        content = os.read(self._pipe, len(buffer))
        if not content:
            self._check_exit()
        buffer[: len(content)] = content
        return len(content)

    def _check_exit(self) -> None:
        with suppress(TimeoutExpired):
            status = self._process.wait(_EXIT_S)
            if status:
                raise OSError(f"{_command(self._process)} failed with exit status {status}")


def _command(process: Popen[bytes]) -> str:
    """Name the program only: arguments may hold tokens."""
    args = process.args
    return str(args[0]) if isinstance(args, list | tuple) else "the pipe: command"
