"""Casts between float32 and small floats in Triton: `arraycodec.primitives.casts`, step by step.

A kernel takes the numbers of `formats.Casting` and `formats.Widening` as constants, which
`arraycodec_torch.triton_blockwise` names.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.primitives import INFINITY, MAGNITUDE, NAN, SIGN, as_bits, as_float


@triton.jit
def magnitude_code(a, MANTISSA: tl.constexpr, FIRST: tl.constexpr):
    """The code of a magnitude, rounded to nearest even, in a format that has as many exponents as it takes."""
    exponent = (a >> 23).to(tl.int32)
    field = tl.maximum(exponent, FIRST)
    shift = tl.minimum(23 - MANTISSA + field - exponent, 25).to(tl.uint32)  # 25 leaves nothing
    m = (a & 0x7FFFFF) | 0x800000
    half = (tl.full(m.shape, 1, tl.uint32) << (shift - 1)) - 1
    code = (m + half + ((m >> shift) & 1)) >> shift
    return code + ((field - FIRST) << MANTISSA).to(tl.uint32)


@triton.jit
def float32_to_small(
    bits, BITS: tl.constexpr, MANTISSA: tl.constexpr, FIRST: tl.constexpr, LARGEST: tl.constexpr,
    BEYOND: tl.constexpr, NAN_CODE: tl.constexpr, SIGNED_NAN: tl.constexpr, SIGNED_ZERO: tl.constexpr,
):  # fmt: skip
    """float32 bits -> the code in a small format."""
    a = bits & MAGNITUDE
    code = magnitude_code(a, MANTISSA, FIRST)
    code = tl.where(code <= LARGEST, code, BEYOND)
    code = tl.where(a <= INFINITY, code, NAN_CODE)
    sign = (bits >> 31) << (BITS - 1)
    if not SIGNED_ZERO:
        sign = tl.where(code != 0, sign, 0)
    if not SIGNED_NAN:
        sign = tl.where(a <= INFINITY, sign, 0)
    return code | sign


@triton.jit
def small_to_float32(
    code, HALF: tl.constexpr, STEP: tl.constexpr, OFFSET: tl.constexpr, NORMAL: tl.constexpr, UNIT: tl.constexpr,
    LARGEST: tl.constexpr, INFINITY_CODE: tl.constexpr, NAN_CODE: tl.constexpr,
):  # fmt: skip
    """The code of a small format, as uint32 -> float32 bits, exact; every NaN is the canonical one."""
    a = code & (HALF - 1)
    # A subnormal is an integer below 2^3, which converts exactly, times a power of two.
    small = as_bits(a.to(tl.int32).to(tl.float32) * as_float(tl.full(a.shape, UNIT, tl.uint32)))
    v = tl.where(a >= NORMAL, a * STEP + OFFSET, small)
    v = tl.where(a != INFINITY_CODE, v, INFINITY)
    v = v | tl.where(code >= HALF, SIGN, 0)
    v = tl.where((a <= LARGEST) | (a == INFINITY_CODE), v, NAN)
    return tl.where(code != NAN_CODE, v, NAN)
