"""What the comparison of generators computes by itself: budgets, data, merging of runs, and the judge."""

import gzip

import numpy as np
import pytest
import torch

from benchmarks import synthesis
from benchmarks.synthesis import drawn, earlier, grid, merged, models, steps_within
from benchmarks.synthesis_data import fashion_mnist, load
from benchmarks.synthesis_judges import LinearJudge
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.prior import standard
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer


def test_steps_fill_the_budget():
    # 2 s once and 0.5 s a step.
    assert steps_within(102.0, short=(4, 4.0), long=(20, 12.0)) == 200
    assert steps_within(1.0, short=(4, 4.0), long=(20, 12.0)) == 1


def test_what_is_paid_once_is_never_less_than_nothing():
    # Slower steps towards the end would make it so.
    assert steps_within(10.0, short=(4, 1.0), long=(20, 17.0)) == 10


def test_a_run_replaces_that_of_its_seed_and_medians_follow():
    results = {"real images": {"KID": 0.0}}
    for seed, value in ((0, 9.0), (1, 3.0), (2, 5.0), (0, 4.0)):
        results = merged(results, "a", {"seed": seed, "KID": value, "KID-interval": [0.0, 1.0]})
    assert [run["seed"] for run in results["models"]["a"]["runs"]] == [0, 1, 2]
    assert results["models"]["a"]["median"] == {"KID": 4.0}
    assert results["real images"] == {"KID": 0.0}
    assert set(merged(results, "b", {"seed": 0, "KID": 1.0})["models"]) == {"a", "b"}


def test_results_of_other_settings_are_not_added_to(tmp_path):
    path = tmp_path / "synthesis.json"
    assert earlier(path, {"minutes": 1}) == {}
    synthesis.common.save("synthesis", {"minutes": 1}, {"models": {}}, unit="none", path=path)
    assert earlier(path, {"minutes": 1}) == {"models": {}}
    assert earlier(path, {"minutes": 2}) == {}


def test_the_judge_tells_classes_that_differ_and_no_others():
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 3
    apart = features + 4 * torch.nn.functional.one_hot(labels, 5)
    assert LinearJudge(apart[:200], labels[:200]).agreement(apart[200:], labels[200:]) > 0.95
    assert LinearJudge(features[:200], labels[:200]).agreement(features[200:], labels[200:]) < 0.6


def test_an_autoencoder_is_measured_under_both_priors():
    net = VaeNet(image_shape=(1, 8, 8), latent_dim=3, num_classes=2, width=4, components=2)
    net.prior_mean.fill_(5.0)
    fitted = VaeSynthesizer(net, latent_dim=3, image_shape=(1, 8, 8), num_classes=2)
    both = drawn(synthesis.VAE, fitted)
    assert list(both) == ["ours: VAE, N(0, I)", "ours: VAE, mixture"]
    plain, own = both.values()
    assert own is fitted
    assert (fitted.net.prior_mean == 5).all()
    for buffer, part in zip(plain.net.prior, standard(2, 2, 3), strict=True):
        assert torch.equal(buffer, part)
    assert drawn(synthesis.BASELINE, fitted) == {synthesis.BASELINE: fitted}
    assert list(models()) == [synthesis.BASELINE, "ours: GAN", synthesis.VAE]


def test_fashion_mnist_is_read_from_its_files(tmp_path):
    for part, count in (("train", 6), ("t10k", 2)):
        pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes(range(count))))
    train, test = fashion_mnist(tmp_path)
    assert train.images.shape == (6, 1, 28, 28)
    assert test.labels.tolist() == [0, 1]
    assert train.images[1, 0, 0, :3].tolist() == [784 % 256, 785 % 256, 786 % 256]
    raw = tmp_path / "FashionMNIST" / "raw"  # as torchvision keeps them
    raw.mkdir(parents=True)
    for path in tmp_path.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert torch.equal(fashion_mnist(tmp_path)[0].images, train.images)
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        fashion_mnist(tmp_path / "nowhere")


def test_photographs_need_a_folder(monkeypatch):
    monkeypatch.delenv("TORCHAUG_GEN_PHOTOGRAPHS", raising=False)
    with pytest.raises(ValueError, match="TORCHAUG_GEN_PHOTOGRAPHS"):
        load("photographs", None)


def test_grids_are_small_files(tmp_path):
    noise = torch.randint(0, 256, (50, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid(noise, tmp_path / "grid.png")
    # Noise is what compresses worst.
    assert (tmp_path / "grid.png").stat().st_size < 300_000
