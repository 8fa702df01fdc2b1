"""Normalised integers in plain jnp: the functions of `arraycodec.primitives.normal`, step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.primitives.floats import INFINITY, KINDS, MIN_SCALE, NAN
from arraycodec.primitives.normal import HIGHEST, LARGEST, STEPS, UNIT
from arraycodec_jax.primitives import as_bits, is_nan, narrow
from arraycodec_jax.scales import scale_run


def scales_of(absmax: jax.Array, dtype: str) -> jax.Array:
    """bfloat16 scales from the bits of the largest magnitudes of tiles of an array of this dtype."""
    scale = jnp.minimum((absmax >> 16) + ((absmax & 0xFFFF) != 0).astype(jnp.uint32), jnp.uint32(LARGEST[KINDS[dtype]]))
    scale = jnp.where(absmax >= MIN_SCALE, scale << 16, jnp.uint32(0))
    return narrow(jnp.where(absmax < INFINITY, scale, NAN), "bfloat16")


def integers_of(run: jax.Array, scale: jax.Array) -> jax.Array:
    """The integers of elements as int32, from their bits and those of their scales."""
    y = scale_run(run, scale) * STEPS  # an exact product, but of what rounds to 0
    y = jnp.where(is_nan(as_bits(y)), np.float32(0), y)
    return jnp.rint(jnp.clip(y, -HIGHEST, HIGHEST)).astype(jnp.int32)


def values_of(integers: jax.Array) -> jax.Array:
    """What integers of any dtype are times a scale, as float32, exact below 2^24."""
    return integers.astype(jnp.float32) * UNIT
