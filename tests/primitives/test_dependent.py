"""The kernels of `dq`: paths that are the best ones, exact sums, what codes cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from arraycodec.primitives.dependent import (
    HIGHEST,
    NO_RATES,
    RATE,
    SEGMENT,
    Numbers,
    histogram,
    histogram_of_codes,
    next_level,
    rates_of,
    searched,
    statistics,
)
from arraycodec.primitives.floats import FLOAT32
from arraycodec.primitives.trellis import subsets


def test_subsets_of_levels() -> None:
    """The recursion of the page is the trellis of the table: j mod 4 is the subset of the window."""
    for codes in itertools.product(range(4), repeat=6):
        path, window = np.uint32(0), 0
        for m in codes:
            level, path = next_level(m, path)
            window = ((window << 1) | int(path & 1)) & 15
            assert level % 4 == subsets(8)[window] and level >> 1 == m


@pytest.mark.parametrize("rated", [False, True])
def test_no_path_is_better(rated: bool) -> None:
    """All paths of short arrays, one by one."""
    rng = np.random.default_rng(int(rated))
    for _ in range(20):
        x = rng.integers(-900, 900, 5).astype(np.int32)
        rates = rng.integers(0, 4 * RATE, 9).astype(np.int32) if rated else NO_RATES
        codes = searched(numbers(x), rates)
        assert costs(x, codes[None], rates)[0] == costs(x, PATHS, rates).min()


def numbers(x: np.ndarray) -> Numbers:
    """Integers of at most 24 bits, which float32 holds."""
    return Numbers(x.astype(np.float32).view(np.uint32), FLOAT32, np.float32(1), np.float32(HIGHEST))


PATHS = np.array(list(itertools.product(range(-3, 3), repeat=5)))


def costs(x: np.ndarray, paths: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """What the search makes least, of every path; huge for levels that it does not look at."""
    before, total, half = [np.zeros(len(paths), np.int64)] * 3, np.zeros(len(paths), np.int64), rates.size >> 1
    for value, m in zip(x.tolist(), paths.T.astype(np.int64), strict=True):
        level = 2 * m + before[1]
        before = [(m & 1) ^ before[0] ^ before[2], *before[:2]]
        total += (value - 256 * level) ** 2 + rates[np.clip(m + half, 0, 2 * half)]
        total += np.where((level - (value >> 8) < -1) | (level - (value >> 8) > 2), 1 << 40, 0)
    return total


def test_statistics_are_exact() -> None:
    x = np.random.default_rng(5).integers(-(1 << 24) + 1024, (1 << 24) - 1024, 3000).astype(np.int32)
    x[:2000] >>= 12
    codes = searched(numbers(x), NO_RATES)
    found, path, levels = statistics(numbers(x), codes), np.uint32(0), []
    for i, m in enumerate(codes):
        level, path = next_level(m, path if i % SEGMENT else np.uint32(0))
        levels.append(int(level))
    places = [256 * j + (int(found.centroids[j + 12]) if abs(j) <= 12 else 0) for j in levels]
    assert found.signal == sum(v * v for v in x.tolist())
    assert found.error == sum((v - n) ** 2 for v, n in zip(x.tolist(), places, strict=True))
    assert len(set(levels) & set(range(-12, 13))) > 20 and np.abs(found.centroids).max() > 10


def test_rates_are_bits() -> None:
    codes = np.repeat(np.array([0, 1, -2], np.int16), [4, 2, 2])
    assert rates_of(histogram_of_codes(codes)).tolist() == [2 * RATE, 3 * RATE, RATE, 2 * RATE, 3 * RATE]
    assert rates_of(histogram_of_codes(np.array([97, 0], np.int16))) is NO_RATES
    few = histogram_of_codes(np.array([97] + [0] * 63, np.int16))
    assert few.size and rates_of(few).size == 2 * 96 + 1 and rates_of(few)[96] == 0 and rates_of(few).max() < 6 * RATE
    assert (histogram(numbers(codes)) == histogram_of_codes(codes)).all()
