"""Opcodes of the PTX executor that convert: integers and floats of every width."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.conformance.ptx_numbers import FLOATS, bits32, encode, signed, value, width
from tests.conformance.ptx_support import check, execute, expand

INTEGER_TYPES = [f"{sign}{bits}" for sign in "su" for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("source", INTEGER_TYPES)
def test_integer_to_integer(source: str) -> None:
    for target in INTEGER_TYPES:
        bits = max(width(target), 16)  # there are no 8-bit registers: the result is extended

        def oracle(a: int, target: str = target, bits: int = bits) -> int:
            number = signed(a, width(source)) if source[0] == "s" else a
            chopped = number & (1 << width(target)) - 1
            return (signed(chopped, width(target)) if target[0] == "s" else chopped) & (1 << bits) - 1

        check(f"cvt.{target}.{source}", oracle, [source], f"u{bits}")


INTEGER_TO_FLOAT = expand(
    "cvt.rn.f32.{s8,s16,s32,s64,u8,u16,u32,u64}",
    "cvt.rn.{f16,bf16}.{s8,s16,s32,u8,u16,u32}",
)


@pytest.mark.parametrize("opcode", INTEGER_TO_FLOAT)
def test_integer_to_float(opcode: str) -> None:
    _, _, target, source = opcode.split(".")

    def oracle(a: int) -> int:
        return encode(Fraction(signed(a, width(source)) if source[0] == "s" else a), target)

    check(opcode, oracle, [source], target, rows=1500)


ROUND: dict[str, Callable[[Fraction], int]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


@pytest.mark.parametrize("source", FLOATS)
def test_float_to_integer(source: str) -> None:
    for opcode in expand(f"cvt.{{rni,rzi,rmi,rpi}}.{{s16,s32,s64,u16,u32,u64}}.{source}"):
        _, rounding, target, _ = opcode.split(".")
        bits = width(target)
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)

        def oracle(a: int, form: Any = (ROUND[rounding], bits, low, high)) -> int:
            rounded, bits, low, high = form
            number = value(a, source)
            if math.isnan(number):
                return 1 << 63 if bits == 64 else 0
            if math.isinf(number):
                result = high if number > 0 else low
            else:
                result = min(max(rounded(Fraction(number)), low), high)
            return result & (1 << bits) - 1

        check(opcode, oracle, [source], target, rows=600)


def test_saturation_and_nan_of_float_to_integer() -> None:
    inputs = bits32([300.7, -5.5, np.nan, np.inf, -np.inf, 2.0**31, 2.0**63, -(2.0**63), 2.0**64])

    def convert(target: str) -> list[int]:
        words = execute(f"cvt.rzi.{target}.f32", [inputs], ["f32"], target).tolist()
        return [signed(word, width(target)) if target[0] == "s" else word for word in words]

    big, small = 2**31 - 1, -(2**31)
    assert convert("s32") == [300, -5, 0, big, small, big, big, small, big]
    assert convert("u16") == [300, 0, 0, 65535, 0, 65535, 65535, 0, 65535]
    assert convert("u64")[2:] == [1 << 63, 2**64 - 1, 0, 2**31, 2**63, 0, 2**64 - 1]
    assert convert("s64")[2:] == [-(2**63), 2**63 - 1, -(2**63), 2**31, 2**63 - 1, -(2**63), 2**63 - 1]


FLOAT_TO_FLOAT = expand("cvt.f32.{f16,bf16}", "cvt.rn.{f16,bf16}.f32", "cvt.rn.{f16.bf16,bf16.f16}")


@pytest.mark.parametrize("opcode", FLOAT_TO_FLOAT)
def test_float_to_float(opcode: str) -> None:
    target, source = opcode.split(".")[-2:]
    check(opcode, lambda a: encode(value(a, source), target), [source], target, rows=3000)


@pytest.mark.parametrize("source", ["f16", "bf16"])
def test_widening_all_16_bit_floats(source: str) -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    want = [encode(value(word, source), "f32") for word in words.tolist()]
    got = execute(f"cvt.f32.{source}", [words], [source], "f32")
    np.testing.assert_array_equal(got, np.array(want, np.uint32))


@pytest.mark.parametrize("target", ["f16", "bf16"])
def test_narrowing_a_pair(target: str) -> None:
    def oracle(high: int, low: int) -> int:
        return encode(value(high, "f32"), target) << 16 | encode(value(low, "f32"), target)

    check(f"cvt.rn.{target}x2.f32", oracle, ["f32", "f32"], "b32", rows=2000)


@pytest.mark.parametrize("rounding", ROUND)
def test_float_to_integral_float(rounding: str) -> None:
    def oracle(a: int) -> int:
        number = value(a, "f32")
        if not math.isfinite(number):
            return encode(number, "f32")
        return encode(Fraction(ROUND[rounding](Fraction(number))), "f32", math.copysign(1, number) < 0)

    check(f"cvt.{rounding}.f32.f32", oracle, ["f32"], "f32", rows=1000)


WITHOUT_PARAMETERS = expand(
    "cvt.rn.{f16,bf16}x2.f32",
    "cvt.{rni,rzi,rmi,rpi}.f32.f32",
    "cvt.{rni,rzi,rmi,rpi}.{s16,s32,s64,u16,u32,u64}.{f32,f16,bf16}",
    "cvt.{s8,s16,s32,s64,u8,u16,u32,u64}.{s8,s16,s32,s64,u8,u16,u32,u64}",
)
TESTED = {*INTEGER_TO_FLOAT, *FLOAT_TO_FLOAT, *WITHOUT_PARAMETERS}
