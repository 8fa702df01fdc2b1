"""Products with an encoded weight: two operators that decode, multiply and forget the dense weight again.

A compiler sees operators, not the decoding: so neither torch.compile nor autograd can keep the dense weight for the
backward pass, which decodes it anew. The codec is an argument, as in `arraycodec_torch.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

import arraycodec as ac
from arraycodec.base import Codec, Encoded
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.llm_int8 import UNIT, LLMInt8
from arraycodec.spec import ArraySpec
from arraycodec_torch import ops
from arraycodec_torch.implementations import chosen

STEP = float(UNIT.view("f4")) / 256  # 1/127 rounded to float32
_LINEAR = "(Tensor x, Tensor[] planes, Tensor? bias, str codec, SymInt[] shape, str dtype, bool back) -> Tensor"
_INT8 = "(Tensor x, Tensor codes, Tensor scales, Tensor? bias, str codec, str dtype, float threshold) -> Tensor"


def linear(x: torch.Tensor, weight: Encoded, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear` with an encoded weight, which is decoded for the product and kept by nothing.

    x       (..., in) of any float dtype; the weight is decoded to its own dtype and used in that of `x`.
    weight  an Encoded of (out, in). Its planes get no gradient; `x` and `bias` do.

    >>> import torch, arraycodec as ac
    >>> weight = ac.encode(torch.eye(64), "nf4")
    >>> linear(torch.arange(64.0), weight).equal(torch.arange(64.0))
    True
    """
    codec, shape, dtype = ops.to_text(weight.codec), list(weight.spec.known_shape), weight.spec.dtype
    check_input("linear", x, shape[-1])
    planes = [weight.planes[name] for name in _names(codec, shape, dtype)]
    return torch.ops.arraycodec.linear(x, planes, bias, codec, shape, dtype, False)


def linear_int8(
    x: torch.Tensor, weight: Encoded, bias: torch.Tensor | None = None, threshold: float = 0.0
) -> torch.Tensor:
    """int8 rows of `x` times int8 rows of the weight: their exact int32 product, scaled in float32.

    x          (..., in), float32, bfloat16 or float16; each row is encoded with the weight's codec as it comes.
    weight     an Encoded of (out, in) with a codec that `has_int8_rows`: llm_int8, int8-channel or w8a8.
    threshold  llm_int8: columns of `x` with such a magnitude are multiplied in float32 with the decoded weight's, as
               in LLM.int8(); 0.0: none.

    The gradient of `x` is that of a product with the decoded weight.

    >>> import torch, arraycodec as ac
    >>> weight = ac.encode(torch.eye(64), "llm_int8")
    >>> linear_int8(torch.full((1, 64), 127.0), weight)[0, :3]
    tensor([127., 127., 127.])
    """
    codec, dtype = ops.to_text(weight.codec), weight.spec.dtype
    check_input("linear_int8", x, weight.spec.known_shape[-1])
    codes, scales = weight.planes["codes"], weight.planes["scales"]
    return torch.ops.arraycodec.linear_int8(x, codes, scales, bias, codec, dtype, threshold)


def has_int8_rows(codec: Codec) -> bool:
    """Whether the codec makes int8 rows with a scale each and no zero points, as an int8 product needs."""
    if isinstance(codec, Linear):
        return codec.bits == 8 and codec.symmetric and codec.block_size == (1, None)
    return codec == LLMInt8()


def check_input(where: str, x: torch.Tensor, width: int) -> None:
    """Raise ArgumentError unless `x` is (..., width) of a float dtype: products in integers would round the weight."""
    if not x.dtype.is_floating_point or not x.dim() or x.shape[-1] != width:
        raise ac.ArgumentError(f"{where}: x must be (..., {width}) of a float dtype, got {x.dtype}{list(x.shape)}")


def _names(codec: str, shape: list[int], dtype: str) -> list[str]:
    return list(ops.from_text(codec).planes(ArraySpec(tuple(shape), dtype)))


_names.__dict__["_dynamo_marked_constant"] = True  # Dynamo calls it while it traces: codecs are not for it to follow


def int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The int32 product of int8 (m, k) and int8 (n, k) transposed, exact for k below 2^17."""
    (m, k), n = a.shape, b.shape[0]
    if not m * k * n:
        return torch.zeros((m, n), dtype=torch.int32, device=a.device)
    if a.device.type != "cpu":  # cuBLAS wants more than 16 rows, and multiples of 8
        a = F.pad(a, (0, -k % 8, 0, max(17 - m, 0)))
        b = F.pad(b, (0, -k % 8, 0, -n % 8))
    return torch._int_mm(a, b.t())[:m, :n]  # type: ignore[attr-defined]  # what it is called, underscore and all


@torch.library.custom_op("arraycodec::linear", mutates_args=(), schema=_LINEAR)
def _linear(
    x: torch.Tensor,
    planes: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    codec: str,
    shape: Sequence[int],
    dtype: str,
    back: bool,
) -> torch.Tensor:
    weight = _decoded(planes, codec, shape, dtype, x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x, weight.t() if back else weight, bias).contiguous()


@_linear.register_fake
def _(
    x: torch.Tensor, planes: Any, bias: Any, codec: str, shape: Sequence[int], dtype: str, back: bool
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], shape[1 if back else 0]))


def _save_for_linear(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, planes, _, *ctx.rest = inputs
    ctx.save_for_backward(*planes)


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    codec, shape, dtype, back = ctx.rest
    planes = list(ctx.saved_tensors)
    own = torch.ops.arraycodec.linear(grad, planes, None, codec, shape, dtype, not back)
    return own, [None] * len(planes), _grad_of_bias(ctx, grad, 2), None, None, None, None


_linear.register_autograd(_linear_backward, setup_context=_save_for_linear)


@_linear.register_vmap
def _(info: Any, in_dims: Any, x: torch.Tensor, planes: Any, bias: Any, *rest: Any) -> Any:
    """Over `x` alone: one product with one weight."""
    if any(dim is not None for dim in (*in_dims[1], in_dims[2])):
        raise ac.UnsupportedByBackend("linear: vmap over the planes of a weight, or over its bias, is not supported")
    return torch.ops.arraycodec.linear(x.movedim(in_dims[0], 0), planes, bias, *rest), 0


@torch.library.custom_op("arraycodec::linear_int8", mutates_args=(), schema=_INT8)
def _linear_int8(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    codec: str,
    dtype: str,
    threshold: float,
) -> torch.Tensor:
    own, rows = ops.from_text(codec), x.reshape(-1, codes.shape[1])
    step = STEP if isinstance(own, LLMInt8) else 1.0
    split = chosen(rows).encode(rows, _of_input(own, threshold), {})
    with torch.autocast(x.device.type, enabled=False):
        y = int_mm(split["codes"], codes).to(torch.float32)
        y = y * (split["scales"].to(torch.float32) * step) * (scales.to(torch.float32) * step).t()
        if threshold and split["outlier_columns"].numel():
            part = codes[:, split["outlier_columns"].long()]
            spec = ArraySpec(tuple(part.shape), "float32")
            columns = chosen(part).decode(own, {"codes": part, "scales": scales}, spec, {}, None)
            y = y + split["outliers"].to(torch.float32) @ columns.t()
        if bias is not None:
            y = y + bias.to(torch.float32)
    return y.to(x.dtype).reshape(*x.shape[:-1], codes.shape[0])


def _of_input(codec: Codec, threshold: float) -> Codec:
    """The codec of the input's rows, for the codec of the weight's."""
    if not has_int8_rows(codec):
        raise ac.ArgumentError(f"linear_int8: the weight must have int8 rows (llm_int8, int8-channel), got {codec!r}")
    if isinstance(codec, LLMInt8):
        return replace(codec, threshold=threshold)
    if threshold:
        raise ac.ArgumentError(f"linear_int8: threshold must be 0.0 with {codec!r}, got {threshold!r}")
    return codec


@_linear_int8.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


def _save_for_int8(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, codes, scales, _, *ctx.rest = inputs
    ctx.save_for_backward(codes, scales)


def _int8_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (codec, dtype, _), planes = ctx.rest, list(ctx.saved_tensors)
    own = torch.ops.arraycodec.linear(grad, planes, None, codec, planes[0].shape, dtype, True)
    return own, None, None, _grad_of_bias(ctx, grad, 3), None, None, None


_linear_int8.register_autograd(_int8_backward, setup_context=_save_for_int8)


def _grad_of_bias(ctx: Any, grad: torch.Tensor, index: int) -> torch.Tensor | None:
    return grad.sum(tuple(range(grad.dim() - 1))) if ctx.needs_input_grad[index] else None


def _decoded(
    planes: Sequence[torch.Tensor], codec: str, shape: Sequence[int], stored: str, dtype: torch.dtype
) -> torch.Tensor:
    """The dense weight in `dtype`, as if decoded to its own dtype first; from float32, one rounding does both."""
    found, own = ops.from_text(codec), ArraySpec(tuple(map(int, shape)), stored)
    named = dict(zip(found.planes(own), planes, strict=True))
    narrower = str(dtype).removeprefix("torch.")
    narrow = stored == "float32" and narrower in ("bfloat16", "float16") and found.decodes_to(own, narrower)
    spec = ArraySpec(own.shape, narrower) if narrow else own
    return chosen(planes[0]).decode(found, named, spec, {}, None).to(dtype)
