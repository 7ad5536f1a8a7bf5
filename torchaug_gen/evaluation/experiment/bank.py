"""Bank: images that were drawn once and are delivered again and again."""

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.gates.gate import Gate
from torchaug_gen.synthesis.synthesizer import Synthesizer

_CHUNK = 64
# Candidates for each image that a gate is to let through; where fewer pass, those that do are delivered more often.
_CANDIDATES = 3


class Bank(Synthesizer):
    """A synthesizer that delivers one of the images it holds, all of a class alike likely.

    Args:
        held: the images, at least one of each class.

    Raises:
        ValueError: a class without an image, named.
    """

    def __init__(self, held: LabelledImages) -> None:
        super().__init__(tuple(held.images.shape[1:]), num_classes=len(held.classes))
        self.classes, self.images = held.classes, held.images
        self._counts = torch.tensor(held.counts)
        if not self._counts.all():
            empty = held.classes[int((self._counts == 0).nonzero()[0])]
            raise ValueError(f"a bank must hold an image of every class, got none of {empty}")
        self._order = held.labels.argsort(stable=True)
        self._starts = self._counts.cumsum(0) - self._counts

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return one of the class for each position; see :meth:`Synthesizer.draw`."""
        groups = torch.zeros(len(positions), dtype=torch.int64) if labels is None else labels
        draws = rng.uniform(seed, "experiment.bank", epoch, positions, dtype=torch.float64)
        return self.images[self._order[self._starts[groups] + (draws * self._counts[groups]).long()]]


def drawn(
    synthesizer: Synthesizer, real: LabelledImages, per_class: int, *, seed: int, gate: Gate | None = None
) -> tuple[LabelledImages, dict[str, float]]:
    """Draw images of each class, and test them.

    Args:
        synthesizer: what draws.
        real: the training images; a class of whose candidates none passes gets its real ones instead.
        per_class: images wanted of each class.
        seed: of the draws.
        gate: what they must pass. For each image that is wanted, three candidates are tried.

    Returns:
        The images, and what the gate did: the share of candidates that passed (``acceptance``), and the share of
        classes with none (``closed_classes``).
    """
    tries = per_class if gate is None else _CANDIDATES * per_class
    kept: list[LabelledImages] = []
    passed, closed = 0, 0
    for label in range(len(real.classes)):
        positions = torch.arange(tries) + label * tries
        images = _of_class(synthesizer, label, positions, seed=seed, gate=gate)
        passed += len(images)
        if not len(images):
            closed += 1
            images = real.images[real.labels == label]
        kept.append(LabelledImages(images[:per_class], torch.full((len(images[:per_class]),), label), real.classes))
    told = {"acceptance": passed / (tries * len(kept)), "closed_classes": closed / len(kept)}
    return joined(kept), told if gate is not None else {}


def joined(parts: list[LabelledImages]) -> LabelledImages:
    """Return all images of several sets of the same classes."""
    return LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]), parts[0].classes
    )


def _of_class(synthesizer: Synthesizer, label: int, positions: Tensor, *, seed: int, gate: Gate | None) -> Tensor:
    found = []
    for places in positions.split(_CHUNK):
        labels = torch.full_like(places, label)
        images, asked = synthesizer.sample(labels=labels, seed=seed, positions=places)
        images = convert(images, torch.uint8)
        if gate is not None:
            images = images[gate.passes(convert(images, torch.float32), asked, seed=seed, epoch=0, positions=places)]
        found.append(images.cpu())
    return torch.cat(found)
