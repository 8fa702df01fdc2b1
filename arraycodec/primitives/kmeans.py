"""k-means in one dimension, on integers: what levels quantise int16 numbers best, from their histogram.

Training is done here and nowhere else. All sums are integers, so their order does not matter, nor do threads.
    lloyd     alternates between cells and their means, from a start of equal mass of the cube root of the density, and
              where that settles, cuts costly cells and joins cheap ones: close to the optimum;
    settled   goes on from there, moving all cuts between cells together: closer, and hardly slower;
    optimum   finds the best of all sets of integer levels by dynamic programming;
    near      does so among few places for cuts, and then closer and closer around these: almost the optimum.
All give sorted levels; where there are fewer numbers than levels, these are the numbers, and the last is repeated.
The iterations themselves are in `arraycodec.primitives.cells` and `arraycodec.primitives.cuts`.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from arraycodec.primitives.cells import BINS, CELLS, LOWEST, lloyd_levels, optimum_levels
from arraycodec.primitives.cuts import near_levels, settle_levels
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.threads import split

ROUNDS = 400  # of Lloyd's, which on the weights of models settles in far fewer
MAX_MASS = 1 << 31  # of a histogram, so that its second moment fits 63 bits
FINER = 1 << 8  # places for cuts, that take no time beside a histogram
PART = 1 << 16  # elements that a thread takes at a time

Levels = np.ndarray[Any, np.dtype[np.int16]]
ONES = np.ones(1, np.int64)  # the weights of columns where all count alike


def histogram(integers: np.ndarray, weights: np.ndarray = ONES) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often each int16 number occurs, or the sum of the weights where it does: int64[65536].

    weights   int64 (columns,): one for each index into the last axis, repeated along the flattened array.

    >>> histogram(np.array([-32768, 5, 5], np.int16))[[0, 32773]].tolist()
    [1, 2]
    """
    flat, total, lock = integers.reshape(-1), np.zeros(BINS, np.int64), Lock()

    def work(first: int, last: int) -> None:
        own = np.zeros(BINS, np.int64)
        start, stop = first * PART, min(last * PART, flat.size)
        count_range(flat[start:stop], weights, start, own)
        with lock:
            np.add(total, own, out=total)

    split(work, -(-flat.size // PART), flat.size)
    return total


def lloyd(counts: np.ndarray, k: int, rounds: int = ROUNDS) -> Levels:
    """Sorted levels int16[k] of a histogram, by Lloyd's iteration until nothing moves, or so many times."""
    occupied = int(np.count_nonzero(counts))
    if occupied <= k:
        return optimum(counts, k)
    # Both ways give the same; with most values there, it is faster not to search for them.
    values, mass, moment, square = _prefix(counts, dense=occupied > 8 * CELLS)
    levels = np.empty(k, np.int16)
    lloyd_levels(values, mass, moment, square, rounds, levels)
    return levels


def settled(counts: np.ndarray, k: int, rounds: int = ROUNDS) -> Levels:
    """Sorted levels int16[k] of a histogram, by Lloyd's iteration and then from its cuts: never worse than `lloyd`.

    >>> counts = np.zeros(65536, np.int64)
    >>> counts[[32768, 32769, 32868, 32870]] = 1, 3, 1, 1
    >>> settled(counts, 2).tolist()
    [1, 101]
    """
    levels = lloyd(counts, k, rounds)
    if np.count_nonzero(counts) > k:
        values, mass, moment, _ = _prefix(counts, dense=False)
        settle_levels(values, mass, moment, levels)
    return levels


def optimum(counts: np.ndarray, k: int) -> Levels:
    """Sorted levels int16[k] of a histogram with the least sum of squared errors that any k integers can have.

    >>> counts = np.zeros(65536, np.int64)
    >>> counts[[32768, 32769, 32868, 32870]] = 1, 3, 1, 1
    >>> optimum(counts, 2).tolist()
    [1, 101]
    """
    values, mass, moment, square = _prefix(counts, dense=False)
    levels = np.empty(k, np.int16)
    optimum_levels(values, mass, moment, square, levels)
    return levels


def near(counts: np.ndarray, k: int) -> Levels:
    """Sorted levels int16[k] of a histogram, within 0.01 dB of the optimum as a rule, and in a fraction of its time.

    >>> counts = np.zeros(65536, np.int64)
    >>> counts[[32768, 32769, 32868, 32870]] = 1, 3, 1, 1
    >>> near(counts, 2).tolist()
    [1, 101]
    """
    values, mass, moment, _ = _prefix(counts, dense=False)
    levels = np.empty(k, np.int16)
    near_levels(values, mass, moment, FINER, levels)
    return levels


def nearest(levels: Levels) -> np.ndarray[Any, np.dtype[np.unsignedinteger]]:
    """The code of the nearest of sorted levels for each of the 65,536 numbers, of two the lower one: by v + 32768.

    >>> nearest(np.array([-8, 0, 10], np.int16))[np.arange(-5, 8, 2) + 32768].tolist()
    [0, 1, 1, 1, 1, 1, 2]
    """
    codes = np.empty(BINS, np.uint8 if levels.size <= 256 else np.uint16)
    nearest_codes(bounds_of(levels), codes)
    return codes


def bounds_of(levels: Levels) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The largest number whose code is at most that of each level but the last: its code is the count of those below.

    Of equal levels only the first has numbers. Levels are along the last axis, int16 as the bounds are.
    """
    low, high = levels[..., :-1].astype(np.int32), levels[..., 1:].astype(np.int32)
    bounds = np.where(low == high, LOWEST - 1, (low + high) >> 1)
    return np.minimum.accumulate(bounds[..., ::-1], axis=-1)[..., ::-1].astype(np.int16)


def _prefix(counts: np.ndarray, dense: bool) -> tuple[np.ndarray, ...]:
    """The values that have a mass, or all where `dense`, and prefix sums of mass, moment and square."""
    counts = np.ascontiguousarray(counts, np.int64)
    total = int(counts.sum())
    shift = total.bit_length() - MAX_MASS.bit_length() + 1 if total > MAX_MASS else 0
    values, sums = np.empty(BINS, np.int64), np.zeros((3, BINS + 1), np.int64)
    found = prefix_sums(counts, shift, dense, values, sums)
    return values[:found], *sums[:, : found + 1]


@kernel
def prefix_sums(counts, shift, dense, values, sums):
    """Values and their prefix sums, and how many there are; what occurs at all keeps a mass."""
    found = 0
    for v in range(BINS):
        if counts[v] == 0 and not dense:
            continue
        weight, value = max(counts[v] >> shift, 1) if counts[v] else 0, v - LOWEST
        values[found] = value
        sums[0, found + 1] = sums[0, found] + weight
        sums[1, found + 1] = sums[1, found] + weight * value
        sums[2, found + 1] = sums[2, found] + weight * value * value
        found += 1
    return found


@kernel
def count_range(integers, weights, start, counts):
    """Add the weights of elements to the bins of their numbers; the first has index `start` in its array."""
    if weights.size == 1:
        weight = weights[0]
        for i in range(integers.size):
            counts[bin_of(integers[i])] += weight
        return
    column = start % weights.size
    for i in range(integers.size):
        counts[bin_of(integers[i])] += weights[column]
        column = column + 1 if column + 1 < weights.size else 0


@inlined
def bin_of(v):
    """The bin of a number, as an index that cannot be negative: so Numba does not count from the end."""
    return np.uint64(np.int64(v) + LOWEST)


@inlined
def find_codes(bounds, integers, codes):
    """The number of bounds below each number, its code, uint8. All are compared: in SIMD lanes that is little."""
    codes[:] = 0
    for bound in bounds:
        for i in range(integers.size):
            codes[i] = np.uint8(codes[i] + np.uint8(bound < integers[i]))


@inlined
def key_of(value, weight):
    """A number and its weight (below 2^31) as one integer, which `train_keys` sorts."""
    return ((np.int64(value) + LOWEST) << 32) | np.int64(weight)


@kernel
def train_keys(keys, exact, rounds, levels):
    """The levels of a few numbers, a row or block of an array, given as `key_of` them; `keys` are sorted in place.

    exact   the optimum; else Lloyd's iteration for so many rounds, and on from its cuts, as `settled`.
    """
    values, sums = np.empty_like(keys), np.empty((3, keys.size + 1), np.int64)
    found = prefix_keys(keys, values, sums)
    mass, moment, square = sums[0, : found + 1], sums[1, : found + 1], sums[2, : found + 1]
    if exact or found <= levels.size:
        optimum_levels(values[:found], mass, moment, square, levels)
    else:
        lloyd_levels(values[:found], mass, moment, square, rounds, levels)
        settle_levels(values[:found], mass, moment, levels)


@kernel
def prefix_keys(keys, values, sums):
    """The values and their prefix sums of a few numbers, and how many: `prefix_sums` from `key_of` them.

    `keys` are sorted in place; those without a weight are left out.
    """
    sort_keys(keys, np.empty_like(keys))
    counts = np.empty_like(keys)
    sums[:, 0] = 0
    found = total = shift = 0
    for i in range(keys.size):
        value, weight = (keys[i] >> 32) - LOWEST, keys[i] & 0xFFFFFFFF
        if weight == 0:
            continue
        if found == 0 or values[found - 1] != value:
            values[found], counts[found] = value, 0
            found += 1
        counts[found - 1] += weight
        total += weight
    while total > MAX_MASS and total >> shift >= MAX_MASS:
        shift += 1
    for i in range(found):  # as in `_prefix`
        weight, value = max(counts[i] >> shift, 1), values[i]
        sums[0, i + 1] = sums[0, i] + weight
        sums[1, i + 1] = sums[1, i] + weight * value
        sums[2, i + 1] = sums[2, i] + weight * value * value
    return found


@kernel
def sort_keys(keys, spare):
    """Sort by the number, the upper half of a key: first by its low byte, then by its high one, in counted order."""
    for shift in (32, 40):
        starts = np.zeros(257, np.int64)
        for i in range(keys.size):
            starts[((keys[i] >> shift) & 255) + 1] += 1
        for b in range(256):
            starts[b + 1] += starts[b]
        for i in range(keys.size):
            b = (keys[i] >> shift) & 255
            spare[starts[b]] = keys[i]
            starts[b] += 1
        keys, spare = spare, keys


@kernel
def nearest_codes(bounds, codes):
    """The number of bounds below each of the 65,536 numbers."""
    code = 0
    for v in range(codes.size):
        while code < bounds.size and bounds[code] < v - LOWEST:
            code += 1
        codes[v] = code
