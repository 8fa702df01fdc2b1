"""Shared memory and barriers of the PTX executor: races are found even where the bits are right."""

from __future__ import annotations

import numpy as np
import pytest

from arraycodec_conformance import ptx
from tests.conformance.ptx_support import fails, kernel, results

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
