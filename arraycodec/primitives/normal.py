"""Normalised integers: an array as int16 multiples of 2^-15 of a bfloat16 scale per tile, and back.

What `lut`, `pqr`, `tcq` and `dq` are made of: all they do between the two multiplications is exact integer arithmetic.
    scale    the largest magnitude of the tile, rounded up to bfloat16 (but to no more than the array's dtype can hold);
             the canonical NaN where an element is not finite, 0 where the largest is below 2^-100;
    integer  rint(x * (32768 * recip_rn(scale))), clamped to -32767..32767; 0 where the scale is NaN, negative or 0;
    value    integer * (scale * 2^-15), where the second factor is exact: one rounding, and one to the dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.errors import ArgumentError
from arraycodec.primitives.blockwise import Extremes, encode_tiles, segments
from arraycodec.primitives.floats import BFLOAT16, INFINITY, MIN_SCALE, NAN
from arraycodec.primitives.grid import BlockSize, Grid, scales_shape
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import bin_of
from arraycodec.primitives.runs import INVERSE, buffers, load_run
from arraycodec.primitives.scales import RUN
from arraycodec.spec import ArraySpec

STEPS = np.float32(32768)  # of a scale
UNIT = np.float32(1 / 32768)
HIGHEST = np.float32(32767)

# The largest bfloat16 number that float32, bfloat16 and float16 can hold, so that no scale of theirs is infinite.
LARGEST = np.array([0x7F7F, 0x7F7F, 0x477F], np.uint16)

MAX_IMPORTANCE = 4095  # the integer that the largest importance becomes, and the largest square of a scale


def normal_scales(spec: ArraySpec, block_size: BlockSize, bits: int) -> ArraySpec:
    """The spec of the plane `scales` of an array in tiles of this size, with codes of so many bits."""
    return ArraySpec(scales_shape(spec, block_size, bits), "bfloat16")


def find_scales(source: np.ndarray, kind: int, grid: Grid, scales: np.ndarray) -> None:
    """Write the bits of the scale of every tile: `source` and `scales` (uint16) are flat unsigned integers."""
    if not grid.size:
        scales[:] = 0

    def rule(first: int, last: int, extremes: Extremes) -> None:
        scales_of(extremes, kind, scales[first:last])

    encode_tiles(source, kind, grid, rule, lambda start, stop: None, signed=False)


def integer_weights(codec: str, importance: np.ndarray | None, columns: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The importance of columns as integers up to 4095, the largest; one weight 1 without it and where all are equal.

    importance   float32 (columns,), finite and not negative, and not all 0; else ArgumentError.

    >>> integer_weights("lut", np.array([1, 0.5, 0], np.float32), 3).tolist()
    [4095, 2048, 0]
    """
    if importance is None:
        return np.ones(1, np.int64)
    found = np.asarray(importance)
    if found.shape != (columns,) or found.dtype != np.float32:
        raise ArgumentError(f"{codec}: importance must be float32[{columns}], got {found.dtype}{list(found.shape)}")
    if columns and not (np.isfinite(found).all() and (found >= 0).all() and found.any()):
        raise ArgumentError(f"{codec}: importance must be finite, not negative, and not all 0")
    exact = found.astype(np.float64)
    weights = np.rint(exact * MAX_IMPORTANCE / exact.max(initial=0)).astype(np.int64)
    return weights if weights.min(initial=MAX_IMPORTANCE) < MAX_IMPORTANCE else np.ones(1, np.int64)


def sizes_of(scales: np.ndarray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Stored scales (uint16 bits) as float32; 0 for those that cannot be used."""
    wide = scales.astype(np.uint32)
    wide <<= np.uint32(16)
    sizes = wide.view(np.float32)
    with np.errstate(invalid="ignore"):
        sizes[~(np.isfinite(sizes) & (sizes >= 2.0**-100))] = 0
    return sizes


@inlined
def share_of(size, largest):
    """How much an error of an integer counts under a scale: its square, 4095 for the largest scale, and at least 1."""
    if size == 0:
        return np.int64(0)
    ratio = np.float64(size) / np.float64(largest)
    return max(np.int64(np.rint(ratio * ratio * MAX_IMPORTANCE)), np.int64(1))


@kernel
def scales_of(extremes, kind, scales):
    """The scales of tiles from the bits of their largest magnitudes."""
    for i in range(scales.size):
        absmax = extremes[0, i]
        scale = min(np.uint32(np.uint32(absmax + np.uint32(0xFFFF)) >> np.uint32(16)), np.uint32(LARGEST[kind]))
        scale = scale if absmax >= MIN_SCALE else np.uint32(0)
        scales[i] = np.uint16(scale if absmax < INFINITY else NAN >> np.uint32(16))


@inlined
def load_integers(source, kind, scales, segment, at, count, run, factors, integers):
    """The integers of a run, whose segments are at hand; `run` and `factors` are buffers."""
    load_run(source, kind, scales, BFLOAT16, INVERSE, segment, at, count, run, factors)
    x = run.view(np.float32)
    for i in range(count):
        y = x[i] * (factors[i] * STEPS)  # the product in brackets is exact
        y = y if y == y else np.float32(0)
        integers[i] = np.int16(np.int32(np.rint(min(max(y, -HIGHEST), HIGHEST))))


@kernel
def normalise_range(source, kind, grid, scales, integers, start):
    """The integers of the elements start..., as many as there is room for."""
    run, (factors, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    stop = start + integers.size
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        segment = (ends, tiles, segments(grid, at, count, ends, tiles))
        load_integers(source, kind, scales, segment, at, count, run, factors, integers[at - start :])


@kernel
def count_tiles(integers, start, grid, sizes, largest, weights, counts):
    """Add the shares of the elements start..., times their weights, to the bins of their integers."""
    _, ends, tiles = buffers()
    for at in range(0, integers.size, RUN):
        run, lo = integers[at : at + RUN], 0
        for k in range(segments(grid, start + at, run.size, ends, tiles)):
            share = share_of(sizes[tiles[k]], largest)
            if weights.size == 1:
                for i in range(lo, ends[k]):
                    counts[bin_of(run[i])] += share
            else:
                for i in range(lo, ends[k]):
                    counts[bin_of(run[i])] += share * weights[(start + at + i) % weights.size]
            lo = ends[k]
