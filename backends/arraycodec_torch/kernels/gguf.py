"""Triton kernel of `Gguf`: the steps of `arraycodec.codecs.gguf` in the same order.

Where each number lies in a block is a table of places: the byte, and in the upper half the bits to shift it by (with
TRITS the power of three to multiply it with). So one kernel decodes every block type.
"""

import triton
import triton.language as tl

from arraycodec.primitives import gguf_blocks
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    half_to_float32,
    narrow,
)

SMALLEST_NORMAL = tl.constexpr(gguf_blocks.SMALLEST_NORMAL)


@triton.jit
def decode(
    blocks, codes, scales, minima, values, steps, small, out, n, groups,
    KIND: tl.constexpr, NBYTES: tl.constexpr, SUBS: tl.constexpr, SUB: tl.constexpr, ROWS: tl.constexpr,
    D: tl.constexpr, M: tl.constexpr, VALUES: tl.constexpr, STEPS: tl.constexpr, SMALL: tl.constexpr,
    CODE_MASK: tl.constexpr, CODE_HIGH: tl.constexpr, CODE_WIDTH: tl.constexpr, CODE_FLIP: tl.constexpr,
    CODE_ZERO: tl.constexpr, SCALE_MASK: tl.constexpr, SCALE_HIGH: tl.constexpr, SCALE_WIDTH: tl.constexpr,
    SCALE_FLIP: tl.constexpr, SCALE_ZERO: tl.constexpr, MINIMUM_MASK: tl.constexpr, MINIMUM_HIGH: tl.constexpr,
    MINIMUM_WIDTH: tl.constexpr, MINIMUM_FLIP: tl.constexpr, MINIMUM_ZERO: tl.constexpr, TRITS: tl.constexpr,
):  # fmt: skip
    """Decode ROWS sub-blocks of SUB elements; D and M are -1, masks 0 where a type has no such number."""
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    k = tl.arange(0, SUB)[None, :]
    j, there, at = (group % SUBS).to(tl.int32), group < groups, group * SUB + k
    block, inside = blocks + group // SUBS * NBYTES, at < n
    scale = integers(block, scales, j, there, SUBS, SCALE_MASK, SCALE_HIGH, SCALE_WIDTH, SCALE_FLIP, SCALE_ZERO, False)
    code = integers(
        block, codes, j * SUB + k, inside, SUBS * SUB, CODE_MASK, CODE_HIGH, CODE_WIDTH, CODE_FLIP, CODE_ZERO, TRITS
    )
    step = tl.load(steps + scale) if STEPS else half_at(block + D, there) * scale.to(tl.float32)
    y = step * (tl.load(values + code) if VALUES else code.to(tl.float32))
    if M >= 0:
        minimum = integers(
            block, minima, j, there, SUBS, MINIMUM_MASK, MINIMUM_HIGH, MINIMUM_WIDTH, MINIMUM_FLIP, MINIMUM_ZERO, False
        )
        y = y - half_at(block + M, there) * minimum.to(tl.float32)
    u = as_bits(y)
    if SMALL:  # products that hardware might flush
        rare = tl.load(small + (tl.minimum(scale, SMALLEST_NORMAL - 1) * 16 + code))
        u = tl.where(scale < SMALLEST_NORMAL, rare, u)
    u = tl.where((u & MAGNITUDE) > INFINITY, NAN, u)
    tl.store(out + at, narrow(u, KIND), mask=inside)


@triton.jit
def integers(
    block, places, i, inside, COUNT: tl.constexpr, MASK: tl.constexpr, HIGH: tl.constexpr, WIDTH: tl.constexpr,
    FLIP: tl.constexpr, ZERO: tl.constexpr, TRITS: tl.constexpr,
):  # fmt: skip
    """The integers of these indices; places of low bits come first, then COUNT places of high ones."""
    if MASK == 0:
        found = tl.zeros(i.shape, tl.int32)
    else:
        place = tl.load(places + i).to(tl.int32)
        byte = tl.load(block + (place & 0xFFFF), mask=inside, other=0).to(tl.int32)
        upper = place >> 16
        found = ((byte * upper) & 255) * 3 >> 8 if TRITS else (byte >> upper) & MASK
        if HIGH != 0:
            place = tl.load(places + COUNT + i).to(tl.int32)
            byte = tl.load(block + (place & 0xFFFF), mask=inside, other=0).to(tl.int32)
            found |= ((byte >> (place >> 16)) & HIGH) << WIDTH
    return (found ^ FLIP) - ZERO


@triton.jit
def half_at(pointer, inside):
    """The float16 of two bytes that need not be aligned, as float32."""
    low = tl.load(pointer, mask=inside, other=0).to(tl.uint32)
    high = tl.load(pointer + 1, mask=inside, other=0).to(tl.uint32)
    return as_float(half_to_float32(low | (high << 8)))
