"""The hash by which an array's content is known: xxh3-128 of its bytes, as the plane of a codec holds it.

It finds arrays that are equal and tells a wrong one from the right one; it is no defence against forgery.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec

HASH = ArraySpec((4,), "uint32")


def content_hash(x: np.ndarray) -> np.ndarray:
    """xxh3-128 (seed 0) of the array's bytes in row-major order, as four words, the least significant first.

    Shape and dtype are no part of it.

    >>> [f"{word:08x}" for word in content_hash(np.zeros(0, np.float32))]
    ['468d497f', '6001c324', '014798d8', '99aa06d3']
    """
    data: Any = bits(x).view(np.uint8)  # typing has no name for the buffer protocol before Python 3.12
    digest = xxhash.xxh3_128_intdigest(data)
    return np.array([digest >> 32 * i & 0xFFFFFFFF for i in range(4)], np.uint32)


def shown_hash(words: np.ndarray) -> str:
    """The 32 hex digits of a hash, as other tools write it: the most significant word first."""
    return "".join(f"{word:08x}" for word in reversed(words.tolist()))
