"""Packing: codes of 4 bits two to a byte, the first of a pair in the high nibble; and look-up of entries by index."""

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
