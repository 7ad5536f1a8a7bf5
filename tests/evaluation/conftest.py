"""Photographs that several tests of evaluation measure, read once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchaug_gen.evaluation.images import image_chunks


@pytest.fixture(scope="session")
def pictures(photographs: Path) -> tuple[Tensor, Tensor]:
    """Return 400 photographs at 64 px, uint8, in a random order, and their labels."""
    images, labels = next(image_chunks(photographs / "train", size=400, n=400, image_size=(64, 64)))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]
