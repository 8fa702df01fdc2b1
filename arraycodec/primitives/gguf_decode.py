"""The block types of ggml on the CPU: their tables as kernels take them, and the kernels that decode tiles of 256.

The numbered steps are those of `arraycodec.codecs.gguf`. Indices of blocks are unsigned: a signed one might count from
the end, which keeps loops from being vectorised.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.floats import (
    BFLOAT16,
    FLOAT32,
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    float32_to_bfloat16,
    float32_to_half,
    half_to_float32,
)
from arraycodec.primitives.gguf_blocks import SMALLEST_NORMAL, TYPES, Integers, places, small_products, steps
from arraycodec.primitives.jit import inlined, kernel

TILE = 256  # elements that are decoded together: one block of a large type, several of a small one
GROUP = 16  # elements that share a step in every type
GROUPS = TILE // GROUP
NONE, ONE, THREE, EIGHT, EACH_BYTE = (np.uint64(number) for number in (0, 1, 3, 8, 0x0101010101010101))


class Numbers(NamedTuple):
    """Integers of sub-blocks as kernels take them: the byte and the shift of the low and of the high bits of each."""

    byte: np.ndarray  # uint8 (2, count)
    shift: np.ndarray
    masks: tuple[np.uint8, np.uint8]
    width: np.uint8  # of the low bits
    flip: np.uint8
    zero: np.int32


class Layout(NamedTuple):
    """A block type as kernels take it; numbers that are not there are -1, tables that are not there empty."""

    sizes: tuple[int, int, int]  # elements, bytes, elements of a sub-block
    factors: tuple[int, int]  # the bytes of d and m
    fields: np.ndarray  # uint64, of the codes: at, bits, run, turns, step, first, count, start, up
    code: tuple[np.uint8, np.int32]  # flip and zero
    scales: Numbers
    minima: Numbers
    values: np.ndarray
    steps: np.ndarray
    small: np.ndarray  # products that are looked up


@cache
def layout_of(name: str) -> Layout:
    """The block type called `name`."""
    block, rows, start = TYPES[name], [], 0
    for field in block.codes.low:
        rows.append([*field[:3], field.turns, field.step, field.first, field.size, start, 0])
        start += field.size
    if (high := block.codes.high) is not None:
        rows.append([*high[:3], high.turns, high.step, high.first, high.size, 0, block.codes.low[0].bits])
    return Layout(
        (block.elements, block.nbytes, block.sub),
        (-1 if block.d is None else block.d, -1 if block.m is None else block.m),
        np.array(rows, np.uint64),
        (np.uint8(block.codes.flip), np.int32(block.codes.zero)),
        _numbers(block.scales, block.scales.size),
        _numbers(block.minima, block.scales.size),
        np.array(block.values or (), np.float32),
        steps(block.steps).view(np.float32) if block.steps else np.zeros(0, np.float32),
        small_products() if block.steps == "e8m0" else np.zeros(0, np.uint32),
    )


def _numbers(integers: Integers, count: int) -> Numbers:
    byte, shift, masks = np.zeros((2, count), np.uint8), np.zeros((2, count), np.uint8), [np.uint8(0), np.uint8(0)]
    for row, fields in enumerate([integers.low, (integers.high,) if integers.high else ()]):
        if fields:
            byte[row], shift[row] = places(fields)
            masks[row] = np.uint8(fields[0].mask)
    width = np.uint8(integers.low[0].bits & 7 if integers.low else 0)
    return Numbers(byte, shift, (masks[0], masks[1]), width, np.uint8(integers.flip), np.int32(integers.zero))


@kernel
def decode_tiles(blocks, layout, out, kind, first, last):
    """Decode the tiles first..last of 256 elements each."""
    q, y = np.zeros((GROUPS // 2, 2 * GROUP), np.uint8), np.empty((GROUPS // 2, 2 * GROUP), np.float32)
    words, flat = q.reshape(-1).view(np.uint64), y.reshape(-1)
    unit, low = np.zeros(GROUPS, np.float32), np.zeros(GROUPS, np.float32)
    elements, nbytes, _ = layout.sizes
    for tile in range(first, last):
        block = tile * (TILE // elements)
        number = min(TILE // elements, blocks.size // nbytes - block)
        start = np.uint64(block * nbytes)
        load_codes(blocks, start, number, layout, words)  # 1
        ordinary = load_steps(blocks, start, number, layout, unit, low)  # 2
        if layout.values.size:  # 3
            look_up(q, layout.values, unit, y)
        else:
            combine(q, layout.code, unit, low, y)
        if not ordinary:
            settle(y, q, unit, layout.small)
        store(flat[: out.size - tile * TILE], kind, out[tile * TILE : (tile + 1) * TILE])  # 4


@inlined
def load_codes(blocks, start, number, layout, q):
    """The codes of blocks, eight at a time in a word, field by field."""
    elements, nbytes, _ = layout.sizes
    for f in range(layout.fields.shape[0]):
        at, bits, run, turns, step, first, count, to, up = layout.fields[f]
        mask, words, chunks = ((ONE << bits) - ONE) * EACH_BYTE, run >> THREE, count // (run * turns)
        for b in range(number):
            byte, target = start + np.uint64(b * nbytes) + at, (np.uint64(b * elements) + to) >> THREE
            if bits == NONE:
                load_trits(blocks, byte, run, turns, chunks, q, target)
            elif words == NONE:
                for k in range(count >> THREE):
                    q[target + k] |= spread_bits(blocks[byte + k]) << up
            else:
                for _ in range(chunks):
                    for t in range(turns):
                        down = first + t * step
                        for k in range(words):
                            w = (word_at(blocks, byte + k * EIGHT) >> down & mask) << up
                            q[target + k] = q[target + k] | w if up else w
                        target += words
                    byte += run


@inlined
def word_at(blocks, at):
    """Eight bytes as a little-endian word: one move."""
    w = np.uint64(0)
    for k in range(EIGHT):
        w |= np.uint64(blocks[at + k]) << (k * EIGHT)
    return w


@inlined
def spread_bits(byte):
    """The eight bits of a byte as the lowest bits of eight bytes."""
    w = np.uint64(byte) * EACH_BYTE & np.uint64(0x8040201008040201)
    return (w + np.uint64(0x7F7F7F7F7F7F7F7F)) >> np.uint64(7) & EACH_BYTE


@inlined
def load_trits(blocks, byte, run, turns, chunks, q, target):
    """Digits of base 3."""
    codes, to = q.view(np.uint8), target << THREE
    for _ in range(chunks):
        power = np.uint32(1)
        for _ in range(turns):
            for k in range(run):
                product = np.uint32(blocks[byte + k]) * power & np.uint32(255)
                codes[to + k] = np.uint8(product * np.uint32(3) >> np.uint32(8))
            to, power = to + run, np.uint32(power * np.uint32(3))
        byte += run


@inlined
def load_steps(blocks, start, number, layout, unit, low):
    """The step and the minimum of each group of a tile; whether all of them are ordinary numbers."""
    elements, nbytes, sub = layout.sizes
    steps, spread = layout.steps, sub // GROUP
    if layout.scales.masks[0] == 0:  # no integers: factors are the steps
        ordinary = load_factors(blocks, start, number, layout, layout.factors[0], unit)
        if layout.factors[1] >= 0:
            ordinary &= load_factors(blocks, start, number, layout, layout.factors[1], low)
            for g in range(GROUPS):
                low[g] *= np.float32(-layout.minima.zero)
        return ordinary
    ordinary, g = True, 0
    for b in range(number):
        byte = start + np.uint64(b * nbytes)
        d, m = half_at(blocks, byte, layout.factors[0]), half_at(blocks, byte, layout.factors[1])
        ordinary &= (d & INFINITY) != INFINITY and (m & INFINITY) != INFINITY
        for j in range(elements // sub):
            scale, minimum = integer_at(blocks, byte, layout.scales, j), as_float(m)
            if steps.size:
                step = steps[np.uint8(scale)]
                ordinary &= scale >= SMALLEST_NORMAL
            else:
                step = as_float(d) * np.float32(scale)
            if layout.factors[1] >= 0:
                minimum *= np.float32(integer_at(blocks, byte, layout.minima, j))
            for _ in range(spread):
                unit[g], low[g] = step, minimum
                g += 1
    return ordinary


@inlined
def load_factors(blocks, start, number, layout, at, out):
    """The float16 at a byte of each block for each of its groups; whether all are finite."""
    elements, nbytes, _ = layout.sizes
    groups, halves, greatest = elements // GROUP, out.view(np.uint32), np.uint32(0)
    for b in range(number):
        byte = start + np.uint64(b * nbytes + at)
        half = np.uint32(blocks[byte]) | np.uint32(blocks[byte + ONE]) << np.uint32(8)
        greatest = max(greatest, half & np.uint32(0x7FFF))
        for g in range(groups):
            halves[b * groups + g] = half
    for g in range(GROUPS):  # converted together: this loop vectorises
        halves[g] = half_to_float32(halves[g] & np.uint32(0xFFFF))
    return greatest < np.uint32(0x7C00)


@inlined
def half_at(blocks, byte, at):
    """The float16 at a byte of a block as float32 bits; 0 where there is none."""
    if at < 0:
        return np.uint32(0)
    byte += np.uint64(at)
    return half_to_float32(np.uint32(blocks[byte]) | np.uint32(blocks[byte + ONE]) << np.uint32(8))


@inlined
def integer_at(blocks, byte, numbers, j):
    """The integer of sub-block j."""
    number = blocks[byte + np.uint64(numbers.byte[0, j])] >> numbers.shift[0, j] & numbers.masks[0]
    if numbers.masks[1]:
        high = blocks[byte + np.uint64(numbers.byte[1, j])] >> numbers.shift[1, j] & numbers.masks[1]
        number |= high << numbers.width
    return np.int32(np.int32(np.uint8(number) ^ numbers.flip) - numbers.zero)


@inlined
def combine(q, code, unit, low, y):
    """Integers times their steps, less their minima. A loop over two groups vectorises, one over a group does not."""
    flip, zero = code
    for pair in range(GROUPS // 2):
        step0, step1, low0, low1 = unit[2 * pair], unit[2 * pair + 1], low[2 * pair], low[2 * pair + 1]
        for i in range(2 * GROUP):
            step, minimum = step0 if i < GROUP else step1, low0 if i < GROUP else low1
            y[pair, i] = np.float32(np.int32(q[pair, i] ^ flip) - zero) * step - minimum


@inlined
def look_up(q, values, unit, y):
    """A table's values times their steps."""
    for pair in range(GROUPS // 2):
        step0, step1 = unit[2 * pair], unit[2 * pair + 1]
        for i in range(2 * GROUP):
            y[pair, i] = values[q[pair, i] & np.uint8(15)] * (step0 if i < GROUP else step1)


@inlined
def settle(y, q, unit, small):
    """Step 4 where a factor is not finite; and products that hardware might flush."""
    for at in range(TILE):
        i = divmod(at, 2 * GROUP)
        u, step = as_bits(y[i]), as_bits(unit[at // GROUP])
        if small.size and step < np.uint32(0x800000):
            u = small[(q[i] & 15) + (16 if step == np.uint32(0x400000) else 0)]
        y[i] = as_float(NAN if (u & MAGNITUDE) > INFINITY else u)


@inlined
def store(y, kind, out):
    """The elements, rounded once. Nothing is computed with them, so that hardware cannot flush them."""
    if kind == FLOAT32:  # one loop per kind: the compiler vectorises each
        for i in range(y.size):
            out[i] = as_bits(y[i])
    elif kind == BFLOAT16:
        for i in range(y.size):
            out[i] = float32_to_bfloat16(as_bits(y[i]))
    else:
        for i in range(y.size):
            out[i] = float32_to_half(as_bits(y[i]))
