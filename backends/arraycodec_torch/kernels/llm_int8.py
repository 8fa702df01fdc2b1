"""Triton kernels of `LLMInt8`: the steps of `arraycodec.codecs.llm_int8` in the same order.

A program has ROWS whole rows and goes along them in pieces of WIDTH columns: twice to encode, once to find the largest
magnitudes and once, from a cache, to quantise. Sources, codes and targets are unsigned integers.
"""

import triton
import triton.language as tl

from arraycodec.codecs import llm_int8
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    flushed,
    inverse_scale,
    narrow,
    scale_run,
    stored_scale,
    used_scale,
    widen,
)

STEPS = tl.constexpr(float(llm_int8.STEPS))
EIGHT = tl.constexpr(int(llm_int8.EIGHT))
UNIT = tl.constexpr(int(llm_int8.UNIT))
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: a sum with it is rounded to an integer, in its lowest bits
MAGIC_BITS = tl.constexpr(0x4B400000)


@triton.jit
def encode_rows(
    source, scales, codes, rows, columns,
    KIND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, FIND: tl.constexpr,
):  # fmt: skip
    """Encode ROWS rows; FIND: their scales are found and stored as well."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    start = row[:, None] * columns
    if FIND:
        absmax = tl.zeros([ROWS], tl.uint32)
        for first in range(0, columns, WIDTH):
            inside = (row[:, None] < rows) & (first + column[None, :] < columns)
            run = widen(tl.load(source + start + (first + column)[None, :], mask=inside, other=0), KIND)
            absmax = tl.maximum(absmax, tl.max(run & MAGNITUDE, axis=1))
        scale = stored_scale(absmax)
        tl.store(scales + row, scale, mask=row < rows)
    else:
        scale = tl.load(scales + row, mask=row < rows, other=0)
    inverse, lower = inverse_scale(scale)
    inverse *= STEPS
    for first in range(0, columns, WIDTH):
        inside = (row[:, None] < rows) & (first + column[None, :] < columns)
        run = widen(tl.load(source + start + (first + column)[None, :], mask=inside, other=0), KIND)
        y = scale_run(run, inverse[:, None], lower[:, None])
        tl.store(codes + start + (first + column)[None, :], integers(y).to(tl.uint8), mask=inside)


@triton.jit
def decode_rows(
    codes, scales, out, rows, columns, across,
    KIND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Decode ROWS x WIDTH elements, `across` programs beside each other."""
    band = tl.program_id(0) // across
    row = band.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) - band * across).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    at = row[:, None] * columns + column[None, :]
    scale = used_scale(tl.load(scales + row, mask=row < rows, other=0))
    finite = ((scale & MAGNITUDE) < INFINITY) & (scale != 0)
    scale = as_float(tl.where(finite, scale - EIGHT, scale))[:, None]
    q = tl.load(codes + at, mask=inside, other=0).to(tl.int8, bitcast=True).to(tl.float32)
    u = as_bits(as_float(flushed(as_bits(q * scale))) * as_float(tl.full([1, 1], UNIT, tl.uint32)))
    tl.store(out + at, narrow(tl.where((u & MAGNITUDE) > INFINITY, NAN, u), KIND), mask=inside)


@triton.jit
def integers(y):
    """Step 5: clamped, then rounded to nearest even by an addition, which loses the fraction."""
    y = tl.where(y == y, y, 0.0)
    y = tl.where(y > STEPS, STEPS, tl.where(y < -STEPS, -STEPS, y))
    return as_bits(y + MAGIC).to(tl.int32) - MAGIC_BITS
