"""The journal of a writing: which shards are finished, so that an interrupted one goes on."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torchaug_gen.shards.atomic import remove_partials, whole_or_not
from torchaug_gen.shards.index import Shard, ShardIndex, index_shard

_FOLDER = ".writing"
_SETTINGS = "settings.json"


class Entry(NamedTuple):
    """A finished shard: what the index will say of it, and how many items were used up to its end."""

    shard: Shard
    line: bytes
    items: int


class Journal:
    """A hidden folder beside the shards, with a file for each that is finished; it goes when the index is written.

    Args:
        folder: where the shards are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _FOLDER

    @property
    def begun(self) -> bool:
        """Whether there is a journal."""
        return self._path.is_dir()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Forget what was there, and note with what settings the writing begins."""
        self.remove()
        self.go_on(settings)

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Note with what settings the writing goes on."""
        self._write(_SETTINGS, dict(settings))

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of a writing that was begun, or ``None``."""
        return self._read(_SETTINGS)

    def shard(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"{number:06d}.tar"

    def finished(self, number: int) -> Entry | None:
        """Return the entry of a finished shard that is still there, or ``None``."""
        noted = self._read(f"{number:06d}.json")
        if noted is None:
            return None
        entry = Entry(Shard(**noted["shard"]), noted["line"].encode(), noted["items"])
        return entry if _is_there(self.shard(number), entry.shard) else None

    def indexed(self, number: int, index: ShardIndex) -> tuple[Shard, bytes] | None:
        """Return what an index says of a shard that is still there, or ``None``."""
        path = self.shard(number)
        place = index.numbers.get(path.name)
        if place is None or not _is_there(path, index.shards[place]):
            return None
        return index.shards[place], index.line(place)

    def note(self, number: int, items: int) -> Entry:
        """Read a shard that was just written, as a check on it, and note that it is finished."""
        entry = Entry(*index_shard(self.shard(number)), items)
        noted = {"shard": asdict(entry.shard), "line": entry.line.decode(), "items": items}
        self._write(f"{number:06d}.json", noted)
        return entry

    def clean(self, number: int) -> None:
        """Remove what a process that was killed left of a shard, and what was noted of one that is no more."""
        remove_partials(self.shard(number))
        (self._path / f"{number:06d}.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the journal."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        self._path.mkdir(exist_ok=True)
        with whole_or_not(self._path / name) as file:
            file.write(json.dumps(values).encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            values: dict[str, Any] = json.loads((self._path / name).read_bytes())
        # What cannot be read notes nothing.
        except (FileNotFoundError, ValueError):
            return None
        return values


def _is_there(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes
