import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchaug_gen import rng
from torchaug_gen.augment.mix import CutMix, MixChoice, MixUp, symmetric_beta
from torchaug_gen.labels import soft_labels

PER = st.sampled_from(["batch", "pair", "sample"])
WAYS = [MixUp, CutMix]
X, Y = torch.rand(6, 3, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])


def label_images(n, size=(2, 2)):
    """Return images whose channels are their one-hot labels, and the labels."""
    labels = torch.arange(n) % 4
    return torch.nn.functional.one_hot(labels, 4).float()[:, :, None, None].repeat(1, 1, *size), labels


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(1, 9), st.integers(0, 2**40), PER)
def test_images_and_labels_are_blended_alike(weight, n, seed, per):
    # The image of an item is its one-hot label, so blended images must show the blended labels.
    images, labels = label_images(n)
    blended, soft = MixUp(weight=weight, num_classes=4, per=per)(images, labels, seed=seed)
    torch.testing.assert_close(blended[:, :, 0, 0], soft)
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    assert (soft[torch.arange(n), labels] >= weight - 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 2**40), PER, st.data())
def test_labels_are_the_shares_of_the_pixels(n, size, seed, per, data):
    how = data.draw(st.sampled_from([{"alpha": 1.0}, {"alpha": 0.1}, {"weight": 0.6}, {"weight": 0.0}]))
    images, labels = label_images(n, size)
    cut = CutMix(num_classes=4, per=per, **how)
    mixed, soft = cut(images, labels, seed=seed)
    assert ((mixed == 0) | (mixed == 1)).all()
    torch.testing.assert_close(mixed.double().mean((2, 3)), soft.double(), atol=1e-6, rtol=0)
    # Soft labels in float64 are exact.
    exact = cut(images, soft_labels(labels, 4).double(), seed=seed)[1]
    torch.testing.assert_close(mixed.double().mean((2, 3)), exact, atol=1e-15, rtol=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(0, 2**40), st.sampled_from(WAYS), PER)
def test_who_is_mixed_with_whom(n, seed, way, per):
    plan = way(alpha=0.7, per=per).plan(n, seed=seed)
    assert sorted(plan.partners.tolist()) == list(range(n))
    if per == "pair":
        assert torch.equal(plan.partners[plan.partners], torch.arange(n))
        assert int((plan.partners == torch.arange(n)).sum()) == n % 2
        assert torch.equal(plan.weights[plan.partners], plan.weights)
    distinct = {"batch": min(n, 1), "pair": (n + 1) // 2, "sample": n}[per]
    assert len(set(plan.weights.tolist())) == distinct


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_one_image_at_a_time_in_place_and_all_at_once_are_the_same(way, per, dtype):
    images = (torch.rand(9, 3, 11, 13) * 255).to(dtype)
    mix = way(alpha=1.0, per=per, num_classes=4)
    labels = torch.arange(9) % 4
    for batch in range(5):
        expected = mix(images, labels, batch=batch)
        overwritten = images.clone()
        result = mix(overwritten, labels, batch=batch, inplace=True)
        assert result[0] is overwritten and all(map(torch.equal, expected, result))
        if dtype is torch.float32:
            # The way of CUDA, and of gradients.
            tracked = mix(images.clone().requires_grad_(), labels, batch=batch)[0]
            torch.testing.assert_close(tracked, expected[0])
            assert tracked.requires_grad


def test_masks_are_pasted_with_their_images():
    images = torch.rand(8, 1, 12, 14)
    cut = CutMix(alpha=1.0, per="sample", num_classes=4)
    for masks in (images[:, 0], images, images.double().requires_grad_()):
        mixed, labels, pasted = cut(images, torch.arange(8) % 4, masks=masks, seed=5)
        assert pasted.dtype is masks.dtype and torch.equal(pasted.reshape(8, 12, 14).float(), mixed[:, 0])
    assert torch.equal(cut(images, None, masks=images, seed=5)[2], mixed) and labels.shape == (8, 4)
    assert cut(images, None, masks=images, seed=5)[1] is None


def test_boxes_have_their_size_and_lie_anywhere():
    cut = CutMix(weight=0.75, per="sample")
    plan = cut.plan(4000)
    top, left, bottom, right = cut.boxes(plan, (20, 40)).unbind(1)
    assert (bottom - top).max() == 10 and (right - left).max() == 20
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 20).all() and (right <= 40).all()
    # The centre is one of 20 rows, 11 of which leave the whole of the box inside.
    whole = (bottom - top == 10).double().mean()
    assert abs(float(whole) - 11 / 20) < 0.03
    assert stats.chisquare(torch.bincount(top[bottom - top == 10]).numpy()).pvalue > 1e-4
    drawn = CutMix(alpha=1.0, per="sample")
    plan = drawn.plan(4000)
    middle = drawn.boxes(plan, (200, 200)).double().reshape(-1, 2, 2).mean(1)
    features = torch.stack((plan.weights, (plan.weights - 0.5).abs(), middle[:, 0], middle[:, 1]))
    assert torch.corrcoef(features)[2:, :2].abs().max() < 0.06, "size and place are independent"


@pytest.mark.parametrize("way", WAYS)
def test_a_share_of_batches_is_mixed(way):
    mix = way(alpha=1.0, p=0.3, num_classes=4)
    mixed = [mix(X, Y, batch=batch)[0] is not X for batch in range(600)]
    assert abs(np.mean(mixed) - 0.3) < 0.06
    images, labels = way(alpha=1.0, p=0.0, num_classes=4)(X, Y)
    assert images is X and torch.equal(labels, soft_labels(Y, 4)), "labels are soft in every batch"


def test_one_of_several_ways_is_chosen():
    up, cut = MixUp(alpha=1.0), CutMix(alpha=1.0, num_classes=4)
    mix = MixChoice([up, cut], [0.25, 0.75])
    chosen = [mix.chosen(batch=batch) for batch in range(600)]
    assert abs(np.mean([choice is up for choice in chosen]) - 0.25) < 0.06
    assert mix.num_classes == 4
    for batch, choice in enumerate(chosen[:20]):
        expected = choice(X, soft_labels(Y, 4), batch=batch)
        assert all(map(torch.equal, expected, mix(X, Y, batch=batch)))
    assert {MixChoice([up, cut], [1, 0]).chosen(batch=batch) for batch in range(50)} == {up}
    with pytest.raises(ValueError, match="cannot blend masks"):
        mix(X, Y, masks=X)


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("way", WAYS)
def test_the_same_key_blends_the_same(way):
    mix = way(alpha=0.4, num_classes=4, p=0.9999)
    first = mix(X, Y, seed=1, epoch=2, batch=3)
    assert all(map(torch.equal, first, mix(X, Y, seed=1, epoch=2, batch=3)))
    for key in ({"seed": 2, "epoch": 2, "batch": 3}, {"seed": 1, "epoch": 3, "batch": 3}, {"seed": 1, "epoch": 2}):
        assert not torch.equal(first[0], mix(X, Y, **key)[0])


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5, 1.0, 4.0, 50.0])
def test_numbers_are_of_the_beta_distribution(alpha):
    uniforms = rng.uniform(3, "test", 0, 0, (20_000, 2), dtype=torch.float64)[0].numpy()
    # Below 1e-9 from its ends float64 gets coarse, where a small alpha puts much of its mass.
    numbers = symmetric_beta(alpha, uniforms).clip(1e-9, 1 - 1e-9)
    beta = stats.beta(alpha, alpha)
    inner = numbers[(numbers > 1e-6) & (numbers < 1 - 1e-6)]
    low, high = beta.cdf([1e-6, 1 - 1e-6])
    assert stats.kstest(inner, lambda x: (beta.cdf(x) - low) / (high - low)).pvalue > 1e-3
    assert stats.binomtest(int((numbers <= 1e-6).sum()), len(numbers), low).pvalue > 1e-3
    edges = symmetric_beta(alpha, np.array([[0, 0], [1 - 2.0**-53, 0.5], [0.5, 0.25], [0, 0.25], [1 - 2.0**-53, 0.25]]))
    assert ((edges >= 0) & (edges <= 1)).all()


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_weights_are_of_the_beta_distribution(per):
    batches = range(1500 if per == "batch" else 100)
    plans = [MixUp(alpha=0.4, per=per).plan(40, batch=batch) for batch in batches]
    weights = torch.cat([torch.unique(plan.weights) for plan in plans])
    assert len(weights) == len(batches) * {"batch": 1, "pair": 20, "sample": 40}[per]
    assert stats.kstest(weights.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


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
        ({"weight": 0.5, "per": "row"}, "per must be one of batch, pair, sample, got 'row'"),
        ({"weight": 0.5, "p": -0.1}, r"p must be in \[0, 1\], got -0.1"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_bad_options_are_named(way, options, words):
    with pytest.raises(ValueError, match=words):
        way(**options)


@pytest.mark.parametrize(
    ("choices", "probabilities", "words"),
    [
        ([], None, "at least one of them, got"),
        ([torch.nn.Identity()], None, "choices must be MixUp or CutMix"),
        ([MixUp(alpha=1.0)], [0.5], "must be 1 numbers ≥ 0 with sum 1"),
        ([MixUp(alpha=1.0, num_classes=3), CutMix(alpha=1.0, num_classes=4)], None, "num_classes, got 3 and 4"),
    ],
)
def test_bad_choices_are_named(choices, probabilities, words):
    with pytest.raises(ValueError, match=words):
        MixChoice(choices, probabilities)


@pytest.mark.parametrize(
    ("mix", "images", "labels", "masks", "words"),
    [
        (MixUp(alpha=1.0), X, Y, X[:, 0], "cannot blend masks: leave it out, or use CutMix"),
        (CutMix(alpha=1.0), X, Y, X[:, 0, 1:], r"masks must be \(6, 5, 5\) or \(6, C, 5, 5\), got \(6, 4, 5\)"),
        (CutMix(alpha=1.0), X, None, None, "mixes labels, got None"),
        (CutMix(alpha=1.0, num_classes=4), X, Y[:5], None, "labels must be 6, one for each image, got 5"),
        (MixUp(alpha=1.0, num_classes=4), X[0], Y[:3], None, r"images must be \(N, C, H, W\), got \(3, 5, 5\)"),
    ],
)
def test_what_cannot_be_mixed_is_named(mix, images, labels, masks, words):
    with pytest.raises(ValueError, match=words):
        mix(images, labels, masks=masks)


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
