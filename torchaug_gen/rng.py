"""Random numbers as pure functions of (seed, stream, epoch, position).

The generator is Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel
Random Numbers: As Easy as 1, 2, 3" (SC'11), chosen because it needs nothing but 32-bit multiplications and
exclusive-ors, which every device does exactly: the words are the same on CPU and CUDA by construction.

The 64-bit key is one Philox block of the stream's hash under the seed. The 128-bit counter is addressed,
never advanced: ``(block, position low, position high, epoch)``. Two calls that name the same address get
the same numbers, whatever was drawn before, in whichever process; no state exists that could be read or moved.
"""

import hashlib
import math
import operator
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
# The same for NumPy, which would take a Python integer for a signed one.
_MULTIPLIERS = np.array(_MULTIPLIER, np.uint64).reshape(2, 1, 1)
_WEYLS = np.array(_WEYL, np.uint64).reshape(2, 1, 1)
_LOW, _HALF = np.uint64(_WORD), np.uint64(32)

Positions = int | Sequence[int] | Tensor


def philox(counter: Sequence[Any], key: tuple[int, int]) -> tuple[Any, ...]:
    """Return one Philox4x32-10 block for each counter.

    Args:
        counter: four int64 tensors, or NumPy arrays, that broadcast, each holding 32-bit words in 0..2³²-1.
        key: two 32-bit words.

    Returns:
        Four int64 tensors or arrays of the broadcast shape with words in 0..2³²-1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2⁶⁴, so its bits are those of the unsigned product.
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(
    seed: int,
    stream: str,
    epoch: int,
    positions: Positions,
    size: Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw uniform numbers in [0, 1), the same bits on every device.

    Args:
        seed: the user's seed, 0 ≤ seed < 2⁶⁴.
        stream: the name of what is drawn; streams are independent of each other.
        epoch: 0 ≤ epoch < 2³².
        positions: where in the epoch, int64 ≥ 0: an int, a sequence, or an ``(N,)`` tensor.
        size: the shape drawn at each position.
        dtype: ``torch.float32`` (24 random bits) or ``torch.float64`` (53 random bits).

    Returns:
        ``(N, *size)`` numbers on the device of ``positions`` (CPU unless it is a tensor).

    Raises:
        ValueError: a seed, epoch or position out of range.
        TypeError: another dtype.
    """
    count = math.prod(size)
    if dtype is torch.float32:
        words = _words(seed, stream, epoch, positions, count)
        # 24 bits fit a float32 exactly, so neither the cast nor the product rounds.
        numbers = (words >> 8).to(torch.float32) * 2.0**-24
    elif dtype is torch.float64:
        high, low = _pairs(seed, stream, epoch, positions, count).unbind(-1)
        numbers = ((high << 21) | (low >> 11)).to(torch.float64) * 2.0**-53
    else:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return numbers.reshape(len(numbers), *size)


def normal(
    seed: int,
    stream: str,
    epoch: int,
    positions: Positions,
    size: Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw standard normal numbers by the Box–Muller transform.

    The transform runs in float64 on words that are equal on every device, and is then rounded to ``dtype``.
    Devices differ by the last bits of ``log``, ``cos`` and ``sin`` in float64, so float32 results agree within
    one unit in the last place: below 5e-7, since no number exceeds √(2·ln 2³²) = 6.67 in size.

    Args, Returns and Raises are those of :func:`uniform`.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    count = math.prod(size)
    pairs = (count + 1) // 2
    words = _pairs(seed, stream, epoch, positions, pairs).to(torch.float64)
    radius = torch.sqrt(-2.0 * torch.log((words[..., 0] + 1.0) * 2.0**-32))
    angle = words[..., 1] * (2.0 * math.pi * 2.0**-32)
    numbers = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(-2)
    return numbers[:, :count].to(dtype).reshape(len(numbers), *size)


def integers(
    seed: int,
    stream: str,
    epoch: int,
    positions: Positions,
    size: Sequence[int] = (),
    *,
    high: int,
    low: int = 0,
) -> Tensor:
    """Draw integers in [low, high), the same on every device.

    A 64-bit random number is multiplied by the width of the range and its upper half kept, so that no value is
    more likely than another by more than a part in 2³².

    Args:
        seed: see :func:`uniform`.
        stream: see :func:`uniform`.
        epoch: see :func:`uniform`.
        positions: see :func:`uniform`.
        size: see :func:`uniform`.
        high: one above the largest integer; ``0 < high - low ≤ 2³²``.
        low: the smallest integer.

    Returns:
        ``(N, *size)`` int64 on the device of ``positions``.

    Raises:
        ValueError: an empty range, or one wider than 2³²; a seed, epoch or position out of range.
    """
    width = high - low
    if not 0 < width <= 1 << 32:
        raise ValueError(f"high - low must be in 1..2**32, got low={low}, high={high}")
    count = math.prod(size)
    positions = _checked(positions)
    if _compiles(positions):
        where = positions.numpy()
        numbers = _compiled_integers(where, count, check_epoch(epoch), key(seed, stream), low=low, width=width)
        return torch.from_numpy(numbers).reshape(len(numbers), *size)
    pairs = _pairs(seed, stream, epoch, positions, count)
    # On the host in NumPy, as in _words.
    words: Any = pairs.numpy() if pairs.device.type == "cpu" else pairs
    most, least = words[..., 0], words[..., 1]
    # floor((most·2³² + least)·width / 2⁶⁴) in two 64-bit steps; shifts are masked because int64 is signed.
    carry = ((least * width) >> 32) & _WORD
    numbers = (((most * width + carry) >> 32) & _WORD) + low
    return torch.as_tensor(numbers).reshape(len(numbers), *size)


def permutation(
    seed: int, stream: str, epoch: int, n: int, *, position: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a random order of ``range(n)``, the same on every device.

    Args:
        seed: see :func:`uniform`.
        stream: see :func:`uniform`.
        epoch: see :func:`uniform`.
        n: how many items, ≥ 0.
        position: tells permutations of one stream and epoch apart.
        device: where the result lies.

    Returns:
        ``(n,)`` int64.

    Raises:
        ValueError: negative ``n``; a seed, epoch or position out of range.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    where = torch.tensor([position], dtype=torch.int64, device=device)
    most, least = _pairs(seed, stream, epoch, where, n)[0].unbind(-1)
    # 63-bit sort keys: a tie has odds of n²/2⁶⁴, and a stable sort settles it alike everywhere.
    return torch.sort((most << 31) | (least >> 1), stable=True).indices


def derive_seed(seed: int, stream: str, epoch: int = 0, position: int = 0) -> int:
    """Return a 63-bit seed for a generator that is not ours, such as ``torch.Generator``."""
    return int(integers(seed, stream, epoch, position, (2,), high=1 << 31).reshape(2) @ torch.tensor([1 << 31, 1]))


def key(seed: int, stream: str) -> tuple[int, int]:
    """Return the two 32-bit words of a stream's Philox key, for kernels that draw its numbers themselves."""
    return _key(check_seed(seed), stream)


def check_seed(seed: int) -> int:
    """Return ``seed`` as an int, or raise ``TypeError`` or ``ValueError`` where it is none in 0..2⁶⁴-1."""
    return _index("seed", seed, 64)


def check_epoch(epoch: int) -> int:
    """Return ``epoch`` as an int, or raise ``TypeError`` or ``ValueError`` where it is none in 0..2³²-1."""
    return _index("epoch", epoch, 32)


def _index(name: str, value: SupportsIndex, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{name} must be in 0..2**{bits}-1, got {number}")
    return number


@lru_cache(maxsize=1024)
def _key(seed: int, stream: str) -> tuple[int, int]:
    digest = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    words = list(np.array([[digest & _WORD], [digest >> 32], [0], [0]]))
    block = philox(words, (seed & _WORD, seed >> 32))
    return int(block[0][0]), int(block[1][0])


def _pairs(seed: int, stream: str, epoch: int, positions: Positions, count: int) -> Tensor:
    """Return ``(N, count, 2)`` random words."""
    words = _words(seed, stream, epoch, positions, 2 * count)
    return words.reshape(len(words), count, 2)


def _words(seed: int, stream: str, epoch: int, positions: Positions, count: int) -> Tensor:
    """Return ``(N, count)`` random 32-bit words as int64, on the device of ``positions``."""
    key = _key(check_seed(seed), stream)
    epoch = check_epoch(epoch)
    positions = _checked(positions)
    blocks = (count + 3) // 4
    if positions.device.type == "cpu":
        # In NumPy, which starts an operation in a fifth of the time: most draws are small.
        host_words = _compiled_words if _compiles(positions) else _host_words
        return torch.from_numpy(host_words(positions.numpy(), blocks, epoch, key))[:, :count]
    block = torch.arange(blocks, device=positions.device)
    words = philox(_counter(positions, block, torch.full_like(block[:1], epoch)), key)
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(-2)[:, :count]


def _checked(positions: Positions) -> Tensor:
    """Return positions as an ``(N, 1)`` int64 tensor."""
    if not isinstance(positions, Tensor):
        positions = torch.tensor(positions, dtype=torch.int64)
    if positions.is_floating_point() or positions.dtype is torch.bool:
        raise TypeError(f"positions must be integers, got {positions.dtype}")
    positions = positions.reshape(-1, 1).to(torch.int64)
    # Reading a value back from a CUDA tensor would stall it, so there a negative position only wraps.
    if positions.device.type == "cpu" and (array := positions.numpy()).size and array.min() < 0:
        raise ValueError(f"positions must be at least 0, got {array.min()}")
    return positions


def _compiles(positions: Tensor) -> bool:
    """Say whether numbers are drawn by compiled code: on a CPU, in a hundredth of the time, where Numba is loaded.

    That is where the fused engine runs on the CPU. Elsewhere, as in workers, it would take a second to load.
    """
    return positions.device.type == "cpu" and "numba" in sys.modules


def _host_words(
    positions: npt.NDArray[np.int64], blocks: int, epoch: int, key: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Return the words of :func:`philox` for positions ``(N, 1)`` and blocks 0, 1, …: ``(N, 4 · blocks)``.

    Both halves of a round go through each operation together: 50 of them instead of 140.
    """
    shape = (2, len(positions), blocks)
    even, odd = np.empty(shape, np.uint64), np.empty(shape, np.uint64)
    even[0], even[1] = np.arange(blocks), (positions >> 32) & _WORD
    odd[0], odd[1] = positions & _WORD, epoch
    high, low, spare = np.empty(shape, np.uint64), np.empty(shape, np.uint64), np.empty(shape, np.uint64)
    keys = np.array(key, np.uint64).reshape(2, 1, 1)
    for _ in range(_ROUNDS):
        # A product of 32-bit words fits 64 bits.
        np.multiply(even, _MULTIPLIERS, out=low)
        np.right_shift(low, _HALF, out=high)
        np.bitwise_and(low, _LOW, out=low)
        np.bitwise_xor(high[::-1], odd, out=even)
        np.bitwise_xor(even, keys, out=even)
        odd, low, spare = low[::-1], spare, low
        keys = (keys + _WEYLS) & _LOW
    words = np.empty((*shape[1:], 4), np.int64)
    words[..., 0], words[..., 1], words[..., 2], words[..., 3] = even[0], odd[0], even[1], odd[1]
    return words.reshape(shape[1], 4 * blocks)


def _compiled_words(
    positions: npt.NDArray[np.int64], blocks: int, epoch: int, key: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Return what :func:`_host_words` does."""
    from torchaug_gen.rng_kernels import fill_words

    words = np.empty((len(positions), blocks, 4), np.int64)
    fill_words(words, positions.reshape(-1), epoch, key[0], key[1])
    return words.reshape(len(positions), 4 * blocks)


def _compiled_integers(
    positions: npt.NDArray[np.int64], count: int, epoch: int, key: tuple[int, int], *, low: int, width: int
) -> npt.NDArray[np.int64]:
    """Return ``(N, count)`` integers in [low, low + width)."""
    from torchaug_gen.rng_kernels import fill_integers

    numbers = np.empty((len(positions), count), np.int64)
    fill_integers(numbers, positions.reshape(-1), epoch, key[0], key[1], low, width)
    return numbers


def _counter(positions: Any, blocks: Any, epoch: Any) -> tuple[Any, Any, Any, Any]:
    return blocks, positions & _WORD, (positions >> 32) & _WORD, epoch
