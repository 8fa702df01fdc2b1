"""Packing: codes of a few bits in bytes, in the two orders that formats use; and look-up of entries by index.

`pack` and `unpack` have 4-bit codes two to a byte, the first of a pair in the high nibble. `pack_dense` and
`unpack_dense` have a dense little-endian bit stream, in which code i begins at bit i * bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType


def pack(codes: jax.Array, bits: int, zero: Any) -> jax.Array:
    """uint8 codes along the last axis as bytes; an odd last one is followed by the zero code."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = jnp.concatenate([codes, jnp.full((*codes.shape[:-1], 1), zero, jnp.uint8)], axis=-1)
    # Two codes at once as a little-endian word, as in the reference: this form vectorises.
    pairs = lax.bitcast_convert_type(codes.reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2), jnp.uint16)
    return ((pairs << 4) | (pairs >> 8)).astype(jnp.uint8)


def unpack(packed: jax.Array, bits: int) -> jax.Array:
    """The inverse of `pack`, with what followed an odd last code."""
    if bits == 8:
        return packed
    byte = packed.astype(jnp.uint16)
    pairs = lax.bitcast_convert_type((byte >> 4) | ((byte & 15) << 8), jnp.uint8)
    return pairs.reshape(*packed.shape[:-1], packed.shape[-1] * 2)


def pack_dense(codes: jax.Array, bits: int) -> jax.Array:
    """uint8 codes along the last axis as a stream, which ends in zero bits."""
    if bits == 8:
        return codes
    nbytes, group = -(-codes.shape[-1] * bits // 8), _group(bits)
    w = _words(_groups(codes, group))  # of four codes each, whose neighbours move together by halves
    w = (w & 0x00FF00FF) | ((w >> (8 - bits)) & (0xFF00FF00 >> (8 - bits)))
    w = (w & 0x0000FFFF) | ((w >> 16) << (2 * bits))
    if group == 8:
        low, high = w[..., 0], w[..., 1]
        w = jnp.stack([low | (high << (4 * bits)), high >> (32 - 4 * bits)], axis=-1)
    stream = _bytes(w)[..., : group * bits // 8]
    return _joined(stream, nbytes)


def unpack_dense(packed: jax.Array, bits: int, n: int) -> jax.Array:
    """The inverse of `pack_dense` for n codes."""
    if bits == 8:
        return packed
    group = _group(bits)
    stream = _groups(packed, group * bits // 8)
    w = _words(jnp.pad(stream, [(0, 0)] * (stream.ndim - 1) + [(0, group - stream.shape[-1])]))
    if group == 8:
        low, high = w[..., 0], w[..., 1]
        w = jnp.stack([low & ((1 << 4 * bits) - 1), (low >> (4 * bits)) | (high << (32 - 4 * bits))], axis=-1)
    code = (1 << bits) - 1
    pair = (code << bits) | code
    w = (w & pair) | ((w & (pair << 2 * bits)) << (16 - 2 * bits))
    w = (w & (code * 0x00010001)) | ((w & ((code << bits) * 0x00010001)) << (8 - bits))
    return _joined(_bytes(w), n)


def _group(bits: int) -> int:
    """How many codes are whole bytes: eight always are, and four of an even width fit one 32-bit word."""
    return 8 if bits % 2 else 4


def _groups(x: jax.Array, size: int) -> jax.Array:
    """The last axis as groups of this size; zeros fill the last one."""
    *leading, n = x.shape
    if missing := -n % size:
        x = jnp.pad(x, [(0, 0)] * len(leading) + [(0, missing)])
    return x.reshape(*leading, (n + missing) // size, size)


def _words(groups: jax.Array) -> jax.Array:
    """Groups of 4 or 8 bytes as one or two little-endian words of 32 bits."""
    return lax.bitcast_convert_type(groups.reshape(*groups.shape[:-1], groups.shape[-1] // 4, 4), jnp.uint32)


def _bytes(words: jax.Array) -> jax.Array:
    """The inverse of `_words`."""
    groups = lax.bitcast_convert_type(words, jnp.uint8)
    return groups.reshape(*words.shape[:-1], words.shape[-1] * 4)


def _joined(groups: jax.Array, n: int) -> jax.Array:
    """The inverse of `_groups` for a last axis of n elements."""
    x = groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])
    return x if x.shape[-1] == n else x[..., :n]


def pick(digits: Sequence[jax.Array], entries: Any) -> Any:
    """`entries[index]`, where `digits` are the binary digits of the index as booleans, the highest first.

    A tree of selects: for up to 16 entries it vectorises, and it needs no memory where a gather would.
    """
    entries = list(entries)
    for digit in reversed(digits):
        entries = [jnp.where(digit, high, low) for low, high in zip(entries[::2], entries[1::2], strict=True)]
    return entries[0]


def look_up(table: jax.Array | np.ndarray, index: jax.Array) -> jax.Array:
    """`table[index]` for indices that are in range by construction; the result is sharded as the indices are."""
    sharding = jax.typeof(index).sharding
    explicit = AxisType.Explicit in (sharding.mesh.axis_types or ())  # then JAX wants to be told, and infers nothing
    how = {"out_sharding": sharding} if explicit else {}
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds", **how)
