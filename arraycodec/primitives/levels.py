"""Levels of a trellis: which one each code tells, and how a codebook is trained.

A code is a bit, the highest, and an index. The bits of an element and of those before it in its path are its window,
whose subset is a sum modulo 2 of one number for each bit that is set (`taps`): so runs of elements are decoded side by
side, from any element on. Training is done here and nowhere else, on integers only.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from arraycodec.primitives.blockwise import segments
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import BINS, LOWEST, lloyd
from arraycodec.primitives.normal import HIGHEST, count_tiles, load_integers, normalise_range, share_of, sizes_of
from arraycodec.primitives.packing import load_dense
from arraycodec.primitives.paths import HALO, PATH, Paths, bands, paths_of, search
from arraycodec.primitives.runs import buffers
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.threads import split
from arraycodec.primitives.trellis import MASKS

REFINED = 4  # bits at most of codebooks that are refined: finer ones gain less than they lose on a sample
SAMPLE = 1 << 16  # elements, of as many whole paths, on which that is done
ROUNDS = 6  # of it

Levels = np.ndarray[Any, np.dtype[np.int16]]


def taps(states: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a set bit adds to the subset, the newest bit first, then the one before it, and so on.

    >>> taps(8).tolist()
    [2, 2, 1, 2]
    """
    high, low = MASKS[states]
    return np.array([2 * (high >> d & 1) + (low >> d & 1) for d in range(states.bit_length())], np.uint8)


def train(
    source: np.ndarray,
    kind: int,
    grid: Grid,
    scales: np.ndarray,
    outliers: np.ndarray,
    bits: int,
    states: int,
    weights: np.ndarray,
) -> Levels:
    """Sorted levels int16 (2^(bits + 1),) for an array under its scales; `weights` as `paths.search` takes them.

    outliers   the positions of elements that are read as 0

    1  the levels of k-means, from the histogram of all integers;
    2  up to REFINED bits, ROUNDS times: search the paths of a sample, and move each level to the mean of its numbers,
       but in the last round twice as far, because the next rounds would go on.
    An element counts by its weight and the square of its scale: so errors count alike throughout the array.
    """
    counts, parts, lock = np.zeros(BINS, np.int64), bands(grid), Lock()
    sizes = sizes_of(scales)
    largest = float(sizes.max(initial=0))

    def count(first: int, last: int) -> None:
        own = np.zeros(BINS, np.int64)
        for start, band in parts[first:last]:
            integers = integers_of(source, kind, grid, scales, outliers, start, band.size)
            count_tiles(integers, start, grid, sizes, largest, weights, own)
        with lock:
            np.add(counts, own, out=counts)

    split(count, len(parts), grid.size)
    levels = start_levels(counts, 2 << bits)
    begins, length = sample_paths(grid)
    if bits > REFINED or not begins.size:
        return levels
    sample, paths = np.empty(begins.size * length, np.int16), Paths(begins.size, length, 0, 1, length)
    codes, shares = np.empty(sample.size, np.uint8), np.empty(sample.size, np.int64)
    load_paths(source, kind, grid, scales, sizes, largest, begins, length, sample, shares)
    path = np.searchsorted(begins, outliers, "right") - 1
    column = outliers - begins[path]
    there = (column >= 0) & (column < length)
    sample[path[there] * length + column[there]] = 0
    if weights.size > 1:
        weights = weights[(begins[:, None] + np.arange(length)).reshape(-1) % weights.size]
    for left in range(ROUNDS - 1, -1, -1):
        search(sample, paths, levels, states, weights, codes)
        mass, moment = np.zeros(levels.size, np.int64), np.zeros(levels.size, np.int64)
        sum_levels(sample, codes, bits, length, taps(states), shares * weights, mass, moment)
        way = 2 * (moment - mass * levels) * (2 if left else 1)
        moved = levels + (way + mass) // np.maximum(2 * mass, 1)
        levels = np.sort(np.clip(moved, -int(HIGHEST), int(HIGHEST))).astype(np.int16)
    return levels


def integers_of(
    source: np.ndarray, kind: int, grid: Grid, scales: np.ndarray, outliers: np.ndarray, start: int, size: int
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The integers of so many elements from `start` on; the other arguments as `normal.normalise` takes them."""
    integers = np.empty(size, np.int16)
    normalise_range(source, kind, grid, scales, integers, start)
    first, last = np.searchsorted(outliers, (start, start + size))
    integers[outliers[first:last] - start] = 0
    return integers


def start_levels(counts: np.ndarray, k: int) -> Levels:
    """The k levels of k-means. Where there are no more numbers than levels, each number is as many levels.

    So a number is in all subsets, if there are levels enough, and no path is kept from it.
    """
    numbers = np.flatnonzero(counts) - LOWEST
    if numbers.size > k:
        return lloyd(counts, k)
    return np.append(numbers, 0)[np.arange(k) * numbers.size // k].astype(np.int16)


def sample_paths(grid: Grid) -> tuple[np.ndarray, int]:
    """Where paths of the array begin that lie as far apart as possible, and their length."""
    whole, rest = paths_of(grid)
    paths = whole if whole.number else rest
    chosen = np.arange(0, paths.number, max(1, -(-paths.number * paths.length // SAMPLE)))
    return paths.first + chosen // paths.beside * paths.apart + chosen % paths.beside * PATH, paths.length


@kernel
def load_paths(source, kind, grid, scales, sizes, largest, begins, length, integers, shares):
    """The integers of paths, one after another, and how much an error of each counts."""
    run, (factors, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    for i in range(begins.size):
        found, lo = segments(grid, begins[i], length, ends, tiles), 0
        out, share = integers[i * length : (i + 1) * length], shares[i * length : (i + 1) * length]
        load_integers(source, kind, scales, (ends, tiles, found), begins[i], length, run, factors, out)
        for k in range(found):
            share[lo : ends[k]] = share_of(sizes[tiles[k]], largest)
            lo = ends[k]


@kernel
def sum_levels(integers, codes, bits, length, taps, weights, mass, moment):
    """Add each number, by its own weight, to the sums of its level; paths are `length` elements each."""
    q, three, subset = np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN, np.uint8)
    mask = np.int64((1 << (bits - 1)) - 1)
    for at in range(0, integers.size, RUN):
        count = min(RUN, integers.size - at)
        lead = load_subsets(codes, 8, bits, length, taps, at, count, q, three, subset)
        for i in range(count):
            level = (np.int64(q[lead + i]) & mask) << 2 | np.int64(subset[i])
            mass[level] += weights[at + i]
            moment[level] += weights[at + i] * integers[at + i]


@inlined
def load_subsets(codes, width, bits, columns, taps, at, count, q, three, subset):
    """Load the codes of a run and find their subsets. Returned is where the first of them lies in q.

    width   bits from one code to the next
    three   a buffer: 3 where a bit is set, so that 3 & tap is the tap
    """
    lead = HALO + (at & 7)
    if at >= 8:
        load_dense(codes, width, at - lead, count + lead, q)
    else:
        load_dense(codes, width, 0, at + count, q[HALO:])
    shift = np.uint8(bits - 1)
    for i in range(count + lead):
        bit = np.uint8(q[i] >> shift)
        three[i] = np.uint8(bit | np.uint8(bit << np.uint8(1)))
    subset[:count] = 0
    for d in range(taps.size):
        part, tap = three[lead - d : lead - d + count], taps[d]
        if tap:
            for i in range(count):
                subset[i] = np.uint8(subset[i] ^ np.uint8(part[i] & tap))
    # The first elements of a path have fewer bits before them.
    column = at % columns
    origin = -(column % PATH)
    column += origin
    while origin < count:
        end = origin + min(PATH, columns - column)
        for i in range(max(origin, 0), min(origin + taps.size - 1, end, count)):
            subset[i] = 0
            for d in range(min(i - origin, taps.size - 1) + 1):
                subset[i] = np.uint8(subset[i] ^ np.uint8(three[lead + i - d] & taps[d]))
        column = 0 if column + PATH >= columns else column + PATH
        origin = end
    return lead
