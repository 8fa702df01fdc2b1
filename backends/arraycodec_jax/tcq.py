"""`TCQ` in plain jnp: the steps of `arraycodec.codecs.tcq` in the same order, traceable. Encoding is for the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.levels import taps
from arraycodec.primitives.paths import PATH
from arraycodec.primitives.rotated import root_bits
from arraycodec.spec import ArraySpec
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.normal import values_of
from arraycodec_jax.packing import look_up
from arraycodec_jax.primitives import narrow, widen
from arraycodec_jax.scales import multiplied_run


def check(codec: TCQ, given: Given) -> None:
    """Raise UnsupportedByBackend: paths are searched by the reference."""
    raise UnsupportedByBackend(f"{codec.name}: the encoder runs on the host, on unsharded CPU arrays outside of jit")


def encode(x: jax.Array, codec: TCQ, given: Given) -> Planes:
    """Nothing: `check` comes before, and refuses."""
    return {}


def decode(codec: TCQ, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, codec.bits)
    shape: Any = (spec.known_shape or (1,)) if isinstance(codec.block_size, tuple) else (spec.size,)
    codes = tiles.load(planes["codes"], codec.bits).reshape(shape).astype(jnp.int32)
    index = codes & ((1 << (codec.bits - 1)) - 1)
    level = look_up(planes["codebook"].astype(jnp.int32), index << 2 | subsets_of(codes >> (codec.bits - 1), codec))
    value = values_of(level)
    if codec.rotate:
        value = values_of(turned_back(level, codec.rotate)) * np.float32(1 / (1 << root_bits(codec.rotate)))
    run = tiles.split(value.reshape(tiles.shape))
    out = tiles.join(multiplied_run(run, tiles.spread(widen(planes["scales"])), spec.dtype))
    if codec.outliers:
        out = with_outliers(out.reshape(spec.size), planes["outliers"], planes["outlier_positions"])
    return out.reshape(spec.known_shape)


def subsets_of(bits: jax.Array, codec: TCQ) -> jax.Array:
    """The subset of each element, from its bit and those of the elements before it in its path."""
    columns = bits.shape[-1]
    column, subset = jnp.arange(columns, dtype=jnp.int32) % PATH, jnp.zeros_like(bits)
    for d, tap in enumerate(taps(codec.states).tolist()):
        if tap and d < columns:
            before = jnp.pad(bits[..., : columns - d], [(0, 0)] * (bits.ndim - 1) + [(d, 0)])
            subset = subset ^ jnp.where(column >= d, before, 0) * tap
    return subset


def turned_back(level: jax.Array, n: int) -> jax.Array:
    """Levels rotated back, int32 in units of 2^-root of a level."""
    *leading, columns = level.shape
    whole = columns // n * n  # PATH is a multiple of n
    turned = butterflies(level[..., :whole].reshape(*leading, whole // n, n)) * signs(n, 0).astype(np.int32)
    return jnp.concatenate([turned.reshape(*leading, whole), level[..., whole:] << root_bits(n)], axis=-1)


def butterflies(y: jax.Array) -> jax.Array:
    """The product of the last axis with Sylvester's matrix: neighbours first, then those two apart, and so on."""
    n, step = y.shape[-1], 1
    while step < n:
        pairs = y.reshape(*y.shape[:-1], n // (2 * step), 2, step)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        y = jnp.stack([low + high, low - high], axis=-2).reshape(y.shape)
        step *= 2
    return y


def with_outliers(out: jax.Array, outliers: jax.Array, positions: jax.Array) -> jax.Array:
    """Outliers over elements; positions outside of the array are passed over."""
    place = jnp.where(positions < 0, out.size, positions)  # a negative one would count from the end
    sharding = jax.typeof(out).sharding
    explicit = AxisType.Explicit in (sharding.mesh.axis_types or ())  # then JAX wants to be told, and infers nothing
    how = {"out_sharding": sharding} if explicit else {}
    return out.at[place].set(narrow(widen(outliers), out.dtype.name), mode="drop", **how)
