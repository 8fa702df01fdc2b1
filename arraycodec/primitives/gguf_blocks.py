"""The block types of ggml as data: where in the bytes of a block its numbers lie, and what an element is made of.

    element = step * value - minimum
    value   = a code, less `zero`; or an entry of a table of 16 values
    step    = d * scale of the sub-block, or a scale byte alone, from a table
    minimum = m * minimum of the sub-block; 0 where there is none

Every product here is exact in float32 (24 bits hold them all), so one rounding is left, that of the subtraction, and
hardware or compilers that fuse the two change nothing. docs/format/gguf.md has the same in words.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

TRITS = 0  # in place of a width: digits of base 3


class Field(NamedTuple):
    """`size` numbers of a few bits in the bytes of a block, from byte `at` on.

    `run` bytes hold the lowest digits of the first `run` numbers, then, `step` bits higher and `stride` bytes further,
    those of the next `run` numbers, and so on for `turns` turns; then come the next `run` bytes. With TRITS, digit t of
    a byte b is `((b * 3^t) mod 256) * 3 / 256`, rounded down.
    """

    at: int
    bits: int
    run: int
    size: int
    turns: int
    step: int
    first: int = 0  # the lowest bit in the first turn
    stride: int = 0

    @property
    def chunks(self) -> int:
        """How many times the turns begin again."""
        return self.size // (self.run * self.turns)

    @property
    def mask(self) -> int:
        """The largest number."""
        return (1 << self.bits) - 1 if self.bits else 2


class Integers(NamedTuple):
    """Integers of a block: the numbers of the `low` fields one after another, with higher bits in `high`, less `zero`.

    The bits of `flip` are inverted before `zero` is subtracted: both are 128 for two's complement of 8 bits. Where
    there is no field at all, the integer is `-zero` for all.
    """

    low: tuple[Field, ...] = ()
    high: Field | None = None
    zero: int = 0
    flip: int = 0

    @property
    def size(self) -> int:
        """How many there are; 1 where there is no field."""
        return sum(field.size for field in self.low) or 1


class BlockType(NamedTuple):
    """One type: its number in files, the elements and bytes of a block, and where its parts are.

    values  the table of values that codes stand for; None: the integers themselves
    d, m    the bytes at which the float16 factors of steps and minima begin; None: 1, and no minima
    scales  the integers that steps are d times, one per sub-block
    minima  the integers that minima are m times
    steps   the table from which scale bytes are looked up, instead of d times integers: "e8m0" or "ue4m3"
    """

    number: int
    elements: int
    nbytes: int
    codes: Integers
    d: int | None = 0
    m: int | None = None
    scales: Integers = Integers(zero=-1)
    minima: Integers = Integers(zero=-1)
    values: tuple[int, ...] | None = None
    steps: str | None = None

    @property
    def sub(self) -> int:
        """The elements of a sub-block."""
        return self.elements // self.scales.size


def _field(at: int, bits: int, run: int, size: int) -> Field:
    """A field that uses all bits of its bytes."""
    return Field(at, bits, run, size, 8 // bits, bits)


def _trits(at: int, run: int, size: int) -> Field:
    return Field(at, TRITS, run, size, min(5, size // run), 1)


E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the values of float4_e2m1fn, without -0
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# The scales and minima of Q4_K and Q5_K: 6 bits each, in the 12 bytes from byte 4 on.
K_SCALES = Integers((Field(4, 4, 4, 8, 2, 0, stride=8),), Field(4, 2, 4, 8, 2, 2, first=4))
K_MINIMA = Integers((Field(8, 4, 4, 8, 2, 4, stride=4),), Field(8, 2, 4, 8, 2, 2, first=4))
Q2_SCALES, Q2_MINIMA = (Integers((Field(0, 4, 16, 16, 1, 0, first=first),)) for first in (0, 4))

TYPES = {
    "Q4_0": BlockType(2, 32, 18, Integers((_field(2, 4, 16, 32),), zero=8)),
    "Q4_1": BlockType(3, 32, 20, Integers((_field(4, 4, 16, 32),)), m=2, minima=Integers(zero=1)),
    "Q5_0": BlockType(6, 32, 22, Integers((_field(6, 4, 16, 32),), _field(2, 1, 1, 32), zero=16)),
    "Q5_1": BlockType(7, 32, 24, Integers((_field(8, 4, 16, 32),), _field(4, 1, 1, 32)), m=2, minima=Integers(zero=1)),
    "Q8_0": BlockType(8, 32, 34, Integers((_field(2, 8, 32, 32),), zero=128, flip=128)),
    "Q2_K": BlockType(
        10, 256, 84, Integers((_field(16, 2, 32, 256),)), d=80, m=82, scales=Q2_SCALES, minima=Q2_MINIMA
    ),
    "Q3_K": BlockType(
        11, 256, 110, Integers((_field(32, 2, 32, 256),), _field(0, 1, 32, 256), zero=4), d=108,
        scales=Integers((_field(96, 4, 8, 16),), _field(104, 2, 4, 16), zero=32),
    ),
    "Q4_K": BlockType(12, 256, 144, Integers((_field(16, 4, 32, 256),)), m=2, scales=K_SCALES, minima=K_MINIMA),
    "Q5_K": BlockType(
        13, 256, 176, Integers((_field(48, 4, 32, 256),), _field(16, 1, 32, 256)), m=2,
        scales=K_SCALES, minima=K_MINIMA,
    ),
    "Q6_K": BlockType(
        14, 256, 210, Integers((_field(0, 4, 64, 256),), _field(128, 2, 32, 256), zero=32), d=208,
        scales=Integers((_field(192, 8, 16, 16),), zero=128, flip=128),
    ),
    "IQ4_NL": BlockType(20, 32, 18, Integers((_field(2, 4, 16, 32),)), values=IQ4),
    "IQ4_XS": BlockType(
        23, 256, 136, Integers((_field(8, 4, 16, 256),)), values=IQ4,
        scales=Integers((_field(4, 4, 1, 8),), _field(2, 2, 1, 8), zero=32),
    ),
    "TQ1_0": BlockType(34, 256, 54, Integers((_trits(0, 32, 160), _trits(32, 16, 80), _trits(48, 4, 16)), zero=1), 52),
    "TQ2_0": BlockType(35, 256, 66, Integers((_field(0, 2, 32, 256),), zero=1), d=64),
    "MXFP4": BlockType(
        39, 32, 17, Integers((_field(1, 4, 16, 32),)), d=None, scales=Integers((_field(0, 8, 1, 1),)), values=E2M1,
        steps="e8m0",
    ),
    "NVFP4": BlockType(
        40, 64, 36, Integers((_field(4, 4, 8, 64),)), d=None, scales=Integers((_field(0, 8, 4, 4),)), values=E2M1,
        steps="ue4m3",
    ),
}  # fmt: skip

SMALLEST_NORMAL = 2  # the first byte of e8m0 whose step is a normal number
SMALL_PRODUCTS = (  # 0, 1, 2, 3, 4, 6, 8 and 12 times 2^-128, then times 2^-127
    0x0000000, 0x0200000, 0x0400000, 0x0600000, 0x0800000, 0x0C00000, 0x1000000, 0x1400000,
    0x0000000, 0x0400000, 0x0800000, 0x0C00000, 0x1000000, 0x1400000, 0x1800000, 0x1C00000,
)  # fmt: skip


@cache
def steps(name: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The float32 bits of the step of each scale byte: half of the scale, since `E2M1` has twice the values."""
    byte = np.arange(256, dtype=np.uint32)
    if name == "e8m0":
        return np.where(byte < SMALLEST_NORMAL, np.uint32(0x00200000) << byte, (byte - 1) << 23).astype(np.uint32)
    exponent, mantissa = (byte >> 3) & 15, (byte & 7).astype(np.float32)  # its sign is not looked at
    significand = np.where(exponent == 0, mantissa / 4, 1 + mantissa / 8)
    value = np.ldexp(significand, exponent.astype(np.int32) - 8).astype(np.float32)
    return np.where(byte == 0x7F, np.float32(0), value).view(np.uint32)


@cache
def small_products() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The float32 bits of each of the 16 values of `E2M1` times the steps of bytes 0 and 1 of e8m0.

    Some are subnormal, which arithmetic might flush; so they are looked up, not computed.
    """
    rows = [SMALL_PRODUCTS[0:8], SMALL_PRODUCTS[8:16]]
    return np.array([[*row, 0, *(bits | 0x80000000 for bits in row[1:])] for row in rows], np.uint32).reshape(-1)


class Places(NamedTuple):
    """Where each number of some fields lies: its byte, and by how much that is shifted (with TRITS: which digit)."""

    byte: np.ndarray
    shift: np.ndarray


def places(fields: tuple[Field, ...]) -> Places:
    """Those of the numbers of fields, one after another."""
    byte, shift = [], []
    for field in fields:
        chunk, turn, k = np.ogrid[: field.chunks, : field.turns, : field.run]
        byte.append((field.at + chunk * field.run + turn * field.stride + k).reshape(-1))
        shift.append(np.broadcast_to(field.first + turn * field.step, (field.chunks, field.turns, field.run)).ravel())
    return Places(np.concatenate(byte).astype(np.int32), np.concatenate(shift).astype(np.int32))
