"""`Permuted` in plain jnp: columns are gathered along their axis, the others stay sharded as they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from arraycodec.base import Given, Planes
from arraycodec.codecs.permuted import Permuted
from arraycodec.spec import ArraySpec
from arraycodec_jax import arrays


def check(codec: Permuted, given: Given) -> None:
    """Raise ArgumentError where there is no order, or, if its values are at hand, where it is no permutation."""
    order = codec.taken(given)
    if arrays.at_hand(order):
        codec.permutation({"order": np.asarray(order)})


def encode(x: jax.Array, codec: Permuted, given: Given) -> Planes:
    """The planes of `x`."""
    order = jnp.asarray(given["order"])
    return {"order": order, "values": take(x, jnp.argsort(order), codec.sides(arrays.spec(x)))}


def decode(codec: Permuted, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    return take(planes["values"], planes["order"], codec.sides(spec))


def take(source: jax.Array, order: jax.Array, sides: tuple[int, int, int]) -> jax.Array:
    """Column j of the result is column order[j] of `source`; places out of range are the nearest ones in it."""
    columns = jnp.asarray(source).reshape(sides)
    return jnp.take(columns, order, axis=1, mode="clip").reshape(source.shape)
