"""The training loop: the order of data, resuming, stopping, and what a run folder holds."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import SmallRecipe, SmallSettings, history, squares

from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.interruption import TrainingInterrupted
from torchaug_gen.synthesis.training.loop import read_settings, train

SETTINGS = SmallSettings()


def run(out, settings=SETTINGS, *, resume=False, images=None, hooks=()):
    recipe = SmallRecipe(squares() if images is None else images, settings, hooks=hooks)
    train(recipe, recipe.images, settings, out=out, resume=resume, progress=False)
    return recipe


def weights(run):
    return (run / "weights.safetensors").read_bytes()


class Crash(Exception):
    """What a training knows nothing of."""


def crash(recipe):
    raise Crash


def interrupt(recipe):
    os.kill(os.getpid(), signal.SIGINT)


def terminate(recipe):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


def test_a_run_folder_holds_what_was_promised(unbroken):
    lines = history(unbroken)
    assert [line["step"] for line in lines] == list(range(12))
    assert set(lines[0]) == {"step", "loss", "seconds"}
    assert read_settings(unbroken)["learning_rate"] == SETTINGS.learning_rate
    assert [path.name for path in (unbroken / "checkpoints").iterdir()] == ["step-00000012.safetensors"]
    assert not (unbroken / "grids").exists()
    assert Synthesizer.load(unbroken).sample(3)[0].shape == (3, 1, 8, 8)
    with Image.open(unbroken / "samples.png") as grid:
        assert grid.size == (8 * 10 + 2, 2 * 10 + 2)


@pytest.mark.parametrize("step", [0, 3, 4, 6, 11])
def test_a_resumed_training_ends_in_the_same_weights(unbroken, tmp_path, step):
    with pytest.raises(TrainingInterrupted, match=rf"stopped after step {step + 1} of 12, .* resume=True"):
        run(tmp_path, hooks={step: interrupt})
    assert not (tmp_path / "config.json").exists()
    recipe = run(tmp_path, resume=True)
    assert [done for done, _ in recipe.seen] == list(range(step + 1, 12))
    assert weights(tmp_path) == weights(unbroken)
    same = [{name: value for name, value in line.items() if name != "seconds"} for line in history(unbroken)]
    assert [{n: v for n, v in line.items() if n != "seconds"} for line in history(tmp_path)] == same
    seconds = [line["seconds"] for line in history(tmp_path)]
    assert seconds == sorted(seconds)


def test_a_training_that_crashed_goes_on_from_its_last_checkpoint(unbroken, tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, hooks={7: crash})
    with pytest.raises(Crash):
        recipe = SmallRecipe(squares(), SETTINGS, hooks={10: crash})
        train(recipe, recipe.images, SETTINGS, out=tmp_path, resume=True, progress=False)
    assert [done for done, _ in recipe.seen] == [4, 5, 6, 7, 8, 9, 10]
    run(tmp_path, resume=True)
    assert weights(tmp_path) == weights(unbroken)
    assert [line["step"] for line in history(tmp_path)] == list(range(12))


def test_a_resumption_in_a_fresh_process_ends_in_the_same_weights(unbroken, tmp_path):
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, hooks={5: terminate})
    code = f"from test_loop import Path, run; run(Path({str(tmp_path)!r}), resume=True)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    assert weights(tmp_path) == weights(unbroken)


def test_the_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, hooks={2: terminate})
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    def twice(recipe):
        interrupt(recipe)
        interrupt(recipe)
        raise AssertionError("it went on")

    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, hooks={5: twice})
    assert not isinstance(caught.value, TrainingInterrupted)


def test_steps_may_grow(unbroken, tmp_path):
    run(tmp_path, SmallSettings(steps=8))
    recipe = run(tmp_path, resume=True)
    assert [done for done, _ in recipe.seen] == [8, 9, 10, 11]
    assert weights(tmp_path) == weights(unbroken)
    # Finished already: nothing is done but to write the run again.
    assert run(tmp_path, resume=True).seen == []
    assert weights(tmp_path) == weights(unbroken)


@pytest.mark.parametrize(
    ("settings", "images", "message"),
    [
        ({"learning_rate": 0.5}, None, "settings.learning_rate was 0.001 when the training began, and is 0.5 now"),
        ({"seed": 1}, None, "settings.seed was 0"),
        ({"batch_size": 2}, None, "settings.batch_size was 4"),
        ({"steps": 7}, None, "steps must be at least the 8 "),
        ({}, squares(12), "images.count was 24 when the training began, and is 12 now"),
        ({}, squares(24, 3), "images.num_classes was 2"),
        ({}, replace(squares(), images=squares().images // 2), "images.digest was"),
    ],
)
def test_other_settings_or_data_are_refused(tmp_path, settings, images, message):
    run(tmp_path, SmallSettings(steps=8))
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, SmallSettings(**settings), images=images, resume=True)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="to resume from: start without resume"):
        run(tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match="no training in"):
        read_settings(tmp_path)
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold an object, got list"):
        read_settings(tmp_path)


def test_a_training_without_resume_starts_anew(unbroken, tmp_path):
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, SmallSettings(seed=5, grid_every=1), hooks={5: interrupt})
    assert len(run(tmp_path).seen) == 12
    assert weights(tmp_path) == weights(unbroken)
    assert len(history(tmp_path)) == 12
    assert not (tmp_path / "grids").exists()


def test_an_interrupted_training_leaves_no_earlier_synthesizer(tmp_path):
    run(tmp_path)
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, SmallSettings(seed=5), hooks={5: interrupt})
    with pytest.raises(ValueError, match="has no synthesizer yet, its training stopped after step 6"):
        Synthesizer.load(tmp_path)
    (tmp_path / "history.jsonl").unlink()
    run(tmp_path, SmallSettings(seed=5), resume=True)
    assert [line["step"] for line in history(tmp_path)] == list(range(6, 12))


def test_grids_come_when_asked_and_change_nothing(unbroken, tmp_path):
    run(tmp_path, SmallSettings(grid_every=5))
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == ["step-00000005.png", "step-00000010.png"]
    assert weights(tmp_path) == weights(unbroken)


def test_checkpoints_change_nothing(unbroken, tmp_path):
    run(tmp_path, SmallSettings(checkpoint_every=1))
    assert weights(tmp_path) == weights(unbroken)


def test_the_global_generators_are_neither_read_nor_moved(unbroken, tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    run(tmp_path, SmallSettings(grid_every=4))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert weights(tmp_path) == weights(unbroken)


def test_tensorboard_is_asked_for_by_name(tmp_path):
    settings = SmallSettings(steps=2, tensorboard=True)
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
            run(tmp_path, settings)
    else:
        run(tmp_path, settings)
        assert list((tmp_path / "tensorboard").iterdir())


def test_one_image_without_a_label_is_enough(tmp_path):
    one = replace(squares(1), labels=None, num_classes=None)
    recipe = run(tmp_path, images=one)
    assert len(recipe.seen) == 12
    assert json.loads((tmp_path / "config.json").read_text())["num_classes"] is None
