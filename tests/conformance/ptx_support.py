"""What the tests of the PTX executor share: programs by hand, and one instruction against its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from arraycodec_conformance import ptx
from arraycodec_conformance.ptx import opcodes
from tests.conformance.ptx_numbers import FLOATS, Oracle, Words, encode, width

THREADS = 128
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def expand(*patterns: str) -> list[str]:
    """All opcodes that some patterns stand for."""
    return [opcode for pattern in patterns for opcode in opcodes.expand(pattern)]


# Programs by hand. In a body, %t is the thread, %b the block, %i the thread in the grid, %a the address of
# word %i of `out`, and %s that of the shared memory.


def kernel(body: str, threads: int = 32, parameters: str = ".param .u64 out", shared: int = 0) -> ptx.Kernel:
    """A kernel around a body."""
    return ptx.Kernel(
        f"""
        .version 8.0
        .target sm_90
        .address_size 64
        .extern .shared .align 16 .b8 global_smem[];
        .visible .entry program({parameters})
        .reqntid {threads}
        {{
            .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>;
            .reg .b32 %t; .reg .b32 %b; .reg .b32 %i; .reg .b32 %s; .reg .b64 %a;
            mov.u32 %t, %tid.x;  mov.u32 %b, %ctaid.x;  mad.lo.s32 %i, %b, {threads}, %t;
            ld.param.b64 %a, [out];  mad.wide.u32 %a, %i, 4, %a;
            mov.b32 %s, global_smem;
            {body}
            ret;
        }}""",
        shared_bytes=shared,
    )


def results(body: str, threads: int = 32, grid: int = 1, shared: int = 0) -> list[int]:
    """Run a body that stores one word per thread, and return them as signed integers."""
    memory = ptx.Memory()
    out = memory.alloc(threads * grid, np.int32)
    kernel(body, threads, shared=shared).run(memory, grid, [out])
    return memory.get(out, np.int32, threads * grid).tolist()


def fails(body: str, error: type[ptx.PtxError], match: str, threads: int = 32, shared: int = 0) -> None:
    """A body that must be refused, or must fault."""
    memory = ptx.Memory()
    with pytest.raises(error, match=match):
        kernel(body, threads, shared=shared).run(memory, 1, [memory.alloc(threads, np.int32, "out")])


# Running one instruction


def execute(opcode: str, sources: Sequence[Words | str], kinds: Sequence[str], result: str) -> Words:
    """Apply an instruction to columns of words, one thread for each row; a string is a literal operand."""
    columns = [source for source in sources if not isinstance(source, str)]
    rows = columns[0].size
    text, names = [], []
    for i, (source, kind) in enumerate(zip(sources, kinds, strict=True)):
        bits = width(kind)
        if isinstance(source, str):
            names.append(source)
            continue
        text += [
            f".reg .b64 %a{i}; .reg .b{max(bits, 16)} %x{i}; ld.param.b64 %a{i}, [in{i}];",
            f"mad.wide.u32 %a{i}, %row, {bits // 8}, %a{i}; ld.global.b{bits} %x{i}, [%a{i}];",
        ]
        if kind == "pred":
            text.append(f".reg .pred %p{i}; setp.ne.b32 %p{i}, %x{i}, 0;")
        names.append(f"%p{i}" if kind == "pred" else f"%x{i}")
    bits = width(result)
    text.append(f".reg .b64 %a; .reg .b{max(bits, 16)} %y; .reg .pred %q;")
    text.append(f"{opcode} {'%q' if result == 'pred' else '%y'}, {', '.join(names)};")
    if result == "pred":
        text.append("selp.b32 %y, 1, 0, %q;")
    text.append(f"ld.param.b64 %a, [out]; mad.wide.u32 %a, %row, {bits // 8}, %a;")
    text.append(f"st.global.b{bits} [%a], %y;")
    inputs = [i for i, source in enumerate(sources) if not isinstance(source, str)]
    parameters = ", ".join(f".param .u64 {name}" for name in [*(f"in{i}" for i in inputs), "out"])
    module = f"""
        .visible .entry one({parameters}) .reqntid {THREADS} {{
        .reg .b32 %row; .reg .b32 %t; mov.u32 %row, %ctaid.x; mov.u32 %t, %tid.x;
        mad.lo.s32 %row, %row, {THREADS}, %t;
        {" ".join(text)}
        ret; }}"""
    memory = ptx.Memory()
    grid = -(-rows // THREADS)
    padded = [np.resize(column, grid * THREADS) for column in columns]
    out = memory.alloc(grid * THREADS, UNSIGNED[bits])
    ptx.Kernel(module).run(memory, grid, [*(memory.put(column) for column in padded), out])
    return memory.get(out, UNSIGNED[bits], grid * THREADS)[:rows]


def check(opcode: str, oracle: Oracle, kinds: Sequence[str], result: str, rows: int = 300) -> None:
    """Compare an opcode with its oracle on corner cases and random words."""
    rng = np.random.default_rng(np.frombuffer(opcode.encode(), np.uint8).tolist())
    columns = [draw(kind, rows, rng) for kind in kinds]
    wanted = [oracle(*(int(word) for word in row)) for row in zip(*columns, strict=True)]
    defined = np.array([word is not None for word in wanted])
    columns = [column[defined] for column in columns]
    got = execute(opcode, columns, kinds, result)
    want = np.array([word for word in wanted if word is not None], dtype=UNSIGNED[width(result)])
    wrong = np.flatnonzero(got != want)
    if wrong.size:
        i = wrong[0]
        inputs = ", ".join(hex(column[i]) for column in columns)
        pytest.fail(f"{opcode} {inputs}: got {got[i]:#x}, want {want[i]:#x} ({wrong.size} of {want.size})")


# Values worth trying


def draw(kind: str, rows: int, rng: np.random.Generator) -> Words:
    """Corner cases and random bit patterns, mixed."""
    bits = width(kind)
    if kind == "pred":
        return rng.integers(0, 2, rows, dtype=np.uint32)
    element, _, count = kind.partition("x")
    if count:
        parts = [draw(element, rows, rng) for _ in range(int(count))]
        return np.ascontiguousarray(np.stack(parts, axis=1)).view(UNSIGNED[bits]).reshape(-1)
    words = rng.integers(0, 1 << bits, rows, dtype=UNSIGNED[bits])
    special = float_corners(element) if element in FLOATS else integer_corners(bits)
    chosen = rng.random(rows) < 0.6
    words[chosen] = rng.choice(np.array(special, UNSIGNED[bits]), int(chosen.sum()))
    return words


def integer_corners(bits: int) -> list[int]:
    """The ends of both ranges, small numbers, and numbers just beyond a width."""
    ones, top = (1 << bits) - 1, 1 << (bits - 1)
    small = [0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255]
    return [*small, ones, ones - 1, ones - 31, top, top - 1, top + 1, ones // 3, ones // 3 * 2]


def float_corners(kind: str) -> list[int]:
    """Zeros, subnormals, the ends of the normal range, infinities, NaNs, integers, halves, almost one."""
    precision, exponent_bits = FLOATS[kind]
    infinity = (1 << exponent_bits) - 1 << (precision - 1)
    normal = 1 << (precision - 1)
    one = infinity // 2 // normal * normal
    values = [0.5, 1.5, 2.0, 2.5, 3.0, 127.5, 255.0, 1e-3]
    positive = [0, 1, 2, normal - 1, normal, normal + 1, one - 1, one, one + 1, infinity - 1, infinity]
    positive += [infinity + 1, infinity + normal // 2, *(encode(Fraction(value), kind) for value in values)]
    sign = 1 << (precision - 1 + exponent_bits)
    return [word | flag for word in positive for flag in (0, sign)]
