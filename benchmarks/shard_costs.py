"""What an epoch of a loader costs: images per second, and processor time of the process and its workers."""

import gc
import resource
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import common, limits
from benchmarks.passes import counted
from benchmarks.rounds import interleave
from torchaug_gen import ShardStream


class Metered:
    """A contestant that goes through one more epoch at each call, and notes what that costs.

    Args:
        loader: kept from call to call.

    Attributes:
        costs: milliseconds of processor time per image of each epoch, of this process and the workers that it started.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self.costs: list[float] = []

    def __call__(self) -> int:
        """Go through an epoch, and return how many images it had."""
        dataset = getattr(self._loader, "dataset", None)
        if isinstance(dataset, ShardStream):
            dataset.set_epoch(len(self.costs))
        before = _processor_seconds()
        images = counted(self._loader)
        # Workers are counted once they have ended.
        gc.collect()
        self.costs.append((_processor_seconds() - before) / images * 1e3)
        return images


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def timed(
    loaders: dict[str, Iterable[Any]], photographs: Path, *, rounds: int, baseline: str, **about: Any
) -> dict[str, Any]:
    """Return a case, with the processor time of an image beside the rates, and the decoder alone as the limit."""
    contestants = {name: Metered(loader) for name, loader in loaders.items()}
    limit, decode = limits.decoding(photographs)
    rates = interleave({**contestants, limit: decode}, rounds=rounds)
    costs = {name: round(statistics.median(metered.costs[1:]), 4) for name, metered in contestants.items()}
    return common.case(rates, baseline=baseline, limit=limit, processor_ms=costs, **about)
