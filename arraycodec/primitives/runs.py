"""Runs: RUN elements at a time that are divided by the scales of their tiles, or multiplied with them.

Scales are spread over a run, a factor per element, so that the arithmetic is a loop over the whole run: it vectorises
whatever the width of a tile is. Every quantiser of tiles shares these.
"""

from __future__ import annotations

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
    as_bits,
    as_float,
    bfloat16_to_float32,
    float32_to_bfloat16,
    float32_to_half,
    flushed,
    half_to_float32,
    rounded,
)
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.scales import RUN, load, lowered, used_scale


@inlined
def scale_bits(scales, kind, tile):
    """A scale of any of the three float formats as float32 bits."""
    u = np.uint32(scales[tile])
    if kind == FLOAT32:
        return u
    return bfloat16_to_float32(u) if kind == BFLOAT16 else half_to_float32(u)


# How a scale is used: its reciprocal and itself for encoding, itself for decoding.
INVERSE, DIVISOR, FACTOR = 0, 1, 2


@inlined
def factor_of(scale, use):
    """What a scale is for each element of its tile; where it cannot be used to encode, what makes a zero of numbers."""
    if use == FACTOR:
        return as_float(used_scale(scale))
    if scale < MIN_SCALE or scale >= INFINITY:
        return np.float32(0 if use == INVERSE else np.inf)
    if use == DIVISOR:
        return as_float(scale)
    # IEEE division gives the bits of recip_rn (tests sweep all scales), and the chip does it in one instruction.
    return np.float32(1) / as_float(np.uint32(scale - LOWER) if scale >= BIG_SCALE else scale)


@inlined
def spread(scales, kind, use, segment, count, factors):
    """A factor for each element of a run, and whether all scales are ordinary: positive, finite, 2^-100 to 2^126."""
    ends, tiles, found = segment
    ordinary, lo = True, 0
    if found == count:  # tiles of one column
        for i in range(count):
            scale = scale_bits(scales, kind, tiles[i])
            ordinary &= scale >= MIN_SCALE and scale < BIG_SCALE
            factors[i] = factor_of(scale, use)
        return ordinary
    for k in range(found):
        scale = scale_bits(scales, kind, tiles[k])
        ordinary &= scale >= MIN_SCALE and scale < BIG_SCALE
        factor, part = factor_of(scale, use), factors[lo : ends[k]]
        for i in range(part.size):
            part[i] = factor
        lo = ends[k]
    return ordinary


@inlined
def spread_integers(integers, segment, count, out):
    """A small integer of each tile, such as its zero point, for each element of a run."""
    ends, tiles, found = segment
    lo = 0
    if found == count:  # tiles of one column
        for i in range(count):
            out[i] = integers[tiles[i]]
        return
    for k in range(found):
        integer, part = integers[tiles[k]], out[lo : ends[k]]
        for i in range(part.size):
            part[i] = integer
        lo = ends[k]


@kernel
def buffers():
    """What a run needs besides its elements: a factor for each, and room for segments."""
    return np.empty(RUN, np.float32), np.empty(RUN, np.int64), np.empty(RUN, np.int64)


@inlined
def load_run(source, kind, scales, scale_kind, use, segment, at, count, run, factors):
    """Load a run, and its factors to be multiplied with (INVERSE) or divided by (DIVISOR).

    The result of that is +0 where a scale is NaN, negative or < 2^-100.
    """
    load(source, kind, at, count, run)
    if not spread(scales, scale_kind, use, segment, count, factors):
        if use == INVERSE:
            lower_run(run, scales, scale_kind, segment)
        for i in range(count):
            if factors[i] == np.float32(0) or factors[i] == np.float32(np.inf):
                run[i] = 0


@inlined
def lower_run(run, scales, kind, segment):
    """Lower the exponents of elements by 4 where those of their scales are."""
    ends, tiles, found = segment
    lo = 0
    for k in range(found):
        scale = scale_bits(scales, kind, tiles[k])
        if scale >= BIG_SCALE and scale < INFINITY:
            for i in range(lo, ends[k]):
                run[i] = lowered(run[i], LOWER)
        lo = ends[k]


@inlined
def round_run(run, kind):
    """Round float32 bits to a narrower float format and widen them again, in place."""
    if kind != FLOAT32:
        for i in range(run.size):
            run[i] = rounded(run[i], kind)


@inlined
def multiplied_run(y, scales, scale_kind, segment, count, kind, out, factors):
    """Multiply decoded values with their scales, round once, and write them.

    A zero keeps its sign under an ordinary scale, and is +0 under any other; a NaN is the canonical one.
    """
    if not spread(scales, scale_kind, FACTOR, segment, count, factors):
        for i in range(count):
            scale = as_bits(factors[i])
            if scale < MIN_SCALE or scale >= INFINITY:
                u = flushed(as_bits(y[i] * factors[i]))
                y[i] = as_float(NAN if (u & MAGNITUDE) > INFINITY else u)
                factors[i] = np.float32(1)
    store_products(y, factors, kind, out)


@inlined
def store_products(y, factors, kind, out):
    """value * factor, rounded once to float32 and once to the array's dtype."""
    if kind == FLOAT32:  # one loop per kind: the compiler vectorises each
        for i in range(out.size):
            out[i] = as_bits(y[i] * factors[i])
    elif kind == BFLOAT16:
        for i in range(out.size):
            out[i] = float32_to_bfloat16(as_bits(y[i] * factors[i]))
    else:
        for i in range(out.size):
            out[i] = float32_to_half(as_bits(y[i] * factors[i]))
