"""`LLMInt8` in plain jnp: the steps of `arraycodec.codecs.llm_int8` in the same order, traceable and shardable.

With a threshold it decodes but does not encode: how many columns hold outliers is not known to a trace.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.llm_int8 import EIGHT, STEPS, UNIT, LLMInt8
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.floats import BIG_SCALE, INFINITY, LOWER, MAGNITUDE, MIN_SCALE, NAN, ONE
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import spec
from arraycodec_jax.primitives import as_bits, as_float, flushed, is_nan, narrow, recip_rn, widen
from arraycodec_jax.scales import lowered, stored_scale, used_scale


def check(codec: LLMInt8, given: Given) -> None:
    """Raise UnsupportedByBackend with a threshold."""
    if codec.threshold:
        raise UnsupportedByBackend(
            "llm_int8: the jax backend cannot encode with a threshold in a trace or on sharded arrays, since the "
            "number of outlier columns depends on the data; outside of jit, on unsharded CPU arrays, it can"
        )


def encode(x: jax.Array, codec: LLMInt8, given: Given) -> Planes:
    """The planes of `x`."""
    specs = codec.planes(spec(x))
    run = flushed(widen(x if x.ndim else x.reshape(1)))
    if "scales" in given:
        scales = jnp.asarray(given["scales"])
    else:
        absmax = jnp.max(run & MAGNITUDE, axis=-1, keepdims=True, initial=0)
        scales = as_float(stored_scale(absmax if run.size else absmax[..., : run.shape[-1]]))
    y = steps_run(run, as_bits(scales))
    return {"codes": integers(y).reshape(specs["codes"].known_shape), "scales": scales}


def decode(codec: LLMInt8, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    q, scale = planes["codes"].astype(jnp.float32), used_scale(as_bits(planes["scales"]))
    finite = ((scale & MAGNITUDE) < INFINITY) & (scale != 0)
    scale = as_float(jnp.where(finite, scale - EIGHT, scale))
    # The selection between the products keeps XLA from multiplying constants among them first.
    u = as_bits(as_float(flushed(as_bits((q if q.ndim else q.reshape(1)) * scale))) * UNIT.view(np.float32))
    decoded = narrow(jnp.where(is_nan(u), NAN, u), spec.dtype)
    if codec.threshold:
        outliers = planes["outliers"]
        same = outliers.dtype == decoded.dtype
        placed = outliers if same else narrow(widen(outliers), spec.dtype)
        decoded = decoded.at[..., planes["outlier_columns"]].set(placed)
    return decoded.reshape(spec.known_shape)


def steps_run(run: jax.Array, absmax: jax.Array) -> jax.Array:
    """Step 4; y is 0 where the scale is NaN, 0 or negative."""
    usable = (absmax >= MIN_SCALE) & (absmax < INFINITY)
    lower = jnp.where(usable & (absmax >= BIG_SCALE), LOWER, jnp.uint32(0))
    inverse = as_float(recip_rn(jnp.where(usable, absmax - lower, ONE))) * np.float32(STEPS)
    run = jnp.where(lower > 0, lowered(run, lower), run)
    return as_float(jnp.where(usable, run, jnp.uint32(0))) * inverse


def integers(y: jax.Array) -> jax.Array:
    """Step 5."""
    y = jnp.where(jnp.isnan(y), np.float32(0), y)
    return jnp.rint(jnp.clip(y, -STEPS, STEPS)).astype(jnp.int8)
