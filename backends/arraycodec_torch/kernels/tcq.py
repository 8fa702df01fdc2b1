"""Triton kernel of `TCQ`: the steps of `arraycodec.codecs.tcq` in the same order, but for rotations.

The kernel takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes, and loads besides it the bits
of the few elements before each one.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import decoded, load_dense, patch, tiles_of
from arraycodec_torch.kernels.primitives import BFLOAT16, widen


@triton.jit
def decode(
    codes, scales, values, out, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, BITS: tl.constexpr, REACH: tl.constexpr, PATH: tl.constexpr, TAPS: tl.constexpr,
    WRAP: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    scale = widen(tl.load(scales + tile, mask=present, other=0), BFLOAT16)
    code = load_dense(codes, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)
    column = columns_of(line, first, at, span, columns, WRAP, BLOCK) % PATH
    subset = (code >> (BITS - 1)) * (TAPS & 3)
    for d in tl.static_range(1, REACH):
        if (TAPS >> 2 * d) & 3 != 0:
            subset ^= bits_before(codes, at, d, inside & (column >= d), BITS) * ((TAPS >> 2 * d) & 3)
    level = ((code & ((1 << (BITS - 1)) - 1)) << 2) | subset
    tl.store(out + at, decoded(tl.load(values + level), scale, KIND), mask=inside)


@triton.jit
def columns_of(line, first, at, span, columns, WRAP: tl.constexpr, BLOCK: tl.constexpr):
    """The columns of the elements of a patch; WRAP: its lines may go on in the next row."""
    if WRAP:
        return at % columns
    return (line * span + first) % columns + tl.arange(0, BLOCK)[None, :]


@triton.jit
def bits_before(codes, at, d, there, BITS: tl.constexpr):
    """The highest bit of the code `d` elements before each, 0 where that is not there."""
    bit = (at - d) * BITS + (BITS - 1)
    return (tl.load(codes + (bit >> 3), mask=there, other=0).to(tl.uint32) >> (bit & 7).to(tl.uint32)) & 1
