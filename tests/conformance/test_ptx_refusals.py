"""What the PTX executor refuses: unknown, inexact and undefined instructions, and odd modules."""

from __future__ import annotations

import re

import pytest

from arraycodec_conformance import ptx
from tests.conformance.ptx_support import fails, kernel, results


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
