"""``train_vae`` on data so small that it takes a second."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training import VaeConfig, train_vae
from torchaug_gen.synthesis.training_data import read_images, warp
from torchaug_gen.synthesis.vae import VaeNet

TINY = VaeConfig(steps=4, batch_size=8, latent_dim=4, width=4)


class Items(Dataset):
    def __init__(self, items, classes=None):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def bars(shape=(1, 12, 12), n=24, labels=True, dtype=torch.uint8):
    """Images whose class is the half that is white."""
    items = []
    for index in range(n):
        image = torch.zeros(shape, dtype=dtype)
        image[:, : shape[1] // 2] = index % 3 * (100 if dtype is torch.uint8 else 0.4)
        items.append((image, index % 2) if labels else image)
        if index % 2:
            image[:] = image.flip(1)
    return Items(items)


def history(path):
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def train(data, config, out):
    return train_vae(data, config, out=out, progress=False)


def test_the_loss_falls_and_classes_come_out_right(tmp_path):
    config = VaeConfig(steps=150, batch_size=16, latent_dim=4, width=4, learning_rate=5e-3, augment=0, beta=1)
    synthesizer = train(bars(), config, tmp_path)
    lines = history(tmp_path)
    assert [line["step"] for line in lines] == list(range(150))
    assert set(lines[0]) == {"step", "loss", "nll", "kl", "mse", "seconds"}
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
    assert net.prior_mean.shape == (2, 4)
    assert not torch.allclose(net.prior_mean[0], net.prior_mean[1])
    assert not torch.equal(net.prior_scale[0], torch.eye(4))


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


def test_floating_images_and_tensor_labels_are_read_like_bytes(tmp_path):
    data = TensorDataset(torch.tensor([0, 128, 255]).view(3, 1, 1, 1).expand(3, 1, 8, 8) / 255, torch.tensor([0, 1, 0]))
    read = read_images(data)
    assert read.images[:, 0, 0, 0].tolist() == [0, 128, 255]
    assert read.labels.tolist() == [0, 1, 0]
    assert (read.num_classes, read.classes) == (2, None)


def write_tree(path):
    for name, grey in (("cat", 50), ("dog", 200)):
        (path / name).mkdir(parents=True)
        for index in range(3):
            size = (20 + index, 30) if index else (40, 16)
            Image.new("L", size, grey).save(path / name / f"{index}.png")


def test_a_folder_of_images(tmp_path):
    write_tree(tmp_path / "data")
    config = VaeConfig(steps=2, batch_size=4, latent_dim=4, width=4, image_size=(10, 12))
    synthesizer = train(str(tmp_path / "data"), config, tmp_path / "run")
    assert synthesizer.image_shape == (1, 10, 12)
    assert synthesizer.classes == ("cat", "dog")
    assert Synthesizer.load(tmp_path / "run").classes == ("cat", "dog")
    read = read_images(tmp_path / "data", image_size=(10, 12))
    assert read.images.flatten(1).float().mean(dim=1).tolist() == [50] * 3 + [200] * 3
    assert read.labels.tolist() == [0] * 3 + [1] * 3


def test_images_keep_their_proportions_and_their_centre():
    image = Image.new("L", (40, 20))
    image.paste(255, (10, 0, 30, 20))
    read = read_images(Items([image]), image_size=(10, 10))
    assert read.images.float().mean() > 240


def test_grey_among_colour_becomes_colour():
    read = read_images(Items([Image.new("L", (8, 8), 7), Image.new("RGBA", (8, 8), (1, 2, 3, 255))]))
    assert read.images[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


IMAGE = torch.zeros(1, 8, 8)


@pytest.mark.parametrize(
    ("items", "classes", "message"),
    [
        ([], None, "at least one image, got none"),
        (
            [(IMAGE, 0), (torch.zeros(1, 9, 8), 0)],
            None,
            r"\(1, 8, 8\) at index 0 and \(1, 9, 8\) at index 1; image_size=",
        ),
        ([(torch.zeros(8, 8), 0)], None, r"\(C, H, W\), got \(8, 8\) at index 0"),
        ([(torch.zeros(1, 7, 8), 0)], None, r"sides of at least 8, got \(1, 7, 8\)"),
        ([(IMAGE, 0), (IMAGE + 2, 0)], None, r"\[0, 1\], got 2 to 2 at index 1"),
        ([(IMAGE * float("nan"), 0)], None, r"\[0, 1\], got nan"),
        ([(IMAGE.int(), 0)], None, "uint8 or floating, got torch.int32"),
        ([(np.zeros((1, 8, 8)), 0)], None, "tensors or PIL images, got ndarray at index 0"),
        ([(Image.new("I;16", (8, 8)), 0)], None, "8 bits per channel, got mode I;16"),
        ([(IMAGE, 0), (IMAGE, -1)], None, "at least 0, got -1 at index 1"),
        ([(IMAGE, 0.5)], None, "integers, got 0.5 at index 0"),
        ([(IMAGE, torch.zeros(2))], None, "integers"),
        ([(IMAGE, 0), (IMAGE, None)], None, "a label or none, got none at index 1"),
        ([(IMAGE, 0), (IMAGE, 2)], None, "got none of class 1 of 3"),
        ([(IMAGE, 2)], ["a", "b"], r"0\.\.1 .*, got 2"),
        ([(IMAGE, 0, 1)], None, "pairs, got 3 values"),
    ],
)
def test_bad_data_are_named(tmp_path, items, classes, message):
    with pytest.raises(ValueError, match=message):
        train(Items(items, classes), TINY, tmp_path / "run")


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got generator"):
        train((item for item in ()), TINY, tmp_path)
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "nowhere", TINY, tmp_path)


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
    config = VaeConfig(steps=50, batch_size=8, latent_dim=4, width=4, learning_rate=1e30)
    with pytest.raises(
        RuntimeError, match=r"the loss is (nan|inf) at step (\d+): lower learning_rate=1e\+30"
    ) as caught:
        train(bars(), config, tmp_path)
    assert f"step {len(history(tmp_path))}:" in str(caught.value)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"width": 1.5}, "width must be an integer, got 1.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"beta": -1}, "beta must be at least 0"),
        ({"free_bits": float("inf")}, "free_bits"),
        ({"augment": -0.1}, "augment"),
        ({"warmup_fraction": 1.2}, r"warmup_fraction must be in \[0, 1\], got 1.2"),
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"image_size": (8, 4)}, "image_size"),
        ({"image_size": (8, 9, 9)}, "image_size must be an integer or"),
        ({"image_size": 28.0}, "image_size must be an integer or"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VaeConfig(**options)


def test_a_warp_is_a_function_of_seed_and_position():
    images = torch.rand(5, 2, 9, 14, generator=torch.Generator().manual_seed(0))
    warped = warp(images, strength=1, seed=3, positions=torch.arange(5))
    torch.testing.assert_close(warp(images[3:4], strength=1, seed=3, positions=torch.tensor([3])), warped[3:4])
    assert not torch.equal(warped, warp(images, strength=1, seed=4, positions=torch.arange(5)))
    assert torch.equal(warp(images, strength=0, seed=3, positions=torch.arange(5)), images)
    assert 0 <= warped.min() <= warped.max() <= 1


def test_a_warp_stays_small_and_leaves_no_black_border():
    vertical, horizontal = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 20), indexing="ij")
    images = torch.stack((vertical, horizontal, torch.ones(40, 20))).expand(200, 3, 40, 20)
    warped = warp(images, strength=1, seed=0, positions=torch.arange(200))
    torch.testing.assert_close(warped[:, 2], torch.ones(200, 40, 20))
    moved = (warped - images)[:, :2].abs().amax(dim=(1, 2, 3))
    assert 0.1 < moved.max() < 0.35
    assert moved.min() > 0.005
    inside = slice(5, -5)
    torch.testing.assert_close(warped.mean(dim=0)[:, inside, inside], images[0, :, inside, inside], atol=0.02, rtol=0)
