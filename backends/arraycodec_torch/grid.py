"""Pieces of a grid: runs of elements that bound the memory of intermediate results, and the tiles these lie in.

Where tiles follow each other in memory, a piece is a matrix with a row per tile, so that a scale is a column that
broadcasts; elsewhere it is one row, and each element knows its tile by index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from arraycodec.primitives.grid import Grid
from arraycodec_torch.primitives import MAGNITUDE, as_bits, as_float, rounded
from arraycodec_torch.scales import LARGE_TILE, TILE, divided, inverse_scale, load, scaled


class Piece(NamedTuple):
    """The elements start..stop of the flattened array, in `rows` rows; `start` is a multiple of 8."""

    start: int
    stop: int
    rows: int
    tiles: slice  # those that the elements lie in, and perhaps others between them
    owner: torch.Tensor | None  # the index among `tiles` of each element's tile; None: a row is of one tile

    def spread(self, per_tile: torch.Tensor) -> torch.Tensor:
        """Values of `tiles` as a matrix that broadcasts with the elements."""
        return per_tile[:, None] if self.owner is None else per_tile.index_select(0, self.owner)[None]


def consecutive_run(grid: Grid) -> int:
    """The length of tiles that follow each other in memory, of which only the last may be shorter; 0 for other grids.

    >>> consecutive_run(Grid(1, 4, 256, 1, 128)), consecutive_run(Grid(2, 4, 256, 4, 256))
    (128, 1024)
    """
    if grid.across == 1:  # whole lines
        height = min(grid.height, grid.rows)
        return height * grid.columns if grid.matrices == 1 or grid.rows % height == 0 else 0
    whole = grid.matrices * grid.rows == 1 or grid.columns % grid.width == 0
    return grid.width if whole and grid.height == 1 else 0


def pieces(grid: Grid, device: torch.device) -> Iterator[Piece]:
    """Pieces that cover the array in its order."""
    step, run = TILE.get(device.type, LARGE_TILE), consecutive_run(grid)
    whole = math.lcm(run or 1, 8)
    step = step // whole * whole if whole <= step else step
    for start in range(0, grid.size, step):
        stop = min(start + step, grid.size)
        if run and start % run == stop % run == 0:
            yield Piece(start, stop, (stop - start) // run, slice(start // run, stop // run), None)
        elif run and start // run == (stop - 1) // run:
            yield Piece(start, stop, 1, slice(start // run, start // run + 1), None)
        else:
            yield _indexed(grid, start, stop, device)


def quotients(
    run: torch.Tensor, piece: Piece, scale: torch.Tensor, native: bool, arithmetic: torch.dtype
) -> torch.Tensor:
    """Elements over the scales of their tiles, by bits: times recip_rn, or if not `native` rounded to `arithmetic`."""
    if native:
        inverse, lower = inverse_scale(scale)
        return scaled(run, piece.spread(inverse), piece.spread(lower))
    return as_float(rounded(as_bits(divided(run, piece.spread(scale))), arithmetic))


def absmax_of_tiles(source: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The bits of the largest magnitude of each tile."""
    found = torch.zeros(grid.tiles, dtype=torch.int32, device=source.device)
    for piece in pieces(grid, source.device):
        _raise(found, piece, load(source, piece) & MAGNITUDE)
    return found


def extremes_of_tiles(source: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(2, tiles): the bits of the largest magnitude of the elements >= 0 of each tile, and of those < 0."""
    found = torch.zeros((2, grid.tiles), dtype=torch.int32, device=source.device)
    for piece in pieces(grid, source.device):
        run = load(source, piece)
        _raise(found[0], piece, run.clamp(min=0))
        _raise(found[1], piece, torch.where(run < 0, run & MAGNITUDE, 0))
    return found


def _raise(found: torch.Tensor, piece: Piece, values: torch.Tensor) -> None:
    """Raise the numbers of the tiles of a piece to the largest of their values."""
    own = found[piece.tiles]
    if piece.owner is None:
        torch.maximum(own, values.amax(1), out=own)
    else:
        own.scatter_reduce_(0, piece.owner, values.view(-1), "amax")


def _indexed(grid: Grid, start: int, stop: int, device: torch.device) -> Piece:
    """The piece of any range of elements."""
    at = torch.arange(start, stop, device=device)
    (line, column), (last_line, last_column) = divmod(start, grid.columns), divmod(stop - 1, grid.columns)
    if line != last_line:
        column, last_column = 0, grid.columns - 1
    tiles = slice(_tile(grid, line, column), _tile(grid, last_line, last_column) + 1)
    return Piece(start, stop, 1, tiles, _tile(grid, at // grid.columns, at % grid.columns) - tiles.start)


def _tile(grid: Grid, line: Any, column: Any) -> Any:
    """The tile at a column of a line of the array."""
    band = line // grid.rows * grid.down + line % grid.rows // grid.height
    return band * grid.across + column // grid.width
