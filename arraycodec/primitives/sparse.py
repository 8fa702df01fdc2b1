"""Sparse rows: which elements are kept, as a bitmask, and the kept ones one after another.

Rows are along the last axis. A row of the mask is whole bytes, bit i % 8 of byte i // 8 for column i, and zero bits at
the end. Kernels go through units: up to UNIT columns of one row. Elements of 8 and 16 bits move four at a time, within
a 64-bit word, by halves; wider ones one by one. Everything is done in small buffers, so that no store goes astray.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.packing import copy
from arraycodec.primitives.unaligned import load32, load64, store32, store64

UNIT = 2048  # columns
SLACK = 8  # elements after a buffer's end that a store of four may touch

# How the bits of an element tell its magnitude.
UNSIGNED, SIGNED, FLOAT, FNUZ = range(4)  # FNUZ: floats whose pattern of -0 is the one NaN


def fours_of(words: np.ndarray) -> np.ndarray:
    """An array of the unsigned integers that have four of these, as kernels take it to know their type."""
    return np.empty(0, "u4" if words.itemsize == 1 else "u8")


@kernel
def mark_rows(source, columns, mask, bitmask, counts, first, last):
    """Set the bits of elements with a bit in `mask`, for the units first..last, and count them."""
    kept = np.empty(UNIT, np.uint8)
    across, width = (columns + UNIT - 1) // UNIT, (columns + 7) // 8
    for unit in range(first, last):
        row, start = unit // across, unit % across * UNIT
        n = min(UNIT, columns - start)
        x = source[row * columns + start : row * columns + start + n]
        for i in range(n):
            kept[i] = (x[i] & mask) != 0
        at = row * width + start // 8
        pack_bits(kept, n, bitmask[at : at + (n + 7) // 8])
        total = np.uint32(0)
        for i in range(n):
            total += np.uint32(kept[i])
        counts[unit] = total


@inlined
def pack_bits(kept, n, target):
    """Bytes of 0 and 1 as bits; the last byte ends in zero bits."""
    for i in range(n, target.size * 8):
        kept[i] = 0
    eights = kept.view(np.uint64)
    for i in range(target.size):  # neighbours move together by halves
        w = eights[i]
        w |= w >> np.uint64(7)
        w |= w >> np.uint64(14)
        w |= w >> np.uint64(28)
        target[i] = np.uint8(w)


@kernel
def choose_rows(source, columns, kind, negative_zeros, bitmask, counts, first, last):
    """Set the bits of the two elements of each group of four that rank first; count groups with more that are not zero.

    The larger magnitude ranks first, of equal ones the first; -0 just before +0 where there are `negative_zeros`.
    """
    keys, kept = np.empty(UNIT, source.dtype), np.empty(UNIT, np.uint8)
    across, width = (columns + UNIT - 1) // UNIT, (columns + 7) // 8
    for unit in range(first, last):
        row, start = unit // across, unit % across * UNIT
        n = min(UNIT, columns - start)
        rank_keys(source[row * columns + start : row * columns + start + n], kind, negative_zeros, keys)
        for i in range(n, (n + 3) // 4 * 4):
            keys[i] = 0
        crowded = np.uint32(0)
        for g in range((n + 3) // 4):
            k0, k1, k2, k3 = keys[4 * g], keys[4 * g + 1], keys[4 * g + 2], keys[4 * g + 3]
            b01, b02, b03 = np.uint8(k1 > k0), np.uint8(k2 > k0), np.uint8(k3 > k0)  # the latter one ranks first
            b12, b13, b23 = np.uint8(k2 > k1), np.uint8(k3 > k1), np.uint8(k3 > k2)
            kept[4 * g] = np.uint8(b01 + b02 + b03) < 2
            kept[4 * g + 1] = np.uint8(b12 + b13 + np.uint8(1) - b01) < 2
            kept[4 * g + 2] = np.uint8(b23 + np.uint8(2) - b02 - b12) < 2
            kept[4 * g + 3] = np.uint8(b03 + b13 + b23) > 1
            others = np.uint8(k0 != 0) + np.uint8(k1 != 0) + np.uint8(k2 != 0) + np.uint8(k3 != 0)
            crowded += np.uint32(others > 2)
        at = row * width + start // 8
        pack_bits(kept, n, bitmask[at : at + (n + 7) // 8])
        counts[unit] = crowded


@inlined
def rank_keys(x, kind, negative_zeros, keys):
    """Unsigned integers in the order of magnitudes; NaN is above all numbers, and 0 is zero alone."""
    sign = np.uint64(1) << np.uint64(8 * x.itemsize - 1)
    if kind == UNSIGNED:
        copy(x, keys)
    elif kind == SIGNED:
        for i in range(x.size):
            keys[i] = -x[i] if x[i] >= sign else x[i]
    elif kind == FLOAT:
        for i in range(x.size):
            keys[i] = (x[i] << 1) | (negative_zeros and x[i] == sign)
    else:
        for i in range(x.size):
            keys[i] = ~x[i] ^ x[i] if x[i] == sign else x[i] << 1


@kernel
def count_rows(bitmask, columns, counts, first, last):
    """Count the bits of the units first..last, those after the end of a row too."""
    across, width = (columns + UNIT - 1) // UNIT, (columns + 7) // 8
    for unit in range(first, last):
        row, start = unit // across, unit % across * (UNIT // 8)
        part = bitmask[row * width + start : row * width + min(start + UNIT // 8, width)]
        total = np.uint32(0)
        for i in range(part.size):
            v = part[i]
            v = np.uint8(v - ((v >> np.uint8(1)) & np.uint8(0x55)))
            v = np.uint8((v & np.uint8(0x33)) + ((v >> np.uint8(2)) & np.uint8(0x33)))
            total += np.uint32((v + (v >> np.uint8(4))) & np.uint8(15))
        counts[unit] = total


@kernel
def squeeze_rows(source, fours, columns, bitmask, starts, values, first, last):
    """Write the elements with a bit, for the units first..last, each from the value starts[unit] on.

    fours: any array of the unsigned integers that have four elements each.
    """
    squeezed = np.empty(UNIT + SLACK, source.dtype)
    run, kept = np.empty(UNIT + SLACK, source.dtype), np.empty(UNIT, np.uint8)
    nibbles, steps = np.empty(UNIT // 4, np.uint8), np.empty(UNIT // 4, np.uint8)
    lanes = np.empty(UNIT // 4, np.uint64)
    across, width = (columns + UNIT - 1) // UNIT, (columns + 7) // 8
    for unit in range(first, last):
        row, start = unit // across, unit % across * UNIT
        n = min(UNIT, columns - start)
        x = source[row * columns + start : row * columns + start + n]
        mask = bitmask[row * width + start // 8 : row * width + (start + n + 7) // 8]
        if source.itemsize > 2:
            unpack_bits(mask, kept)
            at = 0
            for i in range(n):
                squeezed[at] = x[i]
                at += np.int64(kept[i])
        else:
            copy(x, run)
            if source.itemsize == 2:  # told as a constant, the loops are compiled for each
                squeeze(run.view(fours.dtype), 2, mask, nibbles, lanes, steps, squeezed)
            else:
                squeeze(run.view(fours.dtype), 1, mask, nibbles, lanes, steps, squeezed)
        copy(squeezed[: starts[unit + 1] - starts[unit]], values[starts[unit] : starts[unit + 1]])


@kernel
def spread_rows(values, fours, starts, pairs, columns, bitmask, target, first, last):
    """The inverse of `squeeze_rows`, with zeros where there is no bit.

    pairs: each group of four has two values, whatever its bits; a third bit reads zero.
    """
    squeezed = np.empty(UNIT + SLACK, target.dtype)
    run, kept = np.empty(UNIT + SLACK, target.dtype), np.empty(UNIT, np.uint8)
    nibbles, steps = np.empty(UNIT // 4, np.uint8), np.empty(UNIT // 4, np.uint8)
    lanes = np.empty(UNIT // 4, np.uint64)
    across, width = (columns + UNIT - 1) // UNIT, (columns + 7) // 8
    for unit in range(first, last):
        row, start = unit // across, unit % across * UNIT
        n, count = min(UNIT, columns - start), starts[unit + 1] - starts[unit]
        out = target[row * columns + start : row * columns + start + n]
        mask = bitmask[row * width + start // 8 : row * width + (start + n + 7) // 8]
        copy(values[starts[unit] : starts[unit + 1]], squeezed)
        for i in range(count, count + SLACK):
            squeezed[i] = 0
        if target.itemsize <= 2:
            if target.itemsize == 2:
                spread(squeezed, 2, mask, pairs, nibbles, lanes, steps, run.view(fours.dtype))
            else:
                spread(squeezed, 1, mask, pairs, nibbles, lanes, steps, run.view(fours.dtype))
            copy(run, out)
            continue
        unpack_bits(mask, kept)
        if pairs:
            spread_pairs(squeezed, kept, n, run)
            copy(run, out)
            continue
        at = 0
        for i in range(n):  # no branch, since none could be foretold
            out[i] = squeezed[at] & (np.uint64(0) - np.uint64(kept[i]))
            at += np.int64(kept[i])


@inlined
def spread_pairs(squeezed, kept, n, run):
    """Two values to each four elements; a third bit reads zero."""
    for g in range((n + 3) // 4):
        rank = np.uint8(0)
        for i in range(4):
            bit = kept[4 * g + i]
            first, second = np.uint64(bit & np.uint8(rank == 0)), np.uint64(bit & np.uint8(rank == 1))
            zero = np.uint64(0)
            run[4 * g + i] = (squeezed[2 * g] & (zero - first)) | (squeezed[2 * g + 1] & (zero - second))
            rank += bit


@inlined
def unpack_bits(mask, kept):
    """The inverse of `pack_bits`."""
    eights = kept.view(np.uint64)
    for i in range(mask.size):
        w = np.uint64(mask[i])
        w = (w | w << np.uint64(28)) & np.uint64(0x0000000F0000000F)
        w = (w | w << np.uint64(14)) & np.uint64(0x0003000300030003)
        eights[i] = (w | w << np.uint64(7)) & np.uint64(0x0101010101010101)


@inlined
def fields(nibble, width):
    """The four bits of a nibble as the lowest bits of fields `width` bits apart."""
    one, step = np.uint64(1), width - np.uint64(1)
    every = one | one << width | one << np.uint64(2) * width | one << np.uint64(3) * width
    return (nibble | nibble << step | nibble << np.uint64(2) * step | nibble << np.uint64(3) * step) & every


@inlined
def split_nibbles(mask, nibbles, steps, itemsize):
    """The bits of each group of four, and the bytes of the values that it has."""
    for i in range(mask.size):
        nibbles[2 * i] = mask[i] & np.uint8(15)
        nibbles[2 * i + 1] = mask[i] >> np.uint8(4)
    for i in range(2 * mask.size):
        c = np.uint8(nibbles[i] - ((nibbles[i] >> np.uint8(1)) & np.uint8(5)))
        steps[i] = np.uint8(((c & np.uint8(3)) + (c >> np.uint8(2))) * itemsize)


@inlined
def squeeze(fours, size, mask, nibbles, lanes, steps, squeezed):
    """The elements with a bit in the mask, one after another."""
    target, width = squeezed.view(np.uint8), np.uint64(8 * size)
    half, ones = np.uint64(2) * width, (np.uint64(1) << width) - np.uint64(1)
    even, low = ones | ones << half, (np.uint64(1) << half) - np.uint64(1)
    split_nibbles(mask, nibbles, steps, size)
    for i in range(2 * mask.size):
        bit = fields(np.uint64(nibbles[i]), width)
        there = (bit << width) - bit
        down = ~there & even  # within pairs: from above to a field that is free
        x = np.uint64(fours[i]) & there
        x = (x & ~(down << width)) | ((x >> width) & down)
        count = (bit + (bit >> width)) & np.uint64(3)
        lanes[i] = (x & low) | ((x >> half) << count * width)
    at = 0
    for i in range(2 * mask.size):
        if size == 2:
            store64(target, at, lanes[i])
        else:
            store32(target, at, np.uint32(lanes[i]))
        at += np.int64(steps[i])


@inlined
def spread(squeezed, size, mask, pairs, nibbles, lanes, steps, fours):
    """The inverse of `squeeze`, with zeros where there is no bit."""
    source, width = squeezed.view(np.uint8), np.uint64(8 * size)
    half, ones = np.uint64(2) * width, (np.uint64(1) << width) - np.uint64(1)
    even, low = ones | ones << half, (np.uint64(1) << half) - np.uint64(1)
    split_nibbles(mask, nibbles, steps, size)
    at = 0
    for i in range(2 * mask.size):
        lanes[i] = load64(source, at) if size == 2 else np.uint64(load32(source, at))
        at += 2 * size if pairs else np.int64(steps[i])
    all_ = low if pairs else ~np.uint64(0)
    for i in range(2 * mask.size):
        bit = fields(np.uint64(nibbles[i]), width)
        there = (bit << width) - bit
        up = ~there & even
        count = (bit + (bit >> width)) & np.uint64(3)
        x = lanes[i] & all_
        x = (x & low) | ((x >> count * width) & low) << half
        x = (x & ~(up | up << width)) | ((x & up) << width)
        fours[i] = x & there
