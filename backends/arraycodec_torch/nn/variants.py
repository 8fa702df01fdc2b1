"""`Linear4bit` and `Linear8bitLt`: the names and arguments that bitsandbytes and Quanta made common."""

from __future__ import annotations

from typing import Any

import torch

from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.errors import ArgumentError
from arraycodec.spec import ArraySpec
from arraycodec_torch.nn import functional
from arraycodec_torch.nn.quantized import QuantizedLinear


class Linear4bit(QuantizedLinear):
    """A `QuantizedLinear` with codes of 4 bits.

    quant_type           a scheme of 4 bits ("nf4", "fp4", "int4_linear", "float4_e2m1fn", "mxfp4", "nvfp4", "w4a16",
                         ...) or a codec.
    compress_statistics  nf4 and fp4: encode the scales too, as bitsandbytes does; the schemes nf4-double, fp4-double.

    >>> layer = Linear4bit(256, 64, quant_type="int4_linear").quantize_weight(block_size=32)
    >>> layer.weight_codes.shape, layer.encoded.bits_per_element
    (torch.Size([64, 128]), 5.0)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = False,
        quant_type: str | Codec = "nf4",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if compress_statistics and quant_type not in ("nf4", "fp4"):
            raise ArgumentError(
                f"Linear4bit: compress_statistics is for 'nf4' and 'fp4', got quant_type={quant_type!r}"
            )
        scheme = f"{quant_type}-double" if compress_statistics else quant_type
        super().__init__(in_features, out_features, scheme, bias, compute_dtype, device, dtype)

    @classmethod
    def checked(cls, codec: Codec) -> Codec:
        if code_bits(codec) != 4:
            schemes = ", ".join(name for name, found in registry.SCHEMES.items() if code_bits(found) == 4)
            raise ArgumentError(f"Linear4bit: quant_type must be a scheme of 4 bits ({schemes}), got {codec!r}")
        return codec


class Linear8bitLt(QuantizedLinear):
    """int8 rows of the weight times int8 rows of the input, by an exact int32 product.

    threshold         llm_int8: columns of the input with such a magnitude are multiplied in float; 0.0: none. 6.0 is
                      usual, and what LLM.int8() is about.
    int8_matmul       False: decode the weight and multiply in the input's dtype, as other modules do.
    quant_type        the rows of weight and input: "llm_int8", as bitsandbytes; "int8-channel", symmetric integers per
                      channel and, as they come, per token; "w8a8", the same as compressed-tensors computes them.
    has_fp16_weights  only False: a dense weight that is quantised at each call is not offered.

    The gradient of the input is that of a product with the decoded weight.

    >>> layer = Linear8bitLt(256, 64, threshold=6.0).quantize_weight()
    >>> layer.weight_codes.dtype, layer(torch.randn(2, 256)).shape
    (torch.int8, torch.Size([2, 64]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        has_fp16_weights: bool = False,
        threshold: float = 0.0,
        int8_matmul: bool = True,
        compute_dtype: torch.dtype | None = None,
        quant_type: str | Codec = "llm_int8",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if has_fp16_weights:
            raise ArgumentError("Linear8bitLt: has_fp16_weights must be False: quantize_weight() keeps int8 alone")
        super().__init__(in_features, out_features, quant_type, bias, compute_dtype, device, dtype)
        self.threshold = LLMInt8(threshold).threshold  # checked
        if threshold and not isinstance(self.codec, LLMInt8):
            raise ArgumentError(f"Linear8bitLt: threshold is for 'llm_int8', got quant_type={quant_type!r}")
        self.int8_matmul = int8_matmul

    @classmethod
    def checked(cls, codec: Codec) -> Codec:
        if not functional.has_int8_rows(codec):
            schemes = ", ".join(name for name, found in registry.SCHEMES.items() if functional.has_int8_rows(found))
            raise ArgumentError(f"Linear8bitLt: quant_type must make int8 rows ({schemes}), got {codec!r}")
        return codec

    def product(self, x: torch.Tensor) -> torch.Tensor:
        if self.spec is None or not self.int8_matmul:
            return super().product(x)
        (text, _, dtype), (codes, scales) = self._operands, self._planes()
        return torch.ops.arraycodec.linear_int8(x, codes, scales, self.bias, text, dtype, self.threshold)

    def extra_repr(self) -> str:
        split = f", threshold={self.threshold:g}" if self.threshold else ""
        return super().extra_repr() + split


def code_bits(codec: Codec) -> float:
    """Bits of a code, whatever scales take."""
    while isinstance(codec, Then):
        codec = codec.outer
    spec = ArraySpec((256, 256), "float32")
    codes = codec.planes(spec).get("codes")
    return 8 * codes.nbytes / spec.size if codes else 0
