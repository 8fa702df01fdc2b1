"""Layers with known values for the tests of torch modules, and the bits of what they hold."""

from __future__ import annotations

import torch
from torch import nn

from arraycodec_torch.nn import QuantizedLinear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense(rows: int = 32, columns: int = 64, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    module = nn.Linear(columns, rows, bias, dtype=dtype)
    with torch.no_grad():
        module.weight.copy_(normal(rows, columns, seed=1, dtype=dtype))
        if bias:
            module.bias.copy_(normal(rows, seed=2, dtype=dtype))
    return module


def bits(module: QuantizedLinear) -> dict[str, bytes]:
    planes = {name: plane.cpu().contiguous() for name, plane in module.encoded.planes.items()}
    return {name: plane.reshape(-1).view(torch.uint8).numpy().tobytes() for name, plane in planes.items()}
