"""A cell: one arm, one size of the training set, one seed."""

import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchaug_gen import rng, schedules
from torchaug_gen.evaluation.experiment.arms import ARMS, Arm
from torchaug_gen.evaluation.experiment.bank import Bank
from torchaug_gen.evaluation.experiment.probe import tell_apart
from torchaug_gen.evaluation.experiment.settings import ExperimentSettings
from torchaug_gen.evaluation.experiment.sources import LABELS, Sources, training_loader
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.evaluation.learner import LearnerConfig, learn, predict, score, score_logits
from torchaug_gen.loading.loader import AugmentedLoader


def run_cell(name: str, sources: Sources, *, progress: Any = None) -> dict[str, Any]:
    """Train the classifier of an arm and return what it came to, as JSON can hold it.

    Args:
        name: of the arm.
        sources: what its group shares.
        progress: a tqdm bar that is told of each step.

    Returns:
        The scores on the test images (``accuracy``, ``macro_f1``, ``calibration_error``, ``loss``), on the training
        images (``train_accuracy``, ``train_loss``) and their ``gap``; ``splits`` with the scores and gap of each
        held-out split where there are several; ``real_or_synthetic``, how well a probe tells them apart; what a gate
        did; ``fraction`` and ``validated_gain``, what validation chose and how much it found to gain; ``seconds`` of
        CPU time; and the ``machine``, since processors and versions of PyTorch round differently, and pairs are only as
        equal as these are.
    """
    arm, data, settings = ARMS[name], sources.data, sources.settings
    start = time.process_time()
    slots, found = sources.images_of(arm)
    seed = rng.derive_seed(sources.seed, "experiment.classifier")
    config = LearnerConfig(
        steps=settings.steps,
        seed=seed,
        synthetic_weight=arm.synthetic_weight,
        normalisation=arm.normalisation,
        device=settings.device,
    )
    classifier = learn(
        _loader(arm, sources.images.train, slots, settings, seed),
        config,
        image_shape=data.image_shape,
        num_classes=len(data.stock.classes),
        progress=progress,
    )
    logits = predict(classifier, data.test.images)
    train = score(classifier, sources.images.train.images, sources.images.train.labels)
    test = score_logits(logits, data.test.labels)
    result: dict[str, Any] = {
        **asdict(test),
        "train_accuracy": train.accuracy,
        "train_loss": train.loss,
        "gap": train.accuracy - test.accuracy,
        **found,
    }
    if len(data.splits) > 1:
        sizes = list(data.splits.values())
        parts = zip(data.splits, logits.split(sizes), data.test.labels.split(sizes), strict=True)
        scores = {split: score_logits(*part) for split, *part in parts}
        result["splits"] = {
            split: asdict(own) | {"gap": train.accuracy - own.accuracy} for split, own in scores.items()
        }
    if slots is not None and arm.needs is not None:
        result["real_or_synthetic"] = tell_apart(data.test.images, slots.images, seed=seed)
    seconds = round(time.process_time() - start, 2)
    return result | {"train_images": len(sources.images.train), "seconds": seconds, "machine": machine()}


def machine() -> str:
    """Return what figures depend on beside the settings: the processor, and PyTorch's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())}, torch {torch.__version__}"


def _loader(
    arm: Arm, train: LabelledImages, slots: LabelledImages | None, settings: ExperimentSettings, seed: int
) -> AugmentedLoader[Any]:
    if slots is None:
        return training_loader(train, settings, seed=seed, augment=arm.augment)
    if arm.only:
        return training_loader(slots, settings, seed=seed, augment=arm.augment)
    return training_loader(
        train,
        settings,
        seed=seed,
        augment=arm.augment,
        synthesizer=Bank(slots),
        # Up in the first tenth of the steps, which are one epoch, and down to 0 at the end.
        synthetic_fraction=schedules.recommended(
            settings.synthetic_fraction, total_epochs=1.0, steps_per_epoch=settings.steps
        ),
        labels=LABELS,
        tag="synthetic",
    )
