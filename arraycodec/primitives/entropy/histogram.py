"""Histograms of the words of an array: coarse ones of the units that may have tables of their own, fine ones of tables.

The bins are finer than any field whose symbols may be coded: counts of symbols are sums of bins (candidates.py).
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.packing import copy

RUN = 4096  # elements whose bins are computed at once
ROWS = 64  # that columns are compared by
DIFFERENT = 8
FEW = 1024  # elements for which four rows of counts are not worth adding up
PIECE = 256  # elements of a unit that are looked at together where not all are
LONG_PIECE = 1024  # and elements of a label
MANTISSA = 3  # top bits of a float's mantissa in its bin
WINDOW = 32  # exponents that have fine bins
FINE = WINDOW << MANTISSA
OTHER = 256  # exponents that have a bin of their own, sign and mantissa not told apart, when they are outside the window
FLOAT_BINS = 2 * FINE + OTHER + 1  # fine bins of positive words, other exponents, fine bins of negative words, the rest
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
    if kind == BYTES:
        for i in range(piece.size):
            bins[i] = piece[i]
    elif kind == RANGE:
        word = piece.dtype.type
        for i in range(piece.size):
            bins[i] = min(np.uint64(word(piece[i] - word(first)) >> np.uint64(shift)), np.uint64(256))
    elif shift == 4:  # a shift that the compiler knows, so that it works with lanes of 16 bits: bfloat16,
        fine_bins(piece, bins, first, second, np.uint16(4), np.uint16(0x7FF), np.uint16(6))
    elif shift == 7:  # float16,
        fine_bins(piece, bins, first, second, np.uint16(7), np.uint16(0xFF), np.uint16(6))
    elif shift == 20:  # float32,
        fine_bins(piece, bins, first, second, np.uint16(20), np.uint16(0x7FF), np.uint16(22))
    else:  # float64
        fine_bins(piece, bins, first, second, np.uint16(49), np.uint16(0x3FFF), np.uint16(54))


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


@kernel
def exponents(words, shift, count, stride, length, found):
    """Count the exponents, words[i] >> shift without the sign, in `count` samples, one every `stride` words."""
    mask = found.size - 1
    for k in range(count):
        for i in range(k * stride, min(k * stride + length, words.size)):
            found[np.int64(words[i] >> shift) & mask] += 1


@kernel
def best_window(counts, width):
    """Where the window of so many counts starts that holds the most, the middle one if there are several; how many."""
    if counts.size <= width:
        return 0, counts.sum()
    inside = counts[:width].sum()
    most, first, last = inside, 0, 0
    for start in range(1, counts.size - width + 1):
        inside += counts[start + width - 1] - counts[start - 1]
        if inside > most:
            most, first = inside, start
        if inside == most:
            last = start
    return (first + last + 1) // 2, most


@kernel
def columns_differ(words, columns, kind, first, second, shift, flip):
    """Whether the columns of a matrix differ in scale or sign, by a sample of its rows.

    That is when a DIFFERENT-th of the variance of what stands for a word's scale is that of the columns' means, or when
    the square of the mean sign of a column is as large; chance left out.

    flip  the bits of the scale of negative words that are turned, as two's complement has them
    """
    bins, rows = np.empty(RUN, np.uint16), words.size // columns
    count = min(rows, ROWS)
    group = np.uint16(3 if kind == FLOATS else 2)
    least = 64 if kind == FLOATS else 32  # the first feature of negative words
    whole, squares, between, signs = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for at in range(0, columns, RUN):
        width = min(RUN, columns - at)
        sums, negative = np.zeros(width, np.int32), np.zeros(width, np.int32)
        for k in range(count):
            start = k * rows // count * columns + at
            bins_of(words[start : start + width], bins, kind, first, second, shift)
            for i in range(width):
                feature = np.int32(bins[i] >> group)
                is_negative = np.int32(feature >= least)
                value = (feature ^ np.int32(flip * is_negative)) & np.int32(31)
                sums[i] += value
                squares += value * value
                negative[i] += is_negative
        for i in range(width):
            whole += sums[i]
            between += np.int64(sums[i]) * np.int64(sums[i])
            signs += np.int64(2 * negative[i] - count) * np.int64(2 * negative[i] - count)
    total = count * columns * squares - whole * whole  # count * columns times the sum of squared deviations
    differ = columns * between - whole * whole - total // count
    return differ * DIFFERENT > total or (signs - columns * count) * DIFFERENT > columns * count * count


@kernel
def extremes(words, flip):
    """The smallest and the largest of the words, whose bits `flip` are turned first."""
    low, high = words[0] ^ flip, words[0] ^ flip
    for i in range(words.size):
        low, high = min(low, words[i] ^ flip), max(high, words[i] ^ flip)
    return low, high


@kernel
def distinct(words, limit, found):
    """The distinct words in the order in which they come, into `found`; their number, or limit + 1 if there are more."""
    slots = np.zeros(1024, np.int16)
    count, last = 0, words[0] ^ words[0]
    for i in range(words.size):
        word = words[i]
        if i and word == last:
            continue
        last = word
        slot = np.int64((np.uint64(word) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54))
        while slots[slot] and found[slots[slot] - 1] != word:
            slot = (slot + 1) & 1023
        if slots[slot] == 0:
            if count == limit:
                return limit + 1
            found[count] = word
            count += 1
            slots[slot] = count
    return count


@kernel
def palette_indices(words, palette, out, start, stop):
    """The place in the palette of each of the words start..stop, all of which are in it."""
    slots = np.zeros(1024, np.int16)
    for k in range(palette.size):
        slot = np.int64((np.uint64(palette[k]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54))
        while slots[slot]:
            slot = (slot + 1) & 1023
        slots[slot] = k + 1
    for i in range(start, stop):
        slot = np.int64((np.uint64(words[i]) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54))
        while palette[slots[slot] - 1] != words[i]:
            slot = (slot + 1) & 1023
        out[i] = slots[slot] - 1
