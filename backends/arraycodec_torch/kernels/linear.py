"""Triton kernels of `Linear`: the steps of `arraycodec.codecs.linear` in the same order.

A kernel takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import (
    decoded,
    divided,
    extremes,
    is_usable,
    load_dense,
    patch,
    rint,
    store_dense,
    tiles_of,
)
from arraycodec_torch.kernels.primitives import (
    BIG_SCALE,
    INFINITY,
    LOWER,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    epsilon,
    inverse_scale,
    lowered,
    narrow,
    rounded,
    scale_run,
    widen,
)


@triton.jit
def encode(
    source, scales, zeros, codes, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, SCALE_KIND: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, NATIVE: tl.constexpr,
    ARITHMETIC: tl.constexpr, LOWEST: tl.constexpr, FIND: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Encode a patch; FIND: each of its lines is a tile, whose scale and zero point are found and stored as well."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)  # 1
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    if FIND:
        above, below = extremes(run)  # 2
        if NATIVE:  # 3
            scale, zero = own_scales(above, below, BITS, SYMMETRIC)
        else:
            scale, zero = foreign_scales(above, below, BITS, SYMMETRIC, SCALE_KIND)
        tl.store(scales + tile, narrow(scale, SCALE_KIND), mask=present)
        if not SYMMETRIC:
            tl.store(zeros + tile, zero.to(tl.int8), mask=present)
    else:
        scale = widen(tl.load(scales + tile, mask=present, other=0), SCALE_KIND)
        zero = 0 if SYMMETRIC else tl.load(zeros + tile, mask=present, other=0).to(tl.int32)
    if NATIVE:
        inverse, lower = inverse_scale(scale)
        y = scale_run(run, inverse, lower)  # 4
        q = own_integers(y, zero, BITS, LOWEST)  # 5
    else:
        y = as_float(rounded(as_bits(divided(run, scale)), ARITHMETIC))
        q = foreign_integers(y, zero, BITS, LOWEST, SYMMETRIC, ARITHMETIC)
    code = (q if BITS == 8 else q + (1 << (BITS - 1))).to(tl.uint32)  # 6
    store_dense(codes, code, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)


@triton.jit
def decode(
    codes, scales, zeros, out, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, SCALE_KIND: tl.constexpr, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    scale = widen(tl.load(scales + tile, mask=present, other=0), SCALE_KIND)
    q = load_dense(codes, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK).to(tl.int32)
    q = (q << 24) >> 24 if BITS == 8 else q - (1 << (BITS - 1))
    if not SYMMETRIC:
        q -= tl.load(zeros + tile, mask=present, other=0).to(tl.int32)
    tl.store(out + at, decoded(q.to(tl.float32), scale, KIND), mask=inside)


@triton.jit
def own_scales(above, below, BITS: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Step 3: the scale is the range times 1 / (number of steps in it); a scale below 2^-100 is 0."""
    steps = tl.full(above.shape, (1 << (BITS - 1)) - 1 if SYMMETRIC else (1 << BITS) - 1, tl.float32)
    absmax = tl.maximum(above, below)
    lower = tl.where(absmax >= BIG_SCALE, LOWER, 0)  # so that the sum of both does not overflow
    if SYMMETRIC:
        extent = as_float(lowered(absmax, lower))
    else:
        extent = as_float(lowered(above, lower)) + as_float(lowered(below, lower))
    scale = as_bits(extent * tl.div_rn(1.0, steps)) + lower
    scale = tl.where(absmax >= INFINITY, NAN, tl.where(scale >= MIN_SCALE, scale, 0))
    zero = 0
    if not SYMMETRIC:
        inverse, lower = inverse_scale(scale)
        zero = tl.where(is_usable(scale), rint(scale_run(below, inverse, lower)) - (1 << (BITS - 1)), 0)
    return scale, zero


@triton.jit
def foreign_scales(above, below, BITS: tl.constexpr, SYMMETRIC: tl.constexpr, KIND: tl.constexpr):
    """Step 3 in compressed-tensors' flavour: the range divided by its steps, every operation rounded to the dtype."""
    absmax = tl.maximum(above, below)
    if SYMMETRIC:
        extent, steps = absmax, tl.full(above.shape, ((1 << BITS) - 1) / 2, tl.float32)
    else:
        extent = rounded(as_bits(as_float(above) + as_float(below)), KIND)
        steps = tl.full(above.shape, (1 << BITS) - 1, tl.float32)
    scale = rounded(as_bits(tl.div_rn(as_float(extent), steps)), KIND)
    scale = tl.where(absmax >= INFINITY, NAN, tl.where(scale >= INFINITY, NAN, scale))
    finite = scale != NAN
    quotient = rounded(as_bits(tl.div_rn(as_float(below), as_float(scale))), KIND)
    quotient = tl.where(scale != 0, quotient, INFINITY)  # without a scale the quotient is infinite
    half = 1 << (BITS - 1)
    zero = as_float(rounded(as_bits(as_float(quotient) - half), KIND))
    zero = rint(tl.minimum(tl.maximum(tl.where(zero == zero, zero, 0), -half), half - 1))
    found = finite & (absmax >= MIN_SCALE) & ((scale != 0) | (below != 0))
    dead = finite & ((absmax < MIN_SCALE) | (scale == 0))
    return tl.where(dead, epsilon(KIND), scale), tl.where(found, zero, 0)


@triton.jit
def own_integers(y, zero, BITS: tl.constexpr, LOWEST: tl.constexpr):
    """Step 5: round, add the zero point, clamp."""
    y = tl.where(y == y, y, 0)
    q = rint(tl.minimum(tl.maximum(y, -1024.0), 1024.0)) + zero
    return tl.minimum(tl.maximum(q, LOWEST), (1 << (BITS - 1)) - 1)


@triton.jit
def foreign_integers(
    y, zero, BITS: tl.constexpr, LOWEST: tl.constexpr, SYMMETRIC: tl.constexpr, ARITHMETIC: tl.constexpr
):
    """Step 5 in compressed-tensors' flavour: add the zero point, clamp, round."""
    if not SYMMETRIC:
        y = as_float(rounded(as_bits(y + zero.to(tl.float32)), ARITHMETIC))
    y = tl.where(y == y, y, 0)
    return rint(tl.minimum(tl.maximum(y, 1.0 * LOWEST), 1.0 * ((1 << (BITS - 1)) - 1)))
