"""The kernels of the CUDA backend through Triton's interpreter: run by test_cuda.py, in a process of its own."""

import dataclasses

import numpy as np
import oracle
import pytest
import random_tables
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from torchaug_gen.augment.backends import cuda, cuda_kernels
from torchaug_gen.augment.fused import select
from torchaug_gen.augment.operation import Filter, Padding
from torchaug_gen.augment.tables import CODE_BITS, Code

assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1"

SEEDS = range(20)
CHANNELS = (3, 1, 3, 4, 5)
DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module", autouse=True)
def hastened():
    """Make the interpreter three times as fast; what it computes stays the same."""
    builder = interpreter.interpreter_builder
    # Checks of overflow triple the work of whole numbers, and Philox overflows on purpose.
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    patched = set()

    def call(self, *args, **kwargs):
        # By itself it patches Triton's language anew for every function called.
        module = self.fn.__globals__["__name__"]
        if module.startswith("triton") and module not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(module)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


def case(seed):
    """Return tables, and images of differing sizes as tensors."""
    channels, dtype = CHANNELS[seed % 5], DTYPES[seed // 5 % 4]
    sizes = random_tables.random_sizes(seed, 2)
    images = random_tables.random_images(seed, sizes, channels, np.uint8 if dtype is torch.uint8 else np.float32)
    images = [torch.from_numpy(np.ascontiguousarray(image)).to(dtype) for image in images]
    return random_tables.random_tables(seed, sizes, channels), images


def batch(seed, *, n=3, size=(13, 17), channels=3, output=(9, 14), dtype=np.uint8, **options):
    tables = random_tables.random_tables(seed, [size] * n, channels, output=output, **options)
    images = np.stack(random_tables.random_images(seed, [size] * n, channels, dtype))
    return tables, torch.from_numpy(images)


def output_size(tables):
    return tuple(int(side) for side in tables.size[0, tables.passes[0] - 1])


def exact(images):
    """Return images as the oracle reads them."""
    return [image.numpy() if image.dtype is torch.uint8 else image.double().numpy() for image in images]


def agree(tables, images, *, tolerance=1e-4):
    got = cuda.run(tables, images, size=output_size(tables)).numpy()
    expected = oracle.run(tables, exact(images))
    # As oracle.steady, which would compute the expected values once more: the oracle takes half of the time.
    shaken = [oracle.run(tables, exact(images), jitter=2e-6, seed=trial) for trial in range(2)]
    for mine, right, *others in zip(got, expected, *shaken, strict=True):
        steady = np.logical_and.reduce([np.abs(right - other) <= 1e-3 for other in others])
        np.testing.assert_allclose(mine[steady], right[steady], atol=tolerance, rtol=tolerance)


def single(code, arguments, image, **options):
    """Return what an operation makes of an image, and what it should."""
    tables = random_tables.single(code, arguments, image.shape[1:], image.shape[0], **options)
    got = cuda.run(tables, [torch.from_numpy(image)], size=image.shape[1:])[0].numpy()
    return got, oracle.run(tables, [image])[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_it_computes_what_the_tables_say(seed):
    agree(*case(seed))


def test_the_cases_hold_all_there_is():
    codes, filters, paddings, passes, channels = set(), set(), set(), set(), set()
    for seed in SEEDS:
        tables, images = case(seed)
        for n, p in np.ndindex(len(tables), tables.size.shape[1]):
            if p < tables.passes[n]:
                used = tables.codes[n, p, : tables.links[n, p]] & ((1 << CODE_BITS) - 1)
                codes |= {(Code(int(code)), len(images[0]) > 4) for code in used}
                filters.add(Filter(tables.filter[n, p]))
                paddings.add((Padding(tables.padding[n, p]), Padding(tables.canvas_padding[n, p])))
        passes |= set(tables.passes.tolist())
        channels.add((len(images[0]), images[0].dtype))
    assert {code for code, planar in codes if not planar} == set(random_tables.ALL_CODES)
    assert {code for code, planar in codes if planar} == set(random_tables.ALL_CODES) - random_tables.COLOURS_ONLY
    assert filters == set(Filter) and len(paddings) == 16 and passes == {1, 2, 3}
    assert len(channels) == 16


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (Code.SCALE, [1, 1.3, 0.8, 1.1, -0.1, 0.2, 0.0]),
        (Code.MATRIX, [1, 0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4, 0.05, 0, -0.05]),
        (Code.HUE, [0.17]),
        (Code.HUE, [-0.5]),
        (Code.SATURATE, [1.8]),
        (Code.GAMMA, [0.45, 1.1]),
        (Code.GAMMA, [0.0, 0.7]),
        (Code.GAMMA, [2.2, 1.0]),
        (Code.PERMUTE, [2, 2, 1]),
        (Code.CONTRAST, [1.7, 1]),
        (Code.AUTOCONTRAST, [0, 1]),
        (Code.AUTOCONTRAST, [1, 1]),
        (Code.SHARPEN, [1.9, 0]),
        (Code.NOISE, [0.1, 0.2, 0]),
        (Code.ERASE, [3, 5, 30, 40, 1, 0, 0, 0]),
        (Code.ERASE, [-3, 5, 30, 400, 0, 0.2, 0.4, 0.6]),
        (Code.SALT_PEPPER, [0.3, 0.4, 1]),
    ],
    ids=lambda value: value.name if isinstance(value, Code) else None,
)
def test_colours_are_exact_to_2e_5(code, arguments):
    image = np.random.default_rng(0).random((3, 19, 35)).astype(np.float32)
    # Corners of the colour cube, black, white and greys.
    image[:, 0, :8] = (np.arange(8) >> np.arange(3)[:, None]) & 1
    image[:, 1] = np.linspace(0, 1, 35)
    np.testing.assert_allclose(*single(code, arguments, image), atol=2e-5)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [(Code.EQUALIZE, [0]), (Code.EQUALIZE, [1]), (Code.POSTERIZE, [3, 0]), (Code.POSTERIZE, [5, 2])],
    ids=lambda value: value.name if isinstance(value, Code) else None,
)
def test_levels_of_bytes_are_found_exactly(code, arguments):
    image = np.random.default_rng(1).integers(0, 256, (3, 24, 45), dtype=np.uint8)
    image[0].flat[:256], image[1] = np.arange(256), image[1] // 3
    np.testing.assert_allclose(*single(code, arguments, image), atol=1e-6)


@triton.jit
def _normals(words, out):
    at = tl.arange(0, 64)
    word_0, word_1 = tl.load(words + at), tl.load(words + 64 + at)
    tl.store(out + at, cuda_kernels._normal(word_0.to(tl.uint32, bitcast=True), word_1.to(tl.uint32, bitcast=True)))


def test_normal_numbers_keep_their_digits_where_the_logarithm_has_none():
    words = np.random.default_rng(0).integers(0, 1 << 32, (2, 64), dtype=np.uint32)
    # Both ends of the logarithm, and all quarters of the cosine.
    words[0, :32], words[0, 32:60] = np.uint32((1 << 32) - 1) - np.uint32(3) ** np.arange(32) // 3, 1 << np.arange(28)
    words[1, ::4], words[1, 1::16] = np.arange(16) << 28, (1 << 32) - 1
    out = torch.empty(64)
    _normals[(1,)](torch.from_numpy(words.view(np.int32)), out)
    expected = [oracle.normal((int(first), int(second))) for first, second in words.T]
    np.testing.assert_allclose(out, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("codes", [[Code.CONTRAST, Code.AUTOCONTRAST], [Code.EQUALIZE, Code.PERMUTE, Code.SHARPEN]])
def test_statistics_of_statistics_over_many_tiles(codes, channels):
    options = {"channels": channels, "output": (20, 66), "codes": codes, "passes": 2, "links": 3, "n": 2}
    agree(*batch(7, size=(30, 20), **options))


def test_coordinates_far_from_the_origin_are_exact():
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    tables = random_tables.single(Code.END, [], (16, 32), 3)
    cosine, sine = np.cos(0.6), np.sin(0.6)
    for row in ([0, 0, 1], [1e-5, -2e-5, 1]):
        tables.matrix[:] = [[cosine, -sine, 470.123456], [sine, cosine, 480.654321], row]
        tables.filter[:], tables.padding[:], tables.canvas[:] = Filter.BILINEAR, Padding.FILL, (0, 0, 512, 512)
        got = cuda.run(tables, image, size=(16, 32))[0].numpy()
        np.testing.assert_allclose(got, oracle.run(tables, image.numpy())[0], atol=1e-5)


def test_order_and_size_of_the_batch_change_no_bit():
    tables, images = batch(2, n=4, output=(9, 34), links=3)
    expected = cuda.run(tables, images, size=(9, 34))
    assert torch.equal(cuda.run(select(tables, [3, 0]), images[[3, 0]], size=(9, 34)), expected[[3, 0]])
    assert torch.equal(cuda.run(select(tables, [2]), images[2:3], size=(9, 34))[0], expected[2])


def test_strides_of_the_input_do_not_matter():
    tables, images = batch(3, passes=2, links=2)
    expected = cuda.run(tables, images, size=(9, 14))
    wide = torch.zeros(3, 3, 20, 40, dtype=images.dtype)
    wide[:, :, 2:15, 3:37:2] = images
    for strided in (images.contiguous(memory_format=torch.channels_last), wide[:, :, 2:15, 3:37:2], list(images)):
        assert torch.equal(cuda.run(tables, strided, size=(9, 14)), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.float32])
def test_outputs_are_rounded_as_torch_rounds(dtype, memory_format):
    tables, images = batch(4, n=2, passes=1, links=2, dtype=np.float32, codes=[Code.SCALE])
    exact = cuda.run(tables, images, size=(9, 14))
    got = cuda.run(tables, images, size=(9, 14), dtype=dtype, memory_format=memory_format)
    assert got.dtype is dtype and got.is_contiguous(memory_format=memory_format)
    if dtype is torch.uint8:
        torch.testing.assert_close(got, (exact * 255).round().clamp(0, 255).to(dtype), rtol=0, atol=0)
    else:
        # The interpreter cuts digits of bfloat16 off where a device rounds.
        torch.testing.assert_close(got, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("channels", [3, 6])
def test_results_go_into_the_rows_they_are_given(channels):
    tables, images = batch(6, channels=channels, passes=1, links=2)
    expected = cuda.run(tables, images, size=(9, 14))
    out = torch.full((6, channels, 9, 20), -7.0)[..., 2:16]
    rows = torch.tensor([4, 0, 5])
    assert cuda.run(tables, images, size=(9, 14), out=out, rows=rows) is out
    assert torch.equal(out[rows], expected)
    assert (out[[1, 2, 3]] == -7).all()


def test_images_may_mix_dtypes():
    tables, images = batch(5, n=2, passes=1, links=1)
    mixed = [images[0], images[1].double() / 255]
    torch.testing.assert_close(
        cuda.run(tables, mixed, size=(9, 14)), cuda.run(tables, images, size=(9, 14)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("filter_", [Filter.NEAREST, Filter.BILINEAR, Filter.TENT])
def test_matrices_beyond_reason_read_no_foreign_memory(value, filter_):
    tables, images = batch(9, n=4, passes=1, codes=[Code.SCALE], links=0, canvases=False)
    tables.matrix[:], tables.filter[:], tables.radius[:] = np.eye(3), filter_, 1.5
    tables.padding[:, 0] = list(Padding)
    for row in range(3):
        tables.matrix[:, 0, row, 1 - row] = value
        result = cuda.run(tables, images, size=(9, 14))
        assert ((result >= -1e-6) & (result <= 1 + 1e-6)).all()


def test_an_empty_batch_stays_empty():
    tables, images = batch(1)
    result = cuda.run(select(tables, []), images[:0], size=(9, 14), dtype=torch.float16)
    assert result.shape == (0, 3, 9, 14) and result.dtype is torch.float16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda images: {"images": images[:2]}, ValueError, "as many as the tables have samples, 3, got 2"),
        (lambda images: {"images": images[:, :2]}, ValueError, r"\(3, H, W\), got \(2, 13, 17\) at 0"),
        (lambda images: {"images": images[0]}, ValueError, r"\(N, C, H, W\), got \(3, 13, 17\)"),
        (lambda images: {"images": images.int()}, TypeError, "uint8 or floating, got torch.int32"),
        (lambda images: {"size": (9, 15)}, ValueError, r"size \(9, 15\), got \(9, 14\) at 0"),
        (lambda images: {"dtype": torch.float64}, TypeError, "got torch.float64"),
        (lambda images: {"out": torch.empty(3, 3, 9, 13)}, ValueError, r"got \(3, 3, 9, 13\)"),
        (lambda images: {"out": torch.empty(2, 3, 9, 14)}, ValueError, r"rows must be in 0\.\.1, got 0\.\.2"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    tables, images = batch(1)
    with pytest.raises(error, match=message):
        cuda.run(tables, **{"images": images, "size": (9, 14), **change(images)})
