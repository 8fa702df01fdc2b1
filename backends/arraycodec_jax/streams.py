"""Streams of coded symbols in jnp: the tables that decode them, and all streams side by side, a symbol a step.

Every scalar may be a Python integer or a traced one; only the bounds that shapes follow from are Python integers.
Nothing is read outside of an array, whatever the bits are: look-ups are clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.primitives.entropy.plan import MAX_LENGTH

SYMBOLS = 256  # the most of an alphabet
ABSENT = 16  # sorts after every code length
# The first bit of a code is its highest, and comes lowest in the stream.
BACKWARDS = np.array([int(f"{i:0{MAX_LENGTH}b}"[::-1], 2) for i in range(1 << MAX_LENGTH)], np.int32)


class Streams(NamedTuple):
    """Where streams lie: bands of rows, and in each a stream for each column; a flat array has one column."""

    columns: Any
    rows: Any
    stream: Any  # elements of a stream
    unit: Any  # elements of a stream that share a table

    @property
    def full(self) -> Any:
        """The bands whose streams have all their elements."""
        return self.rows // self.stream

    @property
    def tail(self) -> Any:
        """The rows of a last band, which has fewer; 0 where there is none."""
        return self.rows % self.stream

    @property
    def number(self) -> Any:
        return (self.rows + self.stream - 1) // self.stream * self.columns

    def length(self, band: jax.Array) -> jax.Array:
        """The elements of each stream of a band."""
        return jnp.where(band < self.full, jnp.uint32(self.stream), jnp.uint32(self.tail))

    def units_before(self, index: Any) -> Any:
        """The number of units of all streams before one."""
        band = index // self.columns
        own = (self.length(band) + self.unit - 1) // self.unit
        return band * self.columns * (self.stream // self.unit) + index % self.columns * own

    @property
    def units(self) -> Any:
        """The number of units of all streams."""
        tail = (self.tail + self.unit - 1) // self.unit
        return (self.full * (self.stream // self.unit) + tail) * self.columns


class Coded(NamedTuple):
    """Coded streams and what decodes them."""

    ans: bool
    bits: Any  # of a state of ANS
    tables: jax.Array  # (T, 2^n) of `huffman_table` or `ans_table`
    labels: jax.Array | None  # of units, where there are several tables
    bytes: jax.Array  # the plane `streams`
    starts: jax.Array  # uint32, the first byte of each stream


def at(x: jax.Array, index: jax.Array) -> jax.Array:
    """`x[index]`, the index clipped to what is there; zero where there is nothing."""
    if not x.size:
        return jnp.zeros(jnp.shape(index), x.dtype)
    return x.at[index].get(mode="clip", wrap_negative_indices=False)


def dense(plane: jax.Array, first: Any, index: jax.Array, width: Any) -> jax.Array:
    """Integers of at most 16 bits that begin at bits `index` of a stream, which begins at byte `first` of the plane."""
    byte = first + (index >> 3)
    word = at(plane, byte).astype(jnp.uint32)
    for k in (1, 2):
        word |= at(plane, byte + k).astype(jnp.uint32) << 8 * k
    return (word >> (index & 7)) & ((jnp.uint32(1) << width) - 1)


def nibbles(plane: jax.Array, first: Any, count: Any) -> jax.Array:
    """The first `count` of SYMBOLS integers of 4 bits from byte `first` on, along a new last axis; zeros after them."""
    symbol = jnp.arange(SYMBOLS, dtype=jnp.uint32)
    found = dense(plane, jnp.asarray(first, jnp.uint32)[..., None], symbol * 4, 4)
    return jnp.where(symbol < count, found, 0)


def code_lengths(plane: jax.Array, tables: Any, symbols: Any, most: int) -> tuple[jax.Array, jax.Array]:
    """The code lengths of `tables` Huffman tables, uint32 (most, SYMBOLS), and the byte after them."""
    size = (jnp.uint32(symbols) + 1) // 2
    return nibbles(plane, jnp.arange(most, dtype=jnp.uint32) * size, symbols), tables * size


def frequencies(plane: jax.Array, tables: Any, symbols: Any, most: int) -> tuple[jax.Array, jax.Array]:
    """The frequencies of `tables` ANS tables, uint32 (most, SYMBOLS), and the byte after them."""

    def read(first: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
        bits = nibbles(plane, first, symbols)
        low = first + (jnp.uint32(symbols) + 1) // 2
        below = jnp.maximum(bits, 1) - 1
        ends = jnp.cumsum(below)
        found = jnp.where(bits > 0, (jnp.uint32(1) << below) | dense(plane, low, ends - below, below), 0)
        return jnp.where(table < tables, low + (ends[-1] + 7) // 8, first), found

    end, found = lax.scan(read, jnp.uint32(0), jnp.arange(most, dtype=jnp.uint32))
    return found, end


def huffman_table(lengths: jax.Array) -> jax.Array:
    """What the next MAX_LENGTH bits of a stream begin with, uint16: a symbol, and the length of its code << 8."""
    known = (lengths > 0) & (lengths <= MAX_LENGTH)
    order = jnp.argsort(jnp.where(known, lengths, ABSENT), stable=True)
    spans = jnp.where(known, jnp.uint32(1) << (MAX_LENGTH - jnp.minimum(lengths, MAX_LENGTH)), 0)
    # Codes in this order are consecutive, so that each symbol has a run of entries.
    ends = jnp.cumsum(spans[order])
    place = runs(ends, 1 << MAX_LENGTH)
    entries = (order.astype(jnp.uint32) | (lengths[order] << 8)).astype(jnp.uint16)
    return at(entries, place)[BACKWARDS]


def ans_table(frequency: jax.Array, bits: Any, most: int) -> jax.Array:
    """For each of 2^most states, of which 2^bits are used: a symbol, the bits to read << 8, what they add to << 16."""
    size = jnp.uint32(1) << bits
    slot, ends = jnp.arange(1 << most, dtype=jnp.uint32), jnp.cumsum(frequency)
    symbol = runs(ends, 1 << most)  # of a slot, and also of the states in order of their symbols
    state = jnp.where(slot < size, slot * ((size >> 1) + (size >> 3) + 3) & (size - 1), slot)
    order = jnp.argsort(jnp.zeros_like(symbol).at[state].set(symbol), stable=True)
    x = jnp.maximum(at(2 * frequency - ends, symbol) + slot, 1)
    read = bits - (31 - lax.clz(x))
    entry = symbol.astype(jnp.uint32) | ((read & 15) << 8) | (((x << read) - size) << 16)
    return jnp.zeros_like(entry).at[order].set(entry)


def runs(ends: jax.Array, size: int) -> jax.Array:
    """For each of `size` places, the run that it is in, from the places after the last of each run."""
    marks = jnp.zeros(size, jnp.int32).at[ends].add(1, mode="drop", wrap_negative_indices=False)
    return jnp.cumsum(marks)


def windows(streams: jax.Array) -> jax.Array:
    """The 32 bits from every second byte on, so that any 17 bits are in one of them."""
    pairs = lax.bitcast_convert_type(jnp.pad(streams, (0, 2 + streams.size % 2)).reshape(-1, 2), jnp.uint16)
    pairs = pairs.astype(jnp.uint32)
    return pairs[:-1] | (pairs[1:] << 16)


def labels_of(plane: jax.Array, first: Any, tables: Any, units: Any) -> tuple[jax.Array, jax.Array]:
    """The labels of so many units, uint32, and the byte after them; where `units` is traced, of as many as may be."""
    width = 32 - lax.clz(jnp.maximum(jnp.uint32(tables), 1) - 1)
    most = units if isinstance(units, int) else max(8 * plane.size, 1)
    labels = dense(plane, first, jnp.arange(most, dtype=jnp.uint32) * width, width)
    return labels, first + (units * width + 7) // 8


def tables_of(table_of: Callable[[jax.Array], jax.Array], numbers: jax.Array, tables: Any) -> jax.Array:
    """The tables that follow from the first rows of `numbers`; zeros for the others."""
    like = jax.eval_shape(table_of, numbers[0])
    found = jnp.zeros((numbers.shape[0], *like.shape), like.dtype)
    count = jnp.minimum(jnp.uint32(tables), numbers.shape[0])
    return lax.fori_loop(jnp.uint32(0), count, lambda t, found: found.at[t].set(table_of(numbers[t])), found)


def steps_of(coded: Coded, streams: Streams) -> tuple[Any, Any]:
    """`step(state, k)`: the next state of all streams, and their k-th symbols; and the state before the first."""
    words, width, flat = windows(coded.bytes), coded.tables.shape[1], coded.tables.reshape(-1)
    first, odd = coded.starts >> 1, (coded.starts & 1) << 3
    units = streams.units_before(jnp.arange(coded.starts.size, dtype=jnp.uint32))
    whole = isinstance(streams.unit, int) and streams.unit == streams.stream
    label = at(coded.labels, units) * width if coded.labels is not None and whole else jnp.uint32(0)

    def peek(place: jax.Array) -> jax.Array:
        return at(words, first + (place >> 4)) >> (place & 15)

    def entry(k: Any, index: jax.Array) -> jax.Array:
        own = label
        if coded.labels is not None and not whole:
            own = at(coded.labels, units + k // streams.unit) * width
        return at(flat, own + index).astype(jnp.uint32)

    def huffman_step(place: jax.Array, k: Any) -> tuple[jax.Array, jax.Array]:
        found = entry(k, peek(place) & (width - 1))
        return place + (found >> 8), found.astype(jnp.uint8)

    def ans_step(state: tuple[jax.Array, jax.Array], k: Any) -> tuple[Any, jax.Array]:
        place, x = state
        found = entry(k, x)
        read = (found >> 8) & 15
        x = (found >> 16) + (peek(place) & ((jnp.uint32(1) << read) - 1))
        return (place + read, x), found.astype(jnp.uint8)

    if not coded.ans:
        return huffman_step, odd
    return ans_step, (odd + coded.bits, peek(odd) & ((jnp.uint32(1) << coded.bits) - 1))
