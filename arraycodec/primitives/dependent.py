"""Dependent quantisation: the kernels of `dq` between an array and its codes, on integers but for one multiplication.

An element in units of 2^-8 half steps is the integer x; level j stands at x = 256 j. The code of level j is m = j >> 1;
its lowest bit z is known from the codes before it, of the same segment:
    p_t = m_t & 1;    b_t = p_t ^ b_(t-1) ^ b_(t-3);    z_t = b_(t-2);    j_t = 2 m_t + z_t,    with b = 0 before.
So at each step the path b allows one level in four, m_t and b_t telling which: the code of 8 states of `trellis`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy.costs import FRACTION, log2, logarithms
from arraycodec.primitives.floats import MIN_SCALE, as_float
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.scales import RUN, load, multiply, settle, used_scale
from arraycodec.primitives.threads import split
from arraycodec.primitives.trellis import subsets

PERIOD = 7  # of 1 / (1 + D + D^3): b is a sum of parities that lie so far apart,
TAPS = (2, 3, 4, 6)  # and z one of the parities so many codes before, summed up in steps of PERIOD
SEGMENT = 128 * PERIOD  # elements from one start of the trellis to the next
UNIT = 256  # of x in a half step
HIGHEST = UNIT * 65533  # |x| up to which all candidates have codes of 16 bits
CENTRED = 12  # |j| up to which levels have a centroid
FEW = 96  # |code| up to which codes are chosen by what they cost, too,
RARE = 64  # unless more than one in so many is beyond
RATE = 1 << 14  # of squared x, that a bit is worth: about the slope of distortion over rate, for all rates
NO_RATES = np.zeros(1, np.int32)
LANES = 32  # segments that are searched side by side
STATES = 8
EFFORT = 16  # elements of a plain loop that take as long as one here


class Numbers(NamedTuple):
    """An array as the integers x of its elements: rint(element * inverse), at most `limit` in magnitude."""

    source: np.ndarray  # flat unsigned integers
    kind: int
    inverse: np.float32
    limit: np.float32


@inlined
def load_numbers(numbers, start, count, run, x):
    """x of the elements start..start + count; `run` is uint32 of RUN elements."""
    load(numbers.source, numbers.kind, start, count, run)
    y = run.view(np.float32)
    for i in range(count):
        x[i] = np.int32(min(max(np.rint(y[i] * numbers.inverse), -numbers.limit), numbers.limit))


def searched(numbers: Numbers, rates: np.ndarray) -> np.ndarray:
    """The codes, int16, of the path of every segment with the least sum of (x - 256 j)^2 + rates[j].

    rates  int32 (2 R + 1,), of the codes from -R on; those beyond take the last one.
    """
    size = numbers.source.size
    codes = np.empty(size, np.int16)
    groups = -(-(size // SEGMENT) // LANES) + (size % SEGMENT > 0)
    split(lambda first, last: search(numbers, rates, subsets(STATES), codes, first, last), groups, EFFORT * size)
    return codes


@kernel
def search(numbers, rates, subset_of, codes, first, last):
    """Search LANES whole segments at a time, those of the groups first..last; a last one that is shorter by itself."""
    columns, back = np.empty((SEGMENT, LANES), np.int32), np.empty((SEGMENT, LANES), np.uint8)
    room = np.empty((4 + 2 * STATES + 1, LANES), np.int32)
    run, x = np.empty(RUN, np.uint32), np.empty(SEGMENT, np.int32)
    whole = codes.size // SEGMENT
    columns[:] = 0
    for g in range(first, last):
        segment = min(g * LANES, whole)
        lanes, steps = min(LANES, whole - segment), SEGMENT
        if lanes == 0:
            lanes, steps = 1, codes.size % SEGMENT
        for lane in range(lanes):
            load_numbers(numbers, (segment + lane) * SEGMENT, steps, run, x)
            for t in range(steps):
                columns[t, lane] = x[t]
        final = forward(columns[:steps], rates, subset_of, back, room)
        for lane in range(lanes):
            start, state = (segment + lane) * SEGMENT, 0
            for s in range(STATES):
                if final[s, lane] < final[state, lane]:
                    state = s
            for t in range(steps - 1, -1, -1):
                before = (state >> 1) | (((back[t, lane] >> state) & 1) << 2)
                low = lowest(columns[t, lane])
                subset = subset_of[(before << 1) | (state & 1)]
                codes[start + t] = (low + ((subset - low) & 3)) >> 1
                state = before


@inlined
def lowest(x):
    """The lowest of the four levels around x, one of each subset."""
    return (x >> np.int32(8)) - np.int32(1)


@kernel
def forward(columns, rates, subset_of, back, room):
    """The costs of the best paths to every state, (STATES, LANES); bit s of `back`: state s came from the upper one."""
    distance, cost, new, least = room[:4], room[4 : 4 + STATES], room[4 + STATES : 4 + 2 * STATES], room[-1]
    half = rates.size >> 1
    cost[:] = 1 << 29
    cost[0] = 0
    for t in range(columns.shape[0]):
        x = columns[t]
        for c in range(4):
            d = distance[c]
            for i in range(LANES):
                low = lowest(x[i])
                j = low + ((np.int32(c) - low) & np.int32(3))
                e = x[i] - (j << np.int32(8))
                d[i] = e * e
            if half:
                for i in range(LANES):
                    low = lowest(x[i])
                    j = low + ((np.int32(c) - low) & np.int32(3))
                    d[i] += rates[min(max((j >> 1) + half, 0), 2 * half)]
        bits = back[t]
        bits[:] = 0
        least[:] = 1 << 30
        for s in range(STATES):
            below, above = s >> 1, (s >> 1) | 4
            d0, d1 = distance[subset_of[(below << 1) | (s & 1)]], distance[subset_of[(above << 1) | (s & 1)]]
            c0, c1, best = cost[below], cost[above], new[s]
            for i in range(LANES):
                a, b = c0[i] + d0[i], c1[i] + d1[i]
                bits[i] |= np.uint8(b < a) << np.uint8(s)
                best[i] = min(a, b)
                least[i] = min(least[i], best[i])
        for s in range(STATES):
            for i in range(LANES):
                cost[s, i] = new[s, i] - least[i]
    return cost


@inlined
def next_level(m, path):
    """The level of a code, and the path with its bit."""
    level = np.int32(2) * np.int32(m) + np.int32((path >> np.uint32(1)) & np.uint32(1))
    b = (np.uint32(m) ^ path ^ (path >> np.uint32(2))) & np.uint32(1)
    return level, np.uint32((path << np.uint32(1)) | b)


@inlined
def centre(level, centroids):
    """Where a level stands, in 2^-8 half steps."""
    low = abs(level) <= CENTRED
    return np.int32(UNIT) * level + np.int32(centroids[level + CENTRED] if low else 0)


class Statistics(NamedTuple):
    """What codes make of an array, in 2^-8 half steps, as exact integers."""

    centroids: np.ndarray  # int16 (2 CENTRED + 1,)
    error: int  # sum of the squared distances to levels with these centroids
    signal: int  # sum of the squares of x


def statistics(numbers: Numbers, codes: np.ndarray) -> Statistics:
    """The centroids that make the error least, and that error."""
    count, offset = np.zeros(2 * CENTRED + 1, np.int64), np.zeros(2 * CENTRED + 1, np.int64)
    sums, lock = np.zeros(4, np.int64), Lock()

    def work(first: int, last: int) -> None:
        own_count, own_offset, own_sums = np.zeros_like(count), np.zeros_like(offset), np.zeros_like(sums)
        add_up(numbers, codes, own_count, own_offset, own_sums, first, last)
        with lock:
            for total, own in ((count, own_count), (offset, own_offset), (sums, own_sums)):
                np.add(total, own, out=total)

    split(work, -(-codes.size // SEGMENT), EFFORT * codes.size)
    centroids = (2 * offset + count) // np.maximum(2 * count, 1)
    error = int(sums[0]) - int((2 * centroids * offset - centroids * centroids * count).sum())
    signal = (int(sums[1]) << 24) + (int(sums[2]) << 13) + int(sums[3])
    return Statistics(centroids.astype(np.int16), error, signal)


@kernel
def add_up(numbers, codes, count, offset, sums, first, last):
    """Of the segments first..last: elements and distances at central levels; squared distances, and x squared, of
    which the high and low 12 bits, and twice their product, are added up by themselves.
    """
    run, x = np.empty(RUN, np.uint32), np.empty(SEGMENT, np.int32)
    for segment in range(first, last):
        start, path = segment * SEGMENT, np.uint32(0)
        count_here = min(SEGMENT, codes.size - start)
        load_numbers(numbers, start, count_here, run, x)
        for i in range(count_here):
            level, path = next_level(codes[start + i], path)
            distance = np.int64(x[i]) - np.int64(UNIT) * np.int64(level)
            if abs(level) <= CENTRED:
                count[level + CENTRED] += 1
                offset[level + CENTRED] += distance
            sums[0] += distance * distance
            high, low = np.int64(x[i]) >> 12, np.int64(x[i]) & 0xFFF
            sums[1] += high * high
            sums[2] += high * low
            sums[3] += low * low


def histogram(numbers: Numbers) -> np.ndarray:
    """How often each x from -2^15 to 2^15 - 1 occurs, int64; there must be no others."""
    return _counted(lambda counts, first, last: count_numbers(numbers, counts, first, last), numbers.source.size)


def histogram_of_codes(codes: np.ndarray) -> np.ndarray:
    """The same of codes."""
    return _counted(lambda counts, first, last: count_codes(codes, counts, first, last), codes.size)


def _counted(count: Callable[[np.ndarray, int, int], None], size: int) -> np.ndarray:
    """The sum of what `count` adds to counts of its own for ranges of runs."""
    counts, lock = np.zeros(1 << 16, np.int64), Lock()

    def work(first: int, last: int) -> None:
        own = np.zeros_like(counts)
        count(own, first, last)
        with lock:
            np.add(counts, own, out=counts)

    split(work, -(-size // RUN), size)
    return counts


@kernel
def count_numbers(numbers, counts, first, last):
    """Count x of the runs first..last."""
    run, x = np.empty(RUN, np.uint32), np.empty(RUN, np.int32)
    for r in range(first, last):
        count = min(RUN, numbers.source.size - r * RUN)
        load_numbers(numbers, r * RUN, count, run, x)
        for i in range(count):
            counts[x[i] + (1 << 15)] += 1


@kernel
def count_codes(codes, counts, first, last):
    """Count the codes of the runs first..last."""
    for code in codes[first * RUN : last * RUN]:
        counts[np.int64(code) + (1 << 15)] += 1


def rates_of(counts: np.ndarray) -> np.ndarray:
    """What each code costs by how often it occurred, for `searched`: a bit is as much as RATE of squared distance.

    NO_RATES where more than one in RARE codes is beyond FEW: then neighbours cost nearly the same.
    """
    used = np.flatnonzero(counts) - (1 << 15)
    most = min(int(np.abs(used).max(initial=0)), FEW)
    if RARE * int(counts.sum() - counts[(1 << 15) - most : (1 << 15) + most + 1].sum()) > counts.sum():
        return NO_RATES
    rates = np.empty(2 * most + 1, np.int32)
    rate_table(counts[(1 << 15) - most : (1 << 15) + most + 1], logarithms(), rates)
    return rates


@kernel
def rate_table(counts, logs, rates):
    """RATE times the ideal bits of symbols with these counts."""
    total = log2(counts.sum(), logs)
    for i in range(counts.size):
        rates[i] = ((total - log2(max(counts[i], 1), logs)) * RATE) >> FRACTION


def restored(codes: np.ndarray, centroids: np.ndarray, scale: np.uint32, kind: int, out: np.ndarray) -> None:
    """Write the bits of the array of these codes: level times scale, rounded once to float32 and once to the dtype.

    codes   int16 (elements,), from the start of a segment on
    scale   the bits of 2^-9 steps
    """
    segments = -(-codes.size // SEGMENT)
    split(lambda first, last: restore(codes, centroids, scale, kind, out, first, last), segments, EFFORT * out.size)


@kernel
def restore(codes, centroids, scale, kind, out, first, last):
    """Decode the segments first..last."""
    y, used = np.empty(SEGMENT, np.float32), as_float(used_scale(scale))
    ordinary = used >= as_float(MIN_SCALE)
    for segment in range(first, last):
        start, path = segment * SEGMENT, np.uint32(0)
        count = min(SEGMENT, codes.size - start)
        for t in range(count):
            level, path = next_level(codes[start + t], path)
            y[t] = np.float32(centre(level, centroids))
        if ordinary:
            multiply(y[:count], used, kind, out[start : start + count])
        else:
            settle(y[:count], used, np.float32(0), False)
            multiply(y[:count], np.float32(1), kind, out[start : start + count])
