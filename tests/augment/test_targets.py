import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from torchaug_gen.augment.operation import Padding
from torchaug_gen.augment.tables import Tables
from torchaug_gen.augment.targets import (
    Warp,
    composed,
    masks,
    warp_boxes,
    warp_detection,
    warp_keypoints,
    warp_masks,
)
from torchaug_gen.augment.targets.moving import Target, TargetOptions, move, settle

SEEDS = st.integers(0, 2**32 - 1)
PADDINGS = list(Padding)
HEIGHT, WIDTH = 37, 52


def shift(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def flip(width=WIDTH):
    return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])


def resize(size, height=HEIGHT, width=WIDTH):
    return shift(-0.5, -0.5) @ np.diag([width / size[1], height / size[0], 1]) @ shift(0.5, 0.5)


def affine(angle, translate, scale, shear):
    """Return torchvision's affine as a matrix from output to source pixels."""
    rotation, sx, sy = (math.radians(value) for value in (angle, *shear))
    a, b = math.cos(rotation - sy) / math.cos(sy), -math.cos(rotation - sy) * math.tan(sx) / math.cos(sy)
    c, d = math.sin(rotation - sy) / math.cos(sy), -math.sin(rotation - sy) * math.tan(sx) / math.cos(sy)
    b, d = b - math.sin(rotation), d + math.cos(rotation)
    x, y = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    linear = np.array([[scale * a, scale * b, 0], [scale * c, scale * d, 0], [0, 0, 1]])
    return np.linalg.inv(shift(x + translate[0], y + translate[1]) @ linear @ shift(-x, -y))


def perspective(start, end):
    """Return the homography that takes corners ``end`` to ``start``, both in edge coordinates."""
    rows, values = [], []
    for (X, Y), (x, y) in zip(end, start, strict=True):
        rows += [[X, Y, 1, 0, 0, 0, -x * X, -x * Y], [0, 0, 0, X, Y, 1, -y * X, -y * Y]]
        values += [x, y]
    edges = np.append(np.linalg.solve(np.array(rows, float), np.array(values, float)), 1).reshape(3, 3)
    return shift(-0.5, -0.5) @ edges @ shift(0.5, 0.5)


START = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
END = [[5, 3], [47, 1], [50, 33], [2, 36]]

# Names of operations of torchvision, their arguments, the output's size, and the same as matrices.
SAME = (HEIGHT, WIDTH)
OPERATIONS = {
    "horizontal_flip": ({}, SAME, flip()),
    "vertical_flip": ({}, SAME, np.array([[1.0, 0, 0], [0, -1, HEIGHT - 1], [0, 0, 1]])),
    "crop": ({"top": 4, "left": 7, "height": 20, "width": 31}, (20, 31), shift(7, 4)),
    "resize": ({"size": [61, 40]}, (61, 40), resize((61, 40))),
    "affine": (
        {"angle": 17.0, "translate": [3, -2], "scale": 0.8, "shear": [5.0, -4.0]},
        SAME,
        affine(17.0, (3, -2), 0.8, (5.0, -4.0)),
    ),
    "perspective": ({"startpoints": START, "endpoints": END}, SAME, perspective(START, END)),
}


def random_tables(generator, n, passes):
    """Return tables of random passes of all kinds, and the sources' sizes."""
    tables = Tables.empty(n, passes, 1, 1, 1)
    sources = generator.integers(1, 9, (n, 2))
    tables.passes[:] = generator.integers(1, passes + 1, n)
    tables.matrix[:] = np.eye(3) + generator.normal(0, 0.2, (n, passes, 3, 3)) * [[1, 1, 9], [1, 1, 9], [0.01, 0.01, 0]]
    tables.size[:] = generator.integers(1, 9, (n, passes, 2))
    tables.size[np.arange(n), tables.passes - 1] = (6, 7)
    tables.padding[:] = generator.integers(0, 4, (n, passes))
    tables.canvas_padding[:] = generator.integers(0, 4, (n, passes))
    for k in range(n):
        for p in range(passes):
            height, width = sources[k] if p == 0 else tables.size[k, p - 1]
            left, top = generator.integers(-2, [width, height])
            right, bottom = generator.integers([max(left, 0) + 1, max(top, 0) + 1], [width + 3, height + 3])
            whole = generator.random() < 0.5
            tables.canvas[k, p] = (0, 0, width, height) if whole else (left, top, right, bottom)
    return tables, sources


def folded(x, low, high, rule):
    """Return where a coordinate shows within low..high - 1, by the words of tables.py, or None for the fill value."""
    if rule == Padding.FILL:
        return x if low <= math.floor(x + 0.5) < high else None
    if rule == Padding.REFLECT and high - low > 1:
        while not low <= x <= high - 1:
            x = 2 * low - x if x < low else 2 * (high - 1) - x
    if rule == Padding.SYMMETRIC:
        while not low - 0.5 <= x <= high - 0.5:
            x = 2 * low - 1 - x if x < low else 2 * high - 1 - x
    return min(max(x, low), high - 1)


def shown(tables, n, source, X, Y):
    """Return the source pixel (row, column) that shows at an output pixel, or None for the fill value."""
    x, y = float(X), float(Y)
    for p in reversed(range(tables.passes[n])):
        x, y, w = tables.matrix[n, p] @ (x, y, 1)
        left, top, right, bottom = tables.canvas[n, p].tolist()
        x, y = folded(x / w, left, right, tables.padding[n, p]), folded(y / w, top, bottom, tables.padding[n, p])
        if x is None or y is None:
            return None
        height, width = source if p == 0 else tables.size[n, p - 1]
        if p == 0:
            # Whole pixels, whose mirror images are whole pixels.
            x, y = math.floor(x + 0.5), math.floor(y + 0.5)
        x, y = folded(x, 0, width, tables.canvas_padding[n, p]), folded(y, 0, height, tables.canvas_padding[n, p])
        if x is None or y is None:
            return None
    return int(y), int(x)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3))
def test_masks_show_the_pixels_that_the_tables_name(seed, passes):
    tables, sources = random_tables(np.random.default_rng(seed), 6, passes)
    warp = Warp.of(tables)
    given = [torch.arange(h * w).reshape(h, w).to(torch.int16) for h, w in sources]
    moved = warp_masks(given, warp, fill=-7)
    taps = masks._taps(warp, sources, torch.device("cpu")).reshape(6, 6, 7)
    for n, source in enumerate(sources):
        places = [[shown(tables, n, source, X, Y) for X in range(7)] for Y in range(6)]
        expected = torch.tensor([[-7 if p is None else p[0] * source[1] + p[1] for p in row] for row in places])
        assert torch.equal(moved[n].long(), expected)
        assert torch.equal(torch.where(taps[n] < 0, -7, taps[n]), expected), "the PyTorch path"


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [(torch.uint8, 255), (torch.bool, True), (torch.int64, -100), (torch.float32, -0.5), (torch.bfloat16, 2.0)],
)
@pytest.mark.parametrize("shape", [(3, HEIGHT, WIDTH), (3, 1, HEIGHT, WIDTH), (3, 2, HEIGHT, WIDTH)])
@pytest.mark.parametrize("kind", ["affine", "perspective"])
def test_masks_keep_shape_and_dtype(dtype, fill, shape, kind):
    _, size, matrix = OPERATIONS[kind]
    warp = Warp.from_matrix(np.stack([matrix, shift(3, 5), shift(99, 99)]), size, source=SAME)
    given = (torch.rand(shape) * 20).to(dtype)
    moved = warp_masks(given, warp, fill=fill)
    assert moved.dtype is dtype and moved.shape == shape
    assert (moved[2] == fill).all(), "all of it is outside"
    assert torch.equal(moved[1, ..., : HEIGHT - 5, : WIDTH - 3], given[1, ..., 5:, 3:])
    assert all(map(torch.equal, moved, warp_masks(list(given), warp, fill=fill)))
    strided = given.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(moved, warp_masks(strided, warp, fill=fill))
    assert torch.equal(moved, masks.read_taps(given.reshape(3, -1, HEIGHT * WIDTH), taps(warp), fill).reshape(shape))


def taps(warp):
    return masks._taps(warp, np.tile(SAME, (len(warp), 1)), torch.device("cpu"))


def test_slices_in_any_order_are_one_batch():
    warp = Warp.from_matrix(np.stack([OPERATIONS["affine"][2]] * 5), SAME, source=SAME)
    given = torch.randint(0, 9, (5, HEIGHT, WIDTH))
    calls = []

    def spread(n, work):
        calls.append(n)
        for row in reversed(range(n)):
            work(row, row + 1)

    assert torch.equal(warp_masks(given, warp), warp_masks(given, warp, spread=spread)) and calls == [5]


@pytest.mark.parametrize("name", OPERATIONS)
def test_masks_are_those_of_torchvision(name):
    arguments, size, matrix = OPERATIONS[name]
    mask = tv_tensors.Mask(torch.randint(1, 200, (2, HEIGHT, WIDTH), dtype=torch.uint8))
    if name == "resize":
        # Masks are resized by torch's older rule, whose pixels are half a pixel off.
        expected = F.resize_image(torch.Tensor(mask), interpolation=F.InterpolationMode.NEAREST_EXACT, **arguments)
    else:
        expected = getattr(F, name)(mask, **arguments)
    (moved,) = warp_masks([mask], Warp.from_matrix(matrix[None], size, source=SAME))
    assert type(moved) is tv_tensors.Mask and moved.shape == expected.shape
    # Pixels on the border between two may go either way: torchvision computes in float32.
    assert (moved != expected).float().mean() <= (0.002 if name in ("affine", "perspective", "resize") else 0)


FORMATS = {"xyxy": "XYXY", "xywh": "XYWH", "cxcywh": "CXCYWH"}


def some_boxes(generator, n):
    corners = generator.uniform(0, [WIDTH, HEIGHT], (n, 2, 2))
    return torch.from_numpy(np.concatenate((corners.min(1), corners.max(1)), 1)).float()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_boxes_are_those_of_torchvision(name, format):
    arguments, size, matrix = OPERATIONS[name]
    corners = tv_tensors.BoundingBoxes(some_boxes(np.random.default_rng(0), 40), format="XYXY", canvas_size=SAME)
    boxes = F.convert_bounding_box_format(corners, new_format=FORMATS[format])
    expected = F.clamp_bounding_boxes(getattr(F, name)(boxes, **arguments))
    warp = Warp.from_matrix(matrix[None], size, source=SAME)
    (moved,), (keep,), fields, _ = warp_boxes([boxes], warp, fields={"labels": [torch.arange(40)]})
    assert type(moved) is tv_tensors.BoundingBoxes and moved.canvas_size == size and moved.format == boxes.format
    torch.testing.assert_close(torch.Tensor(moved), torch.Tensor(expected)[keep], atol=1e-3, rtol=0)
    left, top, right, bottom = torch.Tensor(F.convert_bounding_box_format(expected, new_format="XYXY")).unbind(1)
    sides = torch.minimum(right - left, bottom - top)
    assert keep[sides > 1e-3].all() and not keep[sides < -1e-3].any()
    assert torch.equal(fields["labels"][0], keep.nonzero()[:, 0])
    fixed, fixed_keep, _, _ = warp_boxes(torch.Tensor(boxes)[None], warp, format=format)
    assert torch.equal(fixed_keep[0], keep) and torch.equal(fixed[0][keep], torch.Tensor(moved))
    assert not fixed[0][~keep].any()


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_box_holds_what_its_mask_shows(seed):
    # Whatever the passes hide of an object, its mask and its box must agree about what is left.
    generator = np.random.default_rng(seed)
    tables = Tables.empty(1, 2, 1, 1, 1)
    tables.padding[:] = Padding.FILL
    tables.canvas_padding[:] = Padding.FILL
    tables.passes[:] = generator.integers(1, 3)
    tables.size[:] = (60, 70)
    for p in range(2):
        scale, turn = generator.uniform(0.5, 1.5), generator.choice([0, generator.uniform(-1, 1)])
        linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        tables.matrix[0, p] = np.eye(3)
        tables.matrix[0, p, :2, :2] = linear
        tables.matrix[0, p, :2, 2] = generator.uniform(-25, 25, 2)
        tables.matrix[0, p, 2, :2] = generator.choice([0, 1]) * generator.uniform(-0.002, 0.002, 2)
        left, top = generator.integers(0, 30, 2)
        tables.canvas[0, p] = (left, top, left + generator.integers(10, 40), top + generator.integers(10, 30))
    corners = generator.integers(0, [70, 60], (2, 2))
    left, top, right, bottom = *corners.min(0), *(corners.max(0) + 1)
    mask = torch.zeros(1, 60, 70, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    warp = Warp.of(tables)
    moved = warp_masks(mask, warp)[0]
    boxes, keep, _, visible = warp_boxes(torch.tensor([[[left, top, right, bottom]]]).double(), warp)
    rows, columns = moved.any(1).nonzero()[:, 0], moved.any(0).nonzero()[:, 0]
    if len(rows):
        assert keep.item() and 0 < visible.item() <= 1
        x0, y0, x1, y1 = boxes[0, 0].tolist()
        # Nearest pixels reach half a source pixel beyond the edges.
        assert (
            x0 - 1.5 <= columns[0] and columns[-1] + 1 <= x1 + 1.5 and y0 - 1.5 <= rows[0] and rows[-1] + 1 <= y1 + 1.5
        )
    elif keep.item():
        # What leaves no pixel is thinner than one, or lies in a corner that the upright box takes in.
        x0, y0, x1, y1 = boxes[0, 0].tolist()
        turned = (tables.matrix[0, :, 0, 1] != 0).any() or tables.matrix[0, :, 2, :2].any()
        assert turned or min(x1 - x0, y1 - y0) <= 1.5


def test_a_frame_between_two_passes_cuts_boxes_off():
    # The first pass shows columns 10..19 only; the second puts them into the middle of a wider output.
    tables = Tables.empty(1, 2, 1, 1, 1)
    tables.passes[:] = 2
    tables.matrix[0] = shift(10, 0), shift(-10, 0)
    tables.size[0] = (8, 10), (8, 30)
    tables.canvas[0] = (0, 0, 40, 8), (0, 0, 10, 8)
    tables.padding[:] = Padding.FILL
    given = [torch.tensor([[5.0, 1, 12, 5], [0, 0, 9, 8], [11, 2, 14, 4]])]
    boxes, keep, fields, visible = warp_boxes(given, Warp.of(tables), fields={"names": [["cut", "gone", "whole"]]})
    assert boxes[0].tolist() == [[10, 1, 12, 5], [11, 2, 14, 4]]
    assert keep[0].tolist() == [True, False, True] and fields == {"names": [["cut", "whole"]]}
    torch.testing.assert_close(visible[0], torch.tensor([2 / 7, 0, 1], dtype=torch.float64))
    np.testing.assert_array_equal(composed(tables)[0], np.eye(3))
    points, inside = warp_keypoints(torch.tensor([[[9.0, 3], [10, 3], [19, 3], [20, 3]]]), Warp.of(tables))
    assert points[0, :, 0].tolist() == [9, 10, 19, 20] and inside[0].tolist() == [False, True, True, False]


def test_what_lies_behind_the_horizon_is_cut_off():
    # w = 1 - x / 30 in the source: what is right of x = 30 never shows.
    forward = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 30, 0, 1]])
    warp = Warp.from_matrix(
        np.linalg.inv(shift(-0.5, -0.5) @ forward @ shift(0.5, 0.5))[None], (40, 500), source=(40, 60)
    )
    given = torch.tensor([[10.0, 5, 20, 10], [15, 5, 50, 10], [35, 0, 50, 40]])
    (moved,), (keep,), _, (visible,) = warp_boxes([given], warp, fields={})
    assert keep.tolist() == [True, True, False]
    # x / (1 - x / 30) and y / (1 - x / 30): the second box runs off to the right and below.
    torch.testing.assert_close(moved, torch.tensor([[15.0, 7.5, 60, 30], [30, 10, 500, 40]]))
    assert visible[0] == 1 and visible[1] < 1e-3
    points, inside = warp_keypoints([torch.tensor([[20.0, 10], [35, 10]])], warp, origin="corner")
    torch.testing.assert_close(points[0], torch.tensor([[60.0, 30], [0, 0]]))
    assert inside[0].tolist() == [True, False]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 300), st.floats(0, 1))
def test_limits_take_boxes_away(seed, min_area, min_visibility):
    generator = np.random.default_rng(seed)
    warp = Warp.from_matrix(shift(*generator.uniform(-30, 30, 2))[None], (25, 25), source=SAME)
    boxes = some_boxes(generator, 20)[None]
    limited = warp_boxes(boxes, warp, min_area=min_area, min_visibility=min_visibility)
    free = warp_boxes(boxes, warp)
    x0, y0, x1, y1 = free.boxes[0].double().unbind(1)
    area, full = (x1 - x0) * (y1 - y0), (boxes[0, :, 2:] - boxes[0, :, :2]).double().prod(1)
    sure = ((area - min_area).abs() > 1e-3) & ((area / full - min_visibility).abs() > 1e-3)
    expected = free.keep[0] & (area >= min_area) & (area / full >= min_visibility)
    assert torch.equal(limited.keep[0][sure], expected[sure])
    assert torch.equal(limited.boxes[0][limited.keep[0]], free.boxes[0][limited.keep[0]])


def test_ragged_boxes_keep_their_own_dtypes_and_images_without_boxes_pass():
    warp = Warp.from_matrix(np.stack([flip()] * 4), SAME, source=SAME)
    whole = torch.tensor([[0, 0, WIDTH, HEIGHT]])
    given = [whole, torch.tensor([]), torch.zeros(0, 4, dtype=torch.float64), whole.half()]
    moved, keep, fields, _ = warp_boxes(given, warp, fields={"ids": [np.array([3]), [], (), torch.tensor([4])]})
    assert [item.dtype for item in moved] == [torch.int64, torch.float32, torch.float64, torch.float16]
    assert [item.shape for item in moved] == [(1, 4), (0, 4), (0, 4), (1, 4)]
    assert torch.equal(moved[0], whole) and [len(item) for item in keep] == [1, 0, 0, 1]
    assert [len(item) for item in fields["ids"]] == [1, 0, 0, 1]
    empty = warp_boxes(torch.zeros(4, 0, 4), warp)
    assert empty.boxes.shape == (4, 0, 4) and empty.keep.shape == (4, 0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_keypoints_are_those_of_torchvision(name):
    arguments, size, matrix = OPERATIONS[name]
    points = tv_tensors.KeyPoints(torch.rand(30, 2) * torch.tensor([WIDTH, HEIGHT]), canvas_size=SAME)
    expected = getattr(F, name)(points, **arguments)
    # torchvision flips pixel indices, but resizes, turns and distorts as if (0, 0) were a corner.
    origin = "centre" if name.endswith("flip") else "corner"
    (moved,), _ = warp_keypoints([points], Warp.from_matrix(matrix[None], size, source=SAME), origin=origin)
    assert type(moved) is tv_tensors.KeyPoints and moved.canvas_size == size
    torch.testing.assert_close(torch.Tensor(moved), torch.Tensor(expected), atol=1e-3, rtol=0)


def test_boxes_without_known_labels_keep_their_rows():
    warp = Warp.from_matrix(np.stack([shift(25, 0), flip()]), SAME, source=SAME)
    boxes = torch.tensor([[0.0, 0, 8, 9], [20, 10, 30, 30], [35, 5, 50, 20]])
    tensor, ragged = warp_boxes(torch.stack((boxes, boxes)), warp), warp_boxes([boxes, boxes[:2]], warp)
    assert tensor.keep.tolist() == [[False, True, True], [True] * 3]
    assert torch.equal(ragged.boxes[0], tensor.boxes[0]) and torch.equal(ragged.keep[0], tensor.keep[0])
    assert ragged.boxes[0][0].tolist() == [0] * 4 and len(ragged.boxes[1]) == 2 and ragged.fields == {}
    dropped = warp_boxes([boxes, boxes[:2]], warp, fields={})
    assert torch.equal(dropped.boxes[0], tensor.boxes[0][1:])


def test_fields_of_some_dicts_follow_their_boxes():
    boxes = torch.tensor([[0.0, 0, 8, 9], [20, 10, 30, 30]])
    items = [
        {"boxes": boxes, "labels": "cat", "tracks": [1, 2], 0: "x"},
        {"boxes": boxes, "labels": torch.tensor(3), "mask": torch.zeros(2, WIDTH)},
    ]
    warp = Warp.from_matrix(np.stack([shift(10, 0)] * 2), SAME, source=SAME)
    # A mask of the whole image that is two pixels high is no mask of two boxes.
    small = Warp.from_matrix(np.stack([shift(10, 0)] * 2), (2, WIDTH), source=(2, WIDTH))
    first, second = warp_detection(items, warp)
    assert first["tracks"] == [2] and first["labels"] == "cat" and first[0] == "x" and "tracks" not in second
    assert second["labels"] is items[1]["labels"]
    low = boxes * torch.tensor([1.0, 0.05, 1, 0.05])
    (_, moved) = warp_detection([items[0] | {"boxes": low}, items[1] | {"boxes": low}], small)
    assert moved["mask"].shape == (2, WIDTH) and len(moved["boxes"]) == 1


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_passes_of_two_stages_are_those_of_one(seed, first, second):
    generator = np.random.default_rng(seed)
    tables, _ = random_tables(generator, 4, first + second)
    tables.passes[:] = first + second
    whole = Warp.of(tables)

    def part(begin, end, passes):
        arrays = (array[:, begin:end] for array in (whole.matrix, whole.sizes, whole.padding, whole.canvas))
        matrix, sizes, padding, canvas = arrays
        # What a stage does not use comes last, and must not be used by the next one.
        return Warp(matrix, np.full(4, passes, np.int32), sizes, padding, canvas, whole.canvas_padding[:, begin:end])

    joined = part(0, first, first).then(part(first, first + second, second))
    assert all(map(np.array_equal, joined.arrays, whole.arrays))
    cut = part(0, first, 1).then(part(first, first + second, second))
    np.testing.assert_array_equal(cut.matrix[:, 1 : 1 + second], whole.matrix[:, first:])
    np.testing.assert_array_equal(cut.passes, 1 + second)
    assert np.array_equal(cut.out_sizes, whole.out_sizes)


def test_outputs_of_different_sizes_are_moved_apart():
    sizes = np.array([[10, 20], [30, 12], [10, 20]])
    warp = Warp.from_matrix(np.stack([shift(3, 0)] * 3), sizes, source=SAME)
    masks_, options = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH).repeat(3, 1, 1), TargetOptions()
    moved = move(Target("masks", masks_), warp, options)
    assert [tuple(mask.shape) for mask in moved] == [tuple(size) for size in sizes.tolist()]
    for mask, (height, width) in zip(moved, sizes.tolist(), strict=True):
        assert torch.equal(mask, masks_[0, :height, 3 : 3 + width])
    boxes, keep = settle(Target("boxes", torch.tensor([[[5.0, 2, 22, 25]]]).repeat(3, 1, 1)), warp, options)
    assert boxes[:, 0].tolist() == [[2, 2, 19, 10], [2, 2, 12, 25], [2, 2, 19, 10]] and keep.all()
    items = move(Target("boxes", [{"boxes": boxes[0], "labels": [1]}] * 3), warp, options)
    assert [item["labels"] for item in items] == [[1]] * 3


def test_no_samples_have_the_size_of_the_others():
    warp = Warp.from_matrix(np.zeros((0, 3, 3)), (0, 0), source=SAME)
    warp = dataclasses.replace(warp, otherwise=(5, 6))
    assert warp_masks(torch.zeros(0, 3, *SAME), warp).shape == (0, 3, 5, 6)
    assert warp.then(dataclasses.replace(warp, otherwise=(7, 8))).size == (7, 8)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(PADDINGS))
def test_keypoints_stay_on_their_pixels(seed, padding):
    # Enlarged, a pixel shows wherever its centre goes.
    generator = np.random.default_rng(seed)
    turn, scale = generator.uniform(-3, 3), generator.uniform(0.2, 0.6)
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    matrix = shift(*generator.uniform(0, 25, 2)) @ np.array([[c, -s, 0], [s, c, 0], [1e-3, 0, 1]]) @ shift(-20, -20)
    warp = Warp.from_matrix(matrix[None], (40, 44), source=SAME, padding=padding)
    mask = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    points, inside = warp_keypoints(torch.stack((x, y), -1)[None].double(), warp)
    moved = warp_masks(mask, warp, fill=-1)[0]
    column, row = points[0][inside[0]].round().long().unbind(1)
    assert torch.equal(moved[row, column], mask[0][inside[0]])


def test_points_outside():
    warp = Warp.from_matrix(np.stack([shift(10, 0)] * 2), SAME, source=SAME)
    given = torch.tensor([[12.0, 5, 2], [3, 4, 1], [0, 0, 0]])
    moved, there, gone = [2.0, 5, 2], [-7.0, 4, 1], [0.0, 0, 0]
    both = [given, given[:2]]
    kept, inside = warp_keypoints(both, warp)
    assert kept[0].tolist() == [moved, there, gone] and inside[0].tolist() == [True, False, False]
    assert warp_keypoints(both, warp, outside="flag").points[1].tolist() == [moved, gone]
    assert [item.tolist() for item in warp_keypoints(both, warp, outside="drop").points] == [[moved], [moved]]
    fixed = warp_keypoints(torch.stack((given, given)), warp, outside="drop")
    assert fixed.points[1].tolist() == [moved, gone, gone] and fixed.inside.tolist() == [[True, False, False]] * 2
    whole = warp_keypoints(given[None, :, :2].int().expand(2, 3, 2), warp).points
    assert whole.dtype is torch.int32 and whole[0].tolist() == [[2, 5], [-7, 4], [-10, 0]]


def detections():
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 8, 9], [20, 10, 30, 30], [35, 5, 50, 20]])
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "boxes": boxes.float(),
        "labels": torch.tensor([7, 8, 9]),
        "masks": masks,
        "keypoints": torch.tensor([[[1.0, 2, 2]], [[21, 11, 2]], [[36, 6, 1]]]),
        "area": torch.tensor([72.0, 200, 225]),
        "iscrowd": torch.zeros(3, dtype=torch.int64),
        "names": ["a", "b", "c"],
        "image_id": torch.tensor([4]),
        "size": torch.tensor([HEIGHT, WIDTH, 3]),
    }


def test_detections_move_as_one():
    # The window leaves out the first box and cuts the second in half.
    first = detections()
    second = {**first, "boxes": tv_tensors.BoundingBoxes(first["boxes"], format="XYXY", canvas_size=SAME)}
    warp = Warp.from_matrix(np.stack([shift(25, 0), flip()]), SAME, source=SAME)
    moved, flipped = warp_detection([first, second], warp)
    assert list(moved) == list(first) and isinstance(flipped["boxes"], tv_tensors.BoundingBoxes)
    assert moved["boxes"].tolist() == [[0, 10, 5, 30], [10, 5, 25, 20]]
    assert moved["labels"].tolist() == [8, 9] and moved["names"] == ["b", "c"] and len(moved["iscrowd"]) == 2
    assert moved["keypoints"].tolist() == [[[0, 0, 0]], [[11, 6, 1]]], "the first one is outside"
    assert moved["area"].tolist() == [100, 225] == moved["masks"].sum((1, 2)).tolist()
    assert moved["image_id"] is first["image_id"] and moved["size"] is first["size"]
    assert len(flipped["labels"]) == 3 and flipped["boxes"].tolist()[0] == [WIDTH - 8, 0, WIDTH, 9]
    assert torch.equal(flipped["masks"], first["masks"].flip(2)) and torch.equal(flipped["area"], first["area"])
    assert len(first["labels"]) == 3, "what came in is left alone"


def test_areas_without_masks_follow_the_map():
    item = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 10, 40, 30]]), "area": torch.tensor([60.0, 300])}
    # Twice as large along both sides, and the second box cut in half.
    warp = Warp.from_matrix((np.diag([0.5, 0.5, 1]) @ shift(-0.5, -0.5))[None] * 1.0, (80, 60), source=SAME)
    (moved,) = warp_detection([item], warp)
    share = warp_boxes([item["boxes"]], warp).visible[0]
    torch.testing.assert_close(moved["area"], (torch.tensor([240.0, 1200]) * share).float())
    (named,) = warp_detection([{**item, "extra": [1, 2], "two": ["x", "y"]}], warp, rows=["extra"])
    assert named["two"] == ["x", "y"] and named["area"] is item["area"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w: warp_masks(torch.zeros(3, 4, 4), w), "masks must be 2, one for each image, got 3"),
        (lambda w: warp_masks(torch.zeros(2, 4), w), r"masks must be \(N, H, W\) or \(N, C, H, W\), got \(2, 4\)"),
        (lambda w: warp_masks([torch.zeros(4)] * 2, w), r"must be \(H, W\) or \(K, H, W\), got \(4,\) at 0"),
        (lambda w: warp_masks(torch.zeros(2, 4, 4).byte(), w, fill=-1), "fill must be a value of torch.uint8, got -1"),
        (
            lambda w: warp_masks(torch.zeros(2, 4, 4).long(), w, fill=0.5),
            "fill must be a value of torch.int64, got 0.5",
        ),
        (lambda w: warp_boxes(torch.zeros(2, 4), w), r"boxes must be \(N, M, 4\), or a list of \(M, 4\), got \(2, 4\)"),
        (lambda w: warp_boxes([torch.zeros(1, 5)] * 2, w), r"boxes must be \(M, 4\), got \(1, 5\) at 0"),
        (lambda w: warp_boxes(torch.zeros(2, 1, 4), w, format="yolo"), "format must be one of xyxy, .*got 'yolo'"),
        (lambda w: warp_boxes(torch.zeros(2, 1, 4), w, min_area=-1), "min_area must be at least 0, got -1"),
        (lambda w: warp_boxes(torch.zeros(2, 1, 4), w, min_visibility=2), r"min_visibility must be in \[0, 1\], got 2"),
        (
            lambda w: warp_boxes([torch.zeros(1, 4)] * 2, w, fields={"labels": [[1], [1, 2]]}),
            "'labels' must have a row for each of 1 boxes at 1, got 2",
        ),
        (lambda w: warp_keypoints([torch.zeros(2, 4)] * 2, w), r"must be \(…, 2\) or \(…, 3\), got \(2, 4\) at 0"),
        (lambda w: warp_keypoints(torch.zeros(2, 1, 2), w, outside="flag"), '"flag" needs keypoints'),
        (lambda w: warp_keypoints(torch.zeros(2, 1, 2), w, origin="top"), "origin must be one of centre, corner"),
        (lambda w: warp_detection([{}], w), "items must be 2, one dict for each image, got 1"),
        (
            lambda w: warp_detection([{"boxes": torch.zeros(0, 4)}, {}], w),
            "items must all have 'boxes', got nothing at 1",
        ),
        (lambda w: Warp.from_matrix(np.eye(3), SAME, source=SAME), r"matrix must be \(N, 3, 3\), got \(3, 3\)"),
        (
            lambda w: Warp.from_matrix(np.zeros((2, 3, 3)), SAME, source=SAME).inverse,
            "boxes and keypoints need a matrix with an inverse, got .* at 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(Warp.from_matrix(np.stack([np.eye(3)] * 2), SAME, source=SAME))


def test_nothing_is_imported_that_is_not_needed():
    code = "import sys, torchaug_gen.augment.targets; assert not {'numba', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
