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

Step = Callable[[Any, Any], tuple[Any, jax.Array]]
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


class Reader(NamedTuple):
    """Streams of bits side by side: places are those of bits, counted from the second byte that each begins in."""

    words: jax.Array  # uint32: the 32 bits from every second byte on, so that any 17 bits are in one of them
    first: jax.Array  # uint32: the word in which each stream begins

    @classmethod
    def of(cls, plane: jax.Array, starts: jax.Array) -> tuple[Reader, jax.Array]:
        """A reader of streams that begin at these bytes, and the places of their first bits."""
        pairs = lax.bitcast_convert_type(jnp.pad(plane, (0, 2 + plane.size % 2)).reshape(-1, 2), jnp.uint16)
        pairs = pairs.astype(jnp.uint32)
        return cls(pairs[:-1] | (pairs[1:] << 16), starts >> 1), (starts & 1) << 3

    def peek(self, place: jax.Array) -> jax.Array:
        """At least 17 bits of each stream, from these places on."""
        return at(self.words, self.first + (place >> 4)) >> (place & 15)

    def take(self, place: jax.Array, bits: Any) -> jax.Array:
        """So many bits of each stream, at most 16."""
        return self.peek(place) & ((jnp.uint32(1) << bits) - 1)


def starts_of(index: jax.Array, number: Any, most: int) -> jax.Array:
    """The first byte of each of at most `most` streams, uint32, from their bytes in the index."""
    lane = jnp.arange(most, dtype=jnp.uint32)
    lengths = jnp.where(lane < number, at(index, lane), 0).astype(jnp.uint32)
    return jnp.cumsum(lengths) - lengths


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


def labels_of(plane: jax.Array, first: Any, labels: Any, units: Any) -> tuple[jax.Array, jax.Array]:
    """A number below `labels` for each unit, uint32, and the byte after them; for as many units as there may be where
    their number is traced."""
    width = 32 - lax.clz(jnp.maximum(jnp.uint32(labels), 1) - 1)
    most = units if isinstance(units, int) else max(8 * plane.size, 1)
    found = dense(plane, first, jnp.arange(most, dtype=jnp.uint32) * width, width)
    return found, first + (units * width + 7) // 8


def tables_of(table_of: Callable[[jax.Array], jax.Array], numbers: jax.Array, tables: Any) -> jax.Array:
    """The tables that follow from the first rows of `numbers`; zeros for the others."""
    like = jax.eval_shape(table_of, numbers[0])
    found = jnp.zeros((numbers.shape[0], *like.shape), like.dtype)
    count = jnp.minimum(jnp.uint32(tables), numbers.shape[0])
    return lax.fori_loop(jnp.uint32(0), count, lambda t, found: found.at[t].set(table_of(numbers[t])), found)


def steps_of(coded: Coded, streams: Streams) -> tuple[Step, Any]:
    """`step(state, k)`: the next state of all streams, and their k-th symbols; and the state before the first."""
    width, flat = coded.tables.shape[1], coded.tables.reshape(-1)
    reader, start = Reader.of(coded.bytes, coded.starts)
    units = streams.units_before(jnp.arange(coded.starts.size, dtype=jnp.uint32))
    whole = isinstance(streams.unit, int) and streams.unit == streams.stream
    label = at(coded.labels, units) * width if coded.labels is not None and whole else jnp.uint32(0)

    def entry(k: Any, index: jax.Array) -> jax.Array:
        own = label
        if coded.labels is not None and not whole:
            own = at(coded.labels, units + k // streams.unit) * width
        return at(flat, own + index).astype(jnp.uint32)

    def huffman_step(place: jax.Array, k: Any) -> tuple[jax.Array, jax.Array]:
        found = entry(k, reader.peek(place) & (width - 1))
        return place + (found >> 8), found & 0xFF

    def ans_step(state: tuple[jax.Array, jax.Array], k: Any) -> tuple[Any, jax.Array]:
        place, x = state
        found = entry(k, x)
        read = (found >> 8) & 15
        return (place + read, (found >> 16) + reader.take(place, read)), found & 0xFF

    if not coded.ans:
        return huffman_step, start
    return ans_step, (start + coded.bits, reader.take(start, coded.bits))


def all_steps(step: Step, start: Any, steps: int, bits: int) -> jax.Array:
    """So many steps; what they find, uint32 (., streams): integers of so many bits, the first the lowest of a word."""
    together = 32 // bits

    def word_of(state: Any, k: jax.Array) -> tuple[Any, jax.Array]:
        word = jnp.uint32(0)
        for i in range(together):
            state, found = step(state, k + i)
            word |= found << bits * i
        return state, word

    return lax.scan(word_of, start, jnp.arange(0, steps, together, dtype=jnp.uint32))[1]


def of_streams(words: jax.Array, steps: int, dtype: Any) -> jax.Array:
    """What `all_steps` found as an array (streams, steps) of a dtype of so many bits."""
    turned = lax.optimization_barrier(words[: -(-steps * np.dtype(dtype).itemsize // 4)].T)  # alone it is fast
    return lax.bitcast_convert_type(turned, dtype).reshape(words.shape[1], -1)[:, :steps]


def looped_steps(step: Step, start: Any, steps: Any, number: Any, most: int, size: int, dtype: Any) -> jax.Array:
    """A traced number of steps of a traced number of streams: `number` integers for each step."""

    def body(k: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        state, found = step(carry[0], k)
        # What lanes that are no streams write, the next step overwrites.
        return state, lax.dynamic_update_slice(carry[1], found.astype(dtype), (k * number,))

    return lax.fori_loop(jnp.uint32(0), steps, body, (start, jnp.zeros(2 * size + most, dtype)))[1]
