"""``train_vae`` on data so small that it takes a second."""

import json
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import Items, bars, history
from torch.utils.data import TensorDataset

from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import read_images
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.training import VaeConfig, VaeRecipe, train_vae

TINY = VaeConfig(steps=4, batch_size=8, latent_dim=4, width=4)


def train(data, config, out):
    return train_vae(data, config, out=out, progress=False)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run folder that learned what bars look like, and its synthesizer."""
    config = VaeConfig(steps=150, batch_size=16, latent_dim=4, width=4, learning_rate=5e-3, augment=0, beta=1)
    out = tmp_path_factory.mktemp("bars")
    return out, train(bars(), config, out)


def test_the_loss_falls_and_classes_come_out_right(learned):
    out, synthesizer = learned
    lines = history(out)
    assert [line["step"] for line in lines] == list(range(150))
    assert set(lines[0]) == {"step", "loss", "nll", "kl", "mse", "detail", "seconds"}
    losses = [line["loss"] for line in lines]
    assert max(losses[-20:]) < min(losses[:5])
    assert lines[-1]["mse"] < lines[0]["mse"] / 4
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(lines))
    images, labels = synthesizer.sample(60)
    upper, lower = images[:, 0, :6].mean(dim=(1, 2)), images[:, 0, 6:].mean(dim=(1, 2))
    bright = images.mean(dim=(1, 2, 3)) > 0.1
    assert bright.sum() > 20
    right = torch.where(labels == 0, upper > lower, lower > upper)
    assert right[bright].float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generators_say(tmp_path):
    weights = []
    for name, noise, seed in (("a", 1, 0), ("b", 2, 0), ("c", 2, 1)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        random.seed(noise)
        states = torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()
        train(bars(), VaeConfig(steps=4, batch_size=8, latent_dim=4, width=4, seed=seed), tmp_path / name)
        assert states == (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate())
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert (tmp_path / "a/samples.png").read_bytes() == (tmp_path / "b/samples.png").read_bytes()


def test_what_is_returned_is_what_the_folder_holds(tmp_path):
    synthesizer = train(bars((3, 14, 10)), TINY, tmp_path)
    loaded = Synthesizer.load(tmp_path)
    assert isinstance(loaded.net, VaeNet)
    assert loaded.value_range == (0, 1)
    assert torch.equal(synthesizer.sample(40)[0], loaded.sample(40)[0])
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 4
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.size == (8 * 12 + 2, 2 * 16 + 2)


def test_the_prior_is_fitted_to_each_class(tmp_path):
    net = train(bars(), TINY, tmp_path).net
    assert net.prior_mean.shape == (2, 8, 4)
    assert not torch.allclose(net.prior_mean[0, 0], net.prior_mean[1, 0])
    assert not torch.equal(net.prior_scale[0, 0], torch.eye(4))
    torch.testing.assert_close(net.prior_weight.sum(dim=1), torch.ones(2))


def test_the_prior_can_be_chosen(tmp_path):
    nets = {
        kind: train(bars(), replace(TINY, prior=kind), tmp_path / kind).net
        for kind in ("normal", "gaussian", "mixture")
    }
    assert {kind: net.prior_mean.shape[1] for kind, net in nets.items()} == {"normal": 1, "gaussian": 1, "mixture": 8}
    assert torch.equal(nets["normal"].prior_scale, torch.eye(4).expand(2, 1, 4, 4))
    assert not torch.equal(nets["gaussian"].prior_scale, nets["normal"].prior_scale)
    assert all(
        torch.equal(a, b) for a, b in zip(nets["normal"].parameters(), nets["mixture"].parameters(), strict=True)
    )
    assert train(bars(), replace(TINY, latent_dim=1), tmp_path / "line").sample(3)[0].isfinite().all()


@pytest.mark.filterwarnings("ignore:samples are nearly all alike")
def test_the_term_against_blur_keeps_detail(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = Items([torch.randint(0, 256, (1, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(16)])
    strengths = []
    for detail in (0.0, 0.5):
        config = VaeConfig(
            steps=60, batch_size=8, latent_dim=4, width=4, learning_rate=1e-2, augment=0, beta=1, detail=detail
        )
        images, _ = train(data, config, tmp_path / str(detail)).sample(32)
        strengths.append(float(images.diff(dim=3).square().mean()))
    assert strengths[1] > 2 * strengths[0]


def test_what_is_trained_can_reconstruct_and_vary(learned):
    out, synthesizer = learned
    images, labels = torch.stack([x for x, _ in bars()]), torch.tensor([y for _, y in bars()])
    errors = (synthesizer.reconstruct(images, labels) - images / 255).square().mean()
    assert errors < 0.1 * (images / 255).var()
    varied = synthesizer.vary(images, labels, strength=0.5)
    assert torch.equal(Synthesizer.load(out).vary(images, labels, strength=0.5), varied)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 17), (4, 33, 12)])
def test_any_shape_is_learned(tmp_path, shape):
    images, labels = train(bars(shape, 6), TINY, tmp_path).sample(3)
    assert images.shape == (3, *shape)
    assert labels.shape == (3,)


def test_without_labels(tmp_path):
    synthesizer = train(bars(labels=False), TINY, tmp_path)
    assert synthesizer.num_classes is None
    assert synthesizer.sample(3)[1] is None
    assert train(TensorDataset(torch.rand(5, 1, 8, 8)), TINY, tmp_path).num_classes is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
    config = VaeConfig(steps=50, batch_size=8, latent_dim=4, width=4, learning_rate=1e30)
    with pytest.raises(RuntimeError, match=r"the loss \w+ is (nan|inf) at step \d+, after going back 3 times"):
        train(bars(), config, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(("size", "expected"), [(12, 4e-3), (28, 4e-3), (56, 2e-3), ((56, 224), 1e-3)])
def test_larger_images_are_learned_more_slowly(size, expected):
    recipe = VaeRecipe(read_images(bars(), image_size=(size, size) if isinstance(size, int) else size), TINY)
    assert recipe.peak_learning_rate == pytest.approx(expected)
    images = read_images(bars())
    assert VaeRecipe(images, replace(TINY, learning_rate=0.1)).peak_learning_rate == 0.1


def test_images_that_are_too_small_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sides of at least 8, got \(1, 7, 8\)"):
        train(Items([(torch.zeros(1, 7, 8), 0)]), TINY, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"width": 1.5}, "width must be an integer, got 1.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"beta": -1}, "beta must be at least 0"),
        ({"free_bits": float("inf")}, "free_bits"),
        ({"augment": -0.1}, "augment"),
        ({"detail": -0.1}, "detail must be at least 0 and finite, got -0.1"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"prior": "flat"}, "prior must be normal, gaussian or mixture, got 'flat'"),
        ({"warmup_fraction": 1.2}, r"warmup_fraction must be in \[0, 1\], got 1.2"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VaeConfig(**options)
