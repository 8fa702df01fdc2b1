"""Paths through a trellis: the bits and levels with the least squared error, and back from codes to levels.

The elements of a row, PATH at a time, are a path. Its code at each element is a bit, the highest, and an index; with
the window of bits (`arraycodec.primitives.trellis`) they tell level 4 * index + subset. All arithmetic is on integers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import BINS, LOWEST
from arraycodec.primitives.trellis import subsets

PATH = 1024  # elements at most: so that a long row is many paths, searched side by side
LANES = 64  # paths that are searched side by side
BAND = 1 << 18  # elements that a thread searches at a time, as integers and codes of their own
HALO = 8  # elements before a run that its windows reach back to, at most

# states -> the largest distance that counts: its square, for as many steps as a path has memory and one more, twice,
# fits 31 bits
CLIPS = {8: 16383, 64: 11585, 256: 8191}


class Paths(NamedTuple):
    """Paths of one length: number i starts at element `first + i // beside * apart + i % beside * PATH`."""

    number: int
    length: int
    first: int
    beside: int
    apart: int


def paths_of(grid: Grid) -> tuple[Paths, Paths]:
    """The paths of PATH elements, and the shorter ones at the ends of rows."""
    rows, columns = grid.matrices * grid.rows, grid.columns
    whole, rest = divmod(columns, PATH)
    return (
        Paths(rows * whole, PATH, 0, max(whole, 1), columns),
        Paths(rows if rest else 0, rest, whole * PATH, 1, columns),
    )


def bands(grid: Grid) -> list[tuple[int, Grid]]:
    """Parts of an array that are whole paths and begin at a byte of codes: their first element, and their rows."""
    if not grid.size:
        return []
    rows, columns = grid.matrices * grid.rows, grid.columns
    if rows == 1 or (columns > BAND and columns % 8 == 0):
        cuts = [(at, min(BAND, columns - at)) for at in range(0, columns, BAND)]
        return [(row * columns + at, Grid(1, 1, size, 1, columns)) for row in range(rows) for at, size in cuts]
    apart = 8 // math.gcd(8, columns)
    step = apart * max(1, BAND // (apart * columns))
    return [(at * columns, Grid(1, min(step, rows - at), columns, 1, columns)) for at in range(0, rows, step)]


def search(
    integers: np.ndarray, paths: Paths, levels: np.ndarray, states: int, weights: np.ndarray, codes: np.ndarray
) -> None:
    """Write the codes of all elements of paths: `integers` int16 and `codes` uint8 are flat.

    levels    int16 (2^(bits + 1),), sorted
    weights   int64 (columns,), repeated along the flattened array: of squared errors; (1,) where all count alike.
    """
    weights = weights if weights.size > 1 else np.ones(1, np.int64)
    metric, reach = np.int32 if weights.size == 1 else np.int64, states.bit_length() - 1
    # What a path costs that does not begin in state 0: more than any that does, until all paths have forgotten it.
    far = np.array([reach * CLIPS[states] ** 2 * int(weights.max()) + 1, np.iinfo(metric).max], metric)
    coarse = np.int32(max(0, 6 - levels.size.bit_length()))  # few levels lie far apart
    tables = quads_of(levels), first_levels(levels), subsets(states)
    weights, clip = weights.astype(metric), np.int32(CLIPS[states])
    search_paths(integers, tuple(paths), *tables, weights, coarse, clip, far, codes)


def first_levels(levels: np.ndarray) -> np.ndarray:
    """For each of the 65,536 numbers the first of the four levels that it may become, uint16, by v + 32768.

    These are the nearest ones of each subset, of two the lower, and they follow each other: they begin behind level i
    where level i + 4 is nearer.
    """
    wide = levels.astype(np.int64)
    bounds = (wide[:-4] + wide[4:]) >> 1
    counts = np.diff(bounds, prepend=-LOWEST - 1, append=BINS - LOWEST - 1)
    return np.repeat(np.arange(levels.size - 3, dtype=np.uint16), counts)


def quads_of(levels: np.ndarray) -> np.ndarray:
    """For each level and the three after it, these four by their subset, as one int64 of four int16."""
    first = np.arange(levels.size - 3)[:, None]
    return levels[first + (np.arange(4) - first) % 4].view(np.int64).reshape(-1)


@kernel
def search_paths(integers, paths, quads, first, subset, weights, coarse, clip, far, codes):
    """Search paths, as many side by side as there are lanes."""
    number, length, origin, beside, apart = paths
    begins = np.empty(LANES, np.int64)
    for path in range(0, number, LANES):
        for lane in range(LANES):  # lanes without a path repeat the last one
            i = min(path + lane, number - 1)
            begins[lane] = origin + i // beside * apart + i % beside * PATH
        search_lanes(integers, begins, length, quads, first, subset, weights, coarse, clip, far, codes)


@kernel
def search_lanes(integers, begins, length, quads, first, subset, weights, coarse, clip, far, codes):
    """Viterbi's algorithm along a path in each lane; states are the newest bits of the window, the newest lowest."""
    states = subset.size >> 1
    half = states >> 1
    x, base = np.empty((length, LANES), np.int16), np.empty((length, LANES), np.uint16)
    w = np.empty((length if weights.size > 1 else 0, LANES), weights.dtype)
    chosen = np.empty((length, (states + 7) >> 3, LANES), np.uint8)  # bits: the predecessor with the highest bit set
    cost, after = np.empty((2, half, LANES), weights.dtype), np.empty((2, half, LANES), weights.dtype)
    distance, near = np.empty((4, LANES), weights.dtype), np.empty(4 * LANES, np.int16)
    least, lowest = np.zeros(LANES, weights.dtype), np.empty(LANES, weights.dtype)
    gather(integers, begins, x)
    for t in range(w.shape[0]):
        for lane in range(LANES):
            w[t, lane] = weights[(begins[lane] + t) % weights.size]
    cost[:] = far[0]
    cost[0, 0] = 0
    for t in range(length):
        distances(x[t], base[t], first, quads, coarse, clip, near, distance)
        for c in range(4):
            d = distance[c]
            if w.size:
                for lane in range(LANES):
                    d[lane] *= w[t, lane]
            for lane in range(LANES):
                d[lane] -= least[lane]
        lowest[:] = far[1]
        step(cost, after, distance, subset, half, chosen[t], lowest)
        cost, after = after, cost
        least, lowest = lowest, least
    trace(cost, chosen, base, subset, half, np.int32((quads.size + 3) >> 2), begins, codes)


@inlined
def gather(integers, begins, x):
    """The numbers of all lanes, step by step."""
    length = x.shape[0]
    for lane in range(LANES):
        source = integers[begins[lane] : begins[lane] + length]
        for t in range(length):
            x[t, lane] = source[t]


@inlined
def distances(number, at, first, quads, coarse, clip, near, distance):
    """The squared error of each lane's number with the one level of each subset that it may become."""
    quad = near.view(np.int64)
    for lane in range(LANES):
        at[lane] = first[np.int64(number[lane]) + LOWEST]
        quad[lane] = quads[at[lane]]
    zero, one, two, three = distance[0], distance[1], distance[2], distance[3]
    for lane in range(LANES):
        x = np.int32(number[lane])
        zero[lane] = squared(x, near[4 * lane], coarse, clip)
        one[lane] = squared(x, near[4 * lane + 1], coarse, clip)
        two[lane] = squared(x, near[4 * lane + 2], coarse, clip)
        three[lane] = squared(x, near[4 * lane + 3], coarse, clip)


@inlined
def squared(x, level, coarse, clip):
    """The square of a difference, without its lowest bits where these do not matter, or of the largest that counts."""
    e = np.int32(np.int32(x - np.int32(level)) >> coarse)
    e = min(max(e, np.int32(-clip)), clip)
    return np.int32(e * e)


@inlined
def step(cost, after, distance, subset, half, chosen, lowest):
    """One step of all lanes: two states lead to two others, each of which keeps the cheaper way.

    Costs of even states lie apart from those of odd ones: rows that were written in turns could not be vectorised.
    """
    kind = cost.dtype.type
    chosen[:] = 0
    for s in range(half):
        zero, one = cost[s & 1, s >> 1], cost[s & 1, (s + half) >> 1]
        even, odd = after[0, s], after[1, s]
        zero_even, one_even = distance[subset[2 * s]], distance[subset[2 * (s + half)]]
        zero_odd, one_odd = distance[subset[2 * s + 1]], distance[subset[2 * (s + half) + 1]]
        bits = chosen[s >> 2]
        low, high = np.uint8(1 << ((2 * s) & 7)), np.uint8(2 << ((2 * s) & 7))
        for lane in range(LANES):
            u, v = kind(zero[lane] + zero_even[lane]), kind(one[lane] + one_even[lane])
            y, z = kind(zero[lane] + zero_odd[lane]), kind(one[lane] + one_odd[lane])
            even[lane], odd[lane] = min(u, v), min(y, z)
            took = np.uint8((low if v < u else np.uint8(0)) | (high if z < y else np.uint8(0)))
            bits[lane] = np.uint8(bits[lane] | took)
            lowest[lane] = min(lowest[lane], min(min(u, v), min(y, z)))


@kernel
def trace(cost, chosen, base, subset, half, top, begins, codes):
    """Back from the cheapest state, the first of equals."""
    length = base.shape[0]
    state, before, row = np.zeros(LANES, np.int32), np.empty(LANES, np.int32), np.empty((length, LANES), np.uint8)
    for lane in range(LANES):
        for s in range(1, 2 * half):
            if cost[s & 1, s >> 1, lane] < cost[state[lane] & 1, state[lane] >> 1, lane]:
                state[lane] = s
    for t in range(length - 1, -1, -1):
        bits, out, at = chosen[t], row[t], base[t]
        if half == 4:
            eight = bits[0]
            for lane in range(LANES):
                s = state[lane]
                before[lane] = np.int32((s >> 1) | (((np.int32(eight[lane]) >> s) & 1) << 2))
        else:
            for lane in range(LANES):
                s = state[lane]
                before[lane] = np.int32((s >> 1) | (half if (bits[s >> 3, lane] >> (s & 7)) & 1 else 0))
        for lane in range(LANES):
            newest = np.int32(state[lane] & 1)
            a = np.int32(at[lane])
            found = np.int32(subset[np.uint32((before[lane] << 1) | newest)])
            index = np.int32(a + ((found - a) & 3)) >> 2
            out[lane] = np.uint8(newest * top | index)
            state[lane] = before[lane]
    for lane in range(LANES):
        target = codes[begins[lane] : begins[lane] + length]
        for t in range(length):
            target[t] = row[t, lane]
