"""What the threads of a warp, or a block, do together: barriers, exchanges, reductions, matrix accesses.

All threads must arrive. A warp-wide instruction reached by a part of its warp is refused, not executed for
that part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import floating
from .errors import UnsupportedInstruction
from .formats import FORMATS, Array
from .machine import WARP, Machine
from .opcodes import opcode
from .parse import Immediate, Instruction, Operand, Pair, Vector


@opcode("bar.sync", 1)
def barrier(machine: Machine, instruction: Instruction) -> None:
    """Meet all threads of the block."""
    number = instruction.operands[0]
    if not isinstance(number, Immediate) or number.text != "0":
        raise UnsupportedInstruction(f"named barrier: {instruction.text}")
    machine.shared.barrier(machine.whole(machine.threads))


def _require_whole_warps(machine: Machine, instruction: Instruction, mask: Operand) -> None:
    machine.whole(WARP)
    if (machine.at_active(machine.words(mask, 32)) != 0xFFFFFFFF).any():
        raise UnsupportedInstruction(f"a mask other than the whole warp: {instruction.text}")


@opcode("bar.warp.sync", 1)
def warp_barrier(machine: Machine, instruction: Instruction) -> None:
    """Meet all threads of the warp; lockstep has met them already."""
    _require_whole_warps(machine, instruction, instruction.operands[0])


def _by_warp(machine: Machine, words: Array) -> Array:
    return machine.spread(words).reshape(-1, WARP)


@opcode("shfl.sync.{up,down,bfly,idx}.b32", 5)
def shuffle(machine: Machine, instruction: Instruction) -> None:
    """Read a register of another lane, within the segment that the fourth operand describes."""
    mode = instruction.opcode.split(".")[2]
    destination, source, *control, mask = instruction.operands
    _require_whole_warps(machine, instruction, mask)
    values = _by_warp(machine, machine.words(source, 32))
    distance, bounds = (_by_warp(machine, machine.words(operand, 32)).astype(np.int64) for operand in control)
    distance, clamp, segment = distance & 31, bounds & 31, bounds >> 8 & 31
    lane = np.arange(WARP)
    first = lane & segment
    last = first | clamp & ~segment
    if mode == "up":
        origin = lane - distance
        inside = origin >= last
    else:
        origin = {"down": lane + distance, "bfly": lane ^ distance, "idx": first | distance & ~segment}[mode]
        inside = origin <= last
    result = np.take_along_axis(values, np.where(inside, origin, lane), axis=1).reshape(-1)
    if isinstance(destination, Pair):
        machine.write(destination.first, result)
        machine.write(destination.second, inside.reshape(-1))
    else:
        machine.write(destination, result)


_INTEGER_REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_FLOAT_REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "min": floating.minimum,
    "max": floating.maximum,
    "min.NaN": floating.minimum_nan,
    "max.NaN": floating.maximum_nan,
}


@opcode("redux.sync.{add,min,max}.{u32,s32}", 3)
@opcode("redux.sync.{and,or,xor}.b32", 3)
@opcode("redux.sync.{min,max}{,.NaN}.f32", 3)
def reduce(machine: Machine, instruction: Instruction) -> None:
    """Combine one word of every lane and give the result to all of them; the order cannot matter."""
    _, _, name, kind_name = instruction.opcode.replace(".NaN", "-NaN").split(".")
    destination, source, mask = instruction.operands
    _require_whole_warps(machine, instruction, mask)
    combine = (_FLOAT_REDUCTIONS if kind_name == "f32" else _INTEGER_REDUCTIONS)[name.replace("-", ".")]
    kind = FORMATS[kind_name]
    values = kind.decode(_by_warp(machine, machine.words(source, 32)))
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = combine(values[:, :half], values[:, half:])
    words = kind.encode(np.ascontiguousarray(values))
    machine.write(destination, np.repeat(words.reshape(-1), WARP))


def _matrix_rows(machine: Machine, operand: Operand, matrices: int) -> tuple[Array, Array]:
    """Addresses of 16-byte rows, from the first 8, 16 or 32 lanes of each active warp, and those warps."""
    warps = machine.whole(WARP)
    addresses = _by_warp(machine, machine.addresses(operand))[warps, : 8 * matrices]
    return addresses, warps


def _matrix_registers(instruction: Instruction, operand: Operand) -> tuple[Operand, ...]:
    count = int(instruction.opcode.split(".")[4][1:])
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise UnsupportedInstruction(instruction.text)
    return items


def _transposed(instruction: Instruction, fragments: Array) -> Array:
    """Words (..., 8 rows, 4 words of two elements), transposed as 8 x 8 elements if the opcode says so."""
    if "trans" not in instruction.opcode.split("."):
        return fragments
    elements = np.ascontiguousarray(fragments).view(np.uint16)
    return np.ascontiguousarray(elements.swapaxes(-1, -2)).view(np.uint32)


@opcode("ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared{,::cta}.b16", 2)
def load_matrices(machine: Machine, instruction: Instruction) -> None:
    """Load 8 x 8 matrices of 16-bit elements; lane i receives word i % 4 of row i // 4 of each."""
    items = _matrix_registers(instruction, instruction.operands[0])
    rows, warps = _matrix_rows(machine, instruction.operands[1], len(items))
    lanes = warps[:, None] * WARP + np.arange(rows.shape[1])
    block, warp = machine.block[lanes].reshape(-1), machine.warp[lanes].reshape(-1)
    loaded = machine.shared.load(rows.reshape(-1), 4, 4, block, warp).reshape(len(warps), len(items), 8, 4)
    fragments = _transposed(instruction, loaded).reshape(len(warps), len(items), WARP)
    for i, item in enumerate(items):
        machine.write(item, machine.from_active(fragments[:, i].reshape(-1)))


@opcode("stmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared{,::cta}.b16", 2)
def store_matrices(machine: Machine, instruction: Instruction) -> None:
    """The inverse of `load_matrices`."""
    items = _matrix_registers(instruction, instruction.operands[1])
    rows, warps = _matrix_rows(machine, instruction.operands[0], len(items))
    fragments = np.stack([_by_warp(machine, machine.words(item, 32))[warps] for item in items], axis=1)
    values = _transposed(instruction, fragments.reshape(len(warps), len(items), 8, 4))
    lanes = warps[:, None] * WARP + np.arange(rows.shape[1])
    block, warp = machine.block[lanes].reshape(-1), machine.warp[lanes].reshape(-1)
    machine.shared.store(rows.reshape(-1), values.reshape(-1, 4), block, warp)
