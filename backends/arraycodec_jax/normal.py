"""Normalised integers in plain jnp: the functions of `arraycodec.primitives.normal`, step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.errors import ArgumentError
from arraycodec.primitives.floats import INFINITY, KINDS, MAGNITUDE, MIN_SCALE, NAN
from arraycodec.primitives.normal import HIGHEST, LARGEST, MAX_IMPORTANCE, STEPS, UNIT
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


def integer_weights(codec: str, importance: jax.Array, columns: int) -> jax.Array:
    """The importance of columns as int32 from 0 to 4095, the largest; values are taken on trust.

    4095 * importance / largest, rounded to nearest even, by long division: the quotient, and two bits of the rest.
    """
    if importance.shape != (columns,) or importance.dtype != jnp.float32:
        got = f"{importance.dtype}{list(importance.shape)}"
        raise ArgumentError(f"{codec}: importance must be float32[{columns}], got {got}")
    bits = as_bits(importance) & MAGNITUDE
    exponent, own = jnp.maximum(bits >> 23, 1), (bits & 0x7FFFFF) | jnp.where(bits >> 23, jnp.uint32(0x800000), 0)
    largest = jnp.max(bits, initial=0)
    highest, unit = jnp.maximum(largest >> 23, 1), (largest & 0x7FFFFF) | jnp.where(largest >> 23, 0x800000, 0)
    quotient, rest = jnp.zeros_like(own), jnp.zeros_like(own)
    for _ in range(MAX_IMPORTANCE.bit_length()):  # all of whose bits are set
        rest = 2 * rest + own
        quotient, rest = 2 * quotient + rest // unit, rest % unit
    half, more = 2 * rest >= unit, (rest > 0) & (2 * rest != unit)
    quotient = quotient << 2 | jnp.where(half, jnp.uint32(2), 0) | jnp.where(more, jnp.uint32(1), 0)
    shift = jnp.minimum(highest - exponent, 25) + 2
    return ((quotient + (jnp.uint32(1) << (shift - 1)) - 1 + (quotient >> shift & 1)) >> shift).astype(jnp.int32)
