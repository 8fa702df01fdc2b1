"""Differences to a base array as coded streams: the kernels of docs/format/delta.md.

Words of 8, 16 and 32 bits are all computed in uint32. A stream is worked on in three loops: what the base tells of each
element (its table, its prediction), the ANS states, the words; only the one in the middle goes from bit to bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy.bitstreams import put, window
from arraycodec.primitives.floats import as_bits, as_float
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.unaligned import store64
from arraycodec.spec import DTYPES

UNSIGNED = ("bool", "float8_e8m0fnu")
RUN = 512  # elements that are worked on at once: what is known of four runs stays in the first cache
SYMBOLS = 256  # entries of a table of what symbols stand for
STEP_BYTES = 6  # that an element takes at most: 14 bits of state and 31 raw ones


class Kind(NamedTuple):
    """How the words of a dtype are ordered; all uint32."""

    bits: np.uint32
    full: np.uint32  # all bits of a word
    sign: np.uint32  # the sign bit of a dtype with sign and magnitude, else 0
    flip: np.uint32  # what puts the words of a two's complement in the order of their values, else 0


def kind_of(dtype: str) -> Kind:
    """The kind of a dtype of 8, 16 or 32 bits."""
    bits = DTYPES[dtype].bits
    top = np.uint32(1 << (bits - 1))
    magnitude = "float" in dtype and dtype not in UNSIGNED
    flip = top if dtype.startswith("int") else np.uint32(0)
    return Kind(np.uint32(bits), np.uint32((1 << bits) - 1), top if magnitude else np.uint32(0), flip)


class Tools(NamedTuple):
    """A plan and its tables as the kernels take them."""

    kind: Kind
    unit: int
    bits: int
    direct: np.uint32
    leading: np.uint32
    shift: np.uint32
    first: np.uint32
    curve_shift: np.uint32
    scaled: bool
    rows: np.ndarray  # uint32 (G, E): where the table of a bucket begins among the entries of all tables
    labels: np.ndarray  # uint8 (units,)
    curve_of: np.ndarray  # uint8 (G,)
    curves: np.ndarray  # uint32 (C, 256)
    scales: np.ndarray  # float32 (units,), or empty
    meaning: np.ndarray  # uint64 (256,): the smallest z of each symbol, and its raw bits << 32


def meaning_of(direct: int, leading: int, symbols: int) -> np.ndarray:
    """For each symbol the smallest z that it stands for, and the number of its raw bits above that."""
    t = np.maximum(np.arange(SYMBOLS) - (1 << direct), 0)
    raw = (t >> leading) + direct - leading
    large = ((1 << leading) + (t & ((1 << leading) - 1))) << np.minimum(raw, 31)
    small = np.arange(SYMBOLS) < 1 << direct
    found = np.where(small, np.arange(SYMBOLS), large + (np.minimum(raw, 31) << 32))
    return np.where(np.arange(SYMBOLS) < symbols, found, 0).astype(np.uint64)


@inlined
def ordered(word, sign):
    """The bits of a float as an integer in the order of values, and back; other words as they are."""
    return word ^ (sign - np.uint32(1)) if word & sign else word


@inlined
def predicted(base, kind, m, v):
    """Of each element of the base its magnitude, and what its bucket is found from."""
    for i in range(base.size):
        word = np.uint32(np.uint32(base[i]) & ~kind.sign)
        m[i] = word
        v[i] = word ^ kind.flip


@inlined
def scaled(m, factor):
    """Float32 magnitudes times a factor, but not where one is not normal or the product has an exponent field of 1."""
    for i in range(m.size):
        product = as_bits(as_float(m[i]) * factor)
        low, high = np.uint32(1), np.uint32(253)
        normal = (m[i] >> np.uint32(23)) - low <= high
        m[i] = product if normal and (product >> np.uint32(23)) - np.uint32(2) <= np.uint32(252) else m[i]


@inlined
def bent(m, v, curve, shift):
    """Add the entries of a curve."""
    for i in range(m.size):
        m[i] += curve[(v[i] >> shift) & np.uint32(255)]


@inlined
def compared(words, base, m, kind, z):
    """The differences of words to their predictions, as integers from 0 up: 0, -1, 1, -2 ..."""
    top = np.uint32(kind.bits - np.uint32(1))
    for i in range(words.size):
        word = ordered(np.uint32(words[i]) ^ (np.uint32(base[i]) & kind.sign), kind.sign)
        d = np.uint32(word - m[i]) & kind.full
        z[i] = np.uint32(d << np.uint32(1)) & kind.full ^ np.uint32(kind.full * (d >> top))


@inlined
def restored(z, base, m, kind, words):
    """The words of differences."""
    word = words.dtype.type
    for i in range(words.size):
        d = np.uint32((z[i] >> np.uint32(1)) ^ np.uint32(np.uint32(0) - (z[i] & np.uint32(1))))
        found = ordered(np.uint32(m[i] + d) & kind.full, kind.sign)
        words[i] = word(found ^ (np.uint32(base[i]) & kind.sign))


@inlined
def symbol_of(z, direct, leading):
    """The symbol of a difference."""
    bits = np.float64(z).view(np.uint64)  # exact: its exponent and leading digits are those of z
    number = np.uint32(bits >> np.uint64(np.uint32(52) - leading)) - ((np.uint32(1023) + direct) << leading)
    least = np.uint32(1) << direct
    return z if z < least else np.uint32(number + least)


@inlined
def prepared(base, unit, tools, m, v, rows):
    """Predictions of elements of one unit, and where the table of each begins."""
    one, least, most = np.uint32(1), tools.first, np.uint32(tools.rows.shape[1] - 1)
    predicted(base, tools.kind, m, v)
    label = tools.labels[unit]
    buckets = tools.rows[label]
    for i in range(base.size):
        rows[i] = min(np.uint32(max(np.uint32(v[i] >> tools.shift), least) - least), most)
    for i in range(base.size):
        rows[i] = buckets[rows[i]]
    if tools.scaled:
        scaled(m, tools.scales[unit])
    if tools.curve_of[label]:
        bent(m, v, tools.curves[tools.curve_of[label] - one], tools.curve_shift)


@inlined
def step_back(x, row, symbol, z, tools, drops, firsts, states, size):
    """One element, from the state behind it: the state before it, and what it emits with its number of bits << 48."""
    one = np.uint32(1)
    entry = row + np.uint32(symbol)
    emit = np.uint32(x + drops[entry]) >> np.uint32(16)  # modulo 2^32
    told = tools.meaning[symbol]
    raw = np.uint64(z) - (told & np.uint64(0xFFFFFFFF))
    piece = np.uint64(x & ((one << emit) - one)) | (raw << np.uint64(emit))
    piece |= (np.uint64(emit) + (told >> np.uint64(32))) << np.uint64(48)
    return np.uint32(states[firsts[entry] + np.int64(x >> emit)]) + size, piece


@inlined
def written(pieces, state, bits, out, at):
    """Write a stream from byte `at` on; the byte after it."""
    mask, waiting = np.uint64((1 << 48) - 1), np.uint64(bits)
    waiting_bits = np.uint64(state)
    for i in range(pieces.size):
        piece = pieces[i]
        waiting_bits, waiting, at = put(out, at, waiting_bits, waiting)
        waiting_bits |= (piece & mask) << waiting
        waiting += piece >> np.uint64(48)
    waiting_bits, waiting, at = put(out, at, waiting_bits, waiting)
    store64(out, at, waiting_bits)
    return at + np.int64((waiting + np.uint64(7)) >> np.uint64(3))


@kernel
def encode_streams(words, base, stream, tools, drops, firsts, states, index, out, start, stop):
    """Write the streams start..stop one after another and their lengths; the byte after the last one.

    drops, firsts, states  (arraycodec.primitives.entropy.ans) of all tables, SYMBOLS entries each; firsts are places
                           among the states of all tables
    out                    room for STEP_BYTES for each element and 16 more
    """
    m, v, z = np.empty(RUN, np.uint32), np.empty(RUN, np.uint32), np.empty((4, RUN), np.uint32)
    rows, symbols = np.empty((4, RUN), np.uint32), np.empty((4, RUN), np.uint8)
    pieces, size, at, number = np.empty((4, stream), np.uint64), np.uint32(1 << tools.bits), 0, start
    z0, z1, z2, z3, r0, r1, r2, r3 = z[0], z[1], z[2], z[3], rows[0], rows[1], rows[2], rows[3]
    a0, a1, a2, a3 = symbols[0], symbols[1], symbols[2], symbols[3]
    p0, p1, p2, p3 = pieces[0], pieces[1], pieces[2], pieces[3]
    state = np.empty(4, np.uint32)
    while number < stop:
        together = 4 if number + 4 <= stop and (number + 4) * stream <= words.size else 1
        count = min(stream, words.size - number * stream)
        x0, x1, x2, x3 = size, size, size, size
        hi = count
        while hi > 0:  # from the last run to the first; a run lies in one unit
            lo = max((hi - 1) // tools.unit * tools.unit, hi - RUN)
            for k in range(together):
                first = (number + k) * stream
                mine, n = base[first + lo : first + hi], hi - lo
                prepared(mine, (first + lo) // tools.unit, tools, m[:n], v[:n], rows[k, :n])
                compared(words[first + lo : first + hi], mine, m[:n], tools.kind, z[k, :n])
                for i in range(n):
                    symbols[k, i] = np.uint8(symbol_of(z[k, i], tools.direct, tools.leading))
            if together == 4:
                for i in range(hi - lo - 1, -1, -1):
                    x0, p0[lo + i] = step_back(x0, r0[i], a0[i], z0[i], tools, drops, firsts, states, size)
                    x1, p1[lo + i] = step_back(x1, r1[i], a1[i], z1[i], tools, drops, firsts, states, size)
                    x2, p2[lo + i] = step_back(x2, r2[i], a2[i], z2[i], tools, drops, firsts, states, size)
                    x3, p3[lo + i] = step_back(x3, r3[i], a3[i], z3[i], tools, drops, firsts, states, size)
            else:
                for i in range(hi - lo - 1, -1, -1):
                    x0, p0[lo + i] = step_back(x0, r0[i], a0[i], z0[i], tools, drops, firsts, states, size)
            hi = lo
        state[0], state[1], state[2], state[3] = x0 - size, x1 - size, x2 - size, x3 - size
        for k in range(together):
            begin = at
            at = written(pieces[k, :count], state[k], tools.bits, out, at)
            index[number + k] = at - begin
        number += together
    return at


@inlined
def step(bits, state, row, tables, meaning):
    """One element at the first of these bits: its z, the bits it took, and the next state."""
    one = np.uint64(1)
    entry = tables[np.uint64(row) + state]
    read = np.uint64(entry & np.uint32(15))
    state = np.uint64(entry >> np.uint32(16)) + (bits & ((one << read) - one))
    told = meaning[(entry >> np.uint32(8)) & np.uint32(255)]
    raw = told >> np.uint64(32)
    return np.uint32(told) + np.uint32((bits >> read) & ((one << raw) - one)), read + raw, state


@inlined
def one_step(data, bit, state, rows, tables, meaning, z, i):
    """One element."""
    z[i], used, state = step(window(data, bit), state, rows[i], tables, meaning)
    return bit + np.int64(used), state


@inlined
def two_steps(data, bit, state, rows, tables, meaning, z, i):
    """Two elements, which together take at most 57 bits."""
    bits = window(data, bit)
    z[i], used, state = step(bits, state, rows[i], tables, meaning)
    z[i + 1], more, state = step(bits >> used, state, rows[i + 1], tables, meaning)
    return bit + np.int64(used + more), state


@kernel
def decode_streams(data, places, base, stream, tools, tables, words, start, stop):
    """Decode the streams start..stop; False where one does not end at its place in state 0.

    data    with bytes for a whole stream of the longest codes behind the last one
    places  of the streams in `data`, and the end
    tables  uint32 (T * 2^bits,), as `arraycodec.primitives.entropy.ans.decoding_table` makes them
    """
    m, v, z = np.empty((4, RUN), np.uint32), np.empty(RUN, np.uint32), np.empty((4, RUN), np.uint32)
    rows, bit, state = np.empty((4, RUN), np.uint32), np.zeros(4, np.int64), np.zeros(4, np.uint64)
    z0, z1, z2, z3, r0, r1, r2, r3 = z[0], z[1], z[2], z[3], rows[0], rows[1], rows[2], rows[3]
    mask, meaning = np.uint64((1 << tools.bits) - 1), tools.meaning
    paired = 2 * (tools.bits + np.int64(tools.kind.bits) - 1) <= 57
    number, good = start, True
    while number < stop:
        together = 4 if number + 4 <= stop and (number + 4) * stream <= words.size else 1
        count = min(stream, words.size - number * stream)
        for k in range(together):
            bit[k] = places[number + k] * 8
            state[k] = window(data, bit[k]) & mask
            bit[k] += tools.bits
        b0, b1, b2, b3, s0, s1, s2, s3 = bit[0], bit[1], bit[2], bit[3], state[0], state[1], state[2], state[3]
        lo = 0
        while lo < count:  # runs; each lies in one unit
            hi = min(lo // tools.unit * tools.unit + tools.unit, lo + RUN, count)
            n = hi - lo
            for k in range(together):
                first = (number + k) * stream + lo
                prepared(base[first : first + n], first // tools.unit, tools, m[k, :n], v[:n], rows[k, :n])
            if together == 4:
                pairs = n & ~1 if paired else 0
                for i in range(0, pairs, 2):
                    b0, s0 = two_steps(data, b0, s0, r0, tables, meaning, z0, i)
                    b1, s1 = two_steps(data, b1, s1, r1, tables, meaning, z1, i)
                    b2, s2 = two_steps(data, b2, s2, r2, tables, meaning, z2, i)
                    b3, s3 = two_steps(data, b3, s3, r3, tables, meaning, z3, i)
                for i in range(pairs, n):
                    b0, s0 = one_step(data, b0, s0, r0, tables, meaning, z0, i)
                    b1, s1 = one_step(data, b1, s1, r1, tables, meaning, z1, i)
                    b2, s2 = one_step(data, b2, s2, r2, tables, meaning, z2, i)
                    b3, s3 = one_step(data, b3, s3, r3, tables, meaning, z3, i)
            else:
                for i in range(n):
                    b0, s0 = one_step(data, b0, s0, r0, tables, meaning, z0, i)
            for k in range(together):
                first = (number + k) * stream + lo
                restored(z[k, :n], base[first : first + n], m[k, :n], tools.kind, words[first : first + n])
            lo = hi
        bit[0], bit[1], bit[2], bit[3], state[0], state[1], state[2], state[3] = b0, b1, b2, b3, s0, s1, s2, s3
        for k in range(together):
            good &= (bit[k] + 7) >> 3 == places[number + k + 1] and state[k] == np.uint64(0)
        number += together
    return good
