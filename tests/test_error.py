"""`ac.error`: what it says of arrays of every framework, and of what is not finite."""

import math

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry

X = np.random.default_rng(0).standard_normal((16, 128), np.float32)


@pytest.mark.parametrize("scheme", ["nf4", "w8a8", "mxfp4"])
def test_figures_are_those_of_their_definitions(scheme):
    encoded = ac.encode(X, scheme)
    away = X.astype(np.float64) - ac.decode(encoded)
    found = ac.error(X, encoded)
    assert found.mae == pytest.approx(np.abs(away).mean(), rel=1e-12)
    assert found.rmse == pytest.approx(np.sqrt((away**2).mean()), rel=1e-12)
    assert found.max_abs == np.abs(away).max()
    assert found.snr_db == pytest.approx(10 * np.log10((X.astype(np.float64) ** 2).sum() / (away**2).sum()))
    assert found.bytes_per_element == sum(plane.nbytes for plane in encoded.planes.values()) / X.size


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_framework_gives_the_same(framework, dtype):
    pytest.importorskip(framework)
    x = X.astype(ac.ArraySpec((1,), dtype).numpy_dtype)
    array = registry.framework(framework).from_numpy(x)
    stated, encoded = ac.error(x, ac.encode(x, "nf4")), ac.encode(array, "nf4")
    assert stated == ac.error(array, encoded) == ac.error(x, encoded)


def test_what_is_exact():
    found = ac.error(np.zeros((2, 64), np.float32), ac.encode(np.zeros((2, 64), np.float32), "nf4"))
    assert (found.mae, found.rmse, found.max_abs, found.snr_db) == (0, 0, 0, math.inf)
    none = np.zeros((0, 64), np.float32)
    assert ac.error(none, ac.encode(none, "nf4")).mae == 0


def test_a_block_lost_to_one_element_is_an_infinite_error():
    x = X.copy()
    x[3, 5] = np.nan  # which is no error itself
    found = ac.error(x, ac.encode(x, "nf4", check=False))
    assert (found.mae, found.rmse, found.max_abs, found.snr_db) == (math.inf, math.inf, math.inf, -math.inf)


def test_another_shape_is_refused():
    with pytest.raises(ac.ArgumentError, match=r"must have shape \[16, 128\], got \[128, 16\]"):
        ac.error(X.T, ac.encode(X, "nf4"))
