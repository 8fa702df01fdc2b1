"""The choice of field, layout and tables: what is found in words, that costs are exact, that nothing else decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraycodec.primitives import threads
from arraycodec.primitives.entropy import choice, histogram, samples
from arraycodec.primitives.entropy.candidates import FLOAT_BITS, candidates
from arraycodec.primitives.entropy.choice import EFFORTS, choose
from arraycodec.primitives.entropy.encoding import encode
from arraycodec.primitives.entropy.histogram import FINE, OTHER, bins_of
from arraycodec.primitives.entropy.plan import ANS, FLOAT, HUFFMAN, NONE, PALETTE, SIGNED
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.memory import bits as words_of
from arraycodec.spec import numpy_dtype

FLOATS = ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
MODES = ("balanced", "storage")


def normal(shape: tuple[int, ...], dtype: str, seed: int = 0, scale: Any = 0.02) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape) * scale
    return words_of(x.astype(np.float32).astype(numpy_dtype(dtype))).copy()


def plan_of(x: np.ndarray, dtype: str, mode: str = "balanced", shape: tuple[int, ...] | None = None):
    return choose(words_of(x), dtype, shape or x.shape, mode, None).plan


@kernel
def all_bins(words, bins, kind, first, second, shift):
    bins_of(words, bins, kind, first, second, shift)


@pytest.mark.parametrize(("dtype", "first", "second"), [
    ("bfloat16", 96, 0), ("bfloat16", 0, 0), ("bfloat16", 224, 0), ("float16", 0, 0), ("float32", 100, 0),
    ("float64", 1000, 888),
])  # fmt: skip
def test_bins_by_definition(dtype: str, first: int, second: int) -> None:
    exponent, mantissa = FLOAT_BITS[dtype]
    word = numpy_dtype(dtype).itemsize * 8
    high = np.arange(1 << 16, dtype=np.uint64) << np.uint64(word - 16)
    words = (high | np.uint64((1 << (word - 16)) // 3)).astype(f"u{word // 8}")
    bins = np.empty(words.size, np.uint16)
    all_bins(words, bins, histogram.FLOATS, first, second, mantissa - 3)
    for x, found in zip(words.tolist()[::7], bins.tolist()[::7], strict=True):
        sign, e, top = x >> (word - 1), x >> mantissa & ((1 << exponent) - 1), x >> (mantissa - 3) & 7
        if first <= e < first + 32:
            assert found == sign * (FINE + OTHER) + (e - first) * 8 + top
        else:
            assert found == (FINE + e - second if second <= e < second + OTHER else 2 * FINE + OTHER)


@pytest.mark.parametrize("dtype", [*FLOATS, "uint8", "int8", "int32", "uint64"])
def test_symbols_are_the_fields_of_words(dtype: str) -> None:
    """Every candidate's symbol of a word's bin is what the encoder takes from the word."""
    x = np.random.default_rng(1).standard_normal(5000) * (0.02 if "float" in dtype else 40)
    words = words_of((np.abs(x) if dtype[0] == "u" else x).astype(np.float32).astype(numpy_dtype(dtype)))
    bins, fields = candidates(words, dtype, None)
    found = np.empty(words.size, np.uint16)
    all_bins(words, found, *bins)
    n = 8 * words.itemsize
    for field in fields:
        w = words.astype(object)
        if field.arrangement == SIGNED:
            w = w ^ (1 << (n - 1))
        elif field.arrangement == FLOAT:
            low = (1 << field.sign) - 1
            w = ((w & ((1 << (n - 1)) - 1) & ~low) << 1) | ((w >> (n - 1)) << field.sign) | (w & low)
        want = ((w - field.offset) % (1 << n) >> field.rest) - field.first
        got = field.symbols[found]
        assert (want[got >= 0] == got[got >= 0]).all(), field.name
        assert (got < 0).sum() <= 50


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3fn", "int8"])
def test_costs_are_those_of_the_bytes(dtype: str, mode: str) -> None:
    words = normal((40, 512), dtype, scale=0.02 if "float" in dtype else 30)
    words[::5000] = 0
    for cost, found in choice._coded(words, dtype, (40, 512), EFFORTS[mode], None):
        coded = encode(words, found)
        took = 8 * sum(plane.nbytes for name, plane in coded.items() if name != "plan")
        assert abs(took - cost) < 0.002 * took + 1000, (found.plan, took, cost)


@pytest.mark.parametrize("mode", ["balanced", "storage", "inference"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "float8_e5m2", "uint8", "int64"])
def test_never_larger_than_the_words(dtype: str, mode: str) -> None:
    rng = np.random.default_rng(2)
    for size in (0, 1, 63, 1000, 20000):
        words = rng.integers(0, 256, size * numpy_dtype(dtype).itemsize, np.uint8).view(
            f"u{numpy_dtype(dtype).itemsize}"
        )
        coded = encode(words, choose(words, dtype, (size,), mode, None))
        # Noise may cost what a stream's length and padding do, which the encoder compares once more.
        assert sum(plane.nbytes for name, plane in coded.items() if name != "plan") <= words.nbytes + 8 + size // 1000


def test_few_words() -> None:
    same = np.full((30, 40), -0.0, np.float32)
    found = choose(words_of(same), "float32", same.shape, "storage", None)
    assert (found.plan.coder, found.plan.arrangement, found.plan.rest, found.plan.palette) == (NONE, PALETTE, 0, 1)
    assert found.palette.tolist() == [1 << 31]
    codes = np.random.default_rng(0).integers(0, 16, 5000, np.uint8) * 3
    assert plan_of(codes, "uint8")[:3] == (NONE, PALETTE, 4)  # even: nothing is shorter than 4 bits each
    skewed = np.minimum(np.random.default_rng(0).geometric(0.5, 20000), 200) * 1000003
    assert plan_of(skewed, "int64")[:3] == (HUFFMAN, PALETTE, 0)
    assert plan_of(skewed.astype(np.int32), "int32", "inference")[:2] == (NONE, PALETTE)


def test_narrow_integers() -> None:
    x = np.random.default_rng(0).integers(-3000, -1000, 5000, np.int64)
    assert plan_of(x, "int64").rest <= 11
    plan = plan_of(x, "int64", "inference")
    assert (plan.coder, plan.rest) == (NONE, 11)
    assert plan.offset == int(x.min()) % 2**64 ^ plan.arrangement << 63


@pytest.mark.parametrize("mode", MODES)
def test_zeros_that_a_wider_float_has(mode: str) -> None:
    half = normal((64, 1024), "float16").view(np.float16).astype(np.float32)
    found = choose(words_of(half), "float32", half.shape, mode, None)
    assert found.plan.zeros == 1
    assert found.zeros.min() >= 13


@pytest.mark.parametrize("mode", MODES)
def test_exact_zeros_have_a_symbol(mode: str) -> None:
    words = normal((300, 512), "bfloat16")
    assert plan_of(words, "bfloat16", mode).lone == 0
    words[np.random.default_rng(0).random(words.size) < 0.05] = 0
    found = choose(words, "bfloat16", (300, 512), mode, None)
    assert (found.plan.lone, found.palette.tolist()) == (1, [0])


@pytest.mark.parametrize(("mode", "coder"), [("balanced", HUFFMAN), ("storage", ANS)])
def test_rows_and_columns_of_different_scale(mode: str, coder: int) -> None:
    scale = np.where(np.arange(600) // 100 % 2, 0.02, 1.0)
    rows, columns = normal((600, 512), "bfloat16", scale=scale[:, None]), normal((1024, 600), "bfloat16", scale=scale)
    by_rows = choose(rows, "bfloat16", (600, 512), mode, None)
    assert (by_rows.plan.coder, by_rows.plan.columns) == (coder, 0)
    assert by_rows.plan.tables >= 2
    by_columns = choose(columns, "bfloat16", (1024, 600), mode, None)
    assert (by_columns.plan.columns, by_columns.plan.tables >= 2) == (600, True)
    labels = by_columns.labels.reshape(-1, 600)
    assert not set(labels[:, scale == 1].flat) & set(labels[:, scale < 1].flat)
    assert samples.columns_differ(columns, 600, *candidates(columns, "bfloat16", None)[0], 0)
    assert not samples.columns_differ(rows, 512, *candidates(rows, "bfloat16", None)[0], 0)


def test_window_of_exponents() -> None:
    words = normal((20000,), "bfloat16")
    words[7] = 0x7F80
    plan = choose(words, "bfloat16", (20000,), "inference", None).plan
    assert (plan.coder, plan.arrangement, plan.rest, plan.sign) == (NONE, FLOAT, 12, 7)
    exponents = words >> 7 & 255
    first = plan.offset >> 8
    assert ((exponents >= first) & (exponents < first + 16)).mean() > 0.999
    noise = np.random.default_rng(0).integers(0, 1 << 16, 5000, np.uint16)
    assert choose(noise, "bfloat16", (5000,), "inference", None).plan.rest == 16


def test_forced_fields() -> None:
    for dtype, name, rest in (("bfloat16", "E", 8), ("bfloat16", "SEM2", 5), ("int8", "B3", 5), ("float32", "EM1", 23)):
        for mode in MODES:
            words = normal((100, 100), dtype, scale=0.02 if "float" in dtype else 30)
            assert choose(words, dtype, (100, 100), mode, name).plan.rest == rest


@pytest.mark.parametrize("mode", MODES)
def test_threads_choose_the_same(mode: str) -> None:
    words = normal((1200, 1024), "bfloat16", scale=np.linspace(0.01, 0.1, 1200)[:, None])
    with threads.limited(1):
        want = choose(words, "bfloat16", (1200, 1024), mode, None)
    with threads.limited(3):
        found = choose(words, "bfloat16", (1200, 1024), mode, None)
    assert found.plan == want.plan
    assert all((a == b).all() for a, b in zip(found[1:], want[1:], strict=True))
