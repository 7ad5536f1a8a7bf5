"""The examples of training frameworks run, see every digit once an epoch, and resume to the same numbers."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import same

FOLDER = Path(__file__).parents[2] / "examples" / "frameworks"
EPOCH = 15  # batches of 500 real and 215 synthetic digits
SYNTHETIC = -1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def example(monkeypatch):
    """Import an example, or skip where its framework is not installed."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name, package="torch"):
        pytest.importorskip(package)
        return importlib.import_module(name)

    return load


def once_an_epoch(seen, epochs):
    """Say whether every epoch has every digit once, and no batch but the last is short."""
    for epoch in range(epochs):
        rows = [index for batch in seen[epoch * EPOCH : (epoch + 1) * EPOCH] for index in batch]
        real = [index for index in rows if index != SYNTHETIC]
        if sorted(real) != list(range(500)) or len(rows) - len(real) != 215:
            return False
    return len(seen) == epochs * EPOCH


def test_a_plain_loop(example, tmp_path):
    plain_loop = example("plain_loop")
    seen, losses = plain_loop.train(tmp_path / "none")
    assert once_an_epoch(seen, 2)
    for stop in (4, 15, 19):
        first, _ = plain_loop.train(tmp_path / f"{stop}", stop_after=stop)
        rest, after = plain_loop.train(tmp_path / f"{stop}")
        assert [*first, *rest] == seen and after == losses[stop:]


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_dataloader(example, workers):
    stateful = example("with_stateful_dataloader", "torchdata.stateful_dataloader")
    whole = list(stateful.loader(workers))
    assert once_an_epoch([index.tolist() for _, _, index in whole], 1)
    for stop in (1, 4, 14):
        first, rest = stateful.resumed(stop, workers)
        assert same([*first, *rest], whole)


def test_accelerate_accumulates_and_resumes(example, tmp_path):
    accelerate = example("with_accelerate", "accelerate")
    whole = accelerate.train(str(tmp_path))
    assert once_an_epoch(whole["seen"], 1)
    assert whole["batches"] == EPOCH and whole["steps"] == 4  # the last one behind three batches
    first = accelerate.train(str(tmp_path), stop_after=8)
    rest = accelerate.train(str(tmp_path), resume=True)
    assert [*first["seen"], *rest["seen"]] == whole["seen"] and [*first["losses"], *rest["losses"]] == whole["losses"]
    assert first["steps"] + rest["steps"] == 4


def test_ignite_resumes(example, tmp_path):
    ignite = example("with_ignite", "ignite")
    seen, losses = ignite.train(tmp_path)
    assert once_an_epoch(seen, 2)
    for step in (4, 20):
        assert ignite.train(tmp_path / "other", resume=tmp_path / f"checkpoint_{step}.pt") == (
            seen[step:],
            losses[step:],
        )


def test_timm(example):
    timm = example("with_timm", "timm")
    seen, means = timm.train()
    assert once_an_epoch(seen, 2) and means[1] < means[0]
    assert timm.train() == (seen, means)


def test_lightning_resumes(example, tmp_path):
    lightning = example("with_lightning", "lightning")
    whole = lightning.train(tmp_path)
    assert once_an_epoch(whole.seen, 2)
    for step in (5, 15, 20):
        rest = lightning.train(tmp_path / "other", resume=tmp_path / f"step={step}.ckpt")
        assert rest.seen == whole.seen[step:] and rest.losses == whole.losses[step:]


def test_two_processes_of_lightning_share_the_digits_out(tmp_path):
    pytest.importorskip("lightning")
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(FOLDER / "with_lightning.py"),
        "--devices",
        "2",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    ranks = [json.loads((tmp_path / f"seen-{rank}.json").read_text())[0] for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == EPOCH
    rows = [index for rank in ranks for batch in rank for index in batch]
    real = [index for index in rows if index != SYNTHETIC]
    # Each rank rounds its own synthetic items up: 250 / 0.7 is 357.1.
    assert sorted(real) == list(range(500)) and len(rows) - len(real) == 2 * 108


def test_transformers_resumes(example, tmp_path):
    transformers = example("with_transformers", "transformers")
    seen, losses = transformers.train(str(tmp_path))
    assert once_an_epoch(seen, 2)
    for step in (5, 20):
        rest, after = transformers.train(str(tmp_path / f"{step}"), resume=tmp_path / f"checkpoint-{step}")
        assert rest == seen[step:]
        assert after[-len(rest) :] == losses[step:]
