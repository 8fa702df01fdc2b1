"""Casts between float32 and small floats, on bit patterns: one formula for every format and every number.

A number is a significand of 24 bits times a power of two. Its code is that significand shifted to the mantissa's width,
with round to nearest even, plus the exponent's distance from the format's first one in the exponent field; a carry out
of the mantissa goes into the exponent as it should. Below the first exponent the shift grows instead, which is what
subnormal means. The torch, Triton and JAX backends do the same with an explicit shift; here the adder, which rounds to
nearest even as well, does it in half the time.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.floats import INFINITY, MAGNITUDE, NAN, SIGN, as_bits, as_float
from arraycodec.primitives.jit import inlined

TOO_LARGE = np.uint32(0x4F800000)  # 2^32: larger than the largest number of any format


@inlined
def float32_to_small(bits, casting):
    """float32 bits -> the code in a small format, rounded to nearest even, free of branches; see `formats.Casting`."""
    width, mantissa, first, largest, beyond, nan, signed_nan, signed_zero = casting
    a = np.uint32(bits & MAGNITUDE)
    exponent = max(np.uint32(min(a, TOO_LARGE) >> np.uint32(23)), np.uint32(first))
    # The unit of the last bit of this power of two is that of the code: so the addition shifts and rounds.
    power = np.uint32(np.uint32(exponent + np.uint32(23 - mantissa)) << np.uint32(23))
    code = np.uint32(as_bits(as_float(min(a, TOO_LARGE)) + as_float(power)) - power)
    # The compiler has to see that no shift exceeds 31; else it takes 64 bits and twice the time.
    code = np.uint32(code + np.uint32(np.uint32(exponent - np.uint32(first)) << np.uint32(mantissa & 3)))
    code = code if code <= np.uint32(largest) else np.uint32(beyond)
    code = code if a <= INFINITY else np.uint32(nan)
    sign = np.uint32(np.uint32(bits >> np.uint32(31)) << np.uint32((width - 1) & 7))
    sign = sign if signed_zero or code != np.uint32(0) else np.uint32(0)
    return np.uint32(code | (sign if signed_nan or a <= INFINITY else np.uint32(0)))


@inlined
def small_to_float32(code, widening):
    """The code of a small format, as uint32 -> float32 bits, exact; every NaN is the canonical one."""
    half, step, offset, normal, unit, largest, infinity, nan = widening
    a = np.uint32(code & np.uint32(half - 1))
    v = np.uint32(np.uint32(a * np.uint32(step)) + np.uint32(offset))  # a product, since a shift would take 64 bits
    # A subnormal is an integer below 2^3, which converts exactly, times a power of two.
    v = v if a >= np.uint32(normal) else as_bits(np.float32(np.int32(a)) * as_float(np.uint32(unit)))
    v = v if a != np.uint32(infinity) else INFINITY
    v = np.uint32(v | (SIGN if code >= np.uint32(half) else np.uint32(0)))
    v = v if a <= np.uint32(largest) or a == np.uint32(infinity) else NAN
    return v if code != np.uint32(nan) else NAN
