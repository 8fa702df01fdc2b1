"""torchao's tensor subclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from arraycodec.checkpoints.peers.entry import Calls, Entry
from arraycodec.checkpoints.peers.tensors import stored, tensor

NAME = "torchao"


def _calls(encode: Callable[[], Any]) -> Calls:
    return Calls(encode, lambda encoded: encoded.dequantize(), stored)


def _int8(x: np.ndarray) -> Calls:
    from torchao.quantization import Int8Tensor, PerRow

    weight = tensor(x)
    return _calls(lambda: Int8Tensor.from_hp(weight, PerRow()))


def _int4(x: np.ndarray) -> Calls:
    import torch
    from torchao.quantization import IntxUnpackedToInt8Tensor

    weight, kind = tensor(x), vars(torch)["int4"]  # which torch's type stubs do not know
    return _calls(lambda: IntxUnpackedToInt8Tensor.from_hp(weight, (1, 128), kind))


def _float8(x: np.ndarray) -> Calls:
    from torchao.quantization import Float8Tensor, PerRow

    weight = tensor(x)
    return _calls(lambda: Float8Tensor.from_hp(weight, granularity=PerRow()))


def _nf4(x: np.ndarray) -> Calls:
    from torchao.quantization import to_nf4

    weight = tensor(x)
    return Calls(lambda: to_nf4(weight, 64, 256), lambda encoded: encoded.get_original_weight(), stored)


def _mx(element: str) -> Callable[[np.ndarray], Calls]:
    def prepare(x: np.ndarray) -> Calls:
        import torch
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        weight, kind = tensor(x), getattr(torch, element, element)
        return _calls(lambda: MXTensor.to_mx(weight, kind))

    return prepare


def _nvfp4(x: np.ndarray) -> Calls:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    weight = tensor(x)
    return _calls(lambda: NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=per_tensor_amax_to_scale(weight.abs().max())))


ENTRIES = (
    Entry(NAME, "Int8Tensor, rows", "w8a8", {}, "multiplies by reciprocals", _int8),
    Entry(NAME, "IntxUnpackedToInt8Tensor, int4", "w4a16", {}, "multiplies by reciprocals, a byte per code", _int4),
    Entry(NAME, "Float8Tensor, rows", "fp8-channel", {}, "same", _float8),
    Entry(NAME, "NF4Tensor", "nf4-double", {}, "linear 8-bit statistics", _nf4),
    Entry(NAME, "MXTensor, mxfp4", "mxfp4", {}, "same", _mx("float4_e2m1fn_x2")),
    Entry(NAME, "MXTensor, mxfp6", "mxfp6", {}, "a byte per code", _mx("fp6_e2m3")),
    Entry(NAME, "MXTensor, mxfp8", "mxfp8", {}, "same", _mx("float8_e4m3fn")),
    Entry(NAME, "NVFP4Tensor", "nvfp4", {}, "multiplies by the global scale", _nvfp4),
)  # fmt: skip
