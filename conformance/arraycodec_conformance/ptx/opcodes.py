"""The table from complete opcodes, modifiers and types included, to the functions that execute them.

An opcode is supported if it stands in the table, letter by letter: no modifier can be overlooked. Handlers
enter themselves with a pattern, in which `{a,b}` stands for each of its alternatives: `shl.{b16,b32,b64}`.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import InexactInstruction, PtxError, UnsupportedInstruction
from .formats import FORMATS, UNSIGNED, Array, Format
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

Handler = Callable[["Machine", Instruction], "int | None"]
"""Executes an instruction for the active lanes; returns where they jump to, or None to go on."""


@dataclass(frozen=True, slots=True)
class Opcode:
    """A supported opcode: its handler and how many operands it takes."""

    execute: Handler
    operands: tuple[int, ...]


TABLE: dict[str, Opcode] = {}
_PATTERNS: list[str] = []


def expand(pattern: str) -> Iterator[str]:
    """All opcodes a pattern stands for."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    yield from map(
        "".join,
        itertools.product(*([part] if i % 2 == 0 else part.split(",") for i, part in enumerate(parts))),
    )


def opcode(pattern: str, *operands: int) -> Callable[[Handler], Handler]:
    """Enter a handler that reads and writes its operands itself, and takes so many of them."""

    def enter(handler: Handler) -> Handler:
        _PATTERNS.append(pattern)
        for name in expand(pattern):
            _enter(name, Opcode(handler, operands))
        return handler

    return enter


def lanewise(
    pattern: str, sources: tuple[str | None, ...] = (), result: str | None = None
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Enter a function of arrays of values: an instruction has a destination and one operand per argument.

    Values have the format of the opcode's last type, except where `sources` or `result` name another one. An
    argument with a default may be missing in the instruction.
    """

    def enter(function: Callable[..., Array]) -> Callable[..., Array]:
        arguments = inspect.signature(function).parameters.values()
        arity = len(arguments)
        _PATTERNS.append(pattern)
        required = sum(argument.default is argument.empty for argument in arguments)
        for name in expand(pattern):
            own = FORMATS[name.rsplit(".", 1)[1]]
            given = [FORMATS[source] if source else own for source in sources]
            formats = (*given, *[own] * (arity - len(given)))
            handler = _lanewise_handler(function, formats, FORMATS[result] if result else own)
            _enter(name, Opcode(handler, tuple(range(1 + required, 2 + arity))))
        return function

    return enter


def _lanewise_handler(function: Callable[..., Array], sources: tuple[Format, ...], result: Format) -> Handler:
    def handler(machine: Machine, instruction: Instruction) -> None:
        destination, *operands = instruction.operands
        values = [machine.read(operand, kind) for operand, kind in zip(operands, sources, strict=False)]
        machine.write(destination, result.encode(function(*values)))

    def packed(machine: Machine, instruction: Instruction) -> None:
        destination, *operands = instruction.operands
        values = [result.decode(machine.peek(operand, result.bits)) for operand in operands]
        holes = [machine.undefined(operand, result.bits) for operand in operands]
        undefined = _spoiled_elements([hole for hole in holes if hole is not None], result)
        machine.write(destination, result.encode(function(*values)), undefined=undefined)

    return packed if result.elements > 1 and all(kind is result for kind in sources) else handler


def _spoiled_elements(holes: list[Array], kind: Format) -> Array | None:
    """The undefined bits of a packed result: whole elements, those undefined in any operand."""
    if not holes:
        return None
    element = UNSIGNED[kind.bits // kind.elements]
    spoiled = [hole.view(element).reshape(-1, kind.elements) != 0 for hole in np.broadcast_arrays(*holes)]
    undefined = np.where(np.logical_or.reduce(spoiled), ~element.type(0), element.type(0))
    return undefined.view(UNSIGNED[kind.bits]).reshape(-1)


def _enter(name: str, entry: Opcode) -> None:
    if name in TABLE:
        raise ValueError(f"opcode {name} is defined twice")
    TABLE[name] = entry


def look_up(instruction: Instruction) -> Opcode:
    """The table's entry of an instruction, or the reason why there is none."""
    entry = TABLE.get(instruction.opcode)
    if entry is None:
        raise _refusal(instruction)
    if len(instruction.operands) not in entry.operands:
        raise UnsupportedInstruction(f"{len(instruction.operands)} operands: {instruction.text}")
    return entry


_TRANSCENDENTAL = {"ex2", "lg2", "sin", "cos", "tanh", "rsqrt"}
_CONTRACTIBLE = {"add", "sub", "mul"}


def _refusal(instruction: Instruction) -> PtxError:
    name, *modifiers = instruction.opcode.split(".")
    if name in _TRANSCENDENTAL or {"approx", "full"} & set(modifiers):
        return InexactInstruction(f"approximate: {instruction.text}")
    if "ftz" in modifiers:
        return InexactInstruction(f"flushes subnormals to zero: {instruction.text}")
    if name in _CONTRACTIBLE and len(modifiers) == 1 and re.fullmatch(r"b?f(16|32|64)(x2)?", modifiers[0]):
        return InexactInstruction(f"ptxas may contract it, it has no .rn: {instruction.text}")
    return UnsupportedInstruction(instruction.text)


def supported_opcodes() -> list[str]:
    """The patterns of every opcode in the table, sorted; `expand` lists the opcodes of one."""
    return sorted(_PATTERNS)
