from collections import Counter
from itertools import chain

import pytest
import torch
from torch.utils.data import TensorDataset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer
from torchaug_gen.evaluation.full_batches import full_batches


def batches(count, *, seed=0, **options):
    options = {"batch_size": 4, "steps": 9} | options
    found = [batch[0].tolist() for batch in full_batches(TensorDataset(torch.arange(count)), seed=seed, **options)]
    assert len(found) == options["steps"]
    return found


@pytest.mark.parametrize("count", [4, 5, 7, 36, 50])
def test_batches_are_full_and_every_image_comes_once_before_any_comes_again(count):
    found = batches(count)
    assert all(len(batch) == 4 for batch in found)
    order = list(chain.from_iterable(found))
    for start in range(0, len(order), count):
        assert max(Counter(order[start : start + count]).values()) == 1


def test_of_fewer_images_than_a_batch_each_batch_holds_all():
    assert all(sorted(batch) == [0, 1, 2] for batch in batches(3))
    assert batches(1, steps=2) == [[0], [0]]


def test_the_seed_decides_the_order_and_nothing_else_does():
    first = batches(20)
    torch.manual_seed(1)
    assert batches(20) == first != batches(20, seed=1)
    # A longer training begins as a shorter one does, and passes differ.
    assert batches(20, steps=12)[:9] == first and first[:4] != first[5:]


def test_mixed_batches_are_as_large():
    data = TensorDataset(torch.rand(10, 1, 8, 8), torch.arange(10) % 2)
    loader = AugmentedLoader(
        full_batches(data, batch_size=8, steps=20, seed=0),
        synthesizer=NoiseSynthesizer((1, 8, 8), num_classes=2),
        synthetic_fraction=0.3,
        seed=0,
    )
    assert {len(images) for (images, _), _ in zip(loader, range(20), strict=False)} == {8}
