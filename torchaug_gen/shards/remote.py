"""Open shards, here or elsewhere, for reading: from the first byte on, or a part of one."""

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO, cast

from torchaug_gen.shards import web
from torchaug_gen.shards.urls import WEB, scheme

# A command that sends nothing for so long is taken for dead.
STALL_S = 120.0
_EXIT_S = 10.0
_BUFFER = 1 << 18


class EndError(OSError):
    """A shard ends before what is asked for."""


@contextmanager
def open_shard(url: str) -> Iterator[BinaryIO]:
    """Open a shard for reading from its first byte.

    Raises:
        OSError: a shard that cannot be opened or read on, after several tries where it comes through a network.
    """
    kind = scheme(url)
    if not kind:
        with Path(url).open("rb", buffering=_BUFFER) as file:
            yield file
    elif kind in WEB:
        with io.BufferedReader(web.WebFile(url), _BUFFER) as stream:
            yield cast(BinaryIO, stream)
    elif kind == "pipe":
        with _command_output(url.partition(":")[2]) as output:
            yield output
    else:
        with _cloud_errors(), _filesystem(url) as (files, path), files.open(path, "rb", block_size=1 << 22) as stream:
            yield stream


def read_range(url: str, start: int, end: int) -> bytes:
    """Return the bytes ``start..end`` of a remote shard.

    Raises:
        EndError: it ends before.
        OSError: it cannot be read.
    """
    if scheme(url) in WEB:
        try:
            return web.fetch(url, start=start, end=end, most=end - start)
        except web.WebError as error:
            if error.status == web.BEHIND_THE_END:
                raise EndError(f"the shard ends before the {end} bytes that were expected") from error
            raise
    with _cloud_errors(), _filesystem(url) as (files, path):
        content: bytes = files.cat_file(path, start=start, end=end)
    if len(content) != end - start:
        raise EndError(f"the shard ends after {start + len(content)} bytes, but {end} were expected")
    return content


def read_small(url: str, most: int) -> bytes | None:
    """Return a whole file, or ``None`` where there is none.

    Raises:
        OSError: it cannot be read, or has more than ``most`` bytes.
    """
    if not scheme(url):
        local = Path(url)
        if not local.is_file():
            return None
        if local.stat().st_size > most:
            raise OSError(f"{local.stat().st_size} bytes, but at most {most} are read")
        return local.read_bytes()
    if scheme(url) in WEB:
        try:
            return web.fetch(url, most=most)
        except web.WebError as error:
            # Object stores answer 403 for what does not exist where the caller may not list.
            if error.status in (403, 404, 410):
                return None
            raise
    with _cloud_errors(), _filesystem(url) as (files, path):
        if not files.exists(path):
            return None
        if (size := files.size(path)) is not None and size > most:
            raise OSError(f"{size} bytes, but at most {most} are read")
        content: bytes = files.cat_file(path)
        return content


@contextmanager
def _filesystem(url: str) -> Iterator[tuple[Any, str]]:
    import fsspec

    # Keys and tokens come from the environment or the store's own configuration, and stay in this process.
    files, path = fsspec.core.url_to_fs(url)
    yield files, path


@contextmanager
def _cloud_errors() -> Iterator[None]:
    """Turn what a store's package raises into ``OSError``: each has errors of its own."""
    try:
        yield
    except (OSError, GeneratorExit):
        raise
    except ValueError as error:
        # A damaged archive is no failure of the store's.
        if type(error).__module__.startswith("torchaug_gen"):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _command_output(command: str) -> Iterator[BinaryIO]:
    """Run a shell command, and yield what it writes; it is killed, with all that it started, where one leaves early."""
    # A user who names `pipe:` and passes allow_pipe=True means a shell.
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)
    output = _ProcessOutput(process)
    try:
        yield cast(BinaryIO, io.BufferedReader(output, _BUFFER))
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        output.pipe.close()
        process.wait()


class _ProcessOutput(io.RawIOBase):
    """What a process writes; its failure is an error where its output ends, not an end like any other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            raise ValueError("the process must write to a pipe")
        self._process, self.pipe = process, process.stdout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not wait([self.pipe.fileno()], STALL_S):
            raise TimeoutError(f"nothing came for {STALL_S:.0f} s")
        content = os.read(self.pipe.fileno(), len(buffer))
        if not content:
            with suppress(subprocess.TimeoutExpired):
                if status := self._process.wait(_EXIT_S):
                    # Its words may hold tokens.
                    raise OSError(f"the pipe: command failed with exit status {status}")
        buffer[: len(content)] = content
        return len(content)
