"""Exact arithmetic on bit patterns: the oracles' side of the tests of the PTX executor.

The oracles state the PTX ISA's definitions, bit by bit where that is how the ISA puts it, in Python integers and
fractions, and share no code with the executor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[Any]]
Oracle = Callable[..., int | None]
"""Bits of the operands -> bits of the result; None where PTX leaves the result open."""

FLOATS = {"f32": (24, 8), "f16": (11, 5), "bf16": (8, 8)}
"""Significant bits, and bits of the exponent field."""


def width(kind: str) -> int:
    """Bits of a PTX type; a predicate travels as a 32-bit word."""
    if kind == "pred":
        return 32
    element, _, count = kind.partition("x")
    return int(re.sub(r"\D", "", element)) * int(count or 1)


# Bit patterns and values


def signed(word: int, bits: int) -> int:
    """Two's complement."""
    return word - (1 << bits) if word >> (bits - 1) & 1 else word


def value(word: int, kind: str) -> float:
    """A float's value; float64 holds all of the narrower ones."""
    precision, exponent_bits = FLOATS[kind]
    mantissa, rest = word & (1 << precision - 1) - 1, word >> (precision - 1)
    exponent, sign = rest & (1 << exponent_bits) - 1, -1.0 if rest >> exponent_bits else 1.0
    if exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    bias = (1 << exponent_bits - 1) - 1
    hidden = (1 << precision - 1) if exponent else 0
    return sign * math.ldexp(mantissa + hidden, max(exponent, 1) - bias - precision + 1)


def encode(number: float | Fraction, kind: str, zero_sign: bool = False) -> int:
    """The nearest float, ties to even, of an exact number; NaN is the canonical NaN."""
    precision, exponent_bits = FLOATS[kind]
    sign_bit = 1 << (precision - 1 + exponent_bits)
    infinity = (1 << exponent_bits) - 1 << (precision - 1)
    if isinstance(number, float):
        if math.isnan(number):
            return sign_bit - 1
        if math.isinf(number):
            return infinity | (sign_bit if number < 0 else 0)
        zero_sign = math.copysign(1, number) < 0
        number = Fraction(number)
    sign = sign_bit if number < 0 or (number == 0 and zero_sign) else 0
    number = abs(number)
    if not number:
        return sign
    smallest = 2 - (1 << exponent_bits - 1)
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    exponent -= number < Fraction(2) ** exponent
    exponent = max(exponent, smallest)
    units = round(number / Fraction(2) ** (exponent - precision + 1))  # Python rounds halves to even
    return min((exponent - smallest << precision - 1) + units, infinity) | sign


def bits32(values: Any) -> Words:
    """Words of float32 values."""
    return np.atleast_1d(np.asarray(values, np.float32)).view(np.uint32)


# Oracles


def arithmetic(exact: Callable[..., Fraction], special: Callable[..., float], kind: str) -> Oracle:
    """An oracle from exact arithmetic; zeros' signs and what is not finite come from float64 arithmetic."""

    def oracle(*words: int) -> int:
        values = [value(word, kind) for word in words]
        with np.errstate(all="ignore"):
            rough = float(special(*(np.float64(v) for v in values)))
        if not all(map(math.isfinite, values)) or not math.isfinite(rough):
            return encode(rough, kind)
        return encode(exact(*map(Fraction, values)), kind, math.copysign(1, rough) < 0)

    return oracle


def elementwise(oracle: Oracle, bits: int, count: int) -> Oracle:
    """The oracle of a packed type."""

    def packed(*words: int) -> int:
        result = 0
        for i in range(count):
            part = oracle(*(word >> bits * i & (1 << bits) - 1 for word in words))
            assert part is not None
            result |= part << bits * i
        return result

    return packed


def extremum(name: str, modifiers: Sequence[str], kind: str) -> Oracle:
    """`min` and `max` as the ISA's pseudo-code puts them, with -0 below +0."""

    def oracle(*words: int) -> int:
        values = [value(word, kind) for word in words]
        negative = sum(word >> (width(kind) - 1) for word in words) % 2 == 1  # that of a NaN counts as well
        if "xorsign" in modifiers:
            values = [abs(v) for v in values]
        numbers = [v for v in values if not math.isnan(v)]
        if not numbers or ("NaN" in modifiers and len(numbers) < len(values)):
            return encode(math.nan, kind)
        order = sorted(numbers, key=lambda v: (v, math.copysign(1, v)))
        result = order[0] if name == "min" else order[-1]
        if "xorsign" in modifiers:
            result = math.copysign(result, -1 if negative else 1)
        return encode(result, kind)

    return oracle
