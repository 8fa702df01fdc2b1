"""`Linear` in plain jnp: the steps of `arraycodec.codecs.linear` in the same order, traceable and shardable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.linear import Linear
from arraycodec.primitives.floats import BIG_SCALE, EPSILON, INFINITY, KINDS, LOWER, MIN_SCALE, NAN
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.grid import Tiles, tiles_of
from arraycodec_jax.primitives import as_bits, as_float, div_rn, flushed, is_nan, narrow, rounded, widen
from arraycodec_jax.scales import divided_run, lowered, multiplied_run, scale_run


def check(codec: Linear, given: Given) -> None:
    """Raise ArgumentError for scales without zero points, or the other way round, where the codec has both."""
    if not codec.symmetric and ("scales" in given) != ("zero_points" in given):
        raise codec.fail("given", "scales and zero_points together", sorted(given))


def encode(x: jax.Array, codec: Linear, given: Given) -> Planes:
    """The planes of `x`."""
    own = spec(x)
    specs, tiles = codec.planes(own), tiles_of(own, codec.block_size, codec.bits)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    run = tiles.split(flushed(widen(x)))
    if "scales" not in planes:
        scale, zero = (own_scales if codec.flavour is None else foreign_scales)(
            run, tiles, codec, specs["scales"].dtype
        )
        planes |= {"scales": scale, "zero_points": zero}
    zero = np.float32(0) if codec.symmetric else tiles.spread(planes["zero_points"].astype(jnp.float32))
    q = tiles.join(integers(run, tiles.spread(widen(planes["scales"])), zero, codec, own.dtype))
    if codec.bits == 8:
        planes["codes"] = tiles.store(q.astype(jnp.int8), 8, specs["codes"])
    else:
        planes["codes"] = tiles.store((q + (1 << (codec.bits - 1))).astype(jnp.uint8), codec.bits, specs["codes"])
    return {name: planes[name] for name in specs}


def decode(codec: Linear, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, codec.bits)
    q = tiles.split(tiles.load(planes["codes"], codec.bits)).astype(jnp.int32)
    if codec.bits < 8:
        q = q - (1 << (codec.bits - 1))
    if not codec.symmetric:
        q = q - tiles.spread(planes["zero_points"]).astype(jnp.int32)
    value = multiplied_run(q.astype(jnp.float32), tiles.spread(widen(planes["scales"])), spec.dtype)
    return tiles.join(value).reshape(spec.known_shape)


def own_scales(run: jax.Array, tiles: Tiles, codec: Linear, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Step 3: the scale is the range times 1 / (number of steps in it); a scale below 2^-100 is 0."""
    steps = (1 << (codec.bits - 1)) - 1 if codec.symmetric else (1 << codec.bits) - 1
    above, below = (tiles.absmax(run), jnp.uint32(0)) if codec.symmetric else tiles.extremes(run)
    absmax = jnp.maximum(above, below)
    lower = jnp.where(absmax >= BIG_SCALE, LOWER, jnp.uint32(0))  # so that the sum of both does not overflow
    extent = as_float(lowered(above, lower)) + as_float(lowered(below, lower))
    scale = as_bits(extent * (np.float32(1) / np.float32(steps))) + lower
    scale = jnp.where(scale >= MIN_SCALE, scale, jnp.uint32(0))
    scale = jnp.where(absmax >= INFINITY, NAN, scale)
    zero = jnp.rint(scale_run(below, scale)).astype(jnp.int32) - (1 << (codec.bits - 1))
    zero = jnp.where((scale != 0) & (scale != NAN), zero, 0)
    return as_float(scale), zero.astype(jnp.int8)


def foreign_scales(run: jax.Array, tiles: Tiles, codec: Linear, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Step 3 in compressed-tensors' flavour: the range divided by its steps, every operation rounded to the dtype."""
    steps = np.float32((1 << codec.bits) - 1)
    lowest, highest = np.float32(-(1 << (codec.bits - 1))), np.float32((1 << (codec.bits - 1)) - 1)
    above, below = (tiles.absmax(run), jnp.uint32(0)) if codec.symmetric else tiles.extremes(run)
    absmax = jnp.maximum(above, below)
    extent = rounded(as_bits(as_float(above) + as_float(below)), dtype)
    divisor = as_bits(jnp.float32(steps / 2 if codec.symmetric else steps))
    scale = rounded(div_rn(extent, divisor), dtype)
    quotient = jnp.where(scale != 0, rounded(div_rn(below, scale), dtype), INFINITY)  # infinite without a scale
    zero = as_float(rounded(as_bits(lowest + as_float(quotient)), dtype))
    zero = jnp.rint(jnp.clip(zero, lowest, highest)).astype(jnp.int32)
    nan, tiny = scale >= INFINITY, absmax < MIN_SCALE
    zero = jnp.where(nan | tiny | ((scale | below) == 0), 0, zero)
    scale = jnp.where(nan, NAN, jnp.where(tiny | (scale == 0), EPSILON[KINDS[dtype]], scale))
    if not run.size:
        scale, zero = jnp.zeros_like(scale), jnp.zeros_like(zero)  # the whole of an empty array has a scale too
    return narrow(scale, dtype), zero.astype(jnp.int8)


def integers(run: jax.Array, scale: jax.Array, zero: Any, codec: Linear, dtype: str) -> jax.Array:
    """Steps 4 and 5. Our own rule rounds before it adds the zero point, the flavour after."""
    low, high = np.float32(codec.lowest), np.float32((1 << (codec.bits - 1)) - 1)
    if codec.flavour is None:
        y = scale_run(run, scale)
        y = jnp.where(jnp.isnan(y), np.float32(0), y)
        v = jnp.rint(jnp.clip(y, np.float32(-1024), np.float32(1024))) + zero
        return jnp.clip(v, low, high).astype(jnp.int32)
    arithmetic = dtype if codec.arithmetic == "eager" else "float32"
    y = divided_run(run, scale)
    y = as_float(rounded(jnp.where(is_nan(y), jnp.uint32(0), y), arithmetic))
    v = as_float(rounded(as_bits(y + zero), arithmetic))
    return jnp.rint(jnp.clip(v, low, high)).astype(jnp.int32)
