"""Small floats in jnp: the cast of `arraycodec.primitives.casts`, and the values of codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.primitives.floats import INFINITY, MAGNITUDE
from arraycodec.primitives.formats import Casting, values
from arraycodec.spec import numpy_dtype
from arraycodec_jax.packing import look_up


def float32_to_small(bits: jax.Array, casting: Casting) -> jax.Array:
    """float32 bits -> uint8 codes in a small format, round to nearest even."""
    width, mantissa, first, largest, beyond, nan, signed_nan, signed_zero = casting
    a = bits & MAGNITUDE
    above = (a >> 23).astype(jnp.int32) - first
    shift = jnp.minimum(23 - mantissa - jnp.minimum(above, 0), 25).astype(jnp.uint32)  # 25 leaves nothing
    m = (a & 0x7FFFFF) | 0x800000
    half = (jnp.uint32(1) << (shift - 1)) - 1
    code = (m + half + ((m >> shift) & 1)) >> shift
    code = code + (jnp.maximum(above, 0).astype(jnp.uint32) << mantissa)
    code = jnp.where(code <= largest, code, jnp.uint32(beyond))
    code = jnp.where(a <= INFINITY, code, jnp.uint32(nan))
    sign = (bits >> 31) << (width - 1)
    if not signed_zero:
        sign = jnp.where(code == 0, jnp.uint32(0), sign)
    if not signed_nan:
        sign = jnp.where(a > INFINITY, jnp.uint32(0), sign)
    return (code | sign).astype(jnp.uint8)


def small_to_float32(codes: jax.Array, name: str) -> jax.Array:
    """The float32 bits of uint8 codes of the format called `name`; each NaN is the canonical one."""
    return look_up(values(name).view(np.uint32), codes)


def as_dtype(codes: jax.Array, dtype: str) -> jax.Array:
    """Codes of 8 bits as an array of that dtype, of the same bits; or back, where it is uint8."""
    return lax.bitcast_convert_type(codes, numpy_dtype(dtype))
