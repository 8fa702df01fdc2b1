"""`DQ` in jnp: the codes by `lossless`, then all levels at once; encoding is the host's.

The bit z of a level, found code by code on the host, follows from parities alone: 1 / (1 + D + D^3) has period 7, so it
is a running sum, with steps of 7, of the parities 2, 3, 4 and 6 codes before (docs/format/dq.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from arraycodec.base import Given, Planes
from arraycodec.codecs.dq import CODES, DQ
from arraycodec.primitives.dependent import CENTRED, PERIOD, SEGMENT, TAPS, UNIT
from arraycodec.spec import ArraySpec
from arraycodec_jax import lossless
from arraycodec_jax.data_dependent import check, encode
from arraycodec_jax.primitives import as_bits
from arraycodec_jax.scales import multiplied_run

__all__ = ["check", "decode", "encode", "prepared"]


def prepared(codec: DQ, planes: Planes, spec: ArraySpec, given: Given) -> tuple[Planes, Any]:
    """As that of `lossless`, for the planes of the codes."""
    own = {name: planes[name] for name in ("scale", "centroids")}
    coded = {name: plane for name, plane in planes.items() if name not in own}
    padded, known = lossless.prepared(codec, coded, replace(spec, dtype=CODES), given)
    return own | padded, known


def decode(codec: DQ, planes: Planes, spec: ArraySpec, given: Given, known: Any = None) -> jax.Array:
    """The array of these planes."""
    codes = lossless.decode(codec, planes, replace(spec, dtype=CODES), given, known)
    y = centres(levels(codes.reshape(-1).astype(jnp.int32)), planes["centroids"]).astype(jnp.float32)
    return multiplied_run(y, as_bits(planes["scale"]), spec.dtype).reshape(spec.known_shape)


def levels(codes: jax.Array) -> jax.Array:
    """The levels of codes, int32."""
    before, behind = max(TAPS), -codes.size % SEGMENT
    parity = jnp.pad(jnp.pad(codes & 1, (0, behind)).reshape(-1, SEGMENT), ((0, 0), (before, 0)))
    q = jnp.stack([parity[:, before - tap : before - tap + SEGMENT] for tap in TAPS]).sum(0)
    z = jnp.cumsum(q.reshape(-1, SEGMENT // PERIOD, PERIOD), 1).reshape(-1)[: codes.size] & 1
    return 2 * codes + z


def centres(level: jax.Array, centroids: jax.Array) -> jax.Array:
    """Where levels stand, in 2^-8 half steps."""
    near = jnp.abs(level) <= CENTRED
    moved = centroids.astype(jnp.int32)[jnp.where(near, level + CENTRED, 0)]
    return UNIT * level + jnp.where(near, moved, 0)
