"""Coding and decoding of streams of symbols, one stream or four at a time; four hide each other's latencies.

A stream is little-endian: its first bit is the lowest of its first byte. Decoders take 64 bits at a time from wherever
they are, which must lie in the data: a broken stream may lead anywhere, so every step has looked at that before.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.unaligned import load64, prefetch, store32, store64

NO_CODE = np.uint64(1 << 63)  # marks the code that stands in for that of a symbol without one


@inlined
def window(data, bit):
    """At least 57 bits of the stream, from this one on."""
    return load64(data, bit >> 3) >> np.uint64(bit & 7)


@inlined
def huffman_step(data, bit, at, table, mask, out):
    """Up to 12 symbols by four look-ups; what these use adds up to less than 2^6 bits."""
    bits = window(data, bit)
    a = table[bits & mask]
    bits >>= np.uint64(a & np.uint32(63))
    store32(out, at, a >> np.uint32(8))
    at += np.int64((a >> np.uint32(6)) & np.uint32(3))
    b = table[bits & mask]
    bits >>= np.uint64(b & np.uint32(63))
    store32(out, at, b >> np.uint32(8))
    at += np.int64((b >> np.uint32(6)) & np.uint32(3))
    c = table[bits & mask]
    bits >>= np.uint64(c & np.uint32(63))
    store32(out, at, c >> np.uint32(8))
    at += np.int64((c >> np.uint32(6)) & np.uint32(3))
    d = table[bits & mask]
    store32(out, at, d >> np.uint32(8))
    at += np.int64((d >> np.uint32(6)) & np.uint32(3))
    return bit + np.int64(np.uint32(a + b + c + d) & np.uint32(63)), at


@inlined
def huffman_rest(data, bit, at, end, table, mask, lengths, out):
    """The symbols from `at` to `end`; the bit after them, -1 where the data end before."""
    last = 8 * (data.size - 8)
    while at <= end - 16 and bit <= last:
        bit, at = huffman_step(data, bit, at, table, mask, out)
    while at < end:
        if bit > last:
            return -1
        entry = table[window(data, bit) & mask]
        count = min(np.int64((entry >> np.uint32(6)) & np.uint32(3)), end - at)
        for _ in range(count):
            entry >>= np.uint32(8)
            out[at] = np.uint8(entry & np.uint32(255))
            bit += np.int64(lengths[out[at]])
            at += 1
    return bit


@kernel
def huffman_one(data, bit, table, lengths, out):
    """A stream of `out.size` symbols; the bit after it, -1 where the data end before."""
    return huffman_rest(data, bit, 0, out.size, table, np.uint64(table.size - 1), lengths, out)


@kernel
def huffman_four(data, bits, table_0, table_1, table_2, table_3, lengths, count, out, words, starts):
    """Four streams of `count` symbols into out[0..4 * count]; takes and leaves the bits where they start and end.

    lengths  of the codes of each stream: four arrays
    words    what the symbols are wanted for, each stream from its place in `starts` on: loaded into the cache meanwhile
    """
    n, mask, last = np.int64(count), np.uint64(table_0.size - 1), 8 * (data.size - 8)
    bit_0, bit_1, bit_2, bit_3 = bits[0], bits[1], bits[2], bits[3]
    at_0, at_1, at_2, at_3 = np.int64(0), n, 2 * n, 3 * n
    end_0, end_1, end_2, end_3 = n - 16, 2 * n - 16, 3 * n - 16, 4 * n - 16
    size = words.itemsize
    word_0, word_1, word_2, word_3 = starts[0], starts[1] - n, starts[2] - 2 * n, starts[3] - 3 * n
    while (
        at_0 <= end_0 and at_1 <= end_1 and at_2 <= end_2 and at_3 <= end_3
        and max(max(bit_0, bit_1), max(bit_2, bit_3)) <= last
    ):  # fmt: skip
        prefetch(words, (word_0 + at_0) * size)
        bit_0, at_0 = huffman_step(data, bit_0, at_0, table_0, mask, out)
        prefetch(words, (word_1 + at_1) * size)
        bit_1, at_1 = huffman_step(data, bit_1, at_1, table_1, mask, out)
        prefetch(words, (word_2 + at_2) * size)
        bit_2, at_2 = huffman_step(data, bit_2, at_2, table_2, mask, out)
        prefetch(words, (word_3 + at_3) * size)
        bit_3, at_3 = huffman_step(data, bit_3, at_3, table_3, mask, out)
    bits[0] = huffman_rest(data, bit_0, at_0, n, table_0, mask, lengths[0], out)
    bits[1] = huffman_rest(data, bit_1, at_1, 2 * n, table_1, mask, lengths[1], out)
    bits[2] = huffman_rest(data, bit_2, at_2, 3 * n, table_2, mask, lengths[2], out)
    bits[3] = huffman_rest(data, bit_3, at_3, 4 * n, table_3, mask, lengths[3], out)


@inlined
def ans_read(entry, bits):
    """The state that follows, and the bits that are left."""
    read, one = np.uint64(entry & np.uint32(63)), np.uint64(1)
    return np.uint64(entry >> np.uint32(16)) + (bits & ((one << read) - one)), bits >> read


@inlined
def ans_step(data, bit, state, table, at, out):
    """Four symbols; what these read adds up to less than 2^6 bits."""
    bits = window(data, bit)
    a = table[state]
    state, bits = ans_read(a, bits)
    b = table[state]
    state, bits = ans_read(b, bits)
    c = table[state]
    state, bits = ans_read(c, bits)
    d = table[state]
    state, bits = ans_read(d, bits)
    low = np.uint32(0xFF00)
    store32(
        out, at, ((a & low) >> np.uint32(8)) | (b & low) | ((c & low) << np.uint32(8)) | ((d & low) << np.uint32(16))
    )
    return bit + np.int64(np.uint32(a + b + c + d) & np.uint32(63)), state


@inlined
def ans_rest(data, bit, state, table, at, end, out):
    """The symbols from `at` to `end`; the bit after them (-1 where the data end before), and the state."""
    last = 8 * (data.size - 8)
    while at <= end - 4 and bit <= last:
        bit, state = ans_step(data, bit, state, table, at, out)
        at += 4
    while at < end:
        if bit > last:
            return -1, state
        entry = table[state]
        state, _ = ans_read(entry, window(data, bit))
        bit += np.int64(entry & np.uint32(63))
        out[at] = np.uint8((entry >> np.uint32(8)) & np.uint32(255))
        at += 1
    return bit, state


@kernel
def ans_one(data, bit, tables, labels, unit, out):
    """A stream of `out.size` symbols, unit by unit with the tables of its labels; the bit after it.

    -1 where the data end before, -2 where it does not end in state 0.
    """
    if bit > 8 * (data.size - 8):
        return -1
    state = window(data, bit) & np.uint64(tables.shape[1] - 1)
    bit += log2_of(tables.shape[1])
    for first in range(0, out.size, unit):
        end = min(first + unit, out.size)
        bit, state = ans_rest(data, bit, state, tables[labels[first // unit]], first, end, out)
        if bit < 0:
            return -1
    return bit if state == np.uint64(0) else -2


@kernel
def ans_four(data, bits, tables, labels_0, labels_1, labels_2, labels_3, unit, count, out):
    """Four streams of `count` symbols into out[0..4 * count]; as `huffman_four`, with -2 where one ends wrongly."""
    n, mask, log = np.int64(count), np.uint64(tables.shape[1] - 1), log2_of(tables.shape[1])
    last = 8 * (data.size - 8)
    bit_0, bit_1, bit_2, bit_3 = bits[0], bits[1], bits[2], bits[3]
    if max(max(bit_0, bit_1), max(bit_2, bit_3)) > last:
        bits[:] = -1
        return
    state_0, state_1 = window(data, bit_0) & mask, window(data, bit_1) & mask
    state_2, state_3 = window(data, bit_2) & mask, window(data, bit_3) & mask
    bit_0, bit_1, bit_2, bit_3 = bit_0 + log, bit_1 + log, bit_2 + log, bit_3 + log
    for first in range(0, n, unit):
        k, i, end = first // unit, np.int64(first), min(first + unit, n)
        table_0, table_1 = tables[labels_0[k]], tables[labels_1[k]]
        table_2, table_3 = tables[labels_2[k]], tables[labels_3[k]]
        while i <= end - 4 and max(max(bit_0, bit_1), max(bit_2, bit_3)) <= last:
            bit_0, state_0 = ans_step(data, bit_0, state_0, table_0, i, out)
            bit_1, state_1 = ans_step(data, bit_1, state_1, table_1, i + n, out)
            bit_2, state_2 = ans_step(data, bit_2, state_2, table_2, i + 2 * n, out)
            bit_3, state_3 = ans_step(data, bit_3, state_3, table_3, i + 3 * n, out)
            i += 4
        bit_0, state_0 = ans_rest(data, bit_0, state_0, table_0, i, end, out)
        bit_1, state_1 = ans_rest(data, bit_1, state_1, table_1, i + n, end + n, out)
        bit_2, state_2 = ans_rest(data, bit_2, state_2, table_2, i + 2 * n, end + 2 * n, out)
        bit_3, state_3 = ans_rest(data, bit_3, state_3, table_3, i + 3 * n, end + 3 * n, out)
        if min(min(bit_0, bit_1), min(bit_2, bit_3)) < 0:
            bits[:] = -1
            return
    zero = np.uint64(0)
    bits[0] = bit_0 if state_0 == zero else -2
    bits[1] = bit_1 if state_1 == zero else -2
    bits[2] = bit_2 if state_2 == zero else -2
    bits[3] = bit_3 if state_3 == zero else -2


@inlined
def log2_of(size):
    """The exponent of a power of two."""
    bits = np.int64(0)
    while (1 << bits) < size:
        bits += 1
    return bits


@inlined
def put(out, at, bits, count):
    """Write the whole bytes among `count` waiting bits; those that are left, their number, and the next byte."""
    store64(out, at, bits)
    whole = count >> np.uint64(3)
    return bits >> (whole << np.uint64(3)), count & np.uint64(7), at + np.int64(whole)


@inlined
def append(piece, bits, count):
    """The waiting bits and their number with those of a piece: its bits, and from bit 32 on how many."""
    return bits | ((piece & np.uint64(0xFFFF)) << count), count + ((piece >> np.uint64(32)) & np.uint64(15))


@inlined
def flush(out, at, bits, count):
    """Write what waits; the byte after the stream."""
    store64(out, at, bits)
    return at + np.int64((count + np.uint64(7)) >> np.uint64(3))


@kernel
def huffman_write(symbols, codes, out, at):
    """Write a stream from byte `at` on; the byte after it, negative where a symbol's code has been marked with NO_CODE.

    8 bytes beyond the stream may be written too.
    """
    bits, count, seen = np.uint64(0), np.uint64(0), np.uint64(0)
    fours = symbols.size & ~3
    for i in range(0, fours, 4):
        a, b, c, d = codes[symbols[i]], codes[symbols[i + 1]], codes[symbols[i + 2]], codes[symbols[i + 3]]
        seen |= a | b | c | d
        bits, count = append(a, bits, count)
        bits, count = append(b, bits, count)
        bits, count = append(c, bits, count)
        bits, count = append(d, bits, count)
        bits, count, at = put(out, at, bits, count)
    for i in range(fours, symbols.size):
        seen |= codes[symbols[i]]
        bits, count = append(codes[symbols[i]], bits, count)
        bits, count, at = put(out, at, bits, count)
    end = flush(out, at, bits, count)
    return -end if seen & NO_CODE else end


@kernel
def ans_write(symbols, drops, firsts, states, labels, unit, pieces, out, at):
    """Write a stream as `huffman_write` does; every symbol has a frequency.

    drops, firsts, states  of every table
    pieces                 room for a word for each symbol: what it emits, found from the last symbol to the first
    """
    size, one = np.uint32(states.shape[1]), np.uint32(1)
    x = size
    last = (symbols.size - 1) // unit
    for k in range(last, -1, -1):
        drop, first, to = drops[labels[k]], firsts[labels[k]], states[labels[k]]
        for i in range(min((k + 1) * unit, symbols.size) - 1, k * unit - 1, -1):
            symbol = symbols[i]
            emit = np.uint32(np.uint32(x + drop[symbol]) >> np.uint32(16))  # a lone symbol emits nothing: it wraps
            pieces[i] = np.uint64(x & np.uint32(np.uint32(one << emit) - one)) | (np.uint64(emit) << np.uint64(32))
            x = np.uint32(np.uint32(to[first[symbol] + np.int64(np.uint32(x >> emit))]) + size)
    bits, count = np.uint64(x - size), np.uint64(log2_of(states.shape[1]))
    bits, count, at = put(out, at, bits, count)
    fours = symbols.size & ~3
    for i in range(0, fours, 4):
        bits, count = append(pieces[i], bits, count)
        bits, count = append(pieces[i + 1], bits, count)
        bits, count = append(pieces[i + 2], bits, count)
        bits, count = append(pieces[i + 3], bits, count)
        bits, count, at = put(out, at, bits, count)
    for i in range(fours, symbols.size):
        bits, count = append(pieces[i], bits, count)
        bits, count, at = put(out, at, bits, count)
    return flush(out, at, bits, count)
