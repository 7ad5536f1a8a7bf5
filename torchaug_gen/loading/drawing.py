"""Drawing a batch's synthetic images, in smaller chunks where memory runs out."""

import warnings
from typing import Any

import torch

from torchaug_gen.loading.plan import Plan


def sample(synthesizer: Any, plan: Plan) -> Any:
    """Return what the synthesizer draws for a plan.

    Where the device is out of memory, the network's chunk is halved for good, with a warning, until it fits.
    """
    while True:
        try:
            return _sample(synthesizer, plan)
        except torch.OutOfMemoryError:
            if not _halve(synthesizer):
                raise


def chunk_of(synthesizer: Any) -> int | None:
    """Return how many rows the network that draws runs on at a time, or ``None`` where there is none."""
    chunk = getattr(_network(synthesizer), "chunk", None)
    return chunk if isinstance(chunk, int) else None


def set_chunk(synthesizer: Any, chunk: int | None) -> None:
    """Have the network that draws run on ``chunk`` rows at a time, as when a state was saved."""
    network = _network(synthesizer)
    if chunk is None or chunk_of(synthesizer) in (None, chunk):
        return
    network.chunk = chunk
    if callable(getattr(network, "to", None)):
        # What was compiled or recorded for the old chunk is given up.
        network.to(network.device)


def _sample(synthesizer: Any, plan: Plan) -> Any:
    address = {"seed": plan.key.seed, "epoch": plan.key.epoch, "positions": plan.positions}
    if plan.labels is None:
        return synthesizer.sample(plan.synthetic, **address)
    return synthesizer.sample(labels=plan.labels, **address)


def _halve(synthesizer: Any) -> bool:
    """Halve the network's chunk, and say whether that was possible."""
    chunk = chunk_of(synthesizer)
    if chunk is None or chunk < 2:
        return False
    warnings.warn(
        f"out of memory while drawing {chunk} images at a time: drawing {chunk // 2} at a time from now on, which "
        "changes images in their last bits; the loader's state records it",
        RuntimeWarning,
        stacklevel=3,
    )
    set_chunk(synthesizer, chunk // 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _network(synthesizer: Any) -> Any:
    """Return what draws inside pools and gates, which keep it as ``.synthesizer``."""
    for _ in range(8):
        inner = getattr(synthesizer, "synthesizer", None)
        if inner is None:
            break
        synthesizer = inner
    return synthesizer
