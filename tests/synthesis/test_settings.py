"""What is common to the settings of every training."""

import pytest
import torch

from torchaug_gen.synthesis.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 1.0}, "steps must be an integer, got 1.0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"grid_every": -1}, "grid_every must be at least 0"),
        ({"max_rollbacks": True}, "max_rollbacks must be an integer, got True"),
        ({"max_data_gib": 0}, "max_data_gib must be above 0"),
        ({"max_data_gib": float("nan")}, "max_data_gib must be above 0"),
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"image_size": (8, 4)}, r"image_size must be at least 8, got \(8, 4\)"),
        ({"image_size": (8, 9, 9)}, "image_size must be an integer or"),
        ({"image_size": 28.0}, "image_size must be an integer or"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**options)


def test_sizes_are_height_and_width():
    assert TrainingSettings().size is None
    assert TrainingSettings(image_size=9).size == (9, 9)
    assert TrainingSettings(image_size=(9, 8)).size == (9, 8)


def test_each_process_has_its_own_device(monkeypatch):
    assert TrainingSettings().local_device == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be one that PyTorch can use here, such as cpu, got 'abacus'"):
        _ = TrainingSettings(device="abacus").local_device
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert TrainingSettings(device="cuda").local_device == torch.device("cuda", 3)
    assert TrainingSettings(device="cuda:1").local_device == torch.device("cuda", 1)
