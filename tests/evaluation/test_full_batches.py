from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchaug_gen import AugmentedLoader, NoiseSynthesizer
from torchaug_gen.evaluation.full_batches import full_batches
from torchaug_gen.evaluation.labelled import LabelledImages


def numbered(labels):
    """Return images whose first pixel is their number."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    return LabelledImages(images, torch.as_tensor(labels), tuple("abc"))


def batches(count, *, seed=0, labels=None, **options):
    options = {"batch_size": 4, "steps": 9} | options
    data = numbered([0] * count if labels is None else labels)
    found = [images[:, 0, 0, 0].tolist() for images, _ in full_batches(data, seed=seed, **options)]
    assert len(found) == options["steps"]
    return found


@pytest.mark.parametrize("count", [4, 5, 7, 36, 50])
def test_batches_are_full_and_every_image_comes_once_before_any_comes_again(count):
    found = batches(count)
    assert all(len(batch) == 4 for batch in found)
    order = list(chain.from_iterable(found))
    for start in range(0, len(order), count):
        assert max(Counter(order[start : start + count]).values()) == 1


@given(st.lists(st.integers(1, 30), min_size=2, max_size=3), st.integers(0, 2**32))
def test_every_stretch_of_a_pass_has_its_share_of_each_class(counts, seed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order = list(chain.from_iterable(batches(len(labels), labels=labels, batch_size=1, steps=len(labels), seed=seed)))
    assert sorted(order) == list(range(len(labels)))
    for start in range(len(order)):
        for length in range(1, len(order) - start + 1):
            found = Counter(labels[number] for number in order[start : start + length])
            for label, count in enumerate(counts):
                assert abs(found[label] - length * count / len(order)) < 2


def test_classes_alike_common_are_alike_in_every_batch():
    found = batches(30, labels=[0, 1, 2] * 10, batch_size=15, steps=8)
    assert all(Counter(number % 3 for number in batch) == {0: 5, 1: 5, 2: 5} for batch in found)


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
    data = numbered([0, 1] * 5)
    loader = AugmentedLoader(
        full_batches(data, batch_size=8, steps=20, seed=0),
        synthesizer=NoiseSynthesizer((1, 8, 8), num_classes=3),
        synthetic_fraction=0.3,
        seed=0,
    )
    assert {len(images) for (images, _), _ in zip(loader, range(20), strict=False)} == {8}
