"""Huffman tables: the code of every symbol, and a look-up table that decodes up to three symbols at once."""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.entropy.costs import sort
from arraycodec.primitives.jit import kernel


@kernel
def codes(lengths):
    """The canonical code of every symbol, its first bit lowest, and its length above: length << 32 | code."""
    found, code = np.zeros(lengths.size, np.uint64), 0
    for length in range(1, 16):
        for symbol in range(lengths.size):
            if lengths[symbol] == length:
                backwards = 0
                for bit in range(length):
                    backwards |= ((code >> bit) & 1) << (length - 1 - bit)
                found[symbol] = np.uint64(backwards | (length << 32))
                code += 1
        code <<= 1
    return found


@kernel
def decoding_table(lengths, bits):
    """What the next `bits` bits of a stream hold: the bits of up to three codes, their number << 6, symbols << 8.

    lengths  of a complete code, or of one symbol alone with length 1, for which either bit then stands.
    """
    size = 1 << bits
    one = np.zeros(size, np.uint32)
    found = codes(lengths)
    alone = np.count_nonzero(lengths) == 1
    for symbol in range(lengths.size):
        if lengths[symbol]:
            step = 1 if alone else 1 << int(lengths[symbol])
            entry = np.uint32(lengths[symbol] | (symbol << 8))
            for at in range(int(found[symbol] & np.uint64(0xFFFF)), size, step):
                one[at] = entry
    table = np.empty(size, np.uint32)
    for window in range(size):
        entry = one[window]
        used, count = entry & np.uint32(15), np.uint32(1)
        following = one[window >> used]
        if used + (following & np.uint32(15)) <= bits:
            entry |= (following & np.uint32(0xFF00)) << np.uint32(8)
            used, count = used + (following & np.uint32(15)), np.uint32(2)
            following = one[window >> used]
            if used + (following & np.uint32(15)) <= bits:
                entry |= (following & np.uint32(0xFF00)) << np.uint32(16)
                used, count = used + (following & np.uint32(15)), np.uint32(3)
        table[window] = ((entry & ~np.uint32(0xFF)) | (count << np.uint32(6))) | used
    return table


@kernel
def lengths(counts, limit):
    """The code lengths of at most `limit` bits that take the fewest bits in all: package-merge, ties by symbol.

    counts  int64 (A,): a symbol with count 0 gets length 0; one alone gets length 1; A <= 2^limit.
    """
    found = np.zeros(counts.size, np.uint8)
    used = np.count_nonzero(counts)
    if used < 2:
        for symbol in range(counts.size):
            found[symbol] = counts[symbol] > 0
        return found
    keys, symbols = np.empty(used, np.int64), np.empty(used, np.int64)
    at = 0
    for symbol in range(counts.size):
        if counts[symbol]:
            keys[at] = counts[symbol] << 8 | symbol
            at += 1
    sort(keys)
    leaves = keys >> 8
    for i in range(used):
        symbols[i] = keys[i] & 255
    # A level's items in order of weight: the symbols, and pairs of the items of the level before.
    row, before = np.empty(2 * used, np.int64), np.empty(2 * used, np.int64)
    pairs_among = np.zeros((limit, 2 * used + 1), np.int16)  # pairs among the first items of each level
    size = 0
    for level in range(limit):
        leaf, pair, pairs, items = 0, 0, size >> 1, used + (size >> 1)
        weight = before[0] + before[1] if pairs else 0
        for item in range(items):
            if pair < pairs and (leaf == used or weight < leaves[leaf]):
                row[item] = weight
                pair += 1
                if pair < pairs:
                    weight = before[2 * pair] + before[2 * pair + 1]
            else:
                row[item] = leaves[leaf]
                leaf += 1
            pairs_among[level, item + 1] = pair
        row, before, size = before, row, items
    take = 2 * used - 2
    for level in range(limit - 1, -1, -1):
        pairs = int(pairs_among[level, take])
        for i in range(take - pairs):
            found[symbols[i]] += 1
        take = 2 * pairs
    return found
