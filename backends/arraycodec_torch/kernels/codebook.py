"""Triton kernels of `Codebook`: the steps of `arraycodec.codecs.codebook` in the same order.

`encode_blocks` and `decode_blocks` take one block per row of a tile, for blocks that are a power of two; the others
take elements as they come, for blocks of any size whose scales are known. Sources and targets are unsigned integers.
Indices are 64-bit: a weight may have more than 2^31 elements.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    MIN_SCALE,
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


@triton.jit
def encode_blocks(
    source, absmax, codes, bounds, order, n, blocks,
    KIND: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TAIL: tl.constexpr,
    SMALLEST: tl.constexpr,
):  # fmt: skip
    """Find the scales of ROWS blocks and encode them, reading each element once; TAIL: the last block is shorter."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = rows[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (at < n) if TAIL else (rows[:, None] < blocks)
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)  # 1
    largest = tl.max(run & MAGNITUDE, axis=1)  # 2
    scale = usable(stored_scale(largest), SMALLEST)  # 3
    tl.store(absmax + rows, scale, mask=rows < blocks)
    inverse, lower = inverse_scale(scale)
    y = scale_run(run, inverse[:, None], lower[:, None])  # 4 and 5
    code = ranked(y, bounds, order, BITS)  # 6
    if BITS == 4:
        high, low = tl.split(tl.reshape(code, [ROWS, BLOCK // 2, 2]))
        pair = rows[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
        inside = (2 * pair < n) if TAIL else (rows[:, None] < blocks)
        tl.store(codes + pair, ((high << 4) | low).to(tl.uint8), mask=inside)
    else:
        tl.store(codes + at, code.to(tl.uint8), mask=inside)


@triton.jit
def absmax_runs(source, found, n, block, runs, total, KIND: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr):
    """Steps 1 and 2 for runs of RUN elements: `found` has a row per block and a column per run of it."""
    k = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    b = k // runs
    within = (k - b * runs)[:, None] * RUN + tl.arange(0, RUN)[None, :]
    at = b[:, None] * block + within
    inside = (within < block) & (at < n)
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)
    tl.store(found + k, tl.max(run & MAGNITUDE, axis=1), mask=k < total)


@triton.jit
def encode_elements(
    source, absmax, codes, bounds, order, n, block,
    KIND: tl.constexpr, BITS: tl.constexpr, TILE: tl.constexpr, LARGE: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """Encode TILE elements whose scales are known, in blocks of any size; LARGE: no smaller than a tile."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, TILE)
    inside = start + i < n
    run = widen(tl.load(source + start + i, mask=inside, other=0), KIND)
    if LARGE:  # at most two blocks meet in a tile
        first, second = start // block, start // block + 1
        inverse, lower = inverse_scale(usable(tl.load(absmax + first), SMALLEST))
        scale2 = tl.load(absmax + second, mask=second * block < n, other=0)
        inverse2, lower2 = inverse_scale(usable(scale2, SMALLEST))
        behind = start + i >= second * block
        inverse, lower = tl.where(behind, inverse2, inverse), tl.where(behind, lower2, lower)
    else:
        scale = tl.load(absmax + block_of(start, i, block, False), mask=inside, other=0)
        inverse, lower = inverse_scale(usable(scale, SMALLEST))
    y = scale_run(run, inverse, lower)
    code = ranked(y, bounds, order, BITS)
    if BITS == 4:
        high, low = tl.split(tl.reshape(code, [TILE // 2, 2]))
        pair = tl.arange(0, TILE // 2)
        tl.store(codes + start // 2 + pair, ((high << 4) | low).to(tl.uint8), mask=start + 2 * pair < n)
    else:
        tl.store(codes + start + i, code.to(tl.uint8), mask=inside)


@triton.jit
def decode_blocks(
    codes, absmax, values, offset, out, n, blocks,
    KIND: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, TAIL: tl.constexpr,
    OFFSET: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """Decode ROWS blocks; TAIL: the last block is shorter."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = used_scale(tl.load(absmax + rows, mask=rows < blocks, other=0))
    scale = as_float(usable(scale, SMALLEST))[:, None]
    at = rows[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (at < n) if TAIL else (rows[:, None] < blocks)
    if BITS == 4:
        pair = rows[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
        byte = tl.load(codes + pair, mask=(2 * pair < n) if TAIL else (rows[:, None] < blocks), other=0)
        y = tl.reshape(tl.join(tl.load(values + (byte >> 4)), tl.load(values + (byte & 15))), [ROWS, BLOCK])
    else:
        y = tl.load(values + tl.load(codes + at, mask=inside, other=0))
    tl.store(out + at, decoded(y, scale, offset, KIND, OFFSET), mask=inside)


@triton.jit
def decode_elements(
    codes, absmax, values, offset, out, n, block,
    KIND: tl.constexpr, BITS: tl.constexpr, TILE: tl.constexpr, LARGE: tl.constexpr, OFFSET: tl.constexpr,
    SMALLEST: tl.constexpr,
):  # fmt: skip
    """Decode TILE elements in blocks of any size; LARGE: no smaller than a tile."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, TILE)
    inside = start + i < n
    scale = used_scale(tl.load(absmax + block_of(start, i, block, LARGE), mask=inside, other=0))
    scale = as_float(usable(scale, SMALLEST))
    if BITS == 4:
        pair = tl.arange(0, TILE // 2)
        byte = tl.load(codes + start // 2 + pair, mask=start + 2 * pair < n, other=0)
        y = tl.reshape(tl.join(tl.load(values + (byte >> 4)), tl.load(values + (byte & 15))), [TILE])
    else:
        y = tl.load(values + tl.load(codes + start + i, mask=inside, other=0))
    tl.store(out + start + i, decoded(y, scale, offset, KIND, OFFSET), mask=inside)


@triton.jit
def block_of(start, i, block, LARGE: tl.constexpr):
    """The blocks of the elements start + i; only the first one takes a 64-bit division."""
    first = start // block
    within = start - first * block
    return first + ((within + i >= block).to(tl.int64) if LARGE else (within.to(tl.int32) + i) // block)


@triton.jit
def usable(scale, SMALLEST: tl.constexpr):
    """0 for scales whose products with the smallest entries of the table might be subnormal."""
    if SMALLEST > MIN_SCALE:
        scale = tl.where((scale & MAGNITUDE) >= SMALLEST, scale, 0)
    return scale


@triton.jit
def ranked(y, bounds, order, BITS: tl.constexpr):
    """Step 6: the code of the rank of y, which is the number of bounds strictly below it."""
    return tl.load(order + (rank16(y, bounds) if BITS == 4 else rank256(y, bounds))).to(tl.int32)


@triton.jit
def rank16(y, bounds):
    """By halving, with bounds in registers: four comparisons and eleven selections, where counting takes 15 of each."""
    low0, low1, low2, low3 = tl.load(bounds), tl.load(bounds + 1), tl.load(bounds + 2), tl.load(bounds + 3)
    low4, low5, low6, half = tl.load(bounds + 4), tl.load(bounds + 5), tl.load(bounds + 6), tl.load(bounds + 7)
    top0, top1, top2, top3 = tl.load(bounds + 8), tl.load(bounds + 9), tl.load(bounds + 10), tl.load(bounds + 11)
    top4, top5, top6 = tl.load(bounds + 12), tl.load(bounds + 13), tl.load(bounds + 14)
    a = y > half
    b = y > tl.where(a, top3, low3)
    c = y > tl.where(a, tl.where(b, top5, top1), tl.where(b, low5, low1))
    low = tl.where(b, tl.where(c, low6, low4), tl.where(c, low2, low0))
    top = tl.where(b, tl.where(c, top6, top4), tl.where(c, top2, top0))
    d = y > tl.where(a, top, low)
    return tl.where(a, 8, 0) + tl.where(b, 4, 0) + tl.where(c, 2, 0) + d.to(tl.int32)


@triton.jit
def rank256(y, bounds):
    """By halving, with 255 bounds in memory."""
    rank = tl.zeros(y.shape, tl.int32)
    for k in tl.static_range(8):
        step = 128 >> k
        rank += tl.where(y > tl.load(bounds + rank + (step - 1)), step, 0)
    return rank


@triton.jit
def decoded(y, scale, offset, KIND: tl.constexpr, OFFSET: tl.constexpr):
    """value * scale (+ offset), each rounded once, as elements of the kind; a zero is +0, a NaN the canonical one."""
    u = flushed(as_bits(y * scale))
    if OFFSET:
        u = flushed(as_bits(as_float(u) + tl.load(offset)))
    return narrow(tl.where((u & MAGNITUDE) > INFINITY, NAN, u), KIND)
