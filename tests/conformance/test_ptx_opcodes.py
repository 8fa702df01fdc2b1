"""The list of opcodes that the PTX executor supports, and that each has an oracle."""

from __future__ import annotations

from arraycodec_conformance import ptx
from arraycodec_conformance.ptx.opcodes import TABLE
from tests.conformance import test_ptx_convert, test_ptx_float, test_ptx_integer, test_ptx_lanes, test_ptx_logic

TESTED_BY_PROGRAMS = ("ld", "st", "ldmatrix", "stmatrix", "bar", "bra", "ret", "exit", "createpolicy")


def test_no_opcode_without_an_oracle() -> None:
    modules = test_ptx_float, test_ptx_integer, test_ptx_logic, test_ptx_convert, test_ptx_lanes
    tested = set().union(*(module.TESTED for module in modules))
    assert tested == {opcode for opcode in TABLE if opcode.split(".")[0] not in TESTED_BY_PROGRAMS}


def test_supported_opcodes_are_listed() -> None:
    listed = ptx.supported_opcodes()
    assert listed == sorted(listed)
    assert {"bar.sync", "lop3.b32", "add.{s16,s32,s64,u16,u32,u64}"} <= set(listed)
