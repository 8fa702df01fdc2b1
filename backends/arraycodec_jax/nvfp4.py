"""`NVFP4` in plain jnp: the steps of `arraycodec.codecs.nvfp4` in the same order, traceable and shardable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.nvfp4 import (
    E2M1,
    E4M3,
    EPSILON,
    HIGHEST_GLOBAL,
    LARGEST,
    LOWEST_GLOBAL,
    NAN_SCALE,
    NVFP4,
    TOP,
)
from arraycodec.primitives.floats import BIG_SCALE, INFINITY, LOWER, MAGNITUDE, MIN_SCALE, NAN, ONE
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.casts import as_dtype, float32_to_small, small_to_float32
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.primitives import as_bits, as_float, div_rn, recip_rn, rounded, signed_flushed, widen
from arraycodec_jax.scales import settled


def check(codec: NVFP4, given: Given) -> None:
    """Raise ArgumentError for scales without the global scale that belongs to them."""
    if "scales" in given and "global_scale" not in given:
        raise codec.fail("given", "a global_scale together with scales", sorted(given))


def encode(x: jax.Array, codec: NVFP4, given: Given) -> Planes:
    """The planes of `x`."""
    own = spec(x)
    specs, tiles = codec.planes(own), tiles_of(own, codec.block_size, 4)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    arithmetic = own.dtype if codec.arithmetic == "eager" else "float32"
    run = tiles.split(signed_flushed(widen(x)))
    absmax = tiles.absmax(run)
    if "global_scale" not in planes:
        planes["global_scale"] = as_float(global_scale(jnp.max(absmax, initial=0).reshape(1), arithmetic))
    divisor = as_bits(planes["global_scale"])
    if "scales" not in planes:
        planes["scales"] = as_dtype(block_scales(absmax, divisor, arithmetic), "float8_e4m3fn")
    codes = tiles.join(encode_runs(run, tiles.spread(steps_of(planes["scales"], divisor))))
    planes["codes"] = tiles.store(codes, 4, specs["codes"])
    return {name: planes[name] for name in specs}


def decode(codec: NVFP4, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, 4)
    value = tiles.split(as_float(small_to_float32(tiles.load(planes["codes"], 4), "float4_e2m1fn")))
    step = tiles.spread(steps_of(planes["scales"], as_bits(planes["global_scale"])))
    return tiles.join(settled(value * as_float(step), usable(step), spec.dtype)).reshape(spec.known_shape)


def global_scale(absmax: jax.Array, arithmetic: str) -> jax.Array:
    """Step 2: 2688 times the reciprocal, both rounded to the arithmetic's dtype; 1 where that is no finite number."""
    finite = (absmax < INFINITY) & (absmax >= MIN_SCALE)
    big = finite & (absmax >= BIG_SCALE)  # lowered, so that the reciprocal is a normal number
    absmax = jnp.where(finite, jnp.where(big, absmax - LOWER, absmax), ONE)
    top = jnp.where(big, np.float32(TOP / 16), np.float32(TOP))
    scale = rounded(as_bits(as_float(rounded(recip_rn(absmax), arithmetic)) * top), arithmetic)
    return jnp.where(finite & (scale < INFINITY), scale, ONE)


def block_scales(absmax: jax.Array, divisor: jax.Array, arithmetic: str) -> jax.Array:
    """Step 3: the code of absmax / 6 * global scale, 0.125 where it is a zero's; NaN where either is out of range."""
    sixth = rounded(div_rn(absmax, as_bits(jnp.float32(LARGEST))), arithmetic)
    code = float32_to_small(as_bits(as_float(sixth) * as_float(divisor)), E4M3)
    code = jnp.where(code == 0, jnp.uint8(EPSILON), code)
    return jnp.where((absmax >= INFINITY) | ~in_range(divisor), jnp.uint8(NAN_SCALE), code)


def in_range(divisor: jax.Array) -> jax.Array:
    """Whether a global scale is one with which no step is subnormal or infinite."""
    return (divisor >= LOWEST_GLOBAL) & (divisor < HIGHEST_GLOBAL)


def steps_of(scales: jax.Array, divisor: jax.Array) -> jax.Array:
    """Step 4: the bits of scale / global scale, by which a value is multiplied; NaN for a global scale out of range."""
    inside = in_range(divisor)
    scale = small_to_float32(as_dtype(scales, "uint8"), "float8_e4m3fn")
    return jnp.where(inside, div_rn(scale, jnp.where(inside, divisor, ONE)), NAN)


def usable(step: jax.Array) -> jax.Array:
    """Whether a step is positive: neither 0, nor negative, nor NaN."""
    return (step != 0) & (step < INFINITY)


def encode_runs(run: jax.Array, step: jax.Array) -> jax.Array:
    """Steps 4 and 5; the code is 0 where the step is not usable."""
    quotient = div_rn(run & MAGNITUDE, jnp.where(usable(step), step, ONE))
    sign = jnp.where((run & MAGNITUDE) != 0, (run >> 31) << 3, jnp.uint32(0)).astype(jnp.uint8)
    return jnp.where(usable(step), sign | float32_to_small(quotient, E2M1), jnp.uint8(0))
