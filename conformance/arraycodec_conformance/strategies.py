"""What hypothesis draws: the recipe of an array, not its elements, so that every element varies and shrinking works."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from arraycodec.primitives import codebooks
from arraycodec.spec import numpy_dtype

# From a short list, because JAX compiles once per shape: empty, 0-d, odd, ragged, whole blocks, several axes.
SHAPES = ((3, 64), (7,), (2, 5, 64), (33, 130), (), (0,), (2, 4096), (65, 192), (1, 5), (4099,), (0, 64))

# float32 patterns at which arithmetic goes wrong: zeros, subnormals, the dead zone's edge, huge values, not finite.
PATTERNS = (
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x0D7FFFFF, 0x0D800000, 0x8D800001, 0x3F800000,
    0xBF800000, 0x7E7FFFFF, 0x7E800000, 0xFF000000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """An array, by how it is made: the same recipe gives the same bits everywhere."""

    shape: tuple[int, ...]
    dtype: str
    distribution: str
    exponent: int  # the values are multiplied by 2^exponent
    seed: int
    injected: tuple[tuple[int, int], ...] = ()  # (position, float32 pattern)

    def array(self) -> np.ndarray:
        """The array of this recipe."""
        rng, size = np.random.default_rng(self.seed), math.prod(self.shape)
        with np.errstate(all="ignore"):
            x = _DISTRIBUTIONS[self.distribution](rng, size).astype(np.float32)
            x = x if self.distribution == "bits" else np.ldexp(x, self.exponent).astype(np.float32)
            for position, pattern in self.injected if size else ():
                x[position % size : position % size + 1] = np.uint32(pattern).view(np.float32)
            return _cast(x, self.dtype).reshape(self.shape)


def _cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as another dtype; to integers rounded, of what they cannot hold the nearest that both can."""
    if not np.issubdtype(numpy_dtype(dtype), np.integer):
        return x.astype(numpy_dtype(dtype))
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -(2**62)), min(limits.max, 2**62)
    return np.rint(np.nan_to_num(x.astype(np.float64))).clip(low, high).astype(dtype)


def _thresholds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Decision bounds and table values times the block's largest magnitude, up to two units in the last place away."""
    table = codebooks.table(str(rng.choice(["nf4", "fp4", "dynamic"])))
    points = np.concatenate([table.bounds, table.values])
    x = rng.choice(points, size).astype(np.float32) * np.float32(rng.uniform(0.5, 2))
    x[rng.random(size) < 0.02] = np.float32(2)
    return _near(rng, x)


def _ties(rng: np.random.Generator, size: int) -> np.ndarray:
    """Multiples of 1/16 and halves of integers, where the grids of integers and narrow floats round to even, and their
    neighbours; blocks with the largest magnitude below have a scale of about a power of two."""
    largest = rng.choice([1.5, 3, 3.5, 6, 7, 7.5, 31, 63, 127, 127.5, 448])
    sixteenths, halves = rng.integers(-128, 129, size) / 16, rng.integers(-128, 128, size) + 0.5
    x = np.where(rng.random(size) < 0.5, sixteenths, halves).clip(-largest, largest).astype(np.float32)
    x = np.where(rng.random(size) < 0.5, x, _near(rng, x))
    return np.where(rng.random(size) < 0.04, rng.choice([-largest, largest], size), x)


def _near(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """`x` up to two units in the last place away."""
    near = (x.view(np.int32) + rng.integers(-2, 3, x.size, np.int32)).view(np.float32)
    return np.where(x == 0, x, near)  # next to the bits of zero lie those of NaN


_DISTRIBUTIONS: dict[str, Any] = {
    "normal": lambda rng, n: rng.standard_normal(n, np.float32),
    "thresholds": _thresholds,
    "ties": _ties,
    "bits": lambda rng, n: rng.integers(0, 2**32, n, np.uint32).view(np.float32),
    "log-normal": lambda rng, n: rng.choice([-1, 1], n) * np.exp(4 * rng.standard_normal(n)),
    "sparse": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.1),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "constant": lambda rng, n: np.full(n, rng.standard_normal()),
    "integers": lambda rng, n: rng.integers(-8, 9, n),
}
EXPONENTS = (0, -6, -99, -100, -101, -126, 10, 120, 125, 126, -14, -24)


def recipes(dtypes: tuple[str, ...], shapes: tuple[tuple[int, ...], ...] = SHAPES) -> st.SearchStrategy[Recipe]:
    """Recipes of arrays of these dtypes and shapes."""
    injected = st.tuples(st.integers(0, 2**16), st.sampled_from(PATTERNS))
    return st.builds(
        Recipe,
        st.sampled_from(shapes),
        st.sampled_from(dtypes),
        st.sampled_from(tuple(_DISTRIBUTIONS)),
        st.sampled_from(EXPONENTS),
        st.integers(0, 2**32 - 1),
        st.lists(injected, max_size=8).map(tuple),
    )
