"""The reference's primitives (arraycodec/primitives/floats.py, blocks.py) in plain jnp, on arrays of uint32 bits.

Only 32-bit integers are used, since JAX has no others by default, and nothing relies on how XLA treats subnormals,
NaN or a multiply that feeds an add: XLA on a CPU flushes the first, drops the second and contracts the third.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.primitives.floats import INFINITY, MAGNITUDE, SIGN

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def as_float(bits: jax.Array) -> jax.Array:
    """The float32 with these bits."""
    return lax.bitcast_convert_type(bits, jnp.float32)


def as_bits(x: jax.Array) -> jax.Array:
    """The bits of a float32."""
    return lax.bitcast_convert_type(x, jnp.uint32)


def is_nan(bits: jax.Array) -> jax.Array:
    """Whether float32 bits are a NaN."""
    return (bits & MAGNITUDE) > INFINITY


def flushed(bits: jax.Array) -> jax.Array:
    """A number with exponent field 0 is read as +0; an integer test, since XLA's float compares flush."""
    return jnp.where((bits & INFINITY) != 0, bits, jnp.uint32(0))


def signed_flushed(bits: jax.Array) -> jax.Array:
    """A number with exponent field 0 is read as a zero of its sign."""
    return jnp.where((bits & INFINITY) != 0, bits, bits & SIGN)


def recip_rn(bits: jax.Array) -> jax.Array:
    """1/x correctly rounded, for x with exponent field 1..252, from integers and any approximate division."""
    exponent = (bits >> 23).astype(jnp.int32)
    m = ((bits & 0x7FFFFF) | 0x800000).astype(jnp.int32)
    q = (np.float32(2.0**47) / m.astype(jnp.float32)).astype(jnp.int32)  # off by a few units
    r = (jnp.uint32(0) - q.astype(jnp.uint32) * m.astype(jnp.uint32)).astype(jnp.int32)  # 2^47 - q m, modulo 2^32
    q, r = corrected(q, r, m)
    q = jnp.where(r + r > m, q + 1, q)
    return ((253 - exponent).astype(jnp.uint32) << 23) + (q - 0x800000).astype(jnp.uint32)


def div_rn(x: jax.Array, y: jax.Array) -> jax.Array:
    """x / y correctly rounded, for a positive y with exponent field 1..254, from integers and any approximate division.

    An x with exponent field 0 is a zero; quotients may be subnormal, infinite or NaN, as IEEE 754 has them.
    """
    mx, my = ((bits & 0x7FFFFF) | 0x800000 for bits in (x, y))
    below = mx < my
    exponent = ((x >> 23) & 0xFF).astype(jnp.int32) - (y >> 23).astype(jnp.int32) + jnp.where(below, 126, 127)
    numerator = mx.astype(jnp.int32).astype(jnp.float32) * jnp.where(below, np.float32(2.0**24), np.float32(2.0**23))
    q = (numerator / my.astype(jnp.int32).astype(jnp.float32)).astype(jnp.int32)  # 24 bits, off by a few units
    r = ((mx << jnp.where(below, 24, 23).astype(jnp.uint32)) - q.astype(jnp.uint32) * my).astype(jnp.int32)
    m = my.astype(jnp.int32)
    q, r = corrected(q, r, m)
    # Two bits more: whether the rest is above one half (it never is one half), and whether there is a rest. A quotient
    # below 2^-126 moves right until its unit is 2^-149; 25 leaves nothing of it.
    q = ((q << 2) | jnp.where(r + r > m, 2, 0) | jnp.where(r != 0, 1, 0)).astype(jnp.uint32)
    shift = 2 + jnp.clip(1 - exponent, 0, 25).astype(jnp.uint32)
    q = (q + (jnp.uint32(1) << (shift - 1)) - 1 + ((q >> shift) & 1)) >> shift
    quotient = (jnp.clip(exponent - 1, 0, 254).astype(jnp.uint32) << 23) + q
    quotient = jnp.minimum(quotient, INFINITY)
    a = x & MAGNITUDE
    return (x & SIGN) | jnp.where(a >= INFINITY, a, jnp.where(a < 0x800000, jnp.uint32(0), quotient))


def corrected(q: jax.Array, r: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A quotient that is off by up to three units, and its residual r, such that 0 <= r < m in the end."""
    for _ in range(3):
        low = r < 0
        q, r = jnp.where(low, q - 1, q), jnp.where(low, r + m, r)
        high = r >= m
        q, r = jnp.where(high, q + 1, q), jnp.where(high, r - m, r)
    return q, r


def mul_add(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """`a * b + c` in two roundings, the product flushed: the selects stand between the two, so XLA cannot fuse them."""
    product = a * b
    product = jnp.where(jnp.isnan(product), np.float32(np.nan), product)
    return as_float(flushed(as_bits(product))) + c


def tree_sum(x: jax.Array) -> jax.Array:
    """The float32 sum of a vector by halves: the upper half is added to the lower until one is left."""
    size = 1 << max(x.size - 1, 0).bit_length()
    x = as_float(flushed(as_bits(jnp.pad(x, (0, size - x.size)))))
    while x.size > 1:
        x = as_float(flushed(as_bits(x[: x.size // 2] + x[x.size // 2 :])))
    return x[0]


def widen(x: jax.Array) -> jax.Array:
    """The float32 bits of a float32, bfloat16 or float16 array, exact."""
    if x.dtype == jnp.float32:
        return as_bits(x)
    h = lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
    return h << 16 if x.dtype == jnp.bfloat16 else _half_to_float32(h)


def narrow(bits: jax.Array, dtype: str) -> jax.Array:
    """The array of the dtype called `dtype`, rounded once from float32 bits, to nearest even."""
    if dtype == "float32":
        return as_float(bits)
    h = _float32_to_bfloat16(bits) if dtype == "bfloat16" else _float32_to_half(bits)
    return lax.bitcast_convert_type(h.astype(jnp.uint16), DTYPES[dtype])


def rounded(bits: jax.Array, dtype: str) -> jax.Array:
    """float32 bits rounded to what the dtype called `dtype` can hold, as float32 bits again."""
    if dtype == "float32":
        return bits
    return _float32_to_bfloat16(bits) << 16 if dtype == "bfloat16" else _half_to_float32(_float32_to_half(bits))


def _half_to_float32(h: jax.Array) -> jax.Array:
    magnitude = h & 0x7FFF
    shifted = magnitude << 13
    # A subnormal is magnitude * 2^-24: an integer below 2^10, which converts exactly, and an exact normal product.
    small = as_bits(magnitude.astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24))
    normal = shifted + 0x38000000
    large = jnp.where(magnitude >= 0x7C00, shifted | INFINITY, normal)
    return ((h & 0x8000) << 16) | jnp.where(magnitude >= 0x400, large, small)


def _float32_to_bfloat16(bits: jax.Array) -> jax.Array:
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return jnp.where(is_nan(bits), ((bits >> 16) & 0x8000) | 0x7FC0, nearest)


def _float32_to_half(bits: jax.Array) -> jax.Array:
    sign = (bits >> 16) & 0x8000
    a = bits & MAGNITUDE
    normal = jnp.minimum(((a + 0xFFF + ((a >> 13) & 1)) >> 13) - 0x1C000, jnp.uint32(0x7C00))
    # A subnormal: shift the full significand right; a shift of 25 leaves nothing, whatever is shifted.
    shift = jnp.minimum(126 - (a >> 23), jnp.uint32(25))
    m = (a & 0x7FFFFF) | 0x800000
    half = (jnp.uint32(1) << (shift - 1)) - 1
    subnormal = (m + half + ((m >> shift) & 1)) >> shift
    return sign | jnp.where(a > INFINITY, jnp.uint32(0x7E00), jnp.where(a >= 0x38800000, normal, subnormal))
