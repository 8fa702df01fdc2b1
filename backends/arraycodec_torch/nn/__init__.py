"""torch modules with encoded weights: drop-in for nn.Linear and for the modules of bitsandbytes and Quanta.

>>> import torch
>>> from arraycodec_torch.nn import Linear4bit
>>> layer = Linear4bit(1024, 4096, quant_type="nf4")
>>> layer.quantize_weight(block_size=64)
Linear4bit(1024, 4096, bias=True, 4.5 bits per weight, Codebook(table='nf4', block_size=64, flavour=None, offset=False))
>>> layer(torch.randn(8, 1024)).shape
torch.Size([8, 4096])
"""

from __future__ import annotations

from arraycodec_torch.nn.bitsandbytes import to_bitsandbytes_state_dict
from arraycodec_torch.nn.calibration import calibrate, importance
from arraycodec_torch.nn.compressed_tensors import to_compressed_tensors
from arraycodec_torch.nn.functional import linear, linear_int8
from arraycodec_torch.nn.model import quantize_model
from arraycodec_torch.nn.quantized import QuantizedLinear
from arraycodec_torch.nn.variants import Linear4bit, Linear8bitLt

__all__ = [
    "Linear4bit",
    "Linear8bitLt",
    "QuantizedLinear",
    "calibrate",
    "importance",
    "linear",
    "linear_int8",
    "quantize_model",
    "to_bitsandbytes_state_dict",
    "to_compressed_tensors",
]
