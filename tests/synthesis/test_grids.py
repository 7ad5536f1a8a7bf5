"""Rows of images that go from one latent to another."""

import math

import pytest
import torch
from foreign_files import SIZES, Generator

from torchaug_gen import Synthesizer
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis import grids
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer


def vae(num_classes=None):
    """Return a synthesizer whose classes are mixtures of three Gaussians that lie far apart."""
    with Seeded(1):
        net = VaeNet(image_shape=(1, 8, 8), latent_dim=4, num_classes=num_classes, width=4, components=3)
        net.prior_weight.fill_(1 / 3)
        net.prior_mean.copy_(torch.randn_like(net.prior_mean) * 9)
        net.prior_scale.mul_(0.1)
    return VaeSynthesizer(net, latent_dim=4, image_shape=(1, 8, 8), num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [None, 2])
def test_the_codes_of_a_vae_go_in_equal_steps(num_classes, monkeypatch):
    synthesizer, n, columns = vae(num_classes), 15, 6
    decoded = []
    monkeypatch.setattr(
        synthesizer, "decode", lambda codes, labels: decoded.append(codes) or codes.new_zeros(n, 1, 8, 8)
    )
    labels = grids.row_labels(n, columns, num_classes)
    grids.interpolations(synthesizer, n, columns=columns, labels=labels)
    for row in decoded[0].split(columns):
        steps = row.diff(dim=0)
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-4, rtol=1e-4)
        assert steps.norm(dim=1).min() > 0


@pytest.mark.parametrize("make", [vae, lambda: Synthesizer.from_module(Generator(), **SIZES)])
def test_rows_begin_and_end_at_samples(make):
    synthesizer = make()
    labels = None if synthesizer.num_classes is None else torch.tensor([3] * 8)
    images = grids.interpolations(synthesizer, 8, columns=4, labels=labels, seed=2)
    ends, _ = synthesizer.sample(4, labels=None if labels is None else labels[:4], seed=2)
    torch.testing.assert_close(images[[0, 3, 4, 7]], ends, atol=1e-4, rtol=0)


def test_latents_of_other_networks_keep_their_length_on_the_way():
    latents = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    circle = grids._great_circle(latents[:1], latents[1:], torch.linspace(0, 1, 9))[0]
    lengths = circle.norm(dim=1)
    assert math.isclose(lengths.min(), latents.norm(dim=1).min(), rel_tol=1e-4)
    assert lengths.max() <= latents.norm(dim=1).max() + 1e-3
