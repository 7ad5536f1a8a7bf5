"""How much memory processes hold, in MiB, as Linux counts it."""

from pathlib import Path

_MIB = 2**20


def now() -> float:
    """Return what this process holds."""
    return _status("VmRSS")


def most() -> float:
    """Return the most that this process held since it began, or since :func:`forget_most`."""
    return _status("VmHWM")


def forget_most() -> None:
    """Let :func:`most` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def of_family(pid: int) -> float:
    """Return what a process and its children hold, pages that they share counted once; 0 when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ProcessLookupError):
        return 0.0
    own = next((int(line.split()[1]) * 1024 / _MIB for line in rollup.splitlines() if line.startswith("Pss:")), 0.0)
    return own + sum(of_family(int(child)) for child in children)


def _status(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / _MIB for line in lines if line.startswith(what))
