"""What modules share of codecs whose planes have lengths that depend on the data: encoded on the host, decoded here."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from arraycodec.base import Codec, Given, Planes
from arraycodec.codecs.delta import Delta
from arraycodec.codecs.tied import Tied
from arraycodec.errors import CorruptError, UnsupportedByBackend
from arraycodec.spec import DTYPES, ArraySpec
from arraycodec_jax import arrays
from arraycodec_jax.rest import UINTS

MAX_ELEMENTS = 1 << 30  # places in a buffer of symbols, of twice that size, must fit 31 bits


def check(codec: Codec, given: Given) -> None:
    """Raise UnsupportedByBackend: the encoder runs on the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the encoder runs on the host, on unsharded CPU arrays outside of jit, since its planes have "
        "lengths or hashes that depend on the data"
    )


def encode(x: jax.Array, codec: Codec, given: Given) -> Planes:
    """Nothing: `check` comes before, and refuses."""
    return {}


def check_base(codec: Delta | Tied, planes: Planes, spec: ArraySpec, given: Given) -> None:
    """Raise CorruptError where the base has another spec or, if it lies on a CPU and is not traced, another hash."""
    base = given["base"] if "base" in given else codec.base(given)
    if arrays.at_hand(base) and arrays.at_hand(planes["hash"]):
        codec.check_base({"hash": np.asarray(planes["hash"])}, spec, np.asarray(base))
    elif (got := arrays.spec(base)) != spec:
        raise CorruptError(
            f"{codec.name}: the base must be {spec.dtype}{list(spec.shape)}, got {got.dtype}{list(got.shape)}"
        )


def word_of(codec: Codec, spec: ArraySpec) -> Any:
    """The unsigned integers in which an array is decoded; UnsupportedByBackend where there are none."""
    bits = DTYPES[spec.dtype].bits
    if bits not in UINTS or spec.size > MAX_ELEMENTS:
        raise UnsupportedByBackend(
            f"{codec.name}: the jax backend decodes at most 2^30 words of 8, 16 or 32 bits, got {spec.dtype}"
            f"{list(spec.shape)}; outside of jit, on unsharded CPU arrays, it decodes all"
        )
    return UINTS[bits]


def readable(plane: Any) -> bool:
    """Whether this process can read a plane now, from whatever device it lies on."""
    if isinstance(plane, Tracer):
        return False
    return not isinstance(plane, jax.Array) or plane.is_fully_addressable or plane.is_fully_replicated


def rounded_up(plane: jax.Array) -> jax.Array:
    """A plane with zeros after it, such that its length has four leading bits at most: few lengths, few programs."""
    return jnp.pad(plane, (0, -plane.size % (1 << max(plane.size.bit_length() - 4, 5))))


def enough(plane: jax.Array, size: int) -> jax.Array:
    """A plane of at least so many bytes: zeros follow one that is too short."""
    return jnp.pad(plane, (0, max(size - plane.size, 0)))


def to_words(x: jax.Array, word: Any) -> jax.Array:
    """The bits of an array as unsigned integers."""
    return x.astype(word) if x.dtype == bool else lax.bitcast_convert_type(x, word)


def from_words(words: jax.Array, spec: ArraySpec) -> jax.Array:
    """The inverse of `to_words`, in the array's shape."""
    if spec.dtype == "bool":
        return (words != 0).reshape(spec.known_shape)
    return lax.bitcast_convert_type(words, spec.numpy_dtype).reshape(spec.known_shape)
