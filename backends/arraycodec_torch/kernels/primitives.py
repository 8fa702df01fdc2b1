"""Float arithmetic on bit patterns in Triton: the functions of `arraycodec.primitives.floats`, step by step.

Bits are uint32 and every float operation is one IEEE rounding: kernels are launched with `enable_fp_fusion=False`, and
the only division is `tl.div_rn`, since `/` compiles to an approximation. Narrow floats are loaded and stored as
integers, because Triton's interpreter truncates its own bfloat16.
"""

import triton
import triton.language as tl

from arraycodec.primitives import floats

MAGNITUDE = tl.constexpr(int(floats.MAGNITUDE))
INFINITY = tl.constexpr(int(floats.INFINITY))
NAN = tl.constexpr(int(floats.NAN))
MIN_SCALE = tl.constexpr(int(floats.MIN_SCALE))
BIG_SCALE = tl.constexpr(int(floats.BIG_SCALE))
LOWER = tl.constexpr(int(floats.LOWER))
BFLOAT16 = tl.constexpr(floats.BFLOAT16)
FLOAT16 = tl.constexpr(floats.FLOAT16)
ONE = tl.constexpr(0x3F800000)
SIGN = tl.constexpr(0x80000000)
EPSILON32, EPSILON_BFLOAT16, EPSILON16 = (tl.constexpr(int(epsilon)) for epsilon in floats.EPSILON)


@triton.jit
def as_float(bits):
    """The float32 with these bits."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def as_bits(x):
    """The bits of a float32."""
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def recip_rn(bits):
    """1/x correctly rounded, for x with exponent field 1..252, from integers and any approximate division."""
    exponent = (bits >> 23).to(tl.int32)
    m = ((bits & 0x7FFFFF) | 0x800000).to(tl.int32)
    q = tl.div_rn(140737488355328.0, m.to(tl.float32)).to(tl.int32)  # 2^47 / m, off by a few units
    r = 0 - q * m  # the residual 2^47 - q m, modulo 2^32
    for _ in tl.static_range(3):
        low = r < 0
        q = tl.where(low, q - 1, q)
        r = tl.where(low, r + m, r)
        high = r >= m
        q = tl.where(high, q + 1, q)
        r = tl.where(high, r - m, r)
    q = tl.where(r + r > m, q + 1, q)
    return (((253 - exponent) << 23) + (q - 0x800000)).to(tl.uint32)


@triton.jit
def flushed(bits):
    """A number with exponent field 0 is read as +0, as hardware that flushes subnormals would give or take."""
    return tl.where((bits & INFINITY) != 0, bits, 0)


@triton.jit
def signed_flushed(bits):
    """A number with exponent field 0 is read as a zero of its sign."""
    return tl.where((bits & INFINITY) != 0, bits, bits & SIGN)


@triton.jit
def half_to_float32(h):
    """float16 -> float32, exact, subnormals included; an infinity or NaN keeps its class."""
    magnitude = h & 0x7FFF
    shifted = magnitude << 13
    # A subnormal is magnitude * 2^-24: an integer below 2^10, which converts exactly, and an exact product.
    small = as_bits(magnitude.to(tl.int32).to(tl.float32) * 5.9604644775390625e-08)
    normal = shifted + 0x38000000
    large = tl.where(magnitude >= 0x7C00, shifted | INFINITY, normal)
    return ((h & 0x8000) << 16) | tl.where(magnitude >= 0x400, large, small)


@triton.jit
def widen(element, KIND: tl.constexpr):
    """The float32 bits of elements that were loaded as unsigned integers."""
    bits = element.to(tl.uint32)
    if KIND == BFLOAT16:
        bits = bits << 16
    elif KIND == FLOAT16:
        bits = half_to_float32(bits)
    return bits


@triton.jit
def epsilon(KIND: tl.constexpr):
    """The scale of a tile of zeros in compressed-tensors: eps of the kind, as float32 bits."""
    return EPSILON_BFLOAT16 if KIND == BFLOAT16 else (EPSILON16 if KIND == FLOAT16 else EPSILON32)


@triton.jit
def rounded(bits, KIND: tl.constexpr):
    """float32 bits rounded to what this kind can hold, as float32 bits again."""
    return widen(narrow(bits, KIND), KIND)


@triton.jit
def float32_to_bfloat16(bits):
    """float32 -> bfloat16, round to nearest even; every NaN becomes the canonical one with its sign."""
    upper = bits >> 16
    rounded = (bits + 0x7FFF + (upper & 1)) >> 16
    return tl.where((bits & MAGNITUDE) > INFINITY, (upper & 0x8000) | 0x7FC0, rounded)


@triton.jit
def float32_to_half(bits):
    """float32 -> float16, round to nearest even, overflow to infinity; every NaN becomes the canonical one."""
    sign = (bits >> 16) & 0x8000
    a = bits & MAGNITUDE
    normal = ((a + 0xFFF + ((a >> 13) & 1)) >> 13) - 0x1C000
    normal = tl.where(normal > 0x7C00, 0x7C00, normal)
    # A subnormal: shift the full significand right, rounding to nearest even; above 24 nothing is left.
    shift = 126 - (a >> 23).to(tl.int32)
    shift = tl.where(shift > 25, 25, tl.where(shift < 1, 1, shift)).to(tl.uint32)
    m = (a & 0x7FFFFF) | 0x800000
    half = (tl.full(m.shape, 1, tl.uint32) << (shift - 1)) - 1
    small = (m + half + ((m >> shift) & 1)) >> shift
    small = tl.where(shift > 24, 0, small)
    h = tl.where(a >= 0x38800000, normal, small)
    return sign | tl.where(a > INFINITY, 0x7E00, h)


@triton.jit
def narrow(bits, KIND: tl.constexpr):
    """The elements of this kind with these float32 bits, rounded once, as unsigned integers to store."""
    if KIND == BFLOAT16:
        bits = float32_to_bfloat16(bits).to(tl.uint16)
    elif KIND == FLOAT16:
        bits = float32_to_half(bits).to(tl.uint16)
    return bits


@triton.jit
def stored_scale(absmax):
    """A block's largest magnitude as it is stored: the canonical NaN where not finite, 0 where below 2^-100."""
    return tl.where(absmax >= INFINITY, NAN, tl.where(absmax >= MIN_SCALE, absmax, 0))


@triton.jit
def used_scale(scale):
    """A stored scale as decoding uses it: the canonical NaN where it is not finite, 0 where it is below 2^-100."""
    magnitude = scale & MAGNITUDE
    return tl.where(magnitude >= INFINITY, NAN, tl.where(magnitude >= MIN_SCALE, scale, 0))


@triton.jit
def inverse_scale(absmax):
    """Steps 4 and 5 for scales: the reciprocal, and the exponent field up to which an element is read as +0.

    That is the field which is taken off the elements' exponents, or the largest of all where the scale is NaN or 0.
    """
    usable = (absmax >= MIN_SCALE) & (absmax < INFINITY)
    lower = tl.where(usable, tl.where(absmax >= BIG_SCALE, LOWER, 0), INFINITY)
    inverse = recip_rn(tl.where(usable, absmax - lower, ONE))
    return as_float(inverse), lower


@triton.jit
def scale_run(run, inverse, lower):
    """Steps 4 and 5 for elements, and what step 1 says about subnormals, which cannot change a usable absmax."""
    return as_float(lowered(run, lower)) * inverse


@triton.jit
def lowered(bits, lower):
    """The exponents of numbers lowered by `lower`; what would become subnormal is a zero of its sign, or +0 for all.

    Infinity and NaN, which given scales let through, stay.
    """
    kept, exponent = tl.where(lower == INFINITY, 0, SIGN), bits & INFINITY
    return tl.where(exponent > lower, bits - tl.where(exponent < INFINITY, lower, 0), bits & kept)
