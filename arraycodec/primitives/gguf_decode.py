"""The block types of ggml on the CPU: the kernels that decode tiles of 256 elements.

The numbered steps are those of `arraycodec.codecs.gguf`. The 16 elements of a group share a step in every type, and in
most types their codes are the same bits of 16 bytes in a row: so each operation on a group is one vector instruction.
What helps the compiler to find that: loops over two groups at a time, since it unrolls one over a single group before
it would vectorise it; indices of bytes that are unsigned, since a signed one might count from the end; 32 bits for
every integer, since 64 would halve the vectors: so shifts are masked, as one by 32 or more might need 64.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.floats import (
    BFLOAT16,
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    float32_to_bfloat16,
    float32_to_half,
    half_to_float32,
)
from arraycodec.primitives.gguf_blocks import SMALLEST_NORMAL
from arraycodec.primitives.gguf_layout import BYTE, GROUP, HIGH, PLAIN, STREAM, TILE
from arraycodec.primitives.jit import inlined, kernel

GROUPS = TILE // GROUP
QUAD = 4  # elements whose bytes are in a row in every type
BIT, NIBBLE, SEVEN = np.uint32(1), np.uint32(15), np.uint32(7)
STEP_1 = np.uint32(0x400000)  # the step of byte 1 of e8m0
COUNT, ONE, TWO = (np.uint64(number) for number in (GROUP, 1, 2))


@kernel
def decode_tiles(blocks, layout, out, first, last):
    """Decode the tiles first..last of 256 elements each to the bits of float32."""
    unit, low, q = np.zeros(GROUPS, np.float32), np.zeros(GROUPS, np.float32), np.zeros(TILE, np.uint8)
    for tile in range(first, last):
        decode_tile(blocks, tile, layout, unit, low, q, out[tile * TILE : (tile + 1) * TILE])


@kernel
def decode_tiles_rounded(blocks, layout, out, kind, first, last):
    """Decode the tiles first..last of 256 elements each to the bits of a float of 16 bits."""
    unit, low, q = np.zeros(GROUPS, np.float32), np.zeros(GROUPS, np.float32), np.zeros(TILE, np.uint8)
    y = np.zeros(TILE, np.uint32)
    for tile in range(first, last):
        decode_tile(blocks, tile, layout, unit, low, q, y)
        store(y, kind, out[tile * TILE : (tile + 1) * TILE])  # 4


@inlined
def decode_tile(blocks, tile, layout, unit, low, q, y):
    """Decode a tile to the bits of float32."""
    start = np.uint64(tile * layout.nbytes)
    ordinary = load_steps(blocks, start, layout, unit, low)  # 1, 2
    if layout.short.byte.shape[1] == TILE:  # 1, 3
        collect(blocks, start, layout.short, layout.trits, q)
        combine_any(q, np.uint64(0), layout, unit, low, y)
    else:
        combine_any(blocks, start, layout, unit, low, y)
    if not ordinary:
        settle(blocks, start, layout, unit, y)


@inlined
def load_steps(blocks, start, layout, unit, low):
    """The step and the minimum of each group of a tile; whether all of them are ordinary numbers."""
    if layout.steps.size:
        return load_table_steps(blocks, start, layout, unit)
    if layout.d.size > 1:  # small blocks have no integers of sub-blocks
        ordinary = load_factors(blocks, start, layout.d, -layout.scales.zero, unit)
        if layout.m.size:
            ordinary &= load_factors(blocks, start, layout.m, -layout.minima.zero, low)
        return ordinary
    ordinary = load_products(blocks, start, layout.d, layout.scales, unit)
    if layout.m.size:
        ordinary &= load_products(blocks, start, layout.m, layout.minima, low)
    return ordinary


@inlined
def load_table_steps(blocks, start, layout, unit):
    """Steps that are looked up."""
    ordinary, spread = True, GROUPS // layout.scales.byte.shape[1]
    for j in range(GROUPS // spread):
        scale = blocks[start + layout.scales.byte[0, j]]
        ordinary &= scale >= SMALLEST_NORMAL or layout.small.size == 0
        for k in range(spread):
            unit[j * spread + k] = layout.steps[scale]
    return ordinary


@inlined
def load_factors(blocks, start, at, integer, out):
    """The factor of each block times an integer, for each of its groups; whether all are finite."""
    halves, greatest, spread = out.view(np.uint32), np.uint32(0), GROUPS // at.size
    for b in range(at.size):
        half = half_at(blocks, start + at[b])
        for k in range(spread):
            halves[b * spread + k] = half
    for g in range(GROUPS):  # converted together: this loop vectorises
        greatest = max(greatest, halves[g] & np.uint32(0x7FFF))
        out[g] = as_float(half_to_float32(halves[g] & np.uint32(0xFFFF))) * np.float32(integer)
    return greatest < np.uint32(0x7C00)


@inlined
def load_products(blocks, start, at, numbers, out):
    """The factor of a block times the integer of each sub-block, for each of its groups; whether it is finite."""
    half = half_at(blocks, start + at[0])
    factor = as_float(half_to_float32(half))
    if numbers.byte.shape[1] == GROUPS:
        for g in range(GROUPS):
            out[g] = factor * np.float32(integer_at(blocks, start, numbers, g))
    else:
        for j in range(GROUPS // 2):
            out[2 * j] = out[2 * j + 1] = factor * np.float32(integer_at(blocks, start, numbers, j))
    return half & np.uint32(0x7C00) != np.uint32(0x7C00)


@inlined
def half_at(blocks, byte):
    """The bits of the float16 at a byte."""
    return np.uint32(np.uint32(blocks[byte]) | np.uint32(blocks[byte + ONE]) << np.uint32(8))


@inlined
def integer_at(blocks, start, numbers, j):
    """The integer of sub-block j of a tile."""
    number = bits_at(blocks, start + numbers.byte[0, j], numbers.shift[0, j], numbers.masks[0])
    if numbers.masks[1]:
        number |= bits_at(blocks, start + numbers.byte[1, j], numbers.shift[1, j], numbers.masks[1]) << numbers.width
    return np.int32(np.int32(number ^ numbers.flip) - numbers.zero)


@inlined
def bits_at(blocks, byte, down, mask):
    """Some of the bits of a byte."""
    return np.uint32(np.uint32(blocks[byte]) >> (down & SEVEN) & mask)


@inlined
def collect(blocks, start, short, trits, q):
    """Codes that lie in runs shorter than a group, each in its byte."""
    words = q.view(np.uint32)
    for i in range(TILE // QUAD):
        byte = start + short.byte[0, i * QUAD]
        words[i] = half_at(blocks, byte) | half_at(blocks, byte + TWO) << np.uint32(16)  # one move
    if trits:
        for i in range(TILE):
            q[i] = np.uint8((np.uint32(q[i]) * short.shift[0, i] & BYTE) * np.uint32(3) >> np.uint32(8))
    else:
        for i in range(TILE):
            q[i] = bits_at(q, i, short.shift[0, i], short.masks[0])


@inlined
def combine_any(blocks, start, layout, unit, low, y):
    """Step 3, in the way of the type."""
    if layout.way == PLAIN:
        combine(blocks, start, layout.codes, unit, low, y)
    elif layout.way == HIGH:
        combine_high(blocks, start, layout.codes, unit, low, y)
    elif layout.way == STREAM:
        combine_stream(blocks, start, layout.codes, unit, low, y)
    else:
        look_up(blocks, start, layout.codes, layout.values, unit, y)


@inlined
def run_of(start, codes, row, g):
    """Where the low or high bits of a group begin, and by how much they are shifted."""
    return start + codes.byte[row, g], codes.shift[row, g]


@inlined
def element(code, codes, step, minimum):
    """The integer of a code times its step, less its minimum."""
    value = np.float32(np.int32(np.int32(code ^ codes.flip) - codes.zero))
    return as_bits(np.float32(value * step) - minimum)


@inlined
def combine(blocks, start, codes, unit, low, y):
    """Codes without high bits."""
    mask = codes.masks[0]
    for g in range(0, GROUPS, 2):
        (at0, down0), (at1, down1) = run_of(start, codes, 0, g), run_of(start, codes, 0, g + 1)
        step0, step1, low0, low1 = unit[g], unit[g + 1], low[g], low[g + 1]
        to0, to1 = np.uint64(g) * COUNT, np.uint64(g + 1) * COUNT
        for i in range(COUNT):
            y[to0 + i] = element(bits_at(blocks, at0 + i, down0, mask), codes, step0, low0)
            y[to1 + i] = element(bits_at(blocks, at1 + i, down1, mask), codes, step1, low1)


@inlined
def combine_high(blocks, start, codes, unit, low, y):
    """Codes whose high bits stand apart, in runs as well."""
    (mask, top), up = codes.masks, codes.width & SEVEN
    for g in range(0, GROUPS, 2):
        (at0, down0), (at1, down1) = run_of(start, codes, 0, g), run_of(start, codes, 0, g + 1)
        (high0, off0), (high1, off1) = run_of(start, codes, 1, g), run_of(start, codes, 1, g + 1)
        step0, step1, low0, low1 = unit[g], unit[g + 1], low[g], low[g + 1]
        to0, to1 = np.uint64(g) * COUNT, np.uint64(g + 1) * COUNT
        for i in range(COUNT):
            code0 = bits_at(blocks, at0 + i, down0, mask) | bits_at(blocks, high0 + i, off0, top) << up
            code1 = bits_at(blocks, at1 + i, down1, mask) | bits_at(blocks, high1 + i, off1, top) << up
            y[to0 + i] = element(code0, codes, step0, low0)
            y[to1 + i] = element(code1, codes, step1, low1)


@inlined
def combine_stream(blocks, start, codes, unit, low, y):
    """Codes whose highest bits are a stream of single bits, 16 for a group."""
    mask, up = codes.masks[0], codes.width & SEVEN
    for g in range(0, GROUPS, 2):
        (at0, down0), (at1, down1) = run_of(start, codes, 0, g), run_of(start, codes, 0, g + 1)
        high0, high1 = half_at(blocks, start + codes.byte[1, g]), half_at(blocks, start + codes.byte[1, g + 1])
        step0, step1, low0, low1 = unit[g], unit[g + 1], low[g], low[g + 1]
        to0, to1 = np.uint64(g) * COUNT, np.uint64(g + 1) * COUNT
        for i in range(COUNT):
            code0 = bits_at(blocks, at0 + i, down0, mask) | (high0 >> np.uint32(i) & BIT) << up
            code1 = bits_at(blocks, at1 + i, down1, mask) | (high1 >> np.uint32(i) & BIT) << up
            y[to0 + i] = element(code0, codes, step0, low0)
            y[to1 + i] = element(code1, codes, step1, low1)


@inlined
def look_up(blocks, start, codes, values, unit, y):
    """A table's values times their steps."""
    for g in range(0, GROUPS, 2):
        (at0, down0), (at1, down1) = run_of(start, codes, 0, g), run_of(start, codes, 0, g + 1)
        step0, step1, to0, to1 = unit[g], unit[g + 1], np.uint64(g) * COUNT, np.uint64(g + 1) * COUNT
        for i in range(COUNT):
            y[to0 + i] = as_bits(values[bits_at(blocks, at0 + i, down0, NIBBLE)] * step0)
            y[to1 + i] = as_bits(values[bits_at(blocks, at1 + i, down1, NIBBLE)] * step1)


@inlined
def settle(blocks, start, layout, unit, y):
    """Step 4 where a factor is not finite; and products that hardware might flush."""
    for at in range(TILE):
        g, i = divmod(at, GROUP)
        u, step = y[at], as_bits(unit[g])
        if layout.small.size and step < np.uint32(0x800000):
            byte, down = run_of(start, layout.codes, 0, g)
            u = layout.small[bits_at(blocks, byte + np.uint64(i), down, NIBBLE) + (16 if step == STEP_1 else 0)]
        y[at] = NAN if (u & MAGNITUDE) > INFINITY else u


@inlined
def store(y, kind, out):
    """The elements, rounded once. Nothing is computed with them, so that hardware cannot flush them."""
    if kind == BFLOAT16:  # one loop per kind: the compiler vectorises each
        for i in range(TILE):
            out[i] = float32_to_bfloat16(y[i])
    else:
        for i in range(TILE):
            out[i] = float32_to_half(y[i])
