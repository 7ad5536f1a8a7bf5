import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen import MixUp
from torchaug_gen.labels import soft_labels

X, Y = torch.rand(6, 3, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(1, 9), st.integers(0, 2**40))
def test_images_and_labels_are_blended_alike(weight, n, seed):
    # The image of an item is its one-hot label, so blended images must show the blended labels.
    labels = torch.arange(n) % 4
    images = torch.nn.functional.one_hot(labels, 4).float()[:, :, None, None].expand(n, 4, 2, 2)
    blended, soft = MixUp(weight=weight, num_classes=4)(images, labels, seed=seed)
    torch.testing.assert_close(blended[:, :, 0, 0], soft)
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    assert (soft[torch.arange(n), labels] >= weight - 1e-6).all()


@pytest.mark.usefixtures("untouched_rng")
def test_the_same_key_blends_the_same():
    mix = MixUp(alpha=0.4, num_classes=4)
    first = mix(X, Y, seed=1, epoch=2, batch=3)
    assert all(map(torch.equal, first, mix(X, Y, seed=1, epoch=2, batch=3)))
    for key in ({"seed": 2, "epoch": 2, "batch": 3}, {"seed": 1, "epoch": 3, "batch": 3}, {"seed": 1, "epoch": 2}):
        assert not torch.equal(first[0], mix(X, Y, **key)[0])


def test_weights_are_of_the_beta_distribution():
    mix = MixUp(alpha=0.4)
    weights = torch.tensor([mix._draw(0, 0, batch) for batch in range(1000)])
    assert weights.min() >= 0 and weights.max() <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)) = 0.139.
    assert abs(weights.mean() - 0.5) < 0.04 and abs(weights.var() - 0.139) < 0.02


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bfloat16])
def test_dtypes_are_kept(dtype):
    images = (X * 255).to(dtype) if dtype is torch.uint8 else X.to(dtype)
    blended, labels = MixUp(weight=0.5, num_classes=4)(images, Y.int())
    assert blended.dtype is dtype and blended.shape == X.shape and labels.dtype is torch.float32


def test_inputs_are_left_alone_and_empty_batches_pass():
    before = X.clone()
    soft = torch.full((6, 4), 0.25, dtype=torch.float64)
    _, labels = MixUp(weight=0.3)(X, soft)
    assert torch.equal(X, before) and labels.dtype is torch.float64
    images, labels = MixUp(alpha=1.0, num_classes=4)(X[:0], Y[:0])
    assert images.shape == (0, 3, 5, 5) and labels.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give either alpha or weight"),
        ({"alpha": 1.0, "weight": 0.5}, "give either alpha or weight"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"alpha": float("nan")}, "alpha must be above 0, got nan"),
        ({"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        MixUp(**options)


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (Y, None, "only where num_classes is known"),
        (Y, 3, r"labels must be in 0\.\.2, got 0\.\.3"),
        (Y - 1, 4, r"got -1\.\.2"),
        (torch.rand(6, 3), 4, r"must be \(N, 4\) for num_classes=4, got \(6, 3\)"),
    ],
)
def test_labels_that_cannot_be_blended_are_named(labels, classes, words):
    with pytest.raises(ValueError, match=words):
        soft_labels(labels, classes)
