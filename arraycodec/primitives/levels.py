"""Levels of a trellis: which one each code tells, and how a codebook is trained.

A code is a bit, the highest, and an index. The bits of an element and of those before it in its path are its window,
whose subset is a sum modulo 2 of one number for each bit that is set (`taps`): so runs of elements are decoded side by
side, from any element on. Training is done here and nowhere else, on integers only.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from arraycodec.primitives.blockwise import quantise_pieces, segments
from arraycodec.primitives.cells import optimum_levels, start_centres
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import BINS, LOWEST, MAX_MASS, histogram
from arraycodec.primitives.normal import load_integers
from arraycodec.primitives.packing import load_dense
from arraycodec.primitives.paths import HALO, PATH, Paths, bands, paths_of, search
from arraycodec.primitives.runs import buffers
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.threads import split
from arraycodec.primitives.trellis import MASKS

SAMPLE = 1 << 16  # elements, of as many whole paths, on which a codebook is refined
ROUNDS = 12  # of refinement
CELLS = 3  # for each level: the start is the best among those whose cells are made of so many

Levels = np.ndarray[Any, np.dtype[np.int16]]


def taps(states: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a set bit adds to the subset, the newest bit first, then the one before it, and so on.

    >>> taps(8).tolist()
    [2, 2, 1, 2]
    """
    high, low = MASKS[states]
    return np.array([2 * (high >> d & 1) + (low >> d & 1) for d in range(states.bit_length())], np.uint8)


def train(
    source: np.ndarray, kind: int, grid: Grid, scales: np.ndarray, bits: int, states: int, weights: np.ndarray
) -> Levels:
    """Sorted levels int16 (2^(bits + 1),) for an array under its scales; `weights` as `paths.search` takes them.

    1  the best levels of scalar quantisation, by cells of the histogram;
    2  ROUNDS times: search the paths of a sample, and move each level to the mean of its numbers.
    """
    counts, parts, lock = np.zeros(BINS, np.int64), bands(grid), Lock()

    def count(first: int, last: int) -> None:
        for start, band in parts[first:last]:
            found = histogram(integers_of(source, kind, grid, scales, start, band.size), np.roll(weights, -start))
            with lock:
                np.add(counts, found, out=counts)

    split(count, len(parts), grid.size)
    levels = start_levels(counts, 2 << bits)
    begins, length = sample_paths(grid)
    sample, paths = np.empty(begins.size * length, np.int16), Paths(begins.size, length, 0, 1, length)
    codes = np.empty(sample.size, np.uint8)
    load_paths(source, kind, grid, scales, begins, length, sample)
    if weights.size > 1:
        weights = weights[(begins[:, None] + np.arange(length)).reshape(-1) % weights.size]
    for _ in range(ROUNDS if sample.size else 0):
        search(sample, paths, levels, states, weights, codes)
        mass, moment = np.zeros(levels.size, np.int64), np.zeros(levels.size, np.int64)
        sum_levels(sample, codes, bits, length, taps(states), weights, mass, moment)
        means = (2 * moment + mass) // np.maximum(2 * mass, 1)
        levels = np.sort(np.where(mass > 0, means, levels)).astype(np.int16)
    return levels


def integers_of(
    source: np.ndarray, kind: int, grid: Grid, scales: np.ndarray, start: int, size: int
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The integers of so many elements from `start` on; the other arguments as `normal.normalise` takes them."""
    integers = np.empty(size, np.int16)

    def work(first: int, last: int) -> None:
        load_range(source, kind, grid, scales, start, integers, first, last)

    quantise_pieces(size, work)
    return integers


def start_levels(counts: np.ndarray, k: int) -> Levels:
    """The best k levels of a histogram among those whose cells begin at one of a few bounds.

    The bounds are spaced as the cube root of the density, so that a number far away from all others has its own cell.
    Where there are no more numbers than levels, these are the levels.
    """
    if (total := int(counts.sum())) > MAX_MASS:  # what occurs at all keeps a mass
        shift = total.bit_length() - MAX_MASS.bit_length() + 1
        counts = np.where(counts > 0, np.maximum(counts >> shift, 1), 0)
    values = np.arange(BINS) - LOWEST
    sums = np.zeros((3, BINS + 1), np.int64)
    for power in range(3):
        np.cumsum(counts * values**power, out=sums[power, 1:])
    bounds = np.flatnonzero(counts)
    if bounds.size <= k:  # each number is as many levels, so that it is in all subsets if there are enough
        return values[np.append(bounds, LOWEST)[np.arange(k) * bounds.size // k]].astype(np.int16)
    if bounds.size > CELLS * k:
        centres = np.empty(CELLS * k, np.int64)
        start_centres(values, sums[0], centres)
        near = np.unique(np.minimum(np.searchsorted(bounds, (centres >> 4) + LOWEST), bounds.size - 1))
        bounds = bounds[np.union1d(near, [0])]
    ends = np.append(bounds, BINS)
    levels = np.empty(k, np.int16)
    optimum_levels(values[bounds], *(np.ascontiguousarray(total[ends]) for total in sums), levels)
    return np.sort(levels)


def sample_paths(grid: Grid) -> tuple[np.ndarray, int]:
    """Where paths of the array begin that lie as far apart as possible, and their length."""
    whole, rest = paths_of(grid)
    paths = whole if whole.number else rest
    chosen = np.arange(0, paths.number, max(1, -(-paths.number * paths.length // SAMPLE)))
    return paths.first + chosen // paths.beside * paths.apart + chosen % paths.beside * PATH, paths.length


@kernel
def load_range(source, kind, grid, scales, origin, integers, start, stop):
    """The integers start..stop, counted from the element `origin` on."""
    run, (factors, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        segment = (ends, tiles, segments(grid, origin + at, count, ends, tiles))
        load_integers(source, kind, scales, segment, origin + at, count, run, factors, integers[at : at + count])


@kernel
def load_paths(source, kind, grid, scales, begins, length, integers):
    """The integers of paths, one after another."""
    run, (factors, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    for i in range(begins.size):
        segment = (ends, tiles, segments(grid, begins[i], length, ends, tiles))
        out = integers[i * length : (i + 1) * length]
        load_integers(source, kind, scales, segment, begins[i], length, run, factors, out)


@kernel
def sum_levels(integers, codes, bits, length, taps, weights, mass, moment):
    """Add each number, by its weight, to the sums of its level; paths are `length` elements each."""
    q, three, subset = np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN, np.uint8)
    mask = np.int64((1 << (bits - 1)) - 1)
    for at in range(0, integers.size, RUN):
        count = min(RUN, integers.size - at)
        lead = load_subsets(codes, 8, bits, length, taps, at, count, q, three, subset)
        for i in range(count):
            level = (np.int64(q[lead + i]) & mask) << 2 | np.int64(subset[i])
            weight = weights[(at + i) % weights.size]
            mass[level] += weight
            moment[level] += weight * integers[at + i]


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
