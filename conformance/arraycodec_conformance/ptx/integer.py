"""Integer arithmetic, comparison and predicates.

NumPy's arithmetic on arrays of fixed-width integers wraps as PTX's does, so most handlers are one expression.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from .errors import UndefinedResult
from .formats import FORMATS, Array
from .machine import Machine
from .opcodes import lanewise, opcode
from .parse import Instruction

_INTEGERS = "{s16,s32,s64,u16,u32,u64}"
_SIGNED = "{s16,s32,s64}"
_UNSIGNED = "{u16,u32,u64}"
_PACKED = "{s16x2,u16x2}"


@lanewise(f"add.{_INTEGERS}")
@lanewise(f"add.{_PACKED}")
def add(a: Array, b: Array) -> Array:
    """Sum, wrapping."""
    return a + b


@lanewise(f"sub.{_INTEGERS}")
def sub(a: Array, b: Array) -> Array:
    """Difference, wrapping."""
    return a - b


@lanewise(f"mul.lo.{_INTEGERS}")
def mul_lo(a: Array, b: Array) -> Array:
    """Low half of the product."""
    return a * b


@lanewise(f"mad.lo.{_INTEGERS}")
def mad_lo(a: Array, b: Array, c: Array) -> Array:
    """Low half of the product, plus c."""
    return a * b + c


def _double(a: Array) -> Array:
    """The same integers in twice the width."""
    return a.astype(np.dtype(f"{a.dtype.kind}{2 * a.itemsize}"))


def mul_wide(a: Array, b: Array) -> Array:
    """The whole product, twice as wide as the factors."""
    return _double(a) * _double(b)


def mad_wide(a: Array, b: Array, c: Array) -> Array:
    """The whole product, plus a c of its width."""
    return mul_wide(a, b) + c


for _narrow, _wide in (("s16", "s32"), ("u16", "u32"), ("s32", "s64"), ("u32", "u64")):
    lanewise(f"mul.wide.{_narrow}", result=_wide)(mul_wide)
    lanewise(f"mad.wide.{_narrow}", sources=(None, None, _wide), result=_wide)(mad_wide)


@lanewise("mul.hi.{s16,u16,s32,u32}")
def mul_hi(a: Array, b: Array) -> Array:
    """High half of the product."""
    return (mul_wide(a, b) >> a.itemsize * 8).astype(a.dtype)


@lanewise("mul.hi.u64")
def mul_hi_u64(a: Array, b: Array) -> Array:
    """High half of a 128-bit product, by halves of 32 bits."""
    low = np.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = a & low, a >> 32, b & low, b >> 32
    middle = a1 * b0 + (a0 * b0 >> 32)
    carry = a0 * b1 + (middle & low)
    return a1 * b1 + (middle >> 32) + (carry >> 32)


@lanewise("mul.hi.s64")
def mul_hi_s64(a: Array, b: Array) -> Array:
    """The unsigned high half, less the other factor for each negative one."""
    high = mul_hi_u64(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


@opcode("{div,rem}.{s16,s32,s64,u16,u32,u64}", 3)
def divide(machine: Machine, instruction: Instruction) -> None:
    """Quotient truncated towards zero, or its remainder, where PTX defines them."""
    name, kind = instruction.opcode.split(".")
    destination, *operands = instruction.operands
    a, b = np.broadcast_arrays(*(machine.read(operand, FORMATS[kind]) for operand in operands))
    undefined = b == 0
    if kind[0] == "s":
        undefined |= (b == -1) & (a == np.iinfo(a.dtype).min)
    refused = machine.at_active(undefined)
    if refused.any():
        raise UndefinedResult("integer division by zero, or it overflows", at=int(np.argmax(refused)))
    # The other lanes do not execute this and may hold anything.
    b = np.where(undefined, np.ones(1, b.dtype), b)
    remainder = np.fmod(a, b)
    machine.write(destination, FORMATS[kind].encode(remainder if name == "rem" else (a - remainder) // b))


@lanewise(f"neg.{_SIGNED}")
def neg(a: Array) -> Array:
    """Two's complement."""
    return -a


@lanewise(f"abs.{_SIGNED}")
def absolute(a: Array) -> Array:
    """Magnitude; that of the most negative integer wraps to itself."""
    return np.abs(a)


@lanewise(f"min.{_INTEGERS}")
@lanewise(f"min.{_PACKED}")
def minimum(a: Array, b: Array) -> Array:
    """The smaller one."""
    return np.minimum(a, b)


@lanewise(f"max.{_INTEGERS}")
@lanewise(f"max.{_PACKED}")
def maximum(a: Array, b: Array) -> Array:
    """The larger one."""
    return np.maximum(a, b)


Comparison = Callable[[Array, Array], Array]

COMPARISONS: dict[str, Comparison] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_COMBINATIONS: dict[str, Comparison] = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def enter_comparison(name: str, types: str, compare: Comparison) -> None:
    """Enter the forms of `setp`: a comparison alone, or combined with a predicate as third source."""

    def combined(combine: Comparison) -> Callable[[Array, Array, Array], Array]:
        return lambda a, b, c: combine(compare(a, b), c)

    lanewise(f"setp.{name}.{types}", result="pred")(compare)
    for word, combine in _COMBINATIONS.items():
        enter = lanewise(f"setp.{name}.{word}.{types}", sources=(None, None, "pred"), result="pred")
        enter(combined(combine))


for _name, _compare in COMPARISONS.items():
    enter_comparison(_name, _INTEGERS, _compare)
for _name in ("eq", "ne"):
    enter_comparison(_name, "{b16,b32,b64}", COMPARISONS[_name])
for _name, _same in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")):
    enter_comparison(_name, _UNSIGNED, COMPARISONS[_same])
