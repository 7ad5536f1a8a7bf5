import math

import numpy as np
import oracle
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import (
    ALL_CODES,
    COLOURS_ONLY,
    CONTINUOUS_CODES,
    Draw,
    radius_of,
    random_images,
    random_sizes,
    random_tables,
    single,
)

from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import Code, Tables

SEEDS = st.integers(0, 2**32 - 1)
CHANNELS = st.integers(1, 4)


def tensors(images):
    return [torch.from_numpy(np.ascontiguousarray(image)) for image in images]


def errors(tables, images):
    """Return how far each output is from the oracle's."""
    outputs = reference.run(tables, tensors(images))
    return [
        np.abs(output.numpy() - expected) for output, expected in zip(outputs, oracle.run(tables, images), strict=True)
    ]


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def level_image(channels, height=20, width=17, seed=0):
    """Return an image whose channels hold many levels, black and white among them."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (channels, height, width)).astype(np.uint8)
    image[:, 0, 0], image[:, 0, 1], image[:, 1, 0] = 0, 255, 128
    return image


def warp(matrix, source, to, channels=1, *, filter=Filter.BILINEAR, padding=Padding.FILL, fill=0.0):
    """Return tables of one sample that only resample."""
    tables = Tables.empty(1, 1, 0, channels, 0)
    tables.size[:], tables.matrix[:], tables.filter[:], tables.padding[:] = to, matrix, filter, padding
    tables.canvas[:], tables.fill[:] = (0, 0, source[1], source[0]), fill
    tables.radius[:] = radius_of(tables.matrix[0, 0], to)
    return tables


# The definition


def test_the_oracle_knows_philox():
    # Known answers of Random123.
    assert oracle.philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    counter, key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert oracle.philox(counter, key) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@settings(max_examples=35, deadline=None, derandomize=True)
@given(seed=SEEDS, channels=CHANNELS)
def test_any_tables_agree_with_the_oracle(seed, channels):
    sizes = random_sizes(seed, 3)
    images = random_images(seed, sizes, channels, np.float64)
    tables = random_tables(seed, sizes, channels)
    steady = oracle.steady(tables, images, amount=1e-13, trials=3, tolerance=1e-9)
    for error, mask in zip(errors(tables, images), steady, strict=True):
        assert error[mask].max(initial=0) < 1e-8


def test_most_of_what_random_tables_make_is_steady():
    shares = []
    for seed in range(8):
        sizes = random_sizes(seed, 3)
        masks = oracle.steady(random_tables(seed, sizes, 3), random_images(seed, sizes, 3))
        shares.extend(mask.mean() for mask in masks)
    assert np.mean(shares) > 0.8


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS, channels=CHANNELS, dtype=st.sampled_from([np.uint8, np.float32]))
def test_continuous_tables_agree_in_float32(seed, channels, dtype):
    sizes = random_sizes(seed, 3)
    tables = random_tables(seed, sizes, channels, continuous=True)
    assert max(error.max() for error in errors(tables, random_images(seed, sizes, channels, dtype))) < 2e-5


ARGUMENTS = [
    *[(Code.POSTERIZE, [bits, style]) for style in range(3) for bits in range(style == 1, 9)],
    *[(Code.AUTOCONTRAST, [style, clamp]) for style in range(2) for clamp in range(2)],
    *[(Code.EQUALIZE, [style]) for style in range(2)],
    *[(Code.SHARPEN, [factor, style]) for factor in (0, 1, 2.25) for style in range(2)],
    *[(Code.SOLARIZE, [threshold, addition]) for threshold in (0, 0.3, 1) for addition in (0, 0.15)],
    *[(Code.ERASE, [2, 3, 11, 9, noise, 0.1, 0.2, 0.3, 0.4]) for noise in range(2)],
    *[(Code.NOISE, [0.05, 0.2, clamp]) for clamp in range(2)],
    *[(Code.SALT_PEPPER, [0.4, 0.3, shared]) for shared in range(2)],
    *[(Code.CONTRAST, [factor, clamp]) for factor in (0, 0.4, 1.7) for clamp in range(2)],
    *[(Code.HUE, [turns]) for turns in (0, 1 / 3, -0.5, 0.07, 2.9)],
    *[(Code.SATURATE, [factor]) for factor in (-0.5, 0, 0.4, 1, 3)],
    *[(Code.GAMMA, [gamma, gain]) for gamma in (0, 0.4, 1, 2.2) for gain in (0.7, 1.3)],
]


@pytest.mark.parametrize(
    ("channels", "code", "arguments"),
    [(channels, *case) for channels in (1, 3, 4) for case in ARGUMENTS if channels == 3 or case[0] not in COLOURS_ONLY],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_every_operation_agrees_on_levels(channels, code, arguments):
    image = level_image(channels)
    if code is Code.EQUALIZE:
        # Equalizing noise moves little: darken it, and leave one channel flat.
        image = (image.astype(int) ** 2 // 255).astype(np.uint8)
        image[0] = 77
    tables = single(code, arguments, image.shape[1:], channels)
    assert errors(tables, [image])[0].max() < 1e-5


@pytest.mark.parametrize("code", ALL_CODES, ids=lambda code: code.name)
def test_every_operation_agrees_beyond_the_unit_range(code):
    random = np.random.default_rng(1)
    image = random.normal(0.4, 0.8, (3, 19, 18))
    drawn = [Draw(random, 3, False).arguments(code, image.shape[1:]) for _ in range(3)]
    for arguments in [*drawn, *(listed for other, listed in ARGUMENTS if other is code)]:
        assert errors(single(code, arguments, image.shape[1:], 3), [image])[0].max() < 1e-9


# Gradients


@pytest.mark.parametrize("code", [*CONTINUOUS_CODES, Code.AUTOCONTRAST], ids=lambda code: code.name)
def test_gradients_of_operations(code):
    random = np.random.default_rng(int(code))
    image = torch.from_numpy(random.uniform(0.05, 0.95, (1, 3, 4, 5))).requires_grad_()
    for _ in range(3):
        arguments = Draw(random, 3, True).arguments(code, (4, 5))
        tables = single(code, arguments, (4, 5), 3)
        assert torch.autograd.gradcheck(lambda x, tables=tables: reference.run(tables, x), image)


@pytest.mark.parametrize("filter_", [Filter.NEAREST, Filter.BILINEAR, Filter.TENT], ids=lambda f: f.name)
@pytest.mark.parametrize("padding", list(Padding), ids=lambda p: p.name)
def test_gradients_of_resampling(filter_, padding):
    images = [noise(1, *size, dtype=torch.float64).requires_grad_() for size in ((5, 4), (3, 6))]
    for seed in range(3):
        tables = random_tables(
            seed, [(5, 4), (3, 6)], 1, output=(4, 3), passes=1, links=0, filters=[filter_], paddings=[padding]
        )
        assert torch.autograd.gradcheck(lambda *x, tables=tables: reference.run(tables, list(x)), images)


def test_gradients_of_whole_chains():
    for seed in range(1, 3):
        sizes = [(3, 4)] * 2
        tables = random_tables(seed, sizes, 3, output=(3, 3), passes=2, links=3, continuous=True, largest=4)
        images = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 0.9, (2, 3, 3, 4))).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, tables=tables: reference.run(tables, x), images)


@pytest.mark.parametrize("code", ALL_CODES, ids=lambda code: code.name)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, -0.5])
def test_gradients_are_finite_where_slopes_are_not(code, level):
    images = torch.full((1, 3, 4, 4), level, requires_grad=True)
    arguments = [0.4, 1] if code is Code.GAMMA else Draw(np.random.default_rng(0), 3, False).arguments(code, (4, 4))
    output = reference.run(single(code, arguments, (4, 4), 3), images)
    if output.requires_grad:
        output.sum().backward()
        assert images.grad.isfinite().all()


# Batches


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_a_sample_does_not_depend_on_its_batch(seed):
    sizes = random_sizes(seed, 6)
    images = tensors(random_images(seed, sizes, 3))
    tables = random_tables(seed, sizes, 3)
    together = reference.run(tables, images)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = reference.run(rows_of(tables, order), [images[n] for n in order])
    for place, n in enumerate(order):
        assert torch.equal(shuffled[place], together[n])
        assert torch.equal(reference.run(rows_of(tables, [n]), [images[n]])[0], together[n])


def rows_of(tables, rows):
    """Return the tables of some samples."""
    shared = {"keys": tables.keys, "epoch": tables.epoch}
    return Tables(**shared, **{name: value[rows] for name, value in vars(tables).items() if name not in shared})


@pytest.mark.usefixtures("untouched_rng")
def test_a_tensor_is_a_list_of_equal_sizes():
    sizes = [(7, 9)] * 4
    images = torch.from_numpy(np.stack(random_images(3, sizes, 3, np.uint8)))
    tables = random_tables(3, sizes, 3)
    output = reference.run(tables, images)
    assert torch.equal(output, reference.run(tables, list(images)))
    assert torch.equal(output, reference.run(tables, images.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("filter_", [Filter.NEAREST, Filter.BILINEAR, Filter.TENT], ids=lambda f: f.name)
def test_images_of_differing_sizes_are_resampled_together(filter_):
    sizes = [(7, 9), (3, 4), (1, 12), (8, 2), (5, 5)]
    images = random_images(4, sizes, 2, np.float64)
    for padding in Padding:
        tables = random_tables(
            5, sizes, 2, passes=1, links=0, filters=[filter_], paddings=[padding], canvases=False, largest=9
        )
        assert max(error.max() for error in errors(tables, images)) < 1e-9


def test_outputs_of_differing_sizes_are_a_list():
    tables = random_tables(0, [(5, 5)] * 2, 1, output=(4, 6))
    tables.size[1, tables.passes[1] - 1] = 3, 2
    images = noise(2, 1, 5, 5)
    assert [tuple(output.shape) for output in reference.run(tables, images)] == [(1, 4, 6), (1, 3, 2)]
    with pytest.raises(ValueError, match=r"outputs must have size \(4, 6\), got \(3, 2\) at 1"):
        reference.run(tables, images, size=(4, 6))


def test_an_identity_copies():
    images = noise(2, 3, 5, 4, dtype=torch.float64)
    output = reference.run(single(Code.END, [], (5, 4), 3, samples=2), images)
    assert torch.equal(output, images)
    assert output.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("canvas", [(1, 0, 5, 4), (0, 1, 5, 4), (0, 0, 4, 4), (0, 0, 5, 3)])
def test_an_identity_over_a_smaller_canvas_does_not_copy(canvas):
    image = noise(1, 4, 5)
    tables = single(Code.END, [], (4, 5), 1)
    tables.canvas[:] = canvas
    assert errors(tables, [image.numpy()])[0].max() < 1e-6
    assert not torch.equal(reference.run(tables, image[None])[0], image)


def test_an_identity_with_a_wide_tent_does_not_copy():
    image = noise(1, 4, 5)
    tables = warp(np.eye(3), (4, 5), (4, 5), filter=Filter.TENT)
    assert torch.equal(reference.run(tables, image[None])[0], image)
    tables.radius[:] = 1.0, 1.5
    assert errors(tables, [image.numpy()])[0].max() < 1e-6
    assert not torch.equal(reference.run(tables, image[None])[0], image)


def test_no_samples():
    tables = Tables.empty(0, 1, 1, 3, 1)
    assert reference.run(tables, torch.empty(0, 3, 5, 5), size=(4, 6), dtype=torch.uint8).shape == (0, 3, 4, 6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    sizes = [(6, 8)] * 3
    images = torch.from_numpy(np.stack(random_images(1, sizes, 3, np.uint8)))
    source = images if dtype is torch.uint8 else (images / 255).to(dtype)
    tables = random_tables(1, sizes, 3, continuous=True)
    output = reference.run(tables, source)
    assert output.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    for wanted in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(reference.run(tables, source, dtype=wanted), output.to(wanted))
    levels = reference.run(tables, source, dtype=torch.uint8)
    assert torch.equal(levels, (output * 255).round().clamp(0, 255).to(torch.uint8))


def test_uint8_survives_an_identity():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(reference.run(single(Code.END, [], (16, 16), 1), images, dtype=torch.uint8), images)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(3, 3, 4, 4), ValueError, "as many as the tables have samples, 2, got 3"),
        (torch.rand(2, 1, 4, 4), ValueError, r"must be \(3, H, W\), got \(1, 4, 4\) at 0"),
        ([torch.rand(3, 4, 4), torch.rand(4, 4)], ValueError, r"got \(4, 4\) at 1"),
        (torch.ones(2, 3, 4, 4, dtype=torch.int32), TypeError, "uint8 or floating, got torch.int32"),
        ([torch.rand(3, 4, 4), torch.rand(3, 4, 4).double()], TypeError, "must share dtype and device"),
    ],
)
def test_wrong_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        reference.run(single(Code.END, [], (4, 4), 3, samples=2), images)


def test_a_wrong_dtype_is_named():
    with pytest.raises(TypeError, match=r"dtype must be torch.uint8 or floating, got torch.int64"):
        reference.run(single(Code.END, [], (4, 4), 3), torch.rand(1, 3, 4, 4), dtype=torch.int64)


# Devices


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_read_back_from_the_device(seed):
    # A meta tensor has no values: reading one back raises, as does mixing it with a tensor on the CPU.
    sizes = random_sizes(seed, 8)
    images = [image.to("meta") for image in tensors(random_images(seed, sizes, 3))]
    output = reference.run(random_tables(seed, sizes, 3, output=(6, 7)), images)
    assert output.device.type == "meta"
    assert output.shape == (8, 3, 6, 7)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(6))
def test_cuda_agrees_and_does_not_wait(seed):
    sizes = random_sizes(seed, 8)
    images = tensors(random_images(seed, sizes, 3))
    tables = random_tables(seed, sizes, 3, continuous=True)
    on_device = [image.cuda() for image in images]
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = reference.run(tables, on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(output.cpu(), reference.run(tables, images), rtol=0, atol=2e-5)


# PyTorch's and torchvision's functions, where definitions coincide


@pytest.mark.parametrize(("source", "to"), [((31, 23), (12, 9)), ((24, 30), (8, 29)), ((9, 40), (7, 3))])
def test_tent_is_antialiased_interpolation(source, to):
    image = noise(1, 2, *source, dtype=torch.float64)
    step_y, step_x = source[0] / to[0], source[1] / to[1]
    matrix = [[step_x, 0, (step_x - 1) / 2], [0, step_y, (step_y - 1) / 2], [0, 0, 1]]
    tables = warp(matrix, source, to, 2, filter=Filter.TENT, padding=Padding.BORDER)
    expected = torch.nn.functional.interpolate(image, to, mode="bilinear", antialias=True)
    torch.testing.assert_close(reference.run(tables, image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "name", "align_corners"),
    [
        (Padding.FILL, "zeros", True),
        (Padding.BORDER, "border", True),
        (Padding.REFLECT, "reflection", True),
        (Padding.SYMMETRIC, "reflection", False),
    ],
)
@pytest.mark.parametrize("filter_", [Filter.BILINEAR, Filter.NEAREST])
def test_paddings_are_those_of_grid_sample(padding, name, align_corners, filter_):
    source, to = (7, 9), (12, 11)
    image = noise(1, 1, *source, dtype=torch.float64)
    cosine, sine = 1.3 * math.cos(0.4), 1.3 * math.sin(0.4)
    matrix = np.array([[cosine, -sine, 1.21], [sine, cosine, -4.13], [0.01, -0.005, 1]])
    y, x = np.mgrid[: to[0], : to[1]]
    u, v, w = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    extents = np.array([source[1], source[0]])
    place = np.stack([u / w, v / w], -1)
    grid = 2 * place / (extents - 1) - 1 if align_corners else (2 * place + 1) / extents - 1
    mode = "bilinear" if filter_ is Filter.BILINEAR else "nearest"
    expected = torch.nn.functional.grid_sample(
        image, torch.from_numpy(grid)[None], mode=mode, padding_mode=name, align_corners=align_corners
    )
    output = reference.run(warp(matrix, source, to, filter=filter_, padding=padding), image)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("code", "arguments", "function"),
    [
        (Code.HUE, [0.13], lambda x: F.adjust_hue(x, 0.13)),
        # torchvision's weight of red in grey is .2989.
        (Code.CONTRAST, [1.6, 1], lambda x: F.adjust_contrast(x, 1.6)),
        (Code.GAMMA, [0.6, 1.2], lambda x: F.adjust_gamma(x, 0.6, 1.2)),
        (Code.AUTOCONTRAST, [1, 1], F.autocontrast),
        (Code.SOLARIZE, [0.4, 0], lambda x: F.solarize(x, 0.4)),
        (Code.POSTERIZE, [3, 1], lambda x: F.posterize(x, 3)),
        (Code.SHARPEN, [1.8, 0], lambda x: F.adjust_sharpness(x, 1.8)),
        (Code.PERMUTE, [2, 0, 1], lambda x: F.permute_channels(x, [2, 0, 1])),
        (Code.ERASE, [2, 3, 7, 9, 0, 0.5, 0.5, 0.5], lambda x: F.erase(x, 2, 3, 5, 6, torch.tensor(0.5))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_operations_are_torchvisions(code, arguments, function):
    images = noise(2, 3, 18, 21) * 0.8 + 0.1
    output = reference.run(single(code, arguments, (18, 21), 3, samples=2), images)
    torch.testing.assert_close(output, torch.stack([function(image) for image in images]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("code", "arguments", "function"),
    [
        (Code.EQUALIZE, [1], F.equalize),
        (Code.POSTERIZE, [3, 2], lambda x: F.posterize(x, 3)),
        (Code.SOLARIZE, [100 / 255, 0], lambda x: F.solarize(x, 100)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_operations_on_levels_are_torchvisions(code, arguments, function):
    image = torch.from_numpy(level_image(3, 40, 30) // 2)
    output = reference.run(single(code, arguments, (40, 30), 3), image[None], dtype=torch.uint8)
    assert torch.equal(output[0], function(image))
