"""`Delta` in jnp: decoding, the steps of `arraycodec.codecs.delta` in the same order; encoding is the host's.

As in `lossless`, the plan may be at hand or traced. The hash of the base is compared where the base lies in this
process on a CPU; in a trace and on other devices the base is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.base import Given, Planes
from arraycodec.codecs.delta import Delta
from arraycodec.primitives.entropy.difference_plan import (
    CODED,
    CURVE,
    MAX_CURVES,
    MAX_TABLES,
    DifferencePlan,
)
from arraycodec.primitives.entropy.differences import kind_of
from arraycodec.primitives.entropy.plan import ANS_BITS
from arraycodec.spec import ArraySpec
from arraycodec_jax.data_dependent import (
    check,
    check_base,
    encode,
    enough,
    from_words,
    readable,
    rounded_up,
    to_words,
    word_of,
)
from arraycodec_jax.streams import (
    Reader,
    Step,
    all_steps,
    ans_table,
    at,
    frequencies,
    labels_of,
    looped_steps,
    of_streams,
    starts_of,
    tables_of,
)

__all__ = ["check", "decode", "encode", "prepared"]


class Model(NamedTuple):
    """The plane `tables`, and how many there may be of what."""

    tables: jax.Array  # uint32 (T, 2^bits)
    curves: jax.Array  # uint32 (C + 1, 256): curve 0 is flat
    curve_of: jax.Array  # uint32: of labels
    table_of: jax.Array  # uint32: of the buckets of each label
    labels: jax.Array  # uint32: of units


def prepared(codec: Delta, planes: Planes, spec: ArraySpec, given: Given) -> tuple[Planes, DifferencePlan | None]:
    """Where the plan is at hand: the planes with zeros after them; and what shapes and steps follow from, which is the
    plan without offset and sizes, and with the next powers of two of tables and curves."""
    check_base(codec, planes, spec, given)
    if not readable(planes["plan"]):
        return planes, None
    plan = DifferencePlan.of(jax.device_get(planes["plan"]), spec)
    known = plan._replace(
        symbols=0, first=0, buckets=0, labels=0, tables=1 << max(plan.tables - 1, 0).bit_length(),
        curves=plan.curves and 1 << (plan.curves - 1).bit_length(),
    )  # fmt: skip
    exact = ("hash", "plan") if plan.coder == CODED else tuple(planes)
    return {name: p if name in exact else rounded_up(p) for name, p in planes.items()}, known


def decode(
    codec: Delta, planes: Planes, spec: ArraySpec, given: Given, known: DifferencePlan | None = None
) -> jax.Array:
    """The array of these planes."""
    word = word_of(codec, spec)
    if not spec.size:
        return jnp.zeros(spec.known_shape, spec.numpy_dtype)
    plan = plan_of(planes["plan"], known)
    base = to_words(jnp.asarray(given["base"]), word).reshape(-1)
    coders = [
        lambda: raw_words(planes["streams"], spec.size, word),
        lambda: base,
        lambda: coded_words(plan, planes, spec, base, known),
    ]
    return from_words(coders[known.coder]() if known else lax.switch(plan.coder, coders), spec)


def plan_of(plane: jax.Array, known: DifferencePlan | None) -> DifferencePlan:
    """The plan: Python integers as far as it is known, else traced."""
    words: Any = [plane[i] for i in range(15)]
    traced = DifferencePlan(*words)
    if known is None:
        return traced
    own = {name: getattr(traced, name) for name in ("tables", "symbols", "first", "buckets", "labels", "curves")}
    return known._replace(**own)


def raw_words(plane: jax.Array, size: int, word: Any) -> jax.Array:
    """The words of an array that is stored raw."""
    nbytes = size * np.dtype(word).itemsize
    plane = enough(plane, nbytes)[:nbytes]
    return lax.bitcast_convert_type(plane.reshape(size, -1), word).reshape(size)


def coded_words(
    plan: DifferencePlan, planes: Planes, spec: ArraySpec, base: jax.Array, known: DifferencePlan | None
) -> jax.Array:
    """The words of an array that is coded."""
    kind, size = kind_of(spec.dtype), spec.size
    model = model_of(plan, planes["tables"], (size + plan.unit - 1) // plan.unit, known)
    a, unit = base.astype(jnp.uint32), jnp.arange(size, dtype=jnp.uint32) // plan.unit
    m, label = a & ~kind.sign, at(model.labels, unit)
    v = m ^ kind.flip
    above = v >> plan.shift
    bucket = jnp.minimum(jnp.where(above > plan.first, above - plan.first, 0), plan.buckets - 1)
    table = at(model.table_of, label * plan.buckets + bucket).astype(jnp.uint8)
    z = (known_differences if known else traced_differences)(plan, planes, model, table, base.dtype)
    if known is None or known.scaled:
        m = jnp.where(jnp.uint32(plan.scaled) > 0, scaled(m, at(planes["scales"], unit)), m)
    if known is None or known.curves:
        curve = at(model.curve_of, label) * CURVE + ((v >> plan.curve_shift) & (CURVE - 1))
        m = m + at(model.curves.reshape(-1), curve)
    w = m + ((z >> 1) ^ (jnp.uint32(0) - (z & 1)))
    w = jnp.where((w & kind.sign) != 0, w ^ (kind.sign - np.uint32(kind.sign > 0)), w) ^ (a & kind.sign)
    return w.astype(base.dtype)


def known_differences(
    plan: DifferencePlan, planes: Planes, model: Model, table: jax.Array, word: np.dtype[Any]
) -> jax.Array:
    """z of all elements, uint32, whose tables are these."""
    size, steps = table.size, min(plan.stream, table.size)
    number = -(-size // steps)
    tables = jnp.pad(table, (0, number * steps - size)).reshape(number, steps)
    tables = jnp.pad(lax.optimization_barrier(tables.T), ((0, 3), (0, 0)))  # of steps that fill up a last word

    def table_at(k: jax.Array) -> jax.Array:
        return lax.dynamic_index_in_dim(tables, k, keepdims=False)

    step = difference_steps(plan, planes, model, number, number, table_at)
    words = all_steps(*step, steps, 8 * word.itemsize)
    return of_streams(words, steps, word).reshape(-1)[:size].astype(jnp.uint32)


def traced_differences(
    plan: DifferencePlan, planes: Planes, model: Model, table: jax.Array, word: np.dtype[Any]
) -> jax.Array:
    """The same for every plan."""
    size = table.size
    most = max(min(planes["index"].size, size), 1)
    number, first = (size + plan.stream - 1) // plan.stream, jnp.arange(most, dtype=jnp.uint32) * plan.stream
    step = difference_steps(plan, planes, model, number, most, lambda k: at(table, first + k))
    buffer = looped_steps(*step, jnp.minimum(plan.stream, size), number, most, size, word)
    element = jnp.arange(size, dtype=jnp.uint32)
    return at(buffer, element % plan.stream * number + element // plan.stream).astype(jnp.uint32)


def model_of(plan: DifferencePlan, plane: jax.Array, units: Any, known: DifferencePlan | None) -> Model:
    """The plane `tables`."""
    most_tables = known.tables if known else MAX_TABLES
    most_curves = known.curves if known else MAX_CURVES
    numbers, first = frequencies(plane, plan.tables, plan.symbols, most_tables)
    bits = plan.bits if isinstance(plan.bits, int) else ANS_BITS[-1]
    tables = tables_of(lambda frequency: ans_table(frequency, plan.bits, bits), numbers, plan.tables)
    entry = first + 4 * jnp.arange(most_curves * CURVE, dtype=jnp.uint32)
    curves = sum((at(plane, entry + k).astype(jnp.uint32) << 8 * k for k in range(4)), jnp.uint32(0))
    curves = jnp.pad(curves.reshape(most_curves, CURVE), ((1, 0), (0, 0)))
    first += plan.curves * (4 * CURVE)
    curve_of = jnp.where(plan.curves > 0, at(plane, first + jnp.arange(256, dtype=jnp.uint32)), 0)
    first += jnp.where(plan.curves > 0, plan.labels, 0)
    buckets = plan.labels * plan.buckets
    table_of, _ = labels_of(plane, first, plan.tables, min(1 << 16, 8 * plane.size))
    table_of = jnp.where(plan.tables > 1, table_of, 0)
    first += (buckets * (32 - lax.clz(jnp.maximum(plan.tables, 1) - 1)) + 7) // 8
    labels, _ = labels_of(plane, first, plan.labels, units)
    return Model(tables, curves, curve_of.astype(jnp.uint32), table_of, labels)


def difference_steps(
    plan: DifferencePlan,
    planes: Planes,
    model: Model,
    number: Any,
    most: int,
    table_at: Callable[[Any], jax.Array],
) -> tuple[Step, Any]:
    """`step(state, k)`: the next state of all streams, and their k-th differences; and the state before the first."""
    reader, start = Reader.of(planes["streams"], starts_of(planes["index"], number, most))
    flat, width = model.tables.reshape(-1), model.tables.shape[1]
    direct, leading = jnp.uint32(plan.direct), jnp.uint32(plan.leading)

    def step(state: tuple[jax.Array, jax.Array], k: Any) -> tuple[Any, jax.Array]:
        place, x = state
        entry = at(flat, table_at(k).astype(jnp.uint32) * width + x)
        read, symbol = (entry >> 8) & 15, entry & 0xFF
        x = (entry >> 16) + reader.take(place, read)
        place += read
        t = symbol - (jnp.uint32(1) << direct)
        large = symbol >= (jnp.uint32(1) << direct)
        bits = jnp.where(large, (t >> leading) + direct - leading, 0) & 31
        raw = (reader.peek(place) & 0xFFFF) | (reader.peek(place + 16) << 16)
        above = (jnp.uint32(1) << leading) + (t & ((jnp.uint32(1) << leading) - 1))
        z = jnp.where(large, (above << bits) + (raw & ((jnp.uint32(1) << bits) - 1)), symbol)
        return (place + bits, x), z

    return step, (start + plan.bits, reader.take(start, plan.bits))


def scaled(m: jax.Array, factor: jax.Array) -> jax.Array:
    """The bits of float32 magnitudes times factors, where both are normal and the product is not the smallest such."""
    product = lax.bitcast_convert_type(lax.bitcast_convert_type(m, jnp.float32) * factor, jnp.uint32)
    normal = (m >> 23 >= 1) & (m >> 23 <= 254) & (product >> 23 >= 2) & (product >> 23 <= 254)
    return jnp.where(normal, product, m)
