"""`Gguf`: the quantised blocks of ggml, as they stand in GGUF files of llama.cpp. Reading only.

The specification is docs/format/gguf.md, the block types are data in `arraycodec.primitives.gguf_blocks`; the kernels
below are the fast CPU implementation. Decoding a block, in the order in which every backend does it:
    1  the integers of the block: codes, and scales and minima of its sub-blocks;
    2  the step of each sub-block, d * scale, or a table's entry; its minimum, m * minimum;
    3  element = step * value - minimum, of which only the subtraction rounds;
    4  a NaN is the canonical one; round once to the dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives.floats import (
    INFINITY,
    KINDS,
    MAGNITUDE,
    NAN,
    as_bits,
    as_float,
    half_to_float32,
)
from arraycodec.primitives.gguf_blocks import (
    SMALLEST_NORMAL,
    TRITS,
    TYPES,
    BlockType,
    Integers,
    places,
    small_products,
    steps,
)
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.packing import copy
from arraycodec.primitives.scales import multiply
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec

TILE = 256  # elements that are decoded together: one block of a large type, several of a small one
GROUP = 16  # elements that share a step in every type
GROUPS = TILE // GROUP
EACH_BYTE = np.uint64(0x0101010101010101)


@dataclass(frozen=True)
class Gguf(Codec):
    """The blocks of llama.cpp's quantised tensors, decoded to the bits of gguf-py. It does not encode.

    type  "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0",
          "TQ2_0", "MXFP4" or "NVFP4": ggml's name of the block type.

    Arrays are float32, bfloat16 or float16 of any shape. The plane is `blocks`, uint8, the blocks of each row one after
    another; where rows are not whole blocks it is flat, and the last block is padded.

    >>> import numpy as np, arraycodec as ac
    >>> block = np.frombuffer(np.float16(0.5).tobytes() + bytes(range(0x80, 0x90)), np.uint8)
    >>> enc = ac.Encoded(ac.Gguf("Q4_0"), ac.ArraySpec((32,), "float32"), {"blocks": block})
    >>> ac.decode(enc)[[0, 1, 15, 16]]
    array([-4. , -3.5,  3.5,  0. ], dtype=float32)
    """

    name: ClassVar[str] = "gguf"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("blocks",)

    type: str = "Q4_K"

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise self.fail("type", f"one of {', '.join(TYPES)}", self.type)

    @property
    def block(self) -> BlockType:
        """What is known of the block type."""
        return TYPES[self.type]

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        elements, nbytes = self.block.elements, self.block.nbytes
        *rows, columns = spec.known_shape or (1,)
        if spec.shape and columns % elements == 0:
            return {"blocks": ArraySpec((*rows, columns // elements * nbytes), "uint8")}
        return {"blocks": ArraySpec((-(-spec.size // elements) * nbytes,), "uint8")}

    def supports(self, spec: ArraySpec) -> None:
        """Raises ArgumentError for every array: llama.cpp writes these blocks, this codec reads them."""
        raise ArgumentError(f"{self.name} {self.type}: cannot encode; blocks are made by llama.cpp and only read here")

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        self.supports(ArraySpec(x.shape, x.dtype.name))
        raise NotImplementedError

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        blocks, target, kind = bits(planes["blocks"]), writable_bits(out), KINDS[spec.dtype]
        layout = _layout(self.type)

        def work(first: int, last: int) -> None:
            decode_tiles(blocks, layout, target, kind, first, last)

        split(work, -(-target.size // TILE), target.size)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole blocks around the range."""
        elements, nbytes = self.block.elements, self.block.nbytes
        first, last = start // elements, -(-stop // elements) if start < stop else start // elements
        part = ArraySpec((min(last * elements, spec.size) - first * elements if start < stop else 0,), spec.dtype)
        planes = {"blocks": fetch("blocks", slice(first * nbytes, last * nbytes))}
        return self.decode(planes, part)[start - first * elements : stop - first * elements]


class Numbers(NamedTuple):
    """Integers of sub-blocks as kernels take them: the byte and the shift of the low and of the high bits of each."""

    byte: np.ndarray  # uint8 (2, count)
    shift: np.ndarray
    masks: tuple[np.uint8, np.uint8]
    width: np.uint8  # of the low bits
    flip: np.uint8
    zero: np.int32


class Layout(NamedTuple):
    """A block type as kernels take it; numbers that are not there are -1, tables that are not there empty."""

    sizes: tuple[int, int, int]  # elements, bytes, elements of a sub-block
    factors: tuple[int, int]  # the bytes of d and m
    fields: np.ndarray  # int64, of the codes: at, bits, run, turns, step, first, count, start, up
    code: tuple[np.uint8, np.int32]  # flip and zero
    scales: Numbers
    minima: Numbers
    values: np.ndarray
    steps: np.ndarray
    small: np.ndarray  # products that are looked up


@cache
def _layout(name: str) -> Layout:
    block, rows, start = TYPES[name], [], 0
    for field in block.codes.low:
        rows.append([*field[:3], field.turns, field.step, field.first, field.count, start, 0])
        start += field.count
    if (high := block.codes.high) is not None:
        rows.append([*high[:3], high.turns, high.step, high.first, high.count, 0, block.codes.low[0].bits])
    return Layout(
        (block.elements, block.nbytes, block.sub),
        (-1 if block.d is None else block.d, -1 if block.m is None else block.m),
        np.array(rows, np.int64),
        (np.uint8(block.codes.flip), np.int32(block.codes.zero)),
        _numbers(block.scales, block.scales.count),
        _numbers(block.minima, block.scales.count),
        np.array(block.values or (), np.float32),
        steps(block.steps).view(np.float32) if block.steps else np.zeros(0, np.float32),
        small_products() if block.steps == "e8m0" else np.zeros(0, np.uint32),
    )


def _numbers(integers: Integers, count: int) -> Numbers:
    byte, shift, masks = np.zeros((2, count), np.uint8), np.zeros((2, count), np.uint8), [np.uint8(0), np.uint8(0)]
    for row, fields in enumerate([integers.low, (integers.high,) if integers.high else ()]):
        if fields:
            byte[row], shift[row] = places(fields)
            masks[row] = np.uint8(fields[0].mask)
    width = np.uint8(integers.low[0].bits & 7 if integers.low else 0)
    return Numbers(byte, shift, (masks[0], masks[1]), width, np.uint8(integers.flip), np.int32(integers.zero))


@kernel
def decode_tiles(blocks, layout, out, kind, first, last):
    """Decode the tiles first..last of 256 elements each."""
    raw, q, y = np.empty(TILE, np.uint8), np.zeros(TILE, np.uint8), np.empty(TILE, np.float32)
    unit, low = np.zeros(GROUPS, np.float32), np.zeros(GROUPS, np.float32)
    for tile in range(first, last):
        decode_tile(blocks, layout, tile, raw, q, y, unit, low)
        store(y, kind, out[tile * TILE : (tile + 1) * TILE])


@inlined
def decode_tile(blocks, layout, tile, raw, q, y, unit, low):
    """The elements of a tile."""
    elements, nbytes, sub = layout.sizes
    first = tile * (TILE // elements)
    here = blocks[first * nbytes : min(blocks.size, (first + TILE // elements) * nbytes)]
    load_codes(here, nbytes, layout.fields, raw, q)  # 1
    ordinary = load_steps(here, layout, unit, low)  # 2
    flip, zero = layout.code
    for g in range(0, GROUPS, 2):  # 3
        code, part = q[g * GROUP : (g + 2) * GROUP], y[g * GROUP : (g + 2) * GROUP]
        if layout.values.size:
            look_up(code, layout.values, unit[g], unit[g + 1], part)
        else:
            combine(code, flip, zero, unit[g], unit[g + 1], low[g], low[g + 1], part)
    if not ordinary:
        settle(y, q, unit, layout.small)


@inlined
def load_codes(blocks, nbytes, fields, raw, q):
    """The codes of blocks, from the bytes of one field after another."""
    for f in range(fields.shape[0]):
        at, bits, run, turns, step, first, count, start, up = fields[f]
        size = count // turns  # bytes of the field in a block
        number = blocks.size // nbytes
        for b in range(number):
            copy16(blocks[b * nbytes + at : b * nbytes + at + size], raw[b * size : (b + 1) * size])
        if bits == TRITS:
            load_trits(raw[:size], run, turns, q[start : start + count])
        elif run == 1:
            spread_bits(raw[: number * size], up, q)
        else:
            load_digits(raw.view(np.uint64), bits, run >> 3, turns, step, first, number * size // run, up, q)


@inlined
def copy16(source, target):
    """Copy by 16 bytes, which a loop of known length does in one move, and what is left."""
    whole = source.size & ~15
    for k in range(0, whole, 16):
        for i in range(16):
            target[k + i] = source[k + i]
    for i in range(whole, source.size):
        target[i] = source[i]


@inlined
def load_digits(words, bits, run, turns, step, first, chunks, up, q):
    """Digits of eight codes at a time, which lie in the eight bytes of a word; `run` is in words."""
    mask, target, to = np.uint64((1 << bits) - 1) * EACH_BYTE, q.view(np.uint64), 0
    for c in range(chunks):
        for t in range(turns):
            down = np.uint64(first + t * step)
            for k in range(run):
                w = (words[c * run + k] >> down & mask) << np.uint64(up)
                target[to + k] = target[to + k] | w if up else w
            to += run


@inlined
def spread_bits(raw, up, q):
    """One more bit for each of the eight codes of a byte."""
    target = q.view(np.uint64)
    for k in range(raw.size):
        w = np.uint64(raw[k]) * EACH_BYTE & np.uint64(0x8040201008040201)
        w = (w + np.uint64(0x7F7F7F7F7F7F7F7F)) >> np.uint64(7) & EACH_BYTE
        target[k] |= w << np.uint64(up)


@inlined
def load_trits(raw, run, turns, q):
    """Digits of base 3."""
    for c in range(raw.size // run):
        part, power = raw[c * run : (c + 1) * run], np.uint32(1)
        for t in range(turns):
            target = q[(c * turns + t) * run : (c * turns + t + 1) * run]
            for k in range(run):
                target[k] = np.uint8((np.uint32(part[k]) * power & np.uint32(255)) * np.uint32(3) >> np.uint32(8))
            power *= np.uint32(3)


@inlined
def load_steps(blocks, layout, unit, low):
    """The step and the minimum of each group of a tile; whether all of them are ordinary numbers."""
    elements, nbytes, sub = layout.sizes
    number, steps, groups = blocks.size // nbytes, layout.steps, sub // GROUP
    ordinary = load_halves(blocks, nbytes, number, layout.factors[0], unit)
    ordinary &= load_halves(blocks, nbytes, number, layout.factors[1], low)
    for b in range(number - 1, -1, -1):  # from the end on, since the factors stand at the beginning
        block, d, m = blocks[b * nbytes : (b + 1) * nbytes], unit[b], low[b]
        for j in range(elements // sub):
            scale = integer_at(block, layout.scales, j)
            if steps.size:
                step = steps[np.uint8(scale)]
                ordinary &= scale >= SMALLEST_NORMAL
            else:
                step = d * np.float32(scale)
            minimum = m
            if layout.factors[1] >= 0:
                minimum = m * np.float32(integer_at(block, layout.minima, j))
            first = b * (elements // GROUP) + j * groups
            for g in range(first, first + groups):
                unit[g], low[g] = step, minimum
    return ordinary


@inlined
def load_halves(blocks, nbytes, number, at, out):
    """The float16 at this byte of each block, 0 for all where `at` is -1; whether all are finite."""
    halves, greatest = out.view(np.uint32), np.uint32(0)
    for b in range(number):
        piece = blocks[b * nbytes + at : b * nbytes + at + 2] if at >= 0 else blocks[:0]
        halves[b] = np.uint32(piece.view(np.uint16)[0]) if at >= 0 else np.uint32(0)
    for b in range(number):
        greatest = max(greatest, halves[b] & np.uint32(0x7FFF))
        halves[b] = half_to_float32(halves[b])
    return greatest < np.uint32(0x7C00)


@inlined
def integer_at(block, numbers, j):
    """The integer of sub-block j."""
    number = np.uint8(0)
    if numbers.masks[0]:
        number = block[numbers.byte[0, j]] >> numbers.shift[0, j] & numbers.masks[0]
        if numbers.masks[1]:
            number |= (block[numbers.byte[1, j]] >> numbers.shift[1, j] & numbers.masks[1]) << numbers.width
    return np.int32(np.uint8(number) ^ numbers.flip) - numbers.zero


@inlined
def combine(code, flip, zero, step0, step1, low0, low1, y):
    """Two groups of integers; a loop over both vectorises, as one over 16 elements does not."""
    for i in range(2 * GROUP):
        step, low = step0 if i < GROUP else step1, low0 if i < GROUP else low1
        y[i] = np.float32(np.int32(code[i] ^ flip) - zero) * step - low


@inlined
def look_up(code, values, step0, step1, y):
    """Two groups of a table's values."""
    for i in range(2 * GROUP):
        y[i] = values[code[i] & np.uint8(15)] * (step0 if i < GROUP else step1)


@inlined
def settle(y, q, unit, small):
    """Step 4 where a factor is not finite; and products that hardware might flush."""
    for i in range(TILE):
        u, step = as_bits(y[i]), as_bits(unit[i // GROUP])
        if small.size and step < np.uint32(0x800000):
            u = small[(q[i] & 15) + (16 if step == np.uint32(0x400000) else 0)]
        y[i] = as_float(NAN if (u & MAGNITUDE) > INFINITY else u)


@inlined
def store(y, kind, out):
    """The elements, rounded once."""
    multiply(y[: out.size], np.float32(1), kind, out)
