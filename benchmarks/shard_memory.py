"""How much memory do readers of photographs hold? Each is measured in a process of its own, from outside."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.loader import counted
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
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}")
    return round(most / 2**20, 1)


def resident(pid: int) -> int:
    """Return the bytes that a process and its children hold, pages that they share counted once; 0 when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return own + sum(resident(int(child)) for child in children)


def main() -> None:
    """Read everything once, and hold what that takes."""
    quiet()
    name, folder, photographs, workers, batch_size = json.loads(sys.argv[1])
    if name != "nothing":
        counted(read(name, Path(folder), Path(photographs), workers=workers, batch_size=batch_size))


if __name__ == "__main__":
    main()
