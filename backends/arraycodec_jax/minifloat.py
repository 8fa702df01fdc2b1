"""`Minifloat` in plain jnp: the steps of `arraycodec.codecs.minifloat` in the same order, traceable and shardable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.primitives.floats import EPSILON, INFINITY, KINDS, MIN_SCALE, NAN
from arraycodec.primitives.formats import FORMATS
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.casts import as_dtype, float32_to_small, small_to_float32
from arraycodec_jax.grid import Tiles, tiles_of
from arraycodec_jax.primitives import as_bits, as_float, div_rn, flushed, narrow, rounded, signed_flushed, widen
from arraycodec_jax.scales import divided_run, multiplied_run, scale_run


def check(codec: Minifloat, given: Given) -> None:
    """Any scales may be given."""


def encode(x: jax.Array, codec: Minifloat, given: Given) -> Planes:
    """The planes of `x`."""
    own = spec(x)
    specs, tiles = codec.planes(own), tiles_of(own, codec.block_size if codec.scaled else (1, 1), codec.bits)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    run = signed_flushed(widen(x))
    if not codec.scaled:
        codes = float32_to_small(run, codec.casting).reshape(tiles.shape)
    else:
        run = tiles.split(run)
        if "scales" not in planes:
            find = own_scales if codec.flavour is None else foreign_scales
            planes["scales"] = find(run, tiles, np.float32(FORMATS[codec.format].largest), specs["scales"].dtype)
        y = scaled(run, tiles.spread(widen(planes["scales"])), codec, own.dtype)
        codes = tiles.join(float32_to_small(y, codec.casting))
    planes["codes"] = as_dtype(tiles.store(codes, codec.bits, specs["codes"]), specs["codes"].dtype)
    return {name: planes[name] for name in specs}


def decode(codec: Minifloat, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size if codec.scaled else (1, 1), codec.bits)
    value = small_to_float32(tiles.load(as_dtype(planes["codes"], "uint8"), codec.bits), codec.format)
    if not codec.scaled:
        return narrow(value, spec.dtype).reshape(spec.known_shape)
    scale = tiles.spread(widen(planes["scales"]))
    return tiles.join(multiplied_run(as_float(tiles.split(value)), scale, spec.dtype)).reshape(spec.known_shape)


def own_scales(run: jax.Array, tiles: Tiles, largest: np.float32, dtype: str) -> jax.Array:
    """Step 3: absmax times the reciprocal of the format's largest number; a scale below 2^-100 is 0."""
    absmax = tiles.absmax(run)
    scale = as_bits(as_float(absmax) * (np.float32(1) / largest))
    scale = jnp.where(scale >= MIN_SCALE, scale, jnp.uint32(0))
    return as_float(jnp.where(absmax >= INFINITY, NAN, scale))


def foreign_scales(run: jax.Array, tiles: Tiles, largest: np.float32, dtype: str) -> jax.Array:
    """Step 3 in compressed-tensors' flavour: the quotient rounded to the dtype, and its eps where that is too small."""
    absmax = tiles.absmax(run)
    scale = rounded(div_rn(absmax, as_bits(jnp.float32(largest))), dtype)
    scale = jnp.where(scale >= MIN_SCALE, scale, EPSILON[KINDS[dtype]])
    scale = jnp.where(absmax >= INFINITY, NAN, scale)
    if not run.size:
        scale = jnp.zeros_like(scale)  # the whole of an empty array has a scale too
    return narrow(scale, dtype)


def scaled(run: jax.Array, scale: jax.Array, codec: Minifloat, dtype: str) -> jax.Array:
    """Step 4: the bits of the elements divided by their scales."""
    if codec.flavour is None:
        return as_bits(scale_run(run, scale))
    return flushed(rounded(divided_run(run, scale), dtype if codec.arithmetic == "eager" else "float32"))
