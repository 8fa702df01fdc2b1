"""The pqr codec in plain NumPy, written from docs/format/pqr.md: distances to all entries of a vector's book.

How entries and gains are found is no part of the format: they are those of the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from toy_linear import pack, tile_numbers, unpack, without_subnormals
from toy_lut import integers, scales, values

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs, planes = codec.planes(spec_of(array)), codec.encode(array, given)
    scope = {"tensor": None, "row": (1, None)}.get(codec.scope, codec.scope)
    own = codec.block_size if codec.codebook == "int16" else scope
    found = given["scales"].ravel() if "scales" in given else scales(array, own)
    scale = found.astype(np.float32)[tile_numbers(array.shape, own)[0]]
    q = vectors(integers(array, scale), codec.dim)
    books, book = planes["codebook"].reshape(-1, codec.entries, codec.dim), book_numbers(codec, array.shape)
    if codec.codebook == "float32":  # exact quotients
        wide = np.nan_to_num(found.astype(np.float64)[: len(books), None, None])
        unit = np.where(wide > 0, wide / 32768, 1)
        books = np.nan_to_num(books.astype(np.float64) / unit)
    books, code, first = books.astype(np.int64), np.zeros(len(q), np.int64), 0
    for m, width in enumerate(codec.stages):
        entries = books[:, first : first + (1 << width)][book]
        distance = ((entries - q[:, None]) ** 2).sum(2)
        index = distance.argmin(1)  # of equal ones the first
        q = q - entries[np.arange(len(q)), index]
        if codec.gain and m == 0:
            q = q << (8 - planes["gains"][book, index].astype(np.int64))[:, None]
        q, code, first = np.clip(q, -32767, 32767), code << width | index, first + (1 << width)
    planes = planes | {"codes": packed(code, codec.bits)}
    if codec.codebook == "int16":
        planes["scales"] = found
    return {name: np.asarray(planes[name]).reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    book, size = book_numbers(codec, spec.known_shape), spec.size
    code = unpacked(planes["codes"].ravel(), codec.bits, len(book))
    entries, first, below = [], 0, codec.bits
    for width in codec.stages:
        below -= width
        index = code >> below & (1 << width) - 1
        entries.append(planes["codebook"][book, first + index])
        first += 1 << width
    if codec.codebook == "int16":
        total, rest = entries[0].astype(np.int64), sum((e.astype(np.int64) for e in entries[1:]), np.int64(0))
        if codec.gain:
            gain = np.minimum(planes["gains"][book, code >> codec.bits - codec.stages[0]], 8)
            total, rest = total * 256, rest << gain.astype(np.int64)[:, None]
        scale = planes["scales"].astype(np.float32).ravel()[tile_numbers(spec.known_shape, codec.block_size)[0]]
        total = (total + rest).ravel()[:size].astype(np.float32) / np.float32(256 if codec.gain else 1)
        return values(total, scale, spec)
    with np.errstate(all="ignore"):
        total = without_subnormals(entries[0])
        for entry in entries[1:]:
            total = without_subnormals(total + without_subnormals(entry))
        narrow = total.ravel()[:size].astype(spec.numpy_dtype)
    nan = {"float32": (np.uint32, 0x7FC00000), "bfloat16": (np.uint16, 0x7FC0), "float16": (np.uint16, 0x7E00)}
    integer, word = nan[spec.dtype]
    canonical = np.array(word, integer).view(spec.numpy_dtype)
    return np.where(np.isnan(total.ravel()[:size]), canonical, narrow).reshape(spec.known_shape)


def vectors(q: np.ndarray, dim: int) -> np.ndarray:
    """Consecutive elements as vectors; zeros fill the last one."""
    return np.append(q, np.zeros(-q.size % dim, q.dtype)).reshape(-1, dim)


def book_numbers(codec: Any, shape: Any) -> np.ndarray:
    """The book of each vector: that of its first element."""
    size = int(np.prod(shape, dtype=int))
    length = {"tensor": size, "row": (1, *shape)[-1]}.get(codec.scope, codec.scope)
    return np.arange(0, size, codec.dim) // max(length, 1)


def packed(code: np.ndarray, bits: int) -> np.ndarray:
    """Codes of more than a byte: their bits one after another, the lowest first."""
    if bits <= 8:
        return pack(code.astype(np.uint8), bits)
    stream = (code[:, None] >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).ravel(), bitorder="little")


def unpacked(stream: np.ndarray, bits: int, count: int) -> np.ndarray:
    if bits <= 8:
        return unpack(stream, bits, count).astype(np.int64)
    found = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits).astype(np.int64)
    return (found << np.arange(bits)).sum(1)
