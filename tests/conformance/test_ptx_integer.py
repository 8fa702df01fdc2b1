"""Opcodes of the PTX executor on integers: arithmetic, shifts, fields of bits and of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance.ptx_numbers import elementwise, signed, width
from tests.conformance.ptx_support import check, execute, expand

# Arithmetic


def truncated(a: int, b: int) -> int:
    """Integer quotient towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER: dict[str, tuple[Callable[..., Any], int]] = {
    "add": (lambda a, b: a + b, 2),
    "sub": (lambda a, b: a - b, 2),
    "mul.lo": (lambda a, b: a * b, 2),
    "mad.lo": (lambda a, b, c: a * b + c, 3),
    "min": (min, 2),
    "max": (max, 2),
    "neg": (lambda a: -a, 1),
    "abs": (abs, 1),
    "div": (truncated, 2),
    "rem": (lambda a, b: a - b * truncated(a, b), 2),
}
INTEGER_OPCODES = expand(
    "{add,sub,mul.lo,mad.lo,min,max,div,rem}.{s16,s32,s64,u16,u32,u64}",
    "{add,min,max}.{s16x2,u16x2}",
    "{neg,abs}.{s16,s32,s64}",
)


@pytest.mark.parametrize("opcode", INTEGER_OPCODES)
def test_integer_arithmetic(opcode: str) -> None:
    name, kind = opcode.rsplit(".", 1)
    function, arity = INTEGER[name]
    element, _, count = kind.partition("x")
    bits = width(element)

    def oracle(*words: int) -> int | None:
        numbers = [signed(word, bits) if kind[0] == "s" else word for word in words]
        if name in ("div", "rem"):
            overflow = kind[0] == "s" and numbers == [-(1 << bits - 1), -1]
            if numbers[1] == 0 or overflow:
                return None
        return function(*numbers) & (1 << bits) - 1

    check(opcode, elementwise(oracle, bits, int(count)) if count else oracle, [kind] * arity, kind)


PRODUCTS = expand("mul.hi.{s16,s32,s64,u16,u32,u64}", "{mul,mad}.wide.{s16,s32,u16,u32}")


@pytest.mark.parametrize("opcode", PRODUCTS)
def test_products_of_double_width(opcode: str) -> None:
    name, kind = opcode.rsplit(".", 1)
    bits = width(kind)
    number = (lambda w: signed(w, bits)) if kind[0] == "s" else (lambda w: w)
    if name == "mul.hi":
        check(opcode, lambda a, b: number(a) * number(b) >> bits & (1 << bits) - 1, [kind, kind], kind)
        return
    wide, mask = f"{kind[0]}{2 * bits}", (1 << 2 * bits) - 1
    if name == "mul.wide":
        check(opcode, lambda a, b: number(a) * number(b) & mask, [kind, kind], wide)
    else:
        check(opcode, lambda a, b, c: number(a) * number(b) + c & mask, [kind, kind, wide], wide)


# Bits

SHIFTS = expand("{shl,shr}.{b16,b32,b64}", "shr.{u16,u32,u64,s16,s32,s64}")


@pytest.mark.parametrize("opcode", SHIFTS)
def test_shift(opcode: str) -> None:
    name, kind = opcode.split(".")
    bits = width(kind)

    def oracle(a: int, amount: int) -> int:
        number = signed(a, bits) if kind[0] == "s" else a
        amount = min(amount, bits)
        return (number << amount if name == "shl" else number >> amount) & (1 << bits) - 1

    check(opcode, oracle, [kind, "u32"], kind, rows=600)


FUNNEL_SHIFTS = expand("shf.{l,r}.{wrap,clamp}.b32")


@pytest.mark.parametrize("opcode", FUNNEL_SHIFTS)
def test_funnel_shift(opcode: str) -> None:
    _, direction, mode, _ = opcode.split(".")

    def oracle(a: int, b: int, c: int) -> int:
        n = c & 31 if mode == "wrap" else min(c, 32)
        result = b << n | a >> 32 - n if direction == "l" else b << 32 - n | a >> n
        return result & 0xFFFFFFFF

    check(opcode, oracle, ["b32", "b32", "u32"], "b32", rows=600)


COUNTS = expand("{popc.b32,popc.b64,clz.b32}")


@pytest.mark.parametrize("opcode", COUNTS)
def test_counts(opcode: str) -> None:
    name, kind = opcode.split(".")
    bits = width(kind)
    check(opcode, int.bit_count if name == "popc" else lambda a: bits - a.bit_length(), [kind], "b32")


EXTRACTIONS = expand("bfe.{u32,u64,s32,s64}")


@pytest.mark.parametrize("opcode", EXTRACTIONS)
def test_bit_field_extract(opcode: str) -> None:
    kind = opcode.split(".")[1]
    top = width(kind) - 1

    def oracle(a: int, b: int, c: int) -> int:
        position, length = b & 0xFF, c & 0xFF
        sign = 0 if kind[0] == "u" or length == 0 else a >> min(position + length - 1, top) & 1
        inside = [i < length and position + i <= top for i in range(top + 1)]
        return sum((a >> position + i & 1 if inside[i] else sign) << i for i in range(top + 1))

    check(opcode, oracle, [kind, "u32", "u32"], kind, rows=1000)


INSERTIONS = expand("bfi.{b32,b64}")


@pytest.mark.parametrize("opcode", INSERTIONS)
def test_bit_field_insert(opcode: str) -> None:
    kind = opcode.split(".")[1]
    top = width(kind) - 1

    def oracle(a: int, b: int, c: int, d: int) -> int:
        position, length = c & 0xFF, d & 0xFF
        for i in range(length):
            if position + i <= top:
                b = b & ~(1 << position + i) | (a >> i & 1) << position + i
        return b

    check(opcode, oracle, [kind, kind, "u32", "u32"], kind, rows=1000)


def test_byte_permutation() -> None:
    def oracle(a: int, b: int, c: int) -> int:
        data, result = a.to_bytes(4, "little") + b.to_bytes(4, "little"), []
        for i in range(4):
            byte = data[c >> 4 * i & 7]
            result.append((255 if byte & 128 else 0) if c >> 4 * i & 8 else byte)
        return int.from_bytes(bytes(result), "little")

    check("prmt.b32", oracle, ["b32", "b32", "b32"], "b32", rows=2000)
    operands = [np.array([0x33221100], np.uint32), "0x77665544", "0x3740U"]
    assert execute("prmt.b32", operands, ["b32"] * 3, "b32")[0] == 0x33774400


TESTED = {*INTEGER_OPCODES, *PRODUCTS, *SHIFTS, *FUNNEL_SHIFTS, *COUNTS, *EXTRACTIONS, *INSERTIONS, "prmt.b32"}
