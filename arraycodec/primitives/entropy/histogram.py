"""Histograms of the words of an array, one for every unit of elements that may have a table of their own.

The bins are finer than any field whose symbols are coded: the histogram of a field is a sum of bins (choice.py).
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel

RUN = 4096  # elements whose bins are computed at once
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
        fine_bins(piece, bins, first, second, np.uint16(4), np.uint16(0x7FF))
    elif shift == 7:  # float16,
        fine_bins(piece, bins, first, second, np.uint16(7), np.uint16(0xFF))
    elif shift == 20:  # float32,
        fine_bins(piece, bins, first, second, np.uint16(20), np.uint16(0x7FF))
    else:  # float64
        fine_bins(piece, bins, first, second, np.uint16(49), np.uint16(0x3FFF))


@inlined
def fine_bins(piece, bins, first, second, shift, mask):
    """The bins of floats."""
    start, negative = np.uint16(first << 3), np.uint16(8 * piece.itemsize - 10)
    for i in range(piece.size):
        number = np.uint16(np.uint16(piece[i] >> shift) & mask)
        sign = np.uint16(np.uint16(piece[i] >> negative) & np.uint16(0x200))
        bins[i] = sign | min(np.uint16(number - start), np.uint16(FINE))
    any_bins = np.uint16(0)
    for i in range(piece.size):
        any_bins |= bins[i]
    if any_bins & np.uint16(FINE):
        coarse = np.uint16(second)
        for i in range(piece.size):
            if bins[i] & np.uint16(FINE):
                other = min(np.uint16(((np.uint16(piece[i] >> shift) & mask) >> np.uint16(3)) - coarse), np.uint16(OTHER))
                bins[i] = np.uint16(FINE) + (other if other < np.uint16(OTHER) else np.uint16(2 * FINE))


@kernel
def of_units(words, unit, kind, first, second, shift, out, features, lows, start, stop):
    """The histograms of units start..stop of the flattened array, and the bits that any of its words has set.

    out       uint16 (units, bins)
    features  int16 (units, FEATURES)
    lows      the words' dtype (units,)
    """
    size = out.shape[1]
    counts = np.zeros((4, size), np.uint16)
    bins = np.empty(RUN, np.uint16)
    c0, c1, c2, c3 = counts[0], counts[1], counts[2], counts[3]
    one, low_16 = np.uint16(1), np.uint64(0xFFFF)
    fours = bins.view(np.uint64)
    for u in range(start, stop):
        end = min((u + 1) * unit, words.size)
        low = words[u * unit]
        for at in range(u * unit, end, RUN):
            piece = words[at : min(at + RUN, end)]
            for i in range(piece.size):
                low |= piece[i]
            bins_of(piece, bins, kind, first, second, shift)
            for i in range(piece.size >> 2):
                four = fours[i]
                c0[four & low_16] += one
                c1[(four >> np.uint64(16)) & low_16] += one
                c2[(four >> np.uint64(32)) & low_16] += one
                c3[four >> np.uint64(48)] += one
            for i in range(piece.size & ~3, piece.size):
                c0[bins[i]] += one
        lows[u] = low
        row = out[u]
        for i in range(size):
            row[i] = np.uint16(np.uint16(c0[i] + c1[i]) + np.uint16(c2[i] + c3[i]))
        counts[:] = 0
        fold(row, kind, features[u])


@inlined
def fold(row, kind, features):
    """The features of a unit: groups of bins added up; what is outside the window is left out."""
    if kind == FLOATS:
        for k in range(32):
            features[k] = total(row, 8 * k, 8)
            features[32 + k] = total(row, FINE + OTHER + 8 * k, 8)
    else:
        for k in range(FEATURES):
            features[k] = total(row, 4 * k, 4)


@inlined
def total(row, start, count):
    """The sum of some bins."""
    found = np.uint16(0)
    for i in range(count):
        found += row[start + i]
    return found


@kernel
def of_columns(words, columns, unit, kind, first, second, shift, out, features, lows, start, stop):
    """The same where units are pieces of columns; start..stop are bands of `unit` rows."""
    rows = words.size // columns
    bins = np.empty(RUN, np.uint16)
    for band in range(start, stop):
        for at in range(0, columns, RUN):
            width = min(RUN, columns - at)
            mine = out[band * columns + at : band * columns + at + width]
            low = lows[band * columns + at : band * columns + at + width]
            mine[:] = 0
            low[:] = 0
            for row in range(band * unit, min((band + 1) * unit, rows)):
                piece = words[row * columns + at : row * columns + at + width]
                bins_of(piece, bins, kind, first, second, shift)
                for i in range(width):
                    mine[i, bins[i]] += np.uint16(1)
                    low[i] |= piece[i]
            for i in range(width):
                fold(mine[i], kind, features[band * columns + at + i])


@kernel
def by_label(histograms, labels, out):
    """Add the histograms of the units of each label: int64 (labels, bins)."""
    size = histograms.shape[1]
    for u in range(labels.size):
        row, mine = histograms[u], out[labels[u]]
        for i in range(size):
            mine[i] += np.int64(row[i])


@kernel
def exponents(words, shift, count, stride, found):
    """Count the exponents, words[i] >> shift without the sign, in samples of 64 elements every `stride`."""
    mask = found.size - 1
    for k in range(count):
        for i in range(k * stride, min(k * stride + 64, words.size)):
            found[np.int64(words[i] >> shift) & mask] += 1


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
