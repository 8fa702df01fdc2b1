"""Triton kernels of `Minifloat`: the steps of `arraycodec.codecs.minifloat` in the same order.

A kernel takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import absmax_of, decoded, divided, load_dense, patch, store_dense, tiles_of
from arraycodec_torch.kernels.casts import float32_to_small, small_to_float32
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    epsilon,
    flushed,
    inverse_scale,
    narrow,
    rounded,
    scale_run,
    signed_flushed,
    widen,
)


@triton.jit
def encode(
    source, scales, codes, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, SCALE_KIND: tl.constexpr, SCALED: tl.constexpr, NATIVE: tl.constexpr,
    ARITHMETIC: tl.constexpr, FIND: tl.constexpr, MAXIMUM: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    FIRST: tl.constexpr, LARGEST: tl.constexpr, BEYOND: tl.constexpr, NAN_CODE: tl.constexpr,
    SIGNED_NAN: tl.constexpr, SIGNED_ZERO: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Encode a patch; FIND: each of its lines is a tile, whose scale is found and stored as well."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)  # 1
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    if FIND:
        absmax = absmax_of(run)  # 2
        scale = own_scales(absmax, MAXIMUM) if NATIVE else foreign_scales(absmax, MAXIMUM, SCALE_KIND)  # 3
        tl.store(scales + tile, narrow(scale, SCALE_KIND), mask=present)
    elif SCALED:
        scale = widen(tl.load(scales + tile, mask=present, other=0), SCALE_KIND)
    if not SCALED:
        u = signed_flushed(run)
    elif NATIVE:
        inverse, lower = inverse_scale(scale)
        u = as_bits(scale_run(run, inverse, lower))  # 4
    else:
        u = flushed(rounded(as_bits(divided(run, scale)), ARITHMETIC))
    code = float32_to_small(u, BITS, MANTISSA, FIRST, LARGEST, BEYOND, NAN_CODE, SIGNED_NAN, SIGNED_ZERO)  # 5
    store_dense(codes, code, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)  # 6


@triton.jit
def decode(
    codes, scales, out, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, SCALE_KIND: tl.constexpr, SCALED: tl.constexpr, BITS: tl.constexpr,
    HALF: tl.constexpr, STEP: tl.constexpr, OFFSET: tl.constexpr, NORMAL: tl.constexpr, UNIT: tl.constexpr,
    LARGEST: tl.constexpr, INFINITY_CODE: tl.constexpr, NAN_CODE: tl.constexpr,
    TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    code = load_dense(codes, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)
    u = small_to_float32(code, HALF, STEP, OFFSET, NORMAL, UNIT, LARGEST, INFINITY_CODE, NAN_CODE)
    if SCALED:
        tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
        element = decoded(as_float(u), widen(tl.load(scales + tile, mask=present, other=0), SCALE_KIND), KIND)
    else:
        element = narrow(u, KIND)
    tl.store(out + at, element, mask=inside)


@triton.jit
def own_scales(absmax, MAXIMUM: tl.constexpr):
    """Step 3: absmax times the reciprocal of the format's largest number; a scale below 2^-100 is 0."""
    scale = as_bits(as_float(absmax) * tl.div_rn(1.0, tl.full(absmax.shape, MAXIMUM, tl.float32)))
    return tl.where(absmax >= INFINITY, NAN, tl.where(scale >= MIN_SCALE, scale, 0))


@triton.jit
def foreign_scales(absmax, MAXIMUM: tl.constexpr, KIND: tl.constexpr):
    """Step 3 in compressed-tensors' flavour: the quotient rounded to the dtype, and its eps where that is too small."""
    scale = rounded(as_bits(tl.div_rn(as_float(absmax), tl.full(absmax.shape, MAXIMUM, tl.float32))), KIND)
    return tl.where(absmax >= INFINITY, NAN, tl.where(scale >= MIN_SCALE, scale, epsilon(KIND)))
