"""Sums of entries: what the codes of residual stages stand for, and their bit stream.

A *book* has the entries of all stages one after another; an index per stage picks one of each, and their sum is the
vector. The indices of a vector are its code, the first stage in the highest bits, and codes are a dense little-endian
stream. With *gains* the entries of the first stage have a binary point FINE bits higher than the others, whose sum is
multiplied with a power of two that belongs to the entry of the first stage.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN, as_bits, as_float, flushed
from arraycodec.primitives.jit import inlined, kernel

FINE = 8  # bits behind the binary point of integers with gains: the largest gain is 2^FINE

Codes = np.ndarray[Any, np.dtype[np.unsignedinteger]]


def starts(widths: tuple[int, ...]) -> list[int]:
    """Where the entries of each stage begin.

    >>> starts((4, 4)), starts((5, 3, 2))
    ([0, 16], [0, 32, 40])
    """
    return [sum(1 << width for width in widths[:m]) for m in range(len(widths))]


def shifts(widths: tuple[int, ...]) -> list[int]:
    """How many bits of a code are below the index of each stage.

    >>> shifts((4, 4)), shifts((5, 3, 2))
    ([4, 0], [5, 2, 0])
    """
    return [sum(widths[m + 1 :]) for m in range(len(widths))]


def code_dtype(bits: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds a code."""
    return np.dtype(f"u{1 << max(bits - 1, 0).bit_length() >> 3 or 1}")


def group_of(bits: int) -> int:
    """How many codes of this width are whole bytes, at least.

    >>> [group_of(bits) for bits in (8, 12, 16, 7)]
    [1, 2, 1, 8]
    """
    return 8 // math.gcd(bits, 8)


def pack(codes: Codes, bits: int, packed: np.ndarray) -> None:
    """Write codes into the bytes of their stream, which ends in zero bits."""
    if bits == 8:
        packed[:] = codes
        return
    group = group_of(bits)
    wide = np.zeros((-(-codes.size // group), group), np.uint64)
    wide.reshape(-1)[: codes.size] = codes
    stream = np.zeros((len(wide), group * bits // 8), np.uint8)
    for k in range(group):  # each of a group begins at a bit of its own
        for byte in range(k * bits // 8, -(-(k + 1) * bits // 8)):
            down = 8 * byte - k * bits
            part = wide[:, k] >> np.uint64(down) if down >= 0 else wide[:, k] << np.uint64(-down)
            stream[:, byte] |= (part & np.uint64(255)).astype(np.uint8)
    packed[:] = stream.reshape(-1)[: packed.size]


@inlined
def load_codes(packed, bits, first, codes):
    """The codes from number `first` on of a stream, each of at most 56 bits, as int64."""
    if bits == 8:
        for i in range(codes.size):
            codes[i] = packed[first + i]
        return
    if bits == 16:
        for i in range(codes.size):
            codes[i] = np.int64(packed[2 * (first + i)]) | np.int64(packed[2 * (first + i) + 1]) << 8
        return
    for i in range(codes.size):
        start = (first + i) * bits
        byte, down = start >> 3, start & 7
        code = np.uint64(0)
        for k in range((down + bits + 7) >> 3):
            code |= np.uint64(packed[byte + k]) << np.uint64(8 * k)
        codes[i] = np.int64((code >> np.uint64(down)) & np.uint64((np.uint64(1) << np.uint64(bits)) - np.uint64(1)))


@inlined
def add_integers(book, gains, layout, dim, unit, q, sums, totals):
    """The vectors of codes from a flat book of integers; `totals` is a buffer of int32."""
    for m in range(layout.shape[1] - 1, -1, -1):
        shift, mask, first = layout[0, m], (1 << layout[1, m]) - 1, layout[2, m]
        last, gained = m == layout.shape[1] - 1, m == 0 and gains.size > 0
        for i in range(q.size):
            index = (q[i] >> shift) & mask
            at, gain = (first + index) * dim, np.int32(gains[np.uint64(index)] if gained else 0)
            for e in range(dim):
                entry = np.int32(book[np.uint64(at + e)])  # an index that cannot be negative is not looked at for it
                total = np.int32(0) if last else totals[i * dim + e]
                if gained:
                    total, entry = np.int32(total << gain), np.int32(entry << np.int32(FINE))
                totals[i * dim + e] = np.int32(entry + total)
    for i in range(q.size * dim):
        sums[i] = np.float32(totals[i]) * unit


@inlined
def add_floats(book, layout, dim, q, sums):
    """The vectors of codes from a flat book of floats, added in the order of the stages."""
    shift = layout[0, 0]
    for i in range(q.size):
        for e in range(dim):
            sums[i * dim + e] = book[np.uint64((q[i] >> shift) * dim + e)]
    for m in range(1, layout.shape[1]):
        shift, mask, first = layout[0, m], (1 << layout[1, m]) - 1, layout[2, m]
        for i in range(q.size):
            at = (first + ((q[i] >> shift) & mask)) * dim
            for e in range(dim):
                total = sums[i * dim + e] + book[np.uint64(at + e)]
                sums[i * dim + e] = as_float(flushed(as_bits(total)))
    for i in range(q.size * dim):
        u = as_bits(sums[i])
        sums[i] = as_float(NAN if (u & MAGNITUDE) > INFINITY else u)


@inlined
def add_entries(books, own, dim, q, sums, totals):
    """The vectors of codes from the book with this number."""
    integers, values, gains, layout, unit = books
    if values.size:
        add_floats(values[own], layout, dim, q, sums)
    else:
        add_integers(integers[own], gains[own], layout, dim, unit, q, sums, totals)


@inlined
def add_vectors(books, own, dim, q, sums, totals):
    """`add_entries`, compiled for each of the small dimensions: the loop over elements is none there."""
    if dim == 1:
        add_entries(books, own, 1, q, sums, totals)
    elif dim == 2:
        add_entries(books, own, 2, q, sums, totals)
    else:
        add_entries(books, own, dim, q, sums, totals)


@kernel
def add_all(books, table):
    """The vectors of all codes of the first book."""
    q, dim = np.arange(table.shape[0]), table.shape[1]
    add_entries(books, 0, dim, q, table.reshape(-1), np.empty(table.size, np.int32))
