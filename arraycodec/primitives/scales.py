"""Scales: one float32 absmax per block, found from bit patterns, divided out when encoding, multiplied when decoding.

The numbered steps are those of docs/format/codebook.md; every block quantiser shares them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.primitives.floats import (
    BFLOAT16,
    BIG_SCALE,
    FLOAT32,
    INFINITY,
    LOWER,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    SIGN,
    as_bits,
    as_float,
    bfloat16_to_float32,
    float32_to_bfloat16,
    float32_to_half,
    flushed,
    half_to_float32,
    signed_flushed,
)
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.threads import split

RUN = 1024  # elements in flight: small enough that memory is read while earlier runs are computed


def absmax_of_blocks(source: np.ndarray, kind: int, block: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Steps 1 to 3 for blocks larger than a run, whose runs are shared among threads."""
    runs = -(-block // RUN)  # per block
    found = np.zeros((-(-source.size // block), runs), np.uint32)

    def work(first: int, last: int) -> None:
        absmax_runs(source, kind, block, found, first, last)

    split(work, found.size, source.size)
    absmax = found.max(axis=1)
    return np.where(absmax >= INFINITY, NAN, np.where(absmax >= MIN_SCALE, absmax, np.uint32(0)))


@inlined
def load(source, kind, start, count, run):
    """Step 1. A zero keeps its sign, which tables and integers take no notice of."""
    piece = source[start : start + count]
    if kind == FLOAT32:  # one loop per kind: the compiler vectorises each
        for i in range(count):
            run[i] = signed_flushed(np.uint32(piece[i]))
    elif kind == BFLOAT16:
        for i in range(count):
            run[i] = signed_flushed(bfloat16_to_float32(np.uint32(piece[i])))
    else:
        for i in range(count):
            run[i] = half_to_float32(np.uint32(piece[i]))  # never subnormal


@inlined
def largest(run):
    """Step 2."""
    m = np.uint32(0)
    for i in range(run.size):
        m = max(m, np.uint32(run[i] & MAGNITUDE))
    return m


@inlined
def stored_scale(absmax):
    """Step 3."""
    if absmax >= INFINITY:
        return NAN
    return absmax if absmax >= MIN_SCALE else np.uint32(0)


@kernel
def absmax_runs(source, kind, block, found, first, last):
    """The largest magnitude of the runs first..last, where `found` has a row per block and a column per run."""
    run = np.empty(RUN, np.uint32)
    for k in range(first, last):
        b, r = divmod(k, found.shape[1])
        start = b * block + r * RUN
        count = max(0, min(RUN, (b + 1) * block - start, source.size - start))
        load(source, kind, start, count, run)
        found[b, r] = largest(run[:count])


@inlined
def scale_run(run, absmax, steps):
    """Elements over their scale, in as many steps, in place; where the scale is NaN, negative or 0, y is 0."""
    if absmax >= INFINITY or absmax < MIN_SCALE:
        run[:] = 0
        return
    if absmax >= BIG_SCALE:
        absmax = np.uint32(absmax - LOWER)
        for i in range(run.size):
            run[i] = lowered(run[i], LOWER)
    # IEEE division gives the bits of recip_rn here (tests sweep all absmax), and the chip does it in one instruction.
    inverse = (np.float32(1) / as_float(absmax)) * steps
    y = run.view(np.float32)
    for i in range(y.size):
        y[i] = y[i] * inverse


@inlined
def lowered(bits, lower):
    """The exponent of a number lowered by `lower`; what would become subnormal is a zero of its sign.

    Infinity and NaN, which given scales let through, stay.
    """
    exponent = bits & INFINITY
    if exponent <= lower:
        return np.uint32(bits & SIGN)
    return np.uint32(bits - lower) if exponent < INFINITY else bits


@inlined
def scaled(bits, scale):
    """Steps 4 and 5 for a magnitude and a positive finite scale."""
    lower = LOWER if scale >= BIG_SCALE else np.uint32(0)
    return as_float(lowered(bits, lower)) * (np.float32(1) / as_float(np.uint32(scale - lower)))


@inlined
def used_scale(scale):
    """A stored scale as decoding uses it: the canonical NaN where it is not finite, 0 where it is below 2^-100."""
    magnitude = np.uint32(scale & MAGNITUDE)
    if magnitude >= INFINITY:
        return NAN
    return np.uint32(scale) if magnitude >= MIN_SCALE else np.uint32(0)


@inlined
def multiply(y, scale, kind, out):
    """value * scale, rounded once to float32 and once to the array's dtype."""
    if kind == FLOAT32:  # one loop per kind: the compiler vectorises each
        for i in range(y.size):
            out[i] = as_bits(y[i] * scale)
    elif kind == BFLOAT16:
        for i in range(y.size):
            out[i] = float32_to_bfloat16(as_bits(y[i] * scale))
    else:
        for i in range(y.size):
            out[i] = float32_to_half(as_bits(y[i] * scale))


@inlined
def settle(y, scale, offset, has_offset):
    """What a positive scale without offset does not need: add the offset; a zero is +0, a NaN the canonical one."""
    for i in range(y.size):
        u = flushed(as_bits(y[i] * scale))
        if has_offset:
            u = flushed(as_bits(as_float(u) + offset))
        y[i] = as_float(NAN if (u & MAGNITUDE) > INFINITY else u)
