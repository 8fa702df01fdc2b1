"""Moving data: registers, parameters, global and shared memory."""

from __future__ import annotations

import re

import numpy as np

from .errors import UnsupportedInstruction
from .formats import FORMATS, UNSIGNED, Array
from .machine import Machine
from .opcodes import opcode
from .parse import Address, Instruction, Operand, Symbol, Vector

_TYPES = "{b8,b16,b32,b64,u8,u16,u32,u64,s8,s16,s32,s64}"
_LOAD_HINTS = "{,.ca,.cg,.cs,.L1::evict_first,.L1::evict_last,.L1::no_allocate}"
_STORE_HINTS = "{,.wb,.cg,.cs,.wt,.L1::evict_first,.L1::evict_last,.L1::no_allocate}"
_VECTORS = "{,.v2,.v4,.v8}"


@opcode("mov.{b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,pred}", 2)
def move(machine: Machine, instruction: Instruction) -> None:
    """Copy a register, or split it into or join it from the elements of a vector, lowest first."""
    destination, source = instruction.operands
    bits = FORMATS[instruction.opcode.split(".")[1]].bits
    words, undefined = _joined(machine, source, bits)
    if not isinstance(destination, Vector):
        machine.write(destination, words, undefined=undefined)
        return
    part = bits // len(destination.items)
    for i, item in enumerate(destination.items):
        hole = None if undefined is None else (undefined >> part * i).astype(UNSIGNED[part])
        machine.write(item, (words >> part * i).astype(UNSIGNED[part]), undefined=hole)


def _joined(machine: Machine, source: Operand, bits: int) -> tuple[Array, Array | None]:
    """The words of a register or of a vector of registers, and their undefined bits."""
    if not isinstance(source, Vector):
        return machine.peek(source, bits), machine.undefined(source, bits)
    part = bits // len(source.items)
    words = undefined = np.zeros(1, UNSIGNED[bits])
    for i, item in enumerate(source.items):
        words = words | machine.peek(item, part).astype(UNSIGNED[bits]) << part * i
        hole = machine.undefined(item, part)
        if hole is not None:
            undefined = undefined | hole.astype(UNSIGNED[bits]) << part * i
    return words, undefined


@opcode("selp.{b16,u16,s16,b32,u32,s32,f32,b64,u64,s64}", 4)
def select(machine: Machine, instruction: Instruction) -> None:
    """One of two words, by a predicate; bits pass unchanged, also those of a NaN."""
    destination, a, b, predicate = instruction.operands
    bits = FORMATS[instruction.opcode.split(".")[1]].bits
    chosen = np.where(machine.words(predicate, 1), machine.words(a, bits), machine.words(b, bits))
    machine.write(destination, chosen)


@opcode(f"ld.param.{_TYPES}", 2)
def load_parameter(machine: Machine, instruction: Instruction) -> None:
    """Read a whole kernel parameter."""
    destination, source = instruction.operands
    bits = FORMATS[instruction.opcode.split(".")[2]].bits
    if not isinstance(source, Address) or not isinstance(source.base, Symbol) or source.offset:
        raise UnsupportedInstruction(instruction.text)
    value = machine.parameter(source.base.name, bits)
    machine.write(destination, np.array([value], UNSIGNED[bits]), extend=_extension(instruction))


def _extension(instruction: Instruction) -> str:
    """How a value narrower than its register fills it."""
    return "sign" if re.search(r"\.s\d+$", instruction.opcode) else "zero"


def _items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def _layout(instruction: Instruction, operand: Operand) -> tuple[int, tuple[Operand, ...]]:
    """Bytes per word, and the registers of a memory access; 32 bytes is the most there is."""
    items, size = _items(operand), FORMATS[instruction.opcode.rsplit(".", 1)[1]].bits // 8
    vector = re.search(r"\.v(\d)\.", instruction.opcode)
    if len(items) != (int(vector[1]) if vector else 1) or size * len(items) > 32:
        raise UnsupportedInstruction(instruction.text)
    return size, items


def _deliver(machine: Machine, instruction: Instruction, loaded: Array, items: tuple[Operand, ...]) -> None:
    """Write the columns of what was loaded for the active lanes."""
    for column, item in zip(loaded.T, items, strict=True):
        words = np.ascontiguousarray(column) if column.size == 1 else machine.from_active(column)
        machine.write(item, words, extend=_extension(instruction))


def _collect(machine: Machine, size: int, items: tuple[Operand, ...]) -> Array:
    """The rows that the active lanes store."""
    return np.stack([machine.at_active(machine.words(item, size * 8, narrow=True)) for item in items], axis=1)


@opcode(f"ld.global{_LOAD_HINTS}{_VECTORS}.{_TYPES}", 2)
@opcode(f"ld.global{_LOAD_HINTS}.L2::cache_hint{_VECTORS}.{_TYPES}", 3)
def load_global(machine: Machine, instruction: Instruction) -> None:
    """Load from global memory; hints to the caches do not change what is loaded."""
    size, items = _layout(instruction, instruction.operands[0])
    addresses = machine.addresses(instruction.operands[1])
    if addresses.size > 1:
        addresses = machine.at_active(addresses)
    _deliver(machine, instruction, machine.memory.load(addresses, size, len(items)), items)


@opcode(f"st.global{_STORE_HINTS}{_VECTORS}.{_TYPES}", 2)
@opcode(f"st.global{_STORE_HINTS}.L2::cache_hint{_VECTORS}.{_TYPES}", 3)
def store_global(machine: Machine, instruction: Instruction) -> None:
    """Store to global memory."""
    size, items = _layout(instruction, instruction.operands[1])
    addresses = machine.at_active(machine.addresses(instruction.operands[0]))
    machine.memory.store(addresses, _collect(machine, size, items))


@opcode(f"ld.shared{{,::cta}}{_VECTORS}.{_TYPES}", 2)
def load_shared(machine: Machine, instruction: Instruction) -> None:
    """Load from the block's shared memory."""
    size, items = _layout(instruction, instruction.operands[0])
    addresses = machine.at_active(machine.addresses(instruction.operands[1]))
    block, warp = machine.at_active(machine.block), machine.at_active(machine.warp)
    _deliver(machine, instruction, machine.shared.load(addresses, size, len(items), block, warp), items)


@opcode(f"st.shared{{,::cta}}{_VECTORS}.{_TYPES}", 2)
def store_shared(machine: Machine, instruction: Instruction) -> None:
    """Store to the block's shared memory."""
    size, items = _layout(instruction, instruction.operands[1])
    addresses = machine.at_active(machine.addresses(instruction.operands[0]))
    block, warp = machine.at_active(machine.block), machine.at_active(machine.warp)
    machine.shared.store(addresses, _collect(machine, size, items), block, warp)


@opcode("createpolicy.fractional.L2::{evict_first,evict_last,evict_unchanged,evict_normal}.b64", 2)
def create_policy(machine: Machine, instruction: Instruction) -> None:
    """A cache policy is a token that only hints take; its bits mean nothing here."""
    machine.write(instruction.operands[0], np.zeros(1, np.uint64))
