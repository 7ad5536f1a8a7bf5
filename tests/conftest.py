"""Fixtures that every test may use."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# The tests run in as many processes as there are cores: threads of each would only be in the others' way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def untouched_rng() -> Iterator[None]:
    """Fail where the test moved a global random generator of PyTorch, NumPy or Python."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "the global generator of torch moved"
    assert before[1] == np.random.get_state()[1].tolist(), "the global generator of numpy moved"
    assert before[2] == random.getstate(), "the global generator of python moved"


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Let SIGINT interrupt, also where a shell started the tests in the background, which then ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Return the folder of real photographs: TORCHAUG_GEN_PHOTOGRAPHS, or one beside the checkout; skip without."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "clothing"
    folder = Path(os.environ.get("TORCHAUG_GEN_PHOTOGRAPHS", beside))
    if not folder.is_dir():
        pytest.skip(f"needs photographs in TORCHAUG_GEN_PHOTOGRAPHS, or in {beside}")
    return folder
