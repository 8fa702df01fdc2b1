"""k-means on integers: the optimum against all partitions, Lloyd's iteration against a plain one, codes by distance."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from arraycodec.primitives.jit import kernel
from arraycodec.primitives.kmeans import (
    BINS,
    LOWEST,
    bounds_of,
    find_codes,
    histogram,
    key_of,
    lloyd,
    nearest,
    optimum,
    settled,
    train_keys,
)
from arraycodec.primitives.threads import limited
from arraycodec_conformance.compare import same_bits

Train = Callable[[np.ndarray, int], np.ndarray]


def counts_of(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    counts = np.zeros(BINS, np.int64)
    counts[values + LOWEST] = mass
    return counts


def sample(n: int, sigma: float, seed: int = 0) -> np.ndarray:
    """Integers of a bell curve."""
    return np.clip(np.rint(np.random.default_rng(seed).standard_normal(n) * sigma), -32767, 32767).astype(np.int16)


def cost(counts: np.ndarray, levels: np.ndarray) -> int:
    """The sum of squared errors, exact."""
    values = np.flatnonzero(counts)
    away = np.abs((values - LOWEST)[:, None] - levels.astype(np.int64)).min(1)
    return int((counts[values] * away**2).sum())


# -- the optimum


def cheapest(values: np.ndarray, mass: np.ndarray, k: int) -> int:
    """The least cost of all partitions of the values into k intervals, each with the better of two integers."""
    best, n = None, values.size
    for inner in itertools.combinations(range(1, n), min(k, n) - 1):
        total = 0
        for first, last in itertools.pairwise((0, *inner, n)):
            v, w = values[first:last], mass[first:last]
            low = int((w * v).sum()) // int(w.sum())
            total += min(int((w * (v - level) ** 2).sum()) for level in (low, low + 1))
        best = total if best is None else min(best, total)
    assert best is not None
    return best


def test_no_partition_is_better_than_the_optimum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        n, k = int(rng.integers(1, 10)), int(rng.integers(1, 6))
        width = int(rng.choice([20, 300, 32767]))
        values = np.sort(rng.choice(np.arange(-width, width + 1), n, replace=False))
        mass = rng.integers(1, 20, n)
        counts = counts_of(values, mass)
        levels = optimum(counts, k)
        assert levels.dtype == np.int16
        assert (levels[1:] >= levels[:-1]).all()
        assert cost(counts, levels) == cheapest(values, mass, k)
        assert cost(counts, lloyd(counts, k)) >= cost(counts, levels)


def test_optimum_by_the_plain_recursion() -> None:
    """More values than can be partitioned in all ways: the quadratic recursion over every last cell."""
    counts = histogram(sample(3000, 40))
    values = np.flatnonzero(counts) - LOWEST
    mass, k = counts[values + LOWEST], 7
    n = values.size
    table = np.full((k + 1, n + 1), np.iinfo(np.int64).max // 2)
    table[0, 0] = 0
    best = np.zeros((n, n + 1), np.int64)
    for first in range(n):
        w, m, s = (np.cumsum((mass * values**p)[first:]) for p in range(3))
        centre = np.rint(m / w).astype(np.int64)
        best[first, first + 1 :] = s - centre * (2 * m - centre * w)
    for cells in range(1, k + 1):
        for last in range(cells, n + 1):
            table[cells, last] = (table[cells - 1, :last] + best[:last, last]).min()
    assert cost(counts, optimum(counts, k)) == table[k, n]


# -- Lloyd's iteration


def plain_lloyd(counts: np.ndarray, k: int) -> np.ndarray:
    """The iteration on Python integers, from the same start; centres are sixteenths."""
    values = np.flatnonzero(counts) - LOWEST
    mass = counts[values + LOWEST]
    width, number = 5, 2048
    while number > 16 and number * 8 > len(values):
        width, number = width + 1, number // 2
    cells: dict[int, int] = {}
    for v, m in zip(values.tolist(), mass.tolist(), strict=True):
        cells[v >> width] = cells.get(v >> width, 0) + m
    roots = [
        next(r for r in range(round((4096 * m) ** (1 / 3)) + 1, -1, -1) if r**3 <= 4096 * m) for m in cells.values()
    ]
    roots_before, corners = list(itertools.accumulate(roots, initial=0)), list(cells)
    centres = []
    for i in range(k):
        target = roots_before[-1] * (2 * i + 1) // (2 * k)
        j = next(j for j in range(len(roots)) if roots_before[j + 1] > target)
        centres.append((corners[j] << (width + 4)) + ((target - roots_before[j]) << (width + 4)) // roots[j])
    while True:
        middles = [(a + b) >> 5 for a, b in itertools.pairwise(centres)]
        owner = np.searchsorted(middles, values, side="left")
        weight, total = np.zeros(k, np.int64), np.zeros(k, np.int64)
        np.add.at(weight, owner, mass)
        np.add.at(total, owner, mass * values)
        sums = zip(weight.tolist(), total.tolist(), centres, strict=True)
        moved = [(32 * t + w) // (2 * w) if w else centre for w, t, centre in sums]
        if moved == centres:
            return np.array([(c + 8) >> 4 for c in centres], np.int16)
        centres = moved


@pytest.mark.parametrize(("n", "sigma", "k"), [(40, 9000, 4), (500, 3000, 16), (5000, 200, 8), (60000, 9000, 16)])
def test_lloyd_is_the_plain_iteration(n: int, sigma: float, k: int) -> None:
    counts = histogram(sample(n, sigma, k))
    same_bits(lloyd(counts, k), plain_lloyd(counts, k), f"{k} levels of {n} numbers")


def test_lloyd_comes_close_to_the_optimum() -> None:
    counts = histogram(sample(200_000, 8000))
    for k in (2, 16, 64):
        assert cost(counts, lloyd(counts, k)) < 1.01 * cost(counts, optimum(counts, k))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_no_level_is_left_without_numbers(share: float) -> None:
    """Where most numbers are zeros, levels that start among them find nothing, and go where the error is largest."""
    x = np.where(np.random.default_rng(0).random(50_000) < share, 0, sample(50_000, 4000)).astype(np.int16)
    counts = histogram(x)
    for k in (4, 16, 64):
        levels = lloyd(counts, k)
        assert set(nearest(levels)[np.flatnonzero(counts)]) == set(range(k))
        assert cost(counts, levels) < 1.1 * cost(counts, optimum(counts, k))


@pytest.mark.parametrize("name", ["t", "laplace", "outliers"])
def test_numbers_far_from_the_others(name: str) -> None:
    """The iteration alone leaves them to the last cell, and is up to 10 dB worse; 0.6 dB is a factor of 1.15."""
    rng = np.random.default_rng(4)
    x = rng.standard_t(4, 30_000) if name == "t" else rng.laplace(size=30_000)
    x[:50] *= 40 if name == "outliers" else 1
    counts = histogram(np.rint(x / np.abs(x).max() * 32767).astype(np.int16))
    for k in (8, 64):
        assert cost(counts, lloyd(counts, k)) < 1.15 * cost(counts, optimum(counts, k))


def test_rounds_are_counted() -> None:
    counts = histogram(sample(20_000, 8000))
    assert cost(counts, lloyd(counts, 32, 1)) > cost(counts, lloyd(counts, 32, 5)) > cost(counts, lloyd(counts, 32))


# -- on from its cuts


@pytest.mark.parametrize("name", ["normal", "t", "few", "weights"])
def test_cuts_that_move_together_end_near_the_optimum(name: str) -> None:
    """0.2 dB is a factor of 1.05, 0.5 dB one of 1.12."""
    rng = np.random.default_rng(5)
    x = rng.standard_t(4, 20_000) if name == "t" else rng.standard_normal(20_000)
    x *= 200 if name == "few" else 32767 / np.abs(x).max()
    weights = rng.integers(0, 4096, 20_000) if name == "weights" else np.ones(1, np.int64)
    counts = histogram(np.rint(x).astype(np.int16), weights)
    for k in (2, 16, 64):
        levels = settled(counts, k)
        assert (levels[1:] >= levels[:-1]).all()
        assert cost(counts, optimum(counts, k)) <= cost(counts, levels) <= cost(counts, lloyd(counts, k))
        assert cost(counts, levels) < (1.12 if name == "t" else 1.05) * cost(counts, optimum(counts, k))


def test_levels_without_numbers_of_their_own_get_some() -> None:
    values = np.r_[np.arange(-5, 6), 32767]
    counts = counts_of(values, np.r_[np.full(11, 1000), 1])
    for k in range(1, 13):
        assert cost(counts, settled(counts, k)) <= cost(counts, lloyd(counts, k))


# -- all


@pytest.mark.parametrize("train", [lloyd, settled, optimum])
def test_few_numbers_are_their_own_levels(train: Train) -> None:
    counts = counts_of(np.array([-32767, 3, 9]), np.array([5, 1, 2]))
    assert train(counts, 4).tolist() == [-32767, 3, 9, 9]
    assert train(counts, 3).tolist() == [-32767, 3, 9]
    assert train(np.zeros(BINS, np.int64), 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("train", [lloyd, settled, optimum])
def test_a_large_mass_is_halved_until_it_fits(train: Train) -> None:
    """2^31 at most, so that the second moment fits 63 bits: what is a multiple of the divisor changes nothing."""
    counts = histogram(sample(1 << 10, 5000)) << 20
    same_bits(train(counts << 12, 16), train(counts, 16), "4096 times the mass")
    counts = counts_of(np.array([-7, 0, 100]), np.array([1 << 40, 1, 1]))  # what occurs at all is not lost
    assert train(counts, 2).tolist() == [-7, 100]


@kernel
def _train(values, weights, exact, levels):
    keys = np.empty(values.size, np.int64)
    for i in range(values.size):
        keys[i] = key_of(values[i], weights[i])
    train_keys(keys, exact, 400, levels)


@pytest.mark.parametrize("n", [1, 32, 500, 3000])
def test_sorted_numbers_train_as_their_histogram_does(n: int) -> None:
    values, weights = sample(n, 2000, n), np.random.default_rng(n).integers(0, 5, n)
    weights[0] = 1
    counts = np.zeros(BINS, np.int64)
    np.add.at(counts, values.astype(int) + LOWEST, weights)
    for k in (2, 8, 32):
        for exact, train in ((False, settled), (True, optimum)):
            levels = np.empty(k, np.int16)
            _train(values, weights, exact, levels)
            same_bits(levels, train(counts, k), f"{k} levels of {n} numbers, exact={exact}")


def test_histogram_of_weights_and_threads() -> None:
    x, weights = sample(3_000_000, 9000).reshape(-1, 300), np.random.default_rng(1).integers(0, 4096, 300)
    index = x.reshape(-1).astype(int) + LOWEST
    want = np.bincount(index, np.tile(weights, len(x)), BINS).astype(np.int64)  # exact: below 2^53
    for threads in (1, 3):
        with limited(threads):
            same_bits(histogram(x), np.bincount(index, minlength=BINS), f"{threads} threads")
            same_bits(histogram(x, weights), want, f"{threads} threads, weights")


# -- codes


@kernel
def _codes(bounds, numbers, codes):
    find_codes(bounds, numbers, codes)


@pytest.mark.parametrize(
    "levels",
    [[-1, 2], [0, 0, 0, 0], [-32767, -5, -4, 32767], [-9, -9, 0, 7, 7, 7, 8, 8], [-32767, -32767, 32767, 32767]],
)
def test_the_nearest_level_of_two_the_lower_of_equals_the_first(levels: list[int]) -> None:
    own = np.array(levels, np.int16)
    want = np.abs(np.arange(-32768, 32768)[:, None] - own.astype(int)).argmin(1)
    same_bits(nearest(own), want.astype(np.uint8), f"{levels}")
    codes = np.zeros(BINS - 1, np.uint8)
    _codes(bounds_of(own), np.arange(-32767, 32768).astype(np.int16), codes)
    same_bits(codes, want[1:].astype(np.uint8), f"{levels} by counting")


def test_codes_of_many_levels() -> None:
    levels = np.sort(sample(512, 12000))
    own, first = np.unique(levels.astype(float), return_index=True)
    want = first[np.searchsorted((own[1:] + own[:-1]) / 2, np.arange(-32768, 32768))]
    same_bits(nearest(levels), want.astype(np.uint16), "512 levels")
