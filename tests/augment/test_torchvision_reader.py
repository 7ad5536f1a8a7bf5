"""What torchvision's transforms do, and how they draw, is what the operations read from them do."""

import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.composing import compose
from torchaug_gen.augment.drawing import draw
from torchaug_gen.augment.operation import Filter, Kind, Opaque, Operation, Padding, parameter_names
from torchaug_gen.augment.torchvision_reader import read

LEVEL = 1 / 255
NEAREST = v1.InterpolationMode.NEAREST
SIZES = [(40, 53), (53, 40), (31, 31), (1, 1), (2, 7)]
LARGE = SIZES[:3]


@pytest.fixture(scope="module")
def picture(photographs):
    """Return a function that makes a floating image of a kind and size, on levels of 1/255."""
    paths = sorted(photographs.rglob("*.jpg"))[:3]

    def make(kind, size):
        height, width = size
        if kind == "photograph":
            image = Image.open(paths[height % 3]).convert("RGB").resize((width * 2, height * 2))
            levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :height, :width]
        elif kind == "noise":
            levels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(height))
        else:
            x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
            levels = torch.stack(
                [255 * x // max(width, 2), 255 * y // max(height, 2), 255 * (x + y) // (width + height)]
            )
        return levels.float() / 255

    return make


KINDS = ["photograph", "noise", "gradient"]


def operations_of(module, **settings):
    operations = read(module, **settings)
    assert all(isinstance(operation, Operation) for operation in operations), operations
    return operations


def ours(module, image, rows=None, **settings):
    """Run what was read from a transform on an image, with given parameters, else with drawn ones."""
    operations = operations_of(module, **settings)
    sizes = np.array([image.shape[1:]], np.int32)
    key = {"seed": 1, "epoch": 2, "positions": np.array([7])}
    channels = len(image)
    if rows is None:
        parameters = draw(operations, sizes=sizes, channels=channels, **key)
    else:
        parameters = np.array([[float(number) for row in rows for number in row]])
        assert parameters.shape[1] == sum(len(list(parameter_names(o.kind, channels))) for o in operations)
    tables = compose(operations, parameters, sizes=sizes, channels=channels, **key)
    return reference.run(tables, image[None])[0]


def check(got, expected, *, tolerance=LEVEL, outliers=0.0, where=None):
    assert got.shape == expected.shape
    off = (got - expected).abs() > tolerance
    if where is not None:
        off = off & where
    assert off.float().mean() <= outliers, f"{off.sum()} of {off.numel()} off, by {(got - expected).abs().max()}"


# Geometry, with torchvision's own parameters

INTERPOLATIONS = ["nearest", "bilinear"]


def affine_row(params, sign=1):
    """Return our columns for the parameters of RandomRotation and RandomAffine."""
    scale = params.get("scale", 1.0)
    return [1, params["angle"], *params.get("translate", (0, 0)), scale, scale, *params.get("shear", (0, 0))]


def shears(shear):
    return {"shear_x": shear[0], "shear_y": shear[1]}


WARPS = {
    "rotation": lambda **s: v2.RandomRotation(45, **s),
    "rotation about a point": lambda **s: v2.RandomRotation((10, 170), center=[5, 11.5], **s),
    "affine": lambda **s: v2.RandomAffine(40, (0.2, 0.3), (0.6, 1.6), (-20, 20, -15, 15), **s),
    "affine about a point": lambda **s: v2.RandomAffine(20, shear=25, center=[0, 0], **s),
    "translation": lambda **s: v2.RandomAffine(0, (0.5, 0.5), **s),
}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("name", WARPS)
def test_affine_warps_match(picture, name, interpolation):
    """At the border torchvision multiplies by the covered share twice; one blend with the fill is expected."""
    torch.manual_seed(0)
    filling = [0.2, 0.5, 0.9]
    module = WARPS[name](interpolation=interpolation, fill=filling)
    function = F.rotate if isinstance(module, v2.RandomRotation) else F.affine
    for size in SIZES:
        for kind in KINDS:
            image = picture(kind, size)
            params = module.make_params([image])
            settings = {"interpolation": interpolation, "center": module.center, **params}
            got = ours(module, image, [affine_row(params)])
            covered = function(torch.ones_like(image), fill=None, **settings)
            expected = function(image, fill=None, **settings) + (1 - covered) * torch.tensor(filling)[:, None, None]
            # Where a sampling point lies half-way between pixels, either one is its nearest.
            check(got, expected, outliers=0.02 if interpolation == "nearest" else 0.0)
            # Away from the border, it is torchvision's own result.
            inside = (covered > 1 - 1e-4) | (covered < 1e-4)
            check(got, module.transform(image, params), where=inside, outliers=0.02 * (interpolation == "nearest"))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("library", [v1, v2])
def test_perspective_matches(picture, library, interpolation):
    torch.manual_seed(1)
    mode = v2.InterpolationMode(interpolation)
    module = library.RandomPerspective(0.6, p=1, interpolation=mode, fill=0.5)
    for size in LARGE:
        image = picture("photograph", size)
        start, end = v2.RandomPerspective.get_params(size[1], size[0], 0.6)
        got = ours(module, image, [[1, *np.ravel(end)]])
        covered = F.perspective(torch.ones_like(image), start, end, interpolation=mode, fill=None)
        expected = F.perspective(image, start, end, interpolation=mode, fill=None) + (1 - covered) * 0.5
        check(got, expected, outliers=0.03 if interpolation == "nearest" else 0.002)


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip, v2.RandomVerticalFlip])
@pytest.mark.parametrize("size", SIZES)
def test_flips_are_exact(picture, flip, size):
    image = picture("noise", size)
    check(ours(flip(p=1), image), flip(p=1)(image), tolerance=0)
    check(ours(flip(p=0), image), image, tolerance=0)


CROPS = {
    "plain": {"size": (20, 15)},
    "padded": {"size": 32, "padding": 4},
    "padded by sides": {"size": (30, 25), "padding": [1, 2, 3, 4], "fill": 0.3},
    "edge": {"size": 33, "padding": [5, 2], "padding_mode": "edge"},
    "reflect": {"size": 33, "padding": 6, "padding_mode": "reflect"},
    "symmetric": {"size": 33, "padding": 6, "padding_mode": "symmetric"},
    "if needed": {"size": (60, 44), "pad_if_needed": True, "fill": (0.1, 0.2, 0.3)},
    "if needed, symmetric": {"size": (48, 60), "pad_if_needed": True, "padding_mode": "symmetric", "padding": 2},
}


@pytest.mark.parametrize("name", CROPS)
def test_random_crop_is_exact(picture, name):
    torch.manual_seed(2)
    module, old = v2.RandomCrop(**CROPS[name]), v1.RandomCrop(**CROPS[name])
    assert operations_of(module) == operations_of(old)
    for size in LARGE:
        image = picture("noise", size)
        for _ in range(5):
            params = module.make_params([image])
            left, top = params["padding"][:2]
            got = ours(module, image, [[1, params["top"] - top, params["left"] - left]])
            check(got, module.transform(image, params), tolerance=1e-6)


@pytest.mark.parametrize("size", [(20, 15), (21, 30), (44, 41), (40, 53), (60, 30), (63, 90), 35])
def test_center_crop_is_exact(picture, size):
    module = v2.CenterCrop(size)
    for shape in SIZES:
        image = picture("noise", shape)
        check(ours(module, image), module(image), tolerance=1e-6)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("padding", [3, (5, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("library", [v1, v2])
def test_pad_is_exact(picture, library, mode, padding):
    module = library.Pad(padding, fill=0.4, padding_mode=mode)
    image = picture("noise", (12, 17))
    check(ours(module, image), module(image), tolerance=1e-6)


RESIZES = {
    "smaller": {"size": (20, 17)},
    "much smaller": {"size": (7, 5)},
    "larger": {"size": (90, 101)},
    "narrower and higher": {"size": (77, 19)},
    "short side": {"size": 23},
    "at most": {"size": 23, "max_size": 27},
    "long side": {"size": None, "max_size": 33},
}


@pytest.mark.parametrize("how", ["antialiased", "bilinear", "nearest", "nearest-exact"])
@pytest.mark.parametrize("name", RESIZES)
def test_resize_matches(picture, name, how):
    antialias = how == "antialiased"
    module = v2.Resize(**RESIZES[name], interpolation="bilinear" if antialias else how, antialias=antialias)
    for size in LARGE:
        for kind in KINDS:
            image = picture(kind, size)
            check(ours(module, image), module(image), tolerance=1e-4)


@pytest.mark.parametrize("how", ["antialiased", "bilinear", "nearest"])
def test_random_resized_crop_matches(picture, how):
    """torchvision repeats the edge of the crop; we see the image beyond it, so the outermost pixels may differ."""
    torch.manual_seed(3)
    antialias = how == "antialiased"
    settings = {"interpolation": "bilinear" if antialias else how, "antialias": antialias}
    module = v2.RandomResizedCrop((24, 29), scale=(0.1, 1), **settings)
    for size in LARGE:
        image = picture("photograph", size)
        for _ in range(5):
            params = module.make_params([image])
            row = [1, params["top"], params["left"], params["height"], params["width"]]
            got, expected = ours(module, image, [row]), module.transform(image, params)
            margin = 1 if how != "nearest" else 0
            y = margin + math.ceil(12 / params["height"]) * (margin > 0)
            x = margin + math.ceil(14.5 / params["width"]) * (margin > 0)
            inner = (slice(None), slice(y, 24 - y), slice(x, 29 - x))
            check(got[inner], expected[inner], tolerance=1e-4)
        # A crop of the whole image has nothing beyond its edge.
        whole = {"top": 0, "left": 0, "height": size[0], "width": size[1]}
        check(ours(module, image, [[1, *whole.values()]]), module.transform(image, whole), tolerance=1e-4)


def test_resize_and_center_crop_keep_the_image_up_to_its_edge(picture):
    """A fill value that no pixel needs must not darken the edges."""
    module = v2.Compose([v2.Resize(24), v2.CenterCrop(24)])
    for size in LARGE:
        image = picture("photograph", size)
        check(ours(module, image), module(image), tolerance=1e-4)


# Colour, with torchvision's own parameters

POINTWISE = {
    "invert": (v2.RandomInvert(1), [1]),
    "solarize": (v2.RandomSolarize(0.4, 1), [1, 0.4, 0]),
    "autocontrast": (v2.RandomAutocontrast(1), [1]),
    "equalize": (v2.RandomEqualize(1), [1]),
    "grayscale": (v2.RandomGrayscale(1), [1]),
    "grayscale 3": (v2.Grayscale(3), [1]),
    "blurred": (v2.RandomAdjustSharpness(0.2, 1), [1, 0.2]),
    "sharpened": (v2.RandomAdjustSharpness(2.5, 1), [1, 2.5]),
    "normalize": (v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), [1]),
    "normalize by one": (v2.Normalize([0.5], [0.25]), [1]),
    **{f"posterize {bits}": (v2.RandomPosterize(bits, 1), [1, bits]) for bits in (1, 3, 5, 8)},
}


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("size", SIZES)
def test_colour_operations_match(picture, name, size):
    module, row = POINTWISE[name]
    for kind in KINDS:
        image = picture(kind, size)
        if name == "normalize by one":
            image = image[:1]
        # The values of an image that has been warped lie between levels.
        for values in (image, image * 0.8317 + 0.0713):
            expected, tolerance, outliers = module(values), LEVEL / 10, 0.0
            if name == "equalize":
                # torchvision bins floating values by floor(255.999 v), uint8 as they are; we by the nearest level.
                expected, tolerance = module((values * 255).round() / 255), LEVEL / 2
            elif name in ("blurred", "sharpened"):
                # The blurred image is rounded to levels, as torchvision does where it gets uint8.
                tolerance = abs(1 - row[1]) * LEVEL / 2 + 1e-5
            elif name.startswith("posterize"):
                outliers = 0.003  # a value on the edge between two steps may fall to either side
            check(ours(module, values, [row]), expected, tolerance=tolerance + 1e-6, outliers=outliers)


@pytest.mark.parametrize("name", [name for name in POINTWISE if "normalize" not in name])
def test_colour_operations_match_on_bytes(picture, name):
    module, row = POINTWISE[name]
    if name == "solarize":
        module = v2.RandomSolarize(102, 1)
        row = None
    for kind in KINDS:
        image = (picture(kind, (40, 53)) * 255).round().to(torch.uint8)
        got = (ours(module, image, row and [row]) * 255).round()
        check(got, module(image).float(), tolerance=1.01)


@pytest.mark.parametrize("settings", [
    {"brightness": 0.5}, {"contrast": 0.7}, {"saturation": (0, 2)}, {"hue": 0.5},
    {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
], ids=["brightness", "contrast", "saturation", "hue", "all"])  # fmt: skip
def test_colour_jitter_matches(picture, settings):
    torch.manual_seed(4)
    module = v2.ColorJitter(**settings)
    assert operations_of(module) == operations_of(v1.ColorJitter(**settings))
    for size in SIZES:
        for kind in KINDS:
            image = picture(kind, size)
            params = module.make_params([image])
            factors = [params[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")]
            row = [1, *(0 if factor is None else factor for factor in factors), *params["fn_idx"].tolist()]
            check(ours(module, image, [row]), module.transform(image, params), tolerance=LEVEL / 4)


def test_grey_images_go_through_colour_as_in_torchvision(picture):
    image = picture("photograph", (20, 30))[:1]
    module = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    params = module.make_params([image])
    row = [1, *(params[f"{n}_factor"] for n in ("brightness", "contrast", "saturation", "hue")), *params["fn_idx"]]
    check(ours(module, image, [row]), module.transform(image, params))
    for same in (v2.RandomGrayscale(1), v2.RandomInvert(1), v2.RandomEqualize(1)):
        check(ours(same, image), same(image), outliers=0.003)


def test_photometric_distort_matches(picture):
    torch.manual_seed(5)
    module = v2.RandomPhotometricDistort()
    assert [o.kind.name for o in operations_of(module)] == [
        "BRIGHTNESS", "CONTRAST", "SATURATION", "HUE", "CONTRAST", "CHANNEL_SHUFFLE",
    ]  # fmt: skip
    for _ in range(12):
        image = picture("photograph", (31, 31))
        params = module.make_params([image])

        def row(name, acts=True, params=params):
            factor = params[f"{name}_factor"]
            return [factor is not None and acts, 1 if factor is None else factor]

        before, order = params["contrast_before"], params["channel_permutation"]
        shuffle = [order is not None, *(range(3) if order is None else order)]
        rows = [
            row("brightness"), row("contrast", before), row("saturation"), row("hue"), row("contrast", not before),
            shuffle,
        ]  # fmt: skip
        check(ours(module, image, rows), module.transform(image, params), tolerance=LEVEL / 4)


def test_channel_permutation_matches(picture):
    image = picture("noise", (5, 6))
    module = v2.RandomChannelPermutation()
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        expected = module.transform(image, {"permutation": torch.tensor(order)})
        check(ours(module, image, [[1, *order]]), expected, tolerance=0)


# Cover


@pytest.mark.parametrize("value", [0, 0.7, (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("library", [v1, v2])
def test_random_erasing_matches(picture, library, value):
    torch.manual_seed(6)
    module, new = library.RandomErasing(p=1, value=value), v2.RandomErasing(p=1, value=value)
    for size in LARGE:
        image = picture("noise", size)
        params = new.make_params([image])
        got = ours(module, image, [[1, params["i"], params["j"], params["h"], params["w"]]])
        check(got, new.transform(image, params), tolerance=1e-6)


def test_random_erasing_fills_with_normal_noise_where_told(picture):
    image = torch.full((3, 120, 110), 0.5)
    got = ours(v2.RandomErasing(p=1, value="random"), image, [[1, 10, 20, 90, 70]])
    inside = got[:, 10:100, 20:90]
    assert stats.kstest(inside.flatten().numpy(), "norm").pvalue > 1e-4
    got[:, 10:100, 20:90] = 0.5
    check(got, image, tolerance=0)
    assert operations_of(v1.RandomErasing(value="random")) == operations_of(v2.RandomErasing(value="random"))


@pytest.mark.parametrize("clip", [True, False])
def test_gaussian_noise_is_normal(clip):
    image = torch.full((3, 90, 80), 0.5)
    got = ours(v2.GaussianNoise(0.1, 0.05 if clip else 0.4, clip), image)
    assert stats.kstest(got.flatten().numpy(), stats.norm(0.6, 0.05 if clip else 0.4).cdf).pvalue > 1e-4
    assert clip == bool(got.max() <= 1)


# Distributions

N = 3000


def drawn(module, size, n=N):
    operations = operations_of(module)
    table = draw(
        operations, seed=11, epoch=0, positions=np.arange(n), sizes=np.tile(np.int32(size), (n, 1)), channels=3
    )
    columns, start = [], 0
    for operation in operations:
        names = list(parameter_names(operation.kind, 3))
        columns.append(dict(zip(names, table[:, start : start + len(names)].T, strict=True)))
        start += len(names)
    return columns


def same_distribution(ours_, theirs, name):
    ours_, theirs = np.asarray(ours_, float), np.asarray(theirs, float)
    values = np.unique(np.concatenate([ours_, theirs]))
    if len(values) == 1:
        return
    if len(values) <= 40:
        edges = np.append(values - 1e-9, np.inf)
        table = np.stack([np.histogram(sample, edges)[0] for sample in (ours_, theirs)])
        assert stats.chi2_contingency(table).pvalue > 1e-5, name
    else:
        assert stats.ks_2samp(ours_, theirs).pvalue > 1e-5, name


DRAWS = {
    "rotation": (v2.RandomRotation((-20, 50)), lambda p: {"angle": p["angle"]}),
    "affine": (
        v2.RandomAffine(30, (0.2, 0.3), (0.6, 1.6), (-20, 20, -15, 5)),
        lambda p: dict(zip(["angle", "translate_x", "translate_y", "scale_x", "scale_y", "shear_x", "shear_y"],
                           affine_row(p)[1:], strict=True)),
    ),
    "shear along x alone": (v2.RandomAffine(0, shear=10), lambda p: shears(p["shear"])),
    "crop": (v2.RandomCrop(30, padding=4), lambda p: {"top": p["top"] - 4, "left": p["left"] - 4}),
    "crop if needed": (
        v2.RandomCrop((50, 30), pad_if_needed=True),
        lambda p: {"top": p["top"] - p["padding"][1], "left": p["left"] - p["padding"][0]},
    ),
    "resized crop": (v2.RandomResizedCrop(24), lambda p: p),
    "resized crop of extremes": (
        v2.RandomResizedCrop(24, scale=(0.6, 1), ratio=(2.0, 5.0)), lambda p: p
    ),
    "jitter": (
        v2.ColorJitter(0.4, (0.2, 2), 0.3, (-0.1, 0.3)),
        lambda p: {
            **{name: p[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")},
            **dict(zip(("first", "second", "third", "fourth"), p["fn_idx"].tolist(), strict=True)),
            "order": p["fn_idx"].tolist() @ np.array([1, 4, 16, 64]),
        },
    ),
    "erasing": (v2.RandomErasing(1), lambda p: {"top": p["i"], "left": p["j"], "height": p["h"], "width": p["w"]}),
    "permutation": (v2.RandomChannelPermutation(), lambda p: {"order": p["permutation"].numpy() @ [1, 3, 9]}),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_parameters_have_torchvisions_distribution(name):
    module, translate = DRAWS[name]
    size = (40, 53)
    torch.manual_seed(7)
    image = torch.zeros(3, *size)
    theirs = [translate(module.make_params([image])) for _ in range(N)]
    (columns,) = drawn(module, size)
    if name == "jitter":
        columns["order"] = sum(columns[c] * 4**i for i, c in enumerate(("first", "second", "third", "fourth")))
    if name == "permutation":
        columns["order"] = sum(columns[f"channel_{i}"] * 3**i for i in range(3))
    assert (columns["active"] == 1).all()
    for key in theirs[0]:
        same_distribution(columns[key], [row[key] for row in theirs], key)


def test_perspective_corners_have_torchvisions_distribution():
    torch.manual_seed(8)
    theirs = np.array([np.ravel(v2.RandomPerspective.get_params(53, 40, 0.4)[1]) for _ in range(N)])
    (columns,) = drawn(v2.RandomPerspective(0.4, p=1), (40, 53))
    for i, name in enumerate(["x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3"]):
        same_distribution(columns[name], theirs[:, i], name)


@pytest.mark.parametrize("make", [
    v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.RandomGrayscale, v2.RandomInvert, v2.RandomEqualize,
    v2.RandomAutocontrast, v2.RandomErasing, lambda p: v2.RandomPerspective(p=p), lambda p: v2.RandomSolarize(0.5, p),
    lambda p: v2.RandomPosterize(3, p), lambda p: v2.RandomAdjustSharpness(2, p),
    lambda p: v2.RandomApply([v2.RandomRotation(5)], p),
])  # fmt: skip
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_chances_are_kept(make, p):
    (columns,) = drawn(make(p), (40, 53))
    active = int(columns["active"].sum())
    assert active == p * N if p in (0, 1) else stats.binomtest(active, N, p).pvalue > 1e-4


def test_random_apply_runs_all_or_none():
    inner = v2.RandomApply([v2.RandomInvert(1), v2.Grayscale(3)], p=0.4)
    first, second = drawn(inner, (9, 9))
    np.testing.assert_array_equal(first["active"], second["active"])
    assert stats.binomtest(int(first["active"].sum()), N, 0.4).pvalue > 1e-4
    # Two of the same kind in one program are independent.
    a, _, b, _ = drawn(v2.Compose([inner, v2.RandomApply([v2.RandomInvert(1), v2.Grayscale(3)], p=0.4)]), (9, 9))
    table = np.histogram2d(a["active"], b["active"], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("library", [v1, v2])
def test_random_choice_runs_one_of_its_branches(library):
    branches = [v2.RandomInvert(1), v2.Compose([v2.Grayscale(3), v2.RandomInvert(1)]), v2.RandomErasing(1)]
    invert, grey, erase, second = drawn(library.RandomChoice(branches, p=[1, 2, 5]), (30, 30))
    counts = [int(column["active"].sum()) for column in (invert, grey, erase)]
    assert sum(counts) == N
    assert stats.chisquare(counts, np.array([1, 2, 5]) * N / 8).pvalue > 1e-4
    np.testing.assert_array_equal(grey["active"], second["active"])


def test_photometric_distort_tosses_torchvisions_coins():
    columns = drawn(v2.RandomPhotometricDistort(p=0.6), (9, 9))
    active = [column["active"] == 1 for column in columns]
    for index, chance in enumerate([0.6, 0.3, 0.6, 0.6, 0.3, 0.6]):
        assert stats.binomtest(int(active[index].sum()), N, chance).pvalue > 1e-4
    assert not (active[1] & active[4]).any()


# Reading


@pytest.mark.parametrize("new, old", [
    (v2.RandomHorizontalFlip(0.3), v1.RandomHorizontalFlip(0.3)),
    (v2.RandomRotation(9, fill=100), v1.RandomRotation(9, fill=100)),
    (v2.RandomAffine(9, (0.1, 0.2), shear=3), v1.RandomAffine(9, (0.1, 0.2), shear=3)),
    (v2.RandomPerspective(), v1.RandomPerspective()),
    (v2.Resize(9, max_size=12), v1.Resize(9, max_size=12)),
    (v2.RandomResizedCrop(9, interpolation="nearest"), v1.RandomResizedCrop(9, interpolation=NEAREST)),
    (v2.CenterCrop(9), v1.CenterCrop(9)),
    (v2.Grayscale(3), v1.Grayscale(3)),
    (v2.RandomSolarize(128), v1.RandomSolarize(128)),
    (v2.RandomPosterize(3), v1.RandomPosterize(3)),
    (v2.RandomAdjustSharpness(2), v1.RandomAdjustSharpness(2)),
    (v2.Normalize([0.5], [0.5]), v1.Normalize([0.5], [0.5])),
    (v2.RandomErasing(value=(1, 2, 3)), v1.RandomErasing(value=(1, 2, 3))),
    (v2.RandAugment(), v1.RandAugment()),
    (v2.TrivialAugmentWide(), v1.TrivialAugmentWide()),
    (v2.AugMix(), v1.AugMix()),
    (v2.Compose([v2.RandomApply([v2.RandomInvert()], 0.2)]), v1.Compose([v1.RandomApply([v1.RandomInvert()], 0.2)])),
    (v2.ConvertImageDtype(), v1.ConvertImageDtype(torch.float32)),
], ids=lambda module: type(module).__name__)  # fmt: skip
def test_v1_reads_as_v2(new, old):
    assert read(new) == read(old)
    assert not any(isinstance(step, Opaque) for step in read(old))


class Mine(v2.RandomInvert):
    pass


@pytest.mark.parametrize("module, words", [
    (v2.RandomRotation(5, expand=True), "expand"),
    (v2.RandomRotation(5, interpolation="bicubic"), "bicubic"),
    (v2.RandomResizedCrop(5, interpolation=3), "bicubic"),
    (v2.Resize(5, interpolation="lanczos"), "lanczos"),
    (v2.Resize(5, max_size=5), "max_size"),
    (v2.Grayscale(1), "channels"),
    (v2.RandomOrder([v2.RandomInvert()]), "random order"),
    (v2.RandomApply([v2.GaussianBlur(3)]), "contains GaussianBlur: a blur"),
    (v2.RandomChoice([v2.RandomInvert(), v2.AugMix()]), "AugMix"),
    (v2.ToDtype(torch.float32), "scale=True"),
    (v2.ToDtype(torch.uint8, scale=True), "uint8"),
    (v2.ToDtype({tv_tensors.Image: torch.uint8, "others": None}, scale=True), "uint8"),
    (v2.Lambda(lambda x: x), "your own"),
    (v2.Pad(-3), "negative"),
    (Mine(), "subclass of torchvision's RandomInvert"),
    (nn.Identity(), "your own"),
    (len, "your own"),
    (v2.JPEG((5, 50)), "compresses"),
])  # fmt: skip
def test_the_rest_is_opaque_with_its_reason(module, words):
    (step,) = read(module)
    assert isinstance(step, Opaque)
    assert step.module is module
    assert words in step.reason


def test_compose_keeps_opaque_steps_in_their_place():
    blur = v2.GaussianBlur(3)
    steps = read(v2.Compose([v2.RandomInvert(), blur, nn.Sequential(v2.Grayscale(3)), v2.AugMix()]))
    assert [type(step) for step in steps] == [Operation, Opaque, Operation, AugMix]
    assert steps[1].module is blur


def test_conversions_to_floating_images_are_nothing_to_do():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = v2.ToTensor()
    dtypes = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    conversions = [
        *(v2.ToImage(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.ToDtype(dtypes, scale=True)),
        *(old, v1.ToTensor(), v2.ToPureTensor(), v2.Identity()),
    ]
    assert read(conversions) == []


def test_values_above_one_are_levels_until_images_are_known_to_be_floating():
    def filling(*modules):
        return operations_of(list(modules))[-1].fill

    rotate = v2.RandomRotation(5, fill=102)
    assert filling(rotate) == pytest.approx((0.4,))
    assert filling(v2.RandomRotation(5, fill=0.4)) == (0.4,)
    # One value above 1 tells that all are levels.
    assert filling(v2.RandomRotation(5, fill=(0, 1, 255))) == pytest.approx((0, 1 / 255, 1))
    assert filling(v2.RandomRotation(5, fill={tv_tensors.Image: 51, "others": 0})) == pytest.approx((0.2,))
    assert filling(v2.RandomRotation(5, fill={tv_tensors.Mask: 51})) == (0,)
    assert filling(v2.Compose([v2.ToDtype(torch.float32, scale=True)]), v2.Identity(), rotate) == (102,)
    erase = operations_of(v2.Compose([v2.Normalize([0.5], [0.5]), v2.RandomErasing(value=2.5)]))[-1]
    assert erase.constants[-1] == 2.5


def test_interpolation_and_padding_follow_the_module():
    assert operations_of(v2.RandomRotation(5))[0].filter is Filter.NEAREST
    assert operations_of(v2.RandomPerspective())[0].filter is Filter.BILINEAR
    assert operations_of(v2.RandomResizedCrop(5))[0].filter is Filter.TENT
    assert operations_of(v2.Resize(5, antialias=False))[0].filter is Filter.BILINEAR
    assert operations_of(v2.RandomRotation(5))[0].padding is Padding.FILL
    assert operations_of(v2.RandomCrop(5))[0].padding is None
    assert operations_of(v2.RandomCrop(5, padding=1, padding_mode="edge"))[0].padding is Padding.BORDER


def test_streams_of_one_program_differ():
    inner = v2.RandomApply([v2.RandomChoice([v2.RandomInvert(), v2.RandAugment()])])
    operations = operations_of(v2.Compose([inner, inner, v2.RandAugment(), v2.TrivialAugmentWide()]))
    streams = {}
    for operation in operations:
        for gate in operation.gates:
            streams.setdefault(gate.stream, []).append((gate.low, gate.high))
    assert len(streams) == 2 * (1 + 1 + 2) + 2 + 1
    assert {operation.kind for operation in operations} >= {Kind.AFFINE, Kind.INVERT}
