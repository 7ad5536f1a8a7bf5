"""Each bad input raises, at construction or at the first batch, and says what was expected and what came."""

from enum import Enum

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from fakes import SIZE, Coded, Drawn, Listed, Returns, coded_batches, mixed, stock
from torch.utils.data import DataLoader, Subset

from torchaug_gen import AugmentedLoader, MixUp

X, Y = torch.rand(4, *SIZE), torch.arange(4)
HOT = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]] * 4)
MASKS = torch.zeros(4, 4, 4, dtype=torch.int64)


class Classes(Coded):
    classes = ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"synthetic_fraction": 1.4}, ValueError, r"synthetic_fraction must be in \[0, 1\), got 1.4"),
        ({"synthetic_fraction": -0.1}, ValueError, r"must be in \[0, 1\), got -0.1"),
        ({"synthetic_fraction": 1}, ValueError, r"must be in \[0, 1\), got 1"),
        ({"synthetic_fraction": np.False_}, TypeError, r"must be a number in \[0, 1\), got .*False"),
        ({"synthetic_fraction": torch.tensor(False)}, TypeError, r"must be a number in \[0, 1\), got .*False"),
        ({"synthetic_fraction": "0.3"}, TypeError, r"must be a number in \[0, 1\), got '0.3'"),
        ({"synthetic_fraction": 0.3, "synthesizer": None}, ValueError, "synthetic_fraction=0.3 needs a synthesizer"),
        ({"synthesizer": torch.nn.Linear(1, 1)}, TypeError, r"must have .sample\(...\), got Linear.*from_module"),
        ({"mixing": "replace", "labels": "balance"}, ValueError, 'so labels must be "match", got .balance'),
        ({"synthesizer": Drawn(num_classes=None), "labels": [1.0, 2.0]}, ValueError, "no classes to choose from"),
        ({"fields": {"fill": 3}}, ValueError, r"fields\['fill'\] must map fields to values, got 3"),
        ({"fields": {"images": None}}, ValueError, "got images=None"),
        ({"fields": {"pictures": 0}}, ValueError, "fields must name images, .* got 'pictures'"),
        ({"mixing": "append"}, ValueError, "mixing must be one of rebatch, extend, replace, got 'append'"),
        ({"labels": "all"}, ValueError, "labels must be .* got 'all'"),
        ({"labels": [1.0, 2.0]}, ValueError, "labels has 2 weights, but the synthesizer has 5 classes"),
        ({"fields": ["x"]}, TypeError, "fields must map roles to keys"),
        ({"tag": ""}, TypeError, "tag must be the name of a field, or None, got ''"),
        ({"tag": 3}, TypeError, "tag must be the name of a field"),
        ({"prefetch": -1}, ValueError, "prefetch must be at least 0, got -1"),
        ({"prefetch": 1.5}, TypeError, "prefetch must be an int, got 1.5"),
        ({"dtype": torch.int64}, TypeError, "dtype must be torch.uint8, a floating"),
        ({"memory_format": torch.preserve_format}, ValueError, "memory_format must be"),
        ({"seed": -1}, ValueError, "seed must be in 0..2\\*\\*64-1, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        ({"transform": 3}, TypeError, "transform must be callable or a list of callables, got int"),
        ({"transform": MixUp(alpha=1, num_classes=4)}, ValueError, r"MixUp\(num_classes=4\) and .* 5 classes"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=words):
        AugmentedLoader(stock(), **{"synthesizer": Drawn(), "synthetic_fraction": 0.3, **options})


@pytest.mark.parametrize(
    ("loader", "error", "words"),
    [
        (lambda: 3, TypeError, "loader must be iterable over batches, got int"),
        (lambda: DataLoader(Classes(), 4), ValueError, "real data set has 2 classes, but the synthesizer has 5"),
        (lambda: DataLoader(Subset(Classes(), [1]), 4), ValueError, "real data set has 2 classes"),
        (lambda: coded_batches(4), ValueError, 'needs the size of a batch.*use mixing="extend"'),
        (lambda: DataLoader(Coded(), batch_sampler=[[1, 2]]), ValueError, "needs the size of a batch"),
        (lambda: stock(num_workers=1, in_order=False), ValueError, "need in_order=True"),
    ],
)
def test_loaders(loader, error, words):
    with pytest.raises(error, match=words):
        mixed(loader())


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        (
            (X, Y),
            {"synthesizer": Drawn(num_classes=None)},
            "the batch has labels at 1, but the synthesizer has no classes",
        ),
        ((X, Y + 2), {}, r"real labels \(the synthesizer has 5 classes\) must be in 0\.\.4, got 2\.\.5"),
        ((X, torch.rand(4, 3)), {}, "real labels have 3 classes, but the synthesizer has 5"),
        (
            (X, HOT),
            {},
            r"labels at 1, .* must be class probabilities.* got one in 0\.\.1 that sums to 3: .*'fill': \{1: \.\.\.\}",
        ),
        ({"x": X, "y": HOT - 0.4}, {"mixing": "replace"}, r"labels at 'y'.* got one in -0\.4\.\.0\.6 that sums to 1"),
        ((X, HOT * float("nan")), {"labels": "balance"}, "sums to nan"),
        ((X[:, :1], Y), {}, "real images have 1 channels, but synthetic ones have 3"),
        ((X, Y), {"synthesizer": Returns(X[:, :1], Y)}, "real images have 3 channels, but synthetic ones have 1"),
        ((X, Y), {"synthesizer": Returns(X, Y + 99)}, r"labels from the synthesizer must be in 0\.\.4, got 99\.\."),
        ((X, Y), {"synthesizer": Returns(X, Y.double())}, r"must return \(2,\) labels, got \(2,\) torch.float64"),
        ((torch.rand(4, 9, 9, 3), Y), {}, r"channels last, bring them forward with permute\(0, 3, 1, 2\)"),
        ((X.numpy(), Y), {}, r"make a tensor of them with torch.from_numpy"),
        ((X, Y.double()), {}, r"not labels, which are class indices \(N,\) or probabilities"),
        (("a", Y), {}, "the batch has no images.* it has 0: str; 1: Tensor"),
        ({"who": [None] * 4, "y": Y}, {}, "it has 'who'.*'y': Tensor"),
        ((X * 0 + float("nan"), Y), {}, r"real images must be in \[0, 1\].* got nan..nan"),
        (
            (X * 4 - 2, Y),
            {},
            r"got -.*: if they are already normalised, move Normalize from the dataset into transform",
        ),
        ((X.double() * 2, Y), {}, "already normalised"),
        ((torch.rand(4, 3, 6, 6), Y), {}, r"one size, got \(3, 6, 6\) and \(3, 4, 4\): add a stage that resizes"),
        ((torch.rand(1, 3, 6, 6), Y[:1]), {"synthetic_fraction": 0.01}, "must have one size"),
        ((torch.rand(4, 3, 6, 6), Y), {"transform": K.RandomHorizontalFlip()}, "must have one size"),
        (([X[0], torch.rand(3, 5, 5), *X[2:]], Y), {}, "must have one size"),
        ((X, Y, MASKS), {"fields": {"masks": 2}}, "the batch has masks at 2, but the synthesizer returns none"),
        (
            {"x": X, "y": Y, "boxes": torch.rand(4, 4)},
            {},
            "the batch has boxes at 'boxes', but the synthesizer returns none",
        ),
        ({"x": X, "y": Y, "keypoints": [0] * 4}, {}, "the batch has keypoints at 'keypoints', but"),
        ((list(X), [{"boxes": 1}] * 4), {}, "the batch has boxes at 1"),
        ((X, Y, ["a"] * 4), {}, r"no value for field 2, list: give one with fields=\{'fill': \{2: ...\}\}"),
        (
            {"x": X, "y": Y, "id": Y},
            {"fields": {"fill": {"id": "none"}}},
            r"fields\['fill'\] must give a value for field 'id', Tensor \(4,\) torch.int64, got 'none'",
        ),
        ({"x": X, "y": Y, "vec": X[:, 0]}, {"fields": {"fill": {"vec": [1, 2, 3]}}}, r"field 'vec'.* got \[1, 2, 3\]"),
        ((X, {"label": Y, "id": Y}), {}, r"no value for field 1.'id', Tensor .*\{\(1, 'id'\): ...\}"),
        ((X, Y), {"synthesizer": Returns(X * float("nan"), Y)}, r"images in \[0, 1\], got NaN at position \d"),
        (
            (X, Y),
            {"synthesizer": Returns(torch.cat([X, X + 7]), torch.arange(8)), "synthetic_fraction": 0.6},
            "at position (4|10);",
        ),
        ((X, Y), {"synthesizer": Returns(X - 1, Y)}, r"got values from -.* at position \d"),
        ((X, Y), {"synthesizer": Returns(X, Y[:, None])}, r"must return \(2,\) labels, got \(2, 1\)"),
        ((X, Y), {"tag": "t", "fields": {"labels": 7}}, "fields names 7, but the batch has only 0"),
        ({"x": X, "y": Y}, {"tag": "y"}, "tag='y' is a field of the batch already"),
    ],
)
def test_batches(batch, options, words, prefetch):
    options = {"synthesizer": Drawn(), "synthetic_fraction": 0.3, "mixing": "extend", **options}
    running = iter(AugmentedLoader([batch] * 2, prefetch=prefetch, **options))
    # Somebody who goes on after the error meets it again.
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            next(running)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "field 'name' must have one entry for each of the 4 images .*, got NoneType"),
        ({"name": torch.eye(4).to_sparse()}, r"field 'name' must be a dense tensor .* got torch.sparse_coo"),
        (
            {"label": ...},
            "the batch has no field 'label', as those before it have, but 'image': Tensor .*; 'name'.0: str",
        ),
        ({"label": None}, r"labels at 'label' must be class indices .*, got NoneType"),
        ({"note": [1] * 4}, "synthetic rows have no value for field 'note', list"),
    ],
)
def test_a_later_batch_of_another_structure_is_named_and_left_behind(change, words, mixing, prefetch):
    usual = {"image": X, "label": Y, "name": ["a"] * 4, "note": None}
    other = {key: value for key, value in (usual | change).items() if value is not ...}
    inner = Listed([usual, other, usual], batch_size=4)
    running = iter(mixed(inner, 0.3, mixing=mixing, fields={"fill": {"name": "?"}}, prefetch=prefetch))
    next(running)
    with pytest.raises(ValueError, match=rf"{words}.* \(batch [12] of epoch 0\)"):
        next(running), next(running)
    assert sum(len(batch["image"]) for batch in running) >= 4


@pytest.mark.parametrize("mixing", ["extend", "replace"])
def test_a_constant_may_be_as_long_as_a_batch_by_chance(mixing):
    batches = [{"image": X[:n], "label": Y[:n], "names": ["a", "b", "c"]} for n in (4, 3)]
    assert [batch["names"] for batch in mixed(batches, 0.3, mixing=mixing)] == [["a", "b", "c"]] * 2


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_empty_loader_raises_only_when_on(prefetch):
    for inner in ([], DataLoader([], 4), stock(3, 4, drop_last=True)):
        running = iter(AugmentedLoader(inner, tag="t", prefetch=prefetch))
        with pytest.raises(ValueError, match="the loader delivered no batch: its dataset is empty, or drop_last"):
            next(running)
        assert list(AugmentedLoader(inner)) == []


class OwnFlip(torch.nn.Module):
    def forward(self, images):
        return images.flip(-1)


def test_targets_are_not_left_behind_by_a_transform():
    batch = {"x": X, "mask": MASKS}
    with pytest.raises(ValueError, match=r"OwnFlip may move pixels, but would leave masks where they are"):
        next(iter(AugmentedLoader([batch], OwnFlip())))
    denied = AugmentedLoader([batch], OwnFlip(), fields={"masks": None})
    assert torch.equal(next(iter(denied))["mask"], MASKS)


def test_what_cannot_be_split_names_extend():
    batches = [(X, Y, "text")] * 2
    with pytest.raises(ValueError, match=r'field 2 cannot be split .* use mixing="extend"'):
        next(iter(mixed(Listed(batches, batch_size=4))))
    with pytest.raises(ValueError, match="rows of different shapes cannot be joined"):
        list(mixed(Listed([(X, Y), (torch.rand(4, 3, 5, 5), Y)], batch_size=5), transform=lambda x: x[..., :2, :2]))


def test_normalised_images_do_not_become_uint8():
    with pytest.raises(
        ValueError, match=r"Normalize leaves values outside \[0, 1\], which dtype=torch.uint8 cannot hold"
    ):
        next(iter(AugmentedLoader([(X, Y)], K.Normalize(0.5, 0.1), dtype=torch.uint8)))


def test_a_foreign_synthesizer_that_returns_no_labels_draws_what_was_asked():
    [(images, labels)] = mixed([(X, torch.full((4,), 3))], 0.5, synthesizer=Returns(X), mixing="extend")
    assert len(images) == 8 and labels.tolist() == [3] * 8


class Split(Coded):
    def __init__(self, **said):
        super().__init__()
        vars(self).update(said)


class NamedSplit:
    """A split as Hugging Face's data sets have it: no str, but it prints like one."""

    def __str__(self):
        return "test"

    def __repr__(self):
        return "NamedSplit('test')"


class Part(str, Enum):  # noqa: UP042  (a StrEnum prints like its value)
    TEST = "test"


EVALUATES = "but the loader mixes in synthetic items; use the inner loader to evaluate, or pass allow_eval=True"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"train": False}, "Split has train=False"),
        ({"split": "test"}, "Split has split='test'"),
        ({"split": "VAL"}, "Split has split='VAL'"),
        ({"split": NamedSplit()}, r"Split has split=NamedSplit\('test'\)"),
        ({"split": Part.TEST}, "Split has split=<Part.TEST: 'test'>"),
        ({"split": "unlabeled", "train": False}, "Split has train=False"),
    ],
)
@pytest.mark.parametrize("subset", [False, True])
def test_evaluation_splits_get_no_synthetic_items(said, words, subset):
    data = Split(**said)
    inner = DataLoader(Subset(Subset(data, range(9)), range(5)) if subset else data, 4)
    with pytest.raises(ValueError, match=f"{words}, {EVALUATES}"):
        next(iter(mixed(inner)))
    next(iter(mixed(inner, allow_eval=True)))
    next(iter(mixed(inner, 0)))
    next(iter(AugmentedLoader(inner, lambda x: x)))


@pytest.mark.parametrize("said", [{"train": True}, {"split": "train"}, {"split": "train+unlabeled"}, {"split": 3}])
def test_nothing_else_is_guessed(said):
    next(iter(mixed(DataLoader(Split(**said), 4))))


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_no_synthetic_items(mode, prefetch):
    loader = mixed(stock(), 0.5, prefetch=prefetch, transform=K.RandomHorizontalFlip())
    with mode():
        with pytest.raises(ValueError, match=f"gradients are off, as in an evaluation, {EVALUATES}"):
            next(iter(loader))
        batches = list(mixed(stock(), 0.5, prefetch=prefetch, allow_eval=True, transform=K.RandomHorizontalFlip()))
        assert len(list(AugmentedLoader(stock(), K.RandomHorizontalFlip(), prefetch=prefetch))) == 6
    # The refused pass was none.
    assert all(torch.equal(a, c) for (a, _), (c, _) in zip(batches, loader, strict=True))
