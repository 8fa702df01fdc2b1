"""Codes in int32 words, as compressed-tensors and GPTQ store them, from and to the streams of our planes.

The library packs codes of `bits` bits in a dense little-endian stream as `linear` does, u = q + 2^(bits - 1), but
begins each row at a new word. So where a row fills whole words its planes are the same bytes; where it fills whole
bytes the padding is cut off; else rows are moved together by bits. Codes of 8 bits are two's complement in planes.
Until 0.17 a word held floor(32 / bits) whole codes, which for 3, 5, 6 and 7 bits leaves some of its bits unused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.blockwise import quantise_pieces
from arraycodec.primitives.grid import codes_shape
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.memory import bits as as_read
from arraycodec.primitives.memory import empty, writable_bits
from arraycodec.primitives.packing import load_dense, store_dense
from arraycodec.primitives.scales import RUN
from arraycodec.spec import ArraySpec

WORD = 32
PIECE = 1 << 20  # elements whose bits are taken apart at once
Shape = tuple[int, ...]


def words_per_row(columns: int, bits: int) -> int:
    """int32 words that a row of so many codes takes."""
    return -(-columns * bits // WORD)


def padded_words_per_row(columns: int, bits: int) -> int:
    """The same where no code is split between words, as until 0.17."""
    return -(-columns // (WORD // bits))


def codes_of(words: np.ndarray, bits: int, shape: Shape) -> np.ndarray:
    """The plane `codes` of an array of this shape, out of int32 words `(..., words_per_row)`.

    A view where rows are whole words, and codes narrower than 8 bits.

    >>> codes_of(np.array([[0x76543210], [0x7]], np.int32), 4, (2, 8)).tolist()
    [[16, 50, 84, 118], [7, 0, 0, 0]]
    """
    *rows, columns = shape
    stream = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return (stream[..., :columns] ^ np.uint8(0x80)).view(np.int8)
    if columns * bits % 8 == 0:
        return np.ascontiguousarray(stream[..., : columns * bits // 8])
    return _joined(stream.reshape(math.prod(rows), stream.shape[-1]), columns * bits)


def check_padding(words: np.ndarray, bits: int, columns: int) -> None:
    """CorruptError where rows of words hold more than so many codes: what follows the last one must be zero bits."""
    used = columns * bits % WORD
    if used and (np.ascontiguousarray(words[..., -1]).view(np.uint32) >> np.uint32(used)).any():
        raise CorruptError(f"rows must end in zero bits behind {columns} codes of {bits} bits")


def words_of(codes: np.ndarray, bits: int, shape: Shape) -> np.ndarray:
    """The inverse of `codes_of`: a plane of codes as int32 words, each row filled up with zero bits."""
    *rows, columns = shape
    width = 4 * words_per_row(columns, bits)
    if bits < 8 and columns * bits % 8:
        return _split(codes, math.prod(rows), columns * bits, width).view(np.int32).reshape(*rows, width // 4)
    stream = codes.view(np.uint8).reshape(*rows, columns * bits // 8)
    if bits == 8:
        stream = stream ^ np.uint8(0x80)
    if stream.shape[-1] != width:
        stream = np.pad(stream, [(0, 0)] * len(rows) + [(0, width - stream.shape[-1])])
    return np.ascontiguousarray(stream).view(np.int32)


def codes_of_padded(words: np.ndarray, bits: int, shape: Shape) -> np.ndarray:
    """`codes_of` for words `(..., padded_words_per_row)` in which no code is split."""
    return codes_of_integers(_unpadded(words, bits, shape[-1]), bits)


def integers_of(codes: np.ndarray, bits: int, shape: Shape) -> np.ndarray:
    """The int8 integers that a plane of codes stands for."""
    if bits == 8:
        return codes.reshape(shape)
    out = empty(ArraySpec(shape, "int8"))
    source, target = as_read(codes), writable_bits(out)
    quantise_pieces(target.size, lambda start, stop: integers_range(source, bits, target, start, stop))
    return out


def codes_of_integers(integers: np.ndarray, bits: int) -> np.ndarray:
    """The plane of codes of int8 integers; CorruptError where they do not fit into so many bits."""
    if bits == 8:
        return integers
    out = empty(ArraySpec(codes_shape(ArraySpec(integers.shape, "int8"), (1, 1), bits), "uint8"))
    source, target, found = as_read(integers), writable_bits(out), []

    def work(start: int, stop: int) -> None:
        found.append(codes_range(source, bits, target, start, stop))

    quantise_pieces(source.size, work)
    if any(found):
        half = 1 << (bits - 1)
        raise CorruptError(f"integers of {bits} bits must be in {-half}..{half - 1}, got {_outside(integers, half)}")
    return out


def integers_of_words(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """int8 integers `(..., columns)` out of int32 words: small planes, such as zero points."""
    shape = (*words.shape[:-1], columns)
    return integers_of(codes_of(words, bits, shape), bits, shape)


def zero_points_of(words: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """int8 zero points `(..., rows, groups)`, which are packed along their rows: words `(..., words_per_row, groups)`.

    >>> zero_points_of(np.array([[0x18, 0x8F]], np.int32), 4, 2).tolist()
    [[0, 7], [-7, 0]]
    """
    return _swapped(integers_of_words(_swapped(words), bits, rows))


def zero_points_of_padded(words: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """The same of words in which no zero point is split."""
    return _swapped(_unpadded(_swapped(words), bits, rows))


def zero_point_words(zero_points: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `zero_points_of`."""
    swapped = _swapped(zero_points)
    return _swapped(words_of(codes_of_integers(swapped, bits), bits, swapped.shape))


@kernel
def integers_range(codes, bits, out, start, stop):
    """The integers start..stop, as bytes; `start` is a multiple of 8."""
    q, offset = np.empty(RUN, np.uint8), np.uint8(1 << (bits - 1))
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        load_dense(codes, bits, at, count, q)
        target = out[at : at + count]
        for i in range(count):
            target[i] = np.uint8(q[i] - offset)


@kernel
def codes_range(integers, bits, codes, start, stop):
    """Pack the integers start..stop, given as bytes; whether one of them does not fit. `start` is a multiple of 8."""
    q, offset, outside = np.empty(RUN, np.uint8), np.uint8(1 << (bits - 1)), np.uint8(0)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        source = integers[at : at + count]
        for i in range(count):
            u = np.uint8(source[i] + offset)
            outside |= np.uint8(u >> np.uint8(bits))
            q[i] = u
        store_dense(q, codes, bits, at, count)
    return outside != 0


def _joined(rows: np.ndarray, width: int) -> np.ndarray:
    """The first `width` bits of each row of bytes, one row after another."""
    out = np.empty(-(-len(rows) * width // 8), np.uint8)
    for piece in _pieces(len(rows), width):
        stream = np.unpackbits(rows[piece], axis=1, count=width, bitorder="little")
        first = piece.start * width // 8
        out[first : first + -(-stream.size // 8)] = np.packbits(stream.reshape(-1), bitorder="little")
    return out


def _split(stream: np.ndarray, count: int, width: int, row_bytes: int) -> np.ndarray:
    """The inverse of `_joined`, each row filled up with zeros."""
    out = np.zeros((count, row_bytes), np.uint8)
    for piece in _pieces(count, width):
        part = stream[piece.start * width // 8 : -(-piece.stop * width // 8)]
        rows = np.unpackbits(part, count=(piece.stop - piece.start) * width, bitorder="little").reshape(-1, width)
        packed = np.packbits(rows, axis=1, bitorder="little")
        out[piece, : packed.shape[1]] = packed
    return out


def _unpadded(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """int8 integers `(..., columns)` out of words in which no code is split."""
    flat = np.ascontiguousarray(words).view(np.uint32).reshape(math.prod(words.shape[:-1]), words.shape[-1])
    shifts, mask = np.arange(WORD // bits, dtype=np.uint32) * np.uint32(bits), np.uint32((1 << bits) - 1)
    out = np.empty((len(flat), columns), np.int8)
    for piece in _pieces(len(flat), columns):
        codes = ((flat[piece, :, None] >> shifts) & mask).reshape(len(out[piece]), flat.shape[1] * len(shifts))
        out[piece] = codes[:, :columns].astype(np.int16) - (1 << (bits - 1))
    return out.reshape(*words.shape[:-1], columns)


def _pieces(rows: int, width: int) -> Iterator[slice]:
    """Runs of rows, each of which begins at a byte whatever the width of a row in bits is."""
    step = max(PIECE // max(width, 1) // 8, 1) * 8
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _swapped(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(-1, -2))


def _outside(integers: np.ndarray, half: int) -> int:
    """The first integer that is not in -half..half - 1."""
    flat = integers.reshape(-1)
    return int(flat[np.argmax((flat < -half) | (flat >= half))])
