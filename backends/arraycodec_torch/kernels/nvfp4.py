"""Triton kernels of `NVFP4`: the steps of `arraycodec.codecs.nvfp4` in the same order, but for the global scale.

A kernel takes a patch of the array whose lines are blocks, as `arraycodec_torch.kernels.blockwise` describes.
"""

import triton
import triton.language as tl

from arraycodec.codecs import nvfp4
from arraycodec_torch.kernels.blockwise import absmax_of, load_dense, patch, product, store_dense
from arraycodec_torch.kernels.casts import magnitude_code
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    flushed,
    narrow,
    rounded,
    widen,
)

E2M1_MANTISSA, E2M1_FIRST, E2M1_LARGEST = (tl.constexpr(number) for number in nvfp4.E2M1[1:4])
E4M3_MANTISSA, E4M3_FIRST, E4M3_LARGEST = (tl.constexpr(number) for number in nvfp4.E4M3[1:4])
SIX = tl.constexpr(nvfp4.LARGEST)
EPSILON = tl.constexpr(nvfp4.EPSILON)
NAN_SCALE = tl.constexpr(nvfp4.NAN_SCALE)
LOWEST_GLOBAL = tl.constexpr(int(nvfp4.LOWEST_GLOBAL))
HIGHEST_GLOBAL = tl.constexpr(int(nvfp4.HIGHEST_GLOBAL))
LOWEST_FACTOR = tl.constexpr(int(nvfp4.LOWEST_FACTOR))
HIGHEST_FACTOR = tl.constexpr(int(nvfp4.HIGHEST_FACTOR))
UNIT, SMALLEST = tl.constexpr(nvfp4.UNIT), tl.constexpr(nvfp4.SMALLEST)


@triton.jit
def encode(
    source, global_scale, scales, scale_values, codes, n, span, step,
    KIND: tl.constexpr, ARITHMETIC: tl.constexpr, MULTIPLIES: tl.constexpr, FIND: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Encode a patch; FIND: the scales of its blocks are found and stored as well."""
    block, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    run = flushed(widen(tl.load(source + at, mask=inside, other=0), KIND))  # 1
    divisor = tl.load(global_scale)
    if FIND:
        scale = block_scale(absmax_of(run), divisor, ARITHMETIC, MULTIPLIES)  # 3
        tl.store(scales + block, scale.to(tl.uint8), mask=block * span < n)
    else:
        scale = tl.load(scales + block, mask=block * span < n, other=0).to(tl.uint32)
    unit = step_of(tl.load(scale_values + scale), divisor, MULTIPLIES)  # 4
    run = tl.where(unit > 0, run, 0)
    x, unit = tl.broadcast(as_float(run), tl.where(unit > 0, unit, 1.0))
    y = as_bits(tl.div_rn(x, unit)) & MAGNITUDE
    code = magnitude_code(y, E2M1_MANTISSA, E2M1_FIRST)  # 5
    code = tl.where(y > INFINITY, 0, tl.minimum(code, E2M1_LARGEST))
    code |= (run >> 28) & 8  # a zero is +0 here
    store_dense(codes, code, block, first, at, inside, n, span, step, 4, GROUP, EVEN, ROWS, BLOCK)  # 6


@triton.jit
def decode(
    codes, scales, global_scale, scale_values, values, out, n, span, step,
    KIND: tl.constexpr, MULTIPLIES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    block, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    scale = tl.load(scales + block, mask=block * span < n, other=0).to(tl.uint32)
    unit = step_of(tl.load(scale_values + scale), tl.load(global_scale), MULTIPLIES)
    y = tl.load(values + load_dense(codes, block, first, at, inside, n, span, step, 4, GROUP, EVEN, ROWS, BLOCK))
    tl.store(out + at, narrow(product(y, unit, unit > 0), KIND), mask=inside)


@triton.jit
def block_scale(absmax, divisor, ARITHMETIC: tl.constexpr, MULTIPLIES: tl.constexpr):
    """Step 3: the code of absmax / 6 * global scale, 0.125 where it is a zero's; NaN where either is out of range.

    In the flavour of absmax / (6 * global scale): 1 for a block of zeros, and 2^-9 where it is a zero's otherwise.
    """
    if MULTIPLIES:
        largest = SIX * as_float(tl.full(absmax.shape, 0, tl.uint32) + divisor)
        quotient = tl.div_rn(as_float(absmax), largest)
    else:
        sixth = rounded(as_bits(tl.div_rn(as_float(absmax), tl.full(absmax.shape, SIX, tl.float32))), ARITHMETIC)
        quotient = as_float(sixth) * as_float(divisor)
    code = magnitude_code(as_bits(quotient) & MAGNITUDE, E4M3_MANTISSA, E4M3_FIRST)
    code = tl.minimum(code, E4M3_LARGEST)
    if MULTIPLIES:
        code = tl.where(absmax == 0, UNIT, tl.where(code == 0, SMALLEST, code))
    else:
        code = tl.where(code == 0, EPSILON, code)
    return tl.where((absmax < INFINITY) & in_range(divisor, MULTIPLIES), code, NAN_SCALE)


@triton.jit
def step_of(scale, divisor, MULTIPLIES: tl.constexpr):
    """What a value is multiplied with: scale / global scale, NaN where a global scale is out of range."""
    divisor = tl.full(scale.shape, 0, tl.uint32) + divisor
    step = scale * as_float(divisor) if MULTIPLIES else tl.div_rn(scale, as_float(divisor))
    return tl.where(in_range(divisor, MULTIPLIES), step, as_float(tl.full(scale.shape, NAN, tl.uint32)))


@triton.jit
def in_range(divisor, MULTIPLIES: tl.constexpr):
    """Whether a global scale, by its bits, is one that can be used."""
    lowest = LOWEST_FACTOR if MULTIPLIES else LOWEST_GLOBAL
    highest = HIGHEST_FACTOR if MULTIPLIES else HIGHEST_GLOBAL
    return (divisor >= lowest) & (divisor < highest)
