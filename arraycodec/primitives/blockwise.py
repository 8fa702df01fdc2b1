"""What every quantiser of tiles shares on the CPU: extremes of tiles, scaled runs to quantise, decoded runs to multiply.

Kernels go through memory in runs of RUN elements. Where tiles are consecutive, threads take pieces of whole tiles small
enough to stay in a cache between finding their scales and quantising them; otherwise all scales come first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from arraycodec.primitives.floats import (
    BFLOAT16,
    FLOAT32,
    INFINITY,
    MAGNITUDE,
    MIN_SCALE,
    ONE,
    SIGN,
    as_float,
    bfloat16_to_float32,
    half_to_float32,
    rounded,
)
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.scales import RUN, load, multiply, scale_run, settle, used_scale
from arraycodec.primitives.threads import split

PIECE = 1 << 15  # elements that a thread takes at once
LARGEST_TILE = 1 << 17  # elements of a tile that stays in a second-level cache until it is quantised

Extremes = np.ndarray  # uint32 (2, tiles): the bits of the largest magnitude of elements >= 0, and of those < 0


def encode_tiles(
    source: np.ndarray,
    kind: int,
    grid: Grid,
    rule: Callable[[int, int, Extremes], None] | None,
    quantise: Callable[[int, int], None],
) -> None:
    """Let `rule(first, last, extremes)` find the scales of tiles, then `quantise(start, stop)` their elements.

    Without a rule the scales are known. Ranges of tiles and of elements are disjoint, and their codes share no byte.
    """
    if rule is None or not (grid.consecutive and grid.width <= LARGEST_TILE):
        if rule is not None:
            rule(0, grid.tiles, all_extremes(source, kind, grid))
        quantise_pieces(grid.size, quantise)
        return
    unit = _tiles_per_byte(grid)
    step = unit * max(1, PIECE // (unit * grid.width))

    def work(first: int, last: int) -> None:
        for tile in range(first * step, min(last * step, grid.tiles), step):
            stop = min(tile + step, grid.tiles)
            start, end = grid.start(tile), grid.start(stop)
            extremes = np.zeros((2, stop - tile), np.uint32)
            extremes_of_runs(source, kind, grid, extremes, tile, start, end)
            rule(tile, stop, extremes)
            quantise(start, end)

    split(work, -(-grid.tiles // step), grid.size)


def quantise_pieces(size: int, quantise: Callable[[int, int], None]) -> None:
    """Call `quantise(start, stop)` on ranges that begin at a whole byte of codes, whatever the width of a code."""
    split(lambda first, last: quantise(first * RUN, min(last * RUN, size)), -(-size // RUN), size)


def all_extremes(source: np.ndarray, kind: int, grid: Grid) -> Extremes:
    """The extremes of all tiles; each thread finds those of its part of the array."""
    parts = [np.zeros((2, grid.tiles), np.uint32)]

    def work(first: int, last: int) -> None:
        part = np.zeros((2, grid.tiles), np.uint32)
        extremes_of_runs(source, kind, grid, part, 0, first * RUN, min(last * RUN, grid.size))
        parts.append(part)

    split(work, -(-grid.size // RUN), grid.size)
    return np.maximum.reduce(parts)


def _tiles_per_byte(grid: Grid) -> int:
    """The fewest consecutive tiles after which the codes are at a byte again, for every width of a code."""
    if grid.columns % 8 == 0 and grid.width % 8 == 0:
        return 1
    return 8 if grid.matrices * grid.rows == 1 else 8 * max(grid.across, 1)


@inlined
def segments(grid, at, count, ends, tiles):
    """Cut a run at the borders of tiles: where the segments end in it, the tiles they are of, and how many there are."""
    _, rows, columns, height, width = grid
    across, down = -(-columns // width), -(-rows // height)
    row, inside = divmod(at, columns)
    column, found, end = inside // width, 0, 0
    tile = (row // rows * down + row % rows // height) * across + column
    while end < count:
        border = min((column + 1) * width, columns)
        end = min(end + border - inside, count)
        ends[found], tiles[found] = end, tile
        found, inside, column, tile = found + 1, border, column + 1, tile + 1
        if border == columns:
            row, inside, column = row + 1, 0, 0
            if height > 1:
                tile = (row // rows * down + row % rows // height) * across
    return found


@kernel
def extremes_of_runs(source, kind, grid, extremes, first, start, stop):
    """Raise `extremes[:, tile - first]` to those of the elements start..stop."""
    run = np.empty(RUN, np.uint32)
    ends, tiles = np.empty(RUN, np.int64), np.empty(RUN, np.int64)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        load(source, kind, at, count, run)
        lo = 0
        for k in range(segments(grid, at, count, ends, tiles)):
            above, below = np.uint32(0), np.uint32(0)
            for u in run[lo : ends[k]]:
                magnitude = np.uint32(u & MAGNITUDE)
                above = max(above, np.uint32(0) if u >= SIGN else magnitude)
                below = max(below, magnitude if u >= SIGN else np.uint32(0))
            tile = tiles[k] - first
            extremes[0, tile] = max(extremes[0, tile], above)
            extremes[1, tile] = max(extremes[1, tile], below)
            lo = ends[k]


@inlined
def scale_bits(scales, kind, tile):
    """A scale of any of the three float formats as float32 bits."""
    u = np.uint32(scales[tile])
    if kind == FLOAT32:
        return u
    return bfloat16_to_float32(u) if kind == BFLOAT16 else half_to_float32(u)


@inlined
def scaled_run(source, kind, grid, scales, scale_kind, at, count, run, ends, tiles):
    """Load a run and multiply it with the reciprocals of its scales; 0 where a scale is NaN, negative or < 2^-100."""
    load(source, kind, at, count, run)
    lo = 0
    for k in range(segments(grid, at, count, ends, tiles)):
        scale_run(run[lo : ends[k]], scale_bits(scales, scale_kind, tiles[k]))
        lo = ends[k]


@inlined
def divided_run(source, kind, grid, scales, scale_kind, at, count, run, ends, tiles):
    """Load a run and divide it by its scales, each quotient rounded once; 0 as in `scaled_run`."""
    load(source, kind, at, count, run)
    y = run.view(np.float32)
    lo = 0
    for k in range(segments(grid, at, count, ends, tiles)):
        scale = scale_bits(scales, scale_kind, tiles[k])
        if scale >= INFINITY or scale < MIN_SCALE:
            run[lo : ends[k]] = 0
        else:
            divisor = as_float(scale)
            part = y[lo : ends[k]]
            for i in range(part.size):
                part[i] = part[i] / divisor
        lo = ends[k]


@inlined
def round_run(run, kind):
    """Round float32 bits to a narrower float format and widen them again, in place."""
    if kind != FLOAT32:
        for i in range(run.size):
            run[i] = rounded(run[i], kind)


@inlined
def multiplied_run(y, grid, scales, scale_kind, at, count, kind, out, ends, tiles):
    """Multiply decoded values with their scales, round once, and write them; a zero is +0, a NaN the canonical one."""
    target = out[at : at + count]
    lo = 0
    for k in range(segments(grid, at, count, ends, tiles)):
        scale = used_scale(scale_bits(scales, scale_kind, tiles[k]))
        part = y[lo : ends[k]]
        if scale < MIN_SCALE or scale >= INFINITY:
            settle(part, as_float(scale), np.float32(0), False)
            scale = ONE
        multiply(part, as_float(scale), kind, target[lo : ends[k]])
        lo = ends[k]


__all__ = [
    "Extremes", "all_extremes", "divided_run", "encode_tiles", "extremes_of_runs", "multiplied_run",
    "quantise_pieces", "round_run", "scale_bits", "scaled_run", "segments",
]  # fmt: skip
