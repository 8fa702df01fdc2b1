"""Oracles of integer formats besides compressed-tensors: torchao, optimum-quanto and gguf-py.

Each gives what a library stores for a float matrix and what it decodes that to, in the planes of the codec linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec_conformance.oracles import to_torch


def torchao_int8(x: np.ndarray, symmetric: bool, group: int | None = None) -> Planes:
    """torchao's Int8Tensor of a matrix: a float32 scale and a zero point per row, or per `group` columns of a row."""
    from torchao.quantization.granularity import PerGroup, PerRow
    from torchao.quantization.quant_primitives import MappingType
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

    granularity = PerGroup(group) if group else PerRow()
    mapping = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
    found: Any = Int8Tensor.from_hp(to_torch(x), granularity, mapping)
    return _numpy(codes=found.qdata, scales=found.scale, zero_points=found.zero_point, decoded=found.dequantize())


def quanto_int8(x: np.ndarray) -> Planes:
    """optimum-quanto's qint8 weight of a matrix: a scale in the array's dtype per row."""
    import optimum.quanto as quanto

    tensor = to_torch(x)
    scale = quanto.AbsmaxOptimizer()(tensor, quanto.qint8, 0)
    found = quanto.WeightQBytesTensor.quantize(tensor, quanto.qint8, 0, scale, None, optimized=False)
    return _numpy(codes=found._data, scales=scale, decoded=found.dequantize())


def gguf_q8_0(x: np.ndarray) -> Planes:
    """gguf-py's Q8_0 of float32 blocks of 32: int8 codes, the float16 scales widened, and what it decodes."""
    from gguf.quants import Q8_0

    stored = Q8_0.quantize_blocks(x.reshape(-1, 32))
    scales = stored[:, :2].copy().view(np.float16).astype(np.float32)
    return {"codes": stored[:, 2:].view(np.int8), "scales": scales, "decoded": Q8_0.dequantize_blocks(stored)}


def gguf_q4_0(x: np.ndarray) -> Planes:
    """gguf-py's Q4_0 of float32 blocks of 32, as `gguf_q8_0`; its nibbles are put in the order of ours."""
    from gguf.quants import Q4_0

    stored = Q4_0.quantize_blocks(x.reshape(-1, 32))
    scales = stored[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([stored[:, 2:] & 15, stored[:, 2:] >> 4], axis=1)  # it has elements i and i + 16 in a byte
    codes = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    return {"codes": codes, "scales": scales, "decoded": Q4_0.dequantize_blocks(stored)}


def _numpy(**tensors: Any) -> Planes:
    import arraycodec_torch

    return {name: arraycodec_torch.to_numpy(tensor.contiguous()) for name, tensor in tensors.items()}


__all__ = ["gguf_q4_0", "gguf_q8_0", "quanto_int8", "torchao_int8"]
