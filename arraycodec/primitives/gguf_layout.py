"""The block types of ggml as kernels take them: where in the bytes of a tile of 256 elements its numbers lie."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.gguf_blocks import TRITS, TYPES, BlockType, Integers, places, small_products, steps

TILE = 256  # elements that are decoded together: one block of a large type, several of a small one
GROUP = 16  # elements that share a step in every type
PLAIN, HIGH, STREAM, TABLE = range(4)  # codes: as they are, with high bits in runs or in a stream, indices of a table
BYTE = np.uint32(255)


class Numbers(NamedTuple):
    """Integers of a tile as kernels take them: the byte and the shift of the low and of the high bits of each."""

    byte: np.ndarray  # uint64 (2, count), from the start of the tile
    shift: np.ndarray  # uint32 (2, count)
    masks: tuple[np.uint32, np.uint32]
    width: np.uint32  # of the low bits
    flip: np.uint32
    zero: np.int32


class Layout(NamedTuple):
    """A block type as kernels take it; tables that are not there are empty."""

    nbytes: int  # of a tile
    way: int  # PLAIN, HIGH, STREAM or TABLE
    d: np.ndarray  # uint64, the bytes of the factors of the blocks of a tile
    m: np.ndarray
    codes: Numbers  # the first of each group
    scales: Numbers  # one for each sub-block
    minima: Numbers
    short: Numbers  # all codes, where runs are shorter than a group; `codes` is then what `collect` makes of them
    trits: bool  # the shifts of `short` are powers of 3
    values: np.ndarray
    steps: np.ndarray
    small: np.ndarray  # products that are looked up


@cache
def layout_of(name: str) -> Layout:
    """The block type called `name`."""
    block = TYPES[name]
    low, high = block.codes.low, block.codes.high
    codes, short = _numbers(block, block.codes, GROUP), _numbers(block, block.codes, TILE)
    if min(field.run for field in low) < GROUP:
        byte = np.arange(0, TILE, GROUP, dtype=np.uint64)
        codes = codes._replace(byte=np.stack([byte, byte]), shift=np.zeros_like(codes.shift), masks=(BYTE, BYTE))
        short = _numbers(block, block.codes, 1)
    trits = low[0].bits == TRITS
    return Layout(
        nbytes=TILE // block.elements * block.nbytes,
        way=TABLE if block.values else PLAIN if high is None else STREAM if high.run == 1 else HIGH,
        d=_factors(block, block.d),
        m=_factors(block, block.m),
        codes=codes,
        scales=_numbers(block, block.scales, min(block.sub, 2 * GROUP)),
        minima=_numbers(block, block.minima, min(block.sub, 2 * GROUP)),
        short=short._replace(shift=3**short.shift) if trits else short,
        trits=trits,
        values=np.array(block.values or (), np.float32),
        steps=steps(block.steps).view(np.float32) if block.steps else np.zeros(0, np.float32),
        small=small_products() if block.steps == "e8m0" else np.zeros(0, np.uint32),
    )


def _factors(block: BlockType, at: int | None) -> np.ndarray:
    return np.arange(0 if at is None else TILE // block.elements, dtype=np.uint64) * block.nbytes + (at or 0)


def _numbers(block: BlockType, integers: Integers, stride: int) -> Numbers:
    """The integers of every `stride`-th element of a tile."""
    which, element = np.divmod(np.arange(0, TILE, stride), block.elements)
    byte, shift = np.zeros((2, which.size), np.uint64), np.zeros((2, which.size), np.uint32)
    masks, j = [np.uint32(0), np.uint32(0)], element * integers.size // block.elements
    for row, fields in enumerate([integers.low, (integers.high,) if integers.high else ()]):
        if fields:
            found = places(fields)
            byte[row], shift[row] = which * block.nbytes + found.byte[j], found.shift[j]
            masks[row] = np.uint32(fields[0].mask)
    width = np.uint32(integers.low[0].bits if integers.low else 0)
    return Numbers(byte, shift, (masks[0], masks[1]), width, np.uint32(integers.flip), np.int32(integers.zero))
