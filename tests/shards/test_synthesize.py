import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from torchaug_gen import NoiseSynthesizer, ShardStream, Synthesizer
from torchaug_gen.pixels import convert
from torchaug_gen.ranks import Share
from torchaug_gen.shards.index import index_folder
from torchaug_gen.shards.provenance import found_by, run_sha256
from torchaug_gen.shards.synthesize import synthesize_shards
from torchaug_gen.synthesis.gates import ClassifierGate, GatedSynthesizer, NeighbourGate, SharpnessGate

SHAPE = (3, 8, 8)
OPTIONS = {"n": 23, "run": "r" * 64, "seed": 5, "samples_per_shard": 4}


class Net(torch.nn.Module):
    """Two classes that differ in brightness, and vary in it."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = torch.nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, z, labels):
        maps = self.layer(z.view(-1, 4, 1, 1).expand(-1, 4, 8, 8) * 0.3)
        return torch.tanh(maps + (labels.view(-1, 1, 1, 1) - 0.5) * 0.3)


class Bright(torch.nn.Module):
    """Takes bright images for class 1."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack((0.5 - mean, mean - 0.5), dim=1) * 20


def synthesizer():
    made = Synthesizer.from_module(Net(), latent_dim=4, image_shape=SHAPE, num_classes=2, chunk=8)
    made.classes = ("dark", "bright")
    return made


def gates():
    return [SharpnessGate(low=1e-6), ClassifierGate(Bright(), threshold=0.9, chunk=8)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def items(folder, *fields):
    return list(ShardStream(folder, fields=fields, shuffle=0, on_error="raise"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    made = synthesize_shards(synthesizer(), out, gates=gates(), **OPTIONS)
    assert made.complete and [path.name for path in made.shards] == [f"{n:06d}.tar" for n in range(6)]
    return out


@pytest.mark.parametrize("count", [2, 3, 9])
def test_the_union_does_not_depend_on_the_number_of_ranks(tmp_path, whole, count):
    held = []
    for index in reversed(range(count)):
        made = synthesize_shards(synthesizer(), tmp_path, gates=gates(), share=Share(index, count), **OPTIONS)
        assert made.complete == (index == 0)
        held += made.shards
    assert sorted(path.name for path in held) == [f"{n:06d}.tar" for n in range(6)]
    assert contents(tmp_path) == contents(whole) and len(contents(whole)) == 8


def test_webdataset_reads_what_is_drawn(whole):
    shards = sorted(map(str, whole.glob("*.tar")))
    theirs = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("torchrgb8")
    read = list(theirs.to_tuple("png", "cls", "json", "__key__"))
    ours = items(whole, "png", "cls", "json", "__key__")
    assert len(read) == len(ours) == OPTIONS["n"]
    for (image, *told), (mine, *own) in zip(read, ours, strict=True):
        assert torch.equal(torch.as_tensor(image), mine) and told == own


def test_ranks_that_share_no_folder_give_the_same_shards(tmp_path, whole):
    for index in range(2):
        made = synthesize_shards(synthesizer(), tmp_path / str(index), gates=gates(), share=Share(index, 2), **OPTIONS)
        assert not made.complete
    both = contents(tmp_path / "0") | contents(tmp_path / "1")
    assert {name: both.get(name) for name in contents(whole) if name.endswith(".tar")} == {
        name: content for name, content in contents(whole).items() if name.endswith(".tar")
    }


def test_workers_and_other_gates_before_change_nothing(tmp_path, whole):
    synthesize_shards(synthesizer(), tmp_path, gates=gates(), workers=2, **OPTIONS)
    assert contents(tmp_path) == contents(whole)


def test_each_sample_says_how_to_draw_it_again(whole):
    found = items(whole, "png", "cls", "json", "__key__")
    assert len(found) == OPTIONS["n"]
    net, seen = synthesizer(), set()
    gated, labels = GatedSynthesizer(net, gates()).sample(
        labels=[n % 2 for n in range(23)], positions=range(23), seed=5
    )
    for number, (image, label, told, key) in enumerate(found):
        assert (label, told["label"], told["class"]) == (number % 2, number % 2, ("dark", "bright")[number % 2])
        assert (told["synthetic"], told["run"], told["seed"], told["epoch"]) == (True, "r" * 64, 5, 0)
        assert told["sample"] == number and key == f"synthetic-{number:09d}"
        again, _ = net.sample(
            labels=[told["label"]], positions=[told["position"]], seed=told["seed"], epoch=told["epoch"]
        )
        assert convert(again, torch.uint8)[0].equal(image) and convert(gated[number], torch.uint8).equal(image)
        sharp, sure = (found_by(gate, again, labels[number : number + 1]) for gate in gates())
        assert told["gates"] == {"SharpnessGate": float(sharp), "ClassifierGate": float(sure)} and sure >= 0.9
        seen.add(told["position"] - (number << 20))
    # The gates turned some away.
    assert len(seen) > 2 and min(seen) == 0


def test_without_gates_and_classes_there_is_less_to_tell(tmp_path):
    synthesize_shards(NoiseSynthesizer((1, 4, 4)), tmp_path, n=3, run="noise", seed=2)
    for number, (image, told) in enumerate(items(tmp_path, "png", "json")):
        assert image.equal(convert(NoiseSynthesizer((1, 4, 4)).sample(positions=[number], seed=2)[0], torch.uint8)[0])
        assert told.keys() == {"synthetic", "run", "seed", "epoch", "package", "sample", "position"}
    assert webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False).decode("rgb8")
    with pytest.raises(ValueError, match="'cls'"):
        items(tmp_path, "cls")


def test_two_gates_of_a_type_and_one_of_the_users_own_all_tell(tmp_path):
    class Own:
        def passes(self, images, labels, *, seed, epoch, positions):
            return torch.ones(len(images), dtype=torch.bool)

        def scores(self, images, labels):
            return images.mean(dim=(1, 2, 3))

    class Silent:
        passes = Own.passes

    train = torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(0))
    tests = [SharpnessGate(), SharpnessGate(low=1e-9), Own(), Silent(), NeighbourGate(train)]
    synthesize_shards(synthesizer(), tmp_path, n=2, run="a", gates=tests)
    for _, told in items(tmp_path, "png", "json"):
        assert list(told["gates"]) == ["SharpnessGate", "SharpnessGate 2", "Own", "NeighbourGate"]


def test_labels_are_drawn_in_turn(tmp_path):
    synthesize_shards(synthesizer(), tmp_path, n=5, run="a", labels=[1, 1, 0])
    assert [label for (label,) in items(tmp_path, "cls")] == [1, 1, 0, 1, 1]


class Doomed(NoiseSynthesizer):
    """Dies at a position."""

    def draw(self, labels, *, seed, epoch, positions):
        if 14 in positions:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(labels, seed=seed, epoch=epoch, positions=positions)


def doomed(out):
    # A forked process must not wait for threads that only its parent has.
    torch.set_num_threads(1)
    synthesize_shards(Doomed((1, 4, 4)), out, share=Share(1, 2), **OPTIONS)


def killed(out):
    process = multiprocessing.get_context("fork").Process(target=doomed, args=(out,), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_rank_goes_on_where_it_was(tmp_path):
    noise, out = NoiseSynthesizer((1, 4, 4)), tmp_path / "b"
    synthesize_shards(noise, tmp_path / "a", **OPTIONS)
    killed(out)
    assert sorted(path.name for path in out.glob("*.tar")) == ["000001.tar"]
    (out / ".000003.tar.1.partial").write_bytes(b"half")
    stamp = (out / "000001.tar").stat().st_mtime_ns
    assert not synthesize_shards(noise, out, share=Share(0, 2), **OPTIONS).complete
    # By another number of ranks than began it.
    for index in range(3):
        made = synthesize_shards(noise, out, share=Share(index, 3), **OPTIONS)
    assert made.complete and (out / "000001.tar").stat().st_mtime_ns == stamp
    assert contents(tmp_path / "a") == contents(out)
    assert not list(out.glob(".*"))


def forked(out, index, count):
    torch.set_num_threads(1)
    synthesize_shards(synthesizer(), out, gates=gates(), share=Share(index, count), **OPTIONS)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_at_once_write_what_one_does(tmp_path, whole, count):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=forked, args=(tmp_path, index, count), daemon=True) for index in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    assert contents(tmp_path) == contents(whole) and not list(tmp_path.glob(".*"))


def test_ranks_on_machines_where_they_have_equal_process_ids(tmp_path):
    noise, begin = NoiseSynthesizer((1, 4, 4)), threading.Barrier(4)
    synthesize_shards(noise, tmp_path / "whole", **OPTIONS)

    # Threads, which have one process ID, stand for containers that share a folder.
    def work(out, index):
        begin.wait()
        return synthesize_shards(noise, out, share=Share(index, 4), **OPTIONS)

    with ThreadPoolExecutor(4) as pool:
        for again in range(5):
            out = tmp_path / str(again)
            made = [future.result() for future in [pool.submit(work, out, index) for index in range(4)]]
            assert contents(out) == contents(tmp_path / "whole") and not list(out.glob(".*"))
            assert any(one.complete for one in made)


def lose(path):
    path.unlink()


def cut(path):
    os.truncate(path, path.stat().st_size - 512)


@pytest.mark.parametrize("spoil", [lose, cut])
@pytest.mark.parametrize("count", [1, 3])
def test_a_shard_that_was_lost_behind_the_end_is_written_again(tmp_path, whole, count, spoil):
    shutil.copytree(whole, tmp_path / "out")
    spoil(tmp_path / "out" / "000001.tar")
    spoil(tmp_path / "out" / "000005.tar")
    stamp = (tmp_path / "out" / "000000.tar").stat().st_mtime_ns
    complete = []
    for index in range(count):
        made = synthesize_shards(
            synthesizer(), tmp_path / "out", gates=gates(), share=Share(index, count), workers=1, **OPTIONS
        )
        assert all(path.is_file() for path in made.shards)
        complete.append(made.complete)
    # Said by those only that found all of them.
    assert complete == [False] * (count - 1) + [True]
    assert contents(tmp_path / "out") == contents(whole) and not list((tmp_path / "out").glob(".*"))
    assert (tmp_path / "out" / "000000.tar").stat().st_mtime_ns == stamp


def test_an_index_of_some_of_the_shards_is_not_the_end(tmp_path, whole):
    synthesize_shards(synthesizer(), tmp_path, gates=gates(), share=Share(0, 2), **OPTIONS)
    index_folder(tmp_path)
    assert not synthesize_shards(synthesizer(), tmp_path, gates=gates(), share=Share(0, 2), **OPTIONS).complete
    assert synthesize_shards(synthesizer(), tmp_path, gates=gates(), share=Share(1, 2), **OPTIONS).complete
    assert contents(tmp_path) == contents(whole)


class Never(NoiseSynthesizer):
    def draw(self, *_, **__):
        raise AssertionError("drawn")


def test_a_finished_folder_is_left_as_it_is(tmp_path):
    synthesize_shards(NoiseSynthesizer((1, 4, 4)), tmp_path, **OPTIONS)
    before = contents(tmp_path)
    assert synthesize_shards(Never((1, 4, 4)), tmp_path, **OPTIONS).complete
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 6}, "seed was 5, and is 6"),
        ({"n": 24}, "n was 23"),
        ({"run": "other"}, "run was"),
        ({"samples_per_shard": 5}, "samples_per_shard"),
        ({"image_format": "jpg"}, "image_format was 'png', and is 'jpg'"),
        ({"gates": [SharpnessGate(low=2e-6)]}, "gates was"),
        ({"about": {"x": 1}}, "about was"),
    ],
)
def test_other_settings_are_refused(whole, options, name):
    before = contents(whole)
    with pytest.raises(ValueError, match=f"holds samples of other settings: {name}"):
        synthesize_shards(synthesizer(), whole, **({"gates": gates()} | OPTIONS | options))
    assert contents(whole) == before


def test_settings_with_which_nothing_was_written_may_be_changed(tmp_path):
    strict = ClassifierGate(Bright(), threshold=0.999999)
    with pytest.raises(ValueError, match="no candidate"):
        synthesize_shards(synthesizer(), tmp_path, gates=strict, max_candidates=2, **OPTIONS)
    assert synthesize_shards(synthesizer(), tmp_path, **OPTIONS).complete


def test_damaged_settings_are_named(tmp_path):
    noise = NoiseSynthesizer((1, 4, 4), num_classes=2)
    synthesize_shards(noise, tmp_path, n=2, run="a")
    for content in (b"", b"[]"):
        (tmp_path / "synthesis.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"synthesis\.json is damaged"):
            synthesize_shards(noise, tmp_path, n=2, run="a")


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_labels_and_seed_may_be_numbers_of_any_library(tmp_path, kind):
    noise = NoiseSynthesizer((1, 4, 4), num_classes=2)
    synthesize_shards(noise, tmp_path / "a", n=4, run="a", labels=[1, 0, 1], seed=3)
    synthesize_shards(noise, tmp_path / "b", n=4, run="a", labels=kind([1, 0, 1]), seed=np.int64(3))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_gates_with_other_weights_are_other_settings(tmp_path):
    def gate(value):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        torch.nn.init.constant_(net[1].weight, value)
        torch.nn.init.zeros_(net[1].bias)
        return ClassifierGate(net, threshold=0)

    options = {"n": 2, "run": "a", "labels": [0]}
    synthesize_shards(synthesizer(), tmp_path, gates=gate(0.0), **options)
    with pytest.raises(ValueError, match="gates was"):
        synthesize_shards(synthesizer(), tmp_path, gates=gate(1.0), **options)
    synthesize_shards(synthesizer(), tmp_path, gates=gate(0.0), **options)


def test_foreign_shards_are_not_mixed_up_with(tmp_path):
    (tmp_path / "000000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must hold no other shards, but .* holds 000000.tar"):
        synthesize_shards(synthesizer(), tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"samples_per_shard": 0}, "samples_per_shard must be"),
        ({"workers": -1}, "workers must be"),
        ({"labels": [2]}, r"labels must be classes in 0\.\.1, got \[2\]"),
        ({"labels": []}, "labels must be"),
        ({"seed": -1}, "seed must be"),
        ({"image_format": "gif"}, "image_format must be"),
        ({"gates": ClassifierGate(Bright(), threshold=0.999999), "max_candidates": 2}, "no candidate"),
    ],
)
def test_wrong_arguments_are_named_and_leave_no_shard(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthesize_shards(synthesizer(), tmp_path, **(OPTIONS | options))
    assert not list(tmp_path.glob("**/*.tar")) and not list(tmp_path.glob(".*.partial"))


def test_the_hash_of_a_run_tells_runs_apart(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "weights"
    file.write_bytes(b"1")
    first, alone = run_sha256(tmp_path / "a"), run_sha256(file)
    file.write_bytes(b"2")
    assert len({first, alone, run_sha256(tmp_path / "a"), run_sha256(file)}) == 4
    (tmp_path / "a" / "SHA256SUMS").write_text("sums")
    assert run_sha256(tmp_path / "a") == run_sha256(tmp_path / "a" / "SHA256SUMS")


def test_the_settings_lie_beside_the_shards(whole):
    noted = json.loads((Path(whole) / "synthesis.json").read_text())
    assert (noted["n"], noted["seed"], noted["run"]) == (23, 5, "r" * 64)
    assert [gate["gate"] for gate in noted["gates"]] == ["SharpnessGate", "ClassifierGate"]
