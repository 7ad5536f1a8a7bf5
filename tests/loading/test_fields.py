"""Batches come back in their own structure, with every field in step."""

import pickle

import numpy as np
import pytest
import torch
from fakes import (
    CLASSES,
    STRUCTURES,
    Coded,
    Drawn,
    Frozen,
    Listed,
    Pair,
    Record,
    coded_batches,
    codes,
    image,
    mixed,
    synthetic_rows,
)
from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader, MixUp, mixing

WAYS = ["rebatch", "extend", "replace"]


def batches_of(make, sizes=(4, 4, 3), labels=torch.tensor):
    for images, classes in coded_batches(*sizes):
        yield make(images, labels(classes.tolist()))


def check_labels(images, labels):
    assert len(images) == len(labels)
    for (low, mark, third), label in zip(codes(images), labels, strict=True):
        assert int(label) == (low % CLASSES if mark == 255 else third)


@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_survive(structure, mixing):
    make, parts = STRUCTURES[structure]
    originals = list(batches_of(make))
    before = pickle.dumps(originals)
    delivered = list(mixed(Listed(originals, batch_size=4), 0.4, mixing=mixing))
    assert pickle.dumps(originals) == before
    for batch in delivered:
        assert type(batch) is type(originals[0])
        images, labels = parts(batch)
        assert images.dtype is torch.float32 and labels.dtype is torch.int64
        check_labels(images, labels)


@pytest.mark.parametrize("labels", [list, tuple, np.array, lambda y: torch.tensor(y, dtype=torch.int32)])
@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("sizes", [(2, 2, 1), (4, 4, 3)])
def test_labels_keep_their_type(labels, mixing, sizes):
    kind = type(labels([0]))
    for images, given in mixed(
        Listed(batches_of(lambda x, y: (x, y), sizes, labels), batch_size=2), 0.5, mixing=mixing
    ):
        assert type(given) is kind
        if kind is torch.Tensor:
            assert given.dtype is torch.int32
        check_labels(images, given)


def test_soft_labels_stay_soft():
    soft = lambda y: torch.nn.functional.one_hot(torch.tensor(y), CLASSES).double()  # noqa: E731
    for images, labels in mixed(list(batches_of(lambda x, y: (x, y), labels=soft)), 0.4, mixing="extend"):
        assert labels.dtype is torch.float64 and labels.shape == (len(images), CLASSES)
        check_labels(images, labels.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_makes_no_other_numbers_of_probabilities(dtype):
    smoothed = lambda y: (torch.nn.functional.one_hot(torch.tensor(y), CLASSES) * 0.9 + 0.02).to(dtype)  # noqa: E731
    for images, labels in mixed(list(batches_of(lambda x, y: (x, y), labels=smoothed)), 0.4, mixing="extend"):
        check_labels(images, labels.argmax(1))


def test_numbers_that_are_no_probabilities_are_filled_once_labels_are_denied():
    several = lambda y: torch.ones(len(y), CLASSES)  # noqa: E731
    options = {"fields": {"labels": None, "fill": {1: 7.0}}, "mixing": "extend"}
    for images, values in mixed(list(batches_of(lambda x, y: (x, y), labels=several)), 0.4, **options):
        assert (values[:, 0] == 7.0).tolist() == synthetic_rows(images)


@pytest.mark.parametrize("fraction", [0, 0.3, 0.75])
@pytest.mark.parametrize("labels", [torch.tensor, list, np.array])
def test_blending_makes_labels_soft_in_every_batch(fraction, labels):
    inner = Listed(batches_of(lambda x, y: (x, y), (1, 1, 0, 1), labels), batch_size=1)
    for images, blended in mixed(inner, fraction, transform=MixUp(alpha=0.5)):
        assert isinstance(blended, torch.Tensor) and blended.dtype is torch.float32
        assert blended.shape == (len(images), CLASSES)


TAGGED = {
    "tuple": (lambda x, y: (x, y), lambda b: b[2]),
    "list": (lambda x, y: [x, y], lambda b: b[2]),
    "dict": (lambda x, y: {"image": x, "label": y}, lambda b: b["synthetic"]),
    "NamedTuple": (Pair, lambda b: b.synthetic),
    "NamedTuple with a column": (lambda x, y: Pair(x, y, torch.zeros(len(x)).bool()), lambda b: b.synthetic),
    "dataclass": (Record, lambda b: b.synthetic),
    "frozen": (Frozen, lambda b: b.synthetic),
}


@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("structure", TAGGED)
def test_the_tag_says_which_rows_are_synthetic(structure, mixing):
    make, tag_of = TAGGED[structure]
    loader = mixed(Listed(batches_of(make, (4, 0, 4, 3)), batch_size=4), 0.4, mixing=mixing, tag="synthetic")
    for batch in loader:
        images = batch["image"] if isinstance(batch, dict) else getattr(batch, "image", None)
        images = batch[0] if images is None else images
        assert tag_of(batch).dtype is torch.bool and tag_of(batch).tolist() == synthetic_rows(images)
    assert loader.stats.synthetic > 0


@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize("size", [2, 4])
def test_other_fields_are_filled(mixing, size):
    def make(x, y):
        names = [f"item {row}" for row in x[:, 0, 0, 0].tolist()]
        return {"image": x, "label": y, "id": x[:, 0, 0, 0].long(), "name": names, "box": x[:, 0, 0, :2].numpy()}

    fill = {"id": -1, "name": "drawn", "box": 7}
    inner = Listed(batches_of(make, (size, size, 1)), batch_size=size)
    for batch in mixed(inner, 0.4, mixing=mixing, fields={"fill": fill, "boxes": None}):
        rows = synthetic_rows(batch["image"])
        assert len(batch["id"]) == len(batch["name"]) == len(batch["box"]) == len(rows)
        assert isinstance(batch["name"], list) and isinstance(batch["box"], np.ndarray)
        for (low, *_), drawn, identity, name, box in zip(
            codes(batch["image"]), rows, batch["id"].tolist(), batch["name"], batch["box"].tolist(), strict=True
        ):
            assert (identity, name, box) == ((-1, "drawn", [7, 7]) if drawn else (low, f"item {low}", [low, low]))


@pytest.mark.parametrize("constant", [None, "text", 3, torch.zeros(9)])
def test_constants_stay_as_they_are(constant):
    for batch in mixed(list(batches_of(lambda x, y: (x, y, constant))), 0.4, mixing="extend"):
        assert batch[2] is constant
    if constant is None:
        assert {batch[2] for batch in mixed(Listed(batches_of(lambda x, y: (x, y, None)), batch_size=4), 0.4)} == {None}


def test_a_batch_that_is_one_tensor_or_holds_only_images():
    images = [torch.stack([image(i) for i in range(4)])]
    plain = Drawn(num_classes=None)
    [batch] = mixed(images, 0.5, synthesizer=plain, mixing="extend")
    assert torch.is_tensor(batch) and len(batch) == 8
    [batch] = mixed([{"only": images[0]}], 0.5, synthesizer=plain, mixing="extend", tag="t")
    assert batch["t"].tolist() == synthetic_rows(batch["only"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
def test_images_of_any_channels_and_sizes(channels, size):
    data = [(torch.full((channels, *size), 1.0), 1) for _ in range(6)]
    loader = mixed(DataLoader(data, 3), 0.5, synthesizer=Drawn((channels, *size)))
    assert all(x.shape == (3, channels, *size) for x, _ in loader)
    shape = AugmentedLoader(DataLoader(data, 3), memory_format=torch.channels_last, tag="t")
    assert all(batch[0].is_contiguous(memory_format=torch.channels_last) for batch in shape)


DTYPES = [torch.uint8, torch.float32, torch.bfloat16, torch.float16, torch.float64, None]


@pytest.mark.parametrize("given", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fraction", [0, 0.5])
def test_images_are_delivered_in_the_dtype_asked_for(given, dtype, fraction):
    images = torch.stack([image(i) for i in range(8)])
    images = images if given is torch.uint8 else images.to(given) / 255
    for x, _ in mixed([(images, torch.zeros(8, dtype=torch.int64))], fraction, mixing="extend", dtype=dtype):
        assert x.dtype is (dtype or given)
        assert [code[0] for code in codes(x) if code[1] == 255] == list(range(8))


def test_strided_and_differentiable_images_pass_and_originals_stay():
    wide = torch.rand(8, 3, 4, 8)
    images = wide[..., ::2].requires_grad_()
    before = images.detach().clone()
    [(x, _)] = mixed([(images, torch.arange(8) % 5)], 0.5, mixing="extend", transform=lambda x: x * 2)
    assert torch.equal(images.detach(), before) and not x.requires_grad
    [(x, _)] = mixed([(images, torch.arange(8) % 5)], 0.5, mixing="extend")
    assert torch.equal(x[~mixing.synthetic_rows(16, 8)], images)


def test_match_draws_only_what_the_batch_holds():
    inner = DataLoader([(image(i), i // 8) for i in range(40)], 8)
    for images, labels in mixed(inner, 0.5, mixing="extend"):
        assert len(set(labels.tolist())) == 1, codes(images)


def test_balance_evens_out():
    data = [(image(i), 0 if i < 30 else 1 + i % 4) for i in range(42)]
    loader = mixed(DataLoader(data, 7, shuffle=True), 0.6, labels="balance")
    counts = torch.bincount(torch.cat([labels for _, labels in loader]), minlength=CLASSES)
    assert counts.max() - counts.min() <= 12 and counts.min() > 12


def test_weights_and_callables_choose():
    labels = [codes(x) for x, _ in mixed(DataLoader(Coded(40), 8), 0.5, labels=[0, 1, 0, 3, 0])]
    assert {third for batch in labels for _, mark, third in batch if mark != 255} == {1, 3}
    seen = []

    def choose(real, positions):
        seen.append((real.tolist(), positions.tolist()))
        return positions % 2

    drawn = [code for x, _ in mixed(DataLoader(Coded(8), 4), 0.5, labels=choose) for code in codes(x) if code[1] != 255]
    assert all(third == position % 2 for position, _, third in drawn)
    assert seen[0] == ([0, 1], [0, 1]) and seen[1] == ([2, 3], [2, 3])
