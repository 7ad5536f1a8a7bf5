import json
from dataclasses import replace

import pytest
import torch

from torchaug_gen import NoiseSynthesizer, Synthesizer, rng
from torchaug_gen.evaluation.classification_score import classification_score
from torchaug_gen.evaluation.learner import LearnerConfig

pytestmark = pytest.mark.usefixtures("untouched_rng")

CLASSES, QUICK = 3, LearnerConfig(steps=30, width=8)


def stripes(labels, *, seed):
    """Return noise with a bright column, whose place is the class's, ``(N, 1, 8, 8)`` uint8."""
    images = rng.integers(seed, "stripes", 0, torch.arange(len(labels)), (1, 8, 8), high=120)
    images[torch.arange(len(labels)), 0, :, 2 * labels] += 100
    return images.to(torch.uint8)


def real(n, *, seed):
    labels = torch.arange(n) % CLASSES
    return stripes(labels, seed=seed), labels


class Striped(Synthesizer):
    """Draws what real images are drawn from, with labels that are ``shift`` classes off."""

    def __init__(self, shift=0):
        super().__init__((1, 8, 8), num_classes=CLASSES)
        self.shift, self.asked = shift, []

    def draw(self, labels, *, seed, epoch, positions):
        self.asked.append(labels.clone())
        return stripes((labels + self.shift) % CLASSES, seed=seed)


def score(synthesizer, **options):
    options = {"learner": QUICK, "repeats": 2} | options
    return classification_score(synthesizer, real(48, seed=0), real(60, seed=1), **options)


def test_images_as_good_as_real_ones_score_as_high():
    found = score(Striped())
    assert (found.images, found.tested, found.chance) == (48, 60, pytest.approx(1 / 3))
    assert min(found.synthetic) > 0.9 and min(found.real) > 0.9
    assert found.verdict.outcome != "hurt" and set(found.per_class) == {"0", "1", "2"}


def test_images_of_another_class_score_nothing_however_real_they_look():
    found = score(Striped(shift=1))
    assert max(found.synthetic) < 0.1 and min(found.real) > 0.9
    assert all(synthetic < 0.1 < real for synthetic, real in found.per_class.values())
    assert str(found).startswith("Trained on 48 synthetic images alone, a small classifier is right on ")
    noise = score(NoiseSynthesizer((1, 8, 8), num_classes=CLASSES), repeats=1)
    assert noise.synthetic[0] < noise.real[0] - 0.3


def test_both_sides_have_as_many_images_of_each_class():
    synthesizer = Striped()
    found = score(synthesizer, n=21, learner=replace(QUICK, steps=1))
    asked = torch.cat([labels for labels in synthesizer.asked if len(labels) == 21])
    assert found.images == 21 and len(asked) == 42
    # Drawn at random from real ones, and therefore others in each repeat.
    assert not torch.equal(*asked.split(21))


def test_same_seed_same_score_and_json():
    quick = replace(QUICK, steps=3)
    one, two, other = (score(Striped(), learner=quick, seed=seed) for seed in (0, 0, 1))
    assert one == two != other
    found = json.loads(json.dumps(one.as_json(), allow_nan=False))
    assert found["score"] == pytest.approx(sum(one.synthetic) / 2) and found["real"] == list(one.real)
    assert found["per_class"]["1"] == dict(zip(("synthetic", "real"), one.per_class["1"], strict=True))
    assert found["verdict"]["pairs"] == 2


@pytest.mark.parametrize(
    ("heldout", "options", "message"),
    [
        (None, {}, "heldout must be real images that the synthesizer was not trained on, got None"),
        (real(48, seed=0), {}, "heldout must hold other images than the training images"),
        (real(48, seed=1)[0], {}, "data and heldout must have labels"),
        (real(48, seed=1), {"n": 0}, "n must be at least 1, got 0"),
        (real(48, seed=1), {"repeats": 0}, "repeats must be at least 1, got 0"),
        (real(48, seed=1), {"seed": -1}, "seed must be in"),
    ],
)
def test_what_cannot_be_scored_raises(heldout, options, message):
    with pytest.raises(ValueError, match=message):
        classification_score(Striped(), real(48, seed=0), heldout, learner=QUICK, **options)


def test_without_classes_nothing_is_scored():
    with pytest.raises(ValueError, match="must have classes"):
        classification_score(NoiseSynthesizer((1, 8, 8)), real(9, seed=0), real(9, seed=1), learner=QUICK)
