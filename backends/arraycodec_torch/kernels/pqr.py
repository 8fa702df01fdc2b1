"""Triton kernel of `PQR`: the decoder of `arraycodec.codecs.pqr`.

It takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes; each element finds its own code.
"""

import triton
import triton.language as tl

from arraycodec.primitives import sums
from arraycodec_torch.kernels.blockwise import decoded, patch, tiles_of
from arraycodec_torch.kernels.primitives import (
    BFLOAT16,
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    flushed,
    narrow,
    widen,
)

FINE = tl.constexpr(sums.FINE)


@triton.jit
def decode(
    codes, scales, entries, gains, out, n, span, step, rows, columns, height, width, length, nbytes,
    KIND: tl.constexpr, BITS: tl.constexpr, WIDTHS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
    ENTRIES: tl.constexpr, BOOKS: tl.constexpr, SCALED: tl.constexpr, GAIN: tl.constexpr, UNIT: tl.constexpr,
    TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Decode a patch. WIDTHS: 4 bits for the width of each stage, the first in the lowest; BOOKS: of more than one."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    vector = at // DIM
    book = vector * DIM // length if BOOKS else vector * 0
    code = load_codes(codes, vector, inside, nbytes, BITS)
    own = entries + book * ENTRIES * DIM + at % DIM
    if SCALED:
        total, later = add_integers(own, code, inside, BITS, WIDTHS, STAGES, DIM)
        if GAIN:
            cells: tl.constexpr = 1 << (WIDTHS & 15)
            cell = book * cells + (code >> (BITS - (WIDTHS & 15)))
            gain = tl.minimum(tl.load(gains + cell, mask=inside, other=0).to(tl.int32), FINE)
            total, later = total << FINE, later << gain
        y = (total + later).to(tl.float32) * UNIT
        tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
        scale = widen(tl.load(scales + tile, mask=present, other=0), BFLOAT16)
        tl.store(out + at, decoded(y, scale, KIND), mask=inside)
    else:
        u = as_bits(add_floats(own, code, inside, BITS, WIDTHS, STAGES, DIM))
        tl.store(out + at, narrow(tl.where((u & MAGNITUDE) > INFINITY, NAN, u), KIND), mask=inside)


@triton.jit
def load_codes(codes, number, inside, nbytes, BITS: tl.constexpr):
    """The codes with these numbers, as int64."""
    start = number * BITS
    loads: tl.constexpr = BITS // 8 if BITS % 8 == 0 else (BITS + 14) // 8
    code = tl.zeros(number.shape, tl.int64)
    for k in tl.static_range(loads):
        byte = (start >> 3) + k
        there = inside if BITS % 8 == 0 else inside & (byte < nbytes)
        code |= tl.load(codes + byte, mask=there, other=0).to(tl.int64) << 8 * k
    return code if BITS % 8 == 0 else (code >> (start & 7)) & ((1 << BITS) - 1)


@triton.jit
def add_integers(own, code, inside, BITS: tl.constexpr, WIDTHS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr):
    """The integer of the first stage, and the sum of those of the others."""
    first: tl.constexpr = WIDTHS & 15
    below, start = BITS - first, 1 << first
    total = signed(tl.load(own + (code >> below) * DIM, mask=inside, other=0))
    later = tl.zeros(total.shape, tl.int32)
    for m in tl.static_range(1, STAGES):
        size = 1 << ((WIDTHS >> (4 * m)) & 15)
        below -= (WIDTHS >> (4 * m)) & 15
        index = start + ((code >> below) & (size - 1))
        later += signed(tl.load(own + index * DIM, mask=inside, other=0))
        start += size
    return total, later


@triton.jit
def signed(integer):
    """An int16 that was loaded as an unsigned integer."""
    return (integer.to(tl.int32) << 16) >> 16


@triton.jit
def add_floats(own, code, inside, BITS: tl.constexpr, WIDTHS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr):
    """The sum of floats in the order of the stages."""
    first: tl.constexpr = WIDTHS & 15
    below, start = BITS - first, 1 << first
    value = tl.load(own + (code >> below) * DIM, mask=inside, other=0)
    for m in tl.static_range(1, STAGES):
        size = 1 << ((WIDTHS >> (4 * m)) & 15)
        below -= (WIDTHS >> (4 * m)) & 15
        index = start + ((code >> below) & (size - 1))
        value = as_float(flushed(as_bits(value + tl.load(own + index * DIM, mask=inside, other=0))))
        start += size
    return value
