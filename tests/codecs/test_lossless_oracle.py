"""constriction as judge of the coders: Huffman trees of the same total length, ANS of the same size as ours."""

from __future__ import annotations

import numpy as np
import pytest
import toy_lossless

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.primitives.entropy import ans, huffman
from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, MAX_LENGTH, Plan
from arraycodec.spec import numpy_dtype
from arraycodec_conformance import oracles

rng = np.random.default_rng(0)
COUNTS = {
    "geometric": np.array([2**k for k in range(10)]),
    "normal": np.bincount(np.rint(np.random.default_rng(1).standard_normal(50_000) * 9 + 60).astype(int)),
    "uniform": np.full(200, 77),
    "steep": np.array([10**7, 10**4, 10, 1]),
    "two": np.array([5, 1]),
    "many rare": np.append(np.ones(200, int), 10**5),
    "fibonacci": np.array([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]),
    "holes": np.array([0, 9, 0, 0, 3, 3, 0, 1]),
} | {f"drawn {k}": rng.integers(0, 10 ** (k % 5 + 1), 3 + 37 * k) for k in range(1, 7)}
LONG = {"geometric past the limit": np.array([2**k for k in range(20)]), "one in 10^6": np.array([10**6] + [1] * 99)}


@pytest.mark.level("default")
@pytest.mark.parametrize("name", [*COUNTS, *LONG])
def test_huffman_lengths(name: str) -> None:
    """The same total length where the limit of 12 bits does not bind, else no smaller; always a complete code."""
    pytest.importorskip("constriction")
    counts = (COUNTS | LONG)[name].astype(np.int64)
    ours = huffman.lengths(counts, MAX_LENGTH).astype(np.int64)
    theirs = oracles.constriction_huffman_lengths(counts)
    assert ((ours > 0) == (counts > 0)).all() and ours.max() <= MAX_LENGTH
    assert sum(2.0 ** -int(length) for length in ours if length) == 1
    if theirs.max() <= MAX_LENGTH:
        assert (ours * counts).sum() == (theirs * counts).sum()
    else:
        assert (theirs * counts).sum() <= (ours * counts).sum() < 1.02 * (theirs * counts).sum()


@pytest.mark.level("default")
@pytest.mark.parametrize("bits", [9, 12, 14])
@pytest.mark.parametrize("name", COUNTS)
def test_ans_frequencies_add_up(name: str, bits: int) -> None:
    """Every symbol that occurs has a state, and the frequencies cost little more than the counts' own."""
    counts = COUNTS[name].astype(np.int64)
    frequencies = ans.normalised(counts, bits).astype(np.int64)
    assert frequencies.sum() == 1 << bits and ((frequencies > 0) == (counts > 0)).all()
    used = counts > 0
    ideal = -(counts[used] * np.log2(counts[used] / counts.sum())).sum()
    cost = (counts[used] * (bits - np.log2(frequencies[used]))).sum()
    if bits >= 12 and counts[used].min() << bits >= counts.sum():
        assert cost <= ideal * 1.002 + 1


def coded(planes: Planes, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """The symbols of each stream, the table of each, and the bytes: of arrays with one unit in a stream."""
    plan = Plan.of(planes["plan"], 8 * x.itemsize, x.size)
    places = toy_lossless.streams_of(x.size, plan.stream, plan.columns)
    tables, labels, _ = toy_lossless.small_planes(
        planes["tables"], plan.coder, plan.tables, plan.symbols, len(places), len(places) * plan.zeros
    )
    labels = labels if plan.tables > 1 else np.zeros(len(places), int)
    found, at = [], 0
    for place, size, label in zip(places, planes["index"].tolist(), labels, strict=False):
        piece = planes["streams"][at : at + size]
        at += size
        if plan.coder == HUFFMAN:
            symbols = toy_lossless.huffman(piece, toy_lossless.huffman_table(tables[label]), len(place))
        else:
            table = toy_lossless.ans_table(tables[label])
            symbols = toy_lossless.ans(piece, [table], plan.stream, len(place), plan.bits)
        found.append((np.array(symbols), tables[label], size))
    return found


def arrays() -> dict[str, np.ndarray]:
    """Arrays whose streams are one unit each."""
    normal = np.random.default_rng(3).standard_normal((60, 500)).astype(np.float32)
    return {
        "bfloat16": (normal * 0.02).astype(numpy_dtype("bfloat16")),
        "float16": (normal * 0.3).astype(np.float16),
        "float32": normal,
        "int8": np.rint(normal * 30).clip(-127, 127).astype(np.int8),
        "float8": normal.astype(numpy_dtype("float8_e4m3fn")),
        "few": np.rint(normal).clip(-3, 3),
    }


@pytest.mark.level("default")
@pytest.mark.parametrize("name", arrays())
def test_streams_of_huffman(name: str) -> None:
    """Each array's streams take what constriction's trees for their tables' counts take, and less than a byte more."""
    pytest.importorskip("constriction")
    x = arrays()[name]
    planes = ac.Lossless().encode(x)
    assert planes["plan"][0] == HUFFMAN
    streams = coded(planes, x)
    for table in {tuple(table.tolist()) for _, table, _ in streams}:
        own = [(symbols, size) for symbols, its, size in streams if tuple(its.tolist()) == table]
        counts = np.bincount(np.concatenate([symbols for symbols, _ in own]), minlength=len(table))
        theirs = int((oracles.constriction_huffman_lengths(counts) * counts).sum())
        if oracles.constriction_huffman_lengths(counts).max() <= MAX_LENGTH:
            assert theirs <= 8 * sum(size for _, size in own) < theirs + 8 * len(own)


@pytest.mark.level("default")
@pytest.mark.parametrize("name", arrays())
def test_streams_of_ans(name: str) -> None:
    """Each stream is as long as constriction's ANS makes it with our frequencies, and as their entropy says."""
    pytest.importorskip("constriction")
    x = arrays()[name]
    planes = ac.Lossless("storage").encode(x)
    plan = Plan.of(planes["plan"], 8 * x.itemsize, x.size)
    assert plan.coder == ANS and plan.unit == plan.stream
    for symbols, frequencies, size in coded(planes, x):
        entropy = (plan.bits - np.log2(frequencies[symbols])).sum() / 8
        theirs = oracles.constriction_ans_bytes(symbols, frequencies)
        print(f"{name}: {symbols.size} symbols, entropy {entropy:.1f}, constriction {theirs}, ours {size} bytes")
        assert entropy < size < entropy * 1.0005 + 4
        assert abs(size - theirs) <= 3
