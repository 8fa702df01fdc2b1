"""Triton kernels of `DQ`: the steps of `arraycodec_torch.dq` in the same order."""

import triton
import triton.language as tl

from arraycodec.primitives import dependent
from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    flushed,
    narrow,
    used_scale,
)

SEGMENT = tl.constexpr(dependent.SEGMENT)
PERIOD = tl.constexpr(dependent.PERIOD)
CENTRED = tl.constexpr(dependent.CENTRED)
UNIT = tl.constexpr(dependent.UNIT)
TAP0, TAP1, TAP2, TAP3 = (tl.constexpr(tap) for tap in dependent.TAPS)


@triton.jit
def restore(codes, centroids, scale, out, size, ROWS: tl.constexpr, ACROSS: tl.constexpr, KIND: tl.constexpr):
    """Decode a segment, as a matrix with a column for each place in a period; ROWS x ACROSS, the last one unused."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, ACROSS)[None, :]
    place = row * PERIOD + column
    at = tl.program_id(0).to(tl.int64) * SEGMENT + place
    inside = (column < PERIOD) & (at < size)
    q = parity(codes, at, place, inside, TAP0) + parity(codes, at, place, inside, TAP1)
    q += parity(codes, at, place, inside, TAP2) + parity(codes, at, place, inside, TAP3)
    level = 2 * signed(tl.load(codes + at, mask=inside, other=0)) + (tl.cumsum(q, axis=0) & 1)
    near = (level >= -CENTRED) & (level <= CENTRED)
    moved = signed(tl.load(centroids + tl.where(near, level + CENTRED, 0)))
    y = (level * UNIT + tl.where(near, moved, 0)).to(tl.float32)
    used = used_scale(tl.load(scale))
    u = as_bits(y * as_float(used))
    u = tl.where((used >= MIN_SCALE) & (used < INFINITY), u, flushed(u))
    tl.store(out + at, narrow(tl.where((u & MAGNITUDE) > INFINITY, NAN, u), KIND), mask=inside)


@triton.jit
def parity(codes, at, place, inside, TAP: tl.constexpr):
    """The lowest bits of the codes so many places before, 0 before the segment."""
    return (tl.load(codes + at - TAP, mask=inside & (place >= TAP), other=0) & 1).to(tl.int32)


@triton.jit
def signed(word):
    """An int16 that was loaded as an unsigned integer."""
    return word.to(tl.int16, bitcast=True).to(tl.int32)
