"""Files that were made to do harm: refused with a reason, nothing executed, memory bounded."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from foreign_files import SIZES, Generator, write_exported, write_onnx, write_safetensors, write_state_dict

from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.external import source
from torchaug_gen.synthesis.gan.network import GeneratorNet
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer

MIB = 1 << 20


class Malicious:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


@pytest.fixture
def little_memory():
    """Fail where the process takes more than 256 MiB at any time during the test."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip("needs Linux to measure the peak of memory")
    peak.write_text("5")
    before = kibibytes("VmRSS")
    yield
    assert kibibytes("VmHWM") - before < 256 * 1024


def kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def load(path, **options):
    return Synthesizer.load(path, **SIZES | options)


@pytest.mark.parametrize("suffix", ["pth", "pt", "tar", "bin"])
@pytest.mark.parametrize("how", ["zip", "bare"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_malicious_pickle_is_not_executed(tmp_path, suffix, how, trust):
    flag, path = tmp_path / "executed", tmp_path / f"g.{suffix}"
    payload = Generator().state_dict() | {"evil": Malicious(flag)}
    if how == "zip":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload["evil"], protocol=2))
    with pytest.raises(ValueError, match=r"could execute code: refused, nothing was executed|cannot be loaded"):
        load(path, net=Generator(), trust=trust)
    assert not flag.exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(Generator(), tmp_path / "g.pth")
    with pytest.raises(ValueError, match="nothing was executed"):
        load(tmp_path / "g.pth", net=Generator(), trust=True)


def calls(module, name, argument):
    """Return the instructions of a pickle that call a function."""
    return f"c{module}\n{name}\n".encode() + argument + b"\x85R"


def saved(values, how):
    """Return a file of :func:`torch.save` whose pickle is another."""
    stream = io.BytesIO()
    torch.save(4, stream, _use_new_zipfile_serialization=how == "zip")
    if how == "bare":
        return stream.getvalue().replace(b"\x80\x02K\x04.", values)
    out = io.BytesIO()
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, values if entry.filename.endswith("data.pkl") else old.read(entry))
    return out.getvalue()


# Shares its parts: small, until it is printed or hashed.
PAIRS = b"K\x01\x85q\x00" + b"h\x00\x86q\x00" * 60
GIGABYTE = b"\x8a\x05" + (1 << 30).to_bytes(5, "little")
BOMBS = {
    "bytearray": b"c__builtin__\nbytearray\n" + calls("__builtin__", "bytearray", GIGABYTE) + b"\x85R",
    "tensor": calls("torch", "FloatTensor", GIGABYTE),
    "storage": calls("torch.storage", "UntypedStorage", GIGABYTE),
    "copies": b"(" + b"N" * 50_000 + b"tq\x00" + calls("torch", "Size", b"h\x00") * 2_000,
    "dictionaries": b"}q\x00" + calls("collections", "OrderedDict", b"h\x00"),
    "encodings": b"c_codecs\nencode\nq\x00X\x04\x00\x00\x00aaaaX\x05\x00\x00\x00utf32\x86R",
    "shapes": b"(" + b"K\x01" * 50_000 + b"tq\x00"
    + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x01tQK\x00h\x00h\x00tR",
    "pairs of pairs": PAIRS,
    "a storage of pairs": b"(" + PAIRS + b"ctorch\nFloatStorage\nX\x01\x00\x00\x000tQ",
    "a storage named by pairs": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + PAIRS
    + b"X\x03\x00\x00\x00cpuK\x01tQ",
    "a long integer": b"\x8b\xff\xff\xff\x7f",
    "a far memo": b"Nr\xff\xff\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("how", ["zip", "bare", "alone"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path, bomb, how, little_memory):
    pickled = b"\x80\x02" + BOMBS[bomb] + b"."
    (tmp_path / "g.pth").write_bytes(pickled if how == "alone" else saved(pickled, how))
    with pytest.raises(ValueError, match=r"g\.pth"):
        load(tmp_path / "g.pth", net=Generator())


def test_a_pickle_of_millions_of_instructions_is_refused(tmp_path, little_memory):
    (tmp_path / "g.pth").write_bytes(saved(b"\x80\x02" + b"}" * (3 << 20) + b".", "bare"))
    with pytest.raises(ValueError, match="more than 2,097,152 instructions"):
        load(tmp_path / "g.pth", net=Generator())


@pytest.mark.parametrize("how", ["zip", "bare"])
def test_pickles_are_put_where_they_are_read(tmp_path, how):
    (tmp_path / "g.pth").write_bytes(saved(b"\x80\x02}X\x01\x00\x00\x00aK\x07s.", how))
    with pytest.raises(ValueError, match=r"the keys 'a' \(int\)"):
        load(tmp_path / "g.pth", net=Generator())


@pytest.mark.parametrize("how", ["zip", "bare"])
def test_a_storage_is_of_one_type(tmp_path, how):
    torch.save({"a": torch.ones(3), "b": torch.ones(3).int()}, tmp_path / "two.pth")
    with zipfile.ZipFile(tmp_path / "two.pth") as archive:
        pickled = archive.read("two/data.pkl")
    (tmp_path / "g.pth").write_bytes(saved(pickled.replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000"), how))
    with pytest.raises(ValueError, match="the storage 0 is of two types"):
        load(tmp_path / "g.pth", net=Generator())


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_a_storage_that_is_longer_than_its_file_is_refused(tmp_path, size, little_memory):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "g.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "g.pth").read_bytes()
    sizes = (1000).to_bytes(8, "little")
    assert content.count(sizes) == 1
    (tmp_path / "g.pth").write_bytes(content.replace(sizes, size.to_bytes(8, "little", signed=True)))
    with pytest.raises(ValueError, match="more than there are"):
        load(tmp_path / "g.pth", net=Generator())


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pt2", "onnx"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, kind, kept):
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"g.{kind}"
    {"safetensors": write_safetensors, "pth": write_state_dict, "pt2": write_exported, "onnx": write_onnx}[kind](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=str(path)):
        load(path, trust=True, **{"net": Generator()} if kind in ("safetensors", "pth") else {})


@pytest.mark.parametrize("length", [0, 10**15, 2**64 - 1])
def test_a_safetensors_header_that_lies_is_refused(tmp_path, length, little_memory):
    header = b'{"a": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}'
    for declared in (length, len(header)):
        (tmp_path / "g.safetensors").write_bytes(struct.pack("<Q", declared) + header)
        with pytest.raises(ValueError, match="cannot be loaded as safetensors"):
            load(tmp_path / "g.safetensors", net=Generator())


@pytest.mark.parametrize("name", ["g.onnx", "g.pth", "g.safetensors", "g.pt2"])
def test_an_oversized_file_is_refused_unread(tmp_path, name, monkeypatch, little_memory):
    with (tmp_path / name).open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(ValueError, match=r"at most [\d,]+ bytes, got 21,474,836,480: refused unread"):
        load(tmp_path / name, trust=True, net=Generator())


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "g.onnx")
    with pytest.raises(ValueError, match="must be a regular file"):
        load(tmp_path / "g.onnx")
    with pytest.raises(ValueError, match="must be a regular file"):
        source.Source(tmp_path / "g.onnx").read()


@pytest.mark.parametrize("suffix", ["pt2", "pth"])
def test_a_zip_bomb_is_refused(tmp_path, suffix, little_memory):
    path = tmp_path / f"g.{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if suffix == "pt2":
            archive.writestr("g/archive_format", "pt2")
        with archive.open("g/data/0", "w") as entry:
            for _ in range(80):
                entry.write(bytes(MIB))
    assert path.stat().st_size < MIB
    with pytest.raises(ValueError, match="refused as a zip bomb"):
        load(path, trust=True, net=Generator())


def test_overlapping_entries_are_a_zip_bomb_too(tmp_path):
    """The same megabyte listed a hundred times, as in Fifield's "A better zip bomb" (2019)."""
    path = tmp_path / "g.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("g/data/0", bytes(MIB))
        first = archive.infolist()[0]
        archive.filelist += [first] * 99
    with pytest.raises(ValueError, match="refused as a zip bomb"):
        load(path, net=Generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 10**9}, r"latent_dim must be an integer in 1\.\.65536, got 1000000000"),
        ({"latent_dim": -1}, r"latent_dim must be an integer in 1\.\.65536, got -1"),
        ({"latent_dim": "6"}, r"latent_dim must be an integer in 1\.\.65536, got '6'"),
        ({"latent_dim": [1000, 1000, 1000]}, "latent_dim must come to at most 1048576 values"),
        ({"latent_dim": [1, 1, 1, 1, 1]}, "latent_dim must be an integer, or a list of 1 to 4"),
        ({"image_shape": [3, 10**7, 10**7]}, r"each size of image_shape must be an integer in 1\.\.4096"),
        ({"image_shape": [4096, 4096, 4096]}, "image_shape × chunk must be at most 1073741824"),
        ({"image_shape": 8}, "image_shape must be three integers, got 8"),
        ({"num_classes": 10**12}, "num_classes must be an integer in"),
        ({"num_classes": True}, "num_classes must be an integer in 1..1048576, got True"),
        ({"value_range": [0, 1e999]}, "value_range must be two finite numbers"),
        ({"value_range": [1, -1]}, r"value_range must be \(black, white\) with black < white"),
        ({"value_range": []}, r"value_range must be two finite numbers, got \(\)"),
        ({"chunk": 10**9}, r"chunk must be an integer in 1\.\.65536, got 1000000000"),
        ({"chunk": 65536 + 1}, r"chunk must be an integer in 1\.\.65536"),
        ({"classes": ["one"]}, "classes must be num_classes=3 names"),
        ({"architecture": "os.system"}, "architecture must be one of .*, got 'os.system'"),
        ({"architecture": ["GeneratorNet"]}, "architecture must be one of"),
        ({"architecture": {}}, r"architecture must be one of .*, got \{\}"),
        ({"arguments": {"width": 10**12}}, r"arguments\.width must be in -65536\.\.65536"),
        ({"arguments": {"blocks": 10**9}}, r"arguments\.blocks must be in -256\.\.256"),
        ({"arguments": {"blocks": [10**9]}}, r"arguments\.blocks must be in -256\.\.256"),
        ({"arguments": {"blocks": [1] * 33}}, "at most 32 items, got 33"),
        ({"arguments": {"blocks": 200, "depth": 6}}, "at most 256 layers, got blocks=200, depth=6"),
        ({"arguments": {"width": "8"}}, "width must be an integer"),
        ({"arguments": {"surprise": 8}}, "the config does not fit the network it names"),
        ({"arguments": [8]}, "arguments must be an object"),
        ({"key": 4}, "this format has no use for key"),
    ],
    ids=str,
)
def test_absurd_sizes_in_a_config_are_refused(tmp_path, changes, message, little_memory):
    net = GeneratorNet(image_shape=(1, 8, 8), latent_dim=4, num_classes=3, width=8)
    config = {"architecture": "GeneratorNet", "arguments": net.arguments, "image_shape": [1, 8, 8]}
    config |= {"latent_dim": 4, "num_classes": 3}
    write_safetensors(tmp_path / "g.safetensors", net, **config)
    Synthesizer.load(tmp_path / "g.safetensors")
    write_safetensors(tmp_path / "g.safetensors", net, **config | changes)
    with pytest.raises(ValueError, match=message) as error:
        Synthesizer.load(tmp_path / "g.safetensors")
    assert str(tmp_path / "g") in str(error.value)


def test_a_chunk_that_takes_much_memory_is_asked_of_the_caller(tmp_path, little_memory):
    net = VaeNet(image_shape=(1, 28, 28), latent_dim=2, width=16)
    config = {"architecture": "VaeNet", "arguments": net.arguments, "image_shape": [1, 28, 28], "latent_dim": 2}
    path, run = tmp_path / "v.safetensors", tmp_path / "run"
    write_safetensors(path, net, **config, chunk=8192, value_range=[0, 1])
    VaeSynthesizer(net, latent_dim=2, image_shape=(1, 28, 28), chunk=8192).save(run)
    for file in (path, run):
        with pytest.raises(ValueError, match=r"got 8192 × \(1, 28, 28\): pass chunk=8192 to Synthesizer.load"):
            Synthesizer.load(file)
        assert Synthesizer.load(file, chunk=8192).chunk == 8192
        assert Synthesizer.load(file, chunk=2).sample(1)[0].shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (5 * MIB), b'{"chunk": %b}' % (b"1" * 5000)]
)
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    write_safetensors(tmp_path / "g.safetensors")
    (tmp_path / "g.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"g\.json"):
        load(tmp_path / "g.safetensors", net=Generator())


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _packages(self):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")

    def write(self, path, nodes, initializers=(), sparse=(), image="s"):
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 6])],
            [helper.make_tensor_value_info(image, TensorProto.FLOAT, [4, 1, 2, 3])],
            initializer=list(initializers),
            sparse_initializer=list(sparse),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString())

    @pytest.mark.parametrize("where", ["initializer", "sparse", "attribute", "subgraph"])
    def test_tensors_that_claim_terabytes_are_refused(self, tmp_path, where, little_memory):
        from onnx import TensorProto, helper

        huge = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[10**6, 10**6])
        nodes, initializers, sparse = [], [], []
        if where == "initializer":
            initializers = [huge]
        elif where == "sparse":
            value = helper.make_tensor("huge", TensorProto.FLOAT, [1], [1.0])
            index = helper.make_tensor("i", TensorProto.INT64, [1], [0])
            sparse = [helper.make_sparse_tensor(value, index, [10**6, 10**6])]
        else:
            inner = helper.make_node("Constant", [], ["huge"], value=huge)
            branch = helper.make_graph([inner], "branch", [], [])
            nodes = [inner if where == "attribute" else helper.make_node("If", ["z"], ["s"], then_branch=branch)]
        self.write(tmp_path / "g.onnx", nodes, initializers, sparse)
        with pytest.raises(ValueError, match="at most 536,870,912 values, but its tensors come to 1,000,000,000,000"):
            Synthesizer.load(tmp_path / "g.onnx")

    def test_a_short_file_that_asks_for_five_gigabytes_when_it_runs_is_refused(self, tmp_path, little_memory):
        import numpy as np
        from onnx import helper, numpy_helper

        shapes = [numpy_helper.from_array(np.array(shape, np.int64), name) for name, shape in
                  (("huge", [1 << 15, 40960]), ("image", [4, 1, 2, 3]))]  # fmt: skip
        nodes = [
            helper.make_node("ConstantOfShape", ["huge"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
            helper.make_node("Add", ["z", "sum"], ["added"]),
            helper.make_node("Reshape", ["added", "image"], ["s"]),
        ]
        self.write(tmp_path / "g.onnx", nodes, shapes)
        assert (tmp_path / "g.onnx").stat().st_size < 1000
        synthesizer = Synthesizer.load(tmp_path / "g.onnx")
        with pytest.raises(ValueError, match="cannot be run"):
            synthesizer.sample(1)

    @pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "a/../../secret", "link", "folder/secret", ".."])
    def test_weights_outside_the_folder_are_not_read(self, tmp_path, location):
        import onnx

        (tmp_path / "secret").write_bytes(b"s" * 4096)
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "link").symlink_to(tmp_path / "secret")
        (folder / "folder").symlink_to(tmp_path)
        write_onnx(folder / "g.onnx", external=True)
        model = onnx.load(folder / "g.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder / "g.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"out of its folder|does not lie in its folder"):
            load(folder / "g.onnx")

    def test_noise_that_no_seed_reaches_is_refused(self, tmp_path):
        from onnx import helper

        noise = helper.make_node("RandomNormalLike", ["z"], ["n"])
        for nodes in (
            [noise],
            [helper.make_node("If", ["z"], ["s"], then_branch=helper.make_graph([noise], "b", [], []))],
        ):
            self.write(tmp_path / "g.onnx", nodes)
            with pytest.raises(ValueError, match="draws noise of its own"):
                Synthesizer.load(tmp_path / "g.onnx")

    @pytest.mark.parametrize("content", [b"", b"not onnx", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x00", bytes(100)])
    def test_what_is_no_onnx_is_refused(self, tmp_path, content):
        (tmp_path / "g.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"g\.onnx"):
            Synthesizer.load(tmp_path / "g.onnx")

    def test_inputs_that_are_not_those_of_a_generator_are_named(self, tmp_path):
        from torch import nn

        class Pair(nn.Module):
            def forward(self, z, y):
                return (z @ y.float()).view(-1, 1, 8, 1)

        with pytest.warns(), torch.no_grad():
            torch.onnx.export(Pair(), (torch.zeros(8, 8), torch.zeros(8, 8)), tmp_path / "g.onnx", dynamo=False)
        with pytest.raises(ValueError, match="must take z"):
            Synthesizer.load(tmp_path / "g.onnx")


def test_a_folder_with_a_link_out_of_it_is_refused(tmp_path):
    run = tmp_path / "run"
    Synthesizer.from_module(Generator(), **SIZES).save(run)
    (run / "network.pt2").rename(tmp_path / "elsewhere")
    (run / "network.pt2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "config.json").write_text(json.dumps({}))
    (run / "config.json").unlink()
    (run / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ValueError, match="out of its folder: refused"):
        Synthesizer.load(run, trust=True)
