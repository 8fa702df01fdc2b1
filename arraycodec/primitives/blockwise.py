"""What every quantiser of tiles shares on the CPU: the order of work, the extremes of tiles, and segments of runs.

Where tiles are small enough, they are quantised piece by piece, just after their scales were found and while their
elements are still in a cache; otherwise the scales of all come first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from arraycodec.primitives.floats import FLOAT16, FLOAT32, MAGNITUDE, SIGN, flushed, half_to_float32
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.threads import split

PIECE = 1 << 17  # elements whose scales are found at once: they stay in a second-level cache until they are quantised
LARGEST_TILE = 1 << 17  # elements of a tile that stays in a second-level cache
LARGEST_BAND = 1 << 21  # elements of a row of tiles that stays in a last-level cache

Extremes = np.ndarray  # uint32 (2, tiles): the bits of the largest magnitude of elements >= 0, and of those < 0


def encode_tiles(
    source: np.ndarray,
    kind: int,
    grid: Grid,
    rule: Callable[[int, int, Extremes], None] | None,
    quantise: Callable[[int, int], None],
    signed: bool = True,
) -> None:
    """Let `rule(first, last, extremes)` find the scales of tiles, then `quantise(start, stop)` their elements.

    Without a rule the scales are known. Where signed is False, the first extreme is that of all elements, the second 0.
    Ranges of tiles and of elements are disjoint, and their codes share no byte.
    """
    step = piece_of(grid) if rule is not None else 0
    if rule is None or not step:
        if rule is not None:
            rule(0, grid.tiles, all_extremes(source, kind, grid, signed))
        quantise_pieces(grid.size, quantise)
        return

    def pieces(first: int, last: int) -> None:
        extremes = np.empty((2, step), np.uint32)
        for tile in range(first * step, min(last * step, grid.tiles), step):
            found = extremes[:, : min(step, grid.tiles - tile)]
            start, stop = extremes_of_tiles(source, kind, grid, signed, found, tile)
            rule(tile, tile + found.shape[1], found)
            quantise(start, stop)

    split(pieces, -(-grid.tiles // step), grid.size)


def quantise_pieces(size: int, quantise: Callable[[int, int], None]) -> None:
    """Call `quantise(start, stop)` on ranges that begin at a whole byte of codes, whatever the width of a code."""
    split(lambda first, last: quantise(first * RUN, min(last * RUN, size)), -(-size // RUN), size)


def piece_of(grid: Grid) -> int:
    """How many tiles make a piece: one that starts at a byte of codes, whatever their width, and fits a cache.

    Pieces are whole tiles of one row, or whole rows of tiles. 0: the tiles of this grid are too large, or do not fit
    bytes; then the scales of all come first.
    """
    if grid.height > 1:
        band = grid.height * grid.columns
        fits = band % 8 == 0 and (grid.matrices == 1 or grid.rows * grid.columns % 8 == 0)
        return grid.across * max(1, PIECE // max(band, 1)) if fits and band <= LARGEST_BAND else 0
    width = min(grid.width, grid.columns)
    if width > LARGEST_TILE:
        return 0
    unit = 1 if grid.columns % 8 == 0 and width % 8 == 0 else 8
    if grid.matrices * grid.rows > 1 and unit > 1:
        unit *= max(grid.across, 1)
    return unit * max(1, PIECE // max(unit * width, 1))


def all_extremes(source: np.ndarray, kind: int, grid: Grid, signed: bool = True) -> Extremes:
    """The extremes of all tiles; each thread finds those of its part of the array."""
    parts = [np.zeros((2, grid.tiles), np.uint32)]

    def work(first: int, last: int) -> None:
        part = np.zeros((2, grid.tiles), np.uint32)
        raise_extremes(source, kind, grid, signed, part, 0, first * RUN, min(last * RUN, grid.size))
        parts.append(part)

    split(work, -(-grid.size // RUN), grid.size)
    return np.maximum.reduce(parts)


@inlined
def first_element(grid, tile):
    """Where a tile starts; `tile` is the first of its row of tiles, or any where tiles are consecutive."""
    _, rows, columns, height, width = grid
    across, down = max(-(-columns // width), 1), max(-(-rows // height), 1)
    band, column = divmod(tile, across)
    matrix, band = divmod(band, down)
    return (matrix * rows + band * height) * columns + column * width


@kernel
def extremes_of_tiles(source, kind, grid, signed, extremes, first):
    """The extremes of as many tiles as there is room for, and the range of elements they are."""
    start, stop = first_element(grid, first), first_element(grid, first + extremes.shape[1])
    extremes[:] = 0
    raise_extremes(source, kind, grid, signed, extremes, first, start, stop)
    return start, stop


@kernel
def raise_extremes(source, kind, grid, signed, extremes, first, start, stop):
    """Raise `extremes[:, tile - first]` to those of the elements start..stop."""
    ends, tiles = np.empty(RUN, np.int64), np.empty(RUN, np.int64)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        found = segments(grid, at, count, ends, tiles)
        raise_run(source[at : at + count], kind, signed, extremes, first, ends, tiles, found)


@inlined
def raise_run(run, kind, signed, extremes, first, ends, tiles, found):
    """Raise the extremes to those of the segments of a run."""
    lo = 0
    for k in range(found):
        above, below = extremes_of(run[lo : ends[k]], kind, signed)
        tile = tiles[k] - first
        extremes[0, tile] = max(extremes[0, tile], above)
        extremes[1, tile] = max(extremes[1, tile], below)
        lo = ends[k]


@inlined
def extremes_of(part, kind, signed):
    """The largest magnitude of elements >= 0, and of those < 0; of all, and 0, where signed is False.

    Magnitudes of a format are in the order of their bits, and a set sign bit makes an integer negative.
    """
    shift = np.uint32(0 if kind == FLOAT32 else 16)
    high, low = np.int32(0), SIGN
    if signed:
        for i in range(part.size):
            u = np.uint32(np.uint32(part[i]) << shift)
            high, low = max(high, np.int32(u)), max(low, u)
    else:
        for i in range(part.size):
            high = max(high, np.int32(np.uint32(np.uint32(part[i]) << shift) & MAGNITUDE))
    above, below = np.uint32(high), np.uint32(low & MAGNITUDE)
    if kind == FLOAT16:
        return half_to_float32(above >> shift), half_to_float32(below >> shift)
    return flushed(above), flushed(below)


@inlined
def segments(grid, at, count, ends, tiles):
    """Cut a run at the borders of tiles: where its segments end, the tiles they are of, and how many there are."""
    _, rows, columns, height, width = grid
    across, down = -(-columns // width), -(-rows // height)
    row = at // columns if rows > 1 or at >= columns else 0
    inside = at - row * columns
    column, found, end = inside // width, 0, 0
    tile = (row if height == 1 else row // rows * down + row % rows // height) * across + column
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
