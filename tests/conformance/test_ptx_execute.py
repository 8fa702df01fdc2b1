"""The PTX executor: control flow, memory and its faults, races, refusals, and compiled Triton kernels."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arraycodec_conformance import ptx

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

TARGETS = ["sm_80", "sm_90", "sm_100"]
Array = np.ndarray[Any, np.dtype[Any]]


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


# Control flow


def test_loop_of_a_different_length_in_every_thread() -> None:
    body = """
        mov.b32 %r0, 0;  mov.b32 %r1, 0;
    loop:
        setp.ge.s32 %p0, %r1, %t;
        @%p0 bra done;
        add.s32 %r1, %r1, 1;
        add.s32 %r0, %r0, %r1;
        bra.uni loop;
    done:
        st.global.b32 [%a], %r0;"""
    assert results(body, threads=64) == [t * (t + 1) // 2 for t in range(64)]


def test_branches_meet_again() -> None:
    body = """
        and.b32 %r1, %t, 1;  setp.eq.b32 %p0, %r1, 0;  setp.lt.s32 %p1, %t, 16;
        @%p0 bra even;
        mov.b32 %r0, 100;
        @!%p1 bra join;
        mov.b32 %r0, 200;
        bra join;
    even:
        mov.b32 %r0, 300;
    join:
        shfl.sync.idx.b32 %r2, %r0, 0, 31, -1;
        add.s32 %r0, %r0, %r2;
        st.global.b32 [%a], %r0;"""
    assert results(body) == [600 if t % 2 == 0 else 500 if t < 16 else 400 for t in range(32)]


def test_a_block_behind_the_others_may_jump_back() -> None:
    body = """
        setp.eq.b32 %p0, %t, 5;
        @%p0 bra late;
        mov.b32 %r0, 1;
    join:
        st.global.b32 [%a], %r0;
        ret;
    late:
        mov.b32 %r0, 2;
        bra join;"""
    assert results(body) == [2 if t == 5 else 1 for t in range(32)]


def test_threads_that_end_early_leave_the_others_alone() -> None:
    body = """
        st.global.b32 [%a], -1;
        setp.gt.u32 %p0, %t, 3;
        @%p0 exit;
        st.global.b32 [%a], %t;"""
    assert results(body) == [0, 1, 2, 3] + [-1] * 28


def test_guards_keep_what_they_do_not_write() -> None:
    body = """
        mov.b32 %r0, 7;  setp.lt.u32 %p0, %t, 2;
        @%p0 mov.b32 %r0, 8;
        @!%p0 add.s32 %r0, %r0, 2;
        setp.eq.b32 %p1, %r0, 0;
        @%p1 st.global.b32 [%rd0], %r0;  // never executed, and its address is unset
        st.global.b32 [%a], %r0;"""
    assert results(body) == [8, 8] + [9] * 30


def test_names_in_an_inner_scope_are_other_registers() -> None:
    body = """
        mov.b32 %r0, 1;
        { .reg .b32 %r0, x<2>; mov.b32 %r0, 5; mov.b32 x0, 6; add.s32 x1, x0, %r0; st.global.b32 [%a], x1; }
        ld.global.b32 %r1, [%a];  add.s32 %r1, %r1, %r0;  st.global.b32 [%a], %r1;"""
    assert results(body) == [12] * 32


def test_an_endless_loop_is_ended() -> None:
    with pytest.raises(ptx.PtxError, match="no end after 1000 instructions"):
        memory = ptx.Memory()
        kernel("again: bra again;").run(memory, 1, [memory.alloc(32, np.int32)], limit=1000)


def test_grids_and_chosen_programs() -> None:
    body = """
        mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %nctaid.x; mov.u32 %r3, %ntid.x;
        mad.lo.s32 %r4, %r1, %r2, %r0;  mad.lo.s32 %r5, %r4, %r3, %t;
        ld.param.b64 %rd0, [out];  mad.wide.u32 %rd0, %r5, 4, %rd0;  st.global.b32 [%rd0], %r4;"""
    memory = ptx.Memory()
    out = memory.alloc((3, 4, 64), np.int32)
    run = kernel(body, threads=64).run(memory, (4, 3), [out])
    np.testing.assert_array_equal(memory.get(out, np.int32, (12, 64)), np.arange(12)[:, None].repeat(64, 1))
    assert run.opcodes["st.global.b32"] == 12 * 64 and run.instructions == sum(run.opcodes.values())
    out = memory.alloc((12, 64), np.int32)
    kernel(body, threads=64).run(memory, (4, 3), [out], programs=[(1, 2), 3])
    written = memory.written(out, 12 * 64 * 4).reshape(12, -1).all(axis=1)
    assert np.flatnonzero(written).tolist() == [3, 9]
    with pytest.raises(ValueError, match="outside of grid"):
        kernel(body).run(memory, (4, 3), [out], programs=[(4, 0)])


def test_many_blocks_run_in_batches() -> None:
    want = np.repeat(np.arange(2000), 32).tolist()
    assert results("st.global.b32 [%a], %b;", threads=32, grid=2000) == want


def test_parameters() -> None:
    program = kernel(
        """
        ld.param.b32 %r0, [x];      ld.param.b64 %rd0, [big];
        ld.param.b32 %r1, [small];  ld.param.s8 %h0, [tiny];
        cvt.s32.s16 %r3, %h0;  mov.b64 {%r4, %r5}, %rd0;
        ld.param.b64 %rd1, [out];  mad.wide.u32 %rd1, %i, 16, %rd1;
        st.global.v4.b32 [%rd1], {%r0, %r5, %r1, %r3};""",
        parameters=".param .u64 out, .param .f32 x, .param .u64 big, .param .u32 small, .param .u8 tiny",
    )
    memory = ptx.Memory()
    out = memory.alloc((32, 4), np.int32)
    program.run(memory, 1, [out, 1.5, 3 << 32, -7, 255])
    assert memory.get(out, np.int32, (32, 4))[31].tolist() == [0x3FC00000, 3, -7, -1]
    with pytest.raises(TypeError, match="5 arguments, got 2"):
        program.run(memory, 1, [out, 1.5])
    with pytest.raises(TypeError, match="integer of 32 bits"):
        program.run(memory, 1, [out, 1.5, 0, 1 << 32, 0])


# Global memory


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


# Registers


def test_unset_registers() -> None:
    fails("add.s32 %r0, %r1, 1;", ptx.MemoryFault, "register %r1 is read before it is set.*thread 0")
    body = "setp.lt.u32 %p0, %t, 7; @%p0 mov.b32 %r0, 1; st.global.b32 [%a], %r0;"
    fails(body, ptx.MemoryFault, "register %r0 is read before it is set.*thread 7")
    assert results(body.replace("st.global", "@!%p0 mov.b32 %r0, 2; st.global")) == [1] * 7 + [2] * 25
    fails("@%p0 ret;", ptx.MemoryFault, "register %p0")


def test_the_unused_half_of_a_pair_may_be_unset() -> None:
    """LLVM joins a value with an unset register to use packed arithmetic on one element."""
    packed = """
        mov.b32 %r0, 0f3FC00000;  mov.b64 %rd0, {%r0, %r1};
        add.rn.f32x2 %rd1, %rd0, %rd0;  mov.b64 {%r2, %r3}, %rd1;"""
    assert results(f"{packed} st.global.b32 [%a], %r2;") == [0x40400000] * 32
    fails(f"{packed} st.global.b32 [%a], %r3;", ptx.MemoryFault, "register %r3")
    fails(f"{packed} st.global.b64 [%a], %rd1;", ptx.MemoryFault, "register %rd1")


# Shared memory and barriers

EXCHANGE = """
    mad.lo.s32 %r0, %t, 4, %s;  sub.s32 %r1, 63, %t;  mad.lo.s32 %r1, %r1, 4, %s;
    st.shared.b32 [%r0], %t;
    {barrier}
    ld.shared.b32 %r2, [%r1];
    st.global.b32 [%a], %r2;"""


def test_exchange_through_shared_memory() -> None:
    body = EXCHANGE.format(barrier="bar.sync 0;")
    assert results(body, threads=64, grid=300, shared=256) == list(range(63, -1, -1)) * 300


def test_a_missing_barrier_is_a_race_even_if_the_bits_are_right() -> None:
    match = "byte 252 of shared memory is read by warp 0 after a write by warp 1"
    fails(EXCHANGE.format(barrier=""), ptx.SharedRace, match, threads=64, shared=256)
    fails(EXCHANGE.format(barrier="bar.warp.sync -1;"), ptx.SharedRace, match, threads=64, shared=256)


def test_a_write_after_a_read_needs_a_barrier() -> None:
    again = EXCHANGE.format(barrier="bar.sync 0;") + "{} st.shared.b32 [%r0], 0;"
    match = "written by warp 0 after a read by warp 1"
    fails(again.format(""), ptx.SharedRace, match, threads=64, shared=256)
    assert results(again.format("bar.sync 0;"), threads=64, shared=256)[0] == 63


def test_a_read_by_several_warps_is_remembered() -> None:
    body = """
        setp.eq.u32 %p0, %t, 0;  @%p0 st.shared.b32 [%s], 7;
        bar.sync 0;
        ld.shared.b32 %r0, [%s];
        setp.eq.u32 %p1, %t, {thread};  @%p1 st.shared.b32 [%s], 8;"""
    for thread in (0, 32, 64):
        match = f"written by warp {thread // 32} after a read by warp several"
        fails(body.format(thread=thread), ptx.SharedRace, match, threads=96, shared=16)


def test_warps_that_write_one_place_must_agree() -> None:
    fails(
        "shr.u32 %r0, %t, 5; st.shared.b32 [%s], %r0;",
        ptx.SharedRace,
        "written by warp",
        threads=64,
        shared=4,
    )
    fails("st.shared.b32 [%s], %t;", ptx.MemoryFault, "different values in one place", shared=4)
    body = "st.shared.b32 [%s], 9; {} ld.shared.b32 %r0, [%s]; st.global.b32 [%a], %r0;"
    assert results(body.format("bar.sync 0;"), threads=64, shared=4) == [9] * 64
    fails(body.format(""), ptx.SharedRace, "after a write by warp several", threads=64, shared=4)


def test_a_later_write_of_another_value_is_a_race() -> None:
    body = """
        setp.lt.u32 %p0, %t, 32;
        @%p0 st.shared.b32 [%s], 1;
        @!%p0 st.shared.b32 [%s], {value};"""
    fails(
        body.format(value=2),
        ptx.SharedRace,
        "written by warp 1 after a write by warp 0",
        threads=64,
        shared=4,
    )
    results(body.format(value=1) + "st.global.b32 [%a], 0;", threads=64, shared=4)


def test_inside_a_warp_program_order_holds() -> None:
    body = EXCHANGE.format(barrier="bar.warp.sync -1;").replace("63", "31")
    assert results(body, threads=32, shared=128) == list(range(31, -1, -1))


def test_blocks_have_their_own_shared_memory_and_barriers() -> None:
    body = """
        setp.eq.u32 %p0, %b, 0;  mov.b32 %r0, 0;
    again:
        mad.lo.s32 %r1, %t, 4, %s;  add.s32 %r2, %t, %r0;  st.shared.b32 [%r1], %r2;
        bar.sync 0;
        xor.b32 %r3, %t, 32;  mad.lo.s32 %r3, %r3, 4, %s;  ld.shared.b32 %r4, [%r3];
        bar.sync 0;
        add.s32 %r0, %r0, 1;  setp.le.s32 %p1, %r0, %b;
        @%p1 bra again;
        st.global.b32 [%a], %r4;"""
    want = [(t ^ 32) + b for b in range(5) for t in range(64)]
    assert results(body, threads=64, grid=5, shared=256) == want


def test_a_barrier_of_one_block_does_not_order_another() -> None:
    body = EXCHANGE.format(barrier="setp.ne.u32 %p0, %b, 0; @%p0 bra skip; bar.sync 0; skip:")
    memory = ptx.Memory()
    with pytest.raises(ptx.SharedRace, match="program 1"):
        kernel(body, threads=64, shared=256).run(memory, 2, [memory.alloc(128, np.int32)])


def test_faults_in_shared_memory() -> None:
    fails("ld.shared.b32 %r0, [%s];", ptx.MemoryFault, "never written", shared=4)
    fails("st.shared.b32 [%s+4], 1;", ptx.MemoryFault, "out of bounds at byte 4 of 4 of shared", shared=4)
    fails("mov.b32 %r0, 0; st.shared.b32 [%r0], 1;", ptx.MemoryFault, "out of bounds", shared=4)
    fails("st.shared.b32 [%s+2], 1;", ptx.MemoryFault, "misaligned", shared=8)


def test_a_barrier_wants_all_threads() -> None:
    fails("setp.lt.u32 %p0, %t, 9; @%p0 bar.sync 0;", ptx.Divergence, "some threads of a block only")
    fails(
        "setp.lt.u32 %p0, %t, 40; @%p0 ret; bar.sync 0;",
        ptx.Divergence,
        "some threads of a block",
        threads=64,
    )
    fails(
        "setp.lt.u32 %p0, %t, 9; @%p0 bra x; bar.warp.sync -1; x:",
        ptx.Divergence,
        "threads of a (block|warp)",
    )
    body = "mov.b32 %r1, -1; setp.lt.u32 %p0, %t, 9; @%p0 redux.sync.max.u32 %r0, %t, %r1;"
    fails(body, ptx.Divergence, "some threads of a warp", threads=64)
    fails("bar.sync 1;", ptx.UnsupportedInstruction, "named barrier")
    fails("shfl.sync.idx.b32 %r0, %t, 0, 31, 15;", ptx.UnsupportedInstruction, "other than the whole warp")


def test_shuffle_says_whether_its_lane_was_in_range() -> None:
    body = """
        shfl.sync.down.b32 %r0|%p0, %t, 4, 31, -1;
        @!%p0 mov.b32 %r0, -1;
        st.global.b32 [%a], %r0;"""
    assert results(body) == [*range(4, 32), -1, -1, -1, -1]


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


# Refusals


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.b32 %r0, %r1;",
        "add.sat.s32 %r0, %t, %t;",
        "ld.global.relaxed.gpu.b32 %r0, [%a];",
        "atom.global.add.u32 %r0, [%a], 1;",
        "add.s32 %r0, %t;",
        "add.s32 %r0, %t, %t, %t;",
        "shfl.bfly.b32 %r0, %t, 1, 31;",
        "cvt.rn.satfinite.e4m3x2.f32 %h0, %r0, %r1;",
        "ld.local.b32 %r0, [%rd0];",
        "add.rz.f32 %r0, %t, %t;",
    ],
)
def test_unknown_instructions_are_refused_before_anything_runs(instruction: str) -> None:
    with pytest.raises(ptx.UnsupportedInstruction, match=re.escape(instruction.rstrip(";"))):
        kernel(f"ret; {instruction}")


@pytest.mark.parametrize(
    "instruction, reason",
    [
        ("div.full.f32 %r0, %t, %t;", "approximate"),
        ("div.approx.f32 %r0, %t, %t;", "approximate"),
        ("rcp.approx.ftz.f32 %r0, %t;", "approximate"),
        ("ex2.approx.f32 %r0, %t;", "approximate"),
        ("sqrt.approx.f32 %r0, %t;", "approximate"),
        ("mul.rn.ftz.f32 %r0, %t, %t;", "subnormals"),
        ("cvt.rmi.ftz.f32.f32 %r0, %t;", "subnormals"),
        ("mul.f32 %r0, %t, %t;", "contract"),
        ("add.f32 %r0, %t, %t;", "contract"),
        ("sub.f16x2 %r0, %t, %t;", "contract"),
    ],
)
def test_inexact_instructions_are_refused(instruction: str, reason: str) -> None:
    with pytest.raises(ptx.InexactInstruction, match=f"{reason}.*{re.escape(instruction.rstrip(';'))}"):
        kernel(instruction)


@pytest.mark.parametrize(
    "body, match",
    [
        ("add.s32 %r0, %rd0, 1;", "%rd0 has 64 bits where 32 are wanted"),
        ("mov.b32 %rd0, %t;", "%rd0 has 64 bits, the result has 32"),
        ("mov.b16 %h0, 65536;", "65536 as a literal of 16 bits"),
        ("mov.b64 %rd0, 0f3F800000;", "0f3F800000 as a literal of 64 bits"),
        ("mov.u32 %r0, %clock;", "clock"),
        ("bra nowhere;", "bra nowhere"),
        ("mov.u32 %r0, undeclared_variable;", "undeclared_variable"),
        ("ld.param.b32 %r0, [out];", "parameter out has 64 bits"),
        ("ld.global.v2.b32 {%r0, %r1, %r2}, [%a];", "ld.global.v2.b32"),
        ("ld.global.v8.b64 {%rd0,%rd1,%rd2,%rd3,%rd4,%rd5,%rd6,%rd7}, [%a];", "ld.global.v8.b64"),
    ],
)
def test_operands_that_do_not_fit_are_refused(body: str, match: str) -> None:
    fails(f"mov.b64 %rd0, 0; {body}", ptx.UnsupportedInstruction, match)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".entry a() .reqntid 32 { ret; } .entry b() .reqntid 32 { ret; }",
        ".entry a() { ret; }",
        ".entry a() .reqntid 16 { ret; }",
        ".entry a() .reqntid 32, 2 { ret; }",
        ".entry a() .reqntid 32 { ret;",
        ".entry a() .reqntid 32 { add.s32 %r0, %r0, 1; }",
        ".entry a() .reqntid 32 { .reg .v4 %r0; ret; }",
        ".entry a() .reqntid 32 { .callprototype (); ret; }",
        ".entry a() .reqntid 32 { l: ret; l: ret; }",
        ".entry a(.param .align 8 .b8 x[16]) .reqntid 32 { ret; }",
        ".shared .b32 x; .entry a() .reqntid 32 { ret; }\n.shared .b32 y;",
    ],
)
def test_modules_that_are_not_understood(text: str) -> None:
    with pytest.raises(ptx.UnsupportedInstruction):
        ptx.Kernel(text)


def test_division_by_zero_has_no_result() -> None:
    fails("div.u32 %r0, 1, %t;", ptx.UndefinedResult, "division by zero.*thread 0")
    fails("rem.s32 %r0, 1, %t;", ptx.UndefinedResult, "division by zero")
    fails("mov.b32 %r1, -2147483648; div.s32 %r0, %r1, -1;", ptx.UndefinedResult, "overflows")
    body = "mov.b32 %r0, 0; setp.ne.u32 %p0, %t, 0; @%p0 div.u32 %r0, 62, %t; st.global.b32 [%a], %r0;"
    assert results(body)[:4] == [0, 62, 31, 20]


def test_flushed_subnormals_are_noticed() -> None:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        with pytest.raises(RuntimeError, match="flushes subnormal"):
            results("st.global.b32 [%a], 0;")
    finally:
        torch.set_flush_denormal(False)


def test_supported_opcodes_are_listed() -> None:
    listed = ptx.supported_opcodes()
    assert listed == sorted(listed)
    assert {"bar.sync", "lop3.b32", "add.{s16,s32,s64,u16,u32,u64}"} <= set(listed)


# Compiled Triton kernels

NF4 = np.array(
    [
        *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
    ],
    np.float32,
)
MIDPOINTS = ((NF4[1:].astype(np.float64) + NF4[:-1]) / 2).astype(np.float32)
DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@triton.jit
def encode_nf4(x_ptr, bounds_ptr, codes_ptr, absmax_ptr, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    index = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + index, mask=index < n, other=0.0).to(tl.float32)
    absmax = tl.max(x.to(tl.uint32, bitcast=True) & 0x7FFFFFFF, axis=1)
    absmax = tl.where(absmax > 0x7F800000, 0x7FC00000, absmax)  # widening leaves the payload of a NaN open
    scale = tl.where(absmax == 0, 1.0, absmax.to(tl.float32, bitcast=True))
    y = tl.div_rn(x, tl.broadcast_to(scale[:, None], [ROWS, BLOCK]))
    code = tl.zeros([ROWS, BLOCK], dtype=tl.int32)
    for k in tl.static_range(15):
        code += (y > tl.load(bounds_ptr + k)).to(tl.int32)
    high, low = tl.split(tl.reshape(code, [ROWS, BLOCK // 2, 2]))
    half = row[:, None] * (BLOCK // 2) + tl.arange(0, BLOCK // 2)[None, :]
    tl.store(codes_ptr + half, (high << 4 | low).to(tl.uint8), mask=half * 2 < n)
    tl.store(absmax_ptr + row, absmax, mask=row * BLOCK < n)


@triton.jit
def decode_nf4(codes_ptr, absmax_ptr, values_ptr, out_ptr, n, BYTES: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    index = program * BYTES + tl.arange(0, BYTES)
    byte = tl.load(codes_ptr + index, mask=index * 2 < n, other=0).to(tl.int32)
    scale = tl.load(absmax_ptr + index // (BLOCK // 2), mask=index * 2 < n, other=0.0)
    pair = tl.interleave(tl.load(values_ptr + (byte >> 4)) * scale, tl.load(values_ptr + (byte & 15)) * scale)
    element = program * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    tl.store(out_ptr + element, pair.to(out_ptr.dtype.element_ty), mask=element < n)


def hard_values(n: int, block: int, dtype: Any) -> Array:
    """Weights, with blocks of zeros, of subnormals, with an infinity and a NaN, and values next to bounds."""
    rng = np.random.default_rng(n)
    x = (rng.standard_normal(n) * 0.02).astype(np.float32)
    x[:block] = 0
    x[block : 2 * block] = rng.integers(1, 1 << 16, block, dtype=np.uint32).view(np.float32)
    near = np.nextafter(MIDPOINTS, rng.choice(np.array([-2, 2], np.float32), 15))
    near[::3] = MIDPOINTS[::3]
    x[2 * block : 2 * block + 16] = [*near, -1.0]
    x[3 * block + 5], x[4 * block + 7], x[5 * block + 9] = np.inf, np.nan, -0.0
    return x.astype(dtype)


def encode_reference(x: Array, block: int) -> tuple[Array, Array]:
    rows = np.zeros(-(-x.size // block) * block, np.float32)
    rows[: x.size] = x.astype(np.float32)
    rows = rows.reshape(-1, block)
    absmax = (rows.view(np.uint32) & 0x7FFFFFFF).max(axis=1)
    absmax[absmax > 0x7F800000] = 0x7FC00000
    scale = np.where(absmax == 0, np.float32(1), absmax.view(np.float32))
    with np.errstate(invalid="ignore"):
        code = (rows / scale[:, None] > MIDPOINTS[:, None, None]).sum(axis=0).astype(np.uint8)
    return (code[:, 0::2] << 4 | code[:, 1::2]).reshape(-1)[: x.size // 2], absmax


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, block, num_warps", [(16, 64, 4), (2, 1024, 8), (1, 4096, 4), (4, 64, 1)])
def test_encode_nf4(target: str, dtype: str, rows: int, block: int, num_warps: int) -> None:
    n = 10 * block + block // 2  # half of the last block, and most of the last program, is masked
    x = hard_values(n, block, DTYPES[dtype])
    codes, absmax = encode_reference(x, block)
    program = ptx.compile(
        encode_nf4,
        {"x_ptr": f"*{dtype}", "bounds_ptr": "*fp32", "codes_ptr": "*u8", "absmax_ptr": "*u32", "n": "i64"},
        {"ROWS": rows, "BLOCK": block},
        target=target,
        num_warps=num_warps,
    )
    memory = ptx.Memory()
    arguments = [memory.put(x), memory.put(MIDPOINTS), memory.alloc(n // 2), memory.alloc(11, np.uint32)]
    program.run(memory, -(-11 // rows), [*arguments, n])
    np.testing.assert_array_equal(memory.get(arguments[2], np.uint8, n // 2), codes)
    np.testing.assert_array_equal(memory.get(arguments[3], np.uint32, 11), absmax)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [128, 1024])
def test_decode_nf4(target: str, dtype: str, size: int) -> None:
    rng = np.random.default_rng(0)
    n, block = 5000, 64
    codes = rng.integers(0, 256, n // 2, dtype=np.uint8)
    absmax = np.abs(rng.standard_normal(-(-n // block)).astype(np.float32))
    absmax[1:4] = [0.0, 1e-41, 3e38]
    code = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)
    with np.errstate(over="ignore"):
        want = (NF4[code] * np.repeat(absmax, block)[:n]).astype(DTYPES[dtype])
    program = ptx.compile(
        decode_nf4,
        {
            "codes_ptr": "*u8",
            "absmax_ptr": "*fp32",
            "values_ptr": "*fp32",
            "out_ptr": f"*{dtype}",
            "n": "i64",
        },
        {"BYTES": size, "BLOCK": block},
        target=target,
        divisible=["n"] if n % 16 == 0 else [],
    )
    memory = ptx.Memory()
    out = memory.alloc(n, DTYPES[dtype])
    inputs = [memory.put(codes), memory.put(absmax), memory.put(NF4)]
    run = program.run(memory, -(-n // (2 * size)), [*inputs, out, n])
    np.testing.assert_array_equal(memory.get(out, want.dtype, n).view(np.uint8), want.view(np.uint8))
    if target == "sm_100" and size == 1024:
        assert run.opcodes["mul.rn.f32x2"] > 0


@triton.jit
def multiply_add(x_ptr, y_ptr, z_ptr, out_ptr, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n)
    y = tl.load(y_ptr + index, mask=index < n)
    z = tl.load(z_ptr + index, mask=index < n)
    tl.store(out_ptr + index, x * y + z, mask=index < n)


VECTORS = {"x_ptr": "*fp32", "y_ptr": "*fp32", "z_ptr": "*fp32", "out_ptr": "*fp32", "n": "i32"}


@pytest.mark.parametrize("target", TARGETS)
def test_fusion_changes_bits(target: str) -> None:
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal(4096).astype(np.float32) for _ in range(3))
    differences = []
    for fused in (False, True):
        program = ptx.compile(multiply_add, VECTORS, {"BLOCK": 1024}, target=target, enable_fp_fusion=fused)
        memory = ptx.Memory()
        out = memory.alloc(4096, np.float32)
        program.run(memory, 4, [memory.put(x), memory.put(y), memory.put(z), out, 4096])
        got = memory.get(out, np.uint32, 4096)
        differences.append(int((got != (x * y + z).view(np.uint32)).sum()))
    assert differences[0] == 0 and differences[1] > 100


def test_a_wrong_mask_is_out_of_bounds() -> None:
    program = ptx.compile(multiply_add, VECTORS, {"BLOCK": 1024})
    memory = ptx.Memory()
    x = np.ones(1000, np.float32)
    arguments = [memory.put(x), memory.put(x), memory.put(x), memory.alloc(1000, np.float32)]
    program.run(memory, 1, [*arguments, 1000])
    with pytest.raises(ptx.MemoryFault, match=r"out of bounds at offset 4000 of buffer 0"):
        program.run(memory, 1, [*arguments, 1024])
    with pytest.raises(ptx.MemoryFault, match="never written"):
        program.run(memory, 1, [*arguments, 999])
        fresh = memory.alloc(1000, np.float32)
        program.run(memory, 1, [*arguments[:3], fresh, 999])
        memory.get(fresh, np.float32, 1000)
    with pytest.raises(ValueError, match="x_ptr divisible by 16"):
        program.run(memory, 1, [arguments[0] + 4, *arguments[1:], 999])


@triton.jit
def divide(x_ptr, y_ptr, out_ptr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + index), tl.load(y_ptr + index)
    tl.store(out_ptr + index, tl.div_rn(x, y) if EXACT else x / y)


@pytest.mark.parametrize("target", TARGETS)
def test_only_exact_division_runs(target: str) -> None:
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"}
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 1 << 32, 1024, dtype=np.uint32).view(np.float32) for _ in range(2))
    memory = ptx.Memory()
    arguments = [memory.put(x), memory.put(y), memory.alloc(1024, np.float32)]
    ptx.compile(divide, signature, {"EXACT": True, "BLOCK": 1024}, target=target).run(memory, 1, arguments)
    with np.errstate(all="ignore"):
        want = np.where(np.isnan(x / y), np.uint32(0x7FFFFFFF), (x / y).view(np.uint32))
    np.testing.assert_array_equal(memory.get(arguments[2], np.uint32, 1024), want)
    approximate = ptx.compile(divide, signature, {"EXACT": False, "BLOCK": 1024}, target=target)
    assert "div.full.f32" in approximate.ptx
    with pytest.raises(ptx.InexactInstruction, match=r"div\.full\.f32"):
        approximate.run(memory, 1, arguments)


@triton.jit
def block_absmax(x_ptr, out_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.store(out_ptr + tl.program_id(0), tl.max(x.to(tl.uint32, bitcast=True) & 0x7FFFFFFF, axis=0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("block", [1024, 4096])
def test_reduction_across_warps_needs_its_barrier(target: str, block: int) -> None:
    x = np.random.default_rng(0).standard_normal((7, block)).astype(np.float32)
    signature = {"x_ptr": "*fp32", "out_ptr": "*u32"}
    program = ptx.compile(block_absmax, signature, {"BLOCK": block}, target=target)
    memory = ptx.Memory()
    source, out = memory.put(x), memory.alloc(7, np.float32)
    program.run(memory, 7, [source, out])
    np.testing.assert_array_equal(memory.get(out, np.float32, 7), np.abs(x).max(axis=1))
    assert program.ptx.count("bar.sync") >= 1
    without = ptx.Kernel(re.sub(r"\bbar\.sync\s+0;", "", program.ptx), program.shared_bytes)
    with pytest.raises(ptx.SharedRace, match="no barrier between"):
        without.run(memory, 7, [source, out, 0, 0])


@triton.jit
def shift_by_one(x_ptr, out_ptr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + index, tl.load(x_ptr + index) + 1)


def test_index_overflow_is_found_in_windows() -> None:
    signature, block = {"x_ptr": "*u8", "out_ptr": "*u8"}, 1024
    last = (1 << 32) // block - 1
    data = np.arange(block, dtype=np.uint8)
    for wide in (True, False):
        program = ptx.compile(shift_by_one, signature, {"WIDE": wide, "BLOCK": block})
        memory = ptx.Memory()
        x = memory.window(1 << 32, {last * block: data}, "x")
        out = memory.window(1 << 32, {last * block: block}, "out")
        if wide:
            program.run(memory, last + 1, [x, out], programs=[last])
            np.testing.assert_array_equal(memory.get(out + last * block, np.uint8, block), data + np.uint8(1))
        else:
            with pytest.raises(ptx.MemoryFault, match=r"bounds at offset -1024 of x .*program 4194303"):
                program.run(memory, last + 1, [x, out], programs=[last])


@triton.jit
def running_sum(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, n, BLOCK):
        total += tl.load(x_ptr + start + lane, mask=start + lane < n, other=0)
    tl.store(out_ptr + lane, total)
    tl.debug_barrier()
    other = tl.load(out_ptr + BLOCK - 1 - lane)
    if n > 1500:
        other = other * 2
    tl.debug_barrier()
    tl.store(out_ptr + lane, tl.cumsum(total, 0) - other)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", [0, 100, 1000, 2001])
def test_loops_barriers_and_scans(target: str, n: int) -> None:
    x = np.random.default_rng(n).integers(-100, 100, max(n, 1)).astype(np.int32)
    signature = {"x_ptr": "*i32", "out_ptr": "*i32", "n": "i32"}
    program = ptx.compile(running_sum, signature, {"BLOCK": 512}, target=target)
    memory = ptx.Memory()
    out = memory.alloc(512, np.int32)
    program.run(memory, 1, [memory.put(x), out, n])
    padded = np.zeros(2048, np.int32)
    padded[:n] = x[:n]
    total = padded.reshape(-1, 512).sum(axis=0, dtype=np.int32)
    want = np.cumsum(total, dtype=np.int32) - total[::-1] * (2 if n > 1500 else 1)
    np.testing.assert_array_equal(memory.get(out, np.int32, 512), want)


def test_compile_checks_its_arguments() -> None:
    with pytest.raises(TypeError, match=r"triton\.jit function"):
        ptx.compile(len, {})
    with pytest.raises(TypeError, match="has parameters"):
        ptx.compile(block_absmax, {"x_ptr": "*fp32"}, {"BLOCK": 64})
    program = ptx.compile(block_absmax, {"x_ptr": "*fp32", "out_ptr": "*u32"}, {"BLOCK": 64}, num_warps=2)
    assert (program.entry, program.num_warps, program.target) == ("block_absmax", 2, "sm_90")
    with pytest.raises(TypeError, match="2 arguments, got 1"):
        program.run(ptx.Memory(), 1, [0])
