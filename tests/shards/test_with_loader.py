"""AugmentedLoader over a ShardStream: mixes, resumes exactly, and loses nothing."""

import json
import warnings

import pytest
import torch
from fakes import Drawn
from shard_files import make_shards, shown
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader, MixedIterableDataset
from torchaug_gen.shards.stream import ShardStream

SIZES = [9, 2, 14, 7, 5]
TOTAL = sum(SIZES)
SIZE = (3, 20, 18)


def make(folder, *, workers=0, mixing="rebatch", batch_size=4, between=False, **options):
    stream = ShardStream(folder, **{"fields": ("png", "cls"), "shuffle": 10, "batch_size": batch_size, **options})
    if between:
        stream = MixedIterableDataset(stream, Drawn(SIZE, num_classes=1000), synthetic_fraction=0.2)
    loader = DataLoader(stream, batch_size, num_workers=workers)
    synthesizer = Drawn(SIZE, num_classes=1000)
    return AugmentedLoader(
        loader, synthesizer=synthesizer, synthetic_fraction=0.3, mixing=mixing, dtype=None, tag="synthetic", seed=3
    )


def real_labels(batches):
    """The labels of the real items, each checked against what its image shows."""
    found = []
    for images, labels, synthetic in batches:
        for image, label, drawn in zip(images, labels.tolist(), synthetic.tolist(), strict=True):
            if not drawn:
                assert shown(image) == label
                found.append(label)
    return found


@pytest.fixture(scope="module", params=["indexed", "plain", "damaged"])
def case(request, tmp_path_factory):
    """A folder, the options for it, and the labels that are to come."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = make_shards(folder, SIZES, index=request.param != "plain")
    expected = list(range(TOTAL))
    if request.param == "damaged":
        content = bytearray(paths[2].read_bytes())
        for label in (12, 13, 20):
            content[content.index(f"{label:06d}.png".encode()) + 512 + 700] ^= 1
            expected.remove(label)
        paths[2].write_bytes(content)
    return folder, expected


def followed(loader):
    batches, states = [], [loader.state_dict()]
    for batch in loader:
        batches.append(batch)
        states.append(json.loads(json.dumps(loader.state_dict())))
    return batches, states


def equal(first, second):
    return len(first) == len(second) and all(
        a.equal(b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
@pytest.mark.parametrize(("mixing", "workers"), [("rebatch", 0), ("rebatch", 2), ("extend", 0)])
def test_it_mixes_and_resumes_bit_for_bit(case, workers, mixing):
    folder, expected = case
    first = make(folder, workers=workers, mixing=mixing)
    batches, states = followed(first)
    assert sorted(real_labels(batches)) == expected
    assert any(bool(synthetic.any()) for _, _, synthetic in batches)
    assert first.dataset.stats["checksum"] == TOTAL - len(expected)
    second, _ = followed(first)
    assert sorted(real_labels(second)) == expected and not equal(batches, second)
    for done in (1, 7, len(batches) - 1):
        resumed = make(folder, workers=workers, mixing=mixing)
        resumed.load_state_dict(states[done])
        assert equal(list(resumed), batches[done:]), done
        assert equal(list(resumed), second)


@pytest.mark.filterwarnings("ignore:skipped:RuntimeWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_with_synthetic_items_between_its_own_it_resumes_too(case, workers):
    folder, expected = case
    first = make(folder, workers=workers, between=True)
    batches, states = followed(first)
    second = list(first)
    # Those of the data set are no synthetic ones to the loader; they show their position and epoch 0.
    real = [shown(image) for images, _, synthetic in batches for image in images[~synthetic] if image[2, 0, 0] == 77]
    assert sorted(real) == expected
    for done in (1, 7, len(batches) - 1):
        resumed = make(folder, workers=workers, between=True)
        resumed.load_state_dict(states[done])
        assert equal(list(resumed), batches[done:]) and equal(list(resumed), second), done


def test_its_length_is_known_with_an_index(tmp_path):
    make_shards(tmp_path, SIZES, index=True)
    for mixing in ("rebatch", "extend", "replace"):
        loader = make(tmp_path, workers=2, mixing=mixing)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(loader) == len(list(loader))
    with pytest.raises(TypeError):
        len(make(tmp_path, index=None))


def test_with_an_index_the_number_of_workers_changes_no_bit(tmp_path):
    make_shards(tmp_path, SIZES, index=True)
    one, other = (list(make(tmp_path, workers=workers)) for workers in (0, 2))
    assert equal(one, other)
    assert torch.cat([labels for _, labels, _ in one]).unique().numel() > TOTAL - 1
