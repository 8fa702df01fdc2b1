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
    HIGHEST_FACTOR,
    HIGHEST_GLOBAL,
    LARGEST,
    LOWEST_FACTOR,
    LOWEST_GLOBAL,
    NAN_SCALE,
    NVFP4,
    SMALLEST,
    TOP,
    UNIT,
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
        largest = jnp.max(absmax, initial=0).reshape(1)
        planes["global_scale"] = as_float(global_scale(largest, arithmetic, codec.multiplies))
    divisor = as_bits(planes["global_scale"])
    if "scales" not in planes:
        planes["scales"] = as_dtype(block_scales(absmax, divisor, arithmetic, codec.multiplies), "float8_e4m3fn")
    codes = tiles.join(encode_runs(run, tiles.spread(steps_of(planes["scales"], divisor, codec.multiplies))))
    planes["codes"] = tiles.store(codes, 4, specs["codes"])
    return {name: planes[name] for name in specs}


def decode(codec: NVFP4, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, 4)
    value = tiles.split(as_float(small_to_float32(tiles.load(planes["codes"], 4), "float4_e2m1fn")))
    step = tiles.spread(steps_of(planes["scales"], as_bits(planes["global_scale"]), codec.multiplies))
    return tiles.join(settled(value * as_float(step), usable(step), spec.dtype)).reshape(spec.known_shape)


def global_scale(absmax: jax.Array, arithmetic: str, multiplies: bool) -> jax.Array:
    """Step 2: 2688 times the reciprocal, both rounded to the arithmetic's dtype; 1 where that is no finite number."""
    finite = (absmax < INFINITY) & (absmax >= MIN_SCALE)
    if multiplies:
        return jnp.where(finite, div_rn(absmax, as_bits(jnp.float32(TOP))), ONE)
    big = finite & (absmax >= BIG_SCALE)  # lowered, so that the reciprocal is a normal number
    absmax = jnp.where(finite, jnp.where(big, absmax - LOWER, absmax), ONE)
    top = jnp.where(big, np.float32(TOP / 16), np.float32(TOP))
    scale = rounded(as_bits(as_float(rounded(recip_rn(absmax), arithmetic)) * top), arithmetic)
    return jnp.where(finite & (scale < INFINITY), scale, ONE)


def block_scales(absmax: jax.Array, divisor: jax.Array, arithmetic: str, multiplies: bool) -> jax.Array:
    """Step 3: the code of absmax / 6 * global scale, 0.125 where it is a zero's; NaN where either is out of range.

    In the flavour of absmax / (6 * global scale): 1 for a block of zeros, and 2^-9 where it is a zero's otherwise.
    """
    usable = (absmax < INFINITY) & in_range(divisor, multiplies)
    if multiplies:
        largest = jnp.where(in_range(divisor, True), as_bits(np.float32(LARGEST) * as_float(divisor)), ONE)
        code = float32_to_small(div_rn(absmax, largest), E4M3)
        code = jnp.where(code == 0, jnp.uint8(SMALLEST), code)
        return jnp.where(usable, jnp.where(absmax == 0, jnp.uint8(UNIT), code), jnp.uint8(NAN_SCALE))
    sixth = rounded(div_rn(absmax, as_bits(jnp.float32(LARGEST))), arithmetic)
    code = float32_to_small(as_bits(as_float(sixth) * as_float(divisor)), E4M3)
    code = jnp.where(code == 0, jnp.uint8(EPSILON), code)
    return jnp.where(usable, code, jnp.uint8(NAN_SCALE))


def in_range(divisor: jax.Array, multiplies: bool) -> jax.Array:
    """Whether a global scale is one with which no step is subnormal or infinite."""
    lowest, highest = (LOWEST_FACTOR, HIGHEST_FACTOR) if multiplies else (LOWEST_GLOBAL, HIGHEST_GLOBAL)
    return (divisor >= lowest) & (divisor < highest)


def steps_of(scales: jax.Array, divisor: jax.Array, multiplies: bool) -> jax.Array:
    """Step 4: the bits of scale / global scale, by which a value is multiplied; NaN for a global scale out of range."""
    inside = in_range(divisor, multiplies)
    scale = small_to_float32(as_dtype(scales, "uint8"), "float8_e4m3fn")
    if multiplies:
        return jnp.where(inside, as_bits(as_float(scale) * as_float(divisor)), NAN)
    return jnp.where(inside, div_rn(scale, jnp.where(inside, divisor, ONE)), NAN)


def usable(step: jax.Array) -> jax.Array:
    """Whether a step is positive: neither 0, nor negative, nor NaN."""
    return (step != 0) & (step < INFINITY)


def encode_runs(run: jax.Array, step: jax.Array) -> jax.Array:
    """Steps 4 and 5; the code is 0 where the step is not usable."""
    quotient = div_rn(run & MAGNITUDE, jnp.where(usable(step), step, ONE))
    sign = jnp.where((run & MAGNITUDE) != 0, (run >> 31) << 3, jnp.uint32(0)).astype(jnp.uint8)
    return jnp.where(usable(step), sign | float32_to_small(quotient, E2M1), jnp.uint8(0))
