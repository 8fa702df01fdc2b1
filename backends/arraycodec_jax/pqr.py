"""`PQR` in plain jnp: the decoder of `arraycodec.codecs.pqr`, traceable and shardable; encoding trains on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from arraycodec.base import Given, Planes
from arraycodec.codecs.pqr import PQR
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.floats import NAN
from arraycodec.primitives.sums import FINE, group_of, shifts, starts
from arraycodec.spec import ArraySpec
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.packing import look_up
from arraycodec_jax.primitives import as_bits, as_float, flushed, is_nan, narrow, widen
from arraycodec_jax.scales import multiplied_run, split_blocks


def check(codec: PQR, given: Given) -> None:
    """Raise UnsupportedByBackend: books are trained on the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: codebooks are trained on the host, on unsharded CPU arrays outside of jit; decode anywhere"
    )


def encode(x: jax.Array, codec: PQR, given: Given) -> Planes:
    """Nothing: `check` comes before, and refuses."""
    return {}


def decode(codec: PQR, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    indices = load_indices(planes["codes"], codec, spec)
    length, shape = codec.length(spec), indices[0].shape
    book = 0 if spec.size <= length else (jnp.arange(indices[0].size) * codec.dim // length).reshape(shape)
    if not codec.scaled:
        u = as_bits(joined(add_floats(codec, indices, book, planes["codebook"]), spec))
        return narrow(jnp.where(is_nan(u), NAN, u), spec.dtype).reshape(spec.known_shape)
    total = joined(add_integers(codec, indices, book, planes), spec)
    tiles = tiles_of(spec, codec.block_size, 8)
    value = tiles.split(total.astype(jnp.float32) * codec.unit)
    return tiles.join(multiplied_run(value, tiles.spread(widen(planes["scales"])), spec.dtype)).reshape(
        spec.known_shape
    )


def load_indices(codes: jax.Array, codec: PQR, spec: ArraySpec) -> list[jax.Array]:
    """The index of every vector in each stage, in the axes of the codes: int32 (..., vectors)."""
    group, bits = group_of(codec.bits), codec.bits
    count = -(-spec.size // codec.dim) if codes.ndim == 1 else spec.known_shape[-1] // codec.dim
    stream = split_blocks(codes, group * bits // 8).astype(jnp.int32)  # each of a group begins at a bit of its own
    indices = []
    for shift, width in zip(shifts(codec.stages), codec.stages, strict=True):
        parts = []
        for k in range(group):
            start = k * bits + shift
            first, down = start // 8, start % 8
            last = -(-(start + width) // 8)
            part = sum(stream[..., byte] << 8 * (byte - first) for byte in range(first, last))
            parts.append((part >> down) & ((1 << width) - 1))
        index = jnp.stack(parts, axis=-1)
        index = index.reshape(*codes.shape[:-1], index.shape[-2] * group)
        indices.append(index if index.shape[-1] == count else index[..., :count])
    return indices


def places_of(codec: PQR, indices: list[jax.Array], book: Any) -> list[jax.Array]:
    """The entry of each stage."""
    return [book * codec.entries + start + i for start, i in zip(starts(codec.stages), indices, strict=True)]


def vectors_of(table: jax.Array, place: jax.Array, dim: int) -> jax.Array:
    """The entries at these places: (..., vectors, dim)."""
    flat = table.reshape(table.size)
    return jnp.stack([look_up(flat, place * dim + e) for e in range(dim)], axis=-1)


def add_integers(codec: PQR, indices: list[jax.Array], book: Any, planes: Planes) -> jax.Array:
    """The vectors of codes from books of integers: int32 (..., vectors, dim)."""
    entries = planes["codebook"].astype(jnp.int32)
    first, *rest = places_of(codec, indices, book)
    total, later = vectors_of(entries, first, codec.dim), jnp.int32(0)
    for place in rest:
        later = later + vectors_of(entries, place, codec.dim)
    if codec.gain:
        gains = jnp.minimum(planes["gains"], FINE).astype(jnp.int32)
        gain = look_up(gains.reshape(gains.size), book * (1 << codec.stages[0]) + indices[0])
        total, later = total << FINE, later << gain[..., None]
    return total + later


def add_floats(codec: PQR, indices: list[jax.Array], book: Any, entries: jax.Array) -> jax.Array:
    """The vectors of codes from books of floats, added in the order of the stages: (..., vectors, dim)."""
    entries = as_float(flushed(as_bits(entries)))
    first, *rest = places_of(codec, indices, book)
    value = vectors_of(entries, first, codec.dim)
    for place in rest:
        value = as_float(flushed(as_bits(value + vectors_of(entries, place, codec.dim))))
    return value


def joined(vectors: jax.Array, spec: ArraySpec) -> jax.Array:
    """Vectors (..., vectors, dim) as elements; of a flat stream the last vector may have too many."""
    *leading, count, dim = vectors.shape
    x = vectors.reshape(*leading, count * dim)
    return x if x.size == spec.size else x[: spec.size]
