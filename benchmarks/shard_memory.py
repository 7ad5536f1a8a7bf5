"""How much memory do readers of photographs hold? Each is measured in a process of its own, from outside."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import resident
from benchmarks.passes import counted
from benchmarks.shard_readers import quiet, read

_EVERY_S = 0.05


def peak(name: str, folder: Path, photographs: Path, workers: int, batch_size: int) -> float:
    """Return the most MiB that a reader's process and its workers hold during an epoch.

    Args:
        name: as for :func:`read`, or ``"nothing"`` for the imports alone.
        folder: what was prepared for the readers.
        photographs: the files themselves.
        workers: processes that decode.
        batch_size: images at a time.

    Raises:
        RuntimeError: the reader failed.
    """
    told = json.dumps([name, str(folder), str(photographs), workers, batch_size])
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.shard_memory", told], stdout=subprocess.DEVNULL)
    most = 0.0
    while process.poll() is None:
        most = max(most, resident.of_family(process.pid))
        time.sleep(_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}")
    return round(most, 1)


def main() -> None:
    """Read everything once, and hold what that takes."""
    quiet()
    name, folder, photographs, workers, batch_size = json.loads(sys.argv[1])
    if name != "nothing":
        counted(read(name, Path(folder), Path(photographs), workers=workers, batch_size=batch_size))


if __name__ == "__main__":
    main()
