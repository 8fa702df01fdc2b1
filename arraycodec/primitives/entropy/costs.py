"""Costs in bits from integers alone, so that every machine and every number of threads makes the same choices."""

from __future__ import annotations

from functools import cache

import numpy as np

from arraycodec.primitives.jit import inlined, kernel

FRACTION = 16  # binary digits of a cost below the point
STEPS = 12  # leading digits of a number that its logarithm is looked up by


@cache
def logarithms() -> np.ndarray:
    """log2(1 + i / 2^STEPS) with FRACTION digits, rounded down, digit by digit: a number's square has twice its log."""
    x = (np.arange(1 << STEPS, dtype=np.uint64) + np.uint64(1 << STEPS)) << np.uint64(31 - STEPS)
    found = np.zeros(1 << STEPS, np.int64)
    for _ in range(FRACTION):
        x = x * x >> np.uint64(31)
        digit = x >> np.uint64(32)
        x >>= digit
        found = 2 * found + digit.astype(np.int64)
    return found


@inlined
def log2(x, logs):
    """log2 of an integer >= 1 below 2^53, with FRACTION digits; `logs` is `logarithms()`."""
    bits = np.float64(x).view(np.int64)  # exact, so its exponent and leading digits are those of x
    return (((bits >> 52) - 1023) << 16) + logs[(bits >> 40) & 0xFFF]


@kernel
def entropy(counts, logs):
    """The bits of an ideal code for symbols with these counts, made for them; with FRACTION digits."""
    total, found = np.int64(0), np.int64(0)
    for i in range(counts.size):
        count = np.int64(counts[i])
        if count:
            total += count
            found -= count * log2(count, logs)
    return found + total * log2(total, logs) if total else found


@kernel
def entropies(sums, symbols, logs):
    """The bits of ideal codes of each field, and the words that have none.

    sums     int64 (T, bins): of the words of each table
    symbols  of each field int16 (bins,): the symbol 0..256 of each bin, or -1
    """
    bits, outside = np.zeros(len(symbols), np.int64), np.zeros(len(symbols), np.int64)
    counts = np.empty(258, np.int64)
    for f, symbols_of_field in enumerate(symbols):
        for t in range(sums.shape[0]):
            counts[:] = 0
            for b in range(symbols_of_field.size):
                counts[1 + symbols_of_field[b]] += sums[t, b]
            outside[f] += counts[0]
            counts[0] = 0
            bits[f] += entropy(counts, logs)
    return bits, outside


@inlined
def sort(keys):
    """Sort integers in place (shell sort; to compile NumPy's takes seconds)."""
    gap = 1
    while gap < keys.size // 3:
        gap = 3 * gap + 1
    while gap:
        for i in range(gap, keys.size):
            key, at = keys[i], i
            while at >= gap and keys[at - gap] > key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key
        gap //= 3
