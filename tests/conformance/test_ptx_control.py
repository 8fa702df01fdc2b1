"""Control flow, grids, parameters and registers of the PTX executor."""

from __future__ import annotations

import numpy as np
import pytest

from arraycodec_conformance import ptx
from tests.conformance.ptx_support import fails, kernel, results

# Branches and guards


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


# Grids and parameters


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


def test_bytes_that_are_not_picked_may_be_unset() -> None:
    """LLVM has an unset register where all bytes come from the other one."""
    store = "st.global.b32 [%a], %r2;"
    assert results(f"mov.b32 %r0, 0x44332211; prmt.b32 %r2, %r0, %r1, 0x0123; {store}") == [0x11223344] * 32
    assert results(f"mov.b32 %r1, 0x44332211; prmt.b32 %r2, %r0, %r1, 0x7766; {store}") == [0x44443333] * 32
    for selector in ("0x4123", "0xC123"):  # a byte of the unset register, and its sign
        fails(f"mov.b32 %r0, 1; prmt.b32 %r2, %r0, %r1, {selector}; {store}", ptx.MemoryFault, "register %r2")
