"""Outliers: the few elements of the largest magnitude, which are kept as they are, by their positions."""

from __future__ import annotations

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN, narrow, widen
from arraycodec.primitives.jit import kernel

BINS = 1 << 16  # of magnitudes: float32 bits without sign, by their upper half
LARGEST = np.uint32(0x7F7F0000)  # the largest bfloat16, which stands for all that would round to infinity


def largest(source: np.ndarray, kind: int, count: int) -> np.ndarray:
    """The positions int64, rising, of the `count` elements with the largest finite magnitude, of equal ones the first.

    source   flat unsigned integers, see `memory.bits`; what is not finite counts as 0
    """
    if not count:
        return np.zeros(0, np.int64)
    counts = np.zeros(BINS, np.int64)
    count_magnitudes(source, kind, counts)
    above = np.cumsum(counts[::-1])[::-1]  # elements in this bin or a higher one
    edge = int(np.flatnonzero(above >= count)[-1])
    positions, magnitudes = np.empty(above[edge], np.int64), np.empty(above[edge], np.uint32)
    collect_magnitudes(source, kind, edge, positions, magnitudes)
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
    """The elements whose magnitude has at least this upper half."""
    found = 0
    for i in range(source.size):
        u = np.uint32(widen(source[i], kind) & MAGNITUDE)
        u = u if u < INFINITY else np.uint32(0)
        if np.int64(u >> np.uint32(16)) >= edge:
            positions[found], magnitudes[found] = i, u
            found += 1


@kernel
def take_outliers(source, kind, positions, outlier_kind, outliers, rest):
    """Move elements out: to `outliers`, rounded to their kind; in `rest` they are 0 unless they are not finite."""
    for i in range(positions.size):
        u = np.uint32(widen(source[positions[i]], kind))
        if np.uint32(u & MAGNITUDE) >= INFINITY:
            outliers[i] = narrow(NAN, outlier_kind)
        else:
            rest[positions[i]] = 0
            sign = np.uint32(u ^ (u & MAGNITUDE))
            outliers[i] = narrow(np.uint32(sign | min(np.uint32(u & MAGNITUDE), LARGEST)), outlier_kind)


@kernel
def put_outliers(outliers, outlier_kind, positions, first, out, kind):
    """Write outliers over elements, of which the first has position `first`; positions outside are passed over."""
    for i in range(positions.size):
        at = positions[i] - first
        if at >= 0 and at < out.size:
            out[at] = narrow(widen(outliers[i], outlier_kind), kind)
