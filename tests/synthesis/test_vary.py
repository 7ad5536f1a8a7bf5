"""New views of real images."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.noise import NoiseSynthesizer
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer
from torchaug_gen.synthesis.vary import VaryingSynthesizer, interpolation_weights

SHAPE = (2, 12, 9)
MODES = ("perturb", "interpolate")


def make(num_classes=3, components=2):
    with Seeded(2):
        # Sizes as networks have them. Where layers have fewer outputs than 16 and inputs that no 4 divides, MKL's
        # product of a row depends, on some processors, on the row's place among the others.
        net = VaeNet(image_shape=SHAPE, latent_dim=8, num_classes=num_classes, width=4, components=components)
        # Untrained, a decoder hardly heeds its code.
        for parameter in net.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        net.fit_prior(
            torch.randn(60, 8), torch.full((60, 8), -2.0), None if num_classes is None else torch.arange(60) % 3
        )
    return VaeSynthesizer(net, latent_dim=8, image_shape=SHAPE, num_classes=num_classes, chunk=8)


def images_of(n, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.2 + 0.4


def labels_of(n, num_classes=3):
    return None if num_classes is None else torch.arange(n) % num_classes


@pytest.fixture(params=[None, 3], ids=["unlabelled", "labelled"])
def num_classes(request):
    return request.param


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("residual", [True, False])
def test_a_view_is_another_image_of_the_right_kind(num_classes, mode, residual):
    images, labels = images_of(20), labels_of(20, num_classes)
    varied = make(num_classes).vary(images, labels, strength=0.7, mode=mode, residual=residual)
    assert varied.shape == images.shape
    assert varied.dtype is torch.float32
    assert 0 <= varied.min() < varied.max() <= 1
    assert ((varied - images).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_view_does_not_depend_on_the_other_rows(num_classes, mode):
    synthesizer, images, labels = make(num_classes), images_of(20), labels_of(20, num_classes)
    varied = synthesizer.vary(images, labels, strength=0.7, mode=mode, seed=4, epoch=2)
    rows = [17, 3, 9]
    part = synthesizer.vary(
        images[rows],
        None if labels is None else labels[rows],
        strength=0.7,
        mode=mode,
        seed=4,
        epoch=2,
        positions=rows,
    )
    assert torch.equal(part, varied[rows])


@pytest.mark.parametrize("mode", MODES)
def test_seed_epoch_and_position_each_change_the_view(mode):
    synthesizer, images, labels = make(), images_of(8), labels_of(8)
    first = synthesizer.vary(images, labels, strength=0.7, mode=mode)
    assert torch.equal(synthesizer.vary(images, labels, strength=0.7, mode=mode), first)
    for options in ({"seed": 1}, {"epoch": 1}, {"positions": range(8, 16)}):
        other = synthesizer.vary(images, labels, strength=0.7, mode=mode, **options)
        assert not (other == first).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("mode", MODES)
def test_with_no_strength_the_residual_makes_the_image_whole(num_classes, mode):
    synthesizer, images, labels = make(num_classes), images_of(6), labels_of(6, num_classes)
    torch.testing.assert_close(synthesizer.vary(images, labels, strength=0, mode=mode), images, atol=1e-6, rtol=0)
    bare = synthesizer.vary(images, labels, strength=0, mode=mode, residual=False)
    torch.testing.assert_close(bare, synthesizer.reconstruct(images, labels), atol=1e-5, rtol=0)


def test_the_stronger_the_further():
    synthesizer, images, labels = make(), images_of(32), labels_of(32)
    for mode in MODES:
        moved = [
            float((synthesizer.vary(images, labels, strength=s, mode=mode) - images).abs().mean())
            for s in (0.1, 0.4, 1)
        ]
        assert moved[0] < moved[1] < moved[2]


def test_the_residual_is_that_of_the_real_image():
    synthesizer, images, labels = make(), images_of(6), labels_of(6)
    bare, whole = (synthesizer.vary(images, labels, strength=0.3, residual=r) for r in (False, True))
    inside = (whole > 0) & (whole < 1) & (bare > 0) & (bare < 1)
    seen = synthesizer.reconstruct(images, labels)
    inside &= (seen > 0) & (seen < 1)
    expected = bare + images - seen
    assert inside.float().mean() > 0.1
    torch.testing.assert_close(whole[inside], expected[inside], atol=1e-5, rtol=0)


def test_full_perturbation_draws_from_the_prior():
    synthesizer = make(None, components=1)
    codes = torch.full((4000, 8), 7.0)
    moved = synthesizer._perturbed(codes, None, 1.0, seed=0, epoch=0, positions=torch.arange(4000))
    mean, scale = synthesizer.net.prior_mean[0, 0], synthesizer.net.prior_scale[0, 0]
    torch.testing.assert_close(moved.mean(dim=0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(moved.T), scale @ scale.T, atol=0.15, rtol=0)


def test_interpolation_goes_along_the_line_through_both_codes():
    synthesizer, images, labels = make(), images_of(6), labels_of(6)
    partners = images.flip(0)
    weights = 0.5 * interpolation_weights(3, 1, torch.arange(6))
    varied = synthesizer.vary(
        images, labels, strength=0.5, mode="interpolate", residual=False, partners=partners, seed=3, epoch=1
    )
    for row in range(6):
        line = synthesizer.interpolate(
            images[row, None], partners[row, None], [0.0, float(weights[row]), 1.0], labels=labels[row, None]
        )
        torch.testing.assert_close(varied[row], line[0, 1], atol=1e-5, rtol=0)


def test_interpolation_begins_and_ends_at_reconstructions(num_classes):
    synthesizer, labels = make(num_classes), labels_of(3, num_classes)
    a, b = images_of(3), images_of(3, seed=1)
    line = synthesizer.interpolate(a, b, [0, 0.5, 1], labels=labels)
    assert line.shape == (3, 3, *SHAPE)
    torch.testing.assert_close(line[:, 0], synthesizer.reconstruct(a, labels), atol=1e-5, rtol=0)
    torch.testing.assert_close(line[:, 2], synthesizer.reconstruct(b, labels), atol=1e-5, rtol=0)
    assert synthesizer.interpolate(a, b, [], labels=labels).shape == (3, 0, *SHAPE)


def test_weights_lie_beyond_both_ends_but_not_at_the_image():
    weights = interpolation_weights(0, 0, torch.arange(50_000))
    assert -0.3 <= weights.min() < -0.29
    assert 1.29 < weights.max() <= 1.3
    assert weights.abs().min() > 0.0999
    assert abs(float((weights < 0).float().mean()) - 0.2 / 1.4) < 0.01


def test_uint8_and_double_images_mean_the_same():
    synthesizer, labels = make(), labels_of(4)
    levels = (images_of(4) * 255).round()
    floats = levels / 255
    expected = synthesizer.vary(floats, labels, strength=0.5)
    torch.testing.assert_close(synthesizer.vary(levels.to(torch.uint8), labels, strength=0.5), expected)
    torch.testing.assert_close(synthesizer.vary(floats.double(), labels.int(), strength=0.5), expected)


def test_no_images_are_no_error(num_classes):
    synthesizer, labels = make(num_classes), labels_of(0, num_classes)
    assert synthesizer.vary(images_of(0), labels, strength=0.5).shape == (0, *SHAPE)
    assert synthesizer.reconstruct(images_of(0), labels).shape == (0, *SHAPE)
    if num_classes is not None:
        assert synthesizer.vary(images_of(0), [], strength=0.5).shape == (0, *SHAPE)


def test_global_random_state_is_neither_read_nor_moved():
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    synthesizer = make()
    torch.manual_seed(1)
    before = states()
    varied = synthesizer.vary(images_of(10), labels_of(10), strength=0.5)
    assert states() == before
    torch.manual_seed(2)
    assert torch.equal(synthesizer.vary(images_of(10), labels_of(10), strength=0.5), varied)


def test_views_can_be_trained_on():
    images = images_of(4).requires_grad_()
    varied = make().vary(images, labels_of(4), strength=0.5)
    assert not varied.requires_grad
    (varied * torch.ones(1, requires_grad=True)).sum().backward()


IMAGES = images_of(3)


@pytest.mark.parametrize(
    ("images", "labels", "options", "error", "message"),
    [
        (IMAGES[..., :8], [0, 1, 2], {}, ValueError, r"must be \(N, 2, 12, 9\) .*, got \(3, 2, 12, 8\)"),
        (IMAGES[0], [0], {}, ValueError, r"got \(2, 12, 9\)"),
        (IMAGES[:, :1], [0, 1, 2], {}, ValueError, r"got \(3, 1, 12, 9\)"),
        (IMAGES * 3, [0, 1, 2], {}, ValueError, r"\[0, 1\], got .* before Normalize"),
        (IMAGES * float("nan"), [0, 1, 2], {}, ValueError, r"\[0, 1\], got nan"),
        (IMAGES.int(), [0, 1, 2], {}, TypeError, "got torch.int32"),
        (IMAGES.numpy(), [0, 1, 2], {}, TypeError, "got ndarray"),
        (IMAGES, [0, 1, 3], {}, ValueError, r"labels must be in 0\.\.2, got 0\.\.3"),
        (IMAGES, [0, -1, 0], {}, ValueError, r"labels must be in 0\.\.2"),
        (IMAGES, [0, 1], {}, ValueError, "must be as many, got 3 and 2"),
        (IMAGES, None, {}, ValueError, "has 3 classes: pass the labels"),
        (IMAGES, torch.eye(3), {}, ValueError, "class indices"),
        (IMAGES, [0, 1, 2], {"strength": 1.2}, ValueError, r"strength must be in \[0, 1\], got 1.2"),
        (IMAGES, [0, 1, 2], {"strength": float("nan")}, ValueError, "strength"),
        (IMAGES, [0, 1, 2], {"mode": "mix"}, ValueError, "mode must be perturb or interpolate, got 'mix'"),
        (IMAGES, [0, 1, 2], {"partners": IMAGES}, ValueError, "partners are for"),
        (IMAGES, [0, 1, 2], {"positions": [0, 1]}, ValueError, r"positions must be \(3,\) integers"),
        (IMAGES, [0, 1, 2], {"positions": [0, 1, -1]}, ValueError, "at least 0, got -1"),
        (IMAGES, [0, 1, 2], {"mode": "interpolate", "partners": IMAGES[:2]}, ValueError, "as many"),
    ],
)
def test_bad_input_is_named(images, labels, options, error, message):
    with pytest.raises(error, match=message):
        make().vary(images, labels, **({"strength": 0.5} | options))


def test_labels_for_a_synthesizer_without_classes_are_refused():
    with pytest.raises(ValueError, match="has no classes"):
        make(None).vary(IMAGES, [0, 1, 2], strength=0.5)


@pytest.mark.parametrize("weights", [[float("nan")], [[0.5]], 0.5])
def test_bad_weights_are_named(weights):
    with pytest.raises(ValueError, match="weights must be a list of finite numbers"):
        make(None).interpolate(IMAGES, IMAGES, weights)
    with pytest.raises(ValueError, match="a and b must be as many, got 3 and 2"):
        make(None).interpolate(IMAGES, IMAGES[:2], [0.5])


def test_what_cannot_encode_says_what_can():
    foreign = Synthesizer.from_module(nn.Identity(), latent_dim=4, image_shape=SHAPE)
    for synthesizer in (NoiseSynthesizer(SHAPE), foreign):
        with pytest.raises(TypeError, match=f"{type(synthesizer).__name__} cannot encode .* VaeSynthesizer can"):
            synthesizer.vary(IMAGES, strength=0.5)
        with pytest.raises(TypeError, match="cannot encode"):
            VaryingSynthesizer(synthesizer, IMAGES)
    with pytest.raises(TypeError, match="must be a VaeNet, got Identity"):
        VaeSynthesizer(nn.Identity(), latent_dim=4, image_shape=SHAPE)


class Recorder(Synthesizer):
    """Varies an image by saying which one it is, and remembers what it was asked."""

    def __init__(self, num_classes=None):
        super().__init__((1, 8, 8), num_classes=num_classes)
        self.calls = []

    def draw(self, labels, *, seed, epoch, positions):
        raise NotImplementedError

    def vary(self, images, labels=None, *, partners=None, positions=None, **options):
        self.calls.append((images, labels, partners, positions, options))
        return images.float() / 255


def numbered(labels):
    """Images that are their own number."""
    return torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8), torch.tensor(labels)


@pytest.mark.parametrize("mode", MODES)
def test_a_real_image_of_the_asked_class_is_varied(mode):
    images, labels = numbered([2, 0, 1, 0, 2, 2, 0])
    recorder = Recorder(3)
    synthesizer = VaryingSynthesizer(recorder, images, labels, strength=0.4, mode=mode, residual=False)
    drawn, asked = synthesizer.sample(900, seed=7, epoch=1)
    chosen = (drawn[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(labels[chosen], asked)
    counts = torch.bincount(chosen, minlength=7)
    for label in range(3):
        own = counts[labels == label]
        assert own.min() > 0.7 * own.float().mean()
    assert recorder.calls[-1][-1] == {"strength": 0.4, "mode": mode, "residual": False, "seed": 7, "epoch": 1}


def test_partners_are_others_of_the_class_or_of_its_prior():
    images, labels = numbered([0, 0, 0, 1, 1, 2])
    recorder = Recorder(3)
    synthesizer = VaryingSynthesizer(recorder, images, labels, mode="interpolate")
    recorder.calls.clear()
    synthesizer.sample(600)
    pairs = set()
    for own, asked, partners, _, _ in recorder.calls:
        if partners is None:
            assert set(asked.tolist()) == {2}
            continue
        pairs |= {(int(a), int(b)) for a, b in zip(own[:, 0, 0, 0], partners[:, 0, 0, 0], strict=True)}
    assert pairs == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4), (4, 3)}


def test_a_synthesizer_without_classes_still_keeps_labels():
    images, labels = numbered([1, 0, 1, 0])
    recorder = Recorder(None)
    synthesizer = VaryingSynthesizer(recorder, images, labels)
    drawn, asked = synthesizer.sample(50)
    assert synthesizer.num_classes == 2
    assert torch.equal(labels[(drawn[:, 0, 0, 0] * 255).round().long()], asked)
    assert all(call[1] is None for call in recorder.calls)
    assert VaryingSynthesizer(recorder, images).sample(5)[1] is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("residual", [True, False])
def test_no_real_image_is_drawn_unvaried(mode, residual):
    images, labels = images_of(6), labels_of(6)
    synthesizer = VaryingSynthesizer(make(), images, labels, strength=0.3, mode=mode, residual=residual)
    drawn, _ = synthesizer.sample(300)
    distances = (drawn[:, None] - images).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert distances.min() > 5e-4


@pytest.mark.parametrize("mode", MODES)
def test_a_drawn_view_does_not_depend_on_what_is_drawn_with_it(mode):
    # A class of a single image is interpolated apart from the others.
    synthesizer = VaryingSynthesizer(make(), images_of(6), [0, 0, 1, 1, 1, 2], mode=mode)
    drawn, labels = synthesizer.sample(40, seed=5)
    for rows in ([0], [39, 3, 20], list(range(7, 29))):
        part, part_labels = synthesizer.sample(positions=rows, seed=5)
        assert torch.equal(part, drawn[rows])
        assert torch.equal(part_labels, labels[rows])


def test_a_loader_delivers_views_with_their_labels():
    images, labels = numbered([0, 1, 2] * 8)
    recorder = Recorder(3)
    loader = AugmentedLoader(
        DataLoader(TensorDataset(images.float() / 255, labels), batch_size=6),
        synthesizer=VaryingSynthesizer(recorder, images, labels),
        synthetic_fraction=0.5,
        tag="synthetic",
        seed=0,
    )
    synthetic = 0
    for batch, batch_labels, tag in loader:
        chosen = (batch[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(labels[chosen], batch_labels)
        synthetic += int(tag.sum())
    assert synthetic == 24


@pytest.mark.parametrize("mode", MODES)
def test_a_loader_is_the_same_twice(mode):
    images, labels = images_of(12), labels_of(12)
    synthesizer = VaryingSynthesizer(make(), images, labels, strength=0.5, mode=mode)
    loader = AugmentedLoader(
        DataLoader(TensorDataset(images, labels), batch_size=4),
        synthesizer=synthesizer,
        synthetic_fraction=0.5,
        tag="synthetic",
        seed=0,
    )
    epochs = []
    for epoch in (0, 0, 1):
        loader.set_epoch(epoch)
        epochs.append(torch.cat([batch[tag] for batch, _, tag in loader]))
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], epochs[2])


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES, [0, 1, 2], {"strength": 0}, r"strength must be in \(0, 1\], got 0"),
        (IMAGES, [0, 1, 2], {"mode": "mix"}, "mode must be"),
        (IMAGES[:0], [], {}, r"at least one image, got \(0, 2, 12, 9\)"),
        ("images", [], {}, "at least one image, got str"),
        (IMAGES, None, {}, "3 classes: pass the labels"),
        (IMAGES, [0, 1], {}, r"labels must be \(3,\) class indices"),
        (IMAGES, [0, 1, 3], {}, r"0\.\.2, got 0\.\.3"),
        (IMAGES, [0, 1, 1], {}, "got none of class 2 of 3"),
        (IMAGES[:, :1], [0, 1, 2], {}, r"must be \(N, 2, 12, 9\)"),
        (IMAGES + torch.tensor([0.0, 0, 1]).view(3, 1, 1, 1), [0, 1, 2], {}, r"\[0, 1\], got"),
    ],
)
def test_bad_settings_are_named(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        VaryingSynthesizer(make(), images, labels, **options)
