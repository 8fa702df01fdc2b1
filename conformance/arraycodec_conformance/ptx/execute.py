"""Run a PTX kernel: look its instructions up once, then step batches of thread blocks through them."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Importing them enters their handlers into the opcode table.
from . import bits, convert, floating, integer, transfer, warp  # noqa: F401
from .errors import PtxError, UnsupportedInstruction
from .machine import WARP, Machine
from .memory import Memory
from .opcodes import Handler, look_up, opcode
from .parse import Guard, Instruction, Parameter, Program, Symbol, parse

LANES = 1 << 13
"""Threads stepped at once: enough to hide the interpreter, few enough for registers to stay in the cache."""

STEPS = 1_000_000
"""Instructions after which a batch of blocks is taken for an endless loop."""

Grid = int | tuple[int, ...]


@opcode("bra{,.uni}", 1)
def branch(machine: Machine, instruction: Instruction) -> int:
    """Go on at a label."""
    target = instruction.operands[0]
    if not isinstance(target, Symbol) or target.name not in machine.program.labels:
        raise UnsupportedInstruction(instruction.text)
    return machine.program.labels[target.name]


@opcode("{ret,exit}", 0)
def leave(machine: Machine, instruction: Instruction) -> int:
    """End the thread."""
    return len(machine.program.instructions)


@dataclass(frozen=True, slots=True)
class Execution:
    """What a run did: how many threads executed each opcode, predicated-off ones included."""

    opcodes: Counter[str]

    @property
    def instructions(self) -> int:
        """Thread instructions altogether."""
        return sum(self.opcodes.values())


class Kernel:
    """One kernel of a PTX text, checked: every instruction is known before the first is executed."""

    def __init__(self, ptx: str, shared_bytes: int = 0) -> None:
        self.program: Program = parse(ptx)
        self.shared_bytes = shared_bytes
        if self.program.threads % WARP or not 0 < self.program.threads <= 1024:
            raise UnsupportedInstruction(f"{self.program.threads} threads per block, whole warps are wanted")
        self._code: list[tuple[Instruction, Guard | None, Handler]] = [
            (item, item.guard, look_up(item).execute) for item in self.program.instructions
        ]

    def run(
        self,
        memory: Memory,
        grid: Grid,
        args: Sequence[int | float],
        programs: Iterable[Grid] | None = None,
        limit: int = STEPS,
    ) -> Execution:
        """Execute the programs of a grid, or only those listed in `programs`, one batch after another."""
        _check_subnormals()
        size = _triple(grid, 1)
        parameters = self._parameters(args)
        chosen = list(_all_programs(size) if programs is None else (_triple(item, 0) for item in programs))
        for block in chosen:
            if any(not 0 <= i < n for i, n in zip(block, size, strict=True)):
                raise ValueError(f"program {block} lies outside of grid {size}")
        counts = [0] * len(self._code)
        per_batch = max(1, LANES // self.program.threads)
        with np.errstate(all="ignore"):
            for i in range(0, len(chosen), per_batch):
                blocks = chosen[i : i + per_batch]
                machine = Machine(self.program, parameters, memory, self.shared_bytes, size, blocks)
                self._run_batch(machine, counts, limit)
        executed: Counter[str] = Counter()
        for (instruction, _, _), count in zip(self._code, counts, strict=True):
            executed[instruction.opcode] += count
        return Execution(+executed)

    def _run_batch(self, machine: Machine, counts: list[int], limit: int) -> None:
        steps = 0
        while (index := machine.next()) is not None:
            instruction, guard, execute = self._code[index]
            counts[index] += machine.threads_in_step()
            steps += 1
            if steps > limit:
                raise PtxError(f"{self.program.name}: no end after {limit} instructions")
            try:
                machine.advance(execute(machine, instruction) if machine.guard(guard) else None)
            except PtxError as error:
                who = "" if error.at is None else f", {machine.describe(error.at)}"
                raise type(error)(f"{error} [{instruction.text}{who}]", error.at) from None

    def _parameters(self, args: Sequence[int | float]) -> dict[str, int]:
        declared = self.program.parameters
        if len(args) != len(declared):
            raise TypeError(f"{self.program.name} takes {len(declared)} arguments, got {len(args)}")
        return {item.name: _parameter_bits(item, arg) for item, arg in zip(declared, args, strict=True)}


def _parameter_bits(parameter: Parameter, value: int | float) -> int:
    if parameter.kind == "f":
        if parameter.bits != 32:
            raise TypeError(f"{parameter.name}: float arguments have 32 bits")
        return int.from_bytes(struct.pack("<f", value), "little")
    if int(value) != value or not -(1 << parameter.bits - 1) <= value < 1 << parameter.bits:
        raise TypeError(f"{parameter.name}: an integer of {parameter.bits} bits is wanted, got {value!r}")
    return int(value) & (1 << parameter.bits) - 1


def _triple(grid: Grid, fill: int) -> tuple[int, int, int]:
    x, y, z = (*(grid if isinstance(grid, tuple) else (grid,)), fill, fill)[:3]
    return int(x), int(y), int(z)


def _all_programs(size: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    return ((x, y, z) for z in range(size[2]) for y in range(size[1]) for x in range(size[0]))


def _check_subnormals() -> None:
    """NumPy is the arithmetic unit here, and some other library may have made it flush subnormals."""
    smallest = np.array([1], np.uint32).view(np.float32)
    if (smallest * np.ones(1, np.float32)).view(np.uint32)[0] != 1:
        raise RuntimeError("this thread flushes subnormal floats to zero; PTX does not")
