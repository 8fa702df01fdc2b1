"""Global memory of the PTX executor: faults, vectors, and windows of huge buffers."""

from __future__ import annotations

import numpy as np
import pytest

from arraycodec_conformance import ptx
from tests.conformance.ptx_support import fails, kernel, results


@pytest.mark.parametrize("offset", [-4, 128, 1 << 33, -(1 << 33)])
def test_out_of_bounds(offset: int) -> None:
    fails(
        f"add.s64 %a, %a, {offset}; st.global.b32 [%a], 1;",
        ptx.MemoryFault,
        "out of bounds .* out .*program 0",
    )
    fails(f"add.s64 %a, %a, {offset}; ld.global.b32 %r0, [%a];", ptx.MemoryFault, "out of bounds")


def test_an_access_that_starts_inside_and_ends_outside() -> None:
    memory = ptx.Memory()
    for size in (126, 127):
        with pytest.raises(ptx.MemoryFault, match=r"out of bounds at offset 124 .*thread 31"):
            kernel("st.global.b32 [%a], 1;").run(memory, 1, [memory.alloc(size)])


def test_a_fault_names_the_first_thread() -> None:
    body = "setp.gt.u32 %p0, %t, 5; @%p0 ld.global.b32 %r0, [%a+104];"
    fails(body, ptx.MemoryFault, r"offset 128 of out \(128 bytes\) \[@%p0 ld.*program 0, thread 6\]")


def test_the_null_pointer_is_out_of_bounds() -> None:
    fails("mov.u64 %rd0, 0; ld.global.b8 %h0, [%rd0];", ptx.MemoryFault, "out of bounds")


@pytest.mark.parametrize("access", ["v2.b32 {%r0, %r1}", "v4.b32 {%r0, %r1, %r2, %r3}", "b64 %rd0"])
def test_misaligned(access: str) -> None:
    kind, registers = access.split(" ", 1)
    fails(f"ld.global.{kind} {registers}, [%a];", ptx.MemoryFault, "misaligned access of (8|16) bytes")


def test_reads_of_what_nobody_wrote() -> None:
    fails("ld.global.b32 %r0, [%a];", ptx.MemoryFault, "never written.*thread 0")
    fails("st.global.b8 [%a], %t; ld.global.b32 %r0, [%a];", ptx.MemoryFault, "never written")
    memory = ptx.Memory()
    out = memory.alloc(32, np.int32)
    kernel("setp.ne.u32 %p0, %t, 9; @%p0 st.global.b32 [%a], 0;").run(memory, 1, [out])
    with pytest.raises(ptx.MemoryFault, match=r"never written are read, at offset 36 .*thread 9"):
        kernel("ld.global.b32 %r0, [%a];").run(memory, 1, [out])
    with pytest.raises(ptx.MemoryFault, match=r"byte 36 of the 128 .* never written"):
        memory.get(out, np.int32, 32)
    assert memory.get(out, np.int32, 9).tolist() == [0] * 9


def test_threads_that_contradict_each_other() -> None:
    fails(
        "ld.param.b64 %rd0, [out]; st.global.b32 [%rd0], %t;",
        ptx.MemoryFault,
        "different values in one place",
    )
    memory = ptx.Memory()
    out = memory.alloc(32, np.int32)
    kernel("ld.param.b64 %rd0, [out]; st.global.b32 [%rd0], 3;").run(memory, 1, [out])
    assert memory.get(out, np.int32, 1)[0] == 3


@pytest.mark.parametrize("kind", ["v2.b64", "v4.b32", "v8.b32", "v4.b64", "v4.b8"])
def test_vectors_and_hints(kind: str) -> None:
    count, bits = int(kind[1]), int(kind.split("b")[1])
    words = count * bits // 32
    family = {8: "%h", 32: "%r", 64: "%rd"}[bits]
    registers = ", ".join(f"{family}{i + 2}" for i in range(count))
    data = np.random.default_rng(0).integers(0, 1 << 32, (32, words), dtype=np.uint32)
    memory = ptx.Memory()
    source, out = memory.put(data), memory.alloc(data.shape, np.uint32)
    kernel(
        f"""
        mad.lo.s32 %r0, %t, {words * 4}, 0;  cvt.u64.u32 %rd0, %r0;
        ld.param.b64 %rd1, [out];  add.s64 %rd1, %rd1, %rd0;
        ld.param.b64 %rd12, [in];  add.s64 %rd0, %rd12, %rd0;
        createpolicy.fractional.L2::evict_last.b64 %rd12, 1.0;
        ld.global.L1::evict_last.L2::cache_hint.{kind} {{{registers}}}, [%rd0], %rd12;
        st.global.cs.{kind} [ %rd1 + 0 ], {{ {registers} }};""",
        parameters=".param .u64 out, .param .u64 in",
    ).run(memory, 1, [out, source])
    np.testing.assert_array_equal(memory.get(out, np.uint32, data.shape), data)


def test_loads_extend_to_the_register() -> None:
    body = """
        st.global.b32 [%a], 0x80FE;  ld.global.{}8 %h0, [%a];
        cvt.u32.u16 %r0, %h0;  st.global.b32 [%a], %r0;"""
    assert results(body.format("b"))[0] == 0xFE
    assert results(body.format("s"))[0] == 0xFFFE


def test_windows_of_a_huge_buffer() -> None:
    body = """
        ld.param.b64 %rd0, [n];  cvt.u64.u32 %rd1, %i;  add.s64 %rd1, %rd1, %rd0;  shl.b64 %rd1, %rd1, 2;
        ld.param.b64 %a, [out];  add.s64 %a, %a, %rd1;
        ld.global.b32 %r0, [%a];  add.s32 %r0, %r0, 1;  st.global.b32 [%a], %r0;"""
    program = kernel(body, parameters=".param .u64 out, .param .u64 n")
    memory = ptx.Memory()
    first, last = np.arange(64, dtype=np.int32), np.arange(100, 132, dtype=np.int32)
    out = memory.window(1 << 33, {0: first, (1 << 33) - 128: last, 4096: 128})
    program.run(memory, 2, [out, 0])
    program.run(memory, 2, [out, (1 << 31) - 32], programs=[0])
    assert memory.get(out, np.int32, 64).tolist() == list(range(1, 65))
    assert memory.get(out + (1 << 33) - 128, np.int32, 32).tolist() == list(range(101, 133))
    with pytest.raises(ptx.MemoryFault, match=r"bounds at offset 256 of buffer 0 \(8589934592 bytes\)"):
        program.run(memory, 3, [out, 0])
    with pytest.raises(ptx.MemoryFault, match="never written"):
        program.run(memory, 1, [out, 1024])
    with pytest.raises(ptx.MemoryFault, match="not backed"):
        memory.get(out + 8192, np.int32, 1)
    with pytest.raises(ValueError, match="overlaps another or leaves"):
        memory.window(100, {0: first})


def test_an_index_wrapped_to_32_bits_lands_in_no_other_buffer() -> None:
    memory = ptx.Memory()
    first, second = memory.alloc(64), memory.alloc(64)
    assert second - first > 8 << 32


def test_an_access_over_several_windows() -> None:
    memory = ptx.Memory()
    out = memory.window(1 << 20, {0: 64, 64: np.full(16, 5, np.int32)})
    body = """
        setp.lt.u32 %p0, %t, 16;  @%p0 st.global.b32 [%a], %t;
        ld.global.b32 %r0, [%a];  st.global.b32 [%a], %r0;"""
    kernel(body).run(memory, 1, [out])
    assert memory.get(out, np.int32, 16).tolist() == list(range(16))
    assert memory.get(out + 64, np.int32, 16).tolist() == [5] * 16
