"""Float arithmetic on bit patterns, as torch ops: the functions of `arraycodec.primitives.floats`, step by step.

Bits are int32 tensors, since torch has few operations on unsigned ones: a shift to the right is arithmetic and is
masked where the sign could come down, and additions wrap. Each op is one rounding; nothing here divides but
`recip_rn`, and nothing multiplies and adds in one op, which a GPU would fuse.
"""

from __future__ import annotations

import torch

from arraycodec.primitives import floats

MAGNITUDE, INFINITY, NAN = int(floats.MAGNITUDE), int(floats.INFINITY), int(floats.NAN)
MIN_SCALE, BIG_SCALE, LOWER = int(floats.MIN_SCALE), int(floats.BIG_SCALE), int(floats.LOWER)
SIGN = -(1 << 31)
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def as_float(bits: torch.Tensor) -> torch.Tensor:
    """The float32 with these bits."""
    return bits.view(torch.float32)


def as_bits(x: torch.Tensor) -> torch.Tensor:
    """The bits of a float32."""
    return x.view(torch.int32)


def recip_rn(bits: torch.Tensor) -> torch.Tensor:
    """1/x correctly rounded, for x with exponent field 1..252, from integers and any approximate division.

    int64 holds the residual as it is, where the reference has it modulo 2^32.
    """
    exponent = bits >> 23
    m = ((bits & 0x7FFFFF) | 0x800000).to(torch.int64)
    q = (torch.full_like(m, 1 << 47, dtype=torch.float32) / m.to(torch.float32)).to(torch.int64)  # off by a few units
    r = (1 << 47) - q * m
    for _ in range(3):
        low = (r < 0).to(torch.int64)
        q, r = q - low, r + low * m
        high = (r >= m).to(torch.int64)
        q, r = q + high, r - high * m
    q = (q + (r + r > m).to(torch.int64)).to(torch.int32)
    return ((253 - exponent) << 23) + (q - 0x800000)


def flushed(bits: torch.Tensor) -> torch.Tensor:
    """A number with exponent field 0 is read as +0, as hardware that flushes subnormals would give or take."""
    return torch.where((bits & INFINITY) != 0, bits, 0)


def signed_flushed(bits: torch.Tensor) -> torch.Tensor:
    """A number with exponent field 0 is read as a zero of its sign."""
    return torch.where((bits & INFINITY) != 0, bits, bits & SIGN)


def widen(x: torch.Tensor) -> torch.Tensor:
    """The float32 bits of float32, bfloat16 or float16 elements, exact, subnormals included."""
    bits = x.view(INTEGERS[x.dtype]).to(torch.int32)
    if x.dtype == torch.float32:
        return bits
    if x.dtype == torch.bfloat16:
        return bits << 16
    magnitude = bits & 0x7FFF
    shifted = magnitude << 13
    # A subnormal is magnitude * 2^-24: an integer below 2^10, which converts exactly, and an exact product.
    small = as_bits(magnitude.to(torch.float32) * 5.9604644775390625e-08)
    normal = shifted + 0x38000000
    large = torch.where(magnitude >= 0x7C00, shifted | INFINITY, normal)
    return ((bits & 0x8000) << 16) | torch.where(magnitude >= 0x400, large, small)


def narrow(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The elements of `dtype` with these float32 bits, rounded once to nearest even; a NaN becomes canonical."""
    if dtype == torch.float32:
        return as_float(bits)
    rounded = float32_to_bfloat16(bits) if dtype == torch.bfloat16 else float32_to_half(bits)
    return rounded.to(torch.int16).view(dtype)  # the conversion drops the upper half


def rounded(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 bits rounded to what `dtype` can hold, as float32 bits again."""
    return bits if dtype == torch.float32 else widen(narrow(bits, dtype))


def float32_to_bfloat16(bits: torch.Tensor) -> torch.Tensor:
    """float32 -> bfloat16, round to nearest even; every NaN becomes the canonical one with its sign."""
    upper = bits >> 16
    rounded = (bits + 0x7FFF + (upper & 1)) >> 16
    return torch.where((bits & MAGNITUDE) > INFINITY, (upper & 0x8000) | 0x7FC0, rounded)


def float32_to_half(bits: torch.Tensor) -> torch.Tensor:
    """float32 -> float16, round to nearest even, overflow to infinity; every NaN becomes the canonical one."""
    sign = (bits >> 16) & 0x8000
    a = bits & MAGNITUDE
    normal = ((a + 0xFFF + ((a >> 13) & 1)) >> 13) - 0x1C000
    normal = torch.clamp(normal, max=0x7C00)
    # A subnormal: shift the full significand right, rounding to nearest even; above 24 nothing is left.
    shift = torch.clamp(126 - (a >> 23), 1, 25)
    m = (a & 0x7FFFFF) | 0x800000
    half = (1 << (shift - 1)) - 1
    small = (m + half + ((m >> shift) & 1)) >> shift
    small = torch.where(shift > 24, 0, small)
    h = torch.where(a >= 0x38800000, normal, small)
    return sign | torch.where(a > INFINITY, 0x7E00, h)


def without_subnormals(x: torch.Tensor) -> torch.Tensor:
    """float32 numbers with exponent field 0 read as +0: what enters an add or comes out of one may be flushed."""
    return as_float(flushed(as_bits(x)))


def mul_add(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c with both roundings: two ops, and none of torch's that do both at once."""
    return without_subnormals(a * b) + c


def tree_sum(x: torch.Tensor) -> torch.Tensor:
    """The float32 sum by halves: zero-padded to a power of two, the upper half is added to the lower until one is left.

    The order is fixed, so every backend gets the same bits; a plain `sum` depends on threads and vector width.
    """
    size = 1 << max(x.numel() - 1, 0).bit_length()
    x = without_subnormals(torch.cat([x, x.new_zeros(size - x.numel())]))
    while x.numel() > 1:
        x = without_subnormals(x[: x.numel() // 2] + x[x.numel() // 2 :])
    return x[0]
