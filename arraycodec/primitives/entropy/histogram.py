"""Histograms of the words of an array: coarse ones of the units that may have tables of their own, fine ones of tables.

The bins are finer than any field whose symbols may be coded: counts of symbols are sums of bins (candidates.py).
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.packing import copy

RUN = 4096  # elements whose bins are computed at once
FEW = 1024  # elements for which four rows of counts are not worth adding up
PIECE = 256  # elements of a unit that are looked at together where not all are
LONG_PIECE = 1024  # and elements of a label
MANTISSA = 3  # top bits of a float's mantissa in its bin
WINDOW = 32  # exponents that have fine bins
FINE = WINDOW << MANTISSA
OTHER = (
    256  # exponents that have a bin of their own, sign and mantissa not told apart, when they are outside the window
)
FLOAT_BINS = 2 * FINE + OTHER + 1  # of positive words, other exponents, of negative words, of all else
BYTE_BINS = 256
RANGE_BINS = 257  # the last for words outside of the range
FEATURES = 64  # coarse bins by which units are compared: exponent and sign of floats, the top 6 bits of bytes

BYTES, RANGE, FLOATS = range(3)  # kinds of bins


@inlined
def bins_of(piece, bins, kind, first, second, shift):
    """The bins of some words.

    BYTES   the word
    RANGE   (word - first) >> shift, modulo 2^n; from 256 on 256
    FLOATS  exponent - first, MANTISSA bits where that is in the window; else exponent - second
    """
    if piece.itemsize == 1:
        for i in range(piece.size):
            bins[i] = piece[i]
    elif kind == RANGE:
        word = piece.dtype.type
        for i in range(piece.size):
            bins[i] = min(np.uint64(word(piece[i] - word(first)) >> np.uint64(shift)), np.uint64(256))
    elif piece.itemsize == 8:  # shifts that the compiler knows, so that it works with lanes of 16 bits
        fine_bins(piece, bins, first, second, np.uint16(49), np.uint16(0x3FFF), np.uint16(54))
    elif piece.itemsize == 4:
        fine_bins(piece, bins, first, second, np.uint16(20), np.uint16(0x7FF), np.uint16(22))
    elif shift == 4:  # bfloat16
        fine_bins(piece, bins, first, second, np.uint16(4), np.uint16(0x7FF), np.uint16(6))
    else:  # float16
        fine_bins(piece, bins, first, second, np.uint16(7), np.uint16(0xFF), np.uint16(6))


@inlined
def fine_bins(piece, bins, first, second, shift, mask, sign_shift):
    """The bins of floats."""
    start = np.uint16(first << 3)
    for i in range(piece.size):
        number = np.uint16(np.uint16(piece[i] >> shift) & mask)
        sign = np.uint16(np.uint16(piece[i] >> sign_shift) & np.uint16(0x200))
        bins[i] = np.uint16(sign | min(np.uint16(number - start), np.uint16(FINE)))
    outside = np.uint16(0)
    for i in range(piece.size):
        outside = max(outside, np.uint16(bins[i] & np.uint16(FINE)))
    if outside:
        coarse = np.uint16(second)
        for i in range(piece.size):  # masks rather than branches: this form keeps lanes of 16 bits too
            exponent = np.uint16(np.uint16(np.uint16(piece[i] >> shift) & mask) >> np.uint16(3))
            other = min(np.uint16(exponent - coarse), np.uint16(OTHER))
            other = np.uint16(other + np.uint16(other & np.uint16(OTHER)) + np.uint16(FINE))
            fine = np.uint16(np.uint16(np.uint16(bins[i] >> np.uint16(8)) & np.uint16(1)) - np.uint16(1))
            bins[i] = np.uint16(np.uint16(bins[i] & fine) | np.uint16(other & np.uint16(~fine)))


@inlined
def coarse(bins, count, group, counts):
    """Count groups of 2^group bins, in four rows, so that equal bins in a row need not wait for each other."""
    shift, one = np.uint16(group), np.uint16(1)
    c0, c1, c2, c3 = counts
    for i in range(count >> 2):
        c0[bins[4 * i] >> shift] += one
        c1[bins[4 * i + 1] >> shift] += one
        c2[bins[4 * i + 2] >> shift] += one
        c3[bins[4 * i + 3] >> shift] += one
    for i in range(count & ~3, count):
        c0[bins[i] >> shift] += one


@inlined
def sampled(piece, length, part, salt, some):
    """Copy one in `part` of the pieces of `length` words, none of them at regular distances; how many words."""
    count = 0
    for at in range(0, piece.size, length * part):
        salt = np.uint32(salt * np.uint32(0x9E3779B1) + np.uint32(1))
        start = at + np.int64(salt >> np.uint32(16)) % part * length
        width = max(0, min(length, piece.size - start))
        copy(piece[start : start + width], some[count:])
        count += width
    return count


@kernel
def features_of_units(words, unit, kind, first, second, shift, part, features, lows, start, stop):
    """The features of the units start..stop of the flattened array, and the bits that any of their words has set.

    part      one in so many words is counted, as if it were so many
    features  int16 (units, FEATURES); words outside of the window of exponents are left out
    lows      the words' dtype (units,)
    """
    group = 3 if kind == FLOATS else 2
    bins, some = np.empty(RUN, np.uint16), np.empty(RUN, words.dtype)
    counts = np.zeros((4, 2 * FEATURES), np.uint16)
    rows = (counts[0], counts[1], counts[2], counts[3])
    for u in range(start, stop):
        end = min((u + 1) * unit, words.size)
        low = words[u * unit]
        for at in range(u * unit, end, RUN):
            piece = words[at : min(at + RUN, end)]
            for i in range(piece.size):
                low |= piece[i]
            if part > 1:
                piece = some[: sampled(piece, PIECE, part, np.uint32(at >> 8), some)]
            bins_of(piece, bins, kind, first, second, shift)
            coarse(bins, piece.size, group, rows)
        lows[u] = low
        mine = features[u]
        for k in range(FEATURES):
            b = k + (k & 32) if kind == FLOATS else k
            mine[k] = (counts[0, b] + counts[1, b] + counts[2, b] + counts[3, b]) * part
        counts[:] = 0


@kernel
def features_of_columns(words, columns, unit, kind, first, second, shift, features, lows, start, stop):
    """The same where units are pieces of columns; start..stop are bands of `unit` rows."""
    group = np.uint16(3 if kind == FLOATS else 2)
    bins, rows = np.empty(RUN, np.uint16), words.size // columns
    for band in range(start, stop):
        for at in range(0, columns, RUN):
            width = min(RUN, columns - at)
            counts = np.zeros((width, 2 * FEATURES), np.uint16)
            low = lows[band * columns + at : band * columns + at + width]
            low[:] = 0
            for row in range(band * unit, min((band + 1) * unit, rows)):
                piece = words[row * columns + at : row * columns + at + width]
                bins_of(piece, bins, kind, first, second, shift)
                for i in range(width):
                    counts[i, bins[i] >> group] += np.uint16(1)
                    low[i] |= piece[i]
            for i in range(width):
                for k in range(FEATURES):
                    features[band * columns + at + i, k] = counts[i, k + (k & 32) if kind == FLOATS else k]


@kernel
def by_label(words, unit, labels, kind, first, second, shift, part, sums, start, stop):
    """Count the words of each label in the units start..stop of the flattened array.

    part  one in so many words is counted, as if it were so many
    sums  int64 (labels, bins)
    """
    bins, counts = np.empty(RUN, np.uint16), np.zeros((4, sums.shape[1]), np.uint16)
    r0, r1, r2, r3 = counts[0], counts[1], counts[2], counts[3]
    rows, some = (r0, r1, r2, r3), np.empty(RUN, words.dtype)
    for u in range(start, stop):
        mine = sums[labels[u]]
        for at in range(u * unit, min((u + 1) * unit, words.size), RUN):
            piece = words[at : min(at + RUN, (u + 1) * unit, words.size)]
            if part > 1:
                piece = some[: sampled(piece, LONG_PIECE, part, np.uint32(at >> 8), some)]
            bins_of(piece, bins, kind, first, second, shift)
            if piece.size < FEW:
                for i in range(piece.size):
                    mine[bins[i]] += np.int64(part)
            else:
                coarse(bins, piece.size, 0, rows)
                for b in range(mine.size):
                    mine[b] += np.int64(np.uint16(np.uint16(r0[b] + r1[b]) + np.uint16(r2[b] + r3[b]))) * part
                counts[:] = 0


@kernel
def by_label_of_columns(words, columns, unit, labels, kind, first, second, shift, sums, start, stop):
    """The same where units are pieces of columns; start..stop are bands of `unit` rows."""
    bins, rows = np.empty(RUN, np.uint16), words.size // columns
    for row in range(start * unit, min(stop * unit, rows)):
        for at in range(0, columns, RUN):
            piece = words[row * columns + at : row * columns + min(at + RUN, columns)]
            mine = labels[row // unit * columns + at :]
            bins_of(piece, bins, kind, first, second, shift)
            for i in range(piece.size):
                sums[mine[i], bins[i]] += np.int64(1)
