"""The example of photographs in shards goes from files to a trained network, and on after a stop."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("photographs_shards")
    sys.modules.pop("photographs_shards", None)


@pytest.fixture
def squares(tmp_path):
    """Red and blue pictures of many sizes, which any network learns to tell apart."""
    draw = np.random.default_rng(0)
    for tree, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(("red", "blue")):
            folder = tmp_path / "squares" / tree / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 90, (70 + number % 3, 80 - number % 5, 3), dtype=np.uint8)
                pixels[..., 2 * label] += 150
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "squares"


def test_the_example_learns_and_goes_on_after_a_stop(example, squares, tmp_path, capsys):
    score = example.run(squares, tmp_path / "shards", steps=8, workers=0)
    told = capsys.readouterr().out
    assert "train: 80 photographs of 2 classes in 1 shards" in told and "stopped after step 4" in told
    assert score > 0.9
    assert sorted(path.name for path in (tmp_path / "shards" / "test").iterdir()) == ["000000.tar", "index.jsonl"]


def test_the_batches_after_the_stop_are_those_that_would_have_come(example, squares, tmp_path):
    example.write_shards(example.ImageFiles(squares / "train"), tmp_path / "shards", shuffle=True)
    whole = example.loader(tmp_path / "shards", workers=0, train=True)
    first, second = whole
    stopped = example.loader(tmp_path / "shards", workers=0, train=True)
    next(iter(stopped))
    again = example.loader(tmp_path / "shards", workers=0, train=True)
    again.load_state_dict(stopped.state_dict())
    ((images, labels),) = again
    assert images.equal(second[0]) and labels.equal(second[1]) and len(first[1]) == 64


@pytest.mark.slow
def test_real_photographs_are_learnt_from_end_to_end(example, photographs, tmp_path, capsys):
    score = example.run(photographs, tmp_path, steps=480, workers=0)
    told = capsys.readouterr().out
    largest = max(len(list(folder.iterdir())) for folder in (photographs / "test").iterdir())
    total = sum(len(list(folder.iterdir())) for folder in (photographs / "test").iterdir())
    assert f"test: {total} photographs" in told and "stopped after step 240" in told
    # Twice what guessing the most frequent class gives.
    assert score > 2 * largest / total
