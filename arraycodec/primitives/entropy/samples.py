"""What a look at words, or at some of them, tells: exponents, range, distinct values, whether columns differ."""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.entropy.histogram import FLOATS, RUN, bins_of
from arraycodec.primitives.jit import kernel

ROWS = 64  # that columns are compared by
DIFFERENT = 8


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
    """The distinct words in the order in which they come, into `found`; their number, limit + 1 if there are more."""
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
