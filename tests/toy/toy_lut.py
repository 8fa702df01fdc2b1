"""The lut codec in plain NumPy, written from docs/format/lut.md: distances to all levels of an element's book.

How levels are found is no part of the format: where none are given, they are those of the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from toy_linear import MIN_SCALE, NAN, pack, tile_numbers, times_reciprocal, unpack, without_subnormals

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

LARGEST = {"float32": 0x7F7F, "bfloat16": 0x7F7F, "float16": 0x477F}  # the largest bfloat16 that each can hold


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs = codec.planes(spec_of(array))
    planes = {name: given[name] for name in specs if name in given}
    if "codebook" not in planes:
        planes["codebook"] = codec.encode(array, given)["codebook"]
    if "scales" not in planes:
        planes["scales"] = scales(array, codec.block_size)
    scale = planes["scales"].astype(np.float32).ravel()[tile_numbers(array.shape, codec.block_size)[0]]
    q, book = integers(array, scale), np.arange(array.size) // book_length(codec, array.shape)
    codes, levels = np.zeros(array.size, np.uint8), planes["codebook"].astype(int)
    for start in range(0, array.size, 4096):
        piece = slice(start, start + 4096)
        codes[piece] = np.abs(levels[book[piece]] - q[piece, None]).argmin(1)
    planes["codes"] = pack(codes, codec.bits)
    return {name: np.asarray(planes[name]).reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    codes = unpack(planes["codes"].ravel(), codec.bits, spec.size)
    level = planes["codebook"][np.arange(spec.size) // book_length(codec, spec.known_shape), codes]
    scale = planes["scales"].astype(np.float32).ravel()[tile_numbers(spec.known_shape, codec.block_size)[0]]
    return values(level, scale, spec)


def book_length(codec: Any, shape: tuple[int, ...]) -> int:
    """The elements that share a book."""
    if isinstance(codec.scope, int):
        return codec.scope
    return max(int(np.prod(shape, dtype=int)) if codec.scope == "tensor" else (1, *shape)[-1], 1)


def scales(array: np.ndarray, block_size: Any) -> np.ndarray:
    """The largest magnitude of each tile, rounded up to bfloat16."""
    tile, count = tile_numbers(array.shape, block_size)
    with np.errstate(invalid="ignore"):  # signalling NaN
        magnitude = np.abs(array.astype(np.float32)).ravel()
    magnitude = np.where(np.isnan(magnitude), np.float32(np.inf), magnitude)
    absmax = np.zeros(count, np.float32)
    np.maximum.at(absmax, tile, magnitude)
    upper = (absmax.view(np.uint32).astype(np.int64) + 0xFFFF) >> 16
    upper = np.where(absmax < MIN_SCALE, 0, np.minimum(upper, LARGEST[array.dtype.name]))
    return np.where(np.isinf(absmax), 0x7FC0, upper).astype(np.uint16).view(ArraySpec((), "bfloat16").numpy_dtype)


def integers(array: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Multiples of 2^-15 of the scale, for a scale of each element."""
    with np.errstate(all="ignore"):
        usable = np.isfinite(scale) & (scale >= MIN_SCALE)
        x = without_subnormals(array.astype(np.float32)).ravel()
        y = np.where(usable, times_reciprocal(x, scale), np.float32(0)) * np.float32(32768)
        return np.clip(np.rint(np.where(np.isnan(y), np.float32(0), y)), -32767, 32767).astype(int)


def values(integer: np.ndarray, scale: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """integer * (scale * 2^-15), rounded once to float32 and once to the dtype."""
    with np.errstate(all="ignore"):
        used = np.where(np.abs(scale) < MIN_SCALE, np.float32(0), scale)
        value = integer.astype(np.float32) * (used * np.float32(2.0**-15))
        value = np.where(value == 0, np.float32(0), value).astype(spec.numpy_dtype)
        integer_dtype, nan = NAN[spec.dtype]
        value = np.where(np.isfinite(scale), value, np.array(nan, integer_dtype).view(spec.numpy_dtype))
    return value.reshape(spec.known_shape)
