"""The classification accuracy score: what a classifier learns from synthetic images alone, tested on real ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torchaug_gen import rng
from torchaug_gen.evaluation.full_batches import full_batches
from torchaug_gen.evaluation.images import image_chunks
from torchaug_gen.evaluation.labelled import LabelledImages, read_labelled
from torchaug_gen.evaluation.learner import LearnerConfig, learn, predict
from torchaug_gen.evaluation.usefulness import Verdict, verdict
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.synthesizer import Synthesizer

_BATCH_SIZE = 64
_CHUNK = 256
_LEARNER = LearnerConfig()


@dataclass(frozen=True)
class ClassificationScore:
    """How well classifiers do on real images that were trained on synthetic ones alone, and on as many real ones.

    Attributes:
        images: how many images each classifier was trained on.
        tested: how many real images each was tested on.
        chance: the share of the commonest class among these, which is right without looking.
        synthetic: accuracies after training on synthetic images, in the order of seeds; their mean is the score.
        real: the same after training on real images.
        per_class: by its name, the mean shares of a class that are classified right after training on synthetic and on
            real images; of classes that are tested on.
    """

    images: int
    tested: int
    chance: float
    synthetic: tuple[float, ...]
    real: tuple[float, ...]
    per_class: Mapping[str, tuple[float, float]]

    @property
    def verdict(self) -> Verdict:
        """What synthetic images in the place of real ones cost, over paired seeds."""
        return verdict(self.real, self.synthetic)

    @property
    def sentence(self) -> str:
        """What was measured, in words."""
        return (
            f"Trained on {self.images:,} synthetic images alone, a small classifier is right on "
            f"{mean(self.synthetic):.0%} of {self.tested:,} held-out real images; on as many real ones, on "
            f"{mean(self.real):.0%}; always the commonest class, on {self.chance:.0%}"
        )

    def __str__(self) -> str:
        return f"{self.sentence}. {self.verdict.sentence('Taking synthetic images for real ones')}"

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them; ``score`` is the mean of ``synthetic``."""
        sides = {name: {"synthetic": pair[0], "real": pair[1]} for name, pair in self.per_class.items()}
        return {"score": mean(self.synthetic)} | asdict(self) | {"per_class": sides, "verdict": asdict(self.verdict)}


def classification_score(
    synthesizer: Synthesizer,
    train: Any,
    heldout: Any,
    *,
    n: int | None = None,
    transform: Any = None,
    learner: LearnerConfig = _LEARNER,
    repeats: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> ClassificationScore:
    """Train a small classifier on synthetic images alone, the same one on as many real images, and test both on others.

    Ravuri and Vinyals, "Classification Accuracy Score for Conditional Generative Models" (NeurIPS 2019). A synthesizer
    that leaves out parts of a class, or draws images of another, scores lower than its images look. The score
    says how much of the data is in the synthesizer. Whether its images help *beside* real ones is what
    :func:`torchaug_gen.choose_fraction` tries: they may though they score lower.

    Args:
        synthesizer: one with classes.
        train: labelled images that it was trained on: a folder with one subfolder of images per class, a dataset, or a
            pair of images ``(N, C, H, W)`` and labels ``(N,)``.
        heldout: labelled images that it was not trained on, in any of these forms.
        n: how many images each classifier is trained on, at most and unless given as many as ``train`` has. Synthetic
            ones have the classes of the real ones beside them.
        transform: what :class:`torchaug_gen.AugmentedLoader` takes, for both.
        learner: how the classifiers are trained. Its seed is replaced for each training.
        repeats: trainings of each kind, at least 1, each with images, weights and an order of its own.
        seed: of all of them: the same one gives the same score.
        progress: show a bar over all trainings.

    Raises:
        ValueError: numbers below 1, a synthesizer without classes, and images that have no labels, do not fit it or
            cannot be read; held-out images that all are training images.

    Example:
        >>> import torch
        >>> from torchaug_gen import NoiseSynthesizer
        >>> from torchaug_gen.evaluation.classification_score import classification_score
        >>> from torchaug_gen.evaluation.learner import LearnerConfig
        >>> images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> train, heldout = [(part, torch.arange(12) % 2) for part in images.split(12)]
        >>> noise = NoiseSynthesizer((1, 8, 8), num_classes=2)
        >>> found = classification_score(noise, train, heldout, learner=LearnerConfig(steps=3, width=8))
        >>> found.images, found.tested, found.chance
        (12, 12, 0.5)
    """
    for name, value in (("n", n), ("repeats", repeats)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    rng.check_seed(seed)
    known, other = read_labelled(train, heldout, synthesizer, seed=seed, called="heldout")
    if other is None:
        raise ValueError("heldout must be real images that the synthesizer was not trained on, got None")
    count = min(n or len(known), len(known))
    hits: dict[str, list[Tensor]] = {"synthetic": [], "real": []}
    with tqdm(total=2 * repeats * learner.steps, unit="step", disable=not progress) as bar:
        for repeat in range(repeats):
            own = rng.derive_seed(seed, "evaluation.score", 0, repeat)
            real = known.take(rng.permutation(own, "evaluation.score", 0, len(known))[:count])
            for name, images in (("synthetic", _drawn(synthesizer, real, own)), ("real", real)):
                bar.set_description(f"classifier on {name} images, {repeat + 1}/{repeats}")
                classifier = _trained(images, transform, replace(learner, seed=own), bar)
                hits[name].append((predict(classifier, other.images).argmax(1) == other.labels).double())
    return ClassificationScore(
        images=count,
        tested=len(other),
        chance=max(other.counts) / len(other),
        synthetic=tuple(float(each.mean()) for each in hits["synthetic"]),
        real=tuple(float(each.mean()) for each in hits["real"]),
        per_class=_per_class(hits, other),
    )


def _drawn(synthesizer: Synthesizer, real: LabelledImages, seed: int) -> LabelledImages:
    """Return a synthetic image for each real one, of its class, rounded to 8 bits as the real ones are."""
    chunks = image_chunks(synthesizer, size=_CHUNK, n=len(real), labels=real.labels, seed=seed)
    images = torch.cat([convert(images.cpu(), torch.uint8) for images, _ in chunks])
    return LabelledImages(images, real.labels, real.classes)


def _trained(images: LabelledImages, transform: Any, learner: LearnerConfig, bar: Any) -> torch.nn.Module:
    loader = AugmentedLoader(
        full_batches(images, batch_size=_BATCH_SIZE, steps=learner.steps, seed=learner.seed),
        transform,
        device=learner.device,
        seed=learner.seed,
        prefetch=0,
    )
    _, channels, height, width = images.images.shape
    return learn(loader, learner, image_shape=(channels, height, width), num_classes=len(images.classes), progress=bar)


def _per_class(hits: Mapping[str, list[Tensor]], tested: LabelledImages) -> dict[str, tuple[float, float]]:
    means = [torch.stack(hits[name]).mean(0) for name in ("synthetic", "real")]
    found = {}
    for label, name in enumerate(tested.classes):
        rows = tested.labels == label
        if rows.any():
            found[name] = float(means[0][rows].mean()), float(means[1][rows].mean())
    return found
