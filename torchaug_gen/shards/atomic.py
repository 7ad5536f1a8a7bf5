"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def whole_or_not(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when it is whole, and on the disk.

    Several processes may write the same file at the same time: each has a file of its own until then.

    Raises:
        FileNotFoundError: another process took that away, because it thinks that it alone writes the file.
    """
    # No process ID: those in containers and on other machines that share the folder may be equal.
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            # A name that survives a power cut must not stand for contents that do not.
            os.fsync(file.fileno())
        try:
            partial.replace(path)
        except FileNotFoundError as error:
            message = "another process is writing the same file, and took away what this one had written of it"
            raise FileNotFoundError(error.errno, message, str(path)) from error
        _flush_names(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(path: Path) -> None:
    """Remove what processes that were killed left of a file; nobody else may be writing it."""
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    # Windows opens no folders, and some network drives flush none.
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
