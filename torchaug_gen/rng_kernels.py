"""The Numba kernel of :mod:`torchaug_gen.rng`, for processes that run Numba anyway."""

# Numba infers the types.
# mypy: ignore-errors

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def fill_words(words, positions, epoch, key0, key1):
    """Fill ``words`` ``(N, blocks, 4)`` int64 with the Philox4x32-10 blocks 0, 1, … of ``positions`` ``(N,)`` int64."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for row in range(words.shape[0]):
        position = np.uint64(positions[row])
        for block in range(words.shape[1]):
            c0, c1, c2, c3 = np.uint64(block), position & low, position >> half, np.uint64(epoch)
            k0, k1 = np.uint64(key0), np.uint64(key1)
            for _ in range(10):
                p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
                c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
                k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
            words[row, block, 0], words[row, block, 1] = np.int64(c0), np.int64(c1)
            words[row, block, 2], words[row, block, 3] = np.int64(c2), np.int64(c3)


@njit(cache=True, nogil=True)
def fill_integers(numbers, positions, epoch, key0, key1, low, width):
    """Fill ``numbers`` ``(N, count)`` int64 with integers in [low, low + width), of 64 random bits each."""
    words = np.empty((1, (numbers.shape[1] + 1) // 2, 4), np.int64)
    pairs = words.reshape(-1, 2)
    half, word = np.uint64(32), np.uint64(0xFFFFFFFF)
    for row in range(numbers.shape[0]):
        fill_words(words, positions[row : row + 1], epoch, key0, key1)
        for column in range(numbers.shape[1]):
            carry = (np.uint64(pairs[column, 1]) * np.uint64(width)) >> half
            upper = np.uint64(pairs[column, 0]) * np.uint64(width)
            # Even with a width of 2³² the sum stays below 2⁶⁴.
            numbers[row, column] = np.int64(((upper + carry) >> half) & word) + low
