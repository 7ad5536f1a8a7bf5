"""The CUDA backend: interpreted, compiled for devices that are not there, and run on one that is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import random_tables
import torch

from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.fused import select
from torchaug_gen.augment.tables import Code

pytest.importorskip("triton")

HERE = Path(__file__).parent

# Channels, source and target of kernels that fewer people need.
OTHERS = [
    (1, "uint8", "float32"),
    (2, "bfloat16", "float16"),
    (3, "float16", "uint8"),
    (4, "uint8", "float32"),
    (5, "float32", "float32"),
]


@pytest.fixture(scope="module")
def interpreted():
    """Run the tests of the kernels beside the others of this file.

    Triton decides once for a process whether it interprets.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "interpreted_cuda.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HERE.parents[2]
    )
    yield process
    process.kill()
    process.wait()


def resources(kernel, architecture, channels, folder, *, source="uint8", target=None, later=False):
    """Return how many registers a kernel takes, and how many bytes of stack and local memory, which hold spills."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from torchaug_gen.augment.backends import cuda_kernels

    function = getattr(cuda_kernels, kernel)
    options = cuda_kernels.options(channels, later)
    constants = {name: options.pop(name) for name in ("C", "A", "GROUP", "LATER")}
    constants |= {"SOURCE": getattr(tl, source)} | ({"TARGET": getattr(tl, target)} if target else {})
    signature = {name: "constexpr" if name in constants else "i32" for name in function.arg_names}
    signature |= {"table": "*i32", "partials": "*fp32", "histograms": "*i32"}
    compiled = triton.compile(
        ASTSource(function, signature, constants), target=GPUTarget("cuda", architecture, 32), options=options
    )
    (folder / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", folder / "kernel.cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("kernel", "target"), [("render", "bfloat16"), ("measure", None)])
def test_kernels_compile_almost_without_spills(kernel, target, architecture, tmp_path):
    registers, stack, local = resources(kernel, architecture, 3, tmp_path, target=target)
    # None, or a few words: that depends on the version of Triton.
    assert local == 0 and stack <= 64
    # Six blocks of 128 threads share the 65536 registers of a multiprocessor.
    assert registers <= 80


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_rarer_kernels_compile_without_spills(kind, later, architecture, tmp_path):
    channels, source, target = kind
    options = {"source": "float32" if later else source, "later": later}
    for registers, stack, local in (
        resources("render", architecture, channels, tmp_path, target=target, **options),
        resources("measure", architecture, channels, tmp_path, **options),
    ):
        assert (stack, local) == (0, 0)
        assert registers <= 200


def test_images_on_a_cpu_are_refused():
    from torchaug_gen.augment.backends import cuda

    tables = random_tables.single(Code.HUE, [0.1], (4, 4), 3)
    with pytest.raises(ValueError, match="images must be on a CUDA device, got cpu"):
        cuda.run(tables, torch.zeros(1, 3, 4, 4), size=(4, 4))


def test_the_kernels_compute_what_the_tables_say(interpreted):
    output, _ = interpreted.communicate(timeout=280)
    assert interpreted.returncode == 0, output
    assert re.search(r"\d+ passed", output), output


# On a device


@pytest.fixture
def backend():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from torchaug_gen.augment.backends import cuda

    return cuda


def batch(seed, *, n=8, size=(120, 150), channels=3, output=(96, 130), dtype=np.uint8, **options):
    """Return tables, and images on the device."""
    tables = random_tables.random_tables(seed, [size] * n, channels, output=output, largest=100, **options)
    images = np.stack(random_tables.random_images(seed, [size] * n, channels, dtype))
    return tables, torch.from_numpy(images).cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("seed", range(8))
def test_a_device_computes_what_the_reference_computes(backend, seed, channels, dtype):
    tables, images = batch(seed, channels=channels, dtype=dtype, continuous=True)
    expected = reference.run(tables, images.cpu().double() / (255 if dtype is np.uint8 else 1)).float()
    got = backend.run(tables, images, size=(96, 130)).cpu()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    tables, images = batch(seed, channels=channels, dtype=dtype)
    expected = reference.run(tables, images.cpu().double() / (255 if dtype is np.uint8 else 1)).float()
    got = backend.run(tables, images, size=(96, 130)).cpu()
    # Jumps tip over, and those of one pass move the statistics of the next.
    assert ((got - expected).abs() > 1 / 255).float().mean() < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_device_rounds_outputs_as_torch_does(backend, dtype, memory_format):
    tables, images = batch(3, passes=1, codes=[Code.SCALE, Code.CONTRAST])
    exact = backend.run(tables, images, size=(96, 130))
    got = backend.run(tables, images, size=(96, 130), dtype=dtype, memory_format=memory_format)
    assert got.is_contiguous(memory_format=memory_format)
    expected = (exact * 255).round().clamp(0, 255).to(dtype) if dtype is torch.uint8 else exact.to(dtype)
    assert (got != expected).float().mean() < (1e-3 if dtype is torch.uint8 else 1e-6)


@pytest.mark.gpu
def test_nothing_waits_for_the_device(backend):
    tables, images = batch(1, passes=2)
    out = torch.empty(16, 3, 96, 130, device="cuda")
    rows = torch.arange(0, 16, 2)
    expected = backend.run(tables, images, size=(96, 130))
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(50):
            got = backend.run(tables, images, size=(96, 130))
            backend.run(tables, list(images), size=(96, 130), out=out, rows=rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, expected) and torch.equal(out[::2], expected)


@pytest.mark.gpu
@pytest.mark.parametrize("codes", [[Code.EQUALIZE], [Code.CONTRAST, Code.AUTOCONTRAST], list(random_tables.ALL_CODES)])
def test_the_same_sample_gets_the_same_bits(backend, codes):
    tables, images = batch(2, n=16, codes=codes)
    expected = backend.run(tables, images, size=(96, 130))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = [backend.run(tables, images, size=(96, 130)) for _ in range(5)]
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(other, expected) for other in again)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))[:7]
    some = backend.run(select(tables, order.tolist()), images[order.cuda()], size=(96, 130))
    assert torch.equal(some, expected[order.cuda()])


@pytest.mark.gpu
def test_a_graph_replays_it_on_new_images(backend):
    tables, images = batch(4, passes=2)
    other = images.flip(0).contiguous()
    expected = [backend.run(tables, batch_, size=(96, 130)) for batch_ in (images, other)]
    static, graph = images.clone(), torch.cuda.CUDAGraph()
    out = torch.empty_like(expected[0])
    with torch.cuda.graph(graph):
        backend.run(tables, static, size=(96, 130), out=out)
    # Calls in between take memory that the graph must not share.
    for batch_, right in zip((images, other), expected, strict=True):
        backend.run(select(tables, [7, 6, 5, 4, 3, 2, 1, 0]), images, size=(96, 130))
        static.copy_(batch_)
        graph.replay()
        assert torch.equal(out, right)
