"""Arrays beside their base as `Delta` encodes them, by plans that have every part of the format in few elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from arraycodec.base import Planes
from arraycodec.codecs.delta import Delta
from arraycodec.primitives.content import content_hash
from arraycodec.primitives.entropy import ans
from arraycodec.primitives.entropy.difference_choice import Choice
from arraycodec.primitives.entropy.difference_plan import CODED, DifferencePlan, Model
from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of


class Example(NamedTuple):
    """An array, its base, and its planes."""

    array: np.ndarray
    base: np.ndarray
    planes: Planes

    @property
    def spec(self) -> ArraySpec:
        """The array's."""
        return spec_of(self.array)


def tuned(base: np.ndarray, seed: int = 0) -> np.ndarray:
    """Words near those of the base, some of them equal, some far away, with every bit open."""
    rng, words = np.random.default_rng(seed), bits(base)
    full = 2 ** (8 * words.itemsize)
    step = rng.integers(-30, 30, words.size) * (rng.random(words.size) < 0.7)
    moved = (words.astype(np.int64) + step).astype(words.dtype)
    far = rng.random(words.size) < 0.02
    moved[far] = rng.integers(0, full, int(far.sum()), np.uint64).astype(words.dtype)
    return moved.view(base.dtype).reshape(base.shape)


def words(count: int, dtype: str) -> np.ndarray:
    """Random bits, those of weights where the dtype is a float's, with special ones among them."""
    rng, own = np.random.default_rng(1), numpy_dtype(dtype)
    if "float" not in dtype:
        return rng.integers(0, 256, count * own.itemsize, np.uint8).view(own)
    x = (rng.standard_normal(count) * 0.02).astype(np.float32)
    x[:8] = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1.1e-38, 2.5e-38, 3e38])[:count]
    with np.errstate(all="ignore"):
        return x.astype(own)


def planned(base: np.ndarray, plan: DifferencePlan) -> Example:
    """By this plan, with random tables, map, labels, curves and factors."""
    rng, array, spec = np.random.default_rng(2), tuned(base), spec_of(base)
    plan = plan._replace(coder=CODED, symbols=min(256, plan.most_symbols(8 * base.itemsize)))
    units = plan.number_of_units(base.size)
    model = Model(
        np.array([ans.normalised(rng.integers(1, 99, plan.symbols), plan.bits) for _ in range(plan.tables)], np.uint16),
        rng.integers(-50, 50, (plan.curves, 256)).astype(np.int32),
        rng.integers(0, plan.curves + 1, plan.labels).astype(np.uint8),
        rng.integers(0, plan.tables, (plan.labels, plan.buckets)).astype(np.uint8),
        rng.integers(0, plan.labels, units).astype(np.uint8),
    )
    scales = rng.uniform(0.1, 3, units if plan.scaled else 0).astype(np.float32)
    scales[:1] = 7  # that of a subnormal number, which it would make a normal one
    raw = {"hash": content_hash(base)}
    coded = Delta()._coded(bits(array), bits(base), Choice(plan, model, scales, 0), spec)
    return Example(array, base, raw | coded)


def encoded(array: np.ndarray, base: np.ndarray) -> Example:
    """As the encoder chooses."""
    return Example(array, base, Delta().encode(array, {"base": base}))


PLAN = DifferencePlan(
    stream=64, unit=16, bits=9, tables=3, direct=3, leading=1, shift=7, first=110, buckets=9, labels=4
)
EXAMPLES: dict[str, Callable[[], Example]] = {
    "bfloat16": lambda: planned(words(500, "bfloat16"), PLAN),
    "float32": lambda: planned(
        words(500, "float32"), PLAN._replace(stream=48, unit=24, shift=23, first=100, curves=2, curve_shift=15,
        scaled=1),
    ),
    "float32 of one table": lambda: planned(
        words(300, "float32"), DifferencePlan(stream=300, unit=300, bits=14, tables=1, buckets=1, labels=1)
    ),
    "float16": lambda: planned(words(300, "float16"), PLAN._replace(direct=6, leading=2, bits=11, shift=10, first=0)),
    "int8": lambda: planned(words(300, "int8"), PLAN._replace(shift=4, first=2, curves=1, curve_shift=0)),
    "int32": lambda: planned(words(300, "int32"), PLAN._replace(shift=28, first=3, unit=64, labels=1)),
    "uint16": lambda: planned(words(300, "uint16"), PLAN._replace(shift=12, first=0, buckets=16, unit=1)),
    "float8": lambda: planned(words(300, "float8_e4m3fn"), PLAN._replace(shift=3, first=1)),
    "equal": lambda: encoded(words(300, "float16"), words(300, "float16")),
    "nothing in common": lambda: encoded(words(300, "int32"), words(300, "int32")[::-1].copy()),
    "nothing": lambda: encoded(words(0, "float16"), words(0, "float16")),
}  # fmt: skip


def broken(example: Example, seed: int) -> Planes:
    """The planes with one byte of one plane changed."""
    rng, planes = np.random.default_rng(seed), {name: plane.copy() for name, plane in example.planes.items()}
    names = [name for name, plane in planes.items() if plane.nbytes]
    data = planes[names[int(rng.integers(len(names)))]].view(np.uint8)
    data[rng.integers(data.size)] ^= np.uint8(rng.integers(1, 256))
    return planes
