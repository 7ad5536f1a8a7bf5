"""What Kornia's augmentations do, and how they draw, is what the operations read from them do."""

import subprocess
import sys
import warnings

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.composing import compose
from torchaug_gen.augment.drawing import draw
from torchaug_gen.augment.kornia_reader import read
from torchaug_gen.augment.operation import Filter, Kind, Opaque, Operation, Padding, parameter_names

LEVEL = 1 / 255
N = 3000
SIZES = [(40, 53), (53, 40), (31, 31), (1, 1), (2, 7)]
LARGE = SIZES[:3]


@pytest.fixture(scope="module")
def pictures(photographs):
    """Return a function that makes floating images of a size: photographs, noise, and gradients."""
    paths = sorted(photographs.rglob("*.jpg"))[:3]
    opened = [np.array(Image.open(path).convert("RGB").resize((160, 160))) for path in paths]

    def make(size):
        height, width = size
        photos = [torch.from_numpy(array).permute(2, 0, 1)[:, 20 : 20 + height, 30 : 30 + width] for array in opened]
        noise = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(height))
        x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
        ramp = torch.stack([255 * x // max(width, 2), 255 * y // max(height, 2), 255 * (x + y) // (width + height)])
        return torch.cat([torch.stack(photos).long(), noise, ramp[None]]).float() / 255

    return make


def one(module, **settings):
    (operation,) = read(module, **settings)
    assert isinstance(operation, Operation), operation
    return operation


def columns_of(operation, params, images):
    """Return our columns for the parameters that Kornia drew, ``(N, D)``."""
    n, channels = images.shape[:2]
    values = {name: value.double() for name, value in params.items() if torch.is_tensor(value)}
    columns = {"active": (values["batch_prob"] > 0.5).expand(n)}
    if operation.kind is Kind.AFFINE:
        columns |= {"scale_x": 1, "scale_y": 1}
        if "translations" in values:
            columns |= dict(zip(("translate_x", "translate_y"), values["translations"].T, strict=True))
            columns |= dict(zip(("scale_x", "scale_y"), values["scale"].T, strict=True))
        columns |= {name: values[name] for name in ("angle", "translate_x", "translate_y", "shear_x", "shear_y")
                    if name in values}  # fmt: skip
        if "degrees" in values:
            columns["angle"] = values["degrees"]
    elif operation.kind is Kind.QUARTER_TURNS:
        columns["turns"] = values["times"].round()
    elif operation.kind is Kind.PERSPECTIVE:
        corners = values["end_points"].reshape(n, 8).T
        columns |= dict(zip(("x0", "y0", "x1", "y1", "x2", "y2", "x3", "y3"), corners, strict=True))
    elif operation.kind is Kind.CROP and "src" in values:
        padding = values.get("padding_size", torch.zeros(n, 4))
        corner = values["src"][:, 0]
        columns |= {"left": corner[:, 0] - padding[:, 0], "top": corner[:, 1] - padding[:, 2]}
    elif operation.kind is Kind.RESIZED_CROP:
        first, last = values["src"][:, 0], values["src"][:, 2]
        columns |= {"left": first[:, 0], "top": first[:, 1]}
        columns |= {"width": last[:, 0] - first[:, 0] + 1, "height": last[:, 1] - first[:, 1] + 1}
    elif operation.kind is Kind.JITTER:
        columns |= {name: values[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")}
        fixed = operation.constants[-5] == 1
        order = operation.constants[-4:] if fixed else values["order"].tolist()
        columns |= dict(zip(("first", "second", "third", "fourth"), order, strict=True))
    elif operation.kind is Kind.CHANNEL_SHUFFLE:
        columns |= {f"channel_{c}": values["channels"][:, c] for c in range(channels)}
    elif operation.kind is Kind.CHANNEL_DROPOUT:
        dropped = torch.zeros(n, channels).scatter_(1, values["channel_idx"].long(), 1)
        columns |= {f"channel_{c}": dropped[:, c] for c in range(channels)}
    elif operation.kind is Kind.ERASE:
        columns |= {"top": values["ys"], "left": values["xs"], "height": values["heights"], "width": values["widths"]}
    else:
        ours = {
            "r_shift": "red", "g_shift": "green", "b_shift": "blue", "idx": "row", "gamma_factor": "gamma",
            "gain_factor": "gain", "thresholds": "threshold", "additions": "addition", "bits_factor": "bits",
            "brightness_factor": "factor", "contrast_factor": "factor", "saturation_factor": "factor",
            "hue_factor": "factor", "sharpness": "factor", "amount_factor": "amount", "salt_and_pepper_factor": "salt",
        }  # fmt: skip
        columns |= {ours[name]: value for name, value in values.items() if name in ours}
    rows = np.zeros((n, len(list(parameter_names(operation.kind, channels)))))
    for row, name in zip(rows.T, parameter_names(operation.kind, channels), strict=True):
        row[:] = columns.get(name, 0)
    return rows


def ours(operations, rows, images):
    tables = compose(
        operations,
        rows,
        sizes=np.tile(np.int32(images.shape[2:]), (len(images), 1)),
        channels=images.shape[1],
        seed=1,
        epoch=2,
        positions=np.arange(len(images)),
    )
    return reference.run(tables, images)


def compare(module, images, *, tolerance=LEVEL, outliers=0.0, inner=0):
    """Compare with what Kornia makes of images with parameters of its own."""
    operation = one(module)
    params = module.forward_parameters(images.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = module(images.clone(), params=params)
    got = ours([operation], columns_of(operation, params, images), images)
    assert got.shape == expected.shape
    off = (got - expected).abs() > tolerance
    if inner:
        off = off[..., inner:-inner, inner:-inner]
    assert off.float().mean() <= outliers, f"{off.sum()} of {off.numel()} off, by {(got - expected).abs().max()}"


# Geometry

WARPS = {
    "rotation": lambda **s: K.RandomRotation(50.0, p=1, **s),
    "affine": lambda **s: K.RandomAffine(40.0, (0.2, 0.3), (0.6, 1.6), (-20.0, 20.0, -15.0, 15.0), p=1, **s),
    "affine, scales apart": lambda **s: K.RandomAffine((10.0, 30.0), scale=(0.5, 0.9, 1.1, 1.5), p=0.7, **s),
    "shear": lambda **s: K.RandomShear((-20.0, 30.0, -5.0, 25.0), p=1, **s),
    "translation": lambda **s: K.RandomTranslate((-0.4, 0.3), (0.1, 0.5), p=1, **s),
    "perspective": lambda **s: K.RandomPerspective(0.6, p=1, **s),
    "perspective of equal area": lambda **s: K.RandomPerspective(0.4, p=1, sampling_method="area_preserving", **s),
}


@pytest.mark.parametrize("settings", [
    {}, {"align_corners": True}, {"align_corners": False}, {"resample": "nearest"},
], ids=["default", "corners", "halves", "nearest"])  # fmt: skip
@pytest.mark.parametrize("name", WARPS)
def test_warps_match(pictures, name, settings):
    torch.manual_seed(0)
    # With align_corners Kornia cannot move an image of one pixel: its corners are one point.
    for size in SIZES if not settings.get("align_corners") else [size for size in SIZES if size != (1, 1)]:
        # Where a sampling point lies half-way between pixels, either one is its nearest.
        compare(WARPS[name](**settings), pictures(size), outliers=0.01 if "resample" in settings else 0.0)


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("mode", ["border", "reflection", "fill"])
@pytest.mark.parametrize("name", ["affine", "shear", "translation"])
def test_what_lies_outside_matches(pictures, name, mode, corners):
    torch.manual_seed(1)
    settings = {"padding_mode": mode, "align_corners": corners}
    if mode == "fill" and name != "affine":
        pytest.skip("only RandomAffine takes a fill value")
    if mode == "fill":
        settings["fill_value"] = torch.tensor([0.2, 0.5, 0.9])
    for size in LARGE:
        compare(WARPS[name](**settings), pictures(size))


@pytest.mark.parametrize("size", SIZES)
def test_flips_and_turns_match(pictures, size):
    torch.manual_seed(2)
    for module in (K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=1), K.RandomRotation90((-3, 3), p=1)):
        exact = size[0] == size[1] or not isinstance(module, K.RandomRotation90)
        compare(module, pictures(size), tolerance=1e-5 if exact else LEVEL)


CROPS = {
    "plain": {"size": (20, 15)},
    "padded": {"size": (32, 30), "padding": 4},
    "padded along axes": {"size": (30, 25), "padding": (5, 2), "fill": 0.3},
    "padded by sides": {"size": (30, 25), "padding": (1, 2, 3, 4), "fill": (0.1, 0.2, 0.3)},
    "edge": {"size": (33, 30), "padding": (5, 2), "padding_mode": "replicate"},
    "reflect": {"size": (33, 30), "padding": 6, "padding_mode": "reflect"},
    "if needed": {"size": (60, 44), "pad_if_needed": True, "fill": 0.7},
    "if needed, and padded": {"size": (48, 60), "pad_if_needed": True, "padding": 2},
    "by warping": {"size": (20, 15), "cropping_mode": "resample"},
    "none": {"size": (20, 15), "p": 0.0},
}


@pytest.mark.parametrize("name", CROPS)
def test_random_crops_match(pictures, name):
    torch.manual_seed(3)
    for size in LARGE:
        compare(K.RandomCrop(**CROPS[name]), pictures(size), tolerance=1e-4)


@pytest.mark.parametrize("size", [(20, 15), (31, 30), (1, 1)])
def test_center_crops_match(pictures, size):
    for shape in LARGE:
        for mode in ("slice", "resample"):
            compare(K.CenterCrop(size, cropping_mode=mode), pictures(shape), tolerance=1e-4)


@pytest.mark.parametrize("mode", ["constant", "replicate", "reflect"])
def test_pads_match(pictures, mode):
    for size in LARGE:
        for target in ((60, 60), (45, 58), (20, 57), (10, 12)):
            value = 0.4 if mode == "constant" else 0.0
            compare(K.PadTo(target, pad_mode=mode, pad_value=value), pictures(size), tolerance=1e-5)


RESIZES = {
    "smaller": (K.Resize, (20, 17)),
    "larger": (K.Resize, (90, 101)),
    "one pixel": (K.Resize, (1, 30)),
    "short side": (K.Resize, 23),
    "longest": (K.LongestMaxSize, 33),
    "smallest": (K.SmallestMaxSize, 61),
}


@pytest.mark.parametrize("settings", [{}, {"align_corners": False}, {"resample": "nearest"}], ids=str)
@pytest.mark.parametrize("name", RESIZES)
def test_resizes_match(pictures, name, settings):
    cls, size = RESIZES[name]
    for shape in SIZES if name in ("smaller", "larger", "one pixel") else LARGE:
        compare(cls(size, **settings), pictures(shape), tolerance=1e-4)


@pytest.mark.parametrize("settings", [{}, {"align_corners": False}, {"resample": "nearest"}], ids=str)
@pytest.mark.parametrize("mode", ["slice", "resample"])
def test_random_resized_crops_match(pictures, mode, settings):
    """A half-pixel slice repeats the edge of the crop; we see the image beyond it, so outermost pixels may differ."""
    torch.manual_seed(4)
    for size in LARGE:
        module = K.RandomResizedCrop((24, 29), scale=(0.3, 1), cropping_mode=mode, **settings)
        inner = 3 if settings == {"align_corners": False} and mode == "slice" else 0
        # Up to two of 29 columns lie half-way between pixels, where either one is the nearest.
        ties = 0.08 if "resample" in settings and mode == "resample" else 0.0
        compare(module, pictures(size), tolerance=1e-4, inner=inner, outliers=ties)


# Colour and cover

COLOURS = {
    "jitter": lambda: K.ColorJitter((0.5, 1.5), 0.4, 0.4, 0.3),
    "jitter, hue alone": lambda: K.ColorJitter(hue=0.5),
    "jitter, half": lambda: K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.5),
    "jitter in order": lambda: K.ColorJitter(0.4, 0.4, 0.4, 0.3, order=(2, 0, 3)),
    "jiggle": lambda: K.ColorJiggle(0.3, 0.4, 0.5, 0.2),
    "brightness": lambda: K.RandomBrightness((0.5, 1.5)),
    "brightness, unclipped": lambda: K.RandomBrightness((0.5, 1.5), clip_output=False),
    "contrast": lambda: K.RandomContrast((0.2, 1.8)),
    "contrast, unclipped": lambda: K.RandomContrast((0.2, 1.8), clip_output=False),
    "saturation": lambda: K.RandomSaturation((0.0, 2.0)),
    "hue": lambda: K.RandomHue((-0.5, 0.5)),
    "gamma": lambda: K.RandomGamma((0.5, 2.0), (0.7, 1.5)),
    "solarize": lambda: K.RandomSolarize(0.3, 0.3, p=1),
    "posterize": lambda: K.RandomPosterize((0.0, 8.0), p=1),
    "invert": lambda: K.RandomInvert(p=0.5),
    "invert about 0.7": lambda: K.RandomInvert(torch.tensor(0.7), p=1),
    "equalize": lambda: K.RandomEqualize(p=0.6),
    "autocontrast": K.RandomAutoContrast,
    "grayscale": lambda: K.RandomGrayscale(p=0.5),
    "grayscale by weights": lambda: K.RandomGrayscale(torch.tensor([0.5, 0.3, 0.2]), p=1),
    "shuffle": lambda: K.RandomChannelShuffle(p=1),
    "dropout": lambda: K.RandomChannelDropout(2, 0.4, p=0.5),
    "shift": lambda: K.RandomRGBShift(0.3, (0.1, 0.4), 0.0, p=1),
    "planckian": lambda: K.RandomPlanckianJitter(p=1),
    "planckian, CIED": lambda: K.RandomPlanckianJitter("CIED", [3, 7, 20], p=1),
    "sharpness": lambda: K.RandomSharpness((0.0, 3.0), p=1),
    "normalize": lambda: K.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
    "normalize by tensors": lambda: K.Normalize(torch.tensor([[0.4, 0.5, 0.6]]), torch.tensor(0.25).view(1)),
    "denormalize": lambda: K.Denormalize(0.5, [0.2, 0.3, 0.4]),
    "erasing": lambda: K.RandomErasing(p=0.7, value=0.3),
    "erasing of all": lambda: K.RandomErasing((0.9, 1.4), (0.4, 0.8), p=1),
}
# A value on the edge between two steps may fall to either side.
JUMPS = ("posterize", "equalize", "solarize")


@pytest.mark.parametrize("name", COLOURS)
def test_colour_and_cover_match(pictures, name):
    torch.manual_seed(5)
    for size in SIZES:
        if name == "sharpness" and min(size) < 3:
            continue
        images = pictures(size)
        for values in (images, images * 0.83 + 0.07):
            compare(COLOURS[name](), values, tolerance=LEVEL / 10, outliers=0.004 if name in JUMPS else 0.0)


@pytest.mark.parametrize("name", ["jitter", "jiggle", "contrast", "saturation", "hue", "gamma", "solarize", "shift",
                                  "planckian", "equalize", "sharpness", "autocontrast", "grayscale"])  # fmt: skip
def test_inputs_are_clamped_where_kornia_clamps_them(pictures, name):
    torch.manual_seed(6)
    images = pictures((31, 31))
    normalize, module = K.Normalize(0.3, 0.4), COLOURS[name]()
    operations = [*read(normalize), *read(module)]
    assert operations[0].kind is Kind.NORMALIZE
    params = module.forward_parameters(images.shape)
    expected = module(normalize(images), params=params)
    rows = np.concatenate([np.ones((len(images), 1)), columns_of(operations[1], params, images)], axis=1)
    off = (ours(operations, rows, images) - expected).abs() > LEVEL / 10
    assert off.float().mean() <= (0.004 if name in JUMPS else 0.0)


def test_grey_images_go_through_colour_that_leaves_them(pictures):
    torch.manual_seed(7)
    images = pictures((20, 30))[:, :1]
    for module in (
        K.ColorJitter(0.4, 0.4, 0.4),
        K.RandomGrayscale(p=1),
        K.RandomInvert(p=1),
        K.RandomBrightness((0.5, 2)),
    ):
        compare(module, images, tolerance=LEVEL / 10)


@pytest.mark.parametrize("module", [K.RandomRGBShift(p=1), K.RandomHue((-0.1, 0.1)), K.RandomGrayscale(p=1)], ids=str)
def test_colour_that_needs_rgb_says_so(module):
    operation = one(module)
    width = len(list(parameter_names(operation.kind, 5)))
    with pytest.raises(ValueError, match=rf"{type(module).__name__}.*channels, got 5"):
        ours([operation], np.ones((1, width)), torch.zeros(1, 5, 4, 4))


def test_noise_has_kornias_distribution():
    images = torch.full((4, 3, 50, 40), 0.5)
    operation = one(K.RandomGaussianNoise(0.1, 0.3, p=1))
    got = ours([operation], np.tile([1, 0.1, 0.3], (4, 1)), images)
    assert stats.kstest(got.flatten().numpy(), stats.norm(0.6, 0.3).cdf).pvalue > 1e-4
    operation = one(K.RandomSaltAndPepperNoise(0.3, 0.8, p=1))
    got = ours([operation], np.tile([1, 0.3, 0.8], (4, 1)), images)
    assert torch.equal(got[:, 0], got[:, 1])
    changed = int((got[:, 0] != 0.5).sum())
    assert stats.binomtest(changed, 8000, 0.3).pvalue > 1e-4
    assert stats.binomtest(int((got[:, 0] == 1).sum()), changed, 0.8).pvalue > 1e-4


# Distributions


def drawn(module, size=(40, 53), n=N):
    operations = read(module)
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
    values = np.unique(np.concatenate([ours_, theirs]))
    if len(values) == 1 or np.ptp(values) < 1e-6:
        return
    if len(values) <= 40:
        edges = np.append(values - 1e-9, np.inf)
        table = np.stack([np.histogram(sample, edges)[0] for sample in (ours_, theirs)])
        assert stats.chi2_contingency(table).pvalue > 1e-5, name
    else:
        assert stats.ks_2samp(ours_, theirs).pvalue > 1e-5, name


DRAWS = {
    **{f"warp, {name}": (make(), (40, 53)) for name, make in WARPS.items()},
    **{f"colour, {name}": (make(), (40, 53)) for name, make in COLOURS.items()},
    "quarter turns": (K.RandomRotation90((-3, 2), p=0.4), (31, 31)),
    "flip": (K.RandomHorizontalFlip(p=0.3), (9, 9)),
    "crop": (K.RandomCrop((30, 40), padding=(1, 2, 3, 4)), (40, 53)),
    "crop if needed": (K.RandomCrop((60, 44), pad_if_needed=True), (40, 53)),
    "resized crop": (K.RandomResizedCrop((24, 24), (0.1, 1)), (40, 53)),
    "resized crop of extremes": (K.RandomResizedCrop((24, 24), (0.6, 1), (2.0, 5.0)), (40, 53)),
    "erasing below": (K.RandomErasing((0.1, 0.6), (0.2, 0.9), p=1), (40, 53)),
    "noise": (K.RandomGaussianNoise(p=0.3), (9, 9)),
    "salt": (K.RandomSaltAndPepperNoise((0.1, 0.2), (0.3, 0.9), p=1), (9, 9)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_parameters_have_kornias_distribution(name):
    module, size = DRAWS[name]
    torch.manual_seed(8)
    images = torch.zeros(1, 1, 1, 1).expand(N, 3, *size)
    operation = one(module)
    params = module.forward_parameters(images.shape)
    theirs = dict(zip(parameter_names(operation.kind, 3), columns_of(operation, params, images).T, strict=True))
    (columns,) = drawn(module, size)
    same_distribution(columns["active"], theirs["active"], "active")
    if operation.kind is Kind.JITTER and not module._fixed_order:
        # One order per batch there.
        orders = [torch.randperm(4).tolist() for _ in range(N)]
        theirs |= dict(zip(("first", "second", "third", "fourth"), np.array(orders).T, strict=True))
        theirs["order"] = np.array(orders) @ [64, 16, 4, 1]
        columns["order"] = np.stack([columns[c] for c in ("first", "second", "third", "fourth")], 1) @ [64, 16, 4, 1]
    if operation.kind is Kind.GAUSSIAN_NOISE:
        # Kornia draws pixels there.
        del theirs["mean"], theirs["sigma"]
    for key in theirs:
        acts, would_act = columns["active"] == 1, theirs["active"] == 1
        same_distribution(columns[key][acts], theirs[key][would_act], key)


@pytest.mark.parametrize("make", [K.RandomCrop, K.RandomResizedCrop], ids=lambda cls: cls.__name__)
def test_batch_wide_chances_are_tossed_once_per_batch(make):
    operations = read(make((9, 9), p=0.3))
    acts = []
    for epoch in range(400):
        table = draw(
            operations, seed=1, epoch=epoch, positions=np.arange(8), sizes=np.full((8, 2), 9, np.int32), channels=3
        )
        assert np.ptp(table[:, 0]) == 0
        acts.append(int(table[0, 0]))
    assert stats.binomtest(sum(acts), 400, 0.3).pvalue > 1e-4


@pytest.mark.parametrize("module", [
    K.RandomRotation(30.0, same_on_batch=True, p=0.5), K.ColorJitter(0.5, same_on_batch=True),
    K.RandomHorizontalFlip(same_on_batch=True), K.Normalize(0.5, 0.5, p=0.5), K.Resize((5, 5), p=0.5),
], ids=lambda module: type(module).__name__)  # fmt: skip
def test_same_on_batch_draws_once(module):
    operations = read(module)
    tables = [
        draw(operations, seed=1, epoch=e, positions=np.arange(5, 9), sizes=np.full((4, 2), 9, np.int32), channels=3)
        for e in range(40)
    ]
    assert all((table == table[0]).all() for table in tables)
    assert len({table.tobytes() for table in tables}) > 1


# Reading


def test_settings_are_read():
    assert one(K.RandomRotation(5.0)).filter is Filter.BILINEAR
    assert one(K.RandomRotation(5.0, resample="nearest")).filter is Filter.NEAREST
    assert one(K.RandomAffine(5.0, padding_mode="reflection", align_corners=True)).padding is Padding.REFLECT
    assert one(K.RandomAffine(5.0, padding_mode="reflection", align_corners=False)).padding is Padding.SYMMETRIC
    assert one(K.RandomGrayscale(p=0.2)).probability == 0.2
    assert one(K.CenterCrop(5)).name == "CenterCrop"


def test_containers_are_read_in_order():
    inner = K.ImageSequential(K.RandomInvert(), K.RandomGaussianBlur((3, 3), (1.0, 2.0)), same_on_batch=True)
    module = K.AugmentationSequential(K.RandomHorizontalFlip(), inner, nn.Sequential(K.RandomGrayscale()))
    steps = read(module)
    assert [type(step).__name__ for step in steps] == ["Operation", "Operation", "Opaque", "Operation"]
    assert steps[1].shared and not steps[0].shared
    assert steps[2].module is inner[1]
    assert "blur" in steps[2].reason


def test_random_apply_of_one_is_a_choice_for_the_batch():
    module = K.ImageSequential(
        K.RandomInvert(p=1), K.RandomGrayscale(p=1), random_apply=1, random_apply_weights=[1.0, 3.0]
    )
    counts = np.zeros(2)
    for epoch in range(400):
        columns = draw(
            read(module), seed=3, epoch=epoch, positions=np.arange(3), sizes=np.full((3, 2), 9, np.int32), channels=3
        )
        assert (columns == columns[0]).all()
        assert columns[0].sum() == 1
        counts += columns[0]
    assert stats.binomtest(int(counts[0]), 400, 0.25).pvalue > 1e-4


class Mine(K.RandomInvert):
    pass


@pytest.mark.parametrize("module, words", [
    (K.RandomGaussianBlur((3, 3), (0.1, 2.0)), "blur"),
    (K.RandomElasticTransform(), "offset"),
    (K.RandomClahe(), "tiles"),
    (K.RandomPlasmaShadow(), "plasma"),
    (K.RandomMixUpV2(), "MixUp"),
    (K.RandomRotation(5.0, resample="bicubic"), "bicubic"),
    (K.Resize(5, antialias=True), "antialias"),
    (K.Resize(5, side="vert"), "side"),
    (K.PadTo((5, 5), crop_if_exceeds=False), "crop_if_exceeds"),
    (K.PadTo((5, 5), pad_mode="circular"), "circular"),
    (K.RandomGaussianNoise(same_on_batch=True), "same noise"),
    (K.RandomInvert(torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)), "channel"),
    (K.Normalize(torch.zeros(4, 3), torch.ones(4, 3)), "shape"),
    (K.Normalize(0.0, 0.0), "divides by 0"),
    (K.ImageSequential(K.RandomInvert(), K.RandomGrayscale(), random_apply=True), "random order"),
    (K.ImageSequential(K.RandomGaussianBlur((3, 3), (0.1, 2.0)), random_apply=1), "chooses from RandomGaussianBlur"),
    (K.PatchSequential(K.RandomInvert(), patchwise_apply=False), "patches"),
    (K.RandomRGBShift(nn.Parameter(torch.tensor([0.1, 0.2]))), "learns"),
    (Mine(), "subclass of Kornia's RandomInvert"),
    (nn.Identity(), "your own"),
    (len, "your own"),
], ids=lambda value: value if isinstance(value, str) else type(value).__name__)  # fmt: skip
def test_the_rest_is_opaque_with_its_reason(module, words):
    (step,) = read(module)
    assert isinstance(step, Opaque)
    assert step.module is module
    assert words in step.reason


def test_every_fused_augmentation_of_kornia_is_known_by_its_name():
    from torchaug_gen.augment import kornia_reader

    for name in (*kornia_reader._READERS, *kornia_reader._REASONS):
        assert hasattr(K, name) or "Dispather" in name, name


def test_kornia_is_not_imported_for_other_modules():
    code = (
        "import sys; from torchaug_gen.augment.kornia_reader import read; from torch import nn; read(nn.Identity());"
        "assert not any(name.startswith('kornia') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
