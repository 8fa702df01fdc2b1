"""`Codebook` in plain jnp: the steps of `arraycodec.codecs.codebook` in the same order, traceable and shardable."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.codebook import Codebook
from arraycodec.errors import ArgumentError
from arraycodec.primitives import codebooks
from arraycodec.primitives.floats import INFINITY, MAGNITUDE, MIN_SCALE, NAN
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import at_hand, spec
from arraycodec_jax.packing import look_up, pack, pick, unpack
from arraycodec_jax.primitives import (
    as_bits,
    as_float,
    flushed,
    is_nan,
    mul_add,
    narrow,
    recip_rn,
    tree_sum,
    widen,
)
from arraycodec_jax.scales import join_blocks, largest, rows, scale_run, split_blocks, spread, stored_scale, used_scale


class Table(NamedTuple):
    """`codebooks.Table`, of constants or of traced arrays."""

    values: Any
    bounds: Any
    codes: np.ndarray

    @property
    def zero(self) -> jax.Array:
        """The code of 0.0, which pads an odd number of codes."""
        return jnp.asarray(self.codes)[jnp.sum(self.bounds < 0)]


SELECTED = 4  # levels of halving whose bounds come from selects; those below are looked up in memory


def check(codec: Codebook, given: Given) -> None:
    """Raise ArgumentError for a bad user's table, where its values are at hand; in a trace they are taken on trust."""
    table = {name: given[name] for name in ("codebook", "bounds") if name in given}
    if codec.table in codebooks.USER and all(map(at_hand, table.values())):
        values = {name: np.asarray(array) for name, array in table.items()}
        codec._check_table(codec.tables(values), ArgumentError)


def encode(x: jax.Array, codec: Codebook, given: Given) -> Planes:
    """The planes of `x`."""
    own = spec(x)
    table, specs, block = table_of(codec, given), codec.planes(own), codec.block_size
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    run = rows(flushed(widen(x)), own, block, codec.bits)
    if codec.offset:
        planes.setdefault("offset", mean(as_float(run)))
        run = flushed(as_bits(as_float(run) - as_float(flushed(as_bits(planes["offset"])))))
    n, run = run.shape[-1], split_blocks(run, block)
    planes.setdefault("absmax", as_float(usable(stored_scale(largest(run, block)), codec)))
    y = scale_run(run, spread(usable(as_bits(planes["absmax"]), codec), block))
    codes = join_blocks(encode_rank(y, table), block, n)
    planes["codes"] = pack(codes, codec.bits, table.zero)
    return {name: planes[name] for name in specs}


def decode(codec: Codebook, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    table, block = table_of(codec, planes), codec.block_size
    codes = unpack(planes["codes"], codec.bits)
    n = spec.size if codes.ndim == 1 else codes.shape[-1]  # an odd last code has a neighbour that is no element
    value = split_blocks(look_up(table.values, codes if codes.shape[-1] == n else codes[..., :n]), block)
    scale = spread(as_float(usable(used_scale(as_bits(planes["absmax"])), codec)), block)
    if codec.offset:
        u = as_bits(mul_add(value, scale, as_float(flushed(as_bits(planes["offset"])))))
    else:
        u = as_bits(value * scale)
    u = flushed(u)  # these selects also keep XLA from contracting the product with an add that the caller does next
    u = jnp.where(is_nan(u), NAN, u)
    return narrow(join_blocks(u, block, n), spec.dtype).reshape(spec.known_shape)


def usable(scale: jax.Array, codec: Codebook) -> jax.Array:
    """0 for scales whose products with the smallest entries of the table might be subnormal."""
    smallest = codec.min_scale
    return scale if smallest == MIN_SCALE else jnp.where((scale & MAGNITUDE) >= smallest, scale, jnp.uint32(0))


def encode_rank(y: jax.Array, table: Table) -> jax.Array:
    """Step 6 by halving: each level asks whether y is above the middle bound of those that are left."""
    above: list[jax.Array] = []
    half = (int(table.bounds.size) + 1) // 2
    while half and len(above) < SELECTED:
        above.append(y > pick(above, table.bounds[half - 1 :: 2 * half]))
        half //= 2
    if not half:
        return pick(above, table.codes)
    rank = pick(above, np.arange(0, int(table.bounds.size), 2 * half, dtype=np.int32))
    while half:
        rank = jnp.where(y > look_up(table.bounds, rank + (half - 1)), rank + half, rank)
        half //= 2
    return look_up(table.codes, rank)


def mean(x: jax.Array) -> jax.Array:
    """The mean as float32, by halves and a reciprocal; 0 where it is not finite or below 2^-100."""
    if not x.size:
        return jnp.zeros((), jnp.float32)
    count = as_bits(jnp.float32(x.size))
    value = tree_sum(x.reshape(x.size)) * as_float(recip_rn(count))
    magnitude = as_bits(value) & MAGNITUDE
    return jnp.where((magnitude >= MIN_SCALE) & (magnitude < INFINITY), value, np.float32(0))


def table_of(codec: Codebook, planes: Given) -> Table:
    """The table in force: a built-in one as constants, or the user's among the planes."""
    if codec.table not in codebooks.USER or "codebook" not in planes:
        found = codec.tables(planes)  # raises where the plane is missing
        return Table(found.values, found.bounds, found.codes)
    values: Any = jnp.asarray(planes["codebook"])
    bounds = jnp.asarray(planes["bounds"]) if "bounds" in planes else codebooks.midpoints(values)
    bounds = jnp.where(bounds == 0, codebooks.JUST_ABOVE_ZERO, bounds)
    return Table(values, bounds, np.arange(values.size, dtype=np.uint8))
