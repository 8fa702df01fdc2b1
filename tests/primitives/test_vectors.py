"""k-means of vectors: the nearest centres by two searches, the start, centres that have no vectors."""

from __future__ import annotations

import numpy as np
import pytest

from arraycodec.primitives.vectors import hashes, nearest, start_centres, train


@pytest.mark.parametrize("dim", [2, 4])
@pytest.mark.parametrize("width", [2, 40, 3000, 32767])
def test_the_nearest_centre_is_the_first_of_the_nearest(width: int, dim: int) -> None:
    rng = np.random.default_rng(width)
    vectors = rng.integers(-width, width + 1, (300, dim)).astype(np.int16)
    for k in (1, 2, 17, 200):
        centres = rng.integers(-width, width + 1, (k, dim)).astype(np.int16)
        centres[: k // 3] = vectors[: k // 3]
        squares = ((vectors[:, None].astype(np.int64) - centres) ** 2).sum(2)
        codes, distances = nearest(vectors, centres)
        assert (codes == squares.argmin(1)).all()
        assert (distances == squares.min(1)).all()


def test_corners_of_the_range_are_found() -> None:
    corners = np.array([[-32768, -32768], [-32768, 32767], [32767, -32768], [32767, 32767]], np.int16)
    assert nearest(corners, corners[::-1].copy())[0].tolist() == [3, 2, 1, 0]
    assert nearest(corners[:1], corners[3:])[1].tolist() == [2.0 * 65535**2]


def test_start_is_that_of_k_means_plus_plus() -> None:
    """By a plain one, which knows no lanes; integers below 2^53 are exact in any order."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-300, 301, (2000, 2)).astype(np.int16)
    vectors, weights = vectors[np.argsort(vectors[:, 0], kind="stable")], rng.integers(0, 9, 2000)
    chance, got = hashes(40), np.empty((40, 2), np.int16)
    start_centres(vectors, weights, chance, got)
    picked, away = int(chance[0] % np.uint64(2000)), np.full(2000, np.iinfo(np.int64).max)
    for c in range(40):
        assert got[c].tolist() == vectors[picked].tolist(), c
        away = np.minimum(away, ((vectors.astype(np.int64) - vectors[picked]) ** 2).sum(1))
        costs = (away * weights).cumsum()
        if c < 39:
            aim = float(costs[-1]) * (float(chance[c + 1] >> np.uint64(11)) * 2.0**-53)
            picked = int(np.searchsorted(costs, aim, side="right"))


def test_fewer_vectors_than_centres() -> None:
    vectors = np.array([[5, 5], [-5, 5], [5, 5]], np.int16)
    assert set(map(tuple, train(vectors, np.ones(3, np.int64), 8).tolist())) == {(5, 5), (-5, 5)}
