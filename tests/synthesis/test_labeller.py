"""A generator without classes gains them, and every image has the class that was asked for."""

import pytest
import torch
from fakes import Drawn
from torch import nn

from torchaug_gen import AugmentedLoader, NoiseSynthesizer, Synthesizer
from torchaug_gen.synthesis.labeller import LabelledSynthesizer


class Quadrant(nn.Module):
    """Says which of the four pixels is the brightest, the surer the more it stands out."""

    def __init__(self, sharpness=20.0):
        super().__init__()
        self.sharpness, self.seen = sharpness, []
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        self.seen.append(images)
        return self.dropout(images.flatten(1) * self.sharpness)


def labelled(classifier=None, **options):
    noise = NoiseSynthesizer((1, 2, 2))
    return LabelledSynthesizer(noise, classifier or Quadrant(), **{"num_classes": 4, "threshold": 0.9} | options)


def test_every_image_has_its_class_with_enough_confidence(untouched_rng):
    images, labels = labelled().sample(200, seed=1)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    confidence, classes = (images.flatten(1) * 20).softmax(dim=1).max(dim=1)
    assert torch.equal(classes, labels)
    assert confidence.min() >= 0.9


def test_an_image_does_not_depend_on_what_is_drawn_with_it_nor_on_the_chunk():
    images, labels = labelled().sample(50, seed=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for synthesizer in (labelled(), labelled(chunk=3), labelled(chunk=300)):
        part, _ = synthesizer.sample(positions=order[:11], labels=labels[order[:11]], seed=1)
        assert torch.equal(part, images[order[:11]])


def test_seed_epoch_and_position_each_change_the_image():
    labels = torch.zeros(20, dtype=torch.int64)
    images, _ = labelled().sample(labels=labels)
    for options in ({"seed": 1}, {"epoch": 1}, {"positions": range(20, 40)}):
        assert not (labelled().sample(labels=labels, **options)[0] == images).flatten(1).all(dim=1).any()


def test_the_first_candidate_that_fits_is_taken():
    images, _ = labelled(max_candidates=64).sample(labels=[2], seed=1, positions=[5])
    candidates, _ = NoiseSynthesizer((1, 2, 2)).sample(64, seed=1, positions=range(5 * 64, 6 * 64))
    confidence, classes = (candidates.flatten(1) * 20).softmax(dim=1).max(dim=1)
    first = ((classes == 2) & (confidence >= 0.9)).nonzero()[0]
    assert torch.equal(images, candidates[first])


def test_a_class_that_is_never_met_ends_with_the_rates():
    class Never(nn.Module):
        def forward(self, images):
            return torch.tensor([[9.0, 0.0, 0.0]]).expand(len(images), 3)

    synthesizer = labelled(Never(), num_classes=3, max_candidates=100)
    synthesizer.classes = ("cat", "dog", "owl")
    assert len(synthesizer.sample(labels=[0, 0])[0]) == 2
    message = r"no candidate of 100 at position 7 was of class 2 \(owl\).*: of 100 .* 0\.00% were, and 100\.00% of any"
    with pytest.raises(ValueError, match=message):
        synthesizer.sample(labels=[2], positions=[7])


def test_normalisation_is_applied_per_channel():
    class Spy(nn.Module):
        def forward(self, images):
            self.seen = images
            return torch.tensor([[9.0, 0.0]]).expand(len(images), 2)

    spy = Spy()
    noise = NoiseSynthesizer((3, 2, 2))
    options = {"num_classes": 2, "mean": (0.1, 0.2, 0.3), "std": (1, 2, 4), "max_candidates": 8}
    images, _ = LabelledSynthesizer(noise, spy, **options).sample(labels=[0])
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2, 4]).view(3, 1, 1)
    assert torch.equal(spy.seen[:1], expected)


def test_uint8_images_are_looked_at_in_0_to_1():
    class Bright(nn.Module):
        def forward(self, images):
            assert images.is_floating_point() and images.max() <= 1
            return torch.stack((images.mean(dim=(1, 2, 3)) * 0, torch.ones(len(images)) * 9), dim=1)

    images, _ = LabelledSynthesizer(Drawn(num_classes=None), Bright(), num_classes=2).sample(labels=[1])
    assert images.is_floating_point()


def test_the_classifier_is_put_into_evaluation_mode():
    classifier = Quadrant().train()
    assert torch.equal(labelled(classifier).sample(9)[0], labelled().sample(9)[0])


def test_no_images_are_no_error():
    assert labelled().sample(0)[0].shape == (0, 1, 2, 2)


def test_a_loader_mixes_it_in():
    data = [(torch.rand(1, 2, 2), label % 4) for label in range(12)]
    loader = AugmentedLoader(
        torch.utils.data.DataLoader(data, 4), synthesizer=labelled(), synthetic_fraction=0.5, tag="synthetic"
    )
    for images, labels, synthetic in loader:
        assert torch.equal(images[synthetic].flatten(1).argmax(dim=1), labels[synthetic])


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        return self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(32, 3), r"logits \(32, 4\), got \(32, 3\)"),
        ((1, 2), "got tuple"),
        (torch.full((32, 4), float("nan")), "finite logits"),
    ],
)
def test_what_the_classifier_returns_is_checked(value, message):
    with pytest.raises(ValueError, match=message):
        labelled(Returns(value)).sample(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\), got 1\.0"),
        ({"threshold": -0.1}, "threshold"),
        ({"max_candidates": 0}, "max_candidates"),
        ({"std": 0.0}, "std must be above 0"),
        ({"mean": (0.1, 0.2)}, "mean must be a number, or 1 for as many channels"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        labelled(**options)


def test_what_it_is_made_of_is_checked(tmp_path):
    with pytest.raises(ValueError, match="must have no classes, got one with 3"):
        LabelledSynthesizer(NoiseSynthesizer((1, 2, 2), num_classes=3), Quadrant(), num_classes=4)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"):
        LabelledSynthesizer(NoiseSynthesizer((1, 2, 2)), lambda x: x, num_classes=4)
    with pytest.raises(TypeError, match="has no file format"):
        labelled().save(tmp_path)
    assert isinstance(labelled(), Synthesizer)
