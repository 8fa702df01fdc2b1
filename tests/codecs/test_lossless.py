"""Lossless coding beyond the suite: every bit pattern comes back, by three decoders; sizes, threads, partial reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_lossless
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives import threads
from arraycodec.primitives.entropy import ans, huffman
from arraycodec.primitives.entropy.encoding import encode
from arraycodec.primitives.entropy.plan import ANS, FLOAT, HUFFMAN, NONE, PALETTE, SIGNED, Choice, Plan
from arraycodec.registry import from_json
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level

PAGE = Path(__file__).parents[2] / "docs/format/lossless.md"
MODES = ("balanced", "storage", "inference")
DTYPES = ac.Lossless.dtypes
FLOAT_FIELDS, INTEGER_FIELDS = ("E", "EM1", "EM2", "EM3", "SE", "SEM1", "SEM2"), tuple(f"B{i}" for i in range(1, 9))
BESIDES = 64 + 7  # bytes that an array may take besides its own: the plan, and a section's padding


def fields(dtype: str, mode: str) -> tuple[str | None, ...]:
    """None, and the fields that arrays of this dtype may be forced to in a mode."""
    if mode == "inference":
        return (None,)
    return (None, *(FLOAT_FIELDS if "float" in dtype and dtype != "float8_e8m0fnu" else INTEGER_FIELDS))


def weights(shape: tuple[int, ...], dtype: str, seed: int = 0, scale: Any = 0.02) -> np.ndarray:
    """Normal numbers; as integers scaled to steps."""
    x = np.random.default_rng(seed).standard_normal(shape) * scale
    if np.issubdtype(numpy_dtype(dtype), np.integer):
        low = 0 if dtype.startswith("u") else -127
        x = np.rint(x * 1500).clip(low, 127)
    return x.astype(np.float32).astype(numpy_dtype(dtype))


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Random bits; bool has two values."""
    rng, width = np.random.default_rng(seed), numpy_dtype(dtype).itemsize
    if dtype == "bool":
        return rng.integers(0, 2, shape, np.uint8).view(bool)
    return rng.integers(0, 256, (*shape, width), np.uint8).view(numpy_dtype(dtype)).reshape(shape)


@cache
def page_decoder() -> Callable[[dict[str, bytes], int, int], bytes]:
    """The decoder of the format page."""
    block = next(found for found in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "def decode" in found)
    assert sum(1 for line in block.splitlines() if line.strip()) <= 80
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names["decode"]


def same(codec: ac.Lossless, x: np.ndarray, others: bool = True) -> Plan:
    """Require that `x` comes back from this codec by the reference, by the page's decoder and by the witness, and that
    its planes are not too large; its plan."""
    planes = codec.encode(x)
    what = f"{codec} of {x.dtype}{list(x.shape)}"
    size = sum(plane.nbytes for plane in planes.values())
    assert size <= x.nbytes + BESIDES, f"{what}: {size} bytes for {x.nbytes}"
    codec.check(planes, spec_of(x))
    same_bits(codec.decode(planes, spec_of(x)), x, what)
    if others:
        decoded_alike(codec, planes, x, what)
    return Plan.of(planes["plan"], 8 * x.itemsize, x.size)


def decoded_alike(codec: ac.Lossless, planes: Planes, x: np.ndarray, what: str) -> None:
    """Require that the reference, the page's decoder and the witness make `x` of these planes."""
    same_bits(codec.decode(planes, spec_of(x)), x, what)
    plain = page_decoder()({name: plane.tobytes() for name, plane in planes.items()}, x.size, 8 * x.itemsize)
    same_bits(np.frombuffer(plain, x.dtype).reshape(x.shape), x, f"{what}, by the page's decoder")
    same_bits(toy_lossless.decode(codec, planes, spec_of(x)), x, f"{what}, by the witness")


# -- every part of the format, and every dtype


def _features() -> Iterator[Any]:
    def feature(name: str, x: np.ndarray, mode: str, holds: Callable[[Plan], Any], field: str | None = None) -> Any:
        return pytest.param(ac.Lossless(mode, field), x, holds, id=name)

    rng = np.random.default_rng(5)
    normal = weights((64, 130), "bfloat16")
    rows = weights((512, 256), "bfloat16", scale=np.where(np.arange(512) % 128 < 64, 2e-4, 2.0)[:, None])
    columns = weights((1024, 96), "float16", scale=np.exp2(rng.integers(-12, 3, 96)))
    few = np.array([0.5, -0.5, 1e9, np.nan, -0.0], np.float32)
    sparse = np.where(rng.random((90, 100)) < 0.2, 0, weights((90, 100), "float32")).astype("bfloat16")
    lineage = weights((16, 4096), "float32")
    lineage[:8] = lineage[:8].astype("bfloat16")
    one = weights((140_000,), "bfloat16")
    one[[3, 139_000]] = np.array([0x7FC1, 0xFF80], np.uint16).view(one.dtype)
    yield feature("huffman", normal, "balanced", lambda p: p.coder == HUFFMAN and p.arrangement == FLOAT)
    yield feature("ans", normal, "storage", lambda p: p.coder == ANS and p.arrangement == FLOAT)
    yield feature("window", normal, "inference", lambda p: p.coder == NONE and p.rest == 12 and p.offset)
    yield feature("huffman tables", rows, "balanced", lambda p: p.coder == HUFFMAN and p.tables > 1)
    yield feature("ans tables", rows, "storage", lambda p: p.coder == ANS and p.tables > 1)
    yield feature("huffman columns", columns, "balanced", lambda p: p.coder == HUFFMAN and p.columns == 96)
    yield feature("ans columns", columns, "storage", lambda p: p.coder == ANS and p.columns == 96)
    yield feature("constant", np.full((37, 100), -0.0, np.float64), "balanced", lambda p: p.palette == 1 and not p.rest)
    yield feature("palette", rng.choice(few, 9000), "inference", lambda p: p.arrangement == PALETTE and p.rest == 4)
    skewed = rng.choice(few, 9000, p=[0.9, 0.07, 0.01, 0.01, 0.01])
    yield feature("coded palette", skewed, "balanced", lambda p: p.arrangement == PALETTE and p.coder == HUFFMAN)
    yield feature("coded palette, ans", skewed, "storage", lambda p: p.arrangement == PALETTE and p.coder == ANS)
    yield feature("lone word", sparse, "balanced", lambda p: p.lone)
    yield feature("zeros", lineage, "balanced", lambda p: p.zeros and p.arrangement == FLOAT)
    yield feature("zeros, ans", lineage, "storage", lambda p: p.zeros)
    wide = np.rint(rng.standard_normal((64, 130)) * 3000).astype(np.int16)
    yield feature("signed", wide, "balanced", lambda p: p.arrangement == SIGNED and p.coder)
    yield feature("range", weights((64, 130), "int32") + 10**9, "inference", lambda p: p.rest <= 8 and p.offset)
    yield feature("far patches", one, "inference", lambda p: p.coder == NONE and p.rest == 12)
    yield feature("noise", noise((3000,), "uint16"), "balanced", lambda p: p.coder == NONE and p.rest == 16)
    yield feature("high offset", weights((5000,), "float64"), "balanced", lambda p: p.offset >> 32 and p.coder)


@pytest.mark.level("default")
@pytest.mark.parametrize(("codec", "x", "holds"), list(_features()))
def test_feature(codec: ac.Lossless, x: np.ndarray, holds: Callable[[Plan], Any]) -> None:
    plan = same(codec, x)
    assert holds(plan), f"the array is there to be coded otherwise, got {plan}"


@pytest.mark.level("default")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_field(dtype: str, mode: str) -> None:
    for field in fields(dtype, mode):
        codec = ac.Lossless(mode, field)
        same(codec, weights((33, 65), dtype))
        same(codec, noise((700,), dtype))
        for x in (np.zeros((0, 3)), np.ones(()), np.ones((7, 9)), np.arange(2)):
            same(codec, x.astype(numpy_dtype(dtype)))


@pytest.mark.level("default")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "uint16", "int16"])
def test_every_pattern_of_16_bits(dtype: str, mode: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    shuffled = np.random.default_rng(1).permutation(patterns)
    among = weights((2**17,), "bfloat16").view(np.uint16)
    among[::2] = shuffled
    for field in fields(dtype, mode)[:4:3]:
        for words in (patterns, shuffled, among):
            same(ac.Lossless(mode, field), words.view(numpy_dtype(dtype)), others=False)
    same(ac.Lossless(mode), shuffled[:7000].view(numpy_dtype(dtype)))


@pytest.mark.level("default")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if numpy_dtype(dtype).itemsize == 1])
def test_every_byte(dtype: str, mode: str) -> None:
    patterns = np.tile(np.arange(256, dtype=np.uint8), 5)
    for field in fields(dtype, mode):  # a bool that is neither 0 nor 1 comes back too
        same(ac.Lossless(mode, field), patterns.view(numpy_dtype(dtype)))


@pytest.mark.level("default")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number(dtype: str, mode: str) -> None:
    """NaN payloads, both zeros, infinities, subnormals, the largest and smallest numbers; alone and among weights."""
    width = numpy_dtype(dtype).itemsize
    mantissa = np.finfo(dtype).nmant
    infinity = ((1 << (8 * width - 1 - mantissa)) - 1) << mantissa
    words = [0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, infinity - 1, infinity, infinity + 1, infinity + 12345]
    words += [infinity | 1 << (mantissa - 1), (1 << (8 * width - 1)) - 1]
    words = np.array([word | sign << (8 * width - 1) for word in words for sign in (0, 1)], f"u{width}").view(dtype)
    for field in fields(dtype, mode):
        same(ac.Lossless(mode, field), words)
        x = weights((4000,), dtype)
        x[:: 4000 // len(words)][: len(words)] = words
        same(ac.Lossless(mode, field), x)


@pytest.mark.level("default")
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 63, 64, 65, 127, 511, 1023, 1024, 1025, 4095, 4097, 8193])
def test_every_length(size: int) -> None:
    for mode in MODES:
        for dtype in ("bfloat16", "int8", "float32"):
            same(ac.Lossless(mode), weights((size,), dtype), others=size < 100)


@pytest.mark.level("default")
def test_patches_at_the_ends_of_gaps() -> None:
    for gap in (65533, 65534, 65535, 65536, 131069, 131070, 131071):
        x = np.ones(gap + 10, np.uint8)
        x[[0, gap]] = 2, 255
        plan = same(ac.Lossless("inference"), x, others=False)
        assert plan.palette or plan.rest
        y = weights((gap + 10,), "bfloat16")
        y[[5, gap + 5]] = np.inf
        same(ac.Lossless("inference"), y, others=False)


@pytest.mark.level("default")
def test_drawn_arrays(level: Level) -> None:
    """Words of few values, of narrow ranges, of runs and of noise, in every dtype, mode and field."""

    @settings(
        max_examples=3000 if level >= Level.full else 60, deadline=None, database=None,
        derandomize=level < Level.full, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data(), dtype=st.sampled_from(DTYPES), mode=st.sampled_from(MODES), seed=st.integers(0, 2**32 - 1))
    def run(data: Any, dtype: str, mode: str, seed: int) -> None:
        rng, width = np.random.default_rng(seed), 8 * numpy_dtype(dtype).itemsize
        words = np.zeros(0, np.uint64)
        for _ in range(data.draw(st.integers(0, 4))):
            size, low = data.draw(st.integers(0, 1500)), data.draw(st.integers(0, 2**width - 1))
            spread = data.draw(st.sampled_from((0, 1, 4, 9, 20, width)))
            piece = rng.integers(0, 2**spread, size, np.uint64, endpoint=False) if spread < 64 else _words(rng, size)
            piece = np.sort(piece) if data.draw(st.booleans()) else piece
            shift = np.uint64(data.draw(st.integers(0, max(width - spread, 0))) % 64)
            words = np.append(words, (piece << shift) + np.uint64(low))
        x = words.astype(f"u{width // 8}").view(numpy_dtype(dtype))
        same(ac.Lossless(mode, data.draw(st.sampled_from(fields(dtype, mode)))), x, others=x.size < 2000)

    run()


def _words(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 2**64 - 1, size, np.uint64, endpoint=True)


def drawn_choice(rng: np.random.Generator, words: np.ndarray, floats: bool) -> Choice:
    """Any plan and tables that the format allows, as no encoder would choose them."""
    n, size, coder = 8 * words.itemsize, words.size, int(rng.integers(3))
    tables, symbols = int(rng.choice([1, 2, 5])), int(rng.choice([1, 2, 17, 100, 256]))
    divisors = [columns for columns in (2, 3, 5, 8) if size % columns == 0]
    columns = int(rng.choice([0, *divisors]))
    stream = int(rng.choice([64, 96, 256, 1000, 32768]))
    unit = stream // int(rng.choice([1, 2, 8])) if coder == ANS and tables > 1 and not columns else stream
    arrangement = int(rng.choice([0, 1, FLOAT] if floats else [0, 1]))
    rest, bits = int(rng.integers(n + 1)), {NONE: 0, HUFFMAN: 12, ANS: int(rng.integers(9, 15))}[coder]
    plan = Plan(
        coder, arrangement, rest, int(rng.integers(2**n, dtype=np.uint64) if n < 64 else rng.integers(2**63)),
        stream, unit, columns, bits, tables, symbols, 0, 0, int(rng.integers(n)) if arrangement == FLOAT else 0,
    )  # fmt: skip
    palette = words[:0]
    if coder == NONE:
        plan = plan._replace(tables=0, symbols=0)
    elif rng.random() < 0.5 and rest < n and (symbols - 1) << rest < 2**n:  # the encoder puts that symbol in a word
        palette, plan = words[:1].copy(), plan._replace(lone=1, palette=1)
    counts = rng.integers(0, 50, (plan.tables, plan.symbols)) * (rng.random((plan.tables, plan.symbols)) < 0.7)
    counts[:, :1] += 1
    made = [huffman.lengths(row, 12) if coder == HUFFMAN else ans.normalised(row, bits) for row in counts]
    streams = plan.streams(size)
    labels = rng.integers(0, max(plan.tables, 1), int(streams.units(plan.unit).sum()), np.uint8)
    table_array = np.array(made, np.uint16).reshape(plan.tables, plan.symbols)
    return Choice(plan, table_array, labels if plan.tables > 1 else labels[:0], np.zeros(0, np.uint8), palette)


@pytest.mark.level("default")
@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "int64"])
def test_plans_that_no_encoder_makes(dtype: str, level: Level) -> None:
    """What the format allows, three decoders take alike."""
    rng, count = np.random.default_rng(11), 0
    for _ in range(500 if level >= Level.full else 25):
        x = noise((int(rng.choice([1, 97, 480, 1200])),), dtype, int(rng.integers(2**32)))
        x = np.sort(x.view(f"u{x.itemsize}")).view(x.dtype) if rng.random() < 0.5 else x
        words = x.view(f"u{x.itemsize}")
        choice = drawn_choice(rng, words, dtype != "uint8")
        if choice.plan.number_of_streams(x.size) > x.size // 32 + 1:
            continue
        planes = encode(words, choice)
        planes["words"] = planes["words"].view(x.dtype)
        decoded_alike(ac.Lossless(), planes, x, f"{choice.plan}")
        count += 1
    assert count > 10


# -- sizes, threads, parts


@pytest.mark.level("default")
def test_modes_keep_their_promises() -> None:
    """Sizes of a plain matrix of bfloat16: each mode has what it is for."""
    x = weights((512, 1024), "bfloat16")
    size = {mode: ac.encode(x, ac.Lossless(mode)).nbytes / x.nbytes for mode in MODES}
    assert size["storage"] < size["balanced"] < 0.662 and size["inference"] < 0.7512
    halves = weights((256, 1024), "bfloat16").astype(np.float32)
    assert ac.encode(halves, ac.Lossless()).nbytes < 0.34 * halves.nbytes


@pytest.mark.level("default")
@pytest.mark.parametrize("mode", MODES)
def test_threads_change_no_byte(mode: str) -> None:
    """Arrays that are large enough for threads, rows and columns."""
    for shape, scale in (((1200, 1024), 0.02), ((2048, 640), np.exp2(np.arange(640) % 13 - 9))):
        x, found = weights(shape, "bfloat16", scale=scale), []
        for count in (1, 2, 5):
            with threads.limited(count):
                planes = ac.Lossless(mode).encode(x)
                found.append({name: plane.tobytes() for name, plane in planes.items()})
                same_bits(ac.Lossless(mode).decode(planes, spec_of(x)), x, f"{count} threads")
        assert found[0] == found[1] == found[2]


@pytest.mark.level("default")
@pytest.mark.parametrize(("codec", "x", "holds"), list(_features()))
def test_partial_reads(codec: ac.Lossless, x: np.ndarray, holds: object) -> None:
    """Any range equals that of the whole, and is decoded from less than the whole."""
    planes, rng, fetched = codec.encode(x), np.random.default_rng(2), 0

    def fetch(name: str, piece: slice) -> np.ndarray:
        nonlocal fetched
        part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
        fetched += part.nbytes
        return part

    ranges = [(0, 0), (0, 1), (0, x.size), (x.size - 1, x.size), (x.size // 2, x.size // 2), (x.size, x.size)]
    ranges += [tuple(sorted(rng.integers(0, x.size + 1, 2).tolist())) for _ in range(20)]
    for start, stop in ranges:
        same_bits(codec.read(fetch, spec_of(x), start, stop), x.reshape(-1)[start:stop], f"{start}:{stop}")
    fetched = 0
    codec.read(fetch, spec_of(x), x.size // 2, x.size // 2 + 1)
    whole = sum(plane.nbytes for plane in planes.values())
    plan = Plan.of(planes["plan"], 8 * x.itemsize, x.size)
    if plan.number_of_streams(x.size) > 4 * max(plan.columns, 1) and whole > 10_000:
        assert fetched < whole / 2


@pytest.mark.level("default")
def test_input_and_target_may_be_views() -> None:
    x = weights((60, 90), "float32")
    same(ac.Lossless(), x.T)
    same(ac.Lossless(), x[::2, ::3])
    x.flags.writeable = False
    encoded = ac.encode(x, ac.Lossless("storage"))
    out = np.empty_like(x)
    assert ac.decode(encoded, out=out) is out
    same_bits(out, x, "out")


# -- parameters


@pytest.mark.level("default")
def test_parameters() -> None:
    for codec in (ac.Lossless(), ac.Lossless("storage", "EM2"), ac.Lossless("inference")):
        assert codec == from_json(codec.to_json()) == eval(repr(codec), {"Lossless": ac.Lossless})
        assert codec.lossless and not codec.fixed_size(ac.ArraySpec((3, 64), "float32"))
    for wrong in (
        {"mode": "fast"},
        {"mode": None},
        {"field": "EM4"},
        {"field": "B9"},
        {"field": "B0"},
        {"field": 3},
        {"mode": "inference", "field": "E"},
    ):
        with pytest.raises(ArgumentError, match=r"lossless: (mode|field) must be"):
            ac.Lossless(**wrong)
    for dtype, field in (("float32", "B4"), ("int8", "E"), ("bool", "SE"), ("float8_e8m0fnu", "EM1")):
        with pytest.raises(ArgumentError, match="field must be"):
            ac.encode(np.zeros(9, numpy_dtype(dtype)), ac.Lossless(field=field))
    with pytest.raises(ArgumentError, match="lossless"):
        ac.decode(ac.encode(np.zeros(4, np.float32), ac.Lossless()), dtype="bfloat16")
