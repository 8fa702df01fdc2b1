"""`Bitmask` in jnp: the steps of `arraycodec.codecs.bitmask` in the same order.

It decodes anywhere. It encodes outside of traces, where the number of values can be counted first; there and in traces
planes that lie about their number give some array, and nothing outside of an array is read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from arraycodec.base import Given, Planes
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import ArraySpec
from arraycodec_jax import arrays
from arraycodec_jax.data_dependent import from_words, to_words, word_of
from arraycodec_jax.sparse import pack_bits, unpack_bits


def check(codec: Bitmask, given: Given) -> None:
    """There is nothing to be given."""


def measured(codec: Bitmask, x: Any) -> int:
    """The number of values; UnsupportedByBackend in a trace."""
    if isinstance(x, Tracer) or arrays.staged():
        raise UnsupportedByBackend(
            "bitmask: the jax backend cannot encode in a trace, since the number of values depends on the data; "
            "outside of jit it can"
        )
    return int(_count(codec, x))


def encode(x: jax.Array, codec: Bitmask, given: Given, number: int) -> Planes:
    """The planes of `x`, of which so many elements are kept."""
    specs, words = codec.planes(arrays.spec(x)), to_words(x, word_of(codec, arrays.spec(x)))
    rows = (words if words.ndim else words[None]) & words.dtype.type(codec.mask(arrays.spec(x).dtype)) != 0
    counts = rows.sum(-1, dtype=jnp.int32).reshape(-1)
    places = jnp.nonzero(rows.reshape(-1), size=number)[0]
    values = words.reshape(-1)[places]
    return {
        "values": from_words(values, ArraySpec((number,), arrays.spec(x).dtype)),
        "bitmask": pack_bits(rows).reshape(specs["bitmask"].known_shape),
        "offsets": (jnp.cumsum(counts) - counts).astype(jnp.int32).reshape(specs["offsets"].known_shape),
    }


def decode(codec: Bitmask, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes."""
    word = word_of(codec, spec)
    columns = spec.known_shape[-1] if spec.shape else 1
    kept = unpack_bits(planes["bitmask"], columns).reshape(-1)
    values = to_words(planes["values"], word)
    if not values.size:
        return from_words(jnp.zeros(spec.size, word), spec)
    rank = jnp.cumsum(kept, dtype=jnp.int32) - 1
    return from_words(jnp.where(kept, values.at[rank].get(mode="clip"), word(0)), spec)


@partial(jax.jit, static_argnums=0)
def _count(codec: Bitmask, x: jax.Array) -> jax.Array:
    words = to_words(x, word_of(codec, arrays.spec(x)))
    return (words & words.dtype.type(codec.mask(arrays.spec(x).dtype)) != 0).sum(dtype=jnp.int32)
