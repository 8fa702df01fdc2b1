"""Tiny checkpoints of other quantisers, made bit by bit from the descriptions of their formats, and their weights.

Nothing here knows the package: loops over bits, and the formula with which each library dequantises. Running this file
writes the committed ones: `python tests/formats/foreign_modules.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FIXTURES = Path(__file__).with_name("fixtures")
Tensors = dict[str, np.ndarray]
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def stream(codes: list[int], bits: int) -> list[int]:
    """int32 words of a dense little-endian stream of bits."""
    whole = sum(code << (bits * i) for i, code in enumerate(codes))
    words = -(-len(codes) * bits // 32)
    return [((whole >> (32 * i)) & 0xFFFFFFFF) - (1 << 32) * (whole >> (32 * i + 31) & 1) for i in range(words)]


def gptq(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    bits: int,
    group: int,
    *,
    dtype: Any = np.float16,
    symmetric: bool = False,
    v1: bool = True,
    g_idx: np.ndarray | None = None,
    lowest: int = 1,
) -> tuple[Tensors, np.ndarray]:
    """The tensors of a module in GPTQ's layout, and its weight: `(code - zero) * scale` in the dtype of the scales."""
    groups = -(-columns // group)
    q = rng.integers(0, 1 << bits, (columns, rows))
    zeros = rng.integers(lowest, 1 << bits, (groups, rows))
    zeros = np.full_like(zeros, 1 << (bits - 1)) if symmetric else zeros
    scales = rng.uniform(2**-9, 2**-4, (groups, rows)).astype(dtype)
    of = np.arange(columns) // group if g_idx is None else g_idx
    tensors = {
        "qweight": np.array([stream(q[:, row].tolist(), bits) for row in range(rows)], np.int32).T.copy(),
        "qzeros": np.array([stream((z - v1).tolist(), bits) for z in zeros], np.int32),
        "scales": scales,
        "g_idx": of.astype(np.int32),
    }
    with np.errstate(all="ignore"):
        weight = (q - zeros[of]).astype(dtype) * scales[of]
    return tensors, np.ascontiguousarray(weight.T)


def awq(rng: np.random.Generator, rows: int, columns: int, group: int) -> tuple[Tensors, np.ndarray]:
    """The tensors of a module in AutoAWQ's layout gemm, and its weight: `(code - zero) * scale` in float16."""
    q, zeros = rng.integers(0, 16, (columns, rows)), rng.integers(0, 16, (columns // group, rows))
    scales = rng.uniform(2**-9, 2**-4, zeros.shape).astype(np.float16)

    def packed(codes: np.ndarray) -> np.ndarray:
        words = np.zeros((len(codes), rows // 8), np.int64)
        for word in range(rows // 8):
            for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                words[:, word] |= codes[:, 8 * word + column] << (4 * nibble)
        return words.astype(np.uint32).view(np.int32)

    of = np.arange(columns) // group
    weight = (q - zeros[of]).astype(np.float16) * scales[of]
    return {"qweight": packed(q), "qzeros": packed(zeros), "scales": scales}, np.ascontiguousarray(weight.T)


def nvfp4(rng: np.random.Generator, rows: int, columns: int) -> tuple[Tensors, np.ndarray]:
    """The tensors of a module of ModelOpt, and its weight: `value * (scale * factor)` in float32, then bfloat16."""
    codes = rng.integers(0, 16, (rows, columns))
    bytes_ = rng.integers(1, 0x7F, (rows, columns // 16)).astype(np.uint8)
    factor = np.array(3.7e-5, np.float32)
    step = bytes_.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * factor
    tensors = {
        "weight": (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8),
        "weight_scale": bytes_.view(ml_dtypes.float8_e4m3fn),
        "weight_scale_2": factor,
        "input_scale": np.array(0.02, np.float32),
    }
    return tensors, (FP4[codes] * np.repeat(step, 16, axis=1)).astype(ml_dtypes.bfloat16)


def fp8(
    rng: np.random.Generator, shape: tuple[int, ...], block: tuple[int, int] | None, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float8 codes, scales of blocks, and the weight: `code * scale` in float32, then bfloat16."""
    magnitude = rng.integers(0, 0x7F, shape).astype(np.uint8)
    codes = (magnitude | (rng.integers(0, 2, shape) << 7).astype(np.uint8)).view(ml_dtypes.float8_e4m3fn)
    *leading, rows, columns = shape
    height, width = block or (rows, columns)
    scales = rng.uniform(2**-12, 2**-8, (*leading, -(-rows // height), -(-columns // width))).astype(dtype)
    spread = scales.astype(np.float32).repeat(height, -2).repeat(width, -1)[..., :rows, :columns]
    return codes, scales, (codes.astype(np.float32) * spread).astype(ml_dtypes.bfloat16)


def int8(rng: np.random.Generator, rows: int, columns: int) -> tuple[Tensors, np.ndarray]:
    """The tensors of SmoothQuant's W8A8 as llm-compressor stores it: int8 and a bfloat16 scale per row."""
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales = rng.uniform(2**-9, 2**-6, (rows, 1)).astype(ml_dtypes.bfloat16)
    weight = codes.astype(np.float32) * scales.astype(np.float32)
    return {"weight": codes, "weight_scale": scales}, weight.astype(ml_dtypes.bfloat16)


def two_of_four(rng: np.random.Generator, rows: int, columns: int) -> tuple[Tensors, np.ndarray]:
    """The tensors of SparseGPT's 2:4 weights as compressed-tensors 0.14 stored them, and the weight."""
    kept = np.array([rng.permutation([1, 1, 0, 0]) for _ in range(rows * columns // 4)]).reshape(rows, columns) == 1
    weight = np.where(kept, rng.standard_normal((rows, columns)) + 2, 0).astype(ml_dtypes.bfloat16)
    bitmask = np.zeros((rows, -(-columns // 8)), np.uint8)
    for row, column in zip(*np.nonzero(kept), strict=True):
        bitmask[row, column // 8] |= 1 << (column % 8)
    stored = {
        "shape": np.array([[rows], [columns]], np.int64),
        "compressed": weight[kept].reshape(rows, columns // 2),
        "bitmask": bitmask,
    }
    return stored, weight


def shuffled_groups(rng: np.random.Generator, columns: int, group: int) -> np.ndarray:
    """The group of each column where groups are not neighbours, as many columns in each."""
    return rng.permutation(np.arange(columns) // group)


def named(module: str, tensors: Tensors) -> Tensors:
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}


def checkpoints() -> dict[str, tuple[Tensors, dict[str, Any], Tensors]]:
    """format -> stored tensors, config.json, and the weights that they stand for."""
    rng = np.random.default_rng(20261121)
    norm = {"model.norm.weight": np.ones(32, np.float16)}
    plain, two = gptq(rng, 32, 64, 4, 32, symmetric=True), gptq(rng, 32, 64, 4, 32, symmetric=True)
    ordered = gptq(rng, 32, 96, 3, 32, v1=False, g_idx=shuffled_groups(rng, 96, 32))
    awq_weight, fp4 = awq(rng, 32, 64, 32), nvfp4(rng, 8, 64)
    tensor, block = fp8(rng, (8, 32), None), fp8(rng, (40, 72), (16, 32))
    w8a8, sparse = int8(rng, 16, 32), two_of_four(rng, 16, 40)
    w8a8_config = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True,
            },
        }},
    }  # fmt: skip
    return {
        "gptq": (
            {
                **named("model.a", plain[0]), **named("model.b", two[0]), **norm,
                "model.a.bias": np.zeros(32, np.float16),
            },
            {
                "torch_dtype": "float16",
                "quantization_config": {
                    "quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
                    "checkpoint_format": "gptq", "pack_dtype": "int32", "meta": {"quantizer": ["gptqmodel:2.0.0"]},
                },
            },
            {"model.a.weight": plain[1], "model.b.weight": two[1]},
        ),
        "gptq_act_order": (
            named("model.a", ordered[0]),
            {
                "torch_dtype": "float16",
                "quantization_config": {
                    "quant_method": "gptq", "bits": 3, "group_size": 32, "desc_act": True, "sym": False,
                    "checkpoint_format": "gptq_v2",
                },
            },
            {"model.a.weight": ordered[1]},
        ),
        "awq": (
            {**named("model.a", awq_weight[0]), **norm},
            {
                "torch_dtype": "float16",
                "quantization_config": {
                    "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
                    "modules_to_not_convert": None,
                },
            },
            {"model.a.weight": awq_weight[1]},
        ),
        "modelopt": (
            {
                **named("model.a", fp4[0]), "model.b.weight": tensor[0], "model.b.weight_scale": tensor[1].reshape(()),
                "model.b.input_scale": np.array(0.1, np.float32), "model.attn.k_scale": np.array(0.5, np.float32),
                "model.norm.weight": np.ones(32, ml_dtypes.bfloat16),
            },
            {
                "dtype": "bfloat16",
                "quantization_config": {
                    "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "kv_cache_scheme": None,
                    "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.39.0"},
                },
            },
            {"model.a.weight": fp4[1], "model.b.weight": tensor[2]},
        ),
        "block_fp8": (
            {
                "model.a.weight": block[0], "model.a.weight_scale_inv": block[1],
                "model.norm.weight": np.ones(32, ml_dtypes.bfloat16),
            },
            {
                "torch_dtype": "bfloat16",
                "quantization_config": {
                    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                    "weight_block_size": [16, 32],
                },
            },
            {"model.a.weight": block[2]},
        ),
        "sparsegpt": (
            named("model.a", sparse[0]),
            {
                "torch_dtype": "bfloat16",
                "quantization_config": {
                    "quant_method": "compressed-tensors", "version": "0.9.4",
                    "sparsity_config": {
                        "format": "sparse-24-bitmask", "global_sparsity": 0.5, "ignore": ["lm_head"],
                        "registry_requires_subclass": False, "sparsity_structure": "2:4", "targets": ["Linear"],
                    },
                },
            },
            {"model.a.weight": sparse[1]},
        ),
        "smoothquant": (
            named("model.a", w8a8[0]),
            {"torch_dtype": "bfloat16", "quantization_config": w8a8_config},
            {"model.a.weight": w8a8[1]},
        ),
    }  # fmt: skip


def main() -> None:
    """Write the committed fixtures anew."""
    from safetensors.numpy import save_file

    for name, (tensors, config, weights) in checkpoints().items():
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        save_file(weights, folder / "expected.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
