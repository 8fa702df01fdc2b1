"""The difference of two arrays, against NumPy in one go and against `arraycodec.error`."""

import math

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.measure import EXACT, PIECE, compare
from tests.checkpoints.support import normal


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2 * PIECE + 17,)])
def test_the_figures_are_those_of_one_pass(shape):
    a, b = normal(*shape), normal(*shape, seed=1)
    found, away = compare(a, b), a.astype(np.float64) - b
    assert found.max_abs == np.abs(away).max()
    assert found.mae == pytest.approx(np.abs(away).mean(), rel=1e-12)
    assert found.relative_rms == pytest.approx(math.sqrt((away**2).sum() / (a.astype(float) ** 2).sum()), rel=1e-12)
    assert found.snr_db == pytest.approx(-20 * math.log10(found.relative_rms))
    assert found.elements == np.count_nonzero(a != b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_the_error_that_the_library_states(dtype):
    x = normal(200, 100, dtype=dtype)
    encoded = ac.encode(x, "nf4")
    stated, found = ac.error(x, encoded), compare(x, ac.decode(encoded))
    assert found.snr_db == pytest.approx(stated.snr_db, abs=1e-9)
    assert (found.max_abs, found.mae) == (stated.max_abs, pytest.approx(stated.mae))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "uint8", "complex64", "float8_e4m3fn"])
def test_equal_arrays_are_equal_in_their_bits(dtype):
    x = normal(33, 7).astype(ac.ArraySpec((), dtype).numpy_dtype)
    assert compare(x, x.copy()) == EXACT
    other = x.copy()
    other.reshape(-1).view(np.uint8)[5] ^= 1
    assert (compare(x, other).identical, compare(x, other).elements) == (False, 1)


def test_nan_and_infinity():
    x = np.array([1.0, np.nan, np.inf, 2.0], np.float32)
    assert compare(x, x.copy()) == EXACT  # equal bits, NaN included
    other = np.array([1.0, np.nan, np.inf, np.nan], np.float32)
    found = compare(x, other)
    assert (found.elements, found.max_abs, found.snr_db) == (1, math.inf, -math.inf)
    found = compare(x, np.array([1.0, 0.0, 0.0, 2.0], np.float32))  # where a is not finite nothing can be lost
    assert (found.elements, found.max_abs, found.snr_db) == (2, 0.0, math.inf)
    assert compare(other, x).to_json()["snr_db"] is None


def test_zeros_of_both_signs_and_zero_signal():
    found = compare(np.array([0.0], np.float32), np.array([-0.0], np.float32))
    assert (found.identical, found.max_abs, found.snr_db) == (False, 0.0, math.inf)
    assert compare(np.zeros(3, np.float32), np.ones(3, np.float32)).snr_db == -math.inf


def test_dtypes_may_differ():
    x = normal(64, 3)
    rounded = x.astype(ac.ArraySpec((), "bfloat16").numpy_dtype)
    assert 50 < compare(x, rounded).snr_db < 60
    assert compare(rounded, rounded.astype(np.float32)) == EXACT
    assert compare(np.array([1 + 1j], np.complex64), np.array([1.0])).max_abs == 1.0


def test_layout_does_not_matter_and_shape_does():
    x = normal(30, 20)
    assert compare(x.T, np.ascontiguousarray(x.T)) == EXACT
    assert compare(np.zeros((0, 3)), np.ones((0, 3))) == EXACT
    assert compare(np.array(1.0), np.array(1.0)) == EXACT
    with pytest.raises(ValueError, match="shapes"):
        compare(x, x.T)
