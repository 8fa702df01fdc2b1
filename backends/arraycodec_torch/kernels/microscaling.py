"""Triton kernels of `Microscaling`: the steps of `arraycodec.codecs.microscaling` in the same order.

A kernel takes a patch of the array whose lines are blocks, as `arraycodec_torch.kernels.blockwise` describes.
"""

import triton
import triton.language as tl

from arraycodec.codecs import microscaling
from arraycodec_torch.kernels.blockwise import absmax_of, load_dense, patch, rint, store_dense
from arraycodec_torch.kernels.casts import float32_to_small, small_to_float32
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    NAN,
    SIGN,
    as_bits,
    as_float,
    narrow,
    signed_flushed,
    widen,
)

NAN_BYTE = tl.constexpr(microscaling.NAN_BYTE)
LAST_BYTE = tl.constexpr(microscaling.LAST_BYTE)
SAFE_BYTE = tl.constexpr(microscaling.SAFE_BYTE)
INT8_SHIFT = tl.constexpr(microscaling.INT8_SHIFT)
INT8_UNIT = tl.constexpr(2.0**-microscaling.INT8_SHIFT)


@triton.jit
def encode(
    source, scales, codes, n, span, step,
    KIND: tl.constexpr, FIND: tl.constexpr, INT8: tl.constexpr, EMAX: tl.constexpr, HALF: tl.constexpr,
    FLOOR: tl.constexpr, ZERO: tl.constexpr, KEEP_SIGN: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    FIRST: tl.constexpr, LARGEST: tl.constexpr, BEYOND: tl.constexpr, NAN_CODE: tl.constexpr,
    SIGNED_NAN: tl.constexpr, SIGNED_ZERO: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Encode a patch; FIND: the scales of its blocks are found and stored as well."""
    block, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    run = signed_flushed(widen(tl.load(source + at, mask=inside, other=0), KIND))  # 1
    if FIND:
        byte = scale_byte(absmax_of(run), EMAX, HALF, FLOOR, ZERO)  # 2 and 3
        tl.store(scales + block, byte.to(tl.uint8), mask=block * span < n)
    else:
        byte = tl.load(scales + block, mask=block * span < n, other=0).to(tl.int32)
    u = shift_exponents(run, byte, INT8_SHIFT if INT8 else 0, KEEP_SIGN)  # 4
    if INT8:
        y = as_float(u)
        code = rint(tl.minimum(tl.maximum(tl.where(y == y, y, 0.0), -127.0), 127.0)).to(tl.uint32)
    else:
        code = float32_to_small(u, BITS, MANTISSA, FIRST, LARGEST, BEYOND, NAN_CODE, SIGNED_NAN, SIGNED_ZERO)  # 5
    store_dense(codes, code, block, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)  # 6


@triton.jit
def decode(
    codes, scales, out, n, span, step,
    KIND: tl.constexpr, INT8: tl.constexpr, BITS: tl.constexpr,
    HALF: tl.constexpr, STEP: tl.constexpr, OFFSET: tl.constexpr, NORMAL: tl.constexpr, UNIT: tl.constexpr,
    LARGEST: tl.constexpr, INFINITY_CODE: tl.constexpr, NAN_CODE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    block, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    byte = tl.load(scales + block, mask=block * span < n, other=0).to(tl.int32)
    code = load_dense(codes, block, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)
    if INT8:
        u = as_bits(((code << 24).to(tl.int32, bitcast=True) >> 24).to(tl.float32) * INT8_UNIT)
    else:
        u = small_to_float32(code, HALF, STEP, OFFSET, NORMAL, UNIT, LARGEST, INFINITY_CODE, NAN_CODE)
    tl.store(out + at, narrow(multiplied(u, byte), KIND), mask=inside)


@triton.jit
def scale_byte(absmax, EMAX: tl.constexpr, HALF: tl.constexpr, FLOOR: tl.constexpr, ZERO: tl.constexpr):
    """Step 3."""
    exponent = ((absmax + HALF) >> 23).to(tl.int32) - EMAX
    byte = tl.minimum(tl.maximum(exponent, 0), LAST_BYTE)
    return tl.where(absmax >= INFINITY, NAN_BYTE, tl.where(absmax < FLOOR, ZERO, byte))


@triton.jit
def shift_exponents(run, byte, INT8_SHIFT: tl.constexpr, KEEP_SIGN: tl.constexpr):
    """Step 4, for int8 times 64."""
    change = byte - 127 - INT8_SHIFT
    delta = (change << 23).to(tl.uint32)
    lowest = 0x800000 + tl.where(change > 0, delta, 0)
    lowest = tl.where(byte == 0, SIGN, lowest)
    highest = INFINITY + tl.where(change < 0, delta, 0)
    a = run & MAGNITUDE
    shifted = tl.where(a < highest, a - delta, tl.where(a > INFINITY, a, INFINITY))
    sign = run & SIGN
    if not KEEP_SIGN:
        sign = tl.where(a != 0, sign, 0)
    return tl.where(byte == NAN_BYTE, 0, sign | tl.where(a >= lowest, shifted, 0))


@triton.jit
def multiplied(u, byte):
    """The bits of values times 2^(byte - 127), where the exponents of small scales are added as integers."""
    product = as_bits(as_float(u) * as_float((byte << 23).to(tl.uint32)))
    delta = ((127 - byte) << 23).to(tl.uint32)
    a = u & MAGNITUDE  # lowered below: what falls below 2^-126 is a zero
    lowered = tl.where(a >= INFINITY, u, tl.where(a >= delta + 0x800000, u - delta, u & SIGN))
    u = tl.where(byte < SAFE_BYTE, lowered, product)
    return tl.where((byte == NAN_BYTE) | ((u & MAGNITUDE) > INFINITY), NAN, u)
