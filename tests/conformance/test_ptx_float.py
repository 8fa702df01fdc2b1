"""Opcodes of the PTX executor on floats: correctly rounded arithmetic, signs, minima and maxima."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.conformance.ptx_numbers import arithmetic, bits32, elementwise, encode, extremum, value, width
from tests.conformance.ptx_support import check, execute, expand

ROUNDED: dict[str, tuple[Callable[..., Any], int]] = {
    "add": (lambda a, b: a + b, 2),
    "sub": (lambda a, b: a - b, 2),
    "mul": (lambda a, b: a * b, 2),
    "div": (lambda a, b: a / b, 2),
    "fma": (lambda a, b, c: a * b + c, 3),
    "rcp": (lambda a: 1 / a, 1),
}


ROUNDED_OPCODES = expand("{add,sub,mul,fma}.rn.{f32,f32x2,f16,f16x2,bf16,bf16x2}", "{div,rcp}.rn.f32")


@pytest.mark.parametrize("opcode", ROUNDED_OPCODES)
def test_float_arithmetic_is_correctly_rounded(opcode: str) -> None:
    name, _, kind = opcode.split(".")
    function, arity = ROUNDED[name]
    element, _, count = kind.partition("x")
    oracle = arithmetic(function, function, element)
    if count:
        oracle = elementwise(oracle, width(element), int(count))
    check(opcode, oracle, [kind] * arity, kind, rows=1500)


@pytest.mark.parametrize("factor", ["f16", "bf16"])
def test_fma_of_narrow_factors(factor: str) -> None:
    def oracle(a: int, b: int, c: int) -> int:
        x, y = (encode(value(word, factor), "f32") for word in (a, b))
        result = arithmetic(ROUNDED["fma"][0], ROUNDED["fma"][0], "f32")(x, y, c)
        assert result is not None
        return result

    check(f"fma.rn.f32.{factor}", oracle, [factor, factor, "f32"], "f32", rows=1500)


def test_fma_where_rounding_twice_goes_wrong() -> None:
    rng = np.random.default_rng(0)
    significand = 1 + rng.integers(0, 1 << 23, (3, 1200)) * 2.0**-23
    a, b = significand[0].astype(np.float32), significand[1].astype(np.float32)
    cancelling = (a, b, -(a * b))  # the result is the rounding error of the product
    # A product within 2^-23 of half an ulp of c: float64 arithmetic alone sees a tie there.
    near_tie_a = (2.0**-12 * (1 + rng.integers(0, 4, 1200) * 2.0**-23)).astype(np.float32)
    near_tie_b = (2.0**-12 * (1 - rng.integers(0, 8, 1200) * 2.0**-24)).astype(np.float32)
    signs = rng.choice(np.array([-1, 1], np.float32), (2, 1200))
    near_tie = (near_tie_a * signs[0], near_tie_b, significand[2].astype(np.float32) * signs[1])
    scales = np.ldexp(np.float32(1), rng.integers(-120, 60, 1200))
    tiny = (
        (a * scales).astype(np.float32),
        np.full(1200, 2.0**-140, np.float32) * 3,
        a * np.float32(2**-149),
    )
    huge = (a * np.float32(2**64), b * np.float32(2**63), -a * np.float32(2**127))
    columns = [bits32(np.concatenate(parts)) for parts in zip(cancelling, near_tie, tiny, huge, strict=True)]
    oracle = arithmetic(ROUNDED["fma"][0], ROUNDED["fma"][0], "f32")
    want = [oracle(*(int(word) for word in row)) for row in zip(*columns, strict=True)]
    got = execute("fma.rn.f32", columns, ["f32"] * 3, "f32")
    np.testing.assert_array_equal(got, np.array(want, np.uint32))
    x, y, z = (column.view(np.float32).astype(np.float64) for column in columns)
    with np.errstate(over="ignore"):
        twice = (x * y + z).astype(np.float32).view(np.uint32)
        separate = ((x * y).astype(np.float32) + z.astype(np.float32)).view(np.uint32)
    assert (twice != got).any() and (separate != got).any(), "the inputs do not test what they should"


def test_sqrt() -> None:
    def oracle(a: int) -> int:
        number = value(a, "f32")
        if not math.isfinite(number) or number <= 0:
            return encode(number if number == 0 or number > 0 else math.nan, "f32")
        # An integer square root of 30 extra bits, with a sticky bit, rounds like the exact one.
        scaled = Fraction(number) * 4**200
        root = math.isqrt(int(scaled))
        return encode(Fraction(2 * root + (root * root != scaled), 2) / 2**200, "f32")

    check("sqrt.rn.f32", oracle, ["f32"], "f32", rows=1500)


# Signs and order

ALL_FLOATS = "{f32,f16,f16x2,bf16,bf16x2}"


SIGN_OPCODES = expand(f"{{abs,neg}}.{ALL_FLOATS}")


@pytest.mark.parametrize("opcode", SIGN_OPCODES)
def test_float_sign(opcode: str) -> None:
    name, kind = opcode.split(".")
    element, _, count = kind.partition("x")
    top = 1 << (width(element) - 1)

    def oracle(a: int) -> int:
        if math.isnan(value(a, element)):
            return top - 1
        return a & ~top if name == "abs" else a ^ top

    check(opcode, elementwise(oracle, width(element), int(count or 1)), [kind], kind)


EXTREMA = expand(f"{{min,max}}{{,.NaN}}.{ALL_FLOATS}", "{min,max}{,.NaN}.xorsign.abs.f32")


@pytest.mark.parametrize("opcode", EXTREMA)
def test_float_extremum(opcode: str) -> None:
    name, *modifiers, kind = opcode.split(".")
    element, _, count = kind.partition("x")
    oracle = elementwise(extremum(name, modifiers, element), width(element), int(count or 1))
    check(opcode, oracle, [kind, kind], kind, rows=600)
    if kind == "f32" and "xorsign" not in modifiers:
        check(opcode, oracle, [kind] * 3, kind, rows=600)


TESTED = {*ROUNDED_OPCODES, *expand("fma.rn.f32.{f16,bf16}", "sqrt.rn.f32"), *SIGN_OPCODES, *EXTREMA}
