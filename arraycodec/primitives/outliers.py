"""Outliers: the few elements of the largest magnitude, which are kept as they are, by their positions."""

from __future__ import annotations

from threading import Lock

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.blockwise import segments
from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN, narrow, widen
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.normal import scales_of
from arraycodec.primitives.runs import buffers
from arraycodec.primitives.scales import RUN, load
from arraycodec.primitives.scales import largest as largest_of
from arraycodec.primitives.threads import split

BINS = 1 << 15  # of magnitudes: float32 bits without sign, by their upper half
LARGEST = np.uint32(0x7F7F0000)  # the largest bfloat16, which stands for all that would round to infinity


def largest(source: np.ndarray, kind: int, count: int) -> np.ndarray:
    """The positions int64, rising, of the `count` elements with the largest finite magnitude, of equal ones the first.

    source   flat unsigned integers, see `memory.bits`; what is not finite counts as 0
    """
    if not count:
        return np.zeros(0, np.int64)
    counts, found, lock = np.zeros(BINS, np.int64), {}, Lock()

    def tally(first: int, last: int) -> None:
        own = np.zeros(BINS, np.int64)
        count_magnitudes(source[first:last], kind, own)
        with lock:
            np.add(counts, own, out=counts)

    def collect(first: int, last: int) -> None:
        room = min(above[edge], last - first)
        positions, magnitudes = np.empty(room, np.int64), np.empty(room, np.uint32)
        number = collect_magnitudes(source[first:last], kind, edge, positions, magnitudes)
        found[first] = positions[:number] + first, magnitudes[:number]

    split(tally, source.size, source.size)
    above = np.cumsum(counts[::-1])[::-1]  # elements in this bin or a higher one
    edge = int(np.flatnonzero(above >= count)[-1])
    split(collect, source.size, source.size)
    positions, magnitudes = (np.concatenate(parts) for parts in zip(*(found[at] for at in sorted(found)), strict=True))
    order = np.argsort(~magnitudes, kind="stable")
    return np.sort(positions[order[:count]])


def check_positions(codec: str, positions: np.ndarray, size: int) -> None:
    """Raise CorruptError unless positions rise and lie in an array of this size."""
    rise = positions.size < 2 or bool((positions[1:] > positions[:-1]).all())
    if positions.size and not (rise and positions[0] >= 0 and positions[-1] < size):
        raise CorruptError(f"{codec}: outlier_positions must rise from at least 0 to below {size}, got {positions}")


@kernel
def count_magnitudes(source, kind, counts):
    """Count finite magnitudes by their upper half."""
    for i in range(source.size):
        u = np.uint32(widen(source[i], kind) & MAGNITUDE)
        counts[np.int64(u >> np.uint32(16)) if u < INFINITY else 0] += 1


@kernel
def collect_magnitudes(source, kind, edge, positions, magnitudes):
    """The elements whose magnitude has at least this upper half; returned is their number."""
    found = 0
    for i in range(source.size):
        u = np.uint32(widen(source[i], kind) & MAGNITUDE)
        u = u if u < INFINITY else np.uint32(0)
        if np.int64(u >> np.uint32(16)) >= edge:
            positions[found], magnitudes[found] = i, u
            found += 1
    return found


def scales_of_rest(source: np.ndarray, kind: int, grid: Grid, positions: np.ndarray, scales: np.ndarray) -> None:
    """`normal.find_scales` as if the elements at these positions were 0."""
    absmax = np.zeros(scales.size, np.uint32)
    _, rows, columns, height, _ = grid
    down = -(-rows // height)  # rows of tiles in a matrix: threads share these, so none shares a tile

    def start_of(line: int) -> int:
        return (line // down * rows + line % down * height) * columns

    def work(first: int, last: int) -> None:
        raise_absmax(source, kind, grid, positions, start_of(first), start_of(last), absmax)

    split(work, grid.matrices * down, source.size)
    scales_of(absmax.reshape(1, -1), kind, scales)


@kernel
def raise_absmax(source, kind, grid, positions, start, stop, absmax):
    """Raise the absmax of tiles to those of the elements start..stop."""
    run, (_, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    i = np.searchsorted(positions, start)
    for at in range(start, stop, RUN):
        count, lo = min(RUN, stop - at), 0
        load(source, kind, at, count, run)
        while i < positions.size and positions[i] < at + count:
            run[positions[i] - at] = 0
            i += 1
        for k in range(segments(grid, at, count, ends, tiles)):
            absmax[tiles[k]] = max(absmax[tiles[k]], largest_of(run[lo : ends[k]]))
            lo = ends[k]


@kernel
def take_outliers(source, kind, positions, outlier_kind, outliers):
    """Write elements to `outliers`, rounded to their kind; NaN for one that is not finite."""
    for i in range(positions.size):
        u = np.uint32(widen(source[positions[i]], kind))
        if np.uint32(u & MAGNITUDE) >= INFINITY:
            outliers[i] = narrow(NAN, outlier_kind)
        else:
            sign = np.uint32(u ^ (u & MAGNITUDE))
            outliers[i] = narrow(np.uint32(sign | min(np.uint32(u & MAGNITUDE), LARGEST)), outlier_kind)


@kernel
def put_outliers(outliers, outlier_kind, positions, first, out, kind):
    """Write outliers over elements, of which the first has position `first`; positions outside are passed over."""
    for i in range(positions.size):
        at = positions[i] - first
        if at >= 0 and at < out.size:
            out[at] = narrow(widen(outliers[i], outlier_kind), kind)
