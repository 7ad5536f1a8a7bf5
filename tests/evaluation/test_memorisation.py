import json

import pytest
import torch

from torchaug_gen import NoiseSynthesizer
from torchaug_gen.evaluation.features import embed
from torchaug_gen.evaluation.memorisation import find_copies, nearest, wilson

pytestmark = pytest.mark.usefixtures("untouched_rng")


@pytest.fixture(scope="module")
def sets(pictures):
    """Return 240 training photographs and twice 80 held-out ones, floating in [0, 1]."""
    images = pictures[0] / 255
    return images[:240], images[240:320], images[320:]


def changed(images):
    """Shift by a pixel, dim, and add noise: a copy to the eye."""
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (0.9 * images.roll(1, -1) + 0.02 * grain).clamp(0, 1)


def scattered(n, *, seed, width=16):
    """Return images whose pixels are all the features there are."""
    return torch.rand(n, 1, 4, width // 4, generator=torch.Generator().manual_seed(seed))


def test_held_out_images_are_no_copies(sets):
    train, heldout, more = sets
    for known, real in ((heldout, more), (more, heldout)):
        found = find_copies(train, known, real, features="pixels")
        assert not found.copies
        assert abs(found.c_t) < 2
    assert str(found).startswith("No sign of copied training images")


def test_a_copier_is_found_and_so_are_its_originals(sets):
    train, heldout, _ = sets
    found = find_copies(train, heldout, changed(train[40:120]), features="pixels")
    assert found.copies
    assert found.share > 0.9
    assert found.c_t < -3
    assert all(pair.train == pair.synthetic + 40 for pair in found.pairs)
    assert [pair.ratio for pair in found.pairs] == sorted(pair.ratio for pair in found.pairs)
    assert str(found).startswith("Synthetic images copy training images")


def test_few_copies_among_honest_images_are_found(sets):
    train, heldout, more = sets
    found = find_copies(train, heldout, torch.cat((more, changed(train[:12]))), features="pixels")
    assert found.copies
    assert {pair.synthetic for pair in found.pairs[:10]} <= set(range(80, 92))


@pytest.mark.parametrize("twins", [1, 3])
@pytest.mark.parametrize("features", ["pixels", "dct"])
def test_held_out_images_that_are_training_images_excuse_no_copier(sets, features, twins):
    """They would make copies look as usual as they are themselves."""
    train, heldout, more = sets
    leaking = torch.cat((train[200 : 200 + twins], heldout))
    some = torch.cat((more, train[:12]))
    found = find_copies(train, leaking, some, features=features)
    assert found.copies and found.singled_out
    assert (found.twins, found.heldout) == (twins, 80)
    assert found.threshold == find_copies(train, heldout, some, features=features).threshold
    assert not find_copies(train, leaking, more, features=features).copies


def test_held_out_images_that_mostly_are_training_images_raise(sets):
    train, heldout, _ = sets
    for known, count in ((train, "240 of 240"), (torch.cat((heldout, train[:10])), "10 of 90")):
        with pytest.raises(ValueError, match=f"must be others than the training images, .* but {count} lie on one"):
            find_copies(train, known, train[:60], features="pixels")
    with pytest.raises(ValueError, match="at least 20 held-out images that are no training images, got 19 beside 1"):
        find_copies(train, torch.cat((heldout[:19], train[:1])), train[:60], features="pixels")


def test_blur_alone_is_no_copying(sets):
    train, heldout, more = sets
    from torchvision.transforms.functional import gaussian_blur

    assert not find_copies(train, heldout, gaussian_blur(more, 7, 1.5), features="pixels").copies
    assert not find_copies(train, heldout, (more + more.roll(1, 0)) / 2, features="pixels").copies


def test_honest_and_copied_points_in_any_feature_space():
    train, heldout = scattered(200, seed=0), scattered(100, seed=1)
    flags = [
        find_copies(train, heldout, scattered(100, seed=seed), features=torch.nn.Flatten()) for seed in range(2, 22)
    ]
    assert sum(found.copies for found in flags) <= 1
    near = (train[:100] + 0.05 * (scattered(100, seed=3) - 0.5)).clamp(0, 1)
    assert find_copies(train, heldout, near, features=torch.nn.Flatten()).copies
    # So far away that no training image is near.
    far = find_copies(train, heldout, torch.ones(100, 1, 4, 4), features=torch.nn.Flatten())
    assert not far.copies
    assert far.c_t > 3


def test_c_t_finds_a_synthesizer_that_keeps_too_close_everywhere():
    train, heldout = scattered(200, seed=0), scattered(200, seed=1)
    closer = train[:200] + 0.75 * (scattered(200, seed=2) - train[:200])
    found = find_copies(train, heldout, closer, features=torch.nn.Flatten())
    assert found.c_t < -3
    assert found.copies


def test_duplicates_among_training_images_hide_no_copies(sets):
    train, heldout, _ = sets
    twice = torch.cat((train, train))
    assert find_copies(twice, heldout, changed(train[:60]), features="pixels").copies


def test_features_may_be_given_and_synthesizers_drawn():
    train, heldout = scattered(60, seed=0), scattered(30, seed=1)
    known = embed(train, "random")
    noise = NoiseSynthesizer((1, 4, 4))
    one = find_copies(known, heldout, noise, features="random")
    assert one == find_copies(train, heldout, noise, features="random")
    assert one.synthetic == 30
    assert find_copies(train, heldout, noise, features="random", n=7).synthetic == 7
    read = json.loads(json.dumps(one.as_json(), allow_nan=False))
    assert read["pairs"][0].keys() == {"synthetic", "train", "ratio"}


def test_nearest_is_that_of_all_pairs():
    points, others = scattered(30, seed=0).flatten(1), scattered(40, seed=1).flatten(1)
    all_pairs = (points[:, None] - others).norm(dim=2).min(1)
    distance, row = nearest(points, others)
    torch.testing.assert_close(distance, all_pairs.values)
    assert torch.equal(row, all_pairs.indices)
    assert (nearest(points, points, themselves=True)[1] != torch.arange(30)).all()


def test_wilson_interval_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for count, n in ((0, 20), (1, 340), (170, 340), (20, 20)):
        expected = stats.binomtest(count, n).proportion_ci(method="wilson")
        assert wilson(count, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(
    ("train", "heldout", "synthetic", "message"),
    [
        (2, 30, 30, "at least 3 training images, got 2"),
        (30, 19, 30, "at least 20 held-out images, got 19"),
        (30, 30, 1, "at least 3 synthetic images, got 1"),
        (30, 30, 0, "at least one image to measure, got none"),
    ],
)
def test_too_few_images_raise(train, heldout, synthetic, message):
    sides = [scattered(n, seed=n) for n in (train, heldout, synthetic)]
    with pytest.raises(ValueError, match=message):
        find_copies(*sides, features=torch.nn.Flatten())


def test_other_shapes_and_networks_raise():
    images = scattered(30, seed=0)
    with pytest.raises(ValueError, match=r"one shape \(C, H, W\), got .* image_size= resizes all alike"):
        find_copies(images, images, torch.zeros(30, 1, 4, 5), features="random")
    with pytest.raises(ValueError, match="must come from one network, got flatten, random, random"):
        find_copies(embed(images, torch.nn.Flatten()), images, images, features="random")
