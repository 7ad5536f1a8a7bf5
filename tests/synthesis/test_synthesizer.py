"""What every synthesizer promises about ``sample``."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from torchaug_gen.synthesis.noise import NoiseSynthesizer
from torchaug_gen.synthesis.synthesizer import Synthesizer

SHAPE = (3, 6, 5)


class Net(nn.Module):
    """A small generator with layers whose output depends on the rows beside it or on random numbers, if let."""

    def __init__(self, num_classes=None, noisy=False):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.dense = nn.Linear(7, 90)
        self.norm = nn.BatchNorm1d(90)
        self.table = nn.Embedding(num_classes or 1, 90)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)
        self.noisy = noisy

    def forward(self, z, y=None):
        x = self.norm(self.dense(z))
        if y is not None:
            x = x + self.table(y)
        if self.noisy:
            x = nn.functional.dropout(x, 0.3) + torch.randn_like(x) + torch.rand(len(x), 1)
        return x.tanh().view(-1, *SHAPE)


class Constant(nn.Module):
    """Gives ``value``, except at the rows whose latent equals one of ``bad``, which get ``bad_value``."""

    def __init__(self, value=0.0, bad=None, bad_value=0.0, shape=SHAPE):
        super().__init__()
        self.value, self.bad, self.bad_value, self.shape = value, bad, bad_value, shape

    def forward(self, z):
        images = torch.full((len(z), *self.shape), self.value)
        if self.bad is not None:
            images[(z == self.bad).all(dim=1)] = self.bad_value
        return images


def wrap(net, num_classes=None, **options):
    return Synthesizer.from_module(net, latent_dim=7, image_shape=SHAPE, num_classes=num_classes, **options)


def makers():
    yield pytest.param(lambda: wrap(Net(4), 4), id="network")
    yield pytest.param(lambda: NoiseSynthesizer(SHAPE, num_classes=4), id="noise")


@pytest.fixture(params=makers())
def synthesizer(request):
    return request.param()


def global_states():
    return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()


def test_shapes_types_and_range(synthesizer):
    images, labels = synthesizer.sample(40)
    assert images.shape == (40, *SHAPE)
    assert images.dtype is torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.shape == (40,)
    assert labels.dtype is torch.int64
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_an_image_does_not_depend_on_what_is_drawn_with_it(synthesizer):
    images, labels = synthesizer.sample(70, seed=5)
    for start, stop in ((0, 1), (0, 33), (31, 33), (64, 70)):
        part, part_labels = synthesizer.sample(positions=range(start, stop), seed=5)
        assert torch.equal(part, images[start:stop])
        assert torch.equal(part_labels, labels[start:stop])
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    shuffled, _ = synthesizer.sample(positions=order, labels=labels[order], seed=5)
    assert torch.equal(shuffled, images[order])


def test_seed_epoch_and_position_each_change_the_image(synthesizer):
    labels = torch.zeros(8, dtype=torch.int64)
    images, _ = synthesizer.sample(labels=labels)
    again, _ = synthesizer.sample(labels=labels)
    assert torch.equal(images, again)
    for options in ({"seed": 1}, {"epoch": 1}, {"positions": range(8, 16)}):
        others, _ = synthesizer.sample(labels=labels, **options)
        assert not (others == images).flatten(1).all(dim=1).any()
    assert len({image.numpy().tobytes() for image in images}) == 8


@pytest.mark.parametrize("noisy", [False, True])
def test_global_random_state_is_neither_read_nor_moved(noisy):
    synthesizer = wrap(Net(4, noisy), 4)
    torch.manual_seed(1)
    before = global_states()
    images, labels = synthesizer.sample(50)
    assert global_states() == before
    torch.manual_seed(2)
    again, labels_again = synthesizer.sample(50)
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)


def test_noise_inside_a_network_comes_from_the_seed():
    synthesizer = wrap(Net(noisy=True))
    images, _ = synthesizer.sample(40, seed=1)
    assert torch.equal(images, synthesizer.sample(40, seed=1)[0])
    assert not torch.equal(images, wrap(Net()).sample(40, seed=1)[0])


def test_batch_norm_and_dropout_run_in_evaluation_mode():
    net = nn.Sequential(Net(), nn.Dropout(0.5)).train()
    images, _ = wrap(net).sample(40)
    assert torch.equal(images, wrap(Net()).sample(40)[0])
    assert torch.equal(net[0].norm.running_mean, torch.zeros(90))


def test_labels_asked_for_are_drawn():
    synthesizer = wrap(Net(4), 4)
    zeros, labels = synthesizer.sample(labels=[0, 0, 0])
    assert labels.tolist() == [0, 0, 0]
    mixed, _ = synthesizer.sample(labels=[0, 3, 0])
    assert torch.equal(mixed[[0, 2]], zeros[[0, 2]])
    assert not torch.equal(mixed[1], zeros[1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 4], r"0\.\.3, got 0\.\.4"),
        ([-1, 2], r"0\.\.3, got -1\.\.2"),
        (torch.zeros(2), "class indices"),
        (torch.zeros(2, 2, dtype=torch.int64), "class indices"),
    ],
)
def test_bad_labels_are_named(synthesizer, labels, message):
    with pytest.raises(ValueError, match=message):
        synthesizer.sample(labels=labels)


def test_without_classes_there_are_no_labels():
    synthesizer = wrap(Net())
    assert synthesizer.sample(3)[1] is None
    with pytest.raises(ValueError, match="no classes"):
        synthesizer.sample(labels=[0])


def test_counts_must_agree(synthesizer):
    with pytest.raises(ValueError, match="'n': 3, 'labels': 2"):
        synthesizer.sample(3, labels=[0, 1])
    with pytest.raises(ValueError, match="how many"):
        synthesizer.sample()
    with pytest.raises(TypeError, match=r"n must be an integer, got 2\.5"):
        synthesizer.sample(2.5)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        synthesizer.sample(-1)
    with pytest.raises(ValueError, match="positions must be at least 0, got -2"):
        synthesizer.sample(positions=[-2])
    with pytest.raises(ValueError, match=r"positions must be integers, got torch\.float32"):
        synthesizer.sample(positions=[0.9, 1.2])


@pytest.mark.parametrize("options", [{"labels": []}, {"positions": []}, {"labels": torch.empty(0)}], ids=str)
def test_empty_lists_are_no_error(synthesizer, options):
    images, labels = synthesizer.sample(**options)
    assert images.shape == (0, *SHAPE)
    assert (labels.shape, labels.dtype) == ((0,), torch.int64)


def test_no_images_are_no_error(synthesizer):
    images, labels = synthesizer.sample(0)
    assert images.shape == (0, *SHAPE)
    assert labels.shape == (0,)


@pytest.mark.parametrize(("bad_value", "message"), [(float("nan"), "NaN"), (1.5, "1.25"), (-1.1, "-0.05")])
def test_a_bad_image_is_named_with_its_position(bad_value, message):
    latents = []

    class Spy(nn.Module):
        def forward(self, z):
            latents.append(z[1])
            return torch.zeros(len(z), *SHAPE)

    wrap(Spy()).sample(positions=[40, 41, 42])
    with pytest.raises(ValueError, match=rf"{message}.* position 41;"):
        wrap(Constant(bad=latents[0].clone(), bad_value=bad_value)).sample(positions=[40, 41, 42])


def test_rounding_is_clamped():
    images, _ = wrap(Constant(1.0005)).sample(2)
    assert torch.equal(images, torch.ones(2, *SHAPE))


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(32, 3, 6, 5\), got \(32, 3, 5, 6\)"):
        wrap(Constant(shape=(3, 5, 6))).sample(2)


def test_value_range_maps_black_to_0_and_white_to_1():
    for value, expected in ((10.0, 0.0), (15.0, 0.5), (20.0, 1.0)):
        images, _ = wrap(Constant(value), value_range=(10, 20)).sample(1)
        assert torch.equal(images, torch.full((1, *SHAPE), expected))


def test_images_can_be_trained_on():
    images, _ = wrap(Net()).sample(2)
    weight = torch.ones(1, requires_grad=True)
    (images * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"latent_dim": 0}, ValueError, "latent_dim"),
        ({"chunk": 0}, ValueError, "chunk"),
        ({"image_shape": (3, 0, 4)}, ValueError, "image_shape"),
        ({"image_shape": (3, 4)}, ValueError, "image_shape"),
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be an integer, got 2.5"),
        ({"image_shape": (3, 2.9, 2)}, TypeError, "each size of image_shape must be an integer, got 2.9"),
        ({"value_range": (1, 1)}, ValueError, "black < white"),
        ({"value_range": (float("-inf"), 1)}, ValueError, "finite"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    settings = {"latent_dim": 7, "image_shape": SHAPE} | options
    with pytest.raises(error, match=message):
        Synthesizer.from_module(Net(), **settings)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"):
        Synthesizer.from_module(lambda z: z, latent_dim=7, image_shape=SHAPE)


def test_noise_keeps_its_bounds():
    images, _ = NoiseSynthesizer((1, 32, 32), low=0.25, high=0.5).sample(10)
    assert 0.25 <= images.min() < 0.251
    assert 0.499 < images.max() < 0.5
    for bounds in ({"low": -0.1}, {"high": 1.1}, {"low": 0.6, "high": 0.5}):
        with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
            NoiseSynthesizer(SHAPE, **bounds)


def test_noise_has_nothing_to_save(tmp_path):
    with pytest.raises(TypeError, match="NoiseSynthesizer"):
        NoiseSynthesizer(SHAPE).save(tmp_path / "run")
