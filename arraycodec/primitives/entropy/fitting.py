"""Tables for given counts of symbols, and what coding with them takes to the bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans
from arraycodec.primitives.entropy.costs import FRACTION, log2, logarithms
from arraycodec.primitives.entropy.huffman import lengths as huffman_lengths
from arraycodec.primitives.entropy.plan import MAX_LENGTH
from arraycodec.primitives.jit import kernel

GAP_BITS = 16  # bits of the place of a patch
ANS_INDEX = 12  # bits of a state: with 14 a bf16 weight takes .01 bits less, but tables leave the first-level cache
FEWER = 3  # an ANS symbol that deserves less than FEWER / 4 of a state may be left out


class Tables(NamedTuple):
    """Tables of one field."""

    bits: int  # of codes, tables and patches
    first: int  # the symbol that becomes symbol 0
    tables: np.ndarray  # uint16 (T, A)
    width: int  # bits of a table's index


def folded(sums: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """The counts of a field's symbols, int64 (T, 257), from those of bins; the last is that of the lone word."""
    counts = np.empty((sums.shape[0], 258), np.int64)
    fold(sums, symbols, counts)
    return counts[:, 1:]


@kernel
def fold(sums, symbols, counts):
    """`folded`, with the words that have no symbol before all others."""
    counts[:] = 0
    for t in range(sums.shape[0]):
        for b in range(symbols.size):
            counts[t, 1 + symbols[b]] += sums[t, b]


def huffman_tables(counts: np.ndarray, word: int) -> Tables:
    """Huffman tables for counts as `folded` makes them; patches of words of `word` bits are for rare symbols."""
    first, last, lone, outside = trimmed(counts, GAP_BITS + word - MAX_LENGTH)
    tables = np.empty((counts.shape[0], last + 1 - first + lone), np.uint16)
    bits, index = all_lengths(counts, first, last, tables)
    bits = int(bits) + int(outside) * (GAP_BITS + word) + tables.shape[0] * 8 * -(-tables.shape[1] // 2)
    return Tables(bits, int(first), tables, int(index))


@kernel
def all_lengths(counts, first, last, tables):
    """The code lengths of every table; the bits of all codes, and the longest code."""
    bits, longest, width = np.int64(0), np.int64(0), last + 1 - first
    mine = np.empty(tables.shape[1], np.int64)
    for t in range(tables.shape[0]):
        total = np.int64(0)
        for symbol in range(mine.size):
            mine[symbol] = counts[t, first + symbol if symbol < width else 256]
            total += mine[symbol]
        if total == 0:
            mine[0] = 1  # every table must have a code
        lengths = huffman_lengths(mine, MAX_LENGTH)
        for symbol in range(mine.size):
            tables[t, symbol] = lengths[symbol]
            longest = max(longest, np.int64(lengths[symbol]))
            bits += mine[symbol] * np.int64(lengths[symbol])
    return bits, longest


def ans_tables(counts: np.ndarray, word: int) -> Tables:
    """The same for ANS."""
    index = ANS_INDEX
    first, last, lone, outside = map(int, trimmed(counts, GAP_BITS + word - index))
    counts = np.ascontiguousarray(counts[:, [*range(first, last + 1), *([256] if lone else [])]])
    tables, bits = np.zeros(counts.shape, np.uint16), 0
    for row, table in zip(counts, tables, strict=True):
        total = int(row.sum())
        # The state of a rare symbol is taken from the others: patches may be cheaper.
        rare = (row << (index + 2) < FEWER * total) & (row * (GAP_BITS + word - index) < (3 * total >> (index + 1)) + 8)
        kept = np.where(rare, 0, row)
        if not kept.any():
            kept = np.eye(1, row.size, dtype=np.int64)[0]
        table[:] = ans.normalised(kept, index)
        outside += int(row[table == 0].sum())
        code, low = ans_bits(row, table, index, logarithms())
        bits += (int(code) >> FRACTION) + 8 * -(-row.size // 2) + 8 * -(-int(low) // 8)
    return Tables(bits + outside * (GAP_BITS + word), first, tables, index)


@kernel
def ans_bits(counts, frequencies, index, logs):
    """The bits of symbols, with FRACTION digits, and those of their frequencies below the highest of each."""
    code, low = np.int64(0), 0
    for symbol in range(counts.size):
        if frequencies[symbol]:
            length = log2(frequencies[symbol], logs)
            code += counts[symbol] * ((np.int64(index) << 16) - length)
            low += length >> 16
    return code, low


@kernel
def trimmed(counts, saved):
    """The first and the last symbol worth an entry in the tables, whether there is a lone word, the words left out.

    saved  the bits by which a patch is longer than a code
    """
    total = np.zeros(257, np.int64)
    for t in range(counts.shape[0]):
        for symbol in range(257):
            total[symbol] += counts[t, symbol]
    first, last, outside, entry = 0, 255, np.int64(0), 4 * counts.shape[0]
    lone = 1 if total[256] else 0
    while first < last and (total[first] * saved < entry or total[first] == 0):
        outside += total[first]
        first += 1
    while first < last and (total[last] * saved < entry or last - first + lone > 255):
        outside += total[last]
        last -= 1
    return first, last, lone, outside
