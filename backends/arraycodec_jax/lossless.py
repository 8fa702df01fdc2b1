"""`Lossless` in jnp: decoding, the steps of `arraycodec.codecs.lossless` in the same order; encoding is the host's.

How an array is coded is data, the plane `plan`. Where its values are at hand, the compiled program has exactly the
streams, steps and sections that it needs. Where they are traced, one program decodes every plan: its loops end where
the plan says, and every element looks up what it needs; slower, with the same bits. The checks of planes are the
reference's; here bad planes give some array, and nothing outside of an array is read or written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.base import Codec, Given, Planes
from arraycodec.primitives.entropy.plan import ANS, ANS_BITS, Plan
from arraycodec.spec import DTYPES, ArraySpec
from arraycodec_jax.data_dependent import check, encode, enough, from_words, readable, rounded_up, to_words, word_of
from arraycodec_jax.rest import UINTS, chunk_bytes, look_up_rest, sections
from arraycodec_jax.streams import (
    Coded,
    Streams,
    all_steps,
    ans_table,
    at,
    code_lengths,
    frequencies,
    huffman_table,
    labels_of,
    looped_steps,
    of_streams,
    starts_of,
    steps_of,
    tables_of,
)

MAX_TABLES = 256

__all__ = ["check", "decode", "encode", "prepared"]


class Known(NamedTuple):
    """What the shapes and steps of a decoder follow from, where the plan is at hand."""

    plan: Plan  # without offset and sizes; of `tables` the next power of two, so that few programs are compiled
    patches: bool  # whether there may be any


class Places(NamedTuple):
    """For every element of the flattened array: its band, its stream, and its place in that."""

    band: jax.Array
    stream: jax.Array
    place: jax.Array

    @classmethod
    def of(cls, streams: Streams, size: int) -> Places:
        element = jnp.arange(size, dtype=jnp.uint32)
        row, column = element // streams.columns, element % streams.columns
        band = row // streams.stream
        return cls(band, band * streams.columns + column, row % streams.stream)


def prepared(codec: Codec, planes: Planes, spec: ArraySpec, given: Given) -> tuple[Planes, Known | None]:
    """Where the plan is at hand: the planes with zeros after them, so that arrays of much the same lengths share a
    compiled program, and what is known of the plan."""
    plane, bits = planes["plan"], DTYPES[spec.dtype].bits
    if not readable(plane) or bits not in UINTS:
        return planes, None
    plan = Plan.of(jax.device_get(plane), bits, spec.size)
    coded = plan.number_of_streams(spec.size) if plan.coder else 0
    # Look-up tables of Huffman codes are as large as the largest, and alphabets have room for 256 symbols.
    known = plan._replace(
        offset=0, symbols=0, palette=0, bits=plan.bits if plan.coder == ANS else 0,
        tables=1 << max(plan.tables - 1, 0).bit_length(),
    )  # fmt: skip
    padded = {name: plane if name == "plan" else rounded_up(plane) for name, plane in planes.items()}
    return padded, Known(known, planes["index"].size > coded)


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, known: Known | None = None) -> jax.Array:
    """The array of these planes."""
    word = word_of(codec, spec)
    if not spec.size:
        return jnp.zeros(spec.known_shape, spec.numpy_dtype)
    plan = plan_of(planes["plan"], known)
    streams = streams_of(plan, spec.size)
    own = to_words(planes["words"], word)
    most_tables = known.plan.tables if known else max(min(planes["tables"].size, MAX_TABLES), 1)
    values = known_values if known else traced_values
    u, symbols = values(plan, streams, planes, spec.size, word, most_tables)
    w = words_of(u + jnp.asarray(plan.offset).astype(word), plan, own)
    if known is None or known.plan.lone:
        w = jnp.where((symbols == plan.symbols - 1) & (jnp.uint32(plan.lone) > 0), at(own, jnp.uint32(0)), w)
    if known is None or known.patches:
        coded = jnp.where(jnp.uint32(plan.coder) > 0, jnp.uint32(streams.number), 0)
        w = patched(w, planes["index"], coded, own, plan.palette)
    return from_words(w, spec)


def plan_of(plane: jax.Array, known: Known | None) -> Plan:
    """The plan: Python integers as far as it is known, else traced."""
    words: Any = [plane[i] for i in (0, 1, 2, 3, *range(5, 15))]
    traced = Plan(*words)
    if known is None:
        return traced
    own = {name: getattr(traced, name) for name in ("offset", "tables", "symbols", "palette")}
    return known.plan._replace(**own)


def streams_of(plan: Plan, size: int) -> Streams:
    """The geometry of an array of so many elements."""
    columns = max(plan.columns, 1) if isinstance(plan.columns, int) else jnp.maximum(plan.columns, 1)
    return Streams(columns, size // columns, plan.stream, plan.unit)


def known_values(
    plan: Plan, streams: Streams, planes: Planes, size: int, word: Any, most_tables: int
) -> tuple[jax.Array, jax.Array | None]:
    """Symbols and rest of all elements as one, and symbols: the steps of all streams, then streams of one length."""
    ys, zeros_first, stream, byte = None, jnp.uint32(0), 0, 0
    if plan.coder:
        coded, zeros_first = coded_of(plan, streams, planes, plan.coder == ANS, streams.number, most_tables)
        ys = all_steps(*steps_of(coded, streams), min(streams.stream, streams.rows), 8)
    u, symbols = jnp.zeros(size, word), jnp.zeros(size, jnp.uint8) if plan.lone else None
    for bands, height in ((streams.full, streams.stream), (1, streams.tail)):
        count, shape = bands * streams.columns, (bands, streams.columns, height)
        if not count * height:
            continue
        own, first = jnp.zeros(shape, word), stream // streams.columns * streams.stream * streams.columns
        if ys is not None:
            found = of_streams(ys[:, stream : stream + count], height, np.uint8).reshape(shape)
            if symbols is not None:
                symbols = lax.dynamic_update_slice(symbols, in_rows(found), (first,))
            if plan.rest < np.iinfo(word).bits:
                own += found.astype(word) << plan.rest
        if plan.rest and not plan.zeros:
            end = byte + count * chunk_bytes(height, plan.rest)
            own += sections(enough(planes["raw"], end)[byte:end].reshape(*shape[:2], -1), height, plan.rest, word)
            byte = end
        u = lax.dynamic_update_slice(u, in_rows(own), (first,))  # XLA's concatenation takes a hundred times as long
        stream += count
    if plan.rest and plan.zeros:
        u += rest_of(plan, streams, planes, Places.of(streams, size), zeros_first, streams.number).astype(word)
    return u, symbols


def in_rows(x: jax.Array) -> jax.Array:
    """Elements in the order of the array, from bands, columns and rows."""
    return x.reshape(-1) if x.shape[1] == 1 else x.transpose(0, 2, 1).reshape(-1)


def traced_values(
    plan: Plan, streams: Streams, planes: Planes, size: int, word: Any, most_tables: int
) -> tuple[jax.Array, jax.Array]:
    """Symbols and rest of all elements as one, and symbols, for every plan."""
    places = Places.of(streams, size)
    most = max(min(planes["index"].size, size), 1)

    def nothing() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(size, jnp.uint8), jnp.uint32(0)

    def coded_symbols(ans: bool) -> tuple[jax.Array, jax.Array]:
        coded, zeros_first = coded_of(plan, streams, planes, ans, most, most_tables)
        steps = jnp.minimum(streams.stream, streams.rows)
        buffer = looped_steps(*steps_of(coded, streams), steps, streams.number, most, size, np.uint8)
        return at(buffer, places.place * streams.number + places.stream), zeros_first

    branches = [nothing, lambda: coded_symbols(False), lambda: coded_symbols(True)]
    symbols, zeros_first = lax.switch(plan.coder, branches)
    most_zeros = max(min(planes["tables"].size, size), 1)
    rest = rest_of(plan, streams, planes, places, zeros_first, most_zeros)
    return (shifted(symbols, plan.rest) + rest).astype(word), symbols


def coded_of(
    plan: Plan, streams: Streams, planes: Planes, ans: bool, most: int, most_tables: int
) -> tuple[Coded, jax.Array]:
    """At most `most` coded streams with their tables, and the byte after these and the labels."""
    plane = planes["tables"]
    if ans:
        numbers, first = frequencies(plane, plan.tables, plan.symbols, most_tables)
        bits = plan.bits if isinstance(plan.bits, int) else ANS_BITS[-1]
        tables = tables_of(lambda frequency: ans_table(frequency, plan.bits, bits), numbers, plan.tables)
    else:
        numbers, first = code_lengths(plane, plan.tables, plan.symbols, most_tables)
        tables = tables_of(huffman_table, numbers, plan.tables)
    labels, first = labels_of(plane, first, plan.tables, streams.units) if most_tables > 1 else (None, first)
    starts = starts_of(planes["index"], streams.number, most)
    return Coded(ans, plan.bits, tables, labels, planes["streams"], starts), first


def rest_of(
    plan: Plan, streams: Streams, planes: Planes, places: Places, zeros_first: jax.Array, most: int
) -> jax.Array:
    """The rest of all elements with what was dropped of it, uint32: each looks up its own in its stream's chunk."""
    length = streams.length(places.band)
    first = places.band * streams.columns * chunk_bytes(streams.stream, plan.rest)
    first += places.stream % streams.columns * chunk_bytes(length, plan.rest)
    # Where streams drop different numbers of bits, at most `most` streams: as many as there are bytes that say so.
    stream = jnp.arange(most, dtype=jnp.uint32)
    dropped = jnp.where(jnp.uint32(plan.zeros) > 0, at(planes["tables"], zeros_first + stream), 0).astype(jnp.uint32)
    dropped = jnp.minimum(dropped, jnp.uint32(plan.rest))
    sizes = chunk_bytes(streams.length(stream // streams.columns), plan.rest - dropped)
    starts = jnp.cumsum(sizes, dtype=jnp.uint32) - sizes
    first = jnp.where(jnp.uint32(plan.zeros) > 0, at(starts, places.stream), first)
    zeros = at(dropped, places.stream)
    return shifted(look_up_rest(planes["raw"], first, length, places.place, plan.rest - zeros), zeros)


def words_of(u: jax.Array, plan: Plan, palette: jax.Array) -> jax.Array:
    """Words from the arrangement that was coded."""
    n, one = 8 * u.dtype.itemsize, u.dtype.type(1)
    sign = jnp.asarray(plan.sign).astype(u.dtype) & (n - 1)
    arrangements = [
        lambda: u,
        lambda: u ^ (one << (n - 1)),
        lambda: (u >> sign >> 1 << sign) | (u & ((one << sign) - one)) | ((u >> sign) << (n - 1)),
        lambda: at(palette, u.astype(jnp.uint32)),
    ]
    how = plan.arrangement
    return arrangements[how]() if isinstance(how, int) else lax.switch(how, arrangements)


def patched(w: jax.Array, index: jax.Array, coded: jax.Array, own: jax.Array, palette: Any) -> jax.Array:
    """Words with the patches in place, whose gaps follow the lengths of coded streams in the index."""
    is_gap = jnp.arange(index.size, dtype=jnp.uint32) >= coded
    gaps = jnp.where(is_gap, index, 0).astype(jnp.uint32)
    position = jnp.cumsum(jnp.where(is_gap & (gaps == 0), 65535, gaps), dtype=jnp.uint32) - 1
    rank = jnp.cumsum(gaps > 0, dtype=jnp.uint32) - 1
    position = jnp.where(gaps > 0, position, jnp.uint32(0xFFFFFFFF))
    return w.at[position].set(at(own, palette + rank), mode="drop", wrap_negative_indices=False)


def shifted(x: jax.Array, by: Any) -> jax.Array:
    """x << by as uint32; 0 for 32."""
    by = jnp.uint32(by)
    return jnp.where(by < 32, x.astype(jnp.uint32) << (by & 31), 0)
