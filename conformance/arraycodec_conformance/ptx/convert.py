"""`cvt`: between integers, between floats, and from one to the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import FORMATS, SIGNED, UNSIGNED, Array
from .machine import Machine
from .opcodes import lanewise, opcode
from .parse import Instruction

_ROUND: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


@opcode("cvt.{s8,s16,s32,s64,u8,u16,u32,u64}.{s8,s16,s32,s64,u8,u16,u32,u64}", 2)
def between_integers(machine: Machine, instruction: Instruction) -> None:
    """Extend by the sign of the source type, or chop; registers may be wider than either type."""
    _, to, source_type = instruction.opcode.split(".")
    destination, source = instruction.operands
    kind = FORMATS[source_type]
    values = kind.decode(machine.words(source, kind.bits, narrow=True))
    target = FORMATS[to]
    words = values.astype(SIGNED[target.bits] if kind.name[0] == "s" else UNSIGNED[target.bits])
    machine.write(destination, words.view(UNSIGNED[target.bits]), extend="sign" if to[0] == "s" else "zero")


@opcode("cvt.rn.f32.{s8,s16,s32,s64,u8,u16,u32,u64}", 2)
@opcode("cvt.rn.{f16,bf16}.{s8,s16,s32,u8,u16,u32}", 2)
def integer_to_float(machine: Machine, instruction: Instruction) -> None:
    """Nearest float: 32-bit integers are exact in float64, and NumPy rounds 64 bits to float32 once."""
    _, _, to, source_type = instruction.opcode.split(".")
    destination, source = instruction.operands
    kind = FORMATS[source_type]
    values = kind.decode(machine.words(source, kind.bits, narrow=True))
    exact = values.astype(np.float32 if kind.bits == 64 else np.float64)
    machine.write(destination, FORMATS[to].encode(exact))


@opcode("cvt.{rni,rzi,rmi,rpi}.{s16,s32,s64,u16,u32,u64}.{f32,f16,bf16}", 2)
def float_to_integer(machine: Machine, instruction: Instruction) -> None:
    """Round and saturate; NaN gives 0, or in 64 bits the word with only its top bit set."""
    _, rounding, to, source_type = instruction.opcode.split(".")
    destination, source = instruction.operands
    values = _ROUND[rounding](machine.read(source, FORMATS[source_type]).astype(np.float64))
    bits = int(to[1:])
    integer = SIGNED[bits] if to[0] == "s" else UNSIGNED[bits]
    low, high = np.iinfo(integer).min, np.iinfo(integer).max
    # 2^63 and 2^64 are floats, the largest integers are not: compare with the first value beyond.
    above, below = values >= float(high + 1), values < float(low)
    inside = np.where(above | below | np.isnan(values), 0.0, values).astype(integer)
    result = np.where(above, np.array(high, integer), np.where(below, np.array(low, integer), inside))
    if bits == 64:
        result = np.where(np.isnan(values), np.array([1 << 63], np.uint64).view(integer), result)
    machine.write(destination, result.view(UNSIGNED[bits]))


def _value(a: Array) -> Array:
    return a


for _to, _source, _rounding in (
    ("f32", "f16", ""),
    ("f32", "bf16", ""),
    ("f16", "f32", ".rn"),
    ("bf16", "f32", ".rn"),
    ("f16", "bf16", ".rn"),
    ("bf16", "f16", ".rn"),
):
    lanewise(f"cvt{_rounding}.{_to}.{_source}", result=_to)(_value)


def _to_integral(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda a: function(a)


for _name, _function in _ROUND.items():
    lanewise(f"cvt.{_name}.f32.f32")(_to_integral(_function))


def _pair(high: Array, low: Array) -> Array:
    return np.stack(np.broadcast_arrays(low, high), axis=-1)


for _to in ("f16", "bf16"):
    lanewise(f"cvt.rn.{_to}x2.f32", result=f"{_to}x2")(_pair)
