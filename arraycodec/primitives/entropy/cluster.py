"""Which units share a table: k-means in which a unit's distance to a table is the length of its code under it.

All integers, ties by index: so every machine and every number of threads finds the same tables.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.entropy.costs import log2, logarithms
from arraycodec.primitives.jit import inlined, kernel

DIGITS = 8  # of the lengths below the point: a length and a count are 16-bit integers, a unit's code is 32
LONGEST = 24 << DIGITS


def labels(features: np.ndarray, tables: int, rounds: int, sample: int) -> tuple[np.ndarray, int]:
    """The label of each unit, uint8, and the bits of their features in all.

    features  int16 (units, F); tables are made for at most `sample` of them, evenly spaced
    """
    units = features.shape[0]
    found, lengths = np.zeros(units, np.uint8), np.zeros((tables, features.shape[1]), np.int16)
    step = max(1, units // sample)
    some = np.ascontiguousarray(features[::step]) if step > 1 else features
    train(some, lengths, found[: some.shape[0]], rounds, logarithms())
    bits = assign(features, lengths, found)
    return found, bits >> DIGITS


@kernel
def train(features, lengths, found, rounds, logs):
    """Make the tables of `lengths`; at first a table has the units that are neighbours in the order of their means."""
    units, size = features.shape
    tables = lengths.shape[0]
    means = np.empty(units, np.int64)
    for u in range(units):
        total, moment = np.int64(1), np.int64(0)
        for k in range(size):
            # Sign and exponent: the halves are those of one and the other sign.
            total += features[u, k]
            moment += np.int64(features[u, k]) * (k % (size >> 1))
        means[u] = (moment << 16) // total
    order = np.argsort(means, kind="mergesort")
    for i in range(units):
        found[order[i]] = i * tables // units
    sums = np.empty((tables, size), np.int64)
    before = np.int64(-1)
    for _ in range(rounds):
        sums[:] = 0
        for u in range(units):
            for k in range(size):
                sums[found[u], k] += features[u, k]
        measure(sums, lengths, logs)
        bits = assign_units(features, lengths, found)
        if before >= 0 and bits >= before - (before >> 12):
            break
        before = bits


@inlined
def measure(sums, lengths, logs):
    """The code lengths of each table; a symbol that does not occur counts as a sixteenth."""
    for t in range(sums.shape[0]):
        total = np.int64(sums.shape[1])
        for k in range(sums.shape[1]):
            total += sums[t, k] << 4
        for k in range(sums.shape[1]):
            length = (log2(total, logs) - log2((sums[t, k] << 4) + 1, logs)) >> 8
            lengths[t, k] = min(length, LONGEST)


@inlined
def assign_units(features, lengths, found):
    """Give each unit the first of the tables under which its code is the shortest; the bits in all."""
    units, size = features.shape
    bits = np.int64(0)
    for u in range(units):
        least, label = np.int32(0x7FFFFFFF), 0
        for t in range(lengths.shape[0]):
            length = np.int32(0)
            for k in range(size):
                length += np.int32(features[u, k]) * np.int32(lengths[t, k])
            if length < least:
                least, label = length, t
        found[u] = label
        bits += least
    return bits


@kernel
def assign(features, lengths, found):
    """`assign_units` of all units."""
    return assign_units(features, lengths, found)
