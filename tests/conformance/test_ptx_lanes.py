"""Exchange between the lanes of a warp in the PTX executor: shuffles, reductions, matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from arraycodec_conformance import ptx
from tests.conformance.ptx_numbers import bits32, extremum, signed
from tests.conformance.ptx_support import THREADS, draw, execute, expand, fails, kernel, results


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that `shfl` reads, and whether it lies in range: the ISA's pseudo-code."""
    distance, clamp, segment = b & 31, c & 31, c >> 8 & 31
    last = lane & segment | clamp & ~segment
    first = lane & segment
    match mode:
        case "up":
            j, inside = lane - distance, lane - distance >= last
        case "down":
            j, inside = lane + distance, lane + distance <= last
        case "bfly":
            j, inside = lane ^ distance, lane ^ distance <= last
        case _:
            j = first | distance & ~segment
            inside = j <= last
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("segment", [0, 16, 24, 28])
def test_shuffle(mode: str, segment: int) -> None:
    rng = np.random.default_rng(segment)
    words = rng.integers(0, 1 << 32, THREADS, dtype=np.uint32)
    clamp = segment << 8 | (0 if mode == "up" else 31)
    for b in [
        *(np.full(THREADS, d, np.uint32) for d in (0, 1, 3, 16, 31)),
        rng.integers(0, 40, THREADS, dtype=np.uint32),
    ]:
        sources = [shuffled(mode, i % 32, int(b[i]), clamp) for i in range(THREADS)]
        want = [words[i // 32 * 32 + source] for i, (source, _) in enumerate(sources)]
        operands = [words, b, str(clamp), "-1"]
        got = execute(f"shfl.sync.{mode}.b32", operands, ["b32", "u32", "u32", "b32"], "b32")
        np.testing.assert_array_equal(got, np.array(want, np.uint32))


def test_shuffle_says_whether_its_lane_was_in_range() -> None:
    body = """
        shfl.sync.down.b32 %r0|%p0, %t, 4, 31, -1;
        @!%p0 mov.b32 %r0, -1;
        st.global.b32 [%a], %r0;"""
    assert results(body) == [*range(4, 32), -1, -1, -1, -1]


REDUCTIONS: dict[str, Callable[[list[int]], int]] = {
    "add": sum,
    "min": min,
    "max": max,
    "and": lambda values: int(np.bitwise_and.reduce(values)),
    "or": lambda values: int(np.bitwise_or.reduce(values)),
    "xor": lambda values: int(np.bitwise_xor.reduce(values)),
}
REDUX = expand(
    "redux.sync.{add,min,max}.{u32,s32}",
    "redux.sync.{and,or,xor}.b32",
    "redux.sync.{min,max}{,.NaN}.f32",
)


@pytest.mark.parametrize("opcode", REDUX)
def test_reduction(opcode: str) -> None:
    _, _, name, *modifiers, kind = opcode.split(".")
    words = draw(kind, THREADS, np.random.default_rng(7))
    words[:32] = bits32(np.nan)  # a warp of NaNs only
    words[32:64] = bits32(np.arange(-16, 16))
    want = []
    for warp in words.reshape(-1, 32).tolist():
        if kind == "f32":
            result = extremum(name, modifiers, "f32")(*warp)
            assert result is not None
        else:
            numbers = [signed(word, 32) if kind == "s32" else word for word in warp]
            result = REDUCTIONS[name](numbers) & 0xFFFFFFFF
        want += [result] * 32
    got = execute(opcode, [words, "-1"], [kind, "b32"], kind)
    np.testing.assert_array_equal(got, np.array(want, np.uint32))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_load_and_store(count: int, transposed: bool) -> None:
    """Store matrices as fragments, load them back plainly, and the other way round."""
    suffix, fragments = ".trans" if transposed else "", [f"%r{i + 4}" for i in range(count)]
    data = np.random.default_rng(0).integers(0, 1 << 32, (count, 32), dtype=np.uint32)
    names = ", ".join(fragments)
    rows = f"and.b32 %r0, %t, {8 * count - 1};  mad.lo.s32 %r0, %r0, 16, %s;"
    loads = " ".join(f"ld.global.b32 {name}, [%a+{128 * i}];" for i, name in enumerate(fragments))
    stores = " ".join(f"st.global.b32 [%a+{128 * i}], {name};" for i, name in enumerate(fragments))
    plain = "mad.lo.s32 %r1, %t, 4, %s;"
    from_shared = " ".join(f"ld.shared.b32 {name}, [%r1+{128 * i}];" for i, name in enumerate(fragments))
    to_shared = " ".join(f"st.shared.b32 [%r1+{128 * i}], {name};" for i, name in enumerate(fragments))
    opcode = f"matrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16"
    elements = data.view(np.uint16).reshape(count, 8, 8)  # lane i holds elements 2i and 2i + 1
    want = np.ascontiguousarray(elements.swapaxes(1, 2) if transposed else elements)
    for body in (
        f"{loads} st{opcode} [%r0], {{{names}}}; {from_shared} {stores}",
        f"{loads} {to_shared} ld{opcode} {{{names}}}, [%r0]; {stores}",
    ):
        memory = ptx.Memory()
        out = memory.put(data)
        kernel(rows + plain + body, shared=128 * count).run(memory, 1, [out])
        np.testing.assert_array_equal(memory.get(out, np.uint16, (count, 8, 8)), want)
    fails(f"mov.b32 %r0, %s; ld{opcode} {{{names}}}, [%r0+8];", ptx.MemoryFault, "misaligned", shared=1024)


TESTED = {*expand("shfl.sync.{up,down,bfly,idx}.b32"), *REDUX}
