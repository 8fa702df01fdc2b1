"""The linear codec in plain NumPy, written from docs/format/linear.md: whole arrays, a tile number for each element."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

MIN_SCALE, SMALLEST_NORMAL, BIG = np.float32(2**-100), np.float32(2**-126), np.float32(2.0**126)
EPSILON = {"float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}
NAN = {"float32": (np.uint32, 0x7FC00000), "bfloat16": (np.uint16, 0x7FC0), "float16": (np.uint16, 0x7E00)}


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs, own = codec.planes(spec_of(array)), codec.flavour is None
    tile, count = tile_numbers(array.shape, codec.block_size)
    with np.errstate(all="ignore"):
        x = without_subnormals(array.astype(np.float32)).ravel()
        if "scales" in given:
            planes = dict(given)
        else:
            above, below = np.zeros(count, np.float32), np.zeros(count, np.float32)
            np.maximum.at(above, tile, np.where(x < 0, np.float32(0), x))
            np.maximum.at(below, tile, np.where(x < 0, -x, np.float32(0)))
            planes = own_scales(codec, above, below) if own else foreign_scales(codec, above, below, array.dtype)
            if not array.size:
                planes = {name: np.zeros_like(plane) for name, plane in planes.items()}
        scale = planes["scales"].astype(np.float32).ravel()[tile]
        zero = planes["zero_points"].astype(np.float32).ravel()[tile] if not codec.symmetric else np.float32(0)
        usable = np.isfinite(scale) & (scale >= MIN_SCALE)
        half, low, high = 2 ** (codec.bits - 1), codec.lowest, 2 ** (codec.bits - 1) - 1
        if own:
            y = np.where(usable, times_reciprocal(x, scale), np.float32(0))
            y = np.where(np.isnan(y), np.float32(0), y)
            q = np.clip(np.rint(np.clip(y, -1024, 1024)) + zero, low, high)
        else:
            narrow = array.dtype if codec.arithmetic == "eager" else np.dtype(np.float32)
            y = np.where(usable, x / scale, np.float32(0)).astype(narrow).astype(np.float32)
            y = (y + zero).astype(narrow).astype(np.float32)
            q = np.rint(np.clip(np.where(np.isnan(y), np.float32(0), y), low, high))
    q = q.astype(np.int8)
    planes["codes"] = q if codec.bits == 8 else pack((q + half).astype(np.uint8), codec.bits)
    return {name: planes[name].reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    tile, _ = tile_numbers(spec.known_shape, codec.block_size)
    codes = planes["codes"].ravel()
    q = codes if codec.bits == 8 else unpack(codes, codec.bits, spec.size).astype(int) - 2 ** (codec.bits - 1)
    with np.errstate(all="ignore"):
        scale = planes["scales"].astype(np.float32).ravel()
        scale = np.where(np.abs(scale) < MIN_SCALE, np.float32(0), scale)[tile]
        zero = planes["zero_points"].astype(int).ravel()[tile] if not codec.symmetric else 0
        value = (q.astype(int) - zero).astype(np.float32) * scale
        value = np.where(value == 0, np.float32(0), value)
        integer, nan = NAN[spec.dtype]
        canonical = np.array(nan, integer).view(spec.numpy_dtype)
        value = np.where(np.isfinite(scale), value.astype(spec.numpy_dtype), canonical)
    return value.reshape(spec.known_shape)


def tile_numbers(shape: tuple[int, ...], block_size: Any) -> tuple[np.ndarray, int]:
    """The tile of each element, and how many tiles there are."""
    size = int(np.prod(shape, dtype=int))
    if not isinstance(block_size, tuple):
        block = block_size or max(size, 1)
        return np.arange(size) // block, max(-(-size // block), int(block_size is None))
    *matrices, rows, columns = (1, 1, *shape)
    height, width = block_size[0] or max(rows, 1), block_size[1] or max(columns, 1)
    down, across = -(-rows // height), -(-columns // width)
    matrix, row, column = np.indices((int(np.prod(matrices)), rows, columns)).reshape(3, -1)
    return (matrix * down + row // height) * across + column // width, int(np.prod(matrices)) * down * across


def own_scales(codec: Any, above: np.ndarray, below: np.ndarray) -> Planes:
    steps = 2 ** (codec.bits - 1) - 1 if codec.symmetric else 2**codec.bits - 1
    absmax = np.maximum(above, below)
    lower = np.where(absmax >= BIG, np.float32(0.0625), np.float32(1))
    extent = absmax * lower
    if not codec.symmetric:
        extent = without_subnormals(above * lower) + without_subnormals(below * lower)
    scale = extent * (np.float32(1) / np.float32(steps)) / lower
    scale = np.where(scale < MIN_SCALE, np.float32(0), scale)
    scale = np.where(np.isfinite(absmax), scale, np.float32(np.nan))
    if codec.symmetric:
        return {"scales": scale}
    steps_below = np.where(scale >= MIN_SCALE, times_reciprocal(below, scale), np.float32(0))
    zero = np.where(scale >= MIN_SCALE, np.rint(steps_below) - 2 ** (codec.bits - 1), 0)
    return {"scales": scale, "zero_points": zero.astype(np.int8)}


def foreign_scales(codec: Any, above: np.ndarray, below: np.ndarray, dtype: np.dtype) -> Planes:
    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(dtype).astype(np.float32)

    absmax, low, high = np.maximum(above, below), -(2 ** (codec.bits - 1)), 2 ** (codec.bits - 1) - 1
    steps = np.float32(2**codec.bits - 1)
    scale = rounded(absmax / (steps / 2)) if codec.symmetric else rounded(rounded(above + below) / steps)
    zero = np.clip(rounded(np.float32(low) + rounded(below / scale)), low, high)
    zero = np.rint(np.where(np.isnan(zero) | (absmax < MIN_SCALE) | ~np.isfinite(scale), np.float32(0), zero))
    scale = np.where((scale == 0) | (absmax < MIN_SCALE), np.float32(EPSILON[dtype.name]), scale)
    integer, nan = NAN[dtype.name]
    scale = np.where(np.isfinite(scale), scale.astype(dtype), np.array(nan, integer).view(dtype))
    return {"scales": scale} | ({} if codec.symmetric else {"zero_points": zero.astype(np.int8)})


def times_reciprocal(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    lower = np.where(scale >= BIG, np.float32(0.0625), np.float32(1))
    return without_subnormals(x * lower) * (np.float32(1) / (scale * lower))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    stream = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(stream.ravel(), bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    stream = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(stream, axis=1, bitorder="little")[:, 0] if count else np.zeros(0, np.uint8)


def without_subnormals(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.float32(0), x)
