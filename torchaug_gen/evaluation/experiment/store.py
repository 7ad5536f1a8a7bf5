"""Results of cells on disk: one JSON file each, named by what decides it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What every result has.
_COMPARED = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Store:
    """A folder of results; a file in it is whole or not there.

    Args:
        folder: made when the first result is kept.
    """

    folder: Path

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a result, or ``None`` where there is none, or one that cannot be read or lacks what is compared."""
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and set(_COMPARED) <= found.keys() else None

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._path(key).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(result) + "\n", encoding="utf-8")
        unfinished.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
