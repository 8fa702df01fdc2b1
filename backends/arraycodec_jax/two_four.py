"""`TwoFour` in jnp: the steps of `arraycodec.codecs.two_four` in the same order, traceable and shardable.

Unless it prunes it encodes outside of traces, where it can be seen whether a group has more than two elements.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from arraycodec.base import Given, Planes
from arraycodec.codecs.two_four import TwoFour, values_per_row
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.bitmasks import kind_of
from arraycodec.primitives.sparse import FLOAT, FNUZ, SIGNED
from arraycodec.spec import ArraySpec
from arraycodec_jax import arrays
from arraycodec_jax.data_dependent import from_words, to_words, word_of
from arraycodec_jax.sparse import pack_bits, unpack_bits


def check(codec: TwoFour, given: Given) -> None:
    """There is nothing to be given."""


def measured(codec: TwoFour, x: Any) -> None:
    """Nothing, once the array is found to be 2:4 sparse where it must be; UnsupportedByBackend in a trace then."""
    if codec.prune:
        return
    if isinstance(x, Tracer) or arrays.staged():
        raise UnsupportedByBackend(
            "two_four: the jax backend cannot see in a trace whether groups have more than two elements that are not "
            "zero; prune=True keeps the two largest of any, and outside of jit arrays are looked at"
        )
    codec.refuse(int(_crowded(codec, x)), arrays.spec(x))


def encode(x: jax.Array, codec: TwoFour, given: Given, known: None = None) -> Planes:
    """The planes of `x`."""
    specs, words, keys = codec.planes(arrays.spec(x)), *grouped(codec, x)
    kept, columns = places_before(keys) < 2, x.shape[-1] if x.ndim else 1
    w0, w1, w2, w3 = (words[..., i] for i in range(4))
    first = jnp.where(kept[..., 0], w0, jnp.where(kept[..., 1], w1, w2))
    last = jnp.where(kept[..., 3], w3, jnp.where(kept[..., 2], w2, w1))
    pairs = jnp.stack([first, last], axis=-1)
    values, bits = _joined(pairs)[..., : values_per_row(columns)], _joined(kept)[..., :columns]
    own = ArraySpec(specs["values"].shape, arrays.spec(x).dtype)
    return {"values": from_words(values, own), "bitmask": pack_bits(bits).reshape(specs["bitmask"].known_shape)}


def decode(codec: TwoFour, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these planes; a third bit of a group reads zero."""
    word, columns = word_of(codec, spec), spec.known_shape[-1] if spec.shape else 1
    groups = -(-columns // 4)
    values = to_words(planes["values"], word)
    pairs = _groups(_padded(values, 2 * groups), 2)
    bits = _groups(unpack_bits(_padded(planes["bitmask"], -(-groups // 2)), 4 * groups), 4)
    rank = jnp.cumsum(bits, axis=-1, dtype=jnp.int32)
    found = jnp.where(bits & (rank <= 2), jnp.where(rank == 1, pairs[..., :1], pairs[..., 1:]), word(0))
    return from_words(_joined(found)[..., :columns], spec)


def grouped(codec: TwoFour, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Elements as unsigned integers, and their keys, in groups of four that end in zeros."""
    spec = arrays.spec(x)
    words = to_words(x if x.ndim else x[None], word_of(codec, spec))
    keys = rank_keys(words, kind_of(spec.dtype), not codec.drop_negative_zero)
    padded = -(-words.shape[-1] // 4) * 4
    return _groups(_padded(words, padded), 4), _groups(_padded(keys, padded), 4)


def rank_keys(words: jax.Array, kind: int, negative_zeros: bool) -> jax.Array:
    """Unsigned integers in the order of magnitudes, with NaN above all numbers."""
    sign = np.array(1 << 8 * words.dtype.itemsize - 1, words.dtype)
    if kind == SIGNED:
        return jnp.where(words >= sign, -words, words)
    if kind == FLOAT:
        return (words << 1) | ((words == sign) & negative_zeros).astype(words.dtype)
    return jnp.where(words == sign, ~np.zeros_like(sign), words << 1) if kind == FNUZ else words


def places_before(keys: jax.Array) -> jax.Array:
    """How many elements of its group rank before each."""
    k = [keys[..., i] for i in range(4)]
    b01, b02, b03, b12, b13, b23 = ((k[j] > k[i]).astype(jnp.int8) for i in range(4) for j in range(i + 1, 4))
    return jnp.stack([b01 + b02 + b03, 1 - b01 + b12 + b13, 2 - b02 - b12 + b23, 3 - b03 - b13 - b23], axis=-1)


@partial(jax.jit, static_argnums=0)
def _crowded(codec: TwoFour, x: jax.Array) -> jax.Array:
    return ((grouped(codec, x)[1] != 0).sum(-1) > 2).sum(dtype=jnp.int32)


def _padded(x: jax.Array, n: int) -> jax.Array:
    """Zeros after the last axis, which then has n elements."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n - x.shape[-1])])


def _joined(groups: jax.Array) -> jax.Array:
    """The inverse of `_groups`."""
    return groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])


def _groups(x: jax.Array, size: int) -> jax.Array:
    """The last axis as groups of this size."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)
