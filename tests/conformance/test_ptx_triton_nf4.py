"""Compiled Triton kernels in the PTX executor: encoding and decoding nf4, bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from arraycodec_conformance import ptx

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

TARGETS = ["sm_80", "sm_90", "sm_100"]
Array = np.ndarray[Any, np.dtype[Any]]
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
