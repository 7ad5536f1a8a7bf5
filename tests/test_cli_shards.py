import hashlib
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchaug_gen import ShardStream, cli

CLASSES = ("cat", "dog")
SMALL = ["--steps", "4", "--batch-size", "4", "--width", "4", "--latent-dim", "4", "--checkpoint-every", "4"]


def write_tree(path, n=30, first=0):
    for number, name in enumerate(CLASSES):
        (path / name).mkdir(parents=True)
        for index in range(n):
            pixels = torch.randint(
                256, (12, 12, 3), generator=torch.Generator().manual_seed(first + 2 * index + number)
            )
            Image.fromarray(pixels.byte().numpy()).save(path / name / f"{index}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tree(folder / "train")
    write_tree(folder / "test", first=1000)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["train", "vae", str(data / "train"), "--out", str(out), *SMALL]) == 0
    return out


def shards(*arguments):
    return cli.main(["shards", *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_write_keeps_files_as_they_are(data, tmp_path, capsys):
    options = ["--samples-per-shard", 25, "--in-order"]
    assert shards("write", data / "train", tmp_path, *options) == 0
    assert capsys.readouterr().out == f"60 samples in 3 shards in {tmp_path}\n"
    stream = ShardStream(tmp_path, fields=("__key__", "png", "cls"), shuffle=0)
    assert len(stream) == 60
    found = {key: (image, label) for key, image, label in stream}
    for label, name in enumerate(CLASSES):
        for index in range(30):
            with Image.open(data / "train" / name / f"{index}.png") as image:
                pixels = torch.tensor(list(image.tobytes())).view(12, 12, 3).permute(2, 0, 1)
            assert found[f"{name}/{index}"][0].equal(pixels.byte()) and found[f"{name}/{index}"][1] == label
    names = subprocess.run(["tar", "tf", tmp_path / "000000.tar"], capture_output=True, text=True, check=True).stdout
    assert names.split()[:2] == ["cat/0.cls", "cat/0.png"]
    content = (data / "train" / "cat" / "0.png").read_bytes()
    assert content in (tmp_path / "000000.tar").read_bytes()


def test_write_mixes_classes_and_its_options_count(data, tmp_path):
    for name, options in {"a": [], "b": ["--seed", 1], "c": ["--format", "jpg", "--workers", 1]}.items():
        assert shards("write", data / "train", tmp_path / name, *options) == 0
    labels = [label for (label,) in ShardStream(tmp_path / "a", fields=("cls",), shuffle=0)]
    assert labels[:30].count(0) not in (0, 30) and sorted(labels) == [0] * 30 + [1] * 30
    assert contents(tmp_path / "a") != contents(tmp_path / "b")
    assert len(list(ShardStream(tmp_path / "c", fields=("jpg", "cls"), on_error="raise"))) == 60
    assert shards("write", data / "train", tmp_path / "d", "--short-side", 6, "--max-shard-mib", 0.03) == 0
    sizes = {image.shape for image, _ in ShardStream(tmp_path / "d", fields=("png", "cls"), on_error="raise")}
    assert sizes == {(3, 6, 6)} and len(list((tmp_path / "d").glob("*.tar"))) > 2


def test_shards_are_written_into_others_as_they_are(data, tmp_path, capsys):
    assert shards("write", data / "train", tmp_path / "a") == 0
    assert shards("write", tmp_path / "a", tmp_path / "b", "--samples-per-shard", 7) == 0
    assert shards("write", tmp_path / "b", tmp_path / "c") == 0
    written = [contents(tmp_path / name) for name in "abc"]
    indices = [written[place].pop("index.jsonl").splitlines()[1:] for place in (0, 2)]
    assert written[0] == written[2] and indices[0] == indices[1] and len(written[1]) == 10
    capsys.readouterr()
    assert shards("write", tmp_path / "a", tmp_path / "d", "--format", "jpg") == 2
    assert "are for folders of images" in capsys.readouterr().err
    # They keep their order, which no seed decides.
    assert shards("write", tmp_path / "a", tmp_path / "d", "--seed", 0) == 2
    assert "in their order: --format, --short-side and --seed are for folders" in capsys.readouterr().err
    assert shards("write", tmp_path / "a", tmp_path / "d", "--in-order") == 0
    assert shards("write", tmp_path / "a", tmp_path / "a", "--resume") == 2
    assert "another folder" in capsys.readouterr().err


def test_shards_that_are_lost_or_damaged_are_named_instead_of_left_out(data, tmp_path, capsys):
    assert shards("write", data / "train", tmp_path / "a", "--samples-per-shard", 20) == 0
    content = bytearray((tmp_path / "a" / "000001.tar").read_bytes())
    content[150] ^= 7
    (tmp_path / "a" / "000001.tar").write_bytes(content)
    capsys.readouterr()
    assert shards("write", tmp_path / "a", tmp_path / "b") == 2
    assert f"shard {tmp_path / 'a' / '000001.tar'}: bad header" in capsys.readouterr().err
    (tmp_path / "a" / "000001.tar").unlink()
    assert shards("write", tmp_path / "a", tmp_path / "c") == 2
    assert "lacks 000001.tar, which its index tells of" in capsys.readouterr().err


def test_the_samples_of_any_archive_are_written_in_order(tmp_path):
    files = {f"{label}.cls": str(label).encode() for label in range(5)} | {f"{label}.txt": b"t" for label in range(4)}
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        # As tar finds files in a folder: those of a sample far from each other, and equal ones as links.
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("4.txt")
        link.type, link.linkname = tarfile.LNKTYPE, "0.txt"
        archive.addfile(link)
    assert shards("write", tmp_path, tmp_path / "out", "--samples-per-shard", 2) == 0
    found = ShardStream(tmp_path / "out", fields=("__key__", "cls", "txt"), shuffle=0, on_error="raise")
    assert list(found) == [(str(label), label, "t") for label in range(5)]


def odd_tree(path):
    write_tree(path, n=2)
    Image.new("RGB", (9, 5), (1, 2, 3)).save(path / "cat" / "a.bmp")
    Image.new("P", (9, 5)).save(path / "cat" / "b.png")
    Image.new("RGBA", (9, 5)).save(path / "cat" / "b.webp")
    Image.new("L", (9, 5)).save(path / "dog" / "c.c.JPEG")
    Image.new("CMYK", (9, 5)).save(path / "dog" / "d.jpg")


def test_odd_files_become_what_readers_know_and_damaged_ones_are_named_or_skipped(tmp_path, capsys):
    odd_tree(tmp_path / "data")
    assert shards("write", tmp_path / "data", tmp_path / "a") == 0
    stream = ShardStream(tmp_path / "a", fields=("__key__", "png;jpg;webp", "cls"), on_error="raise")
    keys = {key: tuple(image.shape) for key, image, _ in stream}
    assert keys["cat/a"] == keys["cat/b-png"] == keys["cat/b-webp"] == keys["dog/d"] == (3, 5, 9)
    assert [shape for key, shape in keys.items() if key.startswith("dog/c_c-")] == [(1, 5, 9)] and len(keys) == 9
    assert shards("write", tmp_path / "data", tmp_path / "small", "--short-side", 4) == 0
    (tmp_path / "data" / "cat" / "0.png").write_bytes(b"no image")
    stream = io.BytesIO()
    Image.new("I;16", (4, 4)).save(stream, "PNG")
    (tmp_path / "data" / "cat" / "1.png").write_bytes(stream.getvalue())
    capsys.readouterr()
    assert shards("write", tmp_path / "data", tmp_path / "b", "--in-order") == 2
    err = capsys.readouterr().err
    assert (
        "item 0: " in err
        and "cat/0.png: no image that Pillow knows" in err
        and not (tmp_path / "b" / "000000.tar").exists()
    )
    with pytest.warns(RuntimeWarning, match="skipped 2 items"):
        assert shards("write", tmp_path / "data", tmp_path / "b", "--skip-damaged") == 0
    assert "7 samples in 1 shard in" in capsys.readouterr().out


def test_gifs_are_images_and_what_is_left_out_is_said(tmp_path, capsys):
    write_tree(tmp_path / "data", n=1)
    pixels = torch.arange(80, dtype=torch.uint8).reshape(8, 10).numpy()
    first = Image.fromarray(pixels)
    first.save(tmp_path / "data" / "cat" / "two.GIF", save_all=True, append_images=[Image.fromarray(pixels + 1)])
    assert shards("write", tmp_path / "data", tmp_path / "a", "--in-order") == 0
    assert capsys.readouterr() == (f"3 samples in 1 shard in {tmp_path / 'a'}\n", "")
    found = dict(ShardStream(tmp_path / "a", fields=("__key__", "gif;png"), on_error="raise"))
    assert found["cat/two"].equal(torch.from_numpy(pixels).expand(3, -1, -1))
    (tmp_path / "data" / "stray.png").write_bytes(b"")
    (tmp_path / "data" / "dog" / "photograph.heic").write_bytes(b"")
    (tmp_path / "data" / "dog" / ".hidden").write_bytes(b"")
    assert shards("write", tmp_path / "data", tmp_path / "b", "--in-order") == 0
    said = capsys.readouterr()
    first = tmp_path / "data" / "stray.png"
    assert said.err == f"files left out, because they are no images of a class: 2, first {first}\n"
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "data" / "cow").mkdir()
    assert shards("write", tmp_path / "data", tmp_path / "c") == 2
    assert "for the classes cow. Images end in .jpg, " in capsys.readouterr().err


def test_an_interrupted_write_goes_on(data, tmp_path, capsys, monkeypatch):
    from torchaug_gen.shards.files import ImageFiles

    assert shards("write", data / "train", tmp_path / "a", "--samples-per-shard", 8) == 0
    image = ImageFiles._image
    calls = []

    def interrupted(self, path):
        calls.append(path)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return image(self, path)

    monkeypatch.setattr(ImageFiles, "_image", interrupted)
    write = ["write", data / "train", tmp_path / "b", "--samples-per-shard", 8]
    assert shards(*write) == 130
    assert shards(*write) == 2 and "--resume" in capsys.readouterr().err
    assert shards(*write, "--resume") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(calls) == 20 + 60 - 16


def test_index_keeps_the_classes_that_were_known(data, tmp_path, capsys):
    assert shards("write", data / "train", tmp_path, "--samples-per-shard", 40) == 0
    before = contents(tmp_path)
    assert shards("index", tmp_path) == 0 and contents(tmp_path) == before
    (tmp_path / "index.jsonl").unlink()
    assert shards("index", tmp_path, "--classes", *CLASSES) == 0
    # What the shards do not hold is how they were written.
    first, *lines = contents(tmp_path)["index.jsonl"].splitlines()
    told, *places = before.pop("index.jsonl").splitlines()
    assert lines == places and contents(tmp_path).items() >= before.items()
    header = json.loads(told)
    assert header.pop("written")["samples_per_shard"] == 40 and json.loads(first) == header
    assert capsys.readouterr().out.endswith(f"60 samples in 2 shards in {tmp_path}\n")
    assert shards("index", tmp_path / "none") == 2


GATES = ["--gates", "classifier", "sharpness", "neighbour", "--confidence", "0", "--classifier-steps", "3"]


def synthesize(run, out, *options):
    return shards("synthesize", run, out, "--n", 20, "--samples-per-shard", 6, *options)


@pytest.fixture
def lenient(monkeypatch):
    """Let every sample through the gates: what four steps have learnt passes no honest test."""
    from torchaug_gen.synthesis import gates

    for gate in (gates.SharpnessGate, gates.NeighbourGate, gates.ClassifierGate):
        monkeypatch.setattr(gate, "passes", lambda self, images, labels, **_: torch.ones(len(images), dtype=torch.bool))


@pytest.mark.usefixtures("lenient")
def test_synthesize_writes_gated_samples_that_say_where_they_come_from(run, data, tmp_path, capsys):
    assert synthesize(run, tmp_path, *GATES, "--data", data) == 0
    said = capsys.readouterr()
    assert f"20 samples in {tmp_path}" in said.out and "candidates accepted" in said.out
    assert "held-out images" in said.err and "ClassifierGate" in said.err
    found = list(ShardStream(tmp_path, fields=("json", "cls"), shuffle=0, on_error="raise"))
    assert [label for _, label in found] == [0, 1] * 10
    # Whoever has the run's folder finds it by: sha256sum SHA256SUMS.
    weights = hashlib.sha256((run / "SHA256SUMS").read_bytes()).hexdigest()
    for told, label in found:
        assert (told["class"], told["run"], told["seed"]) == (CLASSES[label], weights, 0)
        assert set(told["gates"]) == {"SharpnessGate", "NeighbourGate", "ClassifierGate"}
    # Trained once: what another training gives would not be the same on another machine.
    before = contents(tmp_path)
    assert synthesize(run, tmp_path, *GATES, "--data", data) == 0
    assert contents(tmp_path) == before and "held-out" not in capsys.readouterr().err
    assert synthesize(run, tmp_path, *GATES, "--data", data, "--classifier-steps", "4") == 2
    assert "classifier_steps was 3, and is 4 now" in capsys.readouterr().err
    assert synthesize(run, tmp_path, *GATES, "--data", data, "--confidence", "0.1") == 2
    assert "holds samples of other settings: gates was" in capsys.readouterr().err


def rank_of_two(rank, port, *arguments):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update(address, RANK=str(rank), WORLD_SIZE="2")
    sys.exit(synthesize(*arguments))


@pytest.mark.usefixtures("lenient")
def test_two_processes_share_the_work_as_torchrun_tells_them(run, data, tmp_path):
    assert synthesize(run, tmp_path / "1", *GATES, "--data", data) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked, because new processes would import for seconds.
    fork = multiprocessing.get_context("fork")
    options = (run, tmp_path / "2", *GATES, "--data", data)
    processes = [fork.Process(target=rank_of_two, args=(rank, port, *options), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(tmp_path / "1") == contents(tmp_path / "2") and len(contents(tmp_path / "1")) == 7
    assert not list((tmp_path / "2").glob(".*"))


def test_options_of_synthesize_count(run, tmp_path):
    assert synthesize(run, tmp_path / "a", "--class", "dog", "--format", "jpg") == 0
    items = list(ShardStream(tmp_path / "a", fields=("jpg", "cls"), on_error="raise"))
    assert {label for _, label in items} == {1} and len(items) == 20
    drawn = []
    for name, options in {"b": [], "c": ["--seed", 1], "d": ["--truncation", 0.3]}.items():
        assert synthesize(run, tmp_path / name, *options) == 0
        drawn.append(contents(tmp_path / name)["000000.tar"])
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gates", "sharpness"], "--gates sharpness need real images: --data DATA"),
        (["--gates", "neighbour", "--data", "{data}/train"], "--heldout FOLDER, or DATA/test"),
        (["--gates", "sharpness", "--data", "nowhere"], "nowhere"),
        (["--class", "cow"], "class must be one of cat, dog, got 'cow'"),
        (["--class", "7"], "labels must be classes in 0..1, got [7]"),
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--truncation", "nan"], "truncation must be above 0"),
        (["--device", "abacus"], "device must be one that PyTorch can use here"),
        (["--sha256", "00"], "SHA-256"),
    ],
)
def test_bad_options_are_one_line(run, data, tmp_path, capsys, *, options, message):
    assert synthesize(run, tmp_path / "out", *(str(option).format(data=data) for option in options)) == 2
    err = capsys.readouterr().err
    assert message in err.replace("\n", " ") and err.splitlines()[-1].startswith("torchaug-gen: ")
    assert not list(tmp_path.glob("**/*.tar"))


def test_write_names_what_is_wrong(data, tmp_path, capsys):
    for arguments, message in (
        ((data, tmp_path / "out"), "train and test, which are no classes"),
        ((tmp_path / "none", tmp_path / "out"), "no folder"),
        ((data / "train", tmp_path / "out", "--quality", 0), "quality must be an integer in 1..100"),
        ((data / "train", tmp_path / "out", "--samples-per-shard", 0), "samples_per_shard must be at least 1"),
        ((data / "train", tmp_path / "out", "--max-shard-mib", "inf"), "--max-shard-mib must be finite"),
        ((data / "train", tmp_path / "out", "--max-shard-mib", 0), "--max-shard-mib must be finite and at least"),
        ((data / "train", tmp_path / "out", "--short-side", 0), "short_side must be at least 1"),
    ):
        assert shards("write", *arguments) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def launch(count, *arguments):
    command = ["-m", "torchaug_gen.cli", "shards", "synthesize", *map(str, arguments)]
    if count > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [*torchrun, *command]
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_torchrun_with_one_two_and_three_processes_gives_the_same_also_after_a_kill(run, data, tmp_path):
    gates = ["--gates", "classifier", "--data", data, "--confidence", 0, "--classifier-steps", 3]
    # What four steps have learnt may look like one class only.
    drawn = [name for name in CLASSES if synthesize(run, tmp_path / name, *gates, "--class", name) == 0]
    options = ["--samples", 400, "--samples-per-shard", 10, *gates, "--class", drawn[0]]
    said = {}
    for count in (1, 2, 3):
        process = launch(count, run, tmp_path / str(count), *options)
        said[count], _ = process.communicate(timeout=200)
        assert process.returncode == 0, said[count]
    # The gates' weights are trained by as many threads as a process has, and kept.
    assert contents(tmp_path / "2") == contents(tmp_path / "3") == contents(tmp_path / "1")
    assert "rank 2 of 3: 13 shards" in said[3] and "400 samples in" in said[3]
    again = tmp_path / "again"
    process = launch(3, run, again, *options)
    while len(list(again.glob("*.tar"))) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, ranks)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert len(list(again.glob("*.tar"))) < 40 and not (again / "index.jsonl").exists()
    process = launch(2, run, again, *options)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert contents(again) == contents(tmp_path / "1") and not list(again.glob(".*"))
    assert json.loads((again / "synthesis.json").read_text())["n"] == 400
