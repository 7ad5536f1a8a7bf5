"""Source: files that others wrote, read once, whole, and only after they were checked."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MAX_BYTES = 8 << 30
MAX_JSON_BYTES = 4 << 20

Pins = str | Mapping[str, str] | None


class Source:
    """A file, or a folder of files, that a synthesizer is loaded from.

    What is parsed are the very bytes that were measured and hashed, so that nothing can be exchanged in between.

    Args:
        path: the file or folder; a link is followed, since whoever calls has named it.
        sha256: the expected SHA-256 in hexadecimal of the one file with the network, or those of all files by their
            path within the folder.
        main: the file with the network, where ``path`` is a folder.

    Raises:
        TypeError: a ``sha256`` that is no text.
    """

    def __init__(self, path: Path, *, sha256: Pins = None, main: str | None = None) -> None:
        if not (sha256 is None or isinstance(sha256, str) or _are_texts(sha256)):
            raise TypeError(f"sha256 must be a text of hexadecimal digits, or one for each file, got {sha256!r}")
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.main = main or path.name
        self.sha256 = sha256

    def read(self, name: str | None = None, *, limit: int = MAX_BYTES, describes: bool = False) -> bytes:
        """Return the content of a file.

        Args:
            name: its path within the folder; the file with the network when left out.
            limit: bytes it may have.
            describes: it only says how to use another file, and need not be pinned where a single one is.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a path or link that leads out of the folder, something that is not a regular file, a file that
                is too large, or one without the expected SHA-256.
        """
        name = self.main if name is None else name
        file = self.folder / name if name == self.main else self._inside(name)
        content = _read(file, limit)
        self._check_pin(name, content, describes)
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file, or raise as :meth:`read` does, or ``ValueError`` for anything else."""
        content = self.read(name, limit=MAX_JSON_BYTES, describes=True)
        try:
            values = json.loads(content)
        # ValueError: also of an integer with too many digits to be read in reasonable time.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.folder / name} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{self.folder / name} must hold a JSON object, got a {type(values).__name__}")
        return values

    def has(self, name: str) -> bool:
        """Say whether there is a file of this name."""
        return (self.folder / name).is_file()

    def _inside(self, name: str) -> Path:
        """Return the path of a file that the network's own file may have named, if it lies in the folder."""
        relative = PurePosixPath(name)
        if "\\" in name or "\0" in name or relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"{self.path} names the file {name!r}, which does not lie in its folder: refused")
        file = self.folder / relative
        root = self.folder.resolve()
        # The download cache of Hugging Face keeps a snapshot as links into the "blobs" beside it.
        roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise ValueError(f"{file} is a link to {target}, out of its folder: refused")
        return file

    def _check_pin(self, name: str, content: bytes, describes: bool) -> None:
        if self.sha256 is None:
            return
        if isinstance(self.sha256, Mapping):
            if name not in self.sha256:
                raise ValueError(f"sha256 must pin every file that is read, and {name} is not among {[*self.sha256]}")
            expected = self.sha256[name]
        elif name == self.main:
            expected = self.sha256
        elif describes:
            return
        else:
            raise ValueError(
                f"sha256 pins {self.main} alone, but {name} is read as well: pass sha256={{name: digest}} for both"
            )
        if expected.lower() != (found := hashlib.sha256(content).hexdigest()):
            raise ValueError(f"{self.folder / name} must have the SHA-256 {expected}, got {found}")


def _are_texts(pins: object) -> bool:
    return isinstance(pins, Mapping) and all(isinstance(text, str) for item in pins.items() for text in item)


def _read(file: Path, limit: int) -> bytes:
    with open(file, "rb", opener=_nonblocking) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{file} must be a regular file")
        if status.st_size > limit:
            raise ValueError(f"{file} must have at most {limit:,} bytes, got {status.st_size:,}: refused unread")
        # One byte more than allowed shows a file that grew since.
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{file} must have at most {limit:,} bytes, got more: refused")
    return content


def _nonblocking(path: str, flags: int) -> int:
    """Open so that a named pipe is recognised instead of waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
