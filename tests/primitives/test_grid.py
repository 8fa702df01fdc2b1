"""Grids of tiles: their counts and shapes, cutting runs at borders, pieces that fit bytes, extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import ArgumentError
from arraycodec.primitives import blockwise
from arraycodec.primitives.blockwise import first_element, segments
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.primitives.grid import Grid, check_block_size, codes_shape, grid_of, scales_shape, surrounding
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe

HUGE = 10**30
SHAPES = [(4, 12), (5, 37), (2, 3, 16), (2, 2, 5, 9), (3, 1, 16), (50,), (), (1, 2100), (300, 3)]
BLOCK_SIZES = [None, 1, 5, 64, (1, 4), (1, 7), (1, None), (None, 1), (3, 5), (4, 8), (None, None), (2, None), (300, 7)]
GRIDS = list(itertools.product(SHAPES, BLOCK_SIZES))


def tile_numbers(grid: Grid) -> np.ndarray:
    """The tile of each element by definition."""
    matrix, row, column = np.indices(grid[:3]).reshape(3, -1)
    return (matrix * grid.down + row // grid.height) * grid.across + column // grid.width


@pytest.mark.parametrize(
    ("shape", "block_size", "bits", "scales", "codes"),
    [
        ((8, 4096, 300), (1, 128), 4, (8, 4096, 3), (8, 4096, 150)),
        ((300, 250), (128, 128), 3, (3, 2), (28125,)),
        ((2, 16, 1024, 128), (None, None), 8, (2, 16, 1, 1), (2, 16, 1024, 128)),
        ((37,), (1, None), 8, (1,), (37,)),
        ((37,), (2, 10), 5, (4,), (24,)),
        ((), (1, None), 4, (1,), (1,)),
        ((), (None, 8), 8, (1,), (1,)),
        ((0, 5), (1, 2), 8, (0, 3), (0, 5)),
        ((5, 0), (1, 2), 8, (5, 0), (5, 0)),
        ((0,), (1, None), 4, (0,), (0,)),
        ((4, 96), 64, 4, (6,), (192,)),
        ((4, 128), 64, 4, (4, 2), (4, 64)),
        ((0, 5), None, 4, (1,), (0,)),
    ],
)
def test_shapes(shape, block_size, bits, scales, codes) -> None:
    spec = ArraySpec(shape, "float32")
    assert scales_shape(spec, block_size, bits) == scales
    assert codes_shape(spec, block_size, bits) == codes
    if block_size is not None:  # the whole of an empty array is no tile, but has a scale
        assert grid_of(spec, block_size).tiles == int(np.prod(scales))


@pytest.mark.parametrize("bad", [0, -4, 1.5, True, "64", [1, 2], (1,), (0, 4), (1, 2, 3), (1, True), (1.0, 2), ()])
def test_bad_block_sizes_are_refused(bad: object) -> None:
    with pytest.raises(ArgumentError, match=r"some: .* got "):
        check_block_size("some", bad)


@pytest.mark.parametrize(
    "codec",
    [
        ac.Linear(8, True, HUGE), ac.Linear(8, True, (HUGE, HUGE)), ac.Codebook("nf4", HUGE), ac.Lut(4, HUGE),
        ac.Lut(4, None, scope=HUGE), ac.Minifloat("float8_e4m3fn", HUGE), ac.TCQ(block_size=HUGE),
        ac.PQR(block_size=HUGE), ac.PQR((3, 2), scope=HUGE),
    ],
    ids=str,
)  # fmt: skip
def test_a_block_far_larger_than_the_array_is_the_whole_array(codec: ac.Codec) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    same_bits(ac.decode(ac.encode(x, codec)).reshape(-1), ac.decode(ac.encode(x.reshape(-1), codec)), str(codec))


@kernel
def _cut(grid, start, stop, ends, tiles):
    return segments(grid, start, stop - start, ends, tiles)


@kernel
def _first(grid, tile):
    return first_element(grid, tile)


@pytest.mark.parametrize(("shape", "block_size"), GRIDS, ids=str)
def test_segments_name_the_tile_of_each_element(shape, block_size) -> None:
    grid = grid_of(ArraySpec(shape, "float32"), block_size)
    numbers = tile_numbers(grid)
    ends, tiles = np.empty(1024, np.int64), np.empty(1024, np.int64)
    for start in range(0, grid.size, 104):
        stop = min(start + 1000, grid.size)
        found = _cut(tuple(grid), start, stop, ends, tiles)
        lengths = np.diff(ends[:found], prepend=0)
        assert (lengths > 0).all()
        np.testing.assert_array_equal(np.repeat(tiles[:found], lengths), numbers[start:stop])
        assert (np.diff(tiles[:found]) != 0).all() or grid.height > 1 or grid.columns == grid.width


@pytest.mark.parametrize(("shape", "block_size"), GRIDS, ids=str)
def test_pieces_are_whole_tiles_that_start_at_a_byte(shape, block_size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a piece is a few elements, so that small grids have many."""
    grid = grid_of(ArraySpec(shape, "float32"), block_size)
    numbers = tile_numbers(grid)
    for size in (blockwise.PIECE, 16):
        monkeypatch.setattr(blockwise, "PIECE", size)
        step = blockwise.piece_of(grid)
        starts = [int(_first(tuple(grid), tile)) for tile in range(0, grid.tiles, step)] if step else []
        for start, stop in itertools.pairwise([*starts, grid.size]):
            assert start % 8 == 0
            before, inside = set(numbers[:start].tolist()), set(numbers[start:stop].tolist())
            assert not before & inside


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("shape", "block_size"), GRIDS[::3], ids=str)
def test_extremes_of_every_tile(shape, block_size, dtype: str) -> None:
    grid = grid_of(ArraySpec(shape, "float32"), block_size)
    x = Recipe(shape, dtype, "normal", 0, 1, ((3, 0x7F800000), (9, 0x80000001), (11, 0x80000000))).array()
    wide, numbers = x.astype(np.float32).reshape(-1), tile_numbers(grid)
    wide = np.where(np.abs(wide) < 2.0**-126, np.float32(0), wide)
    above, below = np.zeros(grid.tiles, np.float32), np.zeros(grid.tiles, np.float32)
    np.maximum.at(above, numbers, np.maximum(wide, 0))
    np.maximum.at(below, numbers, np.maximum(-wide, 0))
    found = blockwise.all_extremes(bits(x), KINDS[dtype], grid)
    same_bits(found.view(np.float32), np.stack([above, below]), "extremes")
    largest = blockwise.all_extremes(bits(x), KINDS[dtype], grid, signed=False)
    same_bits(largest[0].view(np.float32), np.maximum(above, below), "absmax")


def test_extremes_of_nan_are_not_finite() -> None:
    for pattern in (0x7FC00000, 0xFFC00001, 0x7F800001, 0xFF800000, 0x7F800000):
        x = np.array([0x3F800000, pattern, 0xBF800000], np.uint32)
        found = blockwise.all_extremes(x, FLOAT32, Grid(1, 1, 3, 1, 3))
        assert found.max() >= 0x7F800000, f"{pattern:08x}"


@pytest.mark.parametrize(("shape", "block_size"), GRIDS, ids=str)
def test_surroundings_are_tiled_as_the_whole_is(shape, block_size) -> None:
    spec = ArraySpec(shape, "float32")
    grid = grid_of(spec, block_size)
    numbers = tile_numbers(grid)
    for start, stop in itertools.combinations(range(0, grid.size + 1, max(1, grid.size // 7)), 2):
        part, elements, tiles = surrounding(spec, block_size, start, stop)
        assert elements.start % 8 == 0
        assert elements.start <= start < stop <= elements.stop
        own = tile_numbers(grid_of(part, block_size))
        np.testing.assert_array_equal(own + tiles.start, numbers[elements])
        assert tiles.stop - tiles.start == grid_of(part, block_size).tiles
