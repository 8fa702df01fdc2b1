"""Normalised integers: scales that are rounded up, integers by one product, and importance as integers."""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import BlockSize, grid_of
from arraycodec.primitives.memory import bits
from arraycodec.primitives.normal import find_scales, integer_weights, normalise_range
from arraycodec.primitives.threads import limited
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe

BFLOAT16 = numpy_dtype("bfloat16")
LARGEST = {"float32": 3.3895313892515355e38, "bfloat16": 3.3895313892515355e38, "float16": 65280.0}


def scales_of(x: np.ndarray, block_size: BlockSize = 1) -> np.ndarray:
    grid = grid_of(spec_of(x), block_size)
    scales = np.full(grid.tiles, 0xAAAA, np.uint16)
    find_scales(bits(x), KINDS[x.dtype.name], grid, scales)
    return scales.view(BFLOAT16).astype(np.float32)


def integers_of(x: np.ndarray, scales: np.ndarray, block_size: BlockSize = 1) -> np.ndarray:
    integers, grid = np.empty(x.size, np.int16), grid_of(spec_of(x), block_size)
    normalise_range(bits(x), KINDS[x.dtype.name], grid, bits(scales.astype(BFLOAT16)), integers, 0)
    return integers


def test_a_scale_is_the_least_bfloat16_not_below_the_largest_magnitude() -> None:
    """For 2^16 significands at the edges of exponents."""
    significands = np.arange(0, 1 << 23, 1 << 7, dtype=np.uint32) | np.uint32(1)
    for exponent in (1, 26, 27, 28, 127, 252, 253, 254):
        x = ((np.uint32(exponent) << 23) | significands).view(np.float32)
        scales = scales_of(-x)
        if exponent < 27:
            assert not scales.any()
            continue
        below = ((scales.view(np.uint32) - 0x10000) & np.uint32(0xFFFF0000)).view(np.float32)
        small = x <= LARGEST["float32"]
        assert (scales[small] >= x[small]).all()
        assert (below < x).all()
        assert (scales[~small] == LARGEST["float32"]).all()
    same_bits(
        scales_of(np.array([1, 2.0**-100, 2.0**127], np.float32)),
        np.array([1, 2.0**-100, 2.0**127], np.float32),
        "powers of two",
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_pattern_has_its_scale(dtype: str) -> None:
    x = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    with np.errstate(invalid="ignore"):
        magnitude = np.abs(x.astype(np.float32))
    got, finite = scales_of(x), np.isfinite(magnitude)
    assert (got[~finite].view(np.uint32) == 0x7FC00000).all()
    want = np.minimum((magnitude.view(np.uint32).astype(np.int64) + 0xFFFF) >> 16 << 16, 2**32 - 1).astype(np.uint32)
    want = np.minimum(want.view(np.float32), np.float32(LARGEST[dtype]))
    same_bits(got[finite], np.where(magnitude < 2.0**-100, np.float32(0), want)[finite], dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_integer_is_one_product_rounded_to_even(dtype: str) -> None:
    """float64 has the exact product of 48 bits; it is rounded to float32 and then to an integer."""
    for distribution, exponent in (("normal", 0), ("bits", 0), ("normal", 126)):
        x = Recipe((40, 300), dtype, distribution, exponent, 3).array()
        with np.errstate(invalid="ignore"):
            x = np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(1))
        scales = scales_of(x, (1, 100))
        scale = np.repeat(scales.reshape(40, 3), 100, axis=1).astype(np.float64)
        wide = np.where(np.abs(x.astype(np.float64)) < 2.0**-126, 0, x.astype(np.float64))
        with np.errstate(all="ignore"):
            lowered = np.where(scale >= 2.0**126, 2.0**-4, 1.0)
            inverse = (1 / (scale * lowered)).astype(np.float32).astype(np.float64) * 32768
            y = (wide * lowered * inverse).astype(np.float32)
        want = np.where(scale > 0, np.clip(np.rint(y), -32767, 32767), 0).astype(np.int16)
        got = integers_of(x, scales, (1, 100)).reshape(40, 300)
        same_bits(got, want, f"{distribution} {dtype}")
        assert np.abs(got).max() <= 32767


def test_elements_under_scales_that_cannot_be_used_are_zero() -> None:
    x = np.tile(np.array([np.nan, np.inf, -np.inf, 1, -2, 1e30], np.float32), (6, 1))
    scales = np.array([1, 0, -1, 2.0**-101, np.inf, np.nan], np.float32)
    got = integers_of(x, scales, (1, None)).reshape(6, 6)
    assert got[0].tolist() == [0, 32767, -32767, 32767, -32767, 32767]
    assert not got[1:].any()


def test_threads_change_nothing() -> None:
    x = Recipe((1100, 1024), "bfloat16", "log-normal", 0, 1).array()
    found = []
    for threads in (1, 3):
        with limited(threads):
            found.append(integers_of(x, scales_of(x, (1, 128)), (1, 128)))
    same_bits(found[0], found[1], "three threads")


def test_importance_is_a_share_of_the_largest() -> None:
    assert integer_weights("lut", None, 3).tolist() == [1]
    assert integer_weights("lut", np.array([3e38, 0, 1e38], np.float32), 3).tolist() == [4095, 0, 1365]
    assert integer_weights("lut", np.array([1, 1e-6], np.float32), 2).tolist() == [4095, 0]
    assert integer_weights("lut", np.zeros(0, np.float32), 0).tolist() == [1]
    assert integer_weights("lut", np.array([3], np.float32), 1).tolist() == [1]
    assert integer_weights("lut", np.full(5, 1e-40, np.float32), 5).tolist() == [1]  # as without any


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(4, np.float32), r"lut: importance must be float32\[3\], got float32\[4\]"),
        (np.ones(3, np.float64), r"must be float32\[3\], got float64\[3\]"),
        (np.zeros(3, np.float32), "must be finite, not negative, and not all 0"),
        (np.array([1, -1, 0], np.float32), "must be finite, not negative, and not all 0"),
        (np.array([1, np.nan, 0], np.float32), "must be finite, not negative, and not all 0"),
    ],
)
def test_importance_that_is_none(importance: np.ndarray, message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        integer_weights("lut", importance, 3)
