"""How much synthesis? Fractions tried on a split of the training data, and the one that gained, or 0."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from torchaug_gen import rng
from torchaug_gen.evaluation.experiment.statistics import holm
from torchaug_gen.evaluation.fraction_result import FractionChoice, FractionTrial, validated_schedule
from torchaug_gen.evaluation.full_batches import full_batches
from torchaug_gen.evaluation.labelled import LabelledImages, Split, check_classes, read_labelled
from torchaug_gen.evaluation.labelled import splits as splits_of
from torchaug_gen.evaluation.learner import LearnerConfig, learn, predict
from torchaug_gen.evaluation.resampled import crossed_error, fold_error, gain_p, lower_bound
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.mixing import as_fraction, check_policy
from torchaug_gen.synthesis.synthesizer import Synthesizer

_LEARNER = LearnerConfig()


def choose_fraction(
    data: Any,
    synthesizer: Synthesizer | Callable[[LabelledImages], Synthesizer],
    *,
    fractions: Sequence[float] = (0.15, 0.3, 0.5),
    validation: Any = None,
    unseen: bool = False,
    transform: Any = None,
    labels: Any = "match",
    learner: LearnerConfig = _LEARNER,
    batch_size: int = 64,
    image_size: tuple[int, int] | None = None,
    folds: int = 5,
    repeats: int = 2,
    level: float = 0.05,
    margin: float = 0.0,
    balanced: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> FractionChoice:
    """Try synthetic fractions, and return the one that gained, or 0 where none gained beyond noise.

    The same small classifier is trained with every fraction and without, with the same weights, order and number of
    steps, on parts of the training images, and tested on the others; or on all of them, and tested on ``validation``.
    A fraction is chosen only where its gain passes a one-sided test with Holm's correction among the
    fractions: of those that do, the one whose gain is surely largest. With few images little passes: 10 classes of 10
    images take a gain of about 8 points, of 50 about 3. So nothing is gained by chance, and 0 costs nothing.

    A synthesizer must not have seen the images that classifiers are tested on, or it hands them out with their labels
    and seems to help. A function that trains one is therefore called anew for each fold, with the others' images.

    Args:
        data: the training images, which have labels: a folder with one subfolder of images per class, a dataset, or a
            pair of images ``(N, C, H, W)`` and labels ``(N,)``. Never the test images.
        synthesizer: a function from :class:`LabelledImages` to a synthesizer trained on them alone; or a synthesizer,
            with ``validation`` or ``unseen``.
        fractions: to try, each in (0, 1).
        validation: real images in these forms that neither the synthesizer nor anything else was trained on.
        unseen: the synthesizer was trained on other images than ``data``; folds of them then can test it.
        transform: what :class:`torchaug_gen.AugmentedLoader` takes: augment as the real training will, since augmented
            images leave less to gain.
        labels: which classes to draw, as :class:`torchaug_gen.AugmentedLoader` takes it.
        learner: how the classifiers are trained. Its seed is replaced for each training.
        batch_size: rows of a training's batches, real and synthetic together; of fewer images, all of them.
        image_size: ``(H, W)`` that images are resized to; ``None`` is the synthesizer's own, and with a function
            keeps them.
        folds: parts that the training images are split into, at least 2.
        repeats: how often they are split anew. With ``validation`` there are folds × repeats trainings all the same,
            each with another seed.
        level: how often, at most, to choose a fraction that gains no more than ``margin``; in (0, 0.5).
        margin: the least gain that is worth it, as a share: 0.01 is one point. Folds have fewer images than the
            real training, and synthesis gains less with more.
        balanced: count every class alike, however many images it has.
        seed: of splits, trainings and draws: the same one gives the same choice.
        progress: show a bar over all trainings.

    Raises:
        ValueError: arguments out of range, a synthesizer that may have seen what would test it, or that has no
            classes, and images that have no labels, do not fit it or cannot be read.
        TypeError: neither a synthesizer nor a function.

    Example:
        >>> import torch
        >>> from torchaug_gen import NoiseSynthesizer, choose_fraction
        >>> from torchaug_gen.evaluation.learner import LearnerConfig
        >>> images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> noise = NoiseSynthesizer((1, 8, 8), num_classes=2)
        >>> learner = LearnerConfig(steps=3, width=8)
        >>> choice = choose_fraction((images, torch.arange(24) % 2), noise, unseen=True, folds=2, learner=learner)
        >>> choice.fraction, choice.schedule(total_epochs=20)(10, 0)  # either is a loader's synthetic_fraction
        (0.0, 0.0)
    """
    _check(fractions, folds, repeats, level, margin)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    # Now, and not when a synthesizer has been trained.
    check_policy(labels)
    rng.check_seed(seed)
    if not isinstance(synthesizer, Synthesizer) and not callable(synthesizer):
        raise TypeError(f"synthesizer must be a Synthesizer or a function, got {type(synthesizer).__name__}")
    if isinstance(synthesizer, Synthesizer) and validation is None and not unseen:
        raise ValueError(
            "a synthesizer that was trained on the images that test it seems to help, since it hands them out: give a "
            "function that trains one on the images it is handed, or validation= images that it was not trained on, "
            "or say unseen=True where it was trained on other images than these"
        )
    train, held = read_labelled(data, validation, synthesizer, image_size=image_size, seed=seed)
    splits = list(splits_of(train, held, folds, repeats, seed))
    trainings = len(splits) * (1 + len(fractions))
    hits: list[Tensor] = []
    with tqdm(total=learner.steps * trainings, unit="step", disable=not progress) as bar:
        for number, split in enumerate(splits):
            bar.set_description(f"split {number + 1}/{len(splits)}")
            source = synthesizer if isinstance(synthesizer, Synthesizer) else _made(synthesizer, split.train)
            _check_fits(source, split.train)
            own = rng.derive_seed(seed, f"fraction.{number}")
            trial = _Training(split, source, transform, labels, batch_size, replace(learner, seed=own), bar)
            hits.append(torch.stack([trial.hits(fraction) for fraction in (0.0, *fractions)]))
    return _choice(
        hits,
        splits,
        tuple(fractions),
        held=held is not None,
        level=level,
        margin=margin,
        balanced=balanced,
        images=len(train),
        classes=len(train.classes),
        validation=f"{folds}-fold cross-validation, {'once' if repeats == 1 else f'{repeats} times'}"
        if held is None
        else f"{len(held)} validation images",
    )


class _Training(NamedTuple):
    """Everything that all fractions of a split share."""

    split: Split
    synthesizer: Synthesizer
    transform: Any
    labels: Any
    batch_size: int
    learner: LearnerConfig
    bar: Any

    def hits(self, fraction: float) -> Tensor:
        """Train with a fraction, and return which test images are classified right, ``(N,)`` float64."""
        images, learner = self.split.train, self.learner
        loader = AugmentedLoader(
            full_batches(images, batch_size=self.batch_size, steps=learner.steps, seed=learner.seed),
            self.transform,
            # Without synthetic items too, so that the real ones come in the same order.
            synthesizer=self.synthesizer,
            synthetic_fraction=validated_schedule(fraction, total_epochs=1.0, steps_per_epoch=learner.steps),
            labels=self.labels,
            tag="synthetic",
            device=learner.device,
            seed=learner.seed,
            prefetch=0,
        )
        _, channels, height, width = images.images.shape
        classifier = learn(
            loader,
            learner,
            image_shape=(channels, height, width),
            num_classes=len(images.classes),
            progress=self.bar,
        )
        return (predict(classifier, self.split.test.images).argmax(1) == self.split.test.labels).double()


def _check(fractions: Sequence[float], folds: int, repeats: int, level: float, margin: float) -> None:
    if not fractions or len(set(fractions)) != len(fractions) or any(not 0 < as_fraction(f) < 1 for f in fractions):
        raise ValueError(f"fractions must be different and in (0, 1), at least one, got {tuple(fractions)}")
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if not 0 < level < 0.5:
        raise ValueError(f"level must be in (0, 0.5), got {level}")
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be in [0, 1), got {margin}")


def _made(make: Callable[[LabelledImages], Synthesizer], images: LabelledImages) -> Synthesizer:
    made = make(images)
    if not isinstance(made, Synthesizer):
        raise TypeError(f"the function must return a Synthesizer, got {type(made).__name__}")
    check_classes(made)
    return made


def _check_fits(synthesizer: Synthesizer, images: LabelledImages) -> None:
    wanted = (tuple(images.images.shape[1:]), len(images.classes))
    if (tuple(synthesizer.image_shape), synthesizer.num_classes) != wanted:
        raise ValueError(
            f"the synthesizer must draw images of {wanted[0]} in {wanted[1]} classes, got {synthesizer.image_shape} in "
            f"{synthesizer.num_classes}; image_size= resizes the real ones"
        )


def _choice(
    hits: list[Tensor],
    splits: list[Split],
    fractions: tuple[float, ...],
    *,
    held: bool,
    level: float,
    margin: float,
    balanced: bool,
    **told: Any,
) -> FractionChoice:
    """Judge the hits ``(1 + fractions, N)`` of each split."""
    weights = [_weights(split.test.labels, balanced) for split in splits]
    scores = [(found * weight).sum(1).tolist() for found, weight in zip(hits, weights, strict=True)]
    found = []
    for index, fraction in enumerate(fractions, start=1):
        gains = tuple(score[index] - score[0] for score in scores)
        if held:
            rows = [(hit[index] - hit[0]) * weight * len(weight) for hit, weight in zip(hits, weights, strict=True)]
            error = crossed_error(torch.stack(rows))
        else:
            tested, trained = (mean(map(len, side)) for side in zip(*[(s.test, s.train) for s in splits], strict=True))
            error = fold_error(gains, tested=tested, trained=trained)
        found.append(
            FractionTrial(
                fraction,
                mean(score[index] for score in scores),
                mean(gains),
                lower_bound(gains, error, level=level),
                gain_p(gains, error, margin=margin),
                gains,
            )
        )
    adjusted = holm([trial.p for trial in found])
    trials = tuple(replace(trial, p=p) for trial, p in zip(found, adjusted, strict=True))
    passed = [trial for trial in trials if trial.p < level]
    best = max(passed, key=lambda trial: trial.lower, default=None)
    return FractionChoice(
        fraction=0.0 if best is None else best.fraction,
        baseline=mean(score[0] for score in scores),
        trials=trials,
        level=level,
        margin=margin,
        balanced=balanced,
        trainings=len(splits),
        **told,
    )


def _weights(labels: Tensor, balanced: bool) -> Tensor:
    """Return what each test image counts for, ``(N,)`` float64 with sum 1."""
    if not balanced:
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels).double()
    return 1 / (counts[labels] * (counts > 0).sum())
