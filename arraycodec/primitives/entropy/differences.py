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
    table_of: np.ndarray  # uint8 (G, E)
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
    """Float32 magnitudes times a factor, where both are normal and the product is not the smallest such power of two."""
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
def prepared(base, first_unit, tools, m, v, tables):
    """Predictions of the elements of a stream, and the table of each."""
    one, least, most = np.uint32(1), tools.first, np.uint32(tools.table_of.shape[1] - 1)
    predicted(base, tools.kind, m, v)
    for i in range(base.size):
        tables[i] = np.uint8(min(np.uint32(max(np.uint32(v[i] >> tools.shift), least) - least), most))
    for start in range(0, base.size, tools.unit):
        stop = min(start + tools.unit, base.size)
        unit = first_unit + start // tools.unit
        label = tools.labels[unit]
        row = tools.table_of[label]
        mine = tables[start:stop]
        for i in range(mine.size):
            mine[i] = row[mine[i]]
        if tools.scaled:
            scaled(m[start:stop], tools.scales[unit])
        if tools.curve_of[label]:
            curve = tools.curves[tools.curve_of[label] - one]
            bent(m[start:stop], v[start:stop], curve, tools.curve_shift)


@kernel
def encode_streams(words, base, stream, tools, drops, firsts, states, index, out, start, stop):
    """Write the streams start..stop one after another and their lengths; the byte after the last one.

    drops, firsts, states  of every table (arraycodec.primitives.entropy.ans)
    out                    room for STEP_BYTES for each element and 16 more
    """
    m, v, z = np.empty(stream, np.uint32), np.empty(stream, np.uint32), np.empty(stream, np.uint32)
    tables, symbols, pieces = np.empty(stream, np.uint8), np.empty(stream, np.uint8), np.empty(stream, np.uint64)
    size, one = np.uint32(states.shape[1]), np.uint32(1)
    at = 0
    for number in range(start, stop):
        lo = number * stream
        hi = min(lo + stream, words.size)
        count = hi - lo
        mine = base[lo:hi]
        prepared(mine, lo // tools.unit, tools, m[:count], v[:count], tables[:count])
        compared(words[lo:hi], mine, m[:count], tools.kind, z[:count])
        for i in range(count):
            symbols[i] = np.uint8(symbol_of(z[i], tools.direct, tools.leading))
        x = size
        for i in range(count - 1, -1, -1):
            symbol, table = symbols[i], tables[i]
            emit = np.uint32(x + drops[table, symbol]) >> np.uint32(16)  # modulo 2^32
            told = tools.meaning[symbol]
            raw = np.uint64(z[i]) - (told & np.uint64(0xFFFFFFFF))
            low = np.uint64(x & ((one << emit) - one)) | (raw << np.uint64(emit))
            pieces[i] = low | ((np.uint64(emit) + (told >> np.uint64(32))) << np.uint64(48))
            x = np.uint32(states[table, firsts[table, symbol] + np.int64(x >> emit)]) + size
        begin, mask = at, np.uint64((1 << 48) - 1)
        bits, waiting, at = put(out, at, np.uint64(x - size), np.uint64(tools.bits))
        for i in range(count):
            piece = pieces[i]
            bits |= (piece & mask) << waiting
            bits, waiting, at = put(out, at, bits, waiting + (piece >> np.uint64(48)))
        store64(out, at, bits)
        at += np.int64((waiting + np.uint64(7)) >> np.uint64(3))
        index[number] = at - begin
    return at


@inlined
def step(data, bit, state, table, tables, meaning, z, i):
    """One element: the bit after it, and the next state."""
    one = np.uint64(1)
    bits = window(data, bit)
    entry = tables[table, state]
    read = np.uint64(entry & np.uint32(15))
    state = np.uint64(entry >> np.uint32(16)) + (bits & ((one << read) - one))
    told = meaning[(entry >> np.uint32(8)) & np.uint32(255)]
    raw = told >> np.uint64(32)
    z[i] = np.uint32(told) + np.uint32((bits >> read) & ((one << raw) - one))
    return bit + np.int64(read + raw), state


@kernel
def decode_streams(data, places, base, stream, tools, tables, first_unit, words, start, stop):
    """Decode the streams start..stop; False where one does not end at its place in state 0.

    data    with bytes for a whole stream of the longest codes behind the last one
    places  of the streams in `data`, and the end
    tables  uint32 (T, 2^bits), as `arraycodec.primitives.entropy.ans.decoding_table` makes them
    first_unit  the unit with which `base` begins
    """
    m, v, z = np.empty((4, stream), np.uint32), np.empty(stream, np.uint32), np.empty((4, stream), np.uint32)
    chosen = np.empty((4, stream), np.uint8)
    mask, units = np.uint64((1 << tools.bits) - 1), stream // tools.unit
    m0, m1, m2, m3, z0, z1, z2, z3 = m[0], m[1], m[2], m[3], z[0], z[1], z[2], z[3]
    c0, c1, c2, c3 = chosen[0], chosen[1], chosen[2], chosen[3]
    bit, state = np.zeros(4, np.int64), np.zeros(4, np.uint64)
    number, good = start, True
    while number < stop:
        four = number + 4 <= stop and (number + 4) * stream <= words.size
        together = 4 if four else 1
        for k in range(together):
            lo = (number + k) * stream
            count = min(stream, words.size - lo)
            part = base[lo : lo + count]
            prepared(part, first_unit + (number + k) * units, tools, m[k, :count], v[:count], chosen[k, :count])
            bit[k] = places[number + k] * 8
            state[k] = window(data, bit[k]) & mask
            bit[k] += tools.bits
        b0, s0 = bit[0], state[0]
        if four:
            b1, b2, b3, s1, s2, s3 = bit[1], bit[2], bit[3], state[1], state[2], state[3]
            for i in range(stream):
                b0, s0 = step(data, b0, s0, c0[i], tables, tools.meaning, z0, i)
                b1, s1 = step(data, b1, s1, c1[i], tables, tools.meaning, z1, i)
                b2, s2 = step(data, b2, s2, c2[i], tables, tools.meaning, z2, i)
                b3, s3 = step(data, b3, s3, c3[i], tables, tools.meaning, z3, i)
            bit[1], bit[2], bit[3], state[1], state[2], state[3] = b1, b2, b3, s1, s2, s3
        else:
            for i in range(min(stream, words.size - number * stream)):
                b0, s0 = step(data, b0, s0, c0[i], tables, tools.meaning, z0, i)
        bit[0], state[0] = b0, s0
        for k in range(together):
            lo = (number + k) * stream
            count = min(stream, words.size - lo)
            good &= (bit[k] + 7) >> 3 == places[number + k + 1] and state[k] == np.uint64(0)
            restored(z[k, :count], base[lo : lo + count], m[k, :count], tools.kind, words[lo : lo + count])
        number += together
    return good
