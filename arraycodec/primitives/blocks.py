"""Blocks: consecutive elements of the flattened array that share a scale, and the shapes their planes have."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.errors import ArgumentError
from arraycodec.spec import ArraySpec

PIECE = 1 << 16  # elements that are looked at together where a mask is needed


def check_block_size(codec: str, block_size: int | None) -> None:
    """Raise unless `block_size` is a positive int, or None for one block that is the whole array."""
    if block_size is not None and not is_positive(block_size):
        raise ArgumentError(f"{codec}: block_size must be an integer >= 1 or None (whole tensor), got {block_size!r}")


def is_positive(number: object) -> bool:
    """Whether this is an int of at least 1, and not a bool."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def block_length(spec: ArraySpec, block_size: int | None) -> int:
    """Elements per block: `block_size`, but no more than those of the whole array, which None means; at least 1."""
    whole = max(spec.size, 1)
    return min(block_size or whole, whole)


def keeps_axes(spec: ArraySpec, block_size: int | None, bits: int) -> bool:
    """Whether the planes keep the leading axes, because every row is whole blocks and whole bytes.

    The bytes are the same as those of flat planes; but a row of the array is a row of its planes, and a shard too.
    """
    columns = spec.shape[-1] if spec.shape else None
    return columns is not None and columns % (block_size or 1) == 0 and columns * bits % 8 == 0


def codes_spec(spec: ArraySpec, block_size: int | None, bits: int) -> ArraySpec:
    """uint8 plane of packed codes: `(..., columns * bits / 8)`, or flat and rounded up to a byte."""
    if keeps_axes(spec, block_size, bits):
        *rows, columns = spec.known_shape
        return ArraySpec((*rows, columns * bits // 8), "uint8")
    return ArraySpec((-(-spec.size * bits // 8),), "uint8")


def scales_spec(spec: ArraySpec, block_size: int | None, bits: int, dtype: str = "float32") -> ArraySpec:
    """Plane of one scale per block: `(..., columns / block)`, flat where `codes` is flat, `(1,)` for one block."""
    if block_size is None:
        return ArraySpec((1,), dtype)
    if keeps_axes(spec, block_size, bits):
        *rows, columns = spec.known_shape
        return ArraySpec((*rows, columns // block_size), dtype)
    return ArraySpec((-(-spec.size // block_size),), dtype)


def without_subnormals(x: np.ndarray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 numbers with exponent field 0 read as +0: what enters an add or comes out of one may be flushed."""
    kept = np.array(x, order="C")
    words = kept.reshape(-1).view(np.uint32)
    for start in range(0, words.size, PIECE):  # no mask of the whole array is ever made
        piece = words[start : start + PIECE]
        piece[piece & np.uint32(0x7F800000) == 0] = 0
    return kept


def tree_sum(x: np.ndarray) -> np.float32:
    """The float32 sum by halves: zero-padded to a power of two, the upper half is added to the lower until one is left.

    The order is fixed, so every backend gets the same bits; a plain `sum` depends on threads and vector width.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        while x.size > 1:
            half = 1 << (x.size - 1).bit_length() - 1
            sums = without_subnormals(x[:half])
            # The padding is not made: zeros change no number that is no subnormal.
            sums[: x.size - half] += without_subnormals(x[half:])
            x = sums
    return without_subnormals(x)[0] if x.size else np.float32(0)
