"""The CPU backend computes what the tables say, whatever threads, strides and processes it runs in."""

import gc
import multiprocessing
import threading

import numpy as np
import oracle
import pytest
import random_tables
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchaug_gen.augment.backends import cpu
from torchaug_gen.augment.fused import select
from torchaug_gen.augment.tables import Code

pytestmark = pytest.mark.usefixtures("untouched_rng")


def output_size(tables):
    return tuple(int(side) for side in tables.size[0, tables.passes[0] - 1])


def tensors(images):
    return [torch.from_numpy(image) for image in images]


def batch(seed, *, n=5, size=(13, 17), channels=3, output=(9, 14), dtype=np.uint8, **options):
    tables = random_tables.random_tables(seed, [size] * n, channels, output=output, **options)
    images = np.stack(random_tables.random_images(seed, [size] * n, channels, dtype))
    return tables, torch.from_numpy(images)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnknownMarkWarning")
@settings(deadline=None, max_examples=120, derandomize=True)
@given(seed=st.integers(0, 1 << 20), channels=st.sampled_from([1, 2, 3, 4, 5]), dtype=st.sampled_from(["u1", "f4"]))
def test_it_computes_what_the_tables_say(seed, channels, dtype):
    sizes = random_tables.random_sizes(seed, 2)
    tables = random_tables.random_tables(seed, sizes, channels)
    images = random_tables.random_images(seed, sizes, channels, np.dtype(dtype).type)
    got = cpu.run(tables, tensors(images), size=output_size(tables)).numpy()
    for mine, expected, steady in zip(
        got, oracle.run(tables, images), oracle.steady(tables, images, trials=4), strict=True
    ):
        scale = max(1.0, float(np.abs(expected).max()))
        wrong = (np.abs(mine - expected) > 2e-3 * scale) & steady
        # A level of a histogram that tips over changes single values however steady they look.
        assert wrong.mean() <= 0.02, f"{wrong.mean():.1%} of values differ, by {np.abs(mine - expected)[wrong].max()}"


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 1 << 20), channels=st.sampled_from([1, 3, 4]))
def test_continuous_operations_agree_everywhere(seed, channels):
    sizes = random_tables.random_sizes(seed, 2)
    tables = random_tables.random_tables(seed, sizes, channels, continuous=True)
    images = random_tables.random_images(seed, sizes, channels)
    got = cpu.run(tables, tensors(images), size=output_size(tables)).numpy()
    for mine, expected, steady in zip(got, oracle.run(tables, images), oracle.steady(tables, images), strict=True):
        np.testing.assert_allclose(mine[steady], expected[steady], atol=1e-4, rtol=1e-4)


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
        (Code.PERMUTE, [2, 0, 1]),
        (Code.CONTRAST, [1.7, 1]),
        (Code.AUTOCONTRAST, [0, 1]),
        (Code.SHARPEN, [1.9, 0]),
        (Code.NOISE, [0.1, 0.2, 0]),
        (Code.ERASE, [3, 5, 30, 40, 1, 0, 0, 0]),
        (Code.ERASE, [-3, 5, 30, 400, 0, 0.2, 0.4, 0.6]),
        (Code.SALT_PEPPER, [0.3, 0.4, 1]),
    ],
    ids=lambda value: value.name if isinstance(value, Code) else None,
)
def test_colours_are_exact_to_2e_5(code, arguments):
    size = (41, 53)
    tables = random_tables.single(code, arguments, size, 3)
    image = np.random.default_rng(0).random((3, *size)).astype(np.float32)
    # Corners of the colour cube, greys, black and white.
    image[:, 0, :8] = (np.arange(8) >> np.arange(3)[:, None]) & 1
    image[:, 1, :40] = np.linspace(0, 1, 40)
    got = cpu.run(tables, tensors([image]), size=size)[0].numpy()
    np.testing.assert_allclose(got, oracle.run(tables, [image])[0], atol=2e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_slices_change_no_bit(threads):
    tables, images = batch(1, n=37)
    before = torch.get_num_threads()
    expected = cpu.run(tables, images, size=(9, 14))
    try:
        torch.set_num_threads(threads)
        assert torch.equal(cpu.run(tables, images, size=(9, 14)), expected)
    finally:
        torch.set_num_threads(before)


def test_order_and_size_of_the_batch_change_no_bit():
    tables, images = batch(2, n=6)
    expected = cpu.run(tables, images, size=(9, 14))
    order = [4, 0, 5, 2]
    assert torch.equal(cpu.run(select(tables, order), images[order], size=(9, 14)), expected[order])
    for index in range(6):
        assert torch.equal(
            cpu.run(select(tables, [index]), images[index : index + 1], size=(9, 14))[0], expected[index]
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_strides_of_the_input_do_not_matter(dtype):
    tables, images = batch(3, dtype=dtype)
    expected = cpu.run(tables, images, size=(9, 14))
    wide = torch.zeros(5, 3, 20, 40, dtype=images.dtype)
    wide[:, :, 2:15, 3:37:2] = images
    for strided in (
        images.contiguous(memory_format=torch.channels_last),
        wide[:, :, 2:15, 3:37:2],
        images.flip(0).flip(0),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        list(images),
    ):
        assert torch.equal(cpu.run(tables, strided, size=(9, 14)), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.float32])
def test_outputs_are_rounded_as_torch_rounds(dtype, memory_format):
    # Shared by all dtypes: values beyond [0, 1], which only floating outputs show.
    tables, images = batch(4, dtype=np.float32, codes=[Code.SCALE, Code.NOISE])
    exact = cpu.run(tables, images, size=(9, 14))
    got = cpu.run(tables, images, size=(9, 14), dtype=dtype, memory_format=memory_format)
    assert got.dtype is dtype and got.is_contiguous(memory_format=memory_format)
    if dtype is torch.uint8:
        expected = (exact * 255).round().clamp(0, 255).to(dtype)
        assert (got.int() - expected.int()).abs().max() <= 1
        assert (got != expected).float().mean() < 0.01
    else:
        assert torch.equal(got, exact.to(dtype))


def test_half_precision_outputs_cover_all_magnitudes():
    values = torch.cat(
        (
            torch.logspace(-12, 6, 400),
            -torch.logspace(-9, 5, 400),
            torch.tensor(
                [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 65504, 65519, 65520, 6e-8, 2**-24, 3e-8]
            ),
        )
    )
    image = values.reshape(1, 1, 1, -1)
    tables = random_tables.single(Code.SCALE, [0, 1, 0], (1, image.shape[-1]), 1)
    for dtype in (torch.float16, torch.bfloat16):
        got = cpu.run(tables, image, size=(1, image.shape[-1]), dtype=dtype)
        assert torch.equal(got.isnan(), image.isnan())
        assert torch.equal(got.nan_to_num(0), image.to(dtype).nan_to_num(0))


def test_outputs_are_used_again_only_once_nobody_sees_them():
    tables, images = batch(5, n=8, size=(40, 40), output=(96, 96))
    first = cpu.run(tables, images, size=(96, 96))
    kept, where = first[3:5].clone(), first.data_ptr()
    view = first[3:5]
    del first
    second = cpu.run(tables, images.flip(0), size=(96, 96))
    assert second.data_ptr() != where
    assert torch.equal(view, kept)
    del view
    gc.collect()
    assert cpu.run(tables, images, size=(96, 96)).data_ptr() == where


def test_results_go_into_the_rows_they_are_given():
    tables, images = batch(6, n=3)
    expected = cpu.run(tables, images, size=(9, 14))
    out = torch.full((6, 3, 9, 14), -7.0)
    rows = torch.tensor([4, 0, 5])
    assert cpu.run(tables, images, size=(9, 14), out=out, rows=rows) is out
    assert torch.equal(out[rows], expected)
    assert (out[[1, 2, 3]] == -7).all()


def test_several_threads_may_call_at_once():
    cases = [batch(seed, n=20) for seed in range(10, 14)]
    expected = [cpu.run(tables, images, size=(9, 14)) for tables, images in cases]
    wrong = []

    def work(index):
        tables, images = cases[index]
        for _ in range(10):
            if not torch.equal(cpu.run(tables, images, size=(9, 14)), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _in_a_child(queue, seed):
    torch.set_num_threads(2)
    tables, images = batch(seed, n=20)
    queue.put(cpu.run(tables, images, size=(9, 14)).numpy())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_started_after_first_use_compute_the_same(method):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        tables, images = batch(7, n=20)
        expected = cpu.run(tables, images, size=(9, 14))
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=_in_a_child, args=(queue, 7))
        process.start()
        got = queue.get(timeout=120)
        process.join()
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(got, expected.numpy())


def test_nan_in_an_image_stays_in_its_neighbourhood():
    tables, images = batch(8, n=1, dtype=np.float32, codes=[], passes=1)
    images[0, :, 6, 8] = float("nan")
    assert cpu.run(tables, images, size=(9, 14)).isnan().float().mean() < 0.7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_matrices_beyond_reason_read_no_foreign_memory(value):
    for filter_ in (1, 2, 3):
        for padding in range(4):
            tables, images = batch(9, n=1, passes=1, codes=[], canvases=False)
            tables.filter[:], tables.padding[:] = filter_, padding
            tables.matrix[0, 0] = [[1, 0.1, value], [0.2, 1, 3], [0, 0, 1]]
            result = cpu.run(tables, images, size=(9, 14))
            assert ((result >= -1e-6) & (result <= 1 + 1e-6)).all() or result.isnan().any()
