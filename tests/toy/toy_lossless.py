"""docs/format/lossless.md in plain NumPy: the witness of `arraycodec_toy` for decoding; encoding is on the host only.

Streams are unpacked to bits, and for every bit the number that starts there is looked up in a table of one symbol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec

LONGEST = 14  # bits that a step reads
REVERSED = [int(f"{i:0{LONGEST}b}"[::-1], 2) for i in range(1 << LONGEST)]
HUFFMAN, SIGNED, FLOAT, PALETTE = 1, 1, 2, 3


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    return codec.encode(x, given)  # a backend may hand its arrays to the reference, if they are in its memory


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    width, size = spec.numpy_dtype.itemsize, spec.size
    coder, arrangement, r, low, high, S, U, C, B, T, A, P, drops, k, lone = (int(word) for word in planes["plan"][:15])
    integer, words = np.dtype(f"u{width}"), planes["words"].view(f"u{width}")
    places = streams_of(size, S, C) if size else []
    units = [-(-len(place) // U) for place in places] if coder else []
    tables, labels, zeros = small_planes(planes["tables"], coder, T, A, sum(units), len(places) * drops)
    made = [huffman_table(table) if coder == HUFFMAN else ans_table(table) for table in tables]
    index = planes["index"].astype(np.int64)
    ends, firsts = np.cumsum(index[: len(units)]), np.cumsum([0, *units])
    out, at = np.zeros(size, integer), 0
    for i, place in enumerate(places):
        z = int(zeros[i]) if drops else 0
        rest, at = rests(planes["raw"], at, len(place), r - z)
        u = (rest << np.uint64(z)) + np.uint64(high << 32 | low)
        if coder:
            piece = planes["streams"][ends[i] - index[i] : ends[i]]
            own = [made[label] for label in labels[firsts[i] : firsts[i + 1]]] if T > 1 else made * units[i]
            symbols = huffman(piece, own[0], len(place)) if coder == HUFFMAN else ans(piece, own, U, len(place), B)
            u += np.array(symbols, np.uint64) << np.uint64(r) if r < 64 else np.uint64(0)
        u = u.astype(integer)
        if arrangement == SIGNED:
            u ^= integer.type(1 << (8 * width - 1))
        elif arrangement == FLOAT:
            u = unmoved(u.astype(np.uint64), k, 8 * width).astype(integer)
        out[place] = words[u] if arrangement == PALETTE else u
        if lone:
            out[place[np.array(symbols) == A - 1]] = words[0]
    gaps = index[len(units) :]
    patches = np.cumsum(np.where(gaps, gaps, 65535))[gaps > 0] - 1
    out[patches] = words[P:]
    return out.view(spec.numpy_dtype).reshape(spec.known_shape)


def streams_of(size: int, height: int, columns: int) -> list[np.ndarray]:
    """The places of the elements of each stream."""
    matrix = np.arange(size).reshape(-1, columns or 1)
    bands = [matrix[top : top + height] for top in range(0, len(matrix), height)]
    return [band[:, column] for band in bands for column in range(columns or 1)]


def dense(plane: np.ndarray, at: int, widths: list[int]) -> tuple[np.ndarray, int]:
    """Integers of these widths, one after another from byte `at` on, and the byte after them."""
    end = at + -(-sum(widths) // 8)
    bits = np.unpackbits(plane[at:end], bitorder="little").astype(np.int64)
    starts = np.cumsum([0, *widths])
    return np.array([bits[a : a + w] @ (1 << np.arange(w)) for a, w in zip(starts, widths, strict=False)], int), end


def small_planes(
    plane: np.ndarray, coder: int, count: int, symbols: int, units: int, zeros: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Tables, labels and zeros."""
    at, tables = 0, []
    for _ in range(count):
        table, at = dense(plane, at, [4] * symbols)
        if coder != HUFFMAN:
            low, at = dense(plane, at, [max(int(bits) - 1, 0) for bits in table])
            table = np.where(table > 0, (1 << np.maximum(table - 1, 0)) + low, 0)
        tables.append(table)
    labels, at = dense(plane, at, [(count - 1).bit_length()] * units if count > 1 else [])
    return tables, labels, plane[at : at + zeros]


Table = tuple[list[int], list[int], list[int]]  # symbol, bits to read, base


def huffman_table(lengths: np.ndarray) -> Table:
    """By the next LONGEST bits: read with the first bit on top, the codes fill the table from its start."""
    rows = [(int(n), s) for s, n in sorted(enumerate(lengths), key=lambda row: (row[1], row[0])) if n]
    filled = [row for row in rows for _ in range(1 << (LONGEST - row[0]))]
    filled = (filled * 2)[: 1 << LONGEST]  # of a symbol alone, either bit is the code
    return [filled[i][1] for i in REVERSED], [filled[i][0] for i in REVERSED], []


def ans_table(frequencies: np.ndarray) -> Table:
    """By state."""
    size = int(frequencies.sum())
    symbols = np.empty(size, np.int64)
    symbols[np.arange(size) * (size // 2 + size // 8 + 3) % size] = np.repeat(np.arange(frequencies.size), frequencies)
    x = np.empty(size, np.int64)
    for symbol, frequency in enumerate(frequencies):
        x[symbols == symbol] = np.arange(frequency, 2 * frequency)
    read = np.log2(size).astype(int) - np.floor(np.log2(x)).astype(int)
    return symbols.tolist(), read.tolist(), ((x << read) - size).tolist()


def windows(piece: np.ndarray) -> list[int]:
    """The next LONGEST bits from each bit of a stream on, zeros after its end."""
    bits = np.concatenate([np.unpackbits(piece, bitorder="little"), np.zeros(2 * LONGEST, np.uint8)]).astype(np.int64)
    count = 8 * piece.size + LONGEST
    return sum(bits[j : j + count] << j for j in range(LONGEST)).tolist()


def huffman(piece: np.ndarray, table: Table, count: int) -> list[int]:
    follow, at, found = windows(piece), 0, []
    for _ in range(count):
        window = follow[at]
        found.append(table[0][window])
        at += table[1][window]
    assert -(-at // 8) == piece.size
    return found


def ans(piece: np.ndarray, tables: list[Table], unit: int, count: int, bits: int) -> list[int]:
    follow, at, found = windows(piece), bits, []
    state = follow[0] & (1 << bits) - 1
    for i in range(count):
        symbols, read, base = tables[i // unit]
        found.append(symbols[state])
        n = read[state]
        state = base[state] + (follow[at] & (1 << n) - 1)
        at += n
    assert -(-at // 8) == piece.size and state == 0
    return found


def rests(raw: np.ndarray, at: int, count: int, bits: int) -> tuple[np.ndarray, int]:
    """The rests of a stream whose chunk starts at byte `at`, and the byte after it."""
    found, low = np.zeros(count, np.uint64), 0
    for width in (64, 32, 16, 8, 4, 2, 1):
        if not bits & width:
            continue
        used = -(-count * width // 8)
        section = raw[at : at + used]
        if width >= 8:
            part = section.view(f"u{width // 8}").astype(np.uint64)
        else:
            spread = section >> (width * np.arange(8 // width, dtype=np.uint8))[:, None] & np.uint8((1 << width) - 1)
            part = spread.reshape(-1)[:count].astype(np.uint64)
        found |= part << np.uint64(low)
        at, low = at + -(-used // 8) * 8, low + width
    return found, at


def unmoved(u: np.ndarray, k: int, n: int) -> np.ndarray:
    """The sign from bit k to the top."""
    low, one = np.uint64((1 << k) - 1), np.uint64(1)
    above = (u >> np.uint64(k) >> one) << np.uint64(k)
    return above | (u & low) | ((u >> np.uint64(k) & one) << np.uint64(n - 1))
