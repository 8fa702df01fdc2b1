"""Float arithmetic on bit patterns, so that every backend computes the same bits (docs/format/arithmetic.md).

All functions are scalar and take and give uint32 bit patterns; arrays are cast in the kernels that call them.
The torch, Triton and JAX backends spell the same steps in the same order.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined

SIGN = np.uint32(0x80000000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
INFINITY = np.uint32(0x7F800000)
NAN = np.uint32(0x7FC00000)  # the canonical NaN: what every non-finite result is stored as
ONE = np.uint32(0x3F800000)
MIN_SCALE = np.uint32(0x0D800000)  # 2^-100: a smaller scale is zero, so that flush-to-zero cannot change a bit
BIG_SCALE = np.uint32(0x7E800000)  # 2^126: from here on a reciprocal would be subnormal
LOWER = np.uint32(4 << 23)  # subtracted from exponents, together with those of the elements, above BIG_SCALE

# The float formats that codecs read and write; the numbers index `widen` and `narrow`.
FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
KINDS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": FLOAT16}

# torch.finfo(dtype).eps by kind, as float32 bits: in compressed-tensors the scale of a tile of zeros.
EPSILON = np.array([0x34000000, 0x3C000000, 0x3A800000], np.uint32)


@inlined
def as_float(bits):
    """The float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@inlined
def as_bits(x):
    """The bits of a float32."""
    return np.float32(x).view(np.uint32)


@inlined
def recip_rn(bits):
    """1/x correctly rounded, for x with exponent field 1..252, from integers and any approximate division."""
    exponent = np.int32(bits >> np.uint32(23))
    m = np.int32((bits & np.uint32(0x7FFFFF)) | np.uint32(0x800000))
    q = np.int32(np.float32(140737488355328.0) / np.float32(m))  # 2^47 / m, off by a few units
    r = np.int32(np.uint32(0) - np.uint32(np.uint32(q) * np.uint32(m)))  # the residual 2^47 - q m, modulo 2^32
    for _ in range(3):
        if r < np.int32(0):
            q = np.int32(q - np.int32(1))
            r = np.int32(r + m)
        if r >= m:
            q = np.int32(q + np.int32(1))
            r = np.int32(r - m)
    if np.int32(r + r) > m:
        q = np.int32(q + np.int32(1))
    return np.uint32((np.uint32(np.int32(253) - exponent) << np.uint32(23)) + np.uint32(q - np.int32(0x800000)))


@inlined
def flushed(bits):
    """A number with exponent field 0 is read as +0, as hardware that flushes subnormals would give or take."""
    return bits if (bits & INFINITY) != np.uint32(0) else np.uint32(0)


@inlined
def signed_flushed(bits):
    """A number with exponent field 0 is read as a zero of its sign."""
    return bits if (bits & INFINITY) != np.uint32(0) else np.uint32(bits & SIGN)


@inlined
def bfloat16_to_float32(h):
    """bfloat16 -> float32, exact."""
    return np.uint32(h << np.uint32(16))


@inlined
def half_to_float32(h):
    """float16 -> float32, exact, subnormals included; an infinity or NaN keeps its class."""
    magnitude = np.uint32(h & np.uint32(0x7FFF))
    shifted = np.uint32(magnitude << np.uint32(13))
    # A subnormal is magnitude * 2^-24: an integer below 2^10, which converts exactly, and an exact product.
    small = as_bits(np.float32(np.int32(magnitude)) * np.float32(5.9604644775390625e-08))
    normal = np.uint32(shifted + np.uint32(0x38000000))
    large = np.uint32(shifted | INFINITY) if magnitude >= np.uint32(0x7C00) else normal
    return np.uint32((h & np.uint32(0x8000)) << np.uint32(16)) | (large if magnitude >= np.uint32(0x400) else small)


@inlined
def float32_to_bfloat16(bits):
    """float32 -> bfloat16, round to nearest even; every NaN becomes the canonical one with its sign."""
    bits = np.uint32(bits)
    # Each step is narrowed, and the small terms are added first: so the compiler sees that 32 bits are enough.
    half = np.uint32(np.uint32(0x7FFF) + np.uint32((bits >> np.uint32(16)) & np.uint32(1)))
    rounded = np.uint32(np.uint32(bits + half) >> np.uint32(16))
    nan = np.uint32(((bits >> np.uint32(16)) & np.uint32(0x8000)) | np.uint32(0x7FC0))
    return nan if (bits & MAGNITUDE) > INFINITY else rounded


@inlined
def float32_to_half(bits):
    """float32 -> float16, round to nearest even, overflow to infinity; every NaN becomes the canonical one."""
    a = np.uint32(bits & MAGNITUDE)
    half = np.uint32(np.uint32(0xFFF) + np.uint32((a >> np.uint32(13)) & np.uint32(1)))
    normal = np.uint32(np.uint32(np.uint32(a + half) >> np.uint32(13)) - np.uint32(0x1C000))
    normal = min(normal, np.uint32(0x7C00))
    # Below 2^-14 the significand, with its leading bit, moves right until its unit is 2^-24; 25 leaves nothing of it.
    shift = np.uint32(min(np.uint32(np.uint32(126) - (a >> np.uint32(23))), np.uint32(25)) & np.uint32(31))
    m = np.uint32((a & np.uint32(0x7FFFFF)) | np.uint32(0x800000))
    half = np.uint32((np.uint32(1) << np.uint32((shift - np.uint32(1)) & np.uint32(31))) - np.uint32(1))
    small = np.uint32(np.uint32(m + np.uint32(half + np.uint32((m >> shift) & np.uint32(1)))) >> shift)
    h = normal if a >= np.uint32(0x38800000) else small
    h = h if a <= INFINITY else np.uint32(0x7E00)
    return np.uint32(np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000)) | h)


@inlined
def widen(element, kind):
    """The bits of an element of this kind -> float32 bits, exact."""
    if kind == FLOAT32:
        return np.uint32(element)
    return bfloat16_to_float32(np.uint32(element)) if kind == BFLOAT16 else half_to_float32(np.uint32(element))


@inlined
def narrow(bits, kind):
    """float32 bits -> the bits of this kind, rounded once."""
    if kind == FLOAT32:
        return np.uint32(bits)
    return float32_to_bfloat16(bits) if kind == BFLOAT16 else float32_to_half(bits)


@inlined
def rounded(bits, kind):
    """float32 bits rounded to what this kind can hold, as float32 bits again."""
    if kind == FLOAT32:
        return np.uint32(bits)
    h = np.uint32(narrow(bits, kind))
    return bfloat16_to_float32(h) if kind == BFLOAT16 else half_to_float32(h)
