"""`Microscaling` in plain jnp: the steps of `arraycodec.codecs.microscaling` in the same order.

Traceable and shardable.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.microscaling import INT8, INT8_SHIFT, LAST_BYTE, NAN_BYTE, SAFE_BYTE, Microscaling, Rule
from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN, SIGN
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.casts import as_dtype, float32_to_small, small_to_float32
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.primitives import as_bits, as_float, is_nan, narrow, signed_flushed, widen

NORMAL = np.uint32(0x800000)  # the smallest magnitude with an exponent


def check(codec: Microscaling, given: Given) -> None:
    """Any scales may be given."""


def encode(x: jax.Array, codec: Microscaling, given: Given) -> Planes:
    """The planes of `x`."""
    own = spec(x)
    specs, tiles, rule = codec.planes(own), tiles_of(own, codec.block_size, codec.bits), codec.rule(own.dtype)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    run = tiles.split(signed_flushed(widen(x)))
    if "scales" not in planes:
        planes["scales"] = scale_bytes(tiles.absmax(run), rule)
    y = shift_exponents(run, tiles.spread(planes["scales"]), 0 if codec.casting else INT8_SHIFT, rule.signed_zero)
    if codec.casting:
        q = float32_to_small(y, codec.casting)
    else:
        v = as_float(jnp.where(is_nan(y), jnp.uint32(0), y))
        q = jnp.rint(jnp.clip(v, np.float32(-127), np.float32(127))).astype(jnp.int8)
    codes = tiles.store(tiles.join(q), codec.bits, specs["codes"])
    planes["codes"] = codes if codec.format == INT8 else as_dtype(codes, specs["codes"].dtype)
    return {name: planes[name] for name in specs}


def decode(codec: Microscaling, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, codec.bits)
    if codec.format == INT8:
        value = as_bits(tiles.load(planes["codes"], 8).astype(jnp.float32) * np.float32(2.0**-INT8_SHIFT))
    else:
        value = small_to_float32(tiles.load(as_dtype(planes["codes"], "uint8"), codec.bits), codec.format)
    value, byte = tiles.split(value), tiles.spread(planes["scales"]).astype(jnp.uint32)
    u = jnp.where(byte < SAFE_BYTE, lower(value, byte), as_bits(as_float(value) * as_float(byte << 23)))
    u = jnp.where((byte == NAN_BYTE) | is_nan(u), NAN, u)
    return tiles.join(narrow(u, spec.dtype)).reshape(spec.known_shape)


def scale_bytes(absmax: jax.Array, rule: Rule) -> jax.Array:
    """Step 3."""
    exponent = ((absmax + np.uint32(rule.half)) >> 23).astype(jnp.int32)
    byte = jnp.clip(exponent - rule.emax, 0, LAST_BYTE)
    byte = jnp.where(absmax < np.uint32(rule.floor), rule.zero, byte)
    return jnp.where(absmax >= INFINITY, NAN_BYTE, byte).astype(jnp.uint8)


def shift_exponents(run: jax.Array, byte: jax.Array, int8_shift: int, signed_zero: bool) -> jax.Array:
    """Step 4, for int8 times 64."""
    delta = (byte.astype(jnp.int32) - (127 + int8_shift)).astype(jnp.uint32) << 23
    above = delta < SIGN  # whether exponents are lowered
    lowest = jnp.where(byte == 0, SIGN, jnp.where(above, NORMAL + delta, NORMAL))
    highest = jnp.where(above, INFINITY, INFINITY + delta)
    a = run & MAGNITUDE
    shifted = jnp.where(a < highest, a - delta, jnp.maximum(a, INFINITY))
    sign = run & SIGN
    if not signed_zero:
        sign = jnp.where(a == 0, jnp.uint32(0), sign)
    shifted = sign | jnp.where(a >= lowest, shifted, jnp.uint32(0))
    return jnp.where(byte == NAN_BYTE, jnp.uint32(0), shifted)


def lower(value: jax.Array, byte: jax.Array) -> jax.Array:
    """Values times 2^(byte - 127) where products may be subnormal; what falls below 2^-126 is a zero."""
    delta = (127 - byte) << 23
    a = value & MAGNITUDE
    lowered = jnp.where(a >= delta + NORMAL, value - delta, value & SIGN)
    return jnp.where(a < INFINITY, lowered, value)
