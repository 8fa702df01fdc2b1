"""Blocks and scales in jnp: the steps of `arraycodec.primitives.scales`, on arrays with an axis of blocks.

Where planes keep the leading axes, so does every array here, and a shard of whole blocks never needs another's data.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from arraycodec.primitives.blocks import keeps_axes
from arraycodec.primitives.floats import BIG_SCALE, INFINITY, LOWER, MAGNITUDE, MIN_SCALE, NAN, ONE, SIGN
from arraycodec.spec import ArraySpec
from arraycodec_jax.primitives import as_bits, as_float, div_rn, flushed, is_nan, narrow, recip_rn


def rows(x: jax.Array, spec: ArraySpec, block_size: int | None, bits: int) -> jax.Array:
    """An array of `spec` in the axes of its planes: as it is where they keep its axes, flattened where they do not."""
    return x if keeps_axes(spec, block_size, bits) else x.reshape(spec.size)


def split_blocks(x: jax.Array, block_size: int | None) -> jax.Array:
    """The last axis as blocks, (..., n) -> (..., n / block, block); zeros fill the last one. No axis for one block."""
    if block_size is None:
        return x
    *leading, n = x.shape
    if missing := -n % block_size:
        x = jnp.pad(x, [(0, 0)] * len(leading) + [(0, missing)])
    return x.reshape(*leading, (n + missing) // block_size, block_size)


def join_blocks(x: jax.Array, block_size: int | None, n: int) -> jax.Array:
    """The inverse of `split_blocks` for a last axis of n elements."""
    if block_size is None:
        return x
    x = x.reshape(*x.shape[:-2], x.shape[-2] * block_size)
    return x if x.shape[-1] == n else x[..., :n]


def spread(scale: jax.Array, block_size: int | None) -> jax.Array:
    """Scales in the shape in which they broadcast over blocks; the single scale (1,) of one block does so already."""
    return scale if block_size is None else scale[..., None]


def largest(run: jax.Array, block_size: int | None) -> jax.Array:
    """Step 2, over blocks or over the whole array: an integer maximum, since a float one drops NaN."""
    if block_size is None:
        return jnp.max(run & MAGNITUDE, initial=0).reshape(1)
    return jnp.max(run & MAGNITUDE, axis=-1)


def stored_scale(absmax: jax.Array) -> jax.Array:
    """Step 3."""
    return jnp.where(absmax >= INFINITY, NAN, jnp.where(absmax >= MIN_SCALE, absmax, jnp.uint32(0)))


def lowered(bits: jax.Array, lower: jax.Array) -> jax.Array:
    """The exponents of numbers lowered by `lower`; what would become subnormal is a zero of its sign.

    Infinity and NaN, which given scales let through, stay.
    """
    exponent = bits & INFINITY
    return jnp.where(exponent > lower, bits - jnp.where(exponent < INFINITY, lower, jnp.uint32(0)), bits & SIGN)


def scale_run(run: jax.Array, absmax: jax.Array) -> jax.Array:
    """Steps 4 and 5; y is 0 where the scale is NaN, 0 or negative, and the code therefore the zero code."""
    usable = (absmax >= MIN_SCALE) & (absmax < INFINITY)
    lower = jnp.where(usable & (absmax >= BIG_SCALE), LOWER, jnp.uint32(0))
    inverse = as_float(recip_rn(jnp.where(usable, absmax - lower, ONE)))
    return as_float(jnp.where(usable, lowered(run, lower), jnp.uint32(0))) * inverse


def used_scale(scale: jax.Array) -> jax.Array:
    """A stored scale as decoding uses it: the canonical NaN where it is not finite, 0 where it is below 2^-100."""
    magnitude = scale & MAGNITUDE
    return jnp.where(magnitude >= INFINITY, NAN, jnp.where(magnitude >= MIN_SCALE, scale, jnp.uint32(0)))


def divided_run(run: jax.Array, scale: jax.Array) -> jax.Array:
    """The bits of each element divided by its scale, rounded once; 0 where `scale_run` is 0."""
    usable = (scale >= MIN_SCALE) & (scale < INFINITY)
    return jnp.where(usable, div_rn(run, jnp.where(usable, scale, ONE)), jnp.uint32(0))


def multiplied_run(value: jax.Array, scale: jax.Array, dtype: str) -> jax.Array:
    """Decoded values times their stored scales, rounded once to float32 and once to the dtype."""
    used = used_scale(scale)
    return settled(value * as_float(used), (used >= MIN_SCALE) & (used < INFINITY), dtype)


def settled(product: jax.Array, usable: jax.Array, dtype: str) -> jax.Array:
    """Products with scales, rounded to the dtype: a NaN is the canonical one, a zero +0 if its scale is not usable."""
    u = as_bits(product)
    u = jnp.where(usable, u, flushed(u))
    # The select also keeps XLA from contracting the product with an add that the caller does next.
    return narrow(jnp.where(is_nan(u), NAN, u), dtype)
