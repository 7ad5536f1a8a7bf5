import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchaug_gen import rng

SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**32 - 1)
POSITIONS = st.integers(0, 2**62)

# The known answers that Salmon et al. publish with their reference implementation (philox4x32, 10 rounds).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    for make in (torch.tensor, np.array):
        block = rng.philox([make([word]) for word in counter], key)
        assert tuple(int(word[0]) for word in block) == expected


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 4), min_size=1, max_size=20), SEEDS)
@settings(max_examples=30, deadline=None)
def test_tensors_and_arrays_give_the_same_words(counters, seed):
    words, key = np.array(counters).T, (seed & (2**32 - 1), seed >> 32)
    arrays, tensors = rng.philox(words, key), rng.philox(torch.from_numpy(words.copy()), key)
    assert all(np.array_equal(array, tensor.numpy()) for array, tensor in zip(arrays, tensors, strict=True))


@given(SEEDS, EPOCHS, st.lists(st.integers(0, 2**63 - 1), max_size=8), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_compiled_words_are_the_same(seed, epoch, positions, blocks):
    column, key = np.array(positions, np.int64).reshape(-1, 1), (seed & (2**32 - 1), seed >> 32)
    compiled = rng._compiled_words(column, blocks, epoch, key)
    assert compiled.dtype == np.int64 and np.array_equal(compiled, rng._host_words(column, blocks, epoch, key))


@given(SEEDS, EPOCHS, st.lists(st.integers(0, 2**63 - 1), max_size=8), st.integers(0, 9), st.data())
@settings(max_examples=100, deadline=None)
def test_compiled_integers_are_the_same(seed, epoch, positions, count, data):
    low, width = data.draw(st.integers(-(2**40), 2**40)), data.draw(st.integers(1, 2**32) | st.just(2**32))
    draw = partial(rng.integers, seed, "stream", epoch, positions, (count,), low=low, high=low + width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "_compiles", lambda _: False)
        expected = draw()
        patch.setattr(rng, "_compiles", lambda _: True)
        assert torch.equal(draw(), expected)


@given(SEEDS, EPOCHS, st.lists(POSITIONS, min_size=1, max_size=8), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_number_depends_on_its_address_alone(seed, epoch, positions, count):
    for draw in (rng.uniform, rng.normal, lambda *args: rng.integers(*args, high=1000)):
        together = draw(seed, "stream", epoch, positions, (count,))
        assert together.shape == (len(positions), count)
        for row, position in zip(together, positions, strict=True):
            assert torch.equal(row, draw(seed, "stream", epoch, position, (count,))[0])
            # Drawing fewer at a position gives the first of them.
            assert torch.equal(row[:1], draw(seed, "stream", epoch, position, (1,))[0])


@given(SEEDS, EPOCHS, POSITIONS)
@settings(max_examples=30, deadline=None)
def test_every_part_of_the_address_counts(seed, epoch, position):
    here = rng.uniform(seed, "a", epoch, position, (4,))
    others = [
        rng.uniform(seed ^ 1, "a", epoch, position, (4,)),
        rng.uniform(seed ^ 2**63, "a", epoch, position, (4,)),
        rng.uniform(seed, "b", epoch, position, (4,)),
        rng.uniform(seed, "a", epoch ^ 1, position, (4,)),
        rng.uniform(seed, "a", epoch, position ^ 1, (4,)),
        rng.uniform(seed, "a", epoch, position ^ 2**40, (4,)),
    ]
    assert all(not torch.equal(here, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform(dtype):
    numbers = rng.uniform(1, "uniform", 0, range(20_000), (3,), dtype=dtype).flatten()
    assert numbers.dtype is dtype
    assert numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_numbers_are_normal_and_independent(dtype, count):
    numbers = rng.normal(1, "normal", 0, range(20_000), (count,), dtype=dtype)
    assert numbers.dtype is dtype
    assert stats.kstest(numbers.flatten().double().numpy(), "norm").pvalue > 1e-3
    if count > 1:
        correlation = torch.corrcoef(numbers.double().T)
        assert (correlation - torch.eye(count)).abs().max() < 0.03


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-5, 5), (0, 7), (10, 11)])
def test_integers_cover_their_range_evenly(low, high):
    numbers = rng.integers(3, "integers", 0, range(50_000), low=low, high=high)
    assert set(numbers.unique().tolist()) == set(range(low, high))
    if high - low > 1:
        assert stats.chisquare(torch.bincount(numbers - low).numpy()).pvalue > 1e-3


def test_integers_reach_over_32_bits():
    numbers = rng.integers(3, "wide", 0, range(20_000), high=2**32)
    assert numbers.min() >= 0 and numbers.max() < 2**32
    assert stats.kstest(numbers.double().numpy() / 2**32, "uniform").pvalue > 1e-3


@given(SEEDS, st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_a_permutation_is_one(seed, n):
    order = rng.permutation(seed, "order", 0, n)
    assert sorted(order.tolist()) == list(range(n))


def test_permutations_are_evenly_likely():
    orders = [tuple(rng.permutation(0, "order", 0, 3, position=p).tolist()) for p in range(6_000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == math.factorial(3)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_derived_seeds_differ():
    seeds = {rng.derive_seed(s, name, e, p) for s in range(5) for name in "ab" for e in range(5) for p in range(5)}
    assert len(seeds) == 5 * 2 * 5 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.usefixtures("untouched_rng")
def test_global_generators_stay_untouched():
    rng.uniform(0, "a", 0, range(10))
    rng.normal(0, "a", 0, range(10))
    rng.permutation(0, "a", 0, 10)


def test_another_process_draws_the_same():
    code = (
        "from torchaug_gen import rng; "
        "print(rng.uniform(7, 'x', 3, [1, 2**40]).tolist(), rng.permutation(7, 'x', 3, 5).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = f"{rng.uniform(7, 'x', 3, [1, 2**40]).tolist()} {rng.permutation(7, 'x', 3, 5).tolist()}"
    assert printed == here


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rng.uniform(-1, "a", 0, 0), ValueError, r"seed must be in 0..2\*\*64-1, got -1"),
        (lambda: rng.uniform(2**64, "a", 0, 0), ValueError, "seed"),
        (lambda: rng.uniform(0.5, "a", 0, 0), TypeError, "seed must be an integer, got 0.5"),
        (lambda: rng.uniform(0, "a", -1, 0), ValueError, "epoch"),
        (lambda: rng.uniform(0, "a", 0, [3, -2]), ValueError, "positions must be at least 0, got -2"),
        (lambda: rng.uniform(0, "a", 0, torch.tensor([0.5])), TypeError, "positions must be integers"),
        (lambda: rng.uniform(0, "a", 0, 0, dtype=torch.float16), TypeError, "dtype must be"),
        (lambda: rng.normal(0, "a", 0, 0, dtype=torch.bfloat16), TypeError, "dtype must be"),
        (lambda: rng.integers(0, "a", 0, 0, low=3, high=3), ValueError, "got low=3, high=3"),
        (lambda: rng.integers(0, "a", 0, 0, high=2**32 + 1), ValueError, "high - low"),
        (lambda: rng.permutation(0, "a", 0, -1), ValueError, "n must be at least 0, got -1"),
    ],
)
def test_bad_addresses_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.gpu
def test_cpu_and_cuda_agree():
    positions = torch.arange(100_000) * 7919
    cuda = positions.cuda()
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(
            rng.uniform(5, "a", 2, positions, (3,), dtype=dtype), rng.uniform(5, "a", 2, cuda, (3,), dtype=dtype).cpu()
        )
    assert torch.equal(rng.integers(5, "a", 2, positions, high=2**32), rng.integers(5, "a", 2, cuda, high=2**32).cpu())
    assert torch.equal(rng.permutation(5, "a", 2, 100_000), rng.permutation(5, "a", 2, 100_000, device="cuda").cpu())
    difference = rng.normal(5, "a", 2, positions, (3,)) - rng.normal(5, "a", 2, cuda, (3,)).cpu()
    assert difference.abs().max() < 1e-6
