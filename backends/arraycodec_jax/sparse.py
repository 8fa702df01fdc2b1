"""What `Bitmask` and `TwoFour` share in jnp: bitmasks of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from arraycodec_jax.packing import pack_dense, unpack_dense


def pack_bits(kept: jax.Array) -> jax.Array:
    """uint8 (..., width) with the lowest bit first; rows end in zero bits."""
    return pack_dense(kept.astype(jnp.uint8), 1)


def unpack_bits(bitmask: jax.Array, columns: int) -> jax.Array:
    """The inverse of `pack_bits`: bool (..., columns)."""
    return unpack_dense(bitmask, 1, columns) != 0
