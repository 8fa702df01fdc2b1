"""Tiles of the linear codec: every shape of block, partial reads of them, and any number of threads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives import blockwise
from arraycodec.registry import SCHEMES
from arraycodec.spec import spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import integers
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe

TILES = [64, 7, None, (1, 16), (1, 7), (1, None), (None, 1), (4, 8), (3, 5), (None, None), (2, None), (1, 1)]
SHAPES = [(6, 40), (5, 37), (2, 3, 16), (2, 2, 3, 9), (50,), (), (0,), (3, 0), (0, 4)]


def tile_numbers(shape: tuple[int, ...], block_size: Any) -> tuple[np.ndarray, int]:
    """The tile of each element by definition, and how many there are."""
    if not isinstance(block_size, tuple):
        size = int(np.prod(shape))
        block = block_size or max(size, 1)
        return np.arange(size).reshape(shape) // block, -(-size // block) if block_size else 1
    full = (1,) * (2 - min(len(shape), 2)) + shape
    height, width = (side or max(n, 1) for side, n in zip(block_size, full[-2:], strict=True))
    down, across = -(-full[-2] // height), -(-full[-1] // width)
    index = np.indices(full)
    matrix = np.ravel_multi_index(index[:-2], full[:-2]) if len(full) > 2 else 0
    tiles = (matrix * down + index[-2] // height) * across + index[-1] // width
    return tiles.reshape(shape), int(np.prod(full[:-2])) * down * across


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block_size", TILES, ids=str)
def test_a_tile_is_encoded_as_an_array_of_its_own(block_size: Any, shape: tuple[int, ...]) -> None:
    """Ragged tails, experts, no axes: each tile has the scale, zero point and codes it would have alone."""
    for bits, symmetric, dtype in ((8, True, "float32"), (4, False, "bfloat16"), (3, True, "float16")):
        codec, alone = ac.Linear(bits, symmetric, block_size), ac.Linear(bits, symmetric, None)
        x = Recipe(shape, dtype, "normal", 0, 3).array()
        planes, (tiles, count) = codec.encode(x), tile_numbers(shape, block_size)
        specs = codec.planes(spec_of(x))
        assert {name: spec_of(plane) for name, plane in planes.items()} == specs
        assert planes["scales"].size == count
        q, decoded = integers(planes["codes"], bits, shape), codec.decode(planes, spec_of(x))
        for tile in range(count):
            part = x[tiles == tile]
            own = alone.encode(part)
            for name in set(planes) - {"codes"}:
                assert planes[name].reshape(-1)[tile] == own[name][0], (block_size, shape, tile, name)
            same_bits(q[tiles == tile], integers(own["codes"], bits, part.shape), f"{codec} {shape} tile {tile}")
            same_bits(decoded[tiles == tile], alone.decode(own, spec_of(part)), f"{codec} {shape} tile {tile}")


@pytest.mark.parametrize("block_size", [(1, 7), (1, None), (1, 16), (3, 7), (None, 7)], ids=str)
def test_matrices_of_one_row_are_encoded_as_rows(block_size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many pieces, each of which must begin at a byte of codes."""
    monkeypatch.setattr(blockwise, "PIECE", 64)
    x = Recipe((250, 1, 18), "float32", "normal", 0, 1).array()
    rows = x.reshape(250, 18)
    for bits in (3, 4):
        planes = ac.Linear(bits, False, block_size).encode(x)
        for name, plane in ac.Linear(bits, False, (1, block_size[1])).encode(rows).items():
            same_bits(planes[name].reshape(-1), plane.reshape(-1), f"{bits} bits, {block_size}: {name}")


@pytest.mark.parametrize("block_size", TILES, ids=str)
def test_partial_reads_equal_the_whole(block_size: Any) -> None:
    for shape, (bits, symmetric) in itertools.product(SHAPES[:6], ((3, True), (4, False), (8, True))):
        codec, x = ac.Linear(bits, symmetric, block_size), Recipe(shape, "float32", "normal", 0, 1).array()
        planes, whole = codec.encode(x), None
        whole = codec.decode(planes, spec_of(x)).reshape(-1)

        def fetch(name: str, piece: slice, planes: Any = planes) -> np.ndarray:
            return planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]

        for start, stop in itertools.combinations(range(0, x.size + 1, max(1, x.size // 6)), 2):
            got = codec.read(fetch, spec_of(x), start, stop)
            same_bits(got, whole[start:stop], f"{codec} {shape} {start}:{stop}")
        assert codec.read(fetch, spec_of(x), 0, 0).size == 0


def test_partial_reads_fetch_the_tiles_around_them() -> None:
    fetched = []
    for codec, most in ((ac.Linear(4), 64), (SCHEMES["w4a16"], 1024), (ac.Linear(8, False, (128, 128)), 128 * 2048)):
        x = Recipe((512, 2048), "float32", "normal", 0, 1).array()
        planes = codec.encode(x)

        def fetch(name: str, piece: slice, planes: Any = planes) -> np.ndarray:
            fetched.append(planes[name].reshape(-1)[piece])
            return fetched[-1]

        fetched.clear()
        got = codec.read(fetch, spec_of(x), 300_000, 300_001)
        assert got == codec.decode(planes, spec_of(x)).reshape(-1)[300_000]
        assert sum(piece.nbytes for piece in fetched) <= most * 1.1


def test_results_do_not_depend_on_threads(level: Level) -> None:
    x = Recipe((1025, 1280 if level < Level.full else 4096), "float32", "normal", 0, 1).array()
    codecs = [ac.Linear(4), ac.Linear(3, False, None), ac.Linear(8, True, (1, None)), ac.Linear(5, False, (7, 100)),
              ac.Linear(8, True, (None, 1)), ac.Linear(6, True, 4097)]  # fmt: skip
    want = None
    for threads in (1, 3):
        ac.set_num_threads(threads)
        try:
            found = [[*codec.encode(x).values(), codec.decode(codec.encode(x), spec_of(x))] for codec in codecs]
        finally:
            ac.set_num_threads(None)
        want = want or found
        for codec, ours, theirs in zip(codecs, found, want, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                same_bits(a, b, f"{codec} with {threads} threads")
