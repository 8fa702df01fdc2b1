"""What an encoder of differences finds out about an array before it chooses tables: curves, factors, histograms.

Nothing of it is needed to decode. docs/format/delta.md says what a curve, a factor, a label and a bucket are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy.differences import (
    Kind,
    bent,
    compared,
    predicted,
    scaled,
    symbol_of,
)
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.threads import split

DIRECT, LEADING = 4, 2  # the finest symbols: all others are sums of these
LEVELS = 96  # of a unit, by the mean bits of its differences
WINDOW = 48  # buckets: the largest magnitudes; those below share the first
SAMPLE = 512  # units in which curves and factors are looked for
CURVE_SHIFT = 15  # a curve of float32 is over the 8 leading bits of the mantissa
CURVE_PAYS = 1 << 15  # bits that a curve must save, for it takes 1024 bytes, and a label for each unit
PLAIN, BENT, SCALED = range(3)  # the ways to predict a unit


class Survey(NamedTuple):
    """An array beside its base, in numbers."""

    first: int  # the shifted base element of bucket 0
    shift: int
    buckets: int
    curve: np.ndarray  # int32 (256,), or empty
    scales: np.ndarray  # float32, one for each unit, or empty
    levels: np.ndarray  # uint8 (units,): below LEVELS without the curve, from there on with it
    histogram: np.ndarray  # int64 (2 LEVELS, buckets, symbols)


def survey(words: np.ndarray, base: np.ndarray, kind: Kind, unit: int, shift: int, floats: bool) -> Survey:
    """Measure `words` beside `base`, flat unsigned integers.

    shift  from a base element to its bucket; floats: these are float32, for which curves and factors are tried
    """
    units = -(-words.size // unit)
    low, high = extremes(base, kind, np.uint32(shift))
    first = max(int(low), int(high) - WINDOW + 1)
    buckets = int(high) - first + 1
    curve, scales = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if floats:
        curve, scales = _predictions(words, base, kind, unit, units)
    symbols = (1 << DIRECT) + ((int(kind.bits) - DIRECT) << LEADING)
    parts = max(1, min(units // 1024, 4))
    levels = np.zeros(units, np.uint8)
    histogram = np.zeros((parts, LEVELS * (1 + (curve.size > 0)), buckets, symbols), np.int32)

    def work(start: int, stop: int) -> None:
        for part in range(start, stop):
            count_units(
                words, base, kind, unit, np.uint32(shift), first, curve.view(np.uint32), scales,
                levels, histogram[part], units * part // parts, units * (part + 1) // parts,
            )  # fmt: skip

    split(work, parts, words.size)
    if scales.size and (scales == 1).all():
        scales = scales[:0]
    return Survey(first, shift, buckets, curve, scales, levels, histogram.sum(0, dtype=np.int64))


@kernel
def extremes(base, kind, shift):
    """The smallest and the largest of the shifted elements."""
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(base.size):
        v = (np.uint32(np.uint32(base[i]) & ~kind.sign) ^ kind.flip) >> shift
        low, high = min(low, v), max(high, v)
    return low, high


@inlined
def bits_of(z, lengths):
    """The bit length of each difference; their sum."""
    total = np.int64(0)
    for i in range(z.size):
        length = np.int32(np.float64(2 * np.int64(z[i]) + 1).view(np.int64) >> 52) - np.int32(1023)
        lengths[i] = length
        total += length
    return total


@kernel
def count_units(words, base, kind, unit, shift, first, curve, scales, levels, histogram, start, stop):
    """Choose the way to predict each of the units start..stop, its level, and count its symbols; scales become 1 where
    they do not pay.
    """
    m, v, z = np.empty(unit, np.uint32), np.empty(unit, np.uint32), np.empty((3, unit), np.uint32)
    lengths = np.empty(unit, np.int32)
    end = np.int64(histogram.shape[1] - 1)
    for u in range(start, stop):
        lo = u * unit
        hi = min(lo + unit, words.size)
        count = hi - lo
        mine, theirs = words[lo:hi], base[lo:hi]
        predicted(theirs, kind, m[:count], v[:count])
        compared(mine, theirs, m[:count], kind, z[PLAIN, :count])
        way, bits = PLAIN, bits_of(z[PLAIN, :count], lengths[:count])
        if curve.size:
            bent(m[:count], v[:count], curve, np.uint32(CURVE_SHIFT))
            compared(mine, theirs, m[:count], kind, z[BENT, :count])
            other = bits_of(z[BENT, :count], lengths[:count])
            if 4 * other < 3 * bits:
                way, bits = BENT, other
        if scales.size and scales[u] != np.float32(1):
            m[:count] = v[:count]
            scaled(m[:count], scales[u])
            compared(mine, theirs, m[:count], kind, z[SCALED, :count])
            other = bits_of(z[SCALED, :count], lengths[:count])
            if other + 32 < bits:
                way, bits = SCALED, other
            else:
                scales[u] = np.float32(1)
        eighths = 8 * bits // count
        level = min(eighths if eighths < 32 else 24 + (eighths >> 2), LEVELS - 1)
        level += LEVELS if way == BENT else 0
        levels[u] = level
        counts, found = histogram[level], z[way]
        for i in range(count):
            bucket = min(max(np.int64(v[i] >> shift) - first, np.int64(0)), end)
            counts[bucket, symbol_of(found[i], np.uint32(DIRECT), np.uint32(LEADING))] += 1


def _predictions(
    words: np.ndarray, base: np.ndarray, kind: Kind, unit: int, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """A curve and factors, where a sample of units says that they pay; empty arrays where not."""
    whole = words.size // unit
    none = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if whole < 8:
        return none
    some = np.unique(np.linspace(0, whole - 1, min(whole, SAMPLE, max(8, words.size >> 13))).astype(np.int64))
    mine, theirs = words[: whole * unit].reshape(whole, unit)[some], base[: whole * unit].reshape(whole, unit)[some]
    z, moved, m = (np.empty(mine.shape, np.uint32) for _ in range(3))
    measure(mine.reshape(-1), theirs.reshape(-1), kind, m.reshape(-1), z.reshape(-1))
    d = (z >> 1).astype(np.int64) ^ -(z & 1).astype(np.int64)
    plain = _bits(z).sum(1)
    curve, scales = _curve(d, m), np.zeros(0, np.float32)
    if curve.size:
        saved = plain - _bits(2 * np.abs(d - curve[(m >> CURVE_SHIFT) & 255])).sum(1)
        saved = np.where(4 * saved > plain, saved, 0)  # chance saves a little of any unit
        curve = curve if saved.sum() * (whole // len(some)) > CURVE_PAYS else curve[:0]
        plain -= saved if curve.size else 0
    factors = np.ones(len(some), np.float32)
    fit_factors(mine.reshape(-1), theirs.reshape(-1), unit, factors)
    measure_scaled(mine, theirs, kind, factors, moved)
    if np.minimum(_bits(moved).sum(1) + 32, plain).sum() < 0.95 * plain.sum():
        scales = np.ones(units, np.float32)
        fit_factors(words, base, unit, scales)
    return curve, scales


def _curve(d: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The differences of the units that changed least, as medians over the leading bits of the mantissa."""
    most = np.abs(d).max(1)
    still = most <= 2 * np.sort(most)[len(most) // 16]
    where, values = ((m[still] >> CURVE_SHIFT) & 255).reshape(-1), d[still].reshape(-1)
    order = np.lexsort((values, where))
    where, values = where[order], values[order]
    starts, ends = np.searchsorted(where, np.arange(256)), np.searchsorted(where, np.arange(256), "right")
    there = ends > starts
    if values.size == 0 or not values.any() or np.abs(values).max() >= 1 << 24:
        return np.zeros(0, np.int32)
    medians = values[((starts + ends) // 2)[there]]
    return np.rint(np.interp(np.arange(256), np.flatnonzero(there), medians)).astype(np.int32)


def _bits(z: np.ndarray) -> np.ndarray:
    """The bit length of each integer."""
    return np.frexp(z.astype(np.float64))[1]


@kernel
def measure(words, base, kind, m, z):
    """Magnitudes of the base and plain differences."""
    v = np.empty(words.size, np.uint32)
    predicted(base, kind, m, v)
    compared(words, base, m, kind, z)


@kernel
def measure_scaled(words, base, kind, factors, z):
    """The differences of units to their scaled bases."""
    m, v = np.empty(words.shape[1], np.uint32), np.empty(words.shape[1], np.uint32)
    for u in range(words.shape[0]):
        predicted(base[u], kind, m, v)
        scaled(m, factors[u])
        compared(words[u], base[u], m, kind, z[u])


@kernel
def fit_factors(words, base, unit, factors):
    """The factor of each unit that leaves the least squares; 1 where that is not a normal positive float."""
    x, y = base.view(np.float32), words.view(np.float32)
    for u in range(factors.size):
        lo = u * unit
        hi = min(lo + unit, words.size)
        a, b = np.float64(0), np.float64(0)
        for i in range(lo, hi):
            a += np.float64(x[i]) * np.float64(y[i])
            b += np.float64(x[i]) * np.float64(x[i])
        factor = np.float32(a / b)
        factors[u] = factor if factor > np.float32(1e-30) and factor < np.float32(1e30) else np.float32(1)
