"""Compiled Triton kernels in the PTX executor: the errors of kernels that only the PTX shows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from arraycodec_conformance import ptx

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

TARGETS = ["sm_80", "sm_90", "sm_100"]


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
