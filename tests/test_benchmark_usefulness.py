"""The plan of the usefulness benchmark, and what becomes of cells that were run elsewhere."""

import json
from collections import Counter

import pytest
import torch

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("jsonschema")

from benchmarks import common, tables, usefulness
from benchmarks.usefulness import PLAN, Block, report, stages, take_over
from torchaug_gen.evaluation.experiment.arms import ARMS
from torchaug_gen.evaluation.experiment.data import from_images
from torchaug_gen.evaluation.experiment.run import collect
from torchaug_gen.evaluation.experiment.settings import Group
from torchaug_gen.evaluation.experiment.store import Store
from torchaug_gen.synthesis.training.data import TrainingImages

SMALL = (Block("clothing", 4, ("augmented", "vae"), range(3)), Block("clothing", 2, ("augmented", "vae"), range(4, 6)))


@pytest.fixture
def data():
    images = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return {"clothing": from_images(TrainingImages(images, torch.arange(30) % 2, 2, ("a", "b")), name="noise")}


def fill(data, out, *, without=()):
    """Put planted cells of the small plan into a folder."""
    images = data["clothing"]
    for block in SMALL:
        for seed in block.seeds:
            for arm in block.arms:
                accuracy = 0.5 + 0.01 * seed + (0.1 if arm == "vae" else 0.0)
                if (arm, seed) not in without:
                    key = block.settings.key(Group(block.per_class, seed), arm, images.digest, images.side)
                    Store(out / "clothing" / "cells").put(key, {"accuracy": accuracy, "macro_f1": accuracy})


def test_no_cell_is_planned_twice_in_a_stage_and_every_baseline_is_planned():
    for blocks in stages(["clothing", "fashion"]).values():
        planned = Counter(
            (arm, block.per_class, seed) for block in blocks for arm in block.arms for seed in block.seeds
        )
        assert max(planned.values()) == 1
        assert all((ARMS[arm].baseline or arm, *rest) in planned for arm, *rest in planned)
    assert all(block.settings.arms == block.arms and len(block.seeds) >= 5 for block in PLAN)


def test_cells_of_a_result_file_are_taken_over_by_whole_seeds_and_with_their_machine(data, tmp_path, monkeypatch):
    monkeypatch.setattr(usefulness, "PLAN", SMALL)
    fill(data, tmp_path / "there", without={("vae", 1)})
    path = report(data, tmp_path / "there", tmp_path / "usefulness-there.json")
    document = common.load(path)
    assert take_over(document, data, tmp_path / "here") == 8
    found = collect(data["clothing"], SMALL[0].settings, out=tmp_path / "here" / "clothing")
    assert {(cell["arm"], cell["seed"]) for cell in found.cells} == {(arm, s) for arm in SMALL[0].arms for s in (0, 2)}
    there = f"{document['machine']['processor']}, torch {document['machine']['versions']['torch']}"
    assert {cell["machine"] for cell in found.cells} == {there}
    # Cells of other images are not those of the plan, nor are those of an experiment that was done in another way.
    document["results"]["clothing"]["data"] = "others"
    assert take_over(document, data, tmp_path / "nowhere") == 0
    document["settings"]["version"] -= 1
    with pytest.raises(ValueError, match="cells must be of version"):
        take_over(document, data, tmp_path / "nowhere")


def test_a_stage_is_one_family_of_all_that_is_planned(data, tmp_path, monkeypatch):
    monkeypatch.setattr(usefulness, "PLAN", (*SMALL, Block("clothing", 8, ("augmented", "vae", "gan"), range(5))))
    fill(data, tmp_path)
    stage = common.load(report(data, tmp_path, tmp_path / "usefulness-x.json"))["results"]["clothing"]
    # vae at three sizes, and gan at one.
    assert stage["family"]["comparisons"] == 4 and stage["missing_cells"] == 15
    assert {each["per_class"]: each["pairs"] for each in stage["comparisons"]} == {4: 3, 2: 2}


def test_the_table_means_the_seeds_that_all_arms_have(data, tmp_path, monkeypatch):
    monkeypatch.setattr(usefulness, "PLAN", SMALL)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    fill(data, tmp_path, without={("vae", 2)})
    report(data, tmp_path, tmp_path / "usefulness-cpu.json")
    written = tables.usefulness("clothing")().splitlines()
    assert "2 per class, 2 seeds | 4 per class, 2 seeds" in written[0]
    # Seeds 4 and 5, and 0 and 1: without the third, on which there is nothing to compare.
    assert written[2] == "| real + augmentation | 54.5 | 50.5 |"
    assert written[3] == "| + VAE | 64.5 (+10.0) | 60.5 (+10.0) |"
    assert json.loads((tmp_path / "usefulness-cpu.json").read_text())["settings"]["plan"][0]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("arm", ["real", "vae"])
def test_what_is_left_out_is_not_said_to_hurt(arm):
    gain = {"arm": arm, "difference": -0.07, "outcome": "hurt", "pairs": 2}
    said = tables._share({0: 0.3, 1: 0.4}, gain, {0, 1})
    assert said == ("35.0 (**−7.0**)" if arm == "real" else "35.0 (**−7.0, hurt**)")
    assert tables._share({0: 0.3, 1: 0.4}, gain | {"pairs": 3}, {0, 1}).endswith(", 3 seeds)")
