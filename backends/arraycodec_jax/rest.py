"""The rest of words, stored raw beside the streams: chunks of sections, one for each power of two in its width.

The widest section comes first and holds the lowest bits. Sections of whole bytes are little-endian integers; in those
of fewer bits, byte q of Q holds elements q, q + Q, q + 2Q, ... from its lowest bit on.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec_jax.streams import at

SECTIONS = (32, 16, 8, 4, 2, 1)
UINTS = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def section_bytes(length: Any, width: int) -> Any:
    """The bytes of a section of so many elements, which end at a multiple of 8."""
    return (length * width + 63) // 64 * 8


def chunk_bytes(length: Any, rest: Any) -> Any:
    """The bytes of the rest of so many bits of a stream of so many elements."""
    return sum(section_bytes(length, width) * ((rest // width) & 1) for width in SECTIONS)


def sections(chunks: jax.Array, length: int, rest: int, word: Any) -> jax.Array:
    """The rest of whole streams of one length, from the bytes of each along the last axis."""
    found, first, done = jnp.zeros((*chunks.shape[:-1], length), word), 0, 0
    for width in SECTIONS:
        if rest & width:
            own = chunks[..., first : first + -(-length * width // 8)]
            found |= section(own, length, width).astype(word) << done
            first += section_bytes(length, width)
            done += width
    return found


def section(own: jax.Array, length: int, width: int) -> jax.Array:
    """The elements of one section."""
    if width == 8:
        return own
    if width > 8:
        return lax.bitcast_convert_type(own.reshape(*own.shape[:-1], length, width // 8), UINTS[width])
    parts = (own[..., None, :] >> np.arange(0, 8, width, dtype=np.uint8)[:, None]) & ((1 << width) - 1)
    return parts.reshape(*own.shape[:-1], -1)[..., :length]


def look_up_rest(raw: jax.Array, first: jax.Array, length: jax.Array, place: jax.Array, rest: jax.Array) -> jax.Array:
    """The rest of single elements, uint32: of the `place`-th of a stream whose chunk begins at byte `first`."""
    found, done = jnp.zeros(place.shape, jnp.uint32), jnp.zeros(place.shape, jnp.uint32)
    for width in SECTIONS:
        if width >= 8:
            byte = first + place * (width // 8)
            part = sum(at(raw, byte + k).astype(jnp.uint32) << 8 * k for k in range(width // 8))
        else:
            size = jnp.maximum((length * width + 7) // 8, 1)
            part = at(raw, first + place % size).astype(jnp.uint32) >> (place // size * width)
            part &= (1 << width) - 1
        has = (rest & width) != 0
        found |= jnp.where(has, part << (done & 31), 0)
        first = first + jnp.where(has, section_bytes(length, width), 0)
        done = done + jnp.where(has, width, 0).astype(jnp.uint32)
    return found
