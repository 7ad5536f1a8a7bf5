"""Sources: what fills the synthetic slots of an arm, trained on nothing but the arm's own training images."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchaug_gen import rng
from torchaug_gen.evaluation.experiment.arms import Arm
from torchaug_gen.evaluation.experiment.bank import Bank, drawn
from torchaug_gen.evaluation.experiment.data import ExperimentData, TrainingSet, images_digest
from torchaug_gen.evaluation.experiment.settings import ExperimentSettings, Group
from torchaug_gen.evaluation.experiment.transforms import augmentation
from torchaug_gen.evaluation.fraction import choose_fraction
from torchaug_gen.evaluation.fraction_result import FractionChoice
from torchaug_gen.evaluation.full_batches import full_batches
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.evaluation.learner import LearnerConfig, learn
from torchaug_gen.evaluation.spaces import EffnetFeatures
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.synthesis.gan.training import train_gan
from torchaug_gen.synthesis.gates.classifier import ClassifierGate
from torchaug_gen.synthesis.gates.gate import Gate
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.checkpoints import FOLDER as CHECKPOINTS
from torchaug_gen.synthesis.training.checkpoints import newest
from torchaug_gen.synthesis.training.interruption import TrainingInterrupted
from torchaug_gen.synthesis.vae.training import train_vae
from torchaug_gen.synthesis.vary import VaryingSynthesizer

# Parts of the training images, by which an arm's fraction is validated.
FOLDS = 5
# Of which classes synthetic items are: where the training set has as many of each, so have the batches of every arm,
# but for one image, without synthetic items for two where a pass ends; otherwise synthetic items fill up the rare.
LABELS = "balance"
# Of the probe on pretrained features: 128 px cost a third of 224.
_INPUT_SIZE, _PROBE_STEPS, _PROBE_DECAY = 128, 200, 1e-2


class Sources:
    """The sources of one group of cells; synthesizers and gates are made when the first arm asks for them.

    Args:
        data: the experiment's images.
        images: the group's training images.
        settings: the experiment's.
        group: training set and seed.
        cache: folder in which trained synthesizers are kept.
    """

    def __init__(
        self, data: ExperimentData, images: TrainingSet, settings: ExperimentSettings, group: Group, cache: Path
    ) -> None:
        self.data, self.images, self.settings, self.group, self.cache = data, images, settings, group, cache
        self.seed = group_seed(settings, group)
        self._synthesizers: dict[str, Synthesizer] = {}
        self._gates: dict[str, ClassifierGate] = {}

    def images_of(self, arm: Arm) -> tuple[LabelledImages | None, dict[str, float]]:
        """Return what fills the slots of an arm, ``None`` for none, and what its gate and validation did."""
        if arm.source is None:
            return None, {}
        if arm.source == "repeats":
            return self.images.train, {}
        if arm.source == "extra":
            return self.images.extra, {}
        choice = self._choice(arm) if arm.validated else None
        told = {} if choice is None else {"fraction": choice.fraction, "validated_gain": choice.trials[0].gain}
        if choice is not None and choice.fraction == 0:
            return None, told
        gate = None if arm.gate is None else self._gate(arm.gate)
        images, passed = self._drawn(str(arm.source), self.images.train, gate)
        return images, told | passed

    def _choice(self, arm: Arm) -> FractionChoice:
        """Ask validation on folds of the training images whether an arm's source gains at the usual fraction."""
        settings, train = self.settings, self.images.train
        return choose_fraction(
            train,
            lambda part: Bank(self._drawn(str(arm.source), part)[0]),
            fractions=(settings.synthetic_fraction,),
            transform=augmentation(self.data.image_shape),
            learner=LearnerConfig(
                steps=settings.steps,
                synthetic_weight=arm.synthetic_weight,
                normalisation=arm.normalisation,
                device=settings.device,
            ),
            labels=LABELS,
            batch_size=settings.batch_size,
            folds=min(FOLDS, len(train)),
            repeats=1,
            balanced=settings.imbalance != 1,
            seed=rng.derive_seed(self.seed, "experiment.choice"),
        )

    def _drawn(
        self, source: str, train: LabelledImages, gate: Gate | None = None
    ) -> tuple[LabelledImages, dict[str, float]]:
        """Draw images of each class from a source that saw these training images alone."""
        seed = rng.derive_seed(self.seed, "experiment.draws")
        return drawn(self._source(source, train), train, self.settings.bank_per_class, seed=seed, gate=gate)

    def _source(self, name: str, train: LabelledImages) -> Synthesizer:
        if name in ("vae", "gan"):
            return self._trained(name, train)
        return VaryingSynthesizer(
            self._trained("vae", train),
            train.images,
            train.labels,
            strength=self.settings.strength,
            mode="interpolate" if name.startswith("interpolate") else "perturb",
            residual=name.endswith("residual"),
        )

    def _trained(self, kind: str, train: LabelledImages) -> Synthesizer:
        """Return a synthesizer trained on these of the training images, from the cache where it is there."""
        key = self.settings.synthesizer_key(self.group, kind, self.data.digest, self.data.side)
        if train is not self.images.train:
            key += f"-{images_digest(train)}"
        if key not in self._synthesizers:
            found = self._kept(self.cache / key)
            if found is None:
                self._fill(self.cache / key, kind, train)
                found = Synthesizer.load(self.cache / key, device=self.settings.device)
            self._synthesizers[key] = found
        return self._synthesizers[key]

    def _kept(self, folder: Path) -> Synthesizer | None:
        """Return the synthesizer in a folder; where it is damaged, remove it and return ``None``."""
        if not folder.exists():
            return None
        try:
            return Synthesizer.load(folder, device=self.settings.device)
        except (FileNotFoundError, ValueError) as error:
            warnings.warn(
                f"the synthesizer in {folder} is damaged, and is trained again: {error}", RuntimeWarning, stacklevel=2
            )
            shutil.rmtree(folder)
            return None

    def _fill(self, folder: Path, kind: str, train: LabelledImages) -> None:
        """Train a synthesizer; the folder appears under its name only when it is whole."""
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        try:
            stopped = newest(unfinished) is not None
        except ValueError:
            stopped = False
        try:
            self._train(kind, train, unfinished, resume=stopped)
        except TrainingInterrupted:
            raise TrainingInterrupted(
                f"stopped while the {kind.upper()} of {self.group} was trained; the same call goes on from there"
            ) from None
        shutil.rmtree(unfinished / CHECKPOINTS, ignore_errors=True)
        unfinished.rename(folder)

    def _train(self, kind: str, train: LabelledImages, out: Path, *, resume: bool) -> None:
        seed = rng.derive_seed(self.seed, "experiment.synthesizer")
        side = self.data.side
        about: dict[str, Any] = {"seed": seed, "device": self.settings.device}
        if kind == "vae":
            train_vae(train, replace(self.settings.vae_for(side), **about), out=out, resume=resume, progress=False)
        else:
            train_gan(train, replace(self.settings.gan_for(side), **about), out=out, resume=resume, progress=False)

    def _gate(self, kind: str) -> ClassifierGate:
        if kind not in self._gates:
            # Agreement alone: a classifier of so few images is seldom sure of what is new to it.
            self._gates[kind] = ClassifierGate(
                self._small_classifier() if kind == "classifier" else self._probe(), threshold=0.0
            )
        return self._gates[kind]

    def _small_classifier(self) -> nn.Module:
        """Return a classifier of the same training images, of another seed than those that are scored."""
        seed = rng.derive_seed(self.seed, "experiment.gate")
        loader = training_loader(self.images.train, self.settings, seed=seed)
        config = LearnerConfig(steps=self.settings.steps, seed=seed, device=self.settings.device)
        return learn(loader, config, image_shape=self.data.image_shape, num_classes=len(self.data.stock.classes))

    def _probe(self) -> nn.Module:
        """Return a linear classifier of the same training images on ImageNet features."""
        train, device = self.images.train, self.settings.device
        features = EffnetFeatures(_INPUT_SIZE).eval().to(device)
        both = torch.cat((train.images, train.images.flip(-1)))
        with torch.no_grad():
            rows = torch.cat([features(part.to(device).float() / 255) for part in both.split(8)])
        labels = train.labels.repeat(2).to(device)
        head = nn.Linear(rows.shape[1], len(train.classes)).to(device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=_PROBE_DECAY)
        for _ in range(_PROBE_STEPS):
            loss = nn.functional.cross_entropy(head(rows), labels)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        return nn.Sequential(features, head).eval()


def group_seed(settings: ExperimentSettings, group: Group) -> int:
    """Return the seed of a group: one for all sizes, so that smaller training sets are part of larger ones."""
    return rng.derive_seed(settings.seed, "experiment.seed", 0, group.index)


def training_loader(
    train: LabelledImages, settings: ExperimentSettings, *, seed: int, augment: bool = True, **synthetic: Any
) -> AugmentedLoader[Any]:
    """Return the loader of an arm: for one seed, the real images come in the same order in all of them."""
    inner = full_batches(train, batch_size=settings.batch_size, steps=settings.steps, seed=seed)
    transform = augmentation((train.images.shape[1], train.images.shape[2], train.images.shape[3])) if augment else None
    # Training keeps every core of a CPU busy, and a thread beside it would only take one away.
    return AugmentedLoader(inner, transform, device=settings.device, seed=seed, prefetch=0, **synthetic)
