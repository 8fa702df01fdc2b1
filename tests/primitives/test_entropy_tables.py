"""What tables are made of: logarithms and entropies in integers, code lengths, frequencies, labels of units."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest

from arraycodec.primitives.entropy import ans, huffman
from arraycodec.primitives.entropy.cluster import labelled
from arraycodec.primitives.entropy.costs import FRACTION, STEPS, entropies, logarithms
from arraycodec.primitives.entropy.fitting import ans_tables, folded, huffman_tables

COUNTS = {
    "one": [0, 7, 0],
    "two": [1, 1000000],
    "equal": [5] * 256,
    "fibonacci": [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765],
    "geometric": [3**k for k in range(30)],
    "few and many": [1] * 200 + [0] * 10 + [10**9, 10**6],
}


def huffman_bits(counts: list[int]) -> int:
    """The bits of a Huffman code without a limit."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        bits += (pair := heapq.heappop(heap) + heapq.heappop(heap))
        heapq.heappush(heap, pair)
    return bits


def test_logarithms_are_rounded_down() -> None:
    table = logarithms()
    assert table[0] == 0
    assert (np.diff(table) >= 0).all()
    for i in (1, 2, 1000, 2048, 4095):  # 2^(digits) <= (1 + i / 2^STEPS)^(2^FRACTION) < 2^(digits + 1)
        power = (2**STEPS + i) ** (2**FRACTION)
        assert power.bit_length() - 1 - STEPS * 2**FRACTION == table[i]


def test_entropies_of_fields() -> None:
    sums = np.array([[8, 4, 4, 0], [0, 0, 5, 5]], np.int64)
    symbols = (np.array([0, 1, 2, 256], np.int16), np.array([0, 0, -1, 7], np.int16))
    bits, outside = entropies(sums, symbols, logarithms())
    assert list(bits) == [(24 + 10) << FRACTION, 0]
    assert list(outside) == [0, 9]
    counts = folded(sums, symbols[0])
    assert counts.shape == (2, 257)
    assert list(counts[1][[2, 256]]) == [5, 5]


@pytest.mark.parametrize("name", COUNTS)
def test_code_lengths(name: str) -> None:
    counts = np.array(COUNTS[name], np.int64)
    used = counts > 0
    for limit in (15, 12, max(1, math.ceil(math.log2(used.sum())))):
        lengths = huffman.lengths(counts, limit).astype(np.int64)
        assert ((lengths > 0) == used).all()
        if used.sum() == 1:
            assert lengths.sum() == 1
            continue
        assert lengths.max() <= limit
        assert (1 << (limit - lengths[used])).sum() == 1 << limit
    bits = int((huffman.lengths(counts, 15) * counts).sum())
    if name not in ("geometric", "fibonacci", "one"):  # whose codes are longer than 15 bits, or should be
        assert bits == huffman_bits(COUNTS[name])


@pytest.mark.parametrize("limit", [3, 4])
def test_limited_code_lengths_are_the_best(limit: int) -> None:
    rng = np.random.default_rng(limit)
    for size in (3, 5, 6):
        complete = [
            combination
            for combination in itertools.combinations_with_replacement(range(1, limit + 1), size)
            if sum(2.0**-length for length in combination) == 1
        ]
        for _ in range(20):
            counts = rng.geometric(0.02, size).astype(np.int64) ** 3
            best = min(int((np.sort(counts)[::-1] * combination).sum()) for combination in complete)
            assert int((huffman.lengths(counts, limit) * counts).sum()) == best


@pytest.mark.parametrize("name", COUNTS)
def test_frequencies(name: str) -> None:
    counts = np.array(COUNTS[name], np.int64)
    for bits in (9, 14):
        found = ans.normalised(counts, bits)
        assert found.sum() == 1 << bits
        assert ((found > 0) == (counts > 0)).all()
        for more, less in itertools.permutations(np.flatnonzero(counts)[:12], 2):  # no state is better elsewhere
            if found[less] > 1:
                gained = counts[more] * math.log2((found[more] + 1) / found[more])
                lost = counts[less] * math.log2(found[less] / (found[less] - 1))
                assert gained <= lost * 1.05


def test_rare_symbols_have_no_entry() -> None:
    """A symbol far from the others costs every table its nibble; a patch is cheaper."""
    counts = np.zeros((8, 257), np.int64)
    counts[:, 100:110] = 1000
    counts[0, 3] = 1
    tables = huffman_tables(counts, 16)
    assert (tables.first, tables.tables.shape) == (100, (8, 10))
    counts[:, 256] = 50
    assert huffman_tables(counts, 16).tables.shape == (8, 11)
    counts[0, 105] = 0
    counts[0, 3] = 0
    made = ans_tables(counts, 16)
    assert made.tables.shape == (8, 11)
    assert (made.tables.sum(1) == 1 << made.width).all()
    assert made.tables[0, 5] == 0


def test_an_empty_table_has_a_code() -> None:
    counts = np.zeros((2, 257), np.int64)
    counts[0, 5:9] = 10
    assert huffman_tables(counts, 16).tables[1].tolist() == [1, 0, 0, 0]
    assert ans_tables(counts, 16).tables[1].sum() == 1 << ans_tables(counts, 16).width


def test_units_of_different_kinds_get_different_tables() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 90)
    features = np.zeros((90, 64), np.int16)
    for unit, k in enumerate(kind):
        features[unit] = np.bincount(np.clip(rng.normal(10 + 3 * k, 1.5, 4096), 0, 63).astype(int), minlength=64)
    labels, count = labelled(features, 9, 1000, 4, 1000)
    assert count == 3
    assert [len(set(labels[kind == k])) for k in range(3)] == [1, 1, 1]
    labels, count = labelled(features, 9, 10**7, 4, 30)  # tables that cost more than all they save
    assert (count, labels.max()) == (1, 0)
