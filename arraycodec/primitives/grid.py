"""Grids: which elements of an array share a scale, and the shapes that planes have because of it.

A `block_size` is one of
    64            that many consecutive elements of the flattened array
    None          the whole array
    (1, 128)      tiles of rows and columns of the matrices that the last two axes form: here groups along each row
    (1, None)     None is the whole axis: a scale per row (an output channel, a token)
    (None, 1)     a scale per column
    (128, 128)    square blocks
    (None, None)  a scale per matrix (per head of a cache, per expert of a mixture)
Tiles at the right and lower edges may be smaller. An array without rows is one row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from arraycodec.errors import ArgumentError
from arraycodec.primitives import blocks
from arraycodec.spec import ArraySpec

BlockSize = int | tuple[int | None, int | None] | None


class Grid(NamedTuple):
    """Matrices of `rows` x `columns` in tiles of `height` x `width`. Kernels take it as the tuple of integers it is.

    Blocks along the flattened array are the tiles of a single row. A *segment* is the part of a tile that lies in one
    row: its elements are consecutive, and the segments of a grid are the whole array, in order.
    """

    matrices: int
    rows: int
    columns: int
    height: int
    width: int

    @property
    def across(self) -> int:
        """Tiles beside each other."""
        return -(-self.columns // self.width)

    @property
    def down(self) -> int:
        """Tiles of a matrix one above the other."""
        return -(-self.rows // self.height)

    @property
    def tiles(self) -> int:
        """All tiles, each of which has a scale."""
        return self.matrices * self.down * self.across

    @property
    def size(self) -> int:
        """All elements."""
        return self.matrices * self.rows * self.columns

    @property
    def consecutive(self) -> bool:
        """Whether each tile is one segment, so that tiles follow each other in memory as their scales do."""
        return self.height == 1


def check_block_size(codec: str, block_size: object) -> None:
    """Raise unless `block_size` is one of the forms above."""
    if isinstance(block_size, tuple):
        if len(block_size) == 2 and all(side is None or blocks.is_positive(side) for side in block_size):
            return
        raise ArgumentError(
            f"{codec}: a tile must be (rows, columns), each an integer >= 1 or None (whole axis), got {block_size!r}"
        )
    if block_size is not None and not blocks.is_positive(block_size):
        raise ArgumentError(
            f"{codec}: block_size must be an integer >= 1, None (whole array) or a tile (rows, columns), "
            f"got {block_size!r}"
        )


def grid_of(spec: ArraySpec, block_size: BlockSize) -> Grid:
    """The grid of an array in blocks of this size.

    >>> grid_of(ArraySpec((8, 4096, 300), "float32"), (1, 128))
    Grid(matrices=8, rows=4096, columns=300, height=1, width=128)
    >>> grid_of(ArraySpec((4096, 300), "float32"), 64)
    Grid(matrices=1, rows=1, columns=1228800, height=1, width=64)
    """
    if not isinstance(block_size, tuple):
        return Grid(1, 1, spec.size, 1, blocks.block_length(spec, block_size))
    *matrices, rows, columns = (1, 1, *spec.known_shape)[-max(2, len(spec.shape)) :]
    height, width = block_size
    tall, wide = max(rows, 1), max(columns, 1)
    return Grid(math.prod(matrices), rows, columns, min(height or tall, tall), min(width or wide, wide))


def scales_shape(spec: ArraySpec, block_size: BlockSize, bits: int) -> tuple[int, ...]:
    """The shape of a plane with one number per tile: `(..., down, across)`, without `down` where there are no rows."""
    if not isinstance(block_size, tuple):
        return blocks.scales_spec(spec, block_size, bits).known_shape
    grid = grid_of(spec, block_size)
    return (*spec.known_shape[:-2], *((grid.down,) if len(spec.shape) > 1 else ()), grid.across)


def codes_shape(spec: ArraySpec, block_size: BlockSize, bits: int) -> tuple[int, ...]:
    """The shape of the bytes of packed codes: `(..., columns * bits / 8)` where rows are whole bytes, else flat.

    The bytes are the same in both cases. Blocks along the flattened array must also be whole in every row.
    """
    own = 1 if isinstance(block_size, tuple) else block_size
    return blocks.codes_spec(spec, own, bits).known_shape


def surrounding(spec: ArraySpec, block_size: BlockSize, start: int, stop: int) -> tuple[ArraySpec, slice, slice]:
    """The whole tiles around the elements start..stop > start, from one on whose codes begin at a byte.

    They are an array of its own: its spec, its elements of the flattened array, its tiles. With tiles it is whole rows
    of them in a matrix, or whole matrices where the range crosses a border.

    >>> surrounding(ArraySpec((4096, 300), "float32"), (1, 128), 1000, 1001)
    (ArraySpec(shape=(2, 300), dtype='float32'), slice(600, 1200, None), slice(6, 12, None))
    """
    matrices, rows, columns, height, width = grid = grid_of(spec, block_size)
    if not isinstance(block_size, tuple):
        unit = width * _bytes_apart(width) if block_size else 8
        first, last = start // unit * unit, min(-(-stop // unit) * unit, grid.size)
        return ArraySpec((last - first,), spec.dtype), slice(first, last), slice(first // width, -(-last // width))
    if block_size[0] == 1:
        matrices, rows = 1, matrices * rows  # rows are tiled alike, whatever their matrix
    matrix, band, down = rows * columns, height * columns, -(-rows // height)
    first, last = start // matrix, -(-stop // matrix)
    if last - first == 1 and first * matrix % 8 == 0:
        offset, unit, before = first * matrix, _bytes_apart(band), first * down
        first, last = (start - offset) // band // unit * unit, -(-(stop - offset) // band)
        shape = (min(last * height, rows) - first * height, columns)
        elements = slice(offset + first * band, offset + min(last * band, matrix))
        return (
            ArraySpec(shape, spec.dtype),
            elements,
            slice((before + first) * grid.across, (before + last) * grid.across),
        )
    unit, tiles = _bytes_apart(matrix), down * grid.across
    first = first // unit * unit
    part = ArraySpec((last - first, rows, columns), spec.dtype)
    return part, slice(first * matrix, last * matrix), slice(first * tiles, last * tiles)


def _bytes_apart(elements: int) -> int:
    """How many runs of this many elements lie between two whose codes begin at a byte, whatever their width."""
    return 8 // math.gcd(8, elements)
