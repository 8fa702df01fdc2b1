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
from jax.core import Tracer

from arraycodec.base import Codec, Given, Planes
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import DTYPES, ArraySpec
from arraycodec_jax.rest import UINTS, chunk_bytes, look_up_rest, sections
from arraycodec_jax.streams import (
    Coded,
    Streams,
    ans_table,
    at,
    code_lengths,
    frequencies,
    huffman_table,
    labels_of,
    steps_of,
    tables_of,
)

NONE, HUFFMAN, ANS = range(3)  # coders
PLAIN, SIGNED, EMS, ESM, PALETTE = range(5)  # arrangements
MAX_TABLES, MAX_ANS_BITS = 256, 14
MAX_ELEMENTS = 1 << 30  # places in a buffer of symbols, of twice that size, must fit 31 bits
UNROLL = 4


class Known(NamedTuple):
    """What the shapes and steps of a decoder follow from, of the plane `plan`."""

    coder: int
    arrangement: int
    rest: int
    stream: int
    unit: int
    columns: int
    bits: int
    zeros: int
    most_tables: int  # a power of two
    patches: bool  # whether there may be any


class Plan(NamedTuple):
    """The plane `plan`: Python integers as far as they are known, else traced."""

    coder: Any
    arrangement: Any
    rest: Any
    offset: Any
    stream: Any
    unit: Any
    columns: Any
    bits: Any
    tables: Any
    symbols: Any
    palette: Any
    zeros: Any

    def streams(self, size: int) -> Streams:
        """The geometry of an array of so many elements."""
        columns = max(self.columns, 1) if isinstance(self.columns, int) else jnp.maximum(self.columns, 1)
        return Streams(columns, size // columns, self.stream, self.unit)


class Places(NamedTuple):
    """For every element of the flattened array: its band, its stream, and its place in that."""

    band: jax.Array
    index: jax.Array
    place: jax.Array

    @classmethod
    def of(cls, streams: Streams, size: int) -> Places:
        element = jnp.arange(size, dtype=jnp.uint32)
        row, column = element // streams.columns, element % streams.columns
        band = row // streams.stream
        return cls(band, band * streams.columns + column, row % streams.stream)


def check(codec: Codec, given: Given) -> None:
    """Raise UnsupportedByBackend: the encoder runs on the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the encoder runs on the host, on unsharded CPU arrays outside of jit, since the lengths of the "
        "planes depend on the data"
    )


def encode(x: jax.Array, codec: Codec, given: Given) -> Planes:
    """Nothing: `check` comes before, and refuses."""
    return {}


def prepared(planes: Planes, spec: ArraySpec) -> tuple[Planes, Known | None]:
    """Where the plan is at hand: the planes with zeros after them, so that arrays of much the same lengths share a
    compiled program, and what is known of the plan."""
    plane = planes["plan"]
    if isinstance(plane, Tracer) or not plane.is_fully_replicated or not spec.size:
        return planes, None
    plan = plan_of([int(word) for word in np.asarray(plane)])
    coded = plan.streams(spec.size).count if plan.coder else 0
    known = Known(
        plan.coder, plan.arrangement, plan.rest, plan.stream, plan.unit, plan.columns,
        plan.bits if plan.coder == ANS else 0, plan.zeros,
        1 << max(plan.tables - 1, 0).bit_length(), planes["index"].size > coded,
    )  # fmt: skip
    return {name: plane if name == "plan" else rounded_up(plane) for name, plane in planes.items()}, known


def rounded_up(plane: jax.Array) -> jax.Array:
    """A plane with zeros after it, such that its length has four leading bits at most."""
    return jnp.pad(plane, (0, -plane.size % (1 << max(plane.size.bit_length() - 4, 5))))


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, known: Known | None = None) -> jax.Array:
    """The array of these planes."""
    bits = DTYPES[spec.dtype].bits
    if bits not in UINTS or spec.size > MAX_ELEMENTS:
        raise UnsupportedByBackend(
            f"{codec.name}: the jax backend decodes at most 2^30 words of 8, 16 or 32 bits, got {spec.dtype}"
            f"{list(spec.known_shape)}; outside of jit, on unsharded CPU arrays, it decodes all"
        )
    if not spec.size:
        return jnp.zeros(spec.known_shape, spec.numpy_dtype)
    word, plan = UINTS[bits], plan_of(planes["plan"])
    own = to_words(planes["words"], word)
    if known is not None:
        plan = plan._replace(**{name: value for name, value in known._asdict().items() if name in plan._fields})
    streams = plan.streams(spec.size)
    u = known_values(plan, streams, planes, spec, known) if known else traced_values(plan, streams, planes, spec)
    w = rearranged(u.astype(word) + plan.offset.astype(word), plan.arrangement, own, mantissa_bits(spec))
    if known is None or known.patches:
        coded = jnp.where(jnp.uint32(plan.coder) > 0, jnp.uint32(streams.count), 0)
        w = patched(w, planes["index"], coded, own, plan.palette)
    return from_words(w, spec)


def plan_of(plane: Any) -> Plan:
    """The scalars in the plane, traced or Python integers; what an offset of 64 bits has beyond 32 is left."""
    return Plan(*(plane[i] for i in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12)))


def known_values(plan: Plan, streams: Streams, planes: Planes, spec: ArraySpec, known: Known) -> jax.Array:
    """Symbols and rest of all elements as one word: the steps of all streams at once, then the streams of each length."""
    word, symbols, zeros_first = UINTS[DTYPES[spec.dtype].bits], None, jnp.uint32(0)
    if plan.coder:
        coded, zeros_first = coded_of(plan, streams, planes, plan.coder == ANS, streams.count, known.most_tables)
        step, state = steps_of(coded, streams)
        count = jnp.arange(min(streams.stream, streams.rows), dtype=jnp.uint32)
        symbols = lax.scan(step, state, count, unroll=UNROLL)[1]
    found, stream, byte = [], 0, 0
    for bands, height in ((streams.full, streams.stream), (1, streams.tail)):
        shape, count = (bands, height, streams.columns), bands * streams.columns
        if not count * height:
            continue
        u = jnp.zeros(shape, word)
        if symbols is not None and plan.rest < DTYPES[spec.dtype].bits:
            own = symbols[:height, stream : stream + count].reshape(height, bands, streams.columns)
            u += own.transpose(1, 0, 2).astype(word) << plan.rest
        if plan.rest and not plan.zeros:
            size = chunk_bytes(height, plan.rest)
            chunks = enough(planes["raw"], byte + count * size)[byte : byte + count * size]
            chunks = chunks.reshape(bands, streams.columns, size)
            u += sections(chunks, height, plan.rest, word).transpose(0, 2, 1)
            byte += count * size
        found.append(u.reshape(-1))
        stream += count
    u = jnp.concatenate(found)
    if plan.rest and plan.zeros:
        u += rest_of(plan, streams, planes, Places.of(streams, spec.size), zeros_first, streams.count).astype(word)
    return u


def traced_values(plan: Plan, streams: Streams, planes: Planes, spec: ArraySpec) -> jax.Array:
    """Symbols and rest of all elements as one word, for every plan."""
    size, places = spec.size, Places.of(streams, spec.size)
    most = max(min(planes["index"].size, size), 1)
    most_tables = max(min(planes["tables"].size, MAX_TABLES), 1)

    def nothing() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros(size, jnp.uint8), jnp.uint32(0)

    def symbols(ans: bool) -> tuple[jax.Array, jax.Array]:
        coded, zeros_first = coded_of(plan, streams, planes, ans, most, most_tables)
        step, state = steps_of(coded, streams)

        def body(k: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, found = step(carry[0], k)
            # What lanes that are no streams write, the next step overwrites.
            return state, lax.dynamic_update_slice(carry[1], found, (k * streams.count,))

        steps = jnp.minimum(streams.stream, streams.rows)
        buffer = lax.fori_loop(jnp.uint32(0), steps, body, (state, jnp.zeros(2 * size + most, jnp.uint8)))[1]
        return at(buffer, places.place * streams.count + places.index), zeros_first

    found, zeros_first = lax.switch(plan.coder, [nothing, lambda: symbols(False), lambda: symbols(True)])
    most_zeros = max(min(planes["tables"].size, size), 1)
    return shifted(found, plan.rest) + rest_of(plan, streams, planes, places, zeros_first, most_zeros)


def coded_of(
    plan: Plan, streams: Streams, planes: Planes, ans: bool, most: int, most_tables: int
) -> tuple[Coded, jax.Array]:
    """At most `most` coded streams with their tables, and the byte after these and the labels."""
    plane = planes["tables"]
    if ans:
        numbers, first = frequencies(plane, plan.tables, plan.symbols, most_tables)
        bits = plan.bits if isinstance(plan.bits, int) else MAX_ANS_BITS
        tables = tables_of(lambda frequency: ans_table(frequency, plan.bits, bits), numbers, plan.tables)
    else:
        numbers, first = code_lengths(plane, plan.tables, plan.symbols, most_tables)
        tables = tables_of(huffman_table, numbers, plan.tables)
    labels, first = labels_of(plane, first, plan.tables, streams.units) if most_tables > 1 else (None, first)
    lane = jnp.arange(most, dtype=jnp.uint32)
    lengths = jnp.where(lane < streams.count, at(planes["index"], lane), 0).astype(jnp.uint32)
    return Coded(ans, plan.bits, tables, labels, planes["streams"], jnp.cumsum(lengths) - lengths), first


def rest_of(
    plan: Plan, streams: Streams, planes: Planes, places: Places, zeros_first: jax.Array, most: int
) -> jax.Array:
    """The rest of all elements with what was dropped of it, uint32: each looks up its own in the chunk of its stream."""
    length = streams.length(places.band)
    columns_before = places.index % streams.columns
    first = places.band * streams.columns * chunk_bytes(streams.stream, plan.rest)
    first += columns_before * chunk_bytes(length, plan.rest)
    # Where streams drop different numbers of bits, at most `most` streams: as many as there are bytes that say so.
    stream = jnp.arange(most, dtype=jnp.uint32)
    dropped = jnp.where(jnp.uint32(plan.zeros) > 0, at(planes["tables"], zeros_first + stream), 0).astype(jnp.uint32)
    dropped = jnp.minimum(dropped, jnp.uint32(plan.rest))
    sizes = chunk_bytes(streams.length(stream // streams.columns), plan.rest - dropped)
    starts = jnp.cumsum(sizes, dtype=jnp.uint32) - sizes
    first = jnp.where(jnp.uint32(plan.zeros) > 0, at(starts, places.index), first)
    zeros = at(dropped, places.index)
    return shifted(look_up_rest(planes["raw"], first, length, places.place, plan.rest - zeros), zeros)


def rearranged(u: jax.Array, arrangement: Any, palette: jax.Array, mantissa: int) -> jax.Array:
    """Words from the arrangement that was coded."""
    n = u.dtype.itemsize * 8
    arrangements = [
        lambda: u,
        lambda: u ^ u.dtype.type(1 << (n - 1)),
        lambda: (u >> 1) | (u << (n - 1)),
        lambda: (((u >> mantissa) & 1) << (n - 1)) | (u >> (mantissa + 1) << mantissa) | (u & ((1 << mantissa) - 1)),
        lambda: at(palette, u.astype(jnp.uint32)),
    ]
    return arrangements[arrangement]() if isinstance(arrangement, int) else lax.switch(arrangement, arrangements)


def patched(w: jax.Array, index: jax.Array, coded: jax.Array, own: jax.Array, palette: Any) -> jax.Array:
    """Words with the patches in place, whose gaps follow the lengths of coded streams in the index."""
    gaps = jnp.where(jnp.arange(index.size, dtype=jnp.uint32) >= coded, index, 0).astype(jnp.uint32)
    is_gap = jnp.arange(index.size, dtype=jnp.uint32) >= coded
    position = jnp.cumsum(jnp.where(is_gap & (gaps == 0), 65535, gaps), dtype=jnp.uint32) - 1
    rank = jnp.cumsum(gaps > 0, dtype=jnp.uint32) - 1
    position = jnp.where(gaps > 0, position, jnp.uint32(0xFFFFFFFF))
    return w.at[position].set(at(own, palette + rank), mode="drop", wrap_negative_indices=False)


def shifted(x: jax.Array, by: Any) -> jax.Array:
    """x << by as uint32; 0 for 32."""
    by = jnp.uint32(by)
    return jnp.where(by < 32, x.astype(jnp.uint32) << (by & 31), 0)


def enough(plane: jax.Array, size: int) -> jax.Array:
    """A plane of at least so many bytes: zeros follow one that is too short."""
    return jnp.pad(plane, (0, max(size - plane.size, 0)))


def to_words(x: jax.Array, word: Any) -> jax.Array:
    """The bits of an array as unsigned integers."""
    return x.astype(word) if x.dtype == bool else lax.bitcast_convert_type(x, word)


def from_words(words: jax.Array, spec: ArraySpec) -> jax.Array:
    """The inverse of `to_words`, in the array's shape."""
    if spec.dtype == "bool":
        return (words != 0).reshape(spec.known_shape)
    return lax.bitcast_convert_type(words, spec.numpy_dtype).reshape(spec.known_shape)


def mantissa_bits(spec: ArraySpec) -> int:
    """The bits of a float's mantissa; 0 for other dtypes."""
    return jnp.finfo(spec.numpy_dtype).nmant if jnp.issubdtype(spec.numpy_dtype, jnp.floating) else 0
