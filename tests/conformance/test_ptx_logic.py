"""Opcodes of the PTX executor that compare, combine bits, select and move."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance.ptx_numbers import FLOATS, signed, value, width
from tests.conformance.ptx_support import check, execute, expand

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def comparison(name: str, kind: str) -> Callable[[int, int], bool]:
    """What `setp` compares."""
    if kind not in FLOATS:
        number = (lambda w: signed(w, width(kind))) if kind[0] == "s" else (lambda w: w)
        return lambda a, b: COMPARE[UNSIGNED_NAMES.get(name, name)](number(a), number(b))

    def floats(a: int, b: int) -> bool:
        x, y = value(a, kind), value(b, kind)
        if math.isnan(x) or math.isnan(y):
            return name == "nan" or (len(name) == 3 and name.endswith("u"))
        return name == "num" or (name != "nan" and COMPARE[name[:2]](x, y))

    return floats


COMBINE: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
COMPARISONS = expand(
    "setp.{eq,ne,lt,le,gt,ge}{,.and,.or,.xor}.{s16,s32,s64,u16,u32,u64,f32,f16,bf16}",
    "setp.{eq,ne}{,.and,.or,.xor}.{b16,b32,b64}",
    "setp.{lo,ls,hi,hs}{,.and,.or,.xor}.{u16,u32,u64}",
    "setp.{equ,neu,ltu,leu,gtu,geu,num,nan}{,.and,.or,.xor}.{f32,f16,bf16}",
)


@pytest.mark.parametrize("kind", ["s16", "s32", "s64", "u16", "u32", "u64", "b16", "b32", "b64", *FLOATS])
def test_comparison(kind: str) -> None:
    for opcode in COMPARISONS:
        if not opcode.endswith(f".{kind}"):
            continue
        _, name, *combination, _ = opcode.split(".")
        compare = comparison(name, kind)
        if combination:
            combine = COMBINE[combination[0]]
            check(
                opcode,
                lambda a, b, c, f=compare, g=combine: g(int(f(a, b)), c),
                [kind, kind, "pred"],
                "pred",
                200,
            )
        else:
            check(opcode, lambda a, b, f=compare: int(f(a, b)), [kind, kind], "pred", 400)


LOGIC = expand("{and,or,xor,not}.{b16,b32,b64,pred}")


@pytest.mark.parametrize("opcode", LOGIC)
def test_logic(opcode: str) -> None:
    name, kind = opcode.split(".")
    mask = 1 if kind == "pred" else (1 << width(kind)) - 1
    if name == "not":
        check(opcode, lambda a: ~a & mask, [kind], kind)
    else:
        check(opcode, COMBINE[name], [kind, kind], kind)


def test_every_function_of_three_bits() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 1 << 32, 8, dtype=np.uint32) for _ in range(3))
    for table in range(256):
        want = [
            sum((table >> (4 * (x >> i & 1) + 2 * (y >> i & 1) + (z >> i & 1)) & 1) << i for i in range(32))
            for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
        ]
        got = execute("lop3.b32", [a, b, c, hex(table)], ["b32"] * 4, "b32")
        np.testing.assert_array_equal(got, np.array(want, np.uint32))


SELECTIONS = expand("selp.{b16,u16,s16,b32,u32,s32,f32,b64,u64,s64}")


@pytest.mark.parametrize("opcode", SELECTIONS)
def test_select(opcode: str) -> None:
    kind = opcode.split(".")[1]
    check(opcode, lambda a, b, p: a if p else b, [kind, kind, "pred"], kind)


MOVES = expand("mov.{b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,pred}")


@pytest.mark.parametrize("opcode", MOVES)
def test_move(opcode: str) -> None:
    kind = opcode.split(".")[1]
    check(opcode, lambda a: a, [kind], kind)


TESTED = {*COMPARISONS, *LOGIC, "lop3.b32", *SELECTIONS, *MOVES}
