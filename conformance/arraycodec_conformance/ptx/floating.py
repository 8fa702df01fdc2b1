"""Floating-point arithmetic with one correct rounding to nearest even, and comparison.

Only opcodes with `.rn` are here: ptxas may contract the others. Sums, products and quotients are rounded once
because float32 is IEEE arithmetic in NumPy, because float16 in float32 has the 2p + 2 bits that make the
second rounding harmless, and because bfloat16 is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import Array, fma
from .integer import COMPARISONS, Comparison, enter_comparison
from .opcodes import lanewise

_ALL = "{f32,f32x2,f16,f16x2,bf16,bf16x2}"
_SIGN_AND_ORDER = "{f32,f16,f16x2,bf16,bf16x2}"
_SCALAR = "{f32,f16,bf16}"


@lanewise(f"add.rn.{_ALL}")
def add(a: Array, b: Array) -> Array:
    """Sum."""
    return a + b


@lanewise(f"sub.rn.{_ALL}")
def sub(a: Array, b: Array) -> Array:
    """Difference."""
    return a - b


@lanewise(f"mul.rn.{_ALL}")
def mul(a: Array, b: Array) -> Array:
    """Product."""
    return a * b


lanewise(f"fma.rn.{_ALL}")(fma)
for _factor in ("f16", "bf16"):
    lanewise(f"fma.rn.f32.{_factor}", sources=(_factor, _factor, "f32"), result="f32")(fma)


@lanewise("div.rn.f32")
def div(a: Array, b: Array) -> Array:
    """Quotient."""
    return a / b


@lanewise("rcp.rn.f32")
def rcp(a: Array) -> Array:
    """Reciprocal."""
    return np.float32(1) / a


@lanewise("sqrt.rn.f32")
def sqrt(a: Array) -> Array:
    """Square root."""
    return np.sqrt(a)


@lanewise(f"abs.{_SIGN_AND_ORDER}")
def absolute(a: Array) -> Array:
    """Magnitude."""
    return np.abs(a)


@lanewise(f"neg.{_SIGN_AND_ORDER}")
def neg(a: Array) -> Array:
    """The opposite sign, also of zero."""
    return -a


def _extremum(larger: bool) -> Callable[[Array, Array], Array]:
    def extremum(a: Array, b: Array) -> Array:
        """The larger (or smaller) number, where +0 exceeds -0; the other operand if one is NaN."""
        first = (a > b if larger else a < b) | ((a == b) & (np.signbit(b) if larger else np.signbit(a)))
        return np.where(np.isnan(b) | first & ~np.isnan(a), a, b)

    return extremum


minimum, maximum = _extremum(larger=False), _extremum(larger=True)


def _spreading_nan(extremum: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: np.where(np.isnan(a), a, np.where(np.isnan(b), b, extremum(a, b)))


minimum_nan, maximum_nan = _spreading_nan(minimum), _spreading_nan(maximum)


def _with_sign_product(extremum: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Extremum of the magnitudes, negative if exactly one operand is."""

    def signed(a: Array, b: Array) -> Array:
        magnitude = extremum(np.abs(a), np.abs(b))
        return np.where(np.signbit(a) ^ np.signbit(b), -magnitude, magnitude)

    return signed


def _of_two_or_three(extremum: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def folded(a: Array, b: Array, c: Array | None = None) -> Array:
        return extremum(a, b) if c is None else extremum(extremum(a, b), c)

    return folded


for _name, _plain, _nan in (("min", minimum, minimum_nan), ("max", maximum, maximum_nan)):
    lanewise(f"{_name}.{{f16,f16x2,bf16,bf16x2}}")(_plain)
    lanewise(f"{_name}.NaN.{{f16,f16x2,bf16,bf16x2}}")(_nan)
    lanewise(f"{_name}.f32")(_of_two_or_three(_plain))
    lanewise(f"{_name}.NaN.f32")(_of_two_or_three(_nan))
    lanewise(f"{_name}.xorsign.abs.f32")(_with_sign_product(_plain))
    lanewise(f"{_name}.NaN.xorsign.abs.f32")(_with_sign_product(_nan))


def _ordered(compare: Comparison) -> Comparison:
    return lambda a, b: compare(a, b) & ~(np.isnan(a) | np.isnan(b))


def _unordered(compare: Comparison) -> Comparison:
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


def _neither_nan(a: Array, b: Array) -> Array:
    return ~(np.isnan(a) | np.isnan(b))


def _either_nan(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


for _name, _compare in COMPARISONS.items():
    enter_comparison(_name, _SCALAR, _ordered(_compare))
    enter_comparison(f"{_name}u", _SCALAR, _unordered(_compare))
enter_comparison("num", _SCALAR, _neither_nan)
enter_comparison("nan", _SCALAR, _either_nan)
