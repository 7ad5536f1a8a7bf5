"""Checkpoints hold everything, and what is wrong with one is said."""

import json

import pytest
import torch
from safetensors.torch import save_file
from small_training import SmallRecipe, SmallSettings, squares

from torchaug_gen.synthesis.training.batches import take
from torchaug_gen.synthesis.training.checkpoints import Checkpoints, TrainingState, finite, newest

SETTINGS = SmallSettings()
CPU = torch.device("cpu")


def advance(recipe, steps):
    for step in steps:
        batch = take(recipe.images, seed=0, position=step * 4, size=4, device=CPU)
        recipe.step(batch, step, reduce=lambda _: None)


@pytest.fixture
def recipe():
    recipe = SmallRecipe(squares(), SETTINGS)
    advance(recipe, range(3))
    return recipe


@pytest.fixture
def checkpoints(tmp_path, recipe):
    return Checkpoints(tmp_path, recipe, {"settings": {"rate": 1.5, "size": (2, 3)}})


def test_everything_comes_back(tmp_path, recipe, checkpoints):
    state = TrainingState(
        step=3, position=12, learning_rate_scale=0.5, rollbacks=1, history_lines=4, watch={"averages": {"loss": 0.1}}
    )
    checkpoints.save(state)
    other = SmallRecipe(squares(), SmallSettings(seed=9))
    loaded = Checkpoints(tmp_path, other, {"settings": {"rate": 1.5, "size": (2, 3)}}).load(checkpoints.paths()[0])
    assert loaded == state
    assert newest(tmp_path) == (checkpoints.paths()[0], state)
    for mine, theirs in zip(recipe.networks.state_dict().values(), other.networks.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()
    for name, optimizer in recipe.optimizers.items():
        have, got = optimizer.state_dict(), other.optimizers[name].state_dict()
        assert have["param_groups"] == got["param_groups"]
        assert have["state"].keys() == got["state"].keys()
        for index, values in have["state"].items():
            for key, value in values.items():
                assert torch.equal(value, got["state"][index][key]), (name, index, key)
                assert value.stride() == got["state"][index][key].stride(), (name, index, key)


def test_only_the_newest_two_stay_and_nothing_half_written(checkpoints):
    for step in range(5):
        checkpoints.save(TrainingState(step=step))
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == [
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]


def test_a_writing_that_fails_leaves_the_earlier_file(checkpoints, monkeypatch):
    checkpoints.save(TrainingState(step=1))
    before = checkpoints.paths()[0].read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        checkpoints.save(TrainingState(step=1, position=5))
    assert [path.read_bytes() for path in checkpoints.folder.iterdir()] == [before]


def test_optimisers_that_have_not_stepped_come_back_empty(tmp_path):
    recipe = SmallRecipe(squares(), SETTINGS)
    checkpoints = Checkpoints(tmp_path, recipe, {})
    checkpoints.save(TrainingState())
    advance(recipe, range(2))
    checkpoints.load(checkpoints.paths()[0])
    assert not any(optimizer.state for optimizer in recipe.optimizers.values())


def test_tied_weights_and_numbers_in_an_optimiser_are_kept(tmp_path, recipe):
    recipe.networks["tied"] = recipe.net
    optimizer = recipe.optimizers["most"] = torch.optim.ASGD(recipe.trained, lr=0.1)
    advance(recipe, range(2))
    optimizer.state[recipe.trained[0]]["number"] = 7
    checkpoints = Checkpoints(tmp_path, recipe, {})
    checkpoints.save(TrainingState())
    before = optimizer.state_dict()
    advance(recipe, range(2))
    checkpoints.load(checkpoints.paths()[0])
    assert optimizer.state[recipe.trained[0]]["number"] == 7
    assert str(optimizer.state_dict()["param_groups"]) == str(before["param_groups"])


def test_the_field_that_differs_is_named(tmp_path, recipe, checkpoints):
    checkpoints.save(TrainingState())
    path = checkpoints.paths()[0]
    for settings, message in (
        ({"rate": 2.0, "size": (2, 3)}, "settings.rate was 1.5 when the training began, and is 2.0 now"),
        ({"rate": 1.5, "size": (2, 4)}, r"settings.size was \[2, 3\]"),
        ({"rate": 1.5, "size": (2, 3), "new": 0}, "settings.new was None"),
    ):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, recipe, {"settings": settings}).load(path)


def test_another_network_is_refused_before_anything_changes(tmp_path, recipe, checkpoints):
    checkpoints.save(TrainingState())
    other = SmallRecipe(squares(classes=3), SETTINGS)
    before = {name: tensor.clone() for name, tensor in other.networks.state_dict().items()}
    fingerprint = {"settings": {"rate": 1.5, "size": (2, 3)}}
    with pytest.raises(ValueError, match=r"the recipe has averaged.embedding.weight of shape \(3, 4\), the file"):
        Checkpoints(tmp_path, other, fingerprint).load(checkpoints.paths()[0])
    del recipe.optimizers["first"]
    with pytest.raises(ValueError, match=r"the recipe has optimisers \['most'\], the file \['first', 'most'\]"):
        checkpoints.load(checkpoints.paths()[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.networks.state_dict().items())


def test_a_damaged_file_is_named(tmp_path, checkpoints):
    checkpoints.save(TrainingState(step=2))
    path = checkpoints.paths()[0]
    content = path.read_bytes()
    for damaged in (b"", content[:5], content[:-100], b"\xff" * 64, b"\x80\x04." * 30):
        path.write_bytes(damaged)
        for load in (lambda: checkpoints.load(path), lambda: newest(tmp_path)):
            with pytest.raises(ValueError, match=r"step-00000002.safetensors is no checkpoint, or was cut short"):
                load()
    for header in ({}, {"torchaug_gen.checkpoint": "no JSON"}, {"torchaug_gen.checkpoint": json.dumps([1])}):
        save_file({"x": torch.zeros(1)}, path, header)
        for load in (lambda: checkpoints.load(path), lambda: newest(tmp_path)):
            with pytest.raises(ValueError, match="is no checkpoint of this package"):
                load()
    for found in ({}, {"version": 2}, {"version": 1, "settings": {"rate": 1.5, "size": [2, 3]}}):
        save_file({"x": torch.zeros(1)}, path, {"torchaug_gen.checkpoint": json.dumps(found)})
        with pytest.raises(ValueError, match=r"cannot go on from .*step-00000002"):
            checkpoints.load(path)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    assert newest(tmp_path) is None


def test_weights_that_are_not_finite_are_seen(recipe):
    assert finite(recipe)
    recipe.averaged.prior_mean.view(-1)[0] = float("inf")
    assert not finite(recipe)
