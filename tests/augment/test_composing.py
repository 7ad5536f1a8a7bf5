"""Passes that operations are composed into do what the operations do one after the other."""

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen.augment import kornia_reader
from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.composing import compose, links_bound, output_sizes, passes_bound
from torchaug_gen.augment.drawing import draw
from torchaug_gen.augment.operation import Filter, Gate, Kind, Operation, Padding, Size, constant_range
from torchaug_gen.augment.tables import CODE_BITS, Code

ONE, NONE = constant_range(1, 1), constant_range(0, 0)


def operation(kind, *constants, name="it", **rest):
    return Operation(kind, name, tuple(float(number) for number in constants), **rest)


def crop(height, width, **rest):
    return operation(Kind.CROP, Size.FIXED, height, width, 0, 0, 0, 0, 0, 0, **rest)


def affine(angle=0.0, **rest):
    rest = {"filter": Filter.BILINEAR, "padding": Padding.FILL} | rest
    around = constant_range(angle, angle)
    return operation(Kind.AFFINE, 0, 1, *around, *NONE, *NONE, 0, 0, *ONE, *ONE, 1, *NONE, *NONE, 0, 0, 0, **rest)


def resize(height, width, **rest):
    return operation(Kind.RESIZE, Size.FIXED, height, width, 0, **({"filter": Filter.BILINEAR} | rest))


FLIP = operation(Kind.HORIZONTAL_FLIP)
TURN = operation(Kind.QUARTER_TURNS, *ONE, filter=Filter.BILINEAR, padding=Padding.FILL)
INVERT = operation(Kind.INVERT, 1)
GAMMA = operation(Kind.GAMMA, *constant_range(0.5, 0.5), *ONE)
CONTRAST = operation(Kind.CONTRAST, 1, *constant_range(1.5, 1.5), 1)
NORMALIZE = operation(Kind.NORMALIZE, 1, 4, -2)
ERASE = operation(Kind.ERASE, 0, 0.2, 0.4, 0.5, 2, 1, 0.3)
ROTATE = affine(30)


def composed(operations, rows=None, *, size=(12, 12), channels=3, n=1, **changes):
    sizes = np.tile(np.int32(size), (n, 1))
    key = {"sizes": sizes, "channels": channels, "seed": 1, "epoch": 0, "positions": np.arange(n)}
    if rows is None:
        rows = draw(operations, **key)
    rows = np.asarray(rows, float).reshape(n, np.size(rows) // n if n else np.shape(rows)[-1])
    return compose(operations, rows, **key, **changes)


def codes(tables, p=0, n=0):
    return [Code(code & ((1 << CODE_BITS) - 1)).name for code in tables.codes[n, p, : tables.links[n, p]]]


def passes(operations, **rest):
    return int(composed(operations, **rest).passes[0])


# Passes


def test_no_operations_are_one_pass_that_copies():
    tables = composed([])
    assert tables.passes.tolist() == [1]
    assert tables.size[0, 0].tolist() == [12, 12]
    np.testing.assert_array_equal(tables.matrix[0, 0], np.eye(3))
    assert (tables.filter[0, 0], tables.links[0, 0]) == (Filter.NEAREST, 0)
    assert len(composed([FLIP], n=0)) == 0
    # Read-only arrays are another type to Numba, for which backends would compile their kernels again.
    assert tables.keys.flags.writeable


@pytest.mark.parametrize("chain, count", [
    ([FLIP, ROTATE, FLIP, crop(8, 8)], 1),
    ([FLIP, INVERT, GAMMA, ERASE], 1),
    ([INVERT, ROTATE], 2),
    ([INVERT, FLIP, TURN, CONTRAST, FLIP], 1),
    ([ERASE, FLIP], 2),
    ([INVERT, crop(8, 8)], 1),
    ([CONTRAST, crop(8, 8)], 2),
    ([INVERT, resize(6, 6)], 2),
    ([INVERT, affine(0), resize(12, 12), crop(12, 12), INVERT], 1),
    ([ROTATE, INVERT, ROTATE, INVERT, ROTATE], 3),
])  # fmt: skip
def test_geometry_starts_a_pass_behind_what_it_cannot_come_before(chain, count):
    assert passes(chain) == count
    assert passes_bound(chain) >= count


def test_a_turn_of_an_oblong_image_starts_a_pass_behind_colour():
    assert passes([INVERT, TURN], size=(12, 16)) == 2
    half = operation(Kind.QUARTER_TURNS, *constant_range(2, 2), filter=Filter.BILINEAR, padding=Padding.FILL)
    assert passes([INVERT, half], size=(12, 16)) == 1


@pytest.mark.parametrize("chain", [
    [FLIP, INVERT, CONTRAST], [INVERT, FLIP, CONTRAST], [CONTRAST, TURN, GAMMA], [GAMMA, crop(7, 5), CONTRAST],
    [CONTRAST, crop(7, 5), GAMMA], [ERASE, FLIP], [ROTATE, GAMMA, ROTATE, CONTRAST],
], ids=str)  # fmt: skip
def test_passes_come_to_the_same_as_operations_one_by_one(chain):
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    check_against_steps(chain, image, 1e-6)


def check_against_steps(chain, image, tolerance):
    """Compare a chain with its operations, run one after the other with the same parameters."""
    n, channels = image.shape[:2]
    key = {"channels": channels, "seed": 3, "epoch": 1, "positions": np.arange(n)}

    def sizes(images):
        return np.tile(np.int32(images.shape[2:]), (len(images), 1))

    rows = draw(chain, sizes=sizes(image), **key)
    got = reference.run(compose(chain, rows, sizes=sizes(image), **key), image)
    expected, start = image, 0
    for index, step in enumerate(chain):
        width = draw([step], sizes=sizes(expected), **key).shape[1]
        tables = compose([step], rows[:, start : start + width], sizes=sizes(expected), first=index, **key)
        expected, start = reference.run(tables, expected), start + width
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


PADDED = st.builds(
    lambda a, b, sides, padding: operation(
        Kind.CROP, Size.FIXED, a, b, 0, *sides, 1, padding=padding, fill=(0.25,)
    ),
    st.integers(3, 14), st.integers(3, 14), st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from([Padding.BORDER, Padding.REFLECT, Padding.SYMMETRIC]),
)  # fmt: skip
WHOLE = st.one_of(
    st.sampled_from([FLIP, operation(Kind.VERTICAL_FLIP, probability=0.5), INVERT, GAMMA, CONTRAST, ERASE, NORMALIZE]),
    PADDED,
    PADDED,
)


@given(st.booleans(), st.lists(WHOLE, min_size=2, max_size=7), st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_whole_pixel_chains_are_exact(pads_first, chain, seed):
    """Whatever is flipped, cut off and padded: edges and mirrors are those of what the step before has left."""
    if pads_first:
        sides = [3, 1, 0, 2]
        chain = [operation(Kind.CROP, Size.PADDED, 0, 0, 3, *sides, 0, padding=Padding.FILL, fill=(0.25,)), *chain]
    image = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(seed))
    check_against_steps(chain, image, 1e-4)


@given(
    st.lists(st.sampled_from([ROTATE, affine(-77), FLIP, TURN, crop(10, 10), resize(13, 10)]), min_size=1, max_size=6),
    st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_geometry_multiplies(chain, seed):
    size, product, rows = (12, 16), np.eye(3), []
    for step in chain:
        row = draw([step], sizes=np.int32([size]), channels=3, seed=seed, epoch=0, positions=np.array([0]))
        tables = composed([step], row, size=size)
        product = product @ tables.matrix[0, 0]
        size = tuple(tables.size[0, 0].tolist())
        rows.append(row[0])
    tables = composed(chain, np.concatenate(rows), size=(12, 16))
    assert tables.passes[0] == 1
    assert tuple(tables.size[0, 0].tolist()) == size
    np.testing.assert_allclose(tables.matrix[0, 0], product, atol=1e-9)


def test_matrices_are_those_of_kornia():
    torch.manual_seed(0)
    module = K.AugmentationSequential(
        K.RandomAffine(40.0, (0.1, 0.2), (0.7, 1.4), 20.0, p=1),
        K.RandomHorizontalFlip(p=1),
        K.RandomPerspective(0.5, p=1),
        K.RandomRotation(30.0, p=1),
    )
    module(torch.rand(4, 3, 40, 53))
    (a, _, b, c), rows = (item.data for item in module._params), []
    for i in range(4):
        rows.append([
            1, a["angle"][i], *a["translations"][i], *a["scale"][i], a["shear_x"][i], a["shear_y"][i], 1, 1,
            *b["end_points"][i].flatten(), 1, c["degrees"][i],
            0, 0, 1, 1, 0, 0,
        ])  # fmt: skip
    tables = composed(kornia_reader.read(module), rows, size=(40, 53), n=4)
    points = np.array([[0, 0, 1], [52, 0, 1], [52, 39, 1], [0, 39, 1]], float).T
    moved = np.linalg.inv(tables.matrix[:, 0]) @ points
    theirs = module.transform_matrix.double().numpy() @ points
    # Kornia computes in float32.
    np.testing.assert_allclose(moved[:, :2] / moved[:, 2:], theirs[:, :2] / theirs[:, 2:], atol=2e-3)


# What lies outside


def test_no_rule_means_the_border():
    tables = composed([crop(8, 8), resize(20, 20), FLIP])
    assert tables.padding[0, 0] == Padding.BORDER
    assert tables.canvas[0, 0].tolist() == [0, 0, 12, 12]


def test_a_crop_inside_has_no_rule_and_one_outside_has():
    outside = crop(8, 8, padding=Padding.REFLECT)
    assert composed([outside], [1, 2, 2]).padding[0, 0] == Padding.BORDER
    assert composed([outside], [1, -2, 2]).padding[0, 0] == Padding.REFLECT


@pytest.mark.parametrize("rule", [Padding.BORDER, Padding.REFLECT, Padding.SYMMETRIC])
def test_mirrors_are_those_of_a_crop(rule):
    tables = composed([crop(6, 5), affine(20, padding=rule)], [1, 3, 4, 1, 20, 0, 0, 1, 1, 0, 0])
    assert tables.passes[0] == 1
    assert tables.canvas[0, 0].tolist() == [4, 3, 9, 9]
    window = operation(Kind.RESIZED_CROP, 1, 20, 20, 0.1, 1, 1, 1, 0, filter=Filter.TENT)
    tables = composed([FLIP, window, affine(20, padding=rule)], [1, 1, 3, 4, 6, 5, 1, 20, 0, 0, 1, 1, 0, 0])
    assert tables.passes[0] == 1
    assert tables.canvas[0, 0].tolist() == [3, 3, 8, 9]
    # A window of a resized image is no rectangle of whole pixels of the source.
    chain = [resize(17, 17), crop(6, 5), affine(20, padding=rule)]
    assert passes(chain) == 2


def test_fill_keeps_what_a_crop_cuts_off():
    tables = composed([crop(6, 5), ROTATE])
    assert tables.passes[0] == 1
    assert tables.canvas[0, 0].tolist() == [0, 0, 12, 12]
    assert tables.padding[0, 0] == Padding.FILL


def test_another_rule_behind_padding_makes_a_canvas_and_behind_a_warp_a_pass():
    pad = operation(Kind.CROP, Size.PADDED, 0, 0, 3, 2, 1, 3, 4, 0, padding=Padding.REFLECT)
    tables = composed([pad, ROTATE])
    assert tables.passes[0] == 1
    assert tables.canvas[0, 0].tolist() == [-2, -1, 15, 16]
    assert (tables.canvas_padding[0, 0], tables.padding[0, 0]) == (Padding.REFLECT, Padding.FILL)
    assert passes([ROTATE, affine(5, padding=Padding.BORDER)]) == 2
    assert passes([ROTATE, affine(5, fill=(0.5,))]) == 2
    assert passes([ROTATE, affine(5)]) == 1
    tables = composed([affine(5, fill=(0.1, 0.2, 0.3))])
    np.testing.assert_allclose(tables.fill[0, 0], [0.1, 0.2, 0.3])


# Resampling


def test_a_pass_takes_the_highest_filter():
    nearest, tent = affine(9, filter=Filter.NEAREST), resize(20, 20, filter=Filter.TENT)
    assert composed([FLIP, crop(5, 5)]).filter[0, 0] == Filter.NEAREST
    assert composed([TURN]).filter[0, 0] == Filter.NEAREST
    assert composed([nearest, FLIP]).filter[0, 0] == Filter.NEAREST
    assert composed([ROTATE, nearest]).filter[0, 0] == Filter.BILINEAR
    assert composed([nearest, tent]).filter[0, 0] == Filter.TENT
    # What does not move anything has no say.
    assert composed([nearest, resize(12, 12, filter=Filter.TENT), affine(0)]).filter[0, 0] == Filter.NEAREST


@pytest.mark.parametrize("how, changes, expected", [
    (Filter.TENT, {"antialias": False}, Filter.BILINEAR),
    (Filter.BILINEAR, {"antialias": True}, Filter.TENT),
    (Filter.NEAREST, {"antialias": True}, Filter.NEAREST),
    (Filter.NEAREST, {"interpolation": Filter.BILINEAR}, Filter.BILINEAR),
    (Filter.NEAREST, {"interpolation": Filter.BILINEAR, "antialias": True}, Filter.TENT),
    (Filter.TENT, {"interpolation": Filter.NEAREST}, Filter.NEAREST),
])  # fmt: skip
def test_the_user_may_choose_another_filter(how, changes, expected):
    assert composed([resize(5, 5, filter=how)], **changes).filter[0, 0] == expected
    assert composed([FLIP], **changes).filter[0, 0] == Filter.NEAREST


def test_radius_is_how_far_an_output_pixel_reaches():
    tables = composed([resize(4, 6)], size=(12, 12))
    np.testing.assert_allclose(tables.radius[0, 0], [2, 3])
    np.testing.assert_allclose(composed([resize(40, 60)]).radius[0, 0], [1, 1])
    turned = composed([resize(4, 4), affine(45)])
    np.testing.assert_allclose(turned.radius[0, 0], [3, 3])


# Colour


def test_an_operation_is_named_in_its_links():
    tables = composed([FLIP, INVERT, CONTRAST, GAMMA])
    assert codes(tables) == ["SCALE", "CONTRAST", "GAMMA"]
    assert (tables.codes[0, 0, :3] >> CODE_BITS).tolist() == [1, 2, 3]


def test_neutral_factors_add_nothing():
    jitter = kornia_reader.read(K.ColorJitter(0.5, 0.5, 0.5, 0.5))
    assert codes(composed(jitter, [1, 1, 1, 1, 0, 0, 1, 2, 3])) == []
    assert codes(composed(jitter, [1, 1, 0.5, 1, 0.1, 3, 0, 1, 2])) == ["HUE", "CONTRAST"]
    assert codes(composed(jitter, [1, 0.5, 0.5, 0.5, 0.1, 3, 2, 1, 0])) == ["HUE", "MATRIX", "CONTRAST", "SCALE"]


def test_values_are_clamped_where_they_may_have_left_the_unit_range():
    solarize = operation(Kind.SOLARIZE, *constant_range(0.5, 0.5), *NONE)
    assert codes(composed([INVERT, solarize])) == ["SCALE", "SOLARIZE"]
    assert codes(composed([NORMALIZE, solarize])) == ["SCALE", "SCALE", "SOLARIZE"]
    assert codes(composed([NORMALIZE, GAMMA, solarize])) == ["SCALE", "GAMMA", "SOLARIZE"]
    assert codes(composed([affine(20, fill=(2.0,)), solarize])) == ["SCALE", "SOLARIZE"]


@pytest.mark.parametrize("operation_, channels", [
    (operation(Kind.HUE, *NONE, name="RandomHue"), 4),
    (operation(Kind.PLANCKIAN, 1, 1, 1, name="RandomPlanckianJitter"), 1),
    (operation(Kind.NORMALIZE, 3, *[1] * 6, name="Normalize"), 4),
    (affine(fill=(1.0, 2.0), name="RandomAffine"), 3),
    (operation(Kind.ERASE, 0, 0, 1, 1, 1, 3, 0, 0, 0, name="RandomErasing"), 1),
])  # fmt: skip
def test_operations_that_do_not_fit_the_channels_are_named(operation_, channels):
    with pytest.raises(ValueError, match=rf"{operation_.name}.* channels.* {channels}"):
        composed([operation_], channels=channels)


# Bounds


@pytest.mark.parametrize("chain, most", [
    ([FLIP, ROTATE, crop(8, 8), INVERT, ERASE, NORMALIZE], 1),
    ([ROTATE, INVERT, ROTATE], 2),
    ([INVERT, ROTATE, ROTATE, ROTATE], 4),
])  # fmt: skip
def test_bounds_of_passes_are_no_larger_than_needed(chain, most):
    assert passes_bound(chain) == most


def test_operations_that_exclude_each_other_count_once():
    share = [Gate("choice", 0.0, 0.5), Gate("choice", 0.5, 1.0)]
    two = [
        Operation(kind, "it", (1.0,) if kind is Kind.INVERT else (0.0,), gates=(gate,), choice="a")
        for kind, gate in zip((Kind.INVERT, Kind.EQUALIZE), share, strict=True)
    ]
    assert links_bound(two) == links_bound(two[:1])
    assert links_bound([INVERT, INVERT]) == 2 * links_bound([INVERT])


def test_parameters_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"parameters must have the shape \(1, 3\).*got \(1, 2\)"):
        composed([FLIP, GAMMA][1:], [1, 1])


def test_output_sizes_are_those_of_the_last_pass():
    chain = [resize(7, 9), INVERT, crop(8, 8, padding=Padding.FILL)]
    rows = np.array([[1, 1, 1, -1, 0], [1, 1, 0, 0, 0]], float)
    sizes = output_sizes(chain, rows, np.array([[5, 5], [6, 7]], np.int32), 3)
    assert sizes.tolist() == [[8, 8], [7, 9]]
