"""The state of the threads of some blocks in lockstep: one NumPy lane per thread.

A register is one array over the lanes, or an array of one element when the value is the same in all of them.
Arrays are never changed in place, so they may be shared. Lanes that diverge have program counters of their
own, and those with the smallest run first, which brings them together again behind every forward branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import shared
from .errors import Divergence, MemoryFault, UnsupportedInstruction
from .formats import SIGNED, UNSIGNED, Array, Format
from .memory import Memory
from .parse import Address, Guard, Immediate, Negated, Operand, Program, Register, Sink, Special, Symbol

WARP = 32


class Machine:
    """Registers, memories and program counters of a batch of thread blocks."""

    def __init__(
        self,
        program: Program,
        parameters: dict[str, int],
        memory: Memory,
        shared_bytes: int,
        grid: tuple[int, int, int],
        blocks: Sequence[tuple[int, int, int]],
    ) -> None:
        self.program, self.parameters, self.memory = program, parameters, memory
        self.threads, self.lanes = program.threads, program.threads * len(blocks)
        self.blocks = blocks
        lane = np.arange(self.lanes)
        self.block = lane // self.threads
        thread = lane % self.threads
        self.warp = thread // WARP
        self.variables: dict[str, int] = {}
        self.shared = shared.SharedMemory(len(blocks), self._place_shared_variables(shared_bytes))
        self._special = {"%tid.x": thread, "%laneid": lane % WARP, "%warpid": self.warp}
        for i, axis in enumerate("xyz"):
            self._special[f"%ctaid.{axis}"] = np.array([block[i] for block in blocks])[self.block]
            self._special[f"%nctaid.{axis}"] = np.array([grid[i]])
            self._special[f"%ntid.{axis}"] = np.array([self.threads if axis == "x" else 1])
        self._special |= {"%tid.y": np.array([0]), "%tid.z": np.array([0])}
        self._special = {name: words.astype(np.uint32) for name, words in self._special.items()}
        self._words: dict[str, Array] = {}
        self._undefined: dict[str, Array] = {}  # bits not set yet, of registers that have some
        self._counter: int | Array = 0
        self._current: Array | None = None
        self.active: Array | None = None  # lanes that execute the instruction at hand; None is all of them

    def _place_shared_variables(self, shared_bytes: int) -> int:
        """Addresses for the shared variables: the dynamic one last, with `shared_bytes` bytes."""
        end = 0
        for name, size in sorted(self.program.shared.items(), key=lambda item: item[1] is None):
            begin = -(-end // 128) * 128
            self.variables[name] = shared.BASE + begin
            end = begin + (shared_bytes if size is None else size)
        return end

    # Program counters

    def next(self) -> int | None:
        """The instruction to execute next, with the lanes that execute it; None at the end."""
        end = len(self.program.instructions)
        if isinstance(self._counter, int):
            self._current = None
            return self._counter if self._counter < end else None
        counter = int(self._counter.min())
        current = self._counter == counter
        if current.all():
            self._counter = counter
            return self.next()
        self._current = current
        return counter

    def guard(self, guard: Guard | None) -> bool:
        """Set the active lanes; False if there is none."""
        self.active = self._current
        if guard is None:
            return True
        predicate = self.words(guard.register, 1)
        if guard.negated:
            predicate = ~predicate
        if predicate.size == 1:
            return bool(predicate[0])
        active = predicate if self._current is None else predicate & self._current
        self.active = None if active.all() else active
        return bool(active.any())

    def advance(self, target: int | None) -> None:
        """Move the lanes of `next` on, and the active ones to `target` if there is one."""
        if isinstance(self._counter, int):
            if target is None or self.active is None:
                self._counter = self._counter + 1 if target is None else target
                return
            self._counter = np.full(self.lanes, self._counter + 1)
        else:
            self._counter[self._current] += 1
        if target is not None:
            self._counter[self.active] = target

    def threads_in_step(self) -> int:
        """How many threads the instruction at hand is issued for."""
        return self.lanes if self._current is None else int(np.count_nonzero(self._current))

    # Registers

    def words(self, operand: Operand, bits: int, narrow: bool = False) -> Array:
        """The bit patterns of a source operand; with `narrow` the low bits of a wider register."""
        undefined = self.undefined(operand, bits)
        if undefined is not None:
            at = int(np.argmax(self.at_active(undefined) != 0))
            raise MemoryFault(f"register {operand} is read before it is set", at=at)
        return self.peek(operand, bits, narrow)

    def undefined(self, operand: Operand, bits: int) -> Array | None:
        """Which bits of a register nobody has set; None if there is no such bit in an active lane.

        LLVM joins an unset register to a set one where half of a pair is not used, so unset bits may be moved
        and may go through lanes of packed arithmetic; every other use is a fault.
        """
        register = operand.register if isinstance(operand, Negated) else operand
        if not isinstance(register, Register):
            return None
        if register.name not in self._words:
            return all_ones(UNSIGNED[bits])
        undefined = self._undefined.get(register.name)
        if undefined is None:
            return None
        undefined = undefined.astype(UNSIGNED[bits])
        return undefined if self.at_active(undefined).any() else None

    def peek(self, operand: Operand, bits: int, narrow: bool = False) -> Array:
        """`words` for a caller that minds the undefined bits itself."""
        if isinstance(operand, Register):
            words = self._words.get(operand.name)
            if words is None:
                words = np.zeros(1, UNSIGNED[operand.bits])
            if operand.bits == bits:
                return words
            if narrow and operand.bits > bits:
                return words.astype(UNSIGNED[bits])
            raise UnsupportedInstruction(f"{operand} has {operand.bits} bits where {bits} are wanted")
        if isinstance(operand, Immediate):
            return _constant(operand.text, bits)
        if isinstance(operand, Special) and operand.name in self._special and bits == 32:
            return self._special[operand.name]
        if isinstance(operand, Symbol) and operand.name in self.variables and bits >= 32:
            return np.array([self.variables[operand.name]], UNSIGNED[bits])
        if isinstance(operand, Negated) and bits == 1:
            return ~self.peek(operand.register, 1)
        raise UnsupportedInstruction(f"operand {operand} as {bits} bits")

    def read(self, operand: Operand, kind: Format) -> Array:
        """The values of a source operand."""
        return kind.decode(self.words(operand, kind.bits))

    def write(
        self,
        operand: Operand,
        words: Array,
        extend: str | None = None,
        undefined: Array | None = None,
    ) -> None:
        """Set a destination in the active lanes, but for its `undefined` bits.

        `extend` (zero or sign) allows a register wider than the words.
        """
        if isinstance(operand, Sink):
            return
        if not isinstance(operand, Register):
            raise UnsupportedInstruction(f"destination {operand}")
        words = _fit(words, operand, extend)
        if self.active is not None:
            nothing = np.zeros(1, words.dtype)
            earlier = self._words.get(operand.name)
            if earlier is None:
                earlier, unset = nothing, all_ones(words.dtype)
            else:
                unset = self._undefined.get(operand.name, nothing)
            words = np.where(self.active, words, earlier)
            undefined = np.where(self.active, nothing if undefined is None else undefined, unset)
        self._words[operand.name] = words
        if undefined is not None and undefined.any():
            self._undefined[operand.name] = undefined
        else:
            self._undefined.pop(operand.name, None)

    def parameter(self, name: str, bits: int) -> int:
        """The bits of a kernel parameter of that width."""
        declared = next((item.bits for item in self.program.parameters if item.name == name), None)
        if declared != bits:
            raise UnsupportedInstruction(f"parameter {name} has {declared} bits where {bits} are wanted")
        return self.parameters[name]

    # Lanes

    def spread(self, words: Array) -> Array:
        """One word per lane."""
        return np.broadcast_to(words, (self.lanes,)) if words.size == 1 else words

    def at_active(self, words: Array) -> Array:
        """The words of the active lanes only."""
        words = self.spread(words)
        return words if self.active is None else words[self.active]

    def from_active(self, words: Array) -> Array:
        """The inverse of `at_active`; inactive lanes hold zeros that `write` leaves alone."""
        if self.active is None:
            return np.ascontiguousarray(words)
        full = np.zeros(self.lanes, words.dtype)
        full[self.active] = words
        return full

    def addresses(self, operand: Operand) -> Array:
        """The addresses an `[base + offset]` operand stands for, in signed 64-bit arithmetic."""
        if not isinstance(operand, Address) or not isinstance(operand.base, Register | Symbol):
            raise UnsupportedInstruction(f"address {operand}")
        bits = operand.base.bits if isinstance(operand.base, Register) else 64
        if bits < 32:
            raise UnsupportedInstruction(f"address {operand}")
        return self.words(operand.base, bits).astype(np.int64) + operand.offset

    def whole(self, size: int) -> Array:
        """Indices of the active groups of `size` lanes, which must be active as a whole."""
        if self.active is None:
            return np.arange(self.lanes // size)
        active = self.active.reshape(-1, size)
        groups = active.any(axis=1)
        if not active[groups].all():
            what = "block" if size == self.threads else "warp"
            raise Divergence(f"reached by some threads of a {what} only", at=0)
        return np.flatnonzero(groups)

    def describe(self, at: int) -> str:
        """Program and thread of an active lane, for messages."""
        lane = at if self.active is None else int(np.flatnonzero(self.active)[at])
        x, y, z = self.blocks[int(self.block[lane])]
        return f"program {(x, y, z) if y or z else x}, thread {lane % self.threads}"


def all_ones(dtype: np.dtype[Any]) -> Array:
    """One word with every bit set."""
    return ~np.zeros(1, dtype)


def _fit(words: Array, register: Register, extend: str | None) -> Array:
    """Words in the width of the register they go to."""
    bits = 1 if words.dtype == np.bool_ else words.itemsize * 8
    if bits == register.bits:
        return words
    if extend is None or bits > register.bits:
        raise UnsupportedInstruction(f"{register} has {register.bits} bits, the result has {bits}")
    if extend == "sign":
        return words.view(SIGNED[bits]).astype(SIGNED[register.bits]).view(UNSIGNED[register.bits])
    return words.astype(UNSIGNED[register.bits])


@lru_cache(maxsize=4096)
def _constant(text: str, bits: int) -> Array:
    """A literal as one word of `bits` bits."""
    if text[:2] in ("0f", "0F"):
        value = int(text[2:], 16)
        if bits != 32 or len(text) != 10:
            raise UnsupportedInstruction(f"{text} as a literal of {bits} bits")
    else:
        try:
            value = int(text.rstrip("U"), 0)
        except ValueError:
            raise UnsupportedInstruction(f"literal {text}") from None
    if bits == 1:
        words = np.array([value != 0])
    elif -(1 << (bits - 1)) <= value < 1 << bits:
        words = np.array([value & ((1 << bits) - 1)], UNSIGNED[bits])
    else:
        raise UnsupportedInstruction(f"{text} as a literal of {bits} bits")
    words.flags.writeable = False
    return words
