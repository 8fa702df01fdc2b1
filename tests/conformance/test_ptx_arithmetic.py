"""Every opcode of the PTX executor against an oracle in exact Python integers and fractions.

The oracles state the PTX ISA's definitions, bit by bit where that is how the ISA puts it, and share no code
with the executor. `test_no_opcode_without_an_oracle` keeps the list complete.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from arraycodec_conformance import ptx
from arraycodec_conformance.ptx import opcodes
from arraycodec_conformance.ptx.opcodes import TABLE

Words = np.ndarray[Any, np.dtype[Any]]
Oracle = Callable[..., int | None]
"""Bits of the operands -> bits of the result; None where PTX leaves the result open."""

THREADS = 128
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def expand(*patterns: str) -> list[str]:
    """All opcodes that some patterns stand for."""
    return [opcode for pattern in patterns for opcode in opcodes.expand(pattern)]


# Running one instruction


def width(kind: str) -> int:
    """Bits of a PTX type; a predicate travels as a 32-bit word."""
    if kind == "pred":
        return 32
    element, _, count = kind.partition("x")
    return int(re.sub(r"\D", "", element)) * int(count or 1)


def execute(opcode: str, sources: Sequence[Words | str], kinds: Sequence[str], result: str) -> Words:
    """Apply an instruction to columns of words, one thread for each row; a string is a literal operand."""
    columns = [source for source in sources if not isinstance(source, str)]
    rows = columns[0].size
    text, names = [], []
    for i, (source, kind) in enumerate(zip(sources, kinds, strict=True)):
        bits = width(kind)
        if isinstance(source, str):
            names.append(source)
            continue
        text += [
            f".reg .b64 %a{i}; .reg .b{max(bits, 16)} %x{i}; ld.param.b64 %a{i}, [in{i}];",
            f"mad.wide.u32 %a{i}, %row, {bits // 8}, %a{i}; ld.global.b{bits} %x{i}, [%a{i}];",
        ]
        if kind == "pred":
            text.append(f".reg .pred %p{i}; setp.ne.b32 %p{i}, %x{i}, 0;")
        names.append(f"%p{i}" if kind == "pred" else f"%x{i}")
    bits = width(result)
    text.append(f".reg .b64 %a; .reg .b{max(bits, 16)} %y; .reg .pred %q;")
    text.append(f"{opcode} {'%q' if result == 'pred' else '%y'}, {', '.join(names)};")
    if result == "pred":
        text.append("selp.b32 %y, 1, 0, %q;")
    text.append(f"ld.param.b64 %a, [out]; mad.wide.u32 %a, %row, {bits // 8}, %a;")
    text.append(f"st.global.b{bits} [%a], %y;")
    inputs = [i for i, source in enumerate(sources) if not isinstance(source, str)]
    parameters = ", ".join(f".param .u64 {name}" for name in [*(f"in{i}" for i in inputs), "out"])
    module = f"""
        .visible .entry one({parameters}) .reqntid {THREADS} {{
        .reg .b32 %row; .reg .b32 %t; mov.u32 %row, %ctaid.x; mov.u32 %t, %tid.x;
        mad.lo.s32 %row, %row, {THREADS}, %t;
        {" ".join(text)}
        ret; }}"""
    memory = ptx.Memory()
    grid = -(-rows // THREADS)
    padded = [np.resize(column, grid * THREADS) for column in columns]
    out = memory.alloc(grid * THREADS, UNSIGNED[bits])
    ptx.Kernel(module).run(memory, grid, [*(memory.put(column) for column in padded), out])
    return memory.get(out, UNSIGNED[bits], grid * THREADS)[:rows]


def check(opcode: str, oracle: Oracle, kinds: Sequence[str], result: str, rows: int = 300) -> None:
    """Compare an opcode with its oracle on corner cases and random words."""
    rng = np.random.default_rng(np.frombuffer(opcode.encode(), np.uint8).tolist())
    columns = [draw(kind, rows, rng) for kind in kinds]
    wanted = [oracle(*(int(word) for word in row)) for row in zip(*columns, strict=True)]
    defined = np.array([word is not None for word in wanted])
    columns = [column[defined] for column in columns]
    got = execute(opcode, columns, kinds, result)
    want = np.array([word for word in wanted if word is not None], dtype=UNSIGNED[width(result)])
    wrong = np.flatnonzero(got != want)
    if wrong.size:
        i = wrong[0]
        inputs = ", ".join(hex(column[i]) for column in columns)
        pytest.fail(f"{opcode} {inputs}: got {got[i]:#x}, want {want[i]:#x} ({wrong.size} of {want.size})")


# Values worth trying


def draw(kind: str, rows: int, rng: np.random.Generator) -> Words:
    """Corner cases and random bit patterns, mixed."""
    bits = width(kind)
    if kind == "pred":
        return rng.integers(0, 2, rows, dtype=np.uint32)
    element, _, count = kind.partition("x")
    if count:
        parts = [draw(element, rows, rng) for _ in range(int(count))]
        return np.ascontiguousarray(np.stack(parts, axis=1)).view(UNSIGNED[bits]).reshape(-1)
    words = rng.integers(0, 1 << bits, rows, dtype=UNSIGNED[bits])
    special = float_corners(element) if element in FLOATS else integer_corners(bits)
    chosen = rng.random(rows) < 0.6
    words[chosen] = rng.choice(np.array(special, UNSIGNED[bits]), int(chosen.sum()))
    return words


def integer_corners(bits: int) -> list[int]:
    """The ends of both ranges, small numbers, and numbers just beyond a width."""
    ones, top = (1 << bits) - 1, 1 << (bits - 1)
    small = [0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255]
    return [*small, ones, ones - 1, ones - 31, top, top - 1, top + 1, ones // 3, ones // 3 * 2]


FLOATS = {"f32": (24, 8), "f16": (11, 5), "bf16": (8, 8)}
"""Significant bits, and bits of the exponent field."""


def float_corners(kind: str) -> list[int]:
    """Zeros, subnormals, the ends of the normal range, infinities, NaNs, integers, halves, almost one."""
    precision, exponent_bits = FLOATS[kind]
    infinity = (1 << exponent_bits) - 1 << (precision - 1)
    normal = 1 << (precision - 1)
    one = infinity // 2 // normal * normal
    values = [0.5, 1.5, 2.0, 2.5, 3.0, 127.5, 255.0, 1e-3]
    positive = [0, 1, 2, normal - 1, normal, normal + 1, one - 1, one, one + 1, infinity - 1, infinity]
    positive += [infinity + 1, infinity + normal // 2, *(encode(Fraction(value), kind) for value in values)]
    sign = 1 << (precision - 1 + exponent_bits)
    return [word | flag for word in positive for flag in (0, sign)]


# Exact arithmetic on bit patterns


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


ROUNDED: dict[str, tuple[Callable[..., Any], int]] = {
    "add": (lambda a, b: a + b, 2),
    "sub": (lambda a, b: a - b, 2),
    "mul": (lambda a, b: a * b, 2),
    "div": (lambda a, b: a / b, 2),
    "fma": (lambda a, b, c: a * b + c, 3),
    "rcp": (lambda a: 1 / a, 1),
}


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


def bits32(values: Any) -> Words:
    """Words of float32 values."""
    return np.atleast_1d(np.asarray(values, np.float32)).view(np.uint32)


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


# Signs, order, comparison

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


EXTREMA = expand(f"{{min,max}}{{,.NaN}}.{ALL_FLOATS}", "{min,max}{,.NaN}.xorsign.abs.f32")


@pytest.mark.parametrize("opcode", EXTREMA)
def test_float_extremum(opcode: str) -> None:
    name, *modifiers, kind = opcode.split(".")
    element, _, count = kind.partition("x")
    oracle = elementwise(extremum(name, modifiers, element), width(element), int(count or 1))
    check(opcode, oracle, [kind, kind], kind, rows=600)
    if kind == "f32" and "xorsign" not in modifiers:
        check(opcode, oracle, [kind] * 3, kind, rows=600)


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


# Integers and bits


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


LOGIC = expand("{and,or,xor,not}.{b16,b32,b64,pred}")


@pytest.mark.parametrize("opcode", LOGIC)
def test_logic(opcode: str) -> None:
    name, kind = opcode.split(".")
    mask = 1 if kind == "pred" else (1 << width(kind)) - 1
    if name == "not":
        check(opcode, lambda a: ~a & mask, [kind], kind)
    else:
        check(opcode, COMBINE[name], [kind, kind], kind)


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


# Conversion

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


# Exchange between the lanes of a warp


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that `shfl` reads, and whether it lies in range: the ISA's pseudo-code."""
    distance, clamp, segment = b & 31, c & 31, c >> 8 & 31
    last = lane & segment | clamp & ~segment
    first = lane & segment
    match mode:
        case "up":
            j, inside = lane - distance, lane - distance >= last
        case "down":
            j, inside = lane + distance, lane + distance <= last
        case "bfly":
            j, inside = lane ^ distance, lane ^ distance <= last
        case _:
            j = first | distance & ~segment
            inside = j <= last
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("segment", [0, 16, 24, 28])
def test_shuffle(mode: str, segment: int) -> None:
    rng = np.random.default_rng(segment)
    words = rng.integers(0, 1 << 32, THREADS, dtype=np.uint32)
    clamp = segment << 8 | (0 if mode == "up" else 31)
    for b in [
        *(np.full(THREADS, d, np.uint32) for d in (0, 1, 3, 16, 31)),
        rng.integers(0, 40, THREADS, dtype=np.uint32),
    ]:
        sources = [shuffled(mode, i % 32, int(b[i]), clamp) for i in range(THREADS)]
        want = [words[i // 32 * 32 + source] for i, (source, _) in enumerate(sources)]
        operands = [words, b, str(clamp), "-1"]
        got = execute(f"shfl.sync.{mode}.b32", operands, ["b32", "u32", "u32", "b32"], "b32")
        np.testing.assert_array_equal(got, np.array(want, np.uint32))


REDUCTIONS: dict[str, Callable[[list[int]], int]] = {
    "add": sum,
    "min": min,
    "max": max,
    "and": lambda values: int(np.bitwise_and.reduce(values)),
    "or": lambda values: int(np.bitwise_or.reduce(values)),
    "xor": lambda values: int(np.bitwise_xor.reduce(values)),
}
REDUX = expand(
    "redux.sync.{add,min,max}.{u32,s32}",
    "redux.sync.{and,or,xor}.b32",
    "redux.sync.{min,max}{,.NaN}.f32",
)


@pytest.mark.parametrize("opcode", REDUX)
def test_reduction(opcode: str) -> None:
    _, _, name, *modifiers, kind = opcode.split(".")
    words = draw(kind, THREADS, np.random.default_rng(7))
    words[:32] = bits32(np.nan)  # a warp of NaNs only
    words[32:64] = bits32(np.arange(-16, 16))
    want = []
    for warp in words.reshape(-1, 32).tolist():
        if kind == "f32":
            result = extremum(name, modifiers, "f32")(*warp)
            assert result is not None
        else:
            numbers = [signed(word, 32) if kind == "s32" else word for word in warp]
            result = REDUCTIONS[name](numbers) & 0xFFFFFFFF
        want += [result] * 32
    got = execute(opcode, [words, "-1"], [kind, "b32"], kind)
    np.testing.assert_array_equal(got, np.array(want, np.uint32))


WITHOUT_PARAMETERS = expand(
    "fma.rn.f32.{f16,bf16}",
    "sqrt.rn.f32",
    "prmt.b32",
    "lop3.b32",
    "cvt.rn.{f16,bf16}x2.f32",
    "cvt.{rni,rzi,rmi,rpi}.f32.f32",
    "cvt.{rni,rzi,rmi,rpi}.{s16,s32,s64,u16,u32,u64}.{f32,f16,bf16}",
    "cvt.{s8,s16,s32,s64,u8,u16,u32,u64}.{s8,s16,s32,s64,u8,u16,u32,u64}",
    "shfl.sync.{up,down,bfly,idx}.b32",
)
IN_TEST_PTX_EXECUTE = ("ld", "st", "ldmatrix", "stmatrix", "bar", "bra", "ret", "exit", "createpolicy")


def test_no_opcode_without_an_oracle() -> None:
    tested = set(WITHOUT_PARAMETERS)
    tested.update(ROUNDED_OPCODES, SIGN_OPCODES, EXTREMA, COMPARISONS, INTEGER_OPCODES, PRODUCTS, LOGIC)
    tested.update(SHIFTS, FUNNEL_SHIFTS, COUNTS, EXTRACTIONS, INSERTIONS, SELECTIONS, MOVES)
    tested.update(INTEGER_TO_FLOAT, FLOAT_TO_FLOAT, REDUX)
    assert tested == {opcode for opcode in TABLE if opcode.split(".")[0] not in IN_TEST_PTX_EXECUTE}
