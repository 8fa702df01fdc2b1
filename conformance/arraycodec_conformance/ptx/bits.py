"""Operations on bit patterns: logic, shifts, fields, byte permutation.

Shift amounts and field positions beyond the width have defined results in PTX and undefined ones in NumPy,
hence the explicit selections.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import UnsupportedInstruction
from .formats import UNSIGNED, Array
from .machine import Machine
from .opcodes import lanewise, opcode
from .parse import Immediate, Instruction

_WORDS = "{b16,b32,b64}"

for _name, _operator in (("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)):
    lanewise(f"{_name}.{{b16,b32,b64,pred}}")(_operator)


@lanewise("not.{b16,b32,b64,pred}")
def invert(a: Array) -> Array:
    """Every bit the other way."""
    return ~a


@lanewise(f"shl.{_WORDS}", sources=(None, "u32"))
def shl(a: Array, amount: Array) -> Array:
    """Left shift; an amount beyond the width gives zero."""
    bits = a.itemsize * 8
    return np.where(amount < bits, a << np.minimum(amount, bits - 1).astype(a.dtype), np.zeros(1, a.dtype))


@lanewise("shr.{b16,b32,b64,u16,u32,u64}", sources=(None, "u32"))
def shr(a: Array, amount: Array) -> Array:
    """Logical right shift; an amount beyond the width gives zero."""
    bits = a.itemsize * 8
    return np.where(amount < bits, a >> np.minimum(amount, bits - 1).astype(a.dtype), np.zeros(1, a.dtype))


@lanewise("shr.{s16,s32,s64}", sources=(None, "u32"))
def shr_signed(a: Array, amount: Array) -> Array:
    """Arithmetic right shift; an amount beyond the width leaves copies of the sign."""
    return a >> np.minimum(amount, a.itemsize * 8 - 1).astype(a.dtype)


@opcode("shf.{l,r}.{wrap,clamp}.b32", 4)
def funnel_shift(machine: Machine, instruction: Instruction) -> None:
    """Shift the 64 bits of b:a and keep the high word (left) or the low word (right)."""
    _, direction, mode, _ = instruction.opcode.split(".")
    destination, *operands = instruction.operands
    a, b, amount = (machine.words(operand, 32).astype(np.uint64) for operand in operands)
    amount = amount & 31 if mode == "wrap" else np.minimum(amount, 32)
    both = b << 32 | a
    result = both << amount >> 32 if direction == "l" else both >> amount
    machine.write(destination, result.astype(np.uint32))


@lanewise("popc.{b32,b64}", result="u32")
def popc(a: Array) -> Array:
    """Number of set bits."""
    return np.bitwise_count(a).astype(np.uint32)


@lanewise("clz.b32", result="u32")
def clz(a: Array) -> Array:
    """Number of leading zeros; float64 holds every 32-bit integer, so its exponent is exact."""
    return (32 - np.frexp(a.astype(np.float64))[1]).astype(np.uint32)


def low_mask(count: Array, dtype: np.dtype[Any]) -> Array:
    """Words whose lowest `count` bits are set, for counts from zero to the width."""
    bits = dtype.itemsize * 8
    ones = np.array([np.iinfo(dtype).max], dtype)
    return np.where(count > 0, ones >> np.clip(bits - count, 0, bits - 1).astype(dtype), np.zeros(1, dtype))


def _field(position: Array, length: Array, bits: int) -> tuple[Array, Array]:
    """Position and width of the part of a bit field that lies in the word; operands count modulo 256."""
    position, length = (position & 255).astype(np.int64), (length & 255).astype(np.int64)
    return position, np.clip(bits - position, 0, length)


@lanewise("bfe.{u32,u64}", sources=(None, "u32", "u32"))
def bfe(a: Array, position: Array, length: Array) -> Array:
    """Extract a bit field, filled up with zeros."""
    start, width = _field(position, length, a.itemsize * 8)
    return shr(a, start) & low_mask(width, a.dtype)


@lanewise("bfe.{s32,s64}", sources=(None, "u32", "u32"))
def bfe_signed(a: Array, position: Array, length: Array) -> Array:
    """Extract a bit field, filled up with its highest bit, or the word's where the field leaves the word."""
    word = UNSIGNED[a.itemsize * 8]
    start, width = _field(position, length, a.itemsize * 8)
    top = np.clip(start + (length & 255) - 1, 0, a.itemsize * 8 - 1)
    sign = (shr(a.view(word), top) & 1).astype(bool) & ((length & 255) > 0)
    kept = low_mask(width, word)
    return (shr(a.view(word), start) & kept | np.where(sign, ~kept, np.zeros(1, word))).view(a.dtype)


@lanewise("bfi.{b32,b64}", sources=(None, None, "u32", "u32"))
def bfi(a: Array, b: Array, position: Array, length: Array) -> Array:
    """Replace a bit field of b by the low bits of a."""
    start, width = _field(position, length, a.itemsize * 8)
    field = shl(low_mask(width, a.dtype), start)
    return b & ~field | shl(a, start) & field


@opcode("prmt.b32", 4)
def prmt(machine: Machine, instruction: Instruction) -> None:
    """Pick four of the eight bytes of b:a; bit 3 of a selector replicates the sign of the byte instead.

    LLVM has an unset register for b where it picks bytes of a only.
    """
    destination, *pair, selector = instruction.operands
    choices = machine.words(selector, 32)
    a, b = (machine.peek(operand, 32) for operand in pair)
    holes = [machine.undefined(operand, 32) for operand in pair]
    undefined = None
    if any(hole is not None for hole in holes):
        none = np.zeros(1, np.uint32)
        low, high = (none if hole is None else hole for hole in holes)
        undefined = permuted(low, high, choices, holes=True)
    machine.write(destination, permuted(a, b, choices), undefined=undefined)


def permuted(a: Array, b: Array, choices: Array, holes: bool = False) -> Array:
    """The bytes of b:a that the choices name; of `holes`, a byte with any is all hole where its sign is replicated."""
    both = b.astype(np.uint64) << 32 | a
    result = np.zeros(1, np.uint32)
    for i in range(4):
        choice = choices >> 4 * i
        byte = (both >> ((choice & 7) * 8).astype(np.uint64)).astype(np.uint32) & np.uint32(0xFF)
        sign = (byte != 0 if holes else byte >> 7) * np.uint32(0xFF)
        result = result | np.where(choice & 8, sign, byte) << 8 * i
    return result


@opcode("lop3.b32", 5)
def lop3(machine: Machine, instruction: Instruction) -> None:
    """Any function of three bits; bit 4a+2b+c of the table is its value."""
    destination, *operands, table = instruction.operands
    if not isinstance(table, Immediate):
        raise UnsupportedInstruction(instruction.text)
    truth = int(machine.words(table, 16)[0])
    a, b, c = (machine.words(operand, 32) for operand in operands)
    result = np.zeros(1, np.uint32)
    for i in range(8):
        if truth >> i & 1:
            result = result | (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    machine.write(destination, result)
