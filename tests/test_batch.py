from collections import UserDict

import numpy as np
import pytest
import torch
from fakes import STRUCTURES, Frozen, Pair, Record, same

from torchaug_gen import batch as batches
from torchaug_gen.batch import Fields, find_fields

N = 4
X, Y = torch.rand(N, 3, 8, 8), torch.arange(N)
MASKS = torch.zeros(N, 8, 8, dtype=torch.int64)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_fields_are_guessed_for_any_batch_size(structure, n):
    make, parts = STRUCTURES[structure]
    batch = make(X[:n], Y[:n])
    fields = find_fields(batch)
    assert batches.get(batch, fields.images) is parts(batch)[0]
    assert batches.get(batch, fields.labels) is parts(batch)[1]
    assert not fields.targets and not fields.fill


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("labels", [list, tuple, np.array, lambda y: torch.tensor(y, dtype=torch.int32)])
def test_labels_may_be_lists_arrays_and_narrow_integers(labels, n):
    # With two images a pair of fields is as long as the batch.
    assert find_fields((X[:n], labels(list(range(n))))).labels == (1,)


@pytest.mark.parametrize(
    ("batch", "images", "labels", "targets"),
    [
        (X, (), None, {}),
        ((X,), (0,), None, {}),
        ({"only": X}, ("only",), None, {}),
        ((X, torch.rand(N, 5)), (0,), (1,), {}),
        ((X, torch.rand(N)), (0,), None, {}),
        ((X, Y > 1), (0,), None, {}),
        ((X, torch.arange(N + 1)), (0,), None, {}),
        ((X, MASKS), (0,), None, {"masks": (1,)}),
        ((X, MASKS[:, None].byte()), None, None, None),
        ({"image": X, "mask": MASKS.float(), "label": Y}, ("image",), ("label",), {"masks": ("mask",)}),
        ({"image": X, "mask": torch.rand(N, 1, 8, 8)}, ("image",), None, {"masks": ("mask",)}),
        (
            {"x": X, "bbox": torch.rand(N, 4), "landmarks": 3},
            ("x",),
            None,
            {"boxes": ("bbox",), "keypoints": ("landmarks",)},
        ),
        ((list(X), [{"boxes": 0, "labels": 0}] * N), (0,), None, {"boxes": (1,)}),
        ({"image": X, "label": "cat"}, ("image",), None, {}),
        (([torch.rand(3, 4 + i, 8) for i in range(3)], [0, 1, 2]), (0,), (1,), {}),
        ({"meta": "abc", "y": Y, "image": X}, ("image",), ("y",), {}),
    ],
)
def test_guesses(batch, images, labels, targets):
    if images is None:
        with pytest.raises(ValueError, match="several fields that may be the images, 0 and 1"):
            find_fields(batch)
    else:
        found = find_fields(batch)
        assert (found.images, found.labels, found.targets, found.fill) == (images, labels, targets, {})
        assert isinstance(batches.get(batch, images), found.container)


def test_given_fields_are_taken_and_may_be_denied():
    batch = {"a": X, "b": X, "c": Y, "d": Y, "mask": MASKS}
    fields = find_fields(batch, {"images": "b", "labels": "d", "masks": None, "fill": {"c": 7}})
    assert fields == Fields(("b",), ("d",), {}, {("c",): 7})


def test_indices_may_count_from_the_end_and_into_named_tuples():
    assert find_fields((Y, X), {"images": -1, "labels": 0}) == Fields((1,), (0,), {}, {})
    assert find_fields(Pair(X, Y), {"images": 0, "labels": -2}) == Fields(("image",), ("label",), {}, {})
    assert find_fields([{"p": [X, Y]}], {"images": (0, "p", 0), "labels": (0, "p", -1)}).labels == (0, "p", 1)


@pytest.mark.parametrize(
    ("batch", "fields", "words"),
    [
        ((X, Y), {"image": 0}, "fields must name images, labels, masks, boxes, keypoints or fill, got 'image'"),
        ((X, Y), {"labels": 2}, r"fields names 2, but the batch has only 0: Tensor \(4, 3, 8, 8\) torch.float32; 1: "),
        ({"image": X}, {"labels": "y"}, "fields names 'y', but the batch has only 'image'"),
        (Record(X, Y), {"labels": "y"}, "fields names 'y'"),
        (Pair(X, Y), {"labels": 3}, "fields names 3"),
        ({"image": X}, {"fill": {"who": 0}}, "fields names 'who'"),
        ((X, Y), {"images": 1}, "images at 1 must be .* got Tensor"),
        ((X[0], 3), None, "the batch has no images.*add the channel|the batch has no images"),
        ((X[:, 0].byte(), Y), None, "if 0 holds grey images, add the channel dimension"),
        ((X[:, 0], Y), {"images": 0}, r"add the channel dimension with unsqueeze\(1\)"),
        ((X.long(), Y), {"images": 0}, "convert integer images to uint8"),
        ((X.numpy(), Y), None, r"it has 0: ndarray \(4, 3, 8, 8\) float32; 1: Tensor"),
        ("text", None, "it has the batch: str"),
        ({}, None, "it has an empty dict"),
        (None, None, "it has the batch: NoneType"),
        ({"image": X, "img": X}, None, "several fields that may be the images, 'image' and 'img': name one"),
        ((X, torch.rand(N)), {"labels": 1}, r"labels at 1 must be class indices .* got Tensor \(4,\) torch.float32"),
        ((X, Y[:, None]), {"labels": 1}, r"labels at 1 must be .* got Tensor \(4, 1\)"),
        ((X, torch.arange(3)), {"labels": 1}, r"for N=4 images, got Tensor \(3,\)"),
        ((X, ["a"] * N), {"labels": 1}, "labels at 1 must be .* got list"),
    ],
)
def test_what_cannot_be_found_is_named(batch, fields, words):
    with pytest.raises(ValueError, match=words):
        find_fields(batch, fields)


@pytest.mark.parametrize(
    ("value", "n", "is_one"),
    [
        (torch.rand(2, 3), 2, True),
        (torch.rand(2, 3), 3, False),
        (torch.tensor(3), 3, False),
        (np.zeros((2, 2)), 2, True),
        (["a", "b"], 2, True),
        ("ab", 2, False),
        ({"a": 1, "b": 2}, 2, False),
        (None, 2, False),
    ],
)
def test_columns_have_one_entry_for_each_item(value, n, is_one):
    assert batches.is_column(value, n) is is_one


@pytest.mark.parametrize(
    ("beside", "leaves"),
    [
        ((Y[:2], ["a", "b"]), [(1, 0), (1, 1)]),  # as long as the batch, but of fields
        ([("a", "b"), ("c", "d")], [(1, 0), (1, 1)]),
        ([torch.rand(1, 4), torch.rand(3, 4)], [(1,)]),  # one entry an item
        ([{"id": 1}, {"id": 2}], [(1,)]),
        (["a", None], [(1,)]),
    ],
)
def test_a_list_as_long_as_the_batch_is_told_from_a_list_of_fields(beside, leaves):
    paths = [path for path, _ in batches.columns((X[:2], beside), 2, (0,))]
    assert paths == [(0,), *leaves]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_replacing_leaves_the_original_and_the_types_alone(structure):
    make, parts = STRUCTURES[structure]
    batch = make(X, Y)
    fields = find_fields(batch)
    new = batches.replace(batch, {fields.images: X + 1, fields.labels: Y + 1})
    assert same(new, make(X + 1, Y + 1))
    assert parts(batch)[0] is X and parts(batch)[1] is Y
    assert same(batches.move(batch, torch.device("cpu")), batch)


class Graph:
    """A field of a type of its own, which knows how to move."""

    def __init__(self, nodes, parts=()):
        self.nodes, self.parts, self.whole = nodes, parts, self

    def to(self, device):
        return Graph(self.nodes.to(device), tuple(part.to(device) for part in self.parts))


def test_fields_that_know_how_to_move_are_moved_with_the_tensors():
    graph = Graph(torch.zeros(3), (Graph(torch.zeros(2)),))
    batch = {"x": X, "graph": graph, "all": [graph, "text"], "kind": Graph}
    assert len(list(batches.tensors(batch))) == 3
    moved = batches.move(batch, torch.device("meta"))
    assert {tensor.device.type for tensor in batches.tensors(moved)} == {"meta"} and moved["kind"] is Graph
    assert len(list(batches.tensors(moved))) == 5 and moved["all"][1] == "text"
    assert {tensor.device.type for tensor in batches.tensors(batch)} == {"cpu"}


def test_a_bare_tensor_is_replaced_whole():
    assert batches.replace(X, {(): Y}) is Y


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((X, Y), (X, Y, 1)),
        ([X], [X, 1]),
        ({"x": X}, {"x": X, "t": 1}),
        (UserDict(x=X), UserDict(x=X, t=1)),
    ],
)
def test_a_field_is_added(batch, expected):
    assert same(batches.add(batch, "t", 1), expected)


@pytest.mark.parametrize("record", [Pair, Record, Frozen])
def test_records_must_have_the_field_that_is_added(record):
    assert same(batches.add(record(X, Y), "synthetic", Y > 0), record(X, Y, Y > 0))
    with pytest.raises(ValueError, match=f"tag='t' needs a field of that name in {record.__name__}"):
        batches.add(record(X, Y), "t", 1)


@pytest.mark.parametrize(
    ("batch", "words"), [({"t": 1}, "is a field of the batch already"), (X, "got a bare Tensor"), ("a", "bare str")]
)
def test_fields_that_cannot_be_added_are_named(batch, words):
    with pytest.raises(ValueError, match=words):
        batches.add(batch, "t", 1)


COLUMNS = [torch.arange(8).reshape(4, 2), np.arange(4), ["a", "b", "c", "d"], ("a", "b", "c", "d")]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: type(column).__name__)
def test_columns_are_taken_apart_and_put_together(column):
    rows = torch.tensor([1, 3])
    others = torch.tensor([0, 2])
    parts = [batches.take(column, rows), batches.take(column, others)]
    assert len(parts[0]) == 2 and type(parts[0]) is type(column)
    back = batches.take(batches.concatenate(parts), torch.tensor([2, 0, 3, 1]))
    assert same(back, column)
    wide = batches.spread(parts[0], rows, 4, 0)
    assert same(batches.take(wide, rows), parts[0])
    assert all(bool(np.all(np.asarray(wide[row]) == 0)) for row in (0, 2))
    assert len(batches.take(column, torch.empty(0, dtype=torch.int64))) == 0


def test_rows_of_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"different shapes cannot be joined, got \(2,\) and \(3,\)"):
        batches.concatenate([torch.rand(1, 2), torch.rand(1, 3)])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.int64, torch.complex64]
)
def test_rows_are_taken_and_put_whatever_the_dtype(dtype):
    column = torch.arange(24).reshape(6, 2, 2).to(dtype)
    rows = torch.tensor([4, 0, 3])
    taken = batches.take(column, rows)
    assert taken.dtype == dtype and torch.equal(taken, column[rows])
    wide = torch.zeros(6, 2, 2, dtype=dtype)
    batches.put(wide, rows, taken)
    assert torch.equal(wide[rows], taken) and not wide[[1, 2, 5]].any()


def test_rows_of_what_is_trained_on_keep_their_gradients():
    column = torch.ones(3, 2, requires_grad=True)
    batches.take(column, torch.tensor([1])).sum().backward()
    assert torch.equal(column.grad, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))


def test_what_is_taken_is_a_copy():
    column = torch.zeros(3, 2)
    batches.take(column, torch.arange(3)).fill_(1)
    assert not column.any()
