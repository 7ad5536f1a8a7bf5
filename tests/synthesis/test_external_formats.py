"""The same network in every format draws the same images, and what a file does not say must be said."""

import hashlib
import json

import pytest
import torch
from foreign_files import (
    CHUNK,
    SIZES,
    Generator,
    Unlabelled,
    write_exported,
    write_onnx,
    write_safetensors,
    write_state_dict,
    write_torchscript,
)
from torch import nn

from torchaug_gen import Synthesizer
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.external.onnx import OnnxNet
from torchaug_gen.synthesis.gan.network import GeneratorNet

WRITERS = {
    "g.safetensors": write_safetensors,
    "g.pth": write_state_dict,
    "g.ts": write_torchscript,
    "g.pt2": write_exported,
    "g.onnx": write_onnx,
}


def load(path, **options):
    needs = {"safetensors": {"net": Generator(2)}, "pth": {"net": Generator(2)}, "ts": {"trust": True}}
    needs["pt2"] = {"trust": True}
    return Synthesizer.load(path, **SIZES | needs.get(path.suffix[1:], {}) | {"chunk": CHUNK} | options)


@pytest.fixture(params=WRITERS)
def file(request, tmp_path):
    if request.param.endswith("onnx"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    path = tmp_path / request.param
    WRITERS[request.param](path)
    return path


def test_every_format_draws_the_same_images(file, untouched_rng):
    expected, labels = Synthesizer.from_module(Generator(), chunk=CHUNK, **SIZES).sample(20, seed=3, epoch=1)
    images, drawn = load(file).sample(20, seed=3, epoch=1)
    assert torch.equal(drawn, labels)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_what_is_drawn_with_it(file):
    synthesizer = load(file)
    images, labels = synthesizer.sample(20, seed=3)
    part, _ = synthesizer.sample(positions=[17, 3], labels=labels[[17, 3]], seed=3)
    assert torch.equal(part, images[[17, 3]])


def test_the_hash_is_compared_before_anything_is_parsed(file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    load(file, sha256=digest.upper())
    load(file, sha256={file.name: digest})
    with pytest.raises(TypeError, match=r"sha256 must be a text of hexadecimal digits, .*, got 5"):
        load(file, sha256=5)
    file.write_bytes(b"\x80\x04 something else")
    with pytest.raises(ValueError, match=f"must have the SHA-256 {digest}, got"):
        load(file, sha256=digest)
    with pytest.raises(ValueError, match="must pin every file"):
        load(file, sha256={"other": digest})


@pytest.mark.parametrize("name", ["g.ts", "g.pt2"])
def test_what_can_execute_code_needs_trust_and_is_not_opened_before(name, tmp_path, monkeypatch):
    WRITERS[name](tmp_path / name)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ValueError, match=r"execute code: pass trust=True if you trust who wrote it"):
        load(tmp_path / name, trust=False)


def test_the_content_and_not_the_ending_says_what_an_archive_is(tmp_path):
    write_torchscript(tmp_path / "a.pth")
    write_exported(tmp_path / "b.pt")
    write_state_dict(tmp_path / "c.pt2")
    for name, word in (("a.pth", "TorchScript"), ("b.pt", r"torch\.export")):
        with pytest.raises(ValueError, match=word):
            Synthesizer.load(tmp_path / name, **SIZES)
    Synthesizer.load(tmp_path / "c.pt2", net=Generator(), **SIZES)


@pytest.mark.parametrize("name", ["g.pt2", "g.onnx"])
def test_formats_that_say_their_sizes_need_not_be_told(name, tmp_path):
    if name == "g.onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    for dynamic in (False, True):
        WRITERS[name](tmp_path / name, dynamic=dynamic)
        synthesizer = Synthesizer.load(tmp_path / name, num_classes=5, trust=True)
        assert (synthesizer.latent_shape, synthesizer.chunk) == ((6,), 32 if dynamic else CHUNK)
        if not dynamic or name == "g.pt2":
            assert synthesizer.image_shape == (3, 8, 8)
        with pytest.raises(ValueError, match="takes labels: pass num_classes="):
            Synthesizer.load(tmp_path / name, trust=True, image_shape=(3, 8, 8))
        with pytest.raises(ValueError, match=r"latent_dim must be \(6,\), as the file says, got 7"):
            Synthesizer.load(tmp_path / name, trust=True, num_classes=5, latent_dim=7)


def test_what_nobody_says_is_named(tmp_path):
    write_torchscript(tmp_path / "g.ts")
    with pytest.raises(ValueError, match=r"does not say latent_dim: pass latent_dim=, or write it into g\.json"):
        Synthesizer.load(tmp_path / "g.ts", trust=True)
    write_safetensors(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match="holds weights alone: pass net="):
        Synthesizer.load(tmp_path / "g.safetensors", **SIZES)
    with pytest.raises(TypeError, match="load has no option colour"):
        Synthesizer.load(tmp_path / "g.ts", colour=1)
    with pytest.raises(ValueError, match="this format has no use for steps"):
        Synthesizer.load(tmp_path / "g.ts", trust=True, steps=4, **SIZES)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Synthesizer.load(tmp_path / "nowhere.onnx")
    (tmp_path / "g.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Synthesizer\.from_module"):
        Synthesizer.load(tmp_path / "g.pkl")


def test_a_file_of_json_beside_says_it_as_well_and_the_call_has_the_last_word(tmp_path):
    write_torchscript(tmp_path / "g.ts")
    names = ["a", "b", "c", "d", "e"]
    sidecar = SIZES | {"chunk": CHUNK, "value_range": [-2, 2], "classes": names}
    (tmp_path / "g.json").write_text(json.dumps(sidecar))
    synthesizer = Synthesizer.load(tmp_path / "g.ts", trust=True, value_range=(-1, 1))
    assert synthesizer.value_range == (-1, 1)
    assert synthesizer.classes == tuple(names)
    (tmp_path / "g.json").write_text(json.dumps(sidecar | {"code": "import os"}))
    with pytest.raises(ValueError, match="got code"):
        Synthesizer.load(tmp_path / "g.ts", trust=True)


def test_weights_of_our_networks_need_only_the_config(tmp_path):
    with Seeded(0):
        net = GeneratorNet(image_shape=(1, 8, 8), latent_dim=4, num_classes=3, width=8)
    sizes = {"image_shape": (1, 8, 8), "latent_dim": 4, "num_classes": 3}
    config = sizes | {"architecture": "GeneratorNet", "arguments": net.arguments}
    write_safetensors(tmp_path / "g.safetensors", net, **config)
    images, _ = Synthesizer.load(tmp_path / "g.safetensors").sample(5)
    assert torch.equal(images, Synthesizer.from_module(net, **sizes).sample(5)[0])


@pytest.mark.parametrize("wrap", [lambda d: {"step": 4, "netG": d}, lambda d: {"netG": d}])
def test_the_key_finds_weights_in_a_checkpoint(tmp_path, wrap):
    path = tmp_path / "c.tar"
    torch.save(wrap(nn.DataParallel(Generator()).state_dict()), path)
    images, _ = Synthesizer.load(path, net=Generator(2), key="netG", **SIZES).sample(4)
    assert torch.equal(images, Synthesizer.from_module(Generator(), **SIZES).sample(4)[0])
    with pytest.raises(ValueError, match=r"'netG' \(OrderedDict\).*key= says where"):
        Synthesizer.load(path, net=Generator(2), **SIZES)
    with pytest.raises(ValueError, match="has no key 'netD'"):
        Synthesizer.load(path, net=Generator(2), key="netD", **SIZES)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_another_network_are_refused_and_nothing_is_copied(tmp_path, suffix):
    path = tmp_path / f"g.{suffix}"
    WRITERS[f"g.{suffix}"](path, Unlabelled())
    net = Generator(2)
    with pytest.raises(ValueError, match=r"Generator has conv\.bias"):
        Synthesizer.load(path, net=net, **SIZES)
    assert all(map(torch.equal, net.state_dict().values(), Generator(2).state_dict().values()))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got dict"):
        Synthesizer.load(path, net={}, **SIZES)


def test_a_run_folder_takes_no_options(tmp_path):
    Synthesizer.from_module(Generator(), chunk=CHUNK, **SIZES).save(tmp_path / "run")
    with pytest.raises(ValueError, match="says all of itself, but load was given latent_dim"):
        Synthesizer.load(tmp_path / "run", trust=True, latent_dim=6)


def test_a_latent_may_have_any_shape(tmp_path):
    sizes = {"latent_dim": (6, 1, 1), "image_shape": (1, 8, 8)}
    synthesizer = Synthesizer.from_module(Unlabelled(), **sizes)
    images, _ = synthesizer.sample(40, seed=2)
    flat = Synthesizer.from_module(nn.Sequential(nn.Unflatten(1, (6, 1, 1)), Unlabelled()), **sizes | {"latent_dim": 6})
    assert torch.equal(images, flat.sample(40, seed=2)[0])
    assert (synthesizer.latent_dim, synthesizer.latent_shape) == (6, (6, 1, 1))
    synthesizer.save(tmp_path / "run")
    loaded = Synthesizer.load(tmp_path / "run", trust=True)
    assert loaded.latent_shape == (6, 1, 1)
    torch.testing.assert_close(loaded.sample(40, seed=2)[0], images, atol=1e-6, rtol=0)


def test_onnx_survives_a_copy_to_another_process(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    import pickle

    write_onnx(tmp_path / "g.onnx")
    synthesizer = load(tmp_path / "g.onnx")
    assert isinstance(synthesizer.net, OnnxNet)
    copied = pickle.loads(pickle.dumps(synthesizer))
    assert torch.equal(copied.sample(4)[0], synthesizer.sample(4)[0])
    with pytest.raises(ValueError, match="run by onnxruntime on the CPU, got device cuda"):
        synthesizer.to("cuda")


def test_onnx_finds_its_weights_beside_it(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    write_onnx(tmp_path / "g.onnx", external=True)
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    images, _ = load(tmp_path / "g.onnx").sample(9)
    torch.testing.assert_close(
        images, Synthesizer.from_module(Generator(), chunk=CHUNK, **SIZES).sample(9)[0], atol=1e-5, rtol=0
    )
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("g.onnx", "weights.bin")}
    load(tmp_path / "g.onnx", sha256=digests)
    with pytest.raises(ValueError, match=r"sha256 pins g\.onnx alone, but weights\.bin is read as well"):
        load(tmp_path / "g.onnx", sha256=digests["g.onnx"])
