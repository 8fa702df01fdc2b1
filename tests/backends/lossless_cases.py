"""Arrays as `Lossless` encodes them: every coder, arrangement and layout, also by plans that its encoder never has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.codecs.lossless import Lossless
from arraycodec.primitives.entropy import ans, encoding, huffman
from arraycodec.primitives.entropy.fields import arranged, constants
from arraycodec.primitives.entropy.plan import ANS, FLOAT, HUFFMAN, NONE, PALETTE, PLAIN, SIGNED, Choice, Plan
from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of


class Example(NamedTuple):
    """An array and its planes."""

    array: np.ndarray
    planes: Planes

    @property
    def spec(self) -> ArraySpec:
        """The array's."""
        return spec_of(self.array)


def weights(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Small numbers, with a few large ones, infinities and NaN among them."""
    x = (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float64)
    x.reshape(-1)[5::997] = np.resize([1e30, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40], x.reshape(-1)[5::997].shape)
    with np.errstate(all="ignore"):
        return x.astype(numpy_dtype(dtype))


def integers(count: int, dtype: str, low: int, high: int) -> np.ndarray:
    """Of a triangular distribution."""
    rng = np.random.default_rng(1)
    return (rng.integers(low, high, count) + rng.integers(low, high, count)).astype(dtype)


def encoded(x: np.ndarray, mode: str = "balanced", field: str | None = None) -> Example:
    """As the encoder chooses."""
    return Example(x, ac.encode(x, Lossless(mode, field)).planes)


def planned(x: np.ndarray, plan: Plan, uncoded: tuple[int, ...] = (), palette: np.ndarray | None = None) -> Example:
    """By this plan, with random tables, in which symbols `uncoded` have no code."""
    rng, words = np.random.default_rng(2), bits(x)
    palette = words[:0] if palette is None else bits(palette)
    plan = plan._replace(unit=plan.unit or plan.stream, palette=palette.size)
    streams, tables = plan.streams(words.size), np.zeros((plan.tables, plan.symbols), np.uint16)
    if plan.coder != NONE:
        u = np.empty_like(words)
        arranged(words, plan.arrangement, constants(plan, words.dtype), palette, u)
        symbols = (u.astype(np.uint64) >> np.uint64(plan.rest)).clip(max=plan.symbols).astype(np.int64)
        counts = np.bincount(symbols, minlength=plan.symbols + 1)[: plan.symbols]
        counts[list(uncoded)] = 0
        counts[plan.lone_symbol :] = 1
        for table in tables:
            own = counts * rng.integers(1, 9, counts.size)
            table[:] = huffman.lengths(own, 12) if plan.coder == HUFFMAN else ans.normalised(own, plan.bits)
        plan = plan._replace(bits=int(tables.max()) if plan.coder == HUFFMAN else plan.bits)
    labels = rng.integers(0, max(plan.tables, 1), int(streams.units(plan.unit).sum())).astype(np.uint8)
    zeros = np.zeros(streams.starts.size, np.uint8)
    planes = encoding.encode(words, Choice(plan, tables, labels, zeros, palette))
    return Example(x, planes | {"words": planes["words"].view(x.dtype)})


def columns(dtype: str) -> np.ndarray:
    """A matrix whose columns differ by their mean."""
    return (weights((2500, 12), dtype).astype(np.float32) + np.linspace(-1, 1, 12, dtype=np.float32)).astype(
        numpy_dtype(dtype)
    )


def far_apart() -> np.ndarray:
    """Constant but for a few elements, more than 65535 of the others between some of them."""
    x = np.full(200_000, 7, np.uint8)
    x[[0, 1, 65_540, 65_541 + 65_535, 199_999]] = 9
    return x


BF16 = Plan(HUFFMAN, FLOAT, rest=7, sign=6, offset=90 << 8, stream=128, tables=1, symbols=100)
EXAMPLES: dict[str, Callable[[], Example]] = {
    # plans that the encoder never makes
    "one table": lambda: planned(weights((1000,), "bfloat16"), BF16, uncoded=(55, 56)),
    "streams of any length": lambda: planned(weights((1000,), "bfloat16"), BF16._replace(stream=93, tables=3)),
    "units": lambda: planned(
        weights((1000,), "bfloat16"), Plan(ANS, FLOAT, 6, 100 << 8, 126, 21, bits=10, tables=5, symbols=200, sign=0)
    ),
    "wide tables": lambda: planned(
        weights((1000,), "float16"), Plan(ANS, FLOAT, 8, 0, 256, 64, bits=14, tables=2, symbols=128, sign=8)
    ),
    "columns": lambda: planned(columns("bfloat16")[:101, :10], BF16._replace(rest=8, sign=3, stream=67, columns=10)),
    "columns and tables": lambda: planned(
        columns("float32")[:70], Plan(ANS, FLOAT, 23, 0, 70, columns=12, bits=9, tables=7, symbols=256, sign=23)
    ),
    "one symbol": lambda: planned(np.arange(64, 128, dtype=np.uint8), BF16._replace(arrangement=PLAIN, rest=6, offset=0,
        sign=0, symbols=2, stream=48)),
    "eight bits": lambda: planned(
        integers(900, "int8", -30, 30), Plan(HUFFMAN, SIGNED, rest=3, stream=100, tables=1, symbols=32)
    ),
    "eight bits, coded": lambda: planned(
        integers(900, "int8", -30, 30), Plan(ANS, SIGNED, stream=100, bits=12, tables=1, symbols=256)
    ),
    "64 bits": lambda: planned(
        weights((500,), "float64"), Plan(HUFFMAN, FLOAT, 52, 900 << 53, 64, tables=1, symbols=256, sign=51)
    ),
    "64 bits, sign on top": lambda: planned(
        integers(500, "int64", -(2**40), 2**40), Plan(ANS, SIGNED, 35, 3, 64, bits=9, tables=1, symbols=256)
    ),
    "palette": lambda: planned(
        np.random.default_rng(0).choice(np.array([3, 70, 200], np.uint8), 500),
        Plan(HUFFMAN, PALETTE, stream=100, tables=1, symbols=3), palette=np.array([3, 70, 200], np.uint8),
    ),
    "raw palette": lambda: planned(
        np.random.default_rng(0).choice(np.array([3, 70, 200], np.uint8), 500), Plan(NONE, PALETTE, 2, stream=100),
        palette=np.array([3, 70, 200], np.uint8),
    ),
    "window": lambda: planned(weights((1000,), "bfloat16"), Plan(NONE, FLOAT, 12, 112 << 8, 200, sign=7)),
    "plain": lambda: planned(weights((1000,), "float32"), Plan(NONE, PLAIN, 32, stream=333)),
    "far apart": lambda: planned(far_apart(), Plan(NONE, PLAIN, offset=7, stream=1 << 15)),
    "a lone word": lambda: planned(
        np.where(np.arange(700) % 3, weights((700,), "float32"), np.float32(0)),
        Plan(HUFFMAN, FLOAT, 23, 100 << 24, 100, tables=1, symbols=60, sign=22, lone=1), palette=np.zeros(1, "f4"),
    ),
}  # fmt: skip
CHOSEN: dict[str, Callable[[], Example]] = {
    "zeros": lambda: encoded(np.concatenate([weights((5000,), "bfloat16"), weights((1200,), "float16")], dtype="f4")),
    "columns of bfloat16": lambda: encoded(columns("bfloat16")),
    "one element": lambda: encoded(weights((1,), "bfloat16")),
    "nothing": lambda: encoded(weights((0, 3), "float16")),
    "a scalar": lambda: encoded(np.array(1.5, np.float32)),
}
MORE: dict[str, Callable[[], Example]] = {  # at level full and above
    "zeros, storage": lambda: encoded(weights((9000,), "float16").astype(np.float64), "storage"),
    "columns of float32": lambda: encoded(columns("float32"), "storage"),
    "matrix": lambda: encoded(weights((64, 256), "bfloat16")),
    "matrix, storage": lambda: encoded(weights((64, 256), "float16"), "storage"),
    "matrix, inference": lambda: encoded(weights((64, 256), "float32"), "inference"),
    **{field: lambda field=field: encoded(weights((5000,), "bfloat16"), field=field)
       for field in ("E", "EM1", "EM3", "SE", "SEM1", "SEM2")},
    **{f"{dtype}": lambda dtype=dtype: encoded(weights((5000,), dtype))
       for dtype in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")},
    **{f"{dtype}": lambda dtype=dtype: encoded(integers(5000, dtype, 0, 60))
       for dtype in ("uint8", "uint16", "int16", "uint32", "int32", "uint64", "int64")},
    "bool": lambda: encoded(integers(5000, "int8", 0, 10) < 3),
    "bool, storage": lambda: encoded(integers(5000, "int8", 0, 10) < 3, "storage"),
    "complex64": lambda: encoded(weights((5000,), "float32").view(np.complex64)),
    "float8_e8m0fnu": lambda: encoded(integers(5000, "uint8", 50, 60).view(numpy_dtype("float8_e8m0fnu"))),
    "noise": lambda: encoded(np.random.default_rng(0).integers(0, 2**32, 5000, np.uint32)),
}  # fmt: skip


def examples(more: bool) -> dict[str, Callable[[], Example]]:
    """Those of every test, and those of level full or not."""
    return EXAMPLES | CHOSEN | (MORE if more else {})


def broken(example: Example, seed: int) -> Planes:
    """The planes with one byte of one plane changed, or one byte cut off an end."""
    rng, planes = np.random.default_rng(seed), {name: plane.copy() for name, plane in example.planes.items()}
    names = [name for name, plane in planes.items() if plane.nbytes]
    name = names[int(rng.integers(len(names)))]
    if rng.random() < 0.1 and name != "plan":
        planes[name] = planes[name][:-1]
    else:
        data = planes[name].view(np.uint8)
        data[rng.integers(data.size)] ^= np.uint8(rng.integers(1, 256))
    return planes
