"""Casts from float32 to small floats in Triton: `arraycodec.primitives.casts`, step by step.

A kernel takes the numbers of `formats.Casting` as constants, which `arraycodec_torch.triton_blockwise.constants` names.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.primitives import INFINITY, MAGNITUDE


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
