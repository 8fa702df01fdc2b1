"""The JAX backend: the functions of `arraycodec.reference`, for JAX arrays and tracers.

Arrays on one CPU device run the NumPy reference on their own memory. Traced arrays become part of the trace around
them, as plain jnp; sharded arrays and those on other devices run the same jnp compiled, and keep their sharding.
Importing this package makes `arraycodec.Encoded` a pytree: its planes are the leaves, at `.planes['codes']` and so on.
"""

from __future__ import annotations

from typing import Any

import jax

from arraycodec.base import Codec, Encoded, Given, Planes
from arraycodec.spec import ArraySpec
from arraycodec_jax.arrays import concrete, empty, fitting, from_numpy, put, sharded, spec, stack, to_numpy
from arraycodec_jax.implementations import CODECS, IMPLEMENTATIONS, choose
from arraycodec_jax.matmul import dequant_matmul

__all__ = [
    "CODECS",
    "IMPLEMENTATIONS",
    "NAME",
    "choose",
    "concrete",
    "decode",
    "decode_batch",
    "dequant_matmul",
    "empty",
    "encode",
    "fitting",
    "from_numpy",
    "put",
    "sharded",
    "spec",
    "stack",
    "to_numpy",
]

NAME = "jax"


def encode(x: jax.Array, codec: Codec, given: Given) -> Planes:
    """The planes of `x`, on its device or sharded as it is; autodiff sees constants."""
    return IMPLEMENTATIONS[choose(x, *given.values())].encode(x, codec, given)


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> jax.Array:
    """The array of these planes, on their device or sharded as they are."""
    return IMPLEMENTATIONS[choose(*planes.values(), *given.values())].decode(codec, planes, spec, given, out)


def decode_batch(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, batch: tuple[int, ...]) -> jax.Array:
    """The arrays of planes that carry the leading axes `batch`, under the same axes: one traced decode, not many."""
    how = IMPLEMENTATIONS[choose(*planes.values(), *given.values())]
    return how.decode_batch(codec, planes, spec, given, batch)


jax.tree_util.register_dataclass(Encoded, data_fields=["planes"], meta_fields=["codec", "spec"])
