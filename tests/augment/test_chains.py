"""Chains of operations: one resampling by the composed matrix, one pass over the pixels, on every backend alike."""

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from torchaug_gen import fuse

BILINEAR, NEAREST = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST
LEVEL = 1 / 255


def pictures(n, height, width, seed=0):
    """Return uint8 images with edges, gradients and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    images = np.empty((n, 3, height, width))
    for n_, c in np.ndindex(n, 3):
        a, b, phase = random.uniform(-0.9, 0.9, 3)
        images[n_, c] = 127 + 90 * np.sin(a * x + b * y + 7 * phase) + random.normal(0, 12, (height, width))
    images[:, :, height // 3 : height // 2, width // 4 : width // 2] = 235
    return torch.from_numpy(images.clip(0, 255).round().astype(np.uint8))


# Warps. Each is a maker of a module, and how its matrix follows from its parameters: forward, in pixels, float64.


def about_centre(linear, size, shift=(0.0, 0.0)):
    """Return the map x -> linear · (x - c) + c + shift about the centre of an image."""
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + np.asarray(shift) - linear @ centre
    return matrix


def turn(degrees):
    """Return a turn counter-clockwise on screen, where y points down."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s], [-s, c]])


def flip_matrix(size, *, x=False, y=False):
    return about_centre(np.diag([-1.0 if x else 1.0, -1.0 if y else 1.0]), size)


def rotation_matrix(p, size):
    return about_centre(turn(p["angle"]), size)


def kornia_affine_matrix(p, size):
    # RandomAffine turns clockwise; scale and turn follow the shear. Without a shear along y its matrix is plain.
    linear = turn(-p["angle"]) @ np.diag([p["scale_x"], p["scale_y"]])
    shear = np.array([[1.0, -np.tan(np.radians(p["shear_x"]))], [0.0, 1.0]])
    return about_centre(linear @ shear, size, (p["translate_x"], p["translate_y"]))


def torchvision_affine_matrix(p, size):
    a, x, y = (np.radians(p[name]) for name in ("angle", "shear_x", "shear_y"))
    linear = p["scale_x"] * np.array(
        [
            [np.cos(a - y) / np.cos(y), -np.cos(a - y) * np.tan(x) / np.cos(y) - np.sin(a)],
            [np.sin(a - y) / np.cos(y), -np.sin(a - y) * np.tan(x) / np.cos(y) + np.cos(a)],
        ]
    )
    return about_centre(linear, size, (p["translate_x"], p["translate_y"]))


def perspective_matrix(p, size):
    """Solve for the homography that takes the corners of the image where they go."""
    height, width = size
    rows, right = [], []
    for k, (x, y) in enumerate([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]):
        u, v = p[f"x{k}"], p[f"y{k}"]
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, np.float64), np.array(right)), 1.0).reshape(3, 3)


def resize_matrix(size, new, window=None):
    """Return the map of half-pixel centres from a window (top, left, height, width) to a new size."""
    top, left, height, width = window or (0, 0, *size)
    sx, sy = new[1] / width, new[0] / height
    return np.array([[sx, 0, (0.5 - left) * sx - 0.5], [0, sy, (0.5 - top) * sy - 0.5], [0, 0, 1.0]])


WARPS = {
    "K.flip": (lambda: K.RandomHorizontalFlip(p=0.7), lambda p, s: flip_matrix(s, x=True)),
    "v2.flip": (lambda: v2.RandomVerticalFlip(0.7), lambda p, s: flip_matrix(s, y=True)),
    "K.rotation": (lambda: K.RandomRotation(40.0, p=0.9), rotation_matrix),
    "v2.rotation": (lambda: v2.RandomRotation(40, interpolation=BILINEAR), rotation_matrix),
    "K.affine": (
        lambda: K.RandomAffine(25.0, (0.2, 0.2), (0.7, 1.4, 0.7, 1.4), (-15.0, 15.0), p=0.9),
        kornia_affine_matrix,
    ),
    "K.translate": (lambda: K.RandomTranslate((0.1, 0.4), (-0.3, 0.3), p=0.9), kornia_affine_matrix),
    "v2.affine": (
        lambda: v2.RandomAffine(25, (0.2, 0.2), (0.7, 1.4), (-10, 10, -10, 10), interpolation=BILINEAR),
        torchvision_affine_matrix,
    ),
    "K.perspective": (lambda: K.RandomPerspective(0.3, p=0.9), perspective_matrix),
}
warp_chains = st.lists(st.sampled_from(sorted(WARPS)), min_size=2, max_size=10)
odd_sizes = st.tuples(st.integers(4, 24), st.integers(4, 24)).map(lambda s: (2 * s[0] + 1, 2 * s[1] + 1))


def composed(names, parameters, n, size):
    """Return the map from input to output pixels of a sample, in float64, without the package's own composition."""
    total = np.eye(3)
    for name, (_, columns) in zip(names, parameters, strict=True):
        if columns["active"][n]:
            total = WARPS[name][1]({key: float(column[n]) for key, column in columns.items()}, size) @ total
    return total / total[2, 2]


def sample(image, forward, size):
    """Return one bilinear resampling (C, h, w) of a float64 image, zeros outside, in float64."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    u, v, w = np.einsum("ij,jhw->ihw", np.linalg.inv(forward), np.stack((x, y, np.ones_like(x))))
    u, v = u / w, v / w
    image = np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)))
    height, width = image.shape[1:]
    left, top = np.floor(u), np.floor(v)
    out = np.zeros((len(image), *size))
    for dx, dy in np.ndindex(2, 2):
        weight = (1 - abs(u - left - dx)) * (1 - abs(v - top - dy))
        i = np.clip(left + dx + 1, 0, width - 1).astype(int)
        j = np.clip(top + dy + 1, 0, height - 1).astype(int)
        out += weight * image[:, j, i]
    return torch.from_numpy(out)


@settings(max_examples=40, deadline=None)
@given(warp_chains, odd_sizes, st.integers(0, 2**32))
def test_a_chain_of_warps_is_one_resampling_by_the_composed_matrix(names, size, seed):
    images = pictures(2, *size, seed=seed)
    transform = fuse([WARPS[name][0]() for name in names])
    assert [stage.kind for stage in transform.plan().stages] == ["warp"]
    parameters = transform.parameters_for(images, seed=seed)
    forward = [composed(names, parameters, n, size) for n in range(2)]
    given_matrix = parameters.matrix.numpy()
    exact = torch.stack([sample(images[n].double() / 255, forward[n], size) for n in range(2)])
    # Near a horizon nothing is steady, and no two correct matrices agree.
    if any(np.linalg.cond(matrix) > 1e6 or horizon_shows(matrix, size) for matrix in forward):
        return
    np.testing.assert_allclose(given_matrix, forward, rtol=1e-7, atol=1e-7 * max(size))
    assert (transform(images, seed=seed) - exact).abs().max() < LEVEL
    from_bytes = fuse([WARPS[name][0]() for name in names], dtype=torch.uint8)(images, seed=seed)
    assert (from_bytes / 255 - exact).abs().max() < LEVEL
    assert (transform((images / 255), seed=seed) - exact).abs().max() < 1e-4


def horizon_shows(forward, size):
    inverse = np.linalg.inv(forward)
    corners = [(x, y, 1.0) for x in (0, size[1] - 1) for y in (0, size[0] - 1)]
    w = [float(inverse[2] @ corner) for corner in corners]
    return min(w) <= 0.05 * max(map(abs, w))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_large_images_keep_their_precision(backend):
    images = pictures(2, 511, 509) / 255
    names = ["K.rotation", "v2.affine", "K.flip", "K.perspective", "K.affine"]
    transform = fuse([WARPS[name][0]() for name in names], backend=backend)
    parameters = transform.parameters_for(images, seed=2)
    result = transform(images, seed=2)
    for n in range(2):
        exact = sample(images[n].double(), composed(names, parameters, n, (511, 509)), (511, 509))
        assert (result[n] - exact).abs().max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(warp_chains, odd_sizes, st.integers(0, 2**32))
def test_coordinates_follow_the_composed_matrix(names, size, seed):
    images = pictures(2, *size)
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1, (2, 5, 2)) * (size[1] - 1, size[0] - 1)
    # Boxes of no clipping and of any kind: the first is tiny, and in the middle.
    middle = np.array([size[1], size[0]]) / 2
    boxes = np.concatenate((middle + random.uniform(-1, 0, (2, 3, 2)), middle + random.uniform(0.1, 1, (2, 3, 2))), 2)
    transform = fuse([WARPS[name][0]() for name in names])
    parameters = transform.parameters_for(images, seed=seed)
    _, moved_boxes, moved = transform(
        images, boxes=torch.from_numpy(boxes), keypoints=torch.from_numpy(points), seed=seed
    )
    for n in range(2):
        forward = composed(names, parameters, n, size)
        if horizon_shows(forward, size) or np.linalg.cond(forward) > 1e6:
            continue
        places = np.concatenate((points[n], np.ones((5, 1))), 1) @ forward.T
        scale = max(1.0, np.abs(places[:, :2] / places[:, 2:]).max() / 1e3)
        np.testing.assert_allclose(moved[n], places[:, :2] / places[:, 2:], rtol=0, atol=1e-3 * scale)
        for box, result in zip(boxes[n], moved_boxes[n].numpy(), strict=True):
            corners = np.array([(box[i], box[j], 1.0) for i in (0, 2) for j in (1, 3)]) - (0.5, 0.5, 0)
            corners = corners @ forward.T
            corners = corners[:, :2] / corners[:, 2:] + 0.5
            expected = np.concatenate((corners.min(0), corners.max(0)))
            if (result != 0).any() and (expected[:2] > 0).all() and (expected[2:] < (size[1], size[0])).all():
                np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)


def test_content_that_leaves_the_frame_and_comes_back_is_still_there():
    images = pictures(3, 41, 43)
    for there, back in (
        ([K.RandomTranslate((0.5, 0.5), p=1.0)], [K.RandomTranslate((-0.5, -0.5), p=1.0)]),
        ([K.RandomAffine(0.0, scale=(3.0, 3.0), p=1.0)], [K.RandomAffine(0.0, scale=(1 / 3, 1 / 3), p=1.0)]),
        ([K.RandomRotation((45.0, 45.0), p=1.0)], [K.RandomRotation((-45.0, -45.0), p=1.0)]),
    ):
        result = fuse([*there, K.RandomHorizontalFlip(p=1.0), K.RandomHorizontalFlip(p=1.0), *back])(images)
        assert (result - images / 255).abs().max() < 1e-3


# Colour and warps

CONTINUOUS = {
    "K.jitter": lambda: K.ColorJitter(0.4, 0.4, 0.4, 0.0, p=0.8),
    "K.jiggle": lambda: K.ColorJiggle(0.3, 0.3, 0.0, 0.0, p=0.8),
    "v2.jitter": lambda: v2.ColorJitter(0.4, 0.4, 0.4),
    "K.brightness": lambda: K.RandomBrightness((0.7, 1.3), p=0.8),
    "K.contrast": lambda: K.RandomContrast((0.7, 1.3), p=0.8),
    "K.gamma": lambda: K.RandomGamma((1.0, 1.8), (0.8, 1.1), p=0.8),
    "K.invert": lambda: K.RandomInvert(p=0.5),
    "K.grayscale": lambda: K.RandomGrayscale(p=0.4),
    "v2.autocontrast": lambda: v2.RandomAutocontrast(0.5),
    "v2.sharpness": lambda: v2.RandomAdjustSharpness(1.7, 0.6),
    "K.shift": lambda: K.RandomRGBShift(0.3, 0.3, 0.3, p=0.7),
    "v2.shuffle": v2.RandomChannelPermutation,
    "K.dropout": lambda: K.RandomChannelDropout(p=0.3),
    "K.planckian": lambda: K.RandomPlanckianJitter(p=0.6),
    "K.erasing": lambda: K.RandomErasing(p=0.6),
    "v2.erasing": lambda: v2.RandomErasing(0.6, value="random"),
    "K.noise": lambda: K.RandomGaussianNoise(std=0.05, p=0.6),
    "v2.normalize": lambda: v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
}
COLOURS = [name for name in CONTINUOUS if name not in ("v2.normalize",)]
RESIZES = {
    "v2.crop": lambda: v2.RandomResizedCrop((23, 21), (0.3, 1.0)),
    "K.crop": lambda: K.RandomResizedCrop((23, 21), (0.3, 1.0)),
    "v2.resize": lambda: v2.Resize((17, 33)),
    "K.pad": lambda: K.RandomCrop((25, 29), padding=9, pad_if_needed=True, padding_mode="reflect"),
}
EVERYTHING = CONTINUOUS | RESIZES | {name: make for name, (make, _) in WARPS.items()}


def agree(names, images, seed, tolerance, **options):
    """Check that the compiled backend computes what the differentiable one does."""
    results = [
        fuse([EVERYTHING[name]() for name in names], backend=backend, **options)(images, seed=seed)
        for backend in ("cpu", "reference")
    ]
    difference = (results[0] - results[1]).abs()
    # A slope of the normalisation is no error of the backends.
    assert difference.max() < tolerance * 5 ** names.count("v2.normalize"), names


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(COLOURS)), min_size=2, max_size=6), odd_sizes, st.integers(0, 2**32), st.booleans()
)
def test_backends_agree_on_colours(names, size, seed, is_float):
    images = pictures(2, *size, seed=seed)
    agree(names, images / 255 if is_float else images, seed, 2e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(EVERYTHING)), min_size=2, max_size=10), odd_sizes, st.integers(0, 2**32))
def test_backends_agree_on_everything(names, size, seed):
    # Normalised values are no colours: it comes last.
    names = [name for name in names if name != "v2.normalize"]
    names += ["v2.normalize"] * (seed % 2)
    images = pictures(2, *size, seed=seed)
    agree(names, images, seed, LEVEL)
    agree(names, images / 255, seed, 1e-4)


# Hoisting: what is moved across colour gives what the order as written would give


def jittered(images, columns, n):
    """Return torchvision's ColorJitter with drawn parameters, in the drawn order, on one image in float64."""
    image = images
    adjust = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    names = ("brightness", "contrast", "saturation")
    for place in ("first", "second", "third", "fourth"):
        which = int(columns[place][n])
        if 0 <= which < 3:
            image = adjust[which](image, float(columns[names[which]][n]))
    return image


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("seed", range(3))
def test_the_usual_recipe_is_what_its_steps_are(backend, seed):
    images = pictures(8, 45, 51, seed=seed) / 255
    modules = [
        v2.RandomResizedCrop((32, 32), (0.2, 0.9)),
        v2.ColorJitter(0.5, 0.5, 0.5),
        v2.RandomHorizontalFlip(0.5),
        v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
    ]
    transform = fuse(modules, backend=backend)
    parameters = transform.parameters_for(images, seed=seed)
    result = transform(images, seed=seed)
    (_, crop), (_, jitter), (_, flip), _ = parameters
    for n, image in enumerate(images.double()):
        top, left, height, width = (int(crop[name][n]) for name in ("top", "left", "height", "width"))
        window = image[None, :, top : top + height, left : left + width]
        step = F.interpolate(window, (32, 32), mode="bilinear", antialias=True, align_corners=False)[0]
        # A composed warp sees the pixels around the window where a crop repeats its edge.
        inside = slice(4, 28)
        step = jittered(step, jitter, n)
        step = step.flip(-1) if flip["active"][n] else step
        step = (step - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        difference = (result[n] - step).abs()
        assert difference[:, inside, inside].max() < 0.02, (n, difference.max())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_crop_does_not_cross_a_statistic(backend):
    images = torch.zeros(4, 3, 20, 24)
    images[:, :, 10:] = torch.rand(4, 3, 10, 24, generator=torch.Generator().manual_seed(0))
    images[:, :, :10] += 0.1
    for statistic, function in (
        (v2.ColorJitter(contrast=(0.5, 0.5)), lambda x: v2.functional.adjust_contrast(x, 0.5)),
        (v2.RandomAutocontrast(1.0), v2.functional.autocontrast),
    ):
        transform = fuse([statistic, v2.RandomCrop((8, 9))], backend=backend)
        (_, _), (_, crop) = transform.parameters_for(images)
        result, wrong = transform(images), []
        for n, image in enumerate(images):
            top, left = int(crop["top"][n]), int(crop["left"][n])
            expected = function(image)[:, top : top + 8, left : left + 9]
            torch.testing.assert_close(result[n], expected, rtol=0, atol=1e-4)
            wrong.append((function(image[:, top : top + 8, left : left + 9]) - expected).abs().max())
        assert max(wrong) > 0.05, "the images do not tell"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("noise", [v2.RandomErasing(1.0), K.RandomErasing(p=1.0)], ids=["v2", "K"])
def test_a_flip_does_not_cross_what_lies_at_a_place(noise, backend):
    images = torch.ones(4, 3, 20, 24)
    erased = fuse([noise], backend=backend)(images, seed=1)
    flipped = fuse([noise, K.RandomHorizontalFlip(p=1.0)], backend=backend)(images, seed=1)
    assert torch.equal(flipped, erased.flip(-1)) and not torch.equal(flipped, erased)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("library", ["kornia", "torchvision"])
def test_colour_between_two_warps_changes_the_fill_of_the_first_alone(library, backend):
    made = {
        "kornia": [K.RandomRotation((45.0, 45.0), p=1.0), K.RandomAffine(0.0, scale=(0.5, 0.5), p=1.0)],
        "torchvision": [v2.RandomRotation((45, 45)), v2.RandomAffine(0, scale=(0.5, 0.5))],
    }
    turned, shrunk = made[library]
    images = torch.full((1, 3, 31, 31), 0.25)
    result = fuse([turned, K.RandomInvert(p=1.0), shrunk], backend=backend)(images)[0, 0]
    inside, corner, outside = result[15, 15], result[9, 9], result[3, 3]
    assert [inside.item(), corner.item(), outside.item()] == pytest.approx([0.75, 1.0, 0.0], abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["flip", "vertical", "turn", "crop"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["invert", "jitter", "contrast", "posterize", "equalize"]), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_whole_pixels_give_the_same_wherever_they_stand(moves, colours, seed):
    """Flips, turns and crops around colour are exact: step by step, through one program each, comes to the same."""
    made = {
        "flip": lambda: K.RandomHorizontalFlip(p=0.5),
        "vertical": lambda: v2.RandomVerticalFlip(0.5),
        "turn": lambda: K.RandomRotation90((1, 3), p=0.5),
        "crop": lambda: v2.RandomCrop((9, 9)),
        "invert": lambda: K.RandomInvert(p=0.5),
        "jitter": lambda: v2.ColorJitter(0.3, 0.3, 0.3),
        "contrast": lambda: v2.RandomAutocontrast(0.7),
        "posterize": lambda: v2.RandomPosterize(4, 0.5),
        "equalize": lambda: v2.RandomEqualize(0.5),
    }
    order = list(np.random.default_rng(seed).permutation(moves + colours))
    modules = [made[name]() for name in order]
    images = pictures(3, 13, 13, seed=seed)
    together = fuse(modules)
    drawn = [columns for _, columns in together.parameters_for(images, seed=seed)]
    step = images / 255
    for module, columns in zip(modules, drawn, strict=True):
        single = fuse(module, interpolation="nearest")
        own = single.parameters_for(step)
        ((_, inner),) = own
        for name, column in columns.items():
            inner[name][:] = column
        step = single(step, parameters=own)
    result = together(images, seed=seed)
    # Levels may fall to either side of an edge.
    outliers = ((result - step).abs() > 1e-4).float().mean()
    assert outliers < (0.02 if {"posterize", "equalize"} & set(order) else 1e-9), order
