"""`TCQ` in plain jnp: the steps of `arraycodec.codecs.tcq` in the same order, but for training; traceable.

Rotations, which are sums of float64, are encoded on the host.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.primitives import normal, outliers
from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.rotated import root_bits
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import at_hand, spec
from arraycodec_jax.grid import tiles_of
from arraycodec_jax.normal import integer_weights, integers_of, scales_of, values_of
from arraycodec_jax.packing import look_up
from arraycodec_jax.paths import search, subsets_of
from arraycodec_jax.primitives import narrow, signed_flushed, widen
from arraycodec_jax.scales import multiplied_run


def check(codec: TCQ, given: Given) -> None:
    """Raise UnsupportedByBackend without a codebook, or with a rotation; ArgumentError where values can be seen."""
    if "codebook" not in given or codec.rotate:
        raise UnsupportedByBackend(
            f"{codec.name}: {'rotations' if 'codebook' in given else 'codebooks'} are for the host, on unsharded CPU "
            "arrays outside of jit; jax encodes arrays that are not rotated with a codebook that is given"
        )
    if at_hand(given["codebook"]):
        codec._check_levels(np.asarray(given["codebook"]), ArgumentError)
    if "importance" in given and at_hand(given["importance"]):
        importance = np.asarray(given["importance"])
        normal.integer_weights(codec.name, importance, importance.size)


def encode(x: jax.Array, codec: TCQ, given: Given) -> Planes:
    """The planes of `x` with the codebook that is given."""
    own = spec(x)
    specs, tiles = codec.planes(own), tiles_of(own, codec.block_size, codec.bits)
    planes: Planes = {name: jnp.asarray(given[name]) for name in specs if name in given}
    source = widen(x)
    if codec.outliers:
        source, planes["outliers"], positions = without_outliers(source, specs["outliers"])
        planes["outlier_positions"] = positions.astype(specs["outlier_positions"].dtype)
    run = tiles.split(signed_flushed(source))
    if "scales" not in planes:
        planes["scales"] = scales_of(tiles.absmax(run), own.dtype)
    q = tiles.join(integers_of(run, tiles.spread(widen(planes["scales"])))).reshape(rows_of(own, codec))
    weights = None
    if "importance" in given:
        shape = own.known_shape or (1,)
        weights = integer_weights(codec.name, jnp.asarray(given["importance"]), shape[-1])
        weights = jnp.broadcast_to(weights, shape).reshape(q.shape)
    codes = search(q, planes["codebook"], codec.states, weights).astype(jnp.uint8)
    planes["codes"] = tiles.store(codes.reshape(tiles.shape), codec.bits, specs["codes"])
    return {name: planes[name] for name in specs}


def decode(codec: TCQ, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    tiles = tiles_of(spec, codec.block_size, codec.bits)
    codes = tiles.load(planes["codes"], codec.bits).reshape(rows_of(spec, codec)).astype(jnp.int32)
    index = codes & ((1 << (codec.bits - 1)) - 1)
    level = look_up(
        planes["codebook"].astype(jnp.int32), index << 2 | subsets_of(codes >> (codec.bits - 1), codec.states)
    )
    value = values_of(level)
    if codec.rotate:
        value = values_of(turned_back(level, codec.rotate)) * np.float32(1 / (1 << root_bits(codec.rotate)))
    run = tiles.split(value.reshape(tiles.shape))
    out = tiles.join(multiplied_run(run, tiles.spread(widen(planes["scales"])), spec.dtype))
    if codec.outliers:
        out = with_outliers(out.reshape(spec.size), planes["outliers"], planes["outlier_positions"])
    return out.reshape(spec.known_shape)


def rows_of(spec: ArraySpec, codec: TCQ) -> tuple[int, ...]:
    """The shape whose last axis is the rows that paths lie along: the array's, or that of the flattened array."""
    shape: Any = spec.known_shape or (1,)
    return shape if isinstance(codec.block_size, tuple) else (spec.size,)


def without_outliers(source: jax.Array, plane: ArraySpec) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Step 1, on bits: the elements without outliers, the plane of outliers, and their positions."""
    flat = source.reshape(source.size)
    magnitude = flat & MAGNITUDE
    order = jnp.argsort(~jnp.where(magnitude < INFINITY, magnitude, jnp.uint32(0)), stable=True)
    positions = jnp.sort(order[: plane.size])
    u = look_up(flat, positions)
    finite = (u & MAGNITUDE) < INFINITY
    kept = jnp.where(finite, jnp.minimum(u & MAGNITUDE, outliers.LARGEST) | (u & ~MAGNITUDE), NAN)
    rest = put(flat, positions, jnp.where(finite, jnp.uint32(0), u))
    return rest.reshape(source.shape), narrow(kept, plane.dtype), positions


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
    return put(out, place, narrow(widen(outliers), out.dtype.name))


def put(x: jax.Array, positions: jax.Array, values: jax.Array) -> jax.Array:
    """A vector with other values at these positions; those behind its end are passed over."""
    sharding = jax.typeof(x).sharding
    explicit = AxisType.Explicit in (sharding.mesh.axis_types or ())  # then JAX wants to be told, and infers nothing
    how = {"out_sharding": sharding} if explicit else {}
    return x.at[positions].set(values, mode="drop", **how)
