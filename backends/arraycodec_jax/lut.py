"""`Lut` in plain jnp: the steps of `arraycodec.codecs.lut` in the same order, but for training; traceable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from arraycodec.base import Given, Planes
from arraycodec.codecs.lut import Lut
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.cells import LOWEST
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.normal import integers_of, scales_of, values_of
from arraycodec_jax.packing import look_up
from arraycodec_jax.primitives import signed_flushed, widen
from arraycodec_jax.scales import multiplied_run


def check(codec: Lut, given: Given) -> None:
    """Raise UnsupportedByBackend where no codebook is given."""
    if "codebook" not in given:
        raise UnsupportedByBackend(
            f"{codec.name}: codebooks are trained on the host, on unsharded CPU arrays outside of jit; give a codebook"
        )


def encode(x: jax.Array, codec: Lut, given: Given) -> Planes:
    """The planes of `x` with the codebook that is given."""
    own = spec(x)
    specs, tiles = codec.planes(own), tiles_of(own, codec.block_size, codec.bits)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    run = tiles.split(signed_flushed(widen(x)))
    if "scales" not in planes:
        planes["scales"] = scales_of(tiles.absmax(run), own.dtype)
    q = tiles.join(integers_of(run, tiles.spread(widen(planes["scales"]))))
    codes = nearest_code(q, bounds_of(planes["codebook"]), book_of(q, codec, own), codec.levels)
    planes["codes"] = tiles.store(codes.astype(jnp.uint8), codec.bits, specs["codes"])
    return {name: planes[name] for name in specs}


def decode(codec: Lut, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, codec.bits)
    codes = tiles.load(planes["codes"], codec.bits).astype(jnp.int32)
    index = book_of(codes, codec, spec) * codec.levels + codes
    value = look_up(values_of(planes["codebook"]).reshape(planes["codebook"].size), index)
    scale = tiles.spread(widen(planes["scales"]))
    return tiles.join(multiplied_run(tiles.split(value), scale, spec.dtype)).reshape(spec.known_shape)


def bounds_of(levels: jax.Array) -> jax.Array:
    """The largest number whose code is at most that of each level but the last, int32 (books, levels - 1)."""
    low, high = levels[:, :-1].astype(jnp.int32), levels[:, 1:].astype(jnp.int32)
    return lax.cummin(jnp.where(low == high, LOWEST - 1, (low + high) >> 1), axis=1, reverse=True)


def book_of(codes: jax.Array, codec: Lut, spec: ArraySpec) -> Any:
    """The book of each element, in the shape of the codes; 0 where there is one."""
    length = codec.length(spec)
    return 0 if spec.size <= length else (jnp.arange(codes.size) // length).reshape(codes.shape)


def nearest_code(q: jax.Array, bounds: jax.Array, book: Any, levels: int) -> jax.Array:
    """Step 4: the number of bounds of its book below each integer, by halving."""
    table, first, code, step = bounds.reshape(bounds.size), book * (levels - 1), jnp.zeros_like(q), levels >> 1
    while step:
        code = jnp.where(look_up(table, first + code + (step - 1)) < q, code + step, code)
        step >>= 1
    return code
