"""Which units share a table: k-means in which a unit's distance to a table is the length of its code under it.

All integers, ties by index: so every machine and every number of threads finds the same tables.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.entropy.costs import FRACTION, entropy, log2, logarithms, sort
from arraycodec.primitives.jit import inlined, kernel

DIGITS = 8  # of the lengths below the point: a length and a count are 16-bit integers, a unit's code is 32
LONGEST = 24 << DIGITS
SMOOTH = 4  # a bin that a table has never seen counts as 2^-SMOOTH elements


def labelled(features: np.ndarray, most: int, table: int, rounds: int, sample: int) -> tuple[np.ndarray, int]:
    """The label of each unit, uint8, and the number of labels.

    features  int16 (units, F)
    most      tables at first, from which those are merged that cost more than they save
    table     bits of a table
    sample    units, evenly spaced, for which the first tables are made
    """
    found, most, logs = np.zeros(features.shape[0], np.uint8), max(most, 1), logarithms()
    if most > 1:
        lengths = np.empty((most, features.shape[1]), np.int16)
        step = max(1, features.shape[0] // sample)
        if step == 1:
            train(features, lengths, found, rounds, logs)
        else:
            some = np.ascontiguousarray(features[::step])
            train(some, lengths, np.empty(some.shape[0], np.uint8), rounds, logs)
            assign(features, lengths, found)
    sums = np.zeros((most, features.shape[1]), np.int64)
    add_up(features, found, sums)
    return found, int(merge(sums, found, table << FRACTION, logs)) if most > 1 else 1


@kernel
def train(features, lengths, found, rounds, logs):
    """Make the tables of `lengths`; at first a table has the units that are neighbours in the order of their means."""
    units, size = features.shape
    tables, half = lengths.shape[0], size >> 1
    means = np.empty(units, np.int64)
    for u in range(units):
        total, moment = np.int64(1), np.int64(0)
        for k in range(half):  # the halves are those of one and the other sign, or of bytes
            both = np.int64(features[u, k]) + np.int64(features[u, half + k])
            total += both
            moment += both * k
        means[u] = ((moment << 16) // total) << 20 | u
    sort(means)
    for i in range(units):
        found[means[i] & 0xFFFFF] = i * tables // units
    sums = np.empty((tables, size), np.int64)
    before = np.int64(-1)
    for _ in range(rounds):
        sums[:] = 0
        add_up(features, found, sums)
        measure(sums, lengths, logs)
        bits = assign(features, lengths, found)
        if before >= 0 and bits >= before - (before >> 12):
            break
        before = bits


@inlined
def measure(sums, lengths, logs):
    """The code lengths of each table."""
    for t in range(sums.shape[0]):
        total = np.int64(sums.shape[1])
        for k in range(sums.shape[1]):
            total += sums[t, k] << SMOOTH
        whole = log2(total, logs)
        for k in range(sums.shape[1]):
            lengths[t, k] = min((whole - log2((sums[t, k] << SMOOTH) + 1, logs)) >> (FRACTION - DIGITS), LONGEST)


@kernel
def add_up(features, found, sums):
    """Add each unit's features to the sums of its label."""
    for u in range(features.shape[0]):
        t = found[u]
        for k in range(features.shape[1]):
            sums[t, k] += features[u, k]


@kernel
def assign(features, lengths, found):
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
def merge(sums, found, table, logs):
    """Merge the two tables for which that costs the least, again and again, and keep the cheapest of all numbers."""
    tables, size = sums.shape
    own = np.empty(tables, np.int64)
    alive = np.zeros(tables, np.bool_)
    count, codes = 0, np.int64(0)
    for t in range(tables):
        own[t] = entropy(sums[t], logs)
        for k in range(size):
            alive[t] |= sums[t, k] > 0
        count += np.int64(alive[t])
        codes += own[t]
    rises = np.zeros((tables, tables), np.int64)
    both = np.empty(size, np.int64)
    for a in range(tables):
        for b in range(a):
            if alive[a] and alive[b]:
                rises[a, b] = rise(sums, own, a, b, both, logs)
    into, best_into = np.arange(tables), np.arange(tables)  # after all merges so far, and for the cheapest number
    best = cost_of(codes, count, found.size, table)
    while count > 1:
        to, gone, least = 0, 0, np.int64(-1)
        for a in range(tables):
            for b in range(a):
                if alive[a] and alive[b] and (least < 0 or rises[a, b] < least):
                    to, gone, least = b, a, rises[a, b]
        for k in range(size):
            sums[to, k] += sums[gone, k]
        own[to] = entropy(sums[to], logs)
        alive[gone] = False
        codes += least
        count -= 1
        for t in range(tables):
            if into[t] == gone:
                into[t] = to
            if alive[t] and t != to:
                rises[max(t, to), min(t, to)] = rise(sums, own, t, to, both, logs)
        bits = cost_of(codes, count, found.size, table)
        if bits <= best:
            best = bits
            for t in range(tables):
                best_into[t] = into[t]
    numbers, at = np.full(tables, -1, np.int64), 0
    for u in range(found.size):
        t = best_into[found[u]]
        if numbers[t] < 0:
            numbers[t] = at
            at += 1
        found[u] = numbers[t]
    return max(at, 1)


@inlined
def cost_of(codes, count, units, table):
    """The bits of codes, tables and labels."""
    width = 0
    while (1 << width) < count:
        width += 1
    return codes + count * table + ((units * width) << FRACTION)


@kernel
def rise(sums, own, a, b, both, logs):
    """What merging two tables costs."""
    for k in range(both.size):
        both[k] = sums[a, k] + sums[b, k]
    return entropy(both, logs) - own[a] - own[b]
