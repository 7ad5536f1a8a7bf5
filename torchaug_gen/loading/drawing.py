"""Drawing a batch's synthetic images: ahead where that fills chunks, in smaller ones where memory runs out."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchaug_gen.loading.plan import Plan
from torchaug_gen.synthesis.network import NetworkSynthesizer


@dataclass(frozen=True)
class Prepared:
    """A plan whose synthetic images are drawn: ``(S, C, H, W)``, and the seconds that it took."""

    plan: Plan
    images: Tensor
    seconds: float


class DrawAhead:
    """Draws on the consumer's thread, and fills up the last chunk with images of the batches behind.

    A network always runs on full chunks, so that its images do not depend on how many are drawn: for 38 images it
    makes 64. Here the other 26 are those of the next batch. And the consumer's thread is the one with all of PyTorch's
    threads: where batches are trained on by the same processor, a second team of threads would only be in the way.

    Args:
        network: draws them.
    """

    def __init__(self, network: NetworkSynthesizer) -> None:
        self._network = network
        # What is drawn already of the batches to come: the plan that says what it is, and its images.
        self._left: tuple[Plan, Tensor] | None = None

    def __call__(self, plans: Sequence[Plan]) -> Prepared | Plan:
        """Return the first plan with its images, given those behind it."""
        plan, start = plans[0], time.perf_counter()
        if not plan.synthetic:
            return plan
        # The consumer may be in whatever context it likes.
        with torch.inference_mode(False), torch.no_grad():
            images = self._images(plan, plans[1:])
        return Prepared(plan, images, time.perf_counter() - start)

    def _images(self, plan: Plan, behind: Sequence[Plan]) -> Tensor:
        """Return the plan's images, those that were drawn with an earlier one's first."""
        drawn = self._take(plan)
        known = 0 if drawn is None else len(drawn)
        if drawn is not None and known == plan.synthetic:
            return drawn
        missing = _rows(plan, known, plan.synthetic)
        space = 0 if self._network.drew_noise else -missing.synthetic % self._network.chunk
        wanted = _extended(missing, behind, space)
        images, _ = sample(self._network, wanted)
        if self._network.drew_noise:
            # What noise a network draws itself depends on what else is in the chunk, which has to be this batch.
            return self._alone(plan) if known or len(images) > missing.synthetic else images
        if len(images) > missing.synthetic:
            # A copy, since the rest need not be kept for it.
            self._left = _rows(wanted, missing.synthetic, wanted.synthetic), images[missing.synthetic :].clone()
        images = images[: missing.synthetic]
        return images if drawn is None else torch.cat((drawn, images))

    def _alone(self, plan: Plan) -> Tensor:
        images: Tensor = sample(self._network, plan)[0]
        return images

    def _take(self, plan: Plan) -> Tensor | None:
        """Return as many of the plan's first images as there are, and keep those of later plans."""
        left, self._left = self._left, None
        if left is None or self._network.drew_noise:
            return None
        of, images = left
        count = min(plan.synthetic, of.synthetic)
        if not _same(_rows(of, 0, count), _rows(plan, 0, count)):
            return None
        if count < of.synthetic:
            self._left = _rows(of, count, of.synthetic), images[count:]
        return images[:count]


def draw_ahead_of(synthesizer: Any) -> DrawAhead | None:
    """Return what draws on the consumer's thread, or ``None`` where the background is the place for it.

    That is where the network runs on the processor that the consumer computes on too.
    """
    if not isinstance(synthesizer, NetworkSynthesizer) or torch.accelerator.is_available():
        return None
    return DrawAhead(synthesizer)


def _rows(plan: Plan, first: int, last: int) -> Plan:
    """Return a plan of some of another's synthetic items."""
    labels = None if plan.labels is None else plan.labels[first:last]
    return replace(plan, batch=None, positions=plan.positions[first:last], labels=labels)


def _extended(plan: Plan, behind: Sequence[Plan], space: int) -> Plan:
    """Return a plan with up to ``space`` further items, the first ones of the plans behind it."""
    positions, labels = [plan.positions], [] if plan.labels is None else [plan.labels]
    for other in behind:
        count = min(space, other.synthetic)
        positions.append(other.positions[:count])
        labels += [] if other.labels is None else [other.labels[:count]]
        space -= count
    return replace(plan, positions=torch.cat(positions), labels=torch.cat(labels) if labels else None)


def _same(one: Plan, other: Plan) -> bool:
    """Say whether two plans ask for the same images."""
    if (one.key.seed, one.key.epoch) != (other.key.seed, other.key.epoch):
        return False
    if (one.labels is None) is not (other.labels is None) or not torch.equal(one.positions, other.positions):
        return False
    return one.labels is None or other.labels is None or torch.equal(one.labels, other.labels)


def sample(synthesizer: Any, plan: Plan) -> Any:
    """Return what the synthesizer draws for a plan.

    Where the device is out of memory, the network's chunk is halved for good, until it fits, and a warning says so.
    """
    before = chunk_of(synthesizer)
    while True:
        try:
            drawn = _sample(synthesizer, plan)
            break
        except torch.OutOfMemoryError:
            if not _halve(synthesizer):
                raise
    if (chunk := chunk_of(synthesizer)) != before:
        warnings.warn(
            f"out of memory while drawing {before} images at a time: drawing {chunk} at a time from now on, which "
            "changes images in their last bits; the loader's state records it",
            RuntimeWarning,
            stacklevel=2,
        )
    return drawn


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
