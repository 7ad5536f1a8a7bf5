"""Run folders: what is saved comes back, and what was tampered with does not."""

import hashlib
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.runs import RunConfig
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.vae.network import VaeNet


class Foreign(nn.Module):
    """Somebody's generator, with noise of its own."""

    def __init__(self, num_classes=None):
        super().__init__()
        with Seeded(2):
            self.dense = nn.Linear(6, 2 * 4 * 5)
            self.table = nn.Embedding(num_classes or 1, 40)
            self.norm = nn.BatchNorm1d(40)

    def forward(self, z, y=None):
        x = self.norm(self.dense(z)) + 0.1 * torch.randn(len(z), 1)
        x = x if y is None else x + self.table(y)
        return nn.functional.dropout(x, 0.5, self.training).tanh().view(-1, 2, 4, 5)


class Branching(nn.Module):
    def forward(self, z):
        return torch.zeros(len(z), 2, 4, 5) if z.sum().item() > 0 else torch.ones(len(z), 2, 4, 5)


def vae(num_classes=3):
    with Seeded(1):
        net = VaeNet(image_shape=(1, 11, 9), latent_dim=6, num_classes=num_classes, width=4)
        net.fit_prior(torch.randn(30, 6), torch.randn(30, 6), None if num_classes is None else torch.arange(30) % 3)
    return Synthesizer.from_module(
        net, latent_dim=6, image_shape=(1, 11, 9), num_classes=num_classes, value_range=(0, 1), chunk=8
    )


def foreign(num_classes=None):
    return Synthesizer.from_module(
        Foreign(num_classes), latent_dim=6, image_shape=(2, 4, 5), num_classes=num_classes, chunk=8
    )


@pytest.fixture
def run(tmp_path):
    vae().save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def foreign_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "run"
    foreign(4).save(path)
    return path


def sign(path):
    """Write the sums anew, as whoever made the folder could."""
    files = sorted(file for file in path.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (path / "SHA256SUMS").write_text("".join(lines))


def edit(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    sign(path)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_vae_comes_back_bit_for_bit(tmp_path, num_classes):
    synthesizer = vae(num_classes)
    synthesizer.save(tmp_path / "a" / "run")
    loaded = Synthesizer.load(tmp_path / "a" / "run")
    assert isinstance(loaded.net, VaeNet)
    assert loaded.num_classes == num_classes
    images, labels = synthesizer.sample(20, seed=3)
    images_again, labels_again = loaded.sample(20, seed=3)
    assert torch.equal(images, images_again)
    assert num_classes is None or torch.equal(labels, labels_again)


def test_weights_in_channels_last_come_back_bit_for_bit(tmp_path):
    synthesizer = vae()
    synthesizer.net.to(memory_format=torch.channels_last)
    synthesizer.save(tmp_path / "run")
    assert torch.equal(synthesizer.sample(20)[0], Synthesizer.load(tmp_path / "run").sample(20)[0])


def test_a_foreign_network_comes_back(foreign_run):
    loaded = Synthesizer.load(foreign_run, trust=True)
    images, labels = foreign(4).sample(20, seed=3)
    images_again, labels_again = loaded.sample(20, seed=3)
    torch.testing.assert_close(images_again, images, atol=1e-6, rtol=0)
    assert torch.equal(labels, labels_again)


def test_a_foreign_network_survives_a_second_save(foreign_run, tmp_path):
    loaded = Synthesizer.load(foreign_run, trust=True)
    loaded.save(tmp_path / "again")
    again = Synthesizer.load(tmp_path / "again", trust=True)
    assert torch.equal(loaded.sample(9)[0], again.sample(9)[0])


def test_an_exported_network_does_not_train(foreign_run):
    with pytest.raises(TypeError, match="only draw"):
        Synthesizer.load(foreign_run, trust=True).net.train()


def test_class_names_are_kept(tmp_path):
    synthesizer = vae()
    synthesizer.classes = ("hat", "shirt", "shoes")
    synthesizer.save(tmp_path / "run")
    loaded = Synthesizer.load(tmp_path / "run")
    assert loaded.classes == ("hat", "shirt", "shoes")
    loaded.save(tmp_path / "again")
    assert RunConfig.from_json((tmp_path / "again" / "config.json").read_bytes()).classes == loaded.classes


def test_loading_and_saving_leave_the_global_generator_alone(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for synthesizer in (vae(), foreign()):
        synthesizer.save(tmp_path / "run")
        Synthesizer.load(tmp_path / "run", trust=True).sample(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_files_are_the_promised_ones_and_sha256sum_agrees(run):
    assert {file.name for file in run.iterdir()} == {"config.json", "weights.safetensors", "SHA256SUMS"}
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=run, check=True)


def test_a_folder_can_be_overwritten_by_another_kind(run):
    foreign().save(run)
    assert {file.name for file in run.iterdir()} == {"config.json", "network.pt2", "SHA256SUMS"}
    assert Synthesizer.load(run, trust=True).image_shape == (2, 4, 5)
    vae(None).save(run)
    assert Synthesizer.load(run).num_classes is None


def test_a_network_that_cannot_be_exported_says_why_and_writes_nothing(tmp_path):
    synthesizer = Synthesizer.from_module(Branching(), latent_dim=6, image_shape=(2, 4, 5))
    with pytest.raises(TypeError, match="Branching is not a network of this package"):
        synthesizer.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_foreign_network_needs_trust_and_is_not_opened_before(foreign_run, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("opened"))
    with pytest.raises(ValueError, match=r"unpickles.*pass trust=True"):
        Synthesizer.load(foreign_run)


def test_our_networks_are_never_unpickled(run, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("unpickled"))
    Synthesizer.load(run, trust=True)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Synthesizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "SHA256SUMS"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing: copy the whole run folder"):
        Synthesizer.load(run)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_an_altered_file_is_named(run, name, change):
    content = bytearray((run / name).read_bytes())
    content[-5] ^= 1
    (run / name).write_bytes({"flip": content, "cut": content[:-1], "empty": b""}[change])
    with pytest.raises(ValueError, match=rf"{name} is not the file that SHA256SUMS describes"):
        Synthesizer.load(run)


def test_altered_sums_are_noticed(run):
    (run / "SHA256SUMS").write_bytes(b"\xff\x00 nonsense")
    with pytest.raises(ValueError, match="not the file that SHA256SUMS describes"):
        Synthesizer.load(run)


def test_the_expected_hash_is_compared(run):
    digest = hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    Synthesizer.load(run, sha256=digest.upper())
    with pytest.raises(ValueError, match=f"must have the SHA-256 {'0' * 64}, got {digest}"):
        Synthesizer.load(run, sha256="0" * 64)


def test_every_file_can_be_pinned(run):
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in run.iterdir()}
    Synthesizer.load(run, sha256=digests)
    with pytest.raises(ValueError, match=r"config\.json must have the SHA-256 0000"):
        Synthesizer.load(run, sha256=digests | {"config.json": "0000"})
    del digests["SHA256SUMS"]
    with pytest.raises(ValueError, match="must pin every file that is read, and SHA256SUMS is not among"):
        Synthesizer.load(run, sha256=digests)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"version": 2},
        {"architecture": "os.system"},
        {"architecture": ["VaeNet"]},
        {"arguments": {"width": 4, "code": "1"}},
        {"arguments": {}, "num_classes": True},
        {"arguments": {"width": "4"}},
        {"arguments": {"width": 10**12}},
        {"arguments": 4},
        {"latent_dim": 65537},
        {"latent_dim": 0},
        {"latent_dim": 6.0},
        {"latent_dim": 7},
        {"latent_dim": [6, 10**9]},
        {"latent_dim": []},
        {"arguments": {"blocks": 10**9}},
        {"image_shape": [1, 4097, 9]},
        {"image_shape": [1, 0, 9]},
        {"image_shape": [1, 11]},
        {"image_shape": "1 11 9"},
        {"image_shape": [1, 11, 90]},
        {"num_classes": 4},
        {"num_classes": None},
        {"num_classes": 10**9},
        {"value_range": [1, 0]},
        {"value_range": [0, float("nan")]},
        {"value_range": ["0", "1"]},
        {"chunk": 10**9},
        {"chunk": -1},
        {"classes": ["a", "b"]},
        {"classes": [1, 2, 3]},
        {"package_version": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_an_absurd_config_is_refused_even_when_signed(run, changes):
    edit(run, **changes)
    with pytest.raises(ValueError, match="run"):
        Synthesizer.load(run)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_no_object_is_refused(run, text):
    (run / "config.json").write_bytes(text)
    sign(run)
    with pytest.raises(ValueError, match=r"config\.json"):
        Synthesizer.load(run)


def test_weights_must_agree_with_the_architecture(run):
    file = run / "weights.safetensors"
    weights = load_file(file)
    for name, tensor in {
        "prior_mean": torch.zeros(3, 7),
        "prior_scale": weights["prior_scale"].half(),
        "more": torch.zeros(1),
    }.items():
        save_file(weights | {name: tensor}, file)
        sign(run)
        with pytest.raises(ValueError, match=f"VaeNet has {name}"):
            Synthesizer.load(run)
    save_file({name: tensor for name, tensor in weights.items() if name != "prior_mean"}, file)
    sign(run)
    with pytest.raises(ValueError, match="VaeNet has prior_mean"):
        Synthesizer.load(run)


def test_what_is_no_safetensors_file_is_refused(run):
    (run / "weights.safetensors").write_bytes(b"\x80\x04 not weights")
    sign(run)
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be loaded"):
        Synthesizer.load(run)


def test_an_interrupted_save_leaves_no_half_written_file(run, monkeypatch):
    before = {file.name: file.read_bytes() for file in run.iterdir()}

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        vae(None).save(run)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_loading_to_another_device_moves_weights_and_constants(foreign_run):
    loaded = Synthesizer.load(foreign_run, trust=True)
    loaded.to("meta")
    z, y = torch.empty(8, 6, device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    assert loaded.net(z, y).device.type == "meta"
