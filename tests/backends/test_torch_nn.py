"""torch modules with encoded weights: their values, their arguments, and products of integers."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import arraycodec as ac
from arraycodec.errors import NonFiniteError
from arraycodec.registry import SCHEMES
from arraycodec_torch.nn import Linear4bit, Linear8bitLt, QuantizedLinear, linear, linear_int8, quantize_model
from arraycodec_torch.nn.functional import int_mm
from tests.backends.torch_layers import DTYPES, dense, normal

FOUR_BITS = ["nf4", "fp4", "af4", "nf4-double", "int4_linear", "w4a16", "float4_e2m1fn", "mxfp4", "nvfp4"]
MODULES = [
    "arraycodec_torch.nn",
    *(f"arraycodec_torch.nn.{name}" for name in ("functional", "model", "quantized", "variants", "bitsandbytes")),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert attempted and not failed


# -- values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "scheme", [name for name, codec in SCHEMES.items() if name != "llm_int8" and not codec.lossless]
)
def test_product_is_that_with_the_decoded_weight(scheme: str, dtype: torch.dtype) -> None:
    """Bit for bit, with inputs of any float dtype and any number of axes, with and without bias."""
    for bias in (True, False):
        own = dense(bias=bias, dtype=dtype)
        layer = QuantizedLinear.from_float(own, scheme)
        assert layer.encoded.codec == ac.codec(scheme)
        weight = ac.decode(ac.encode(own.weight.detach(), scheme))
        for other in DTYPES if bias else [dtype]:
            x = normal(*{torch.float32: (64,), torch.bfloat16: (5, 64), torch.float16: (2, 3, 64)}[other], dtype=other)
            y = layer(x)
            assert torch.equal(y, F.linear(x, weight.to(other), None if own.bias is None else own.bias.to(other)))
            assert y.dtype == other


@pytest.mark.parametrize("quant_type", FOUR_BITS)
def test_linear4bit_takes_every_scheme_of_4_bits(quant_type: str) -> None:
    layer = Linear4bit(64, 32, quant_type=quant_type)
    weight, x = layer.weight.detach().clone(), normal(3, 64)
    assert torch.equal(layer(x), F.linear(x, weight, layer.bias)), "dense until it is quantised"
    assert layer.quantize_weight() is layer
    assert layer.weight is None
    assert 4 <= layer.encoded.bits_per_element <= 5.1
    assert torch.equal(layer(x), F.linear(x, ac.decode(ac.encode(weight, quant_type)), layer.bias))
    assert not any(p.numel() >= 64 * 32 for p in layer.parameters()), "no dense weight is left"


def test_arguments_of_bitsandbytes_and_quanta() -> None:
    layer = Linear4bit(1024, 256, quant_type="nf4")  # Quanta's README, with fewer outputs
    layer.quantize_weight(block_size=128)
    assert layer.encoded.codec == ac.Codebook("nf4", block_size=128)
    assert layer(torch.randn(8, 1024)).shape == (8, 256)
    nested = Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="fp4")
    assert nested.quantize_weight(block_size=32).encoded.codec.outer == ac.Codebook("fp4", block_size=32)
    assert nested(normal(2, 64, dtype=torch.float16)).dtype == torch.float16
    int8 = Linear8bitLt(64, 64, has_fp16_weights=False, threshold=6.0).quantize_weight()
    assert (int8.threshold, int8.weight_codes.dtype) == (6.0, torch.int8)
    assert "8.5 bits per weight, LLMInt8(threshold=0.0), threshold=6" in repr(int8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear4bit(64, 64, quant_type="nf8"), r"Linear4bit: quant_type must be a scheme of 4 bits \(nf4, fp4"),
        (lambda: Linear4bit(64, 64, quant_type="nf5"), "'nf5' is not known, closest are nf"),
        (lambda: Linear4bit(64, 64, quant_type="mxfp4", compress_statistics=True), "compress_statistics is for 'nf4'"),
        (lambda: Linear8bitLt(64, 64, has_fp16_weights=True), "has_fp16_weights must be False"),
        (lambda: Linear8bitLt(64, 64, threshold=-1), "llm_int8: threshold must be 0.0"),
        (lambda: Linear8bitLt(64, 64, quant_type="nf4"), r"must make int8 rows \(int8-channel, w8a8, llm_int8\)"),
        (lambda: Linear8bitLt(64, 64, quant_type="w8a8", threshold=6.0), "threshold is for 'llm_int8'"),
        (lambda: linear_int8(normal(3, 64), ac.encode(normal(4, 64), "fp8")), "linear_int8: the weight must have int8"),
        (lambda: linear_int8(normal(3, 64), ac.encode(normal(4, 64), "w8a8"), None, 6.0), "threshold must be 0.0 with"),
        (lambda: Linear4bit(64, 64).encoded, "the weight is not quantised yet"),
        (lambda: Linear4bit(64, 64).quantize_weight().quantize_weight(), "quantised already, with Codebook"),
        (lambda: Linear4bit(64, 64).quantize_weight(block_size=0), "block_size must be an integer >= 1"),
        (lambda: Linear4bit(64, 64).quantize_weight(given={"scale": 1}), "given may hold"),
        (lambda: Linear4bit(64, 64, dtype=torch.float64).quantize_weight(), "dtype must be one of float32"),
        (lambda: Linear4bit(64, 8).set_encoded(ac.encode(torch.ones(8, 8), "nf4")), r"must have shape \[8, 64\]"),
        (
            lambda: Linear4bit(64, 8).set_encoded(ac.encode(np.ones((8, 64), np.float32), "nf4")),
            "weight: plane 'codes' must be a torch tensor, got ndarray",
        ),
        (lambda: linear(normal(3, 32), ac.encode(normal(4, 64), "nf4")), r"linear: x must be \(\.\.\., 64\)"),
        (
            lambda: linear_int8(normal(3, 32), ac.encode(normal(4, 64), "w8a8")),
            r"linear_int8: x must be \(\.\.\., 64\)",
        ),
    ],
)
def test_bad_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ac.ArrayCodecError, match=message):
        make()


@pytest.mark.parametrize("kind", [Linear4bit, Linear8bitLt])
@pytest.mark.parametrize("quantised", [True, False])
def test_inputs_of_another_width_or_of_integers_are_refused(kind: type[QuantizedLinear], quantised: bool) -> None:
    layer = kind(64, 32)  # type: ignore[call-arg]  # these two have a codec of their own
    if quantised:
        layer.quantize_weight()
    bad = [normal(100, 65), normal(64, 1), normal(3, 32), torch.tensor(1.0)]
    bad += [torch.ones(5, 64, dtype=dtype) for dtype in (torch.int64, torch.int8, torch.bool)]
    for x in bad:
        with pytest.raises(ac.ArgumentError) as error:
            layer(x)
        want = f"{kind.__name__}: x must be (..., 64) of a float dtype, got {x.dtype}{list(x.shape)}"
        assert str(error.value) == want


def test_given_scales_are_taken() -> None:
    layer, scales = Linear4bit(64, 8, quant_type="int4_linear"), torch.full((8, 1), 0.25)
    layer.quantize_weight(given={"scales": scales})
    assert torch.equal(layer.weight_scales, scales)
    with pytest.raises(NonFiniteError):
        own = dense()
        own.weight.data[3, 4] = torch.nan
        Linear4bit.from_float(own)


def test_from_float_keeps_bias_and_mode() -> None:
    own = dense(dtype=torch.bfloat16).eval()
    layer = Linear4bit.from_float(own, quant_type="fp4")
    assert layer.bias is own.bias
    assert not layer.training
    assert layer.encoded.spec == ac.ArraySpec((32, 64), "bfloat16")


# -- LLM.int8()


def test_int8_product_is_exact_and_scaled_as_documented() -> None:
    a = torch.from_numpy(np.random.default_rng(0).integers(-127, 128, (7, 4099), np.int8))
    b = torch.from_numpy(np.random.default_rng(1).integers(-127, 128, (33, 4099), np.int8))
    a[0], b[0] = 127, -127
    assert torch.equal(int_mm(a, b).long(), a.long() @ b.long().t())
    assert int_mm(a[:, :0], b[:, :0]).equal(torch.zeros(7, 33, dtype=torch.int32))
    assert int_mm(a[:0], b).shape == (0, 33)

    own, x = dense(), normal(2, 5, 64, dtype=torch.bfloat16)
    layer = Linear8bitLt.from_float(own)
    enc, third = ac.encode(x.reshape(10, 64), "llm_int8"), np.float32(1) / np.float32(127)
    acc = (enc.planes["codes"].long() @ layer.weight_codes.long().t()).numpy().astype(np.float32)
    y = (
        acc * (enc.planes["scales"].numpy() * third) * (layer.weight_scales.numpy() * third).T
        + own.bias.detach().numpy()
    )
    assert torch.equal(layer(x), torch.from_numpy(y).bfloat16().reshape(2, 5, 32))
    plain = Linear8bitLt.from_float(own, int8_matmul=False)
    assert torch.equal(plain(x), F.linear(x, ac.decode(layer.encoded).bfloat16(), own.bias.bfloat16()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", ["int8-channel", "w8a8"])
def test_int8_product_of_channels_and_tokens(scheme: str, dtype: torch.dtype) -> None:
    """The input is encoded per token as it comes, by the codec of the weight; the rest is one exact product."""
    own, x = dense(dtype=dtype), normal(2, 5, 64, dtype=dtype)
    layer = Linear8bitLt.from_float(own, quant_type=scheme)
    tokens, weight = ac.encode(x.reshape(10, 64), scheme), layer.encoded
    acc = (tokens.planes["codes"].long() @ weight.planes["codes"].long().t()).float()
    y = acc * tokens.planes["scales"].float() * weight.planes["scales"].float().t() + own.bias.detach().float()
    assert torch.equal(layer(x), y.to(dtype).reshape(2, 5, 32))
    grads = [torch.autograd.grad(f(x.requires_grad_()).sum(), x)[0] for f in (layer, lambda x: linear(x, weight))]
    assert torch.equal(*grads)
    want = F.linear(x, own.weight, own.bias).detach().float()
    assert (layer(x).float() - want).abs().mean() < want.abs().mean() / 50


def test_w8a8_quantises_inputs_too() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    quantize_model(model, "w8a8", exclude="1.*")
    quantize_model(model, "int8-channel")
    assert [type(module) for module in model] == [Linear8bitLt, QuantizedLinear]


def test_outliers_of_the_input_are_multiplied_in_float() -> None:
    own, x = dense(256, 512, bias=False), normal(20, 512)
    x[3, 100], x[9, 7] = 80, -60
    want = F.linear(x, own.weight)
    errors = [(Linear8bitLt.from_float(own, threshold=t)(x) - want).abs().mean() for t in (0.0, 6.0)]
    assert errors[1] < errors[0] / 2
    layer = Linear8bitLt.from_float(own, threshold=6.0)
    rest = x.clone()
    rest[:, [7, 100]] = 0
    scales = ac.encode(torch.where(x.abs() >= 6, 0, x), "llm_int8").planes["scales"]
    inner = linear(ac.decode(ac.encode(rest, "llm_int8", given={"scales": scales})), layer.encoded)
    outer = x[:, [7, 100]] @ ac.decode(layer.encoded)[:, [7, 100]].t()
    torch.testing.assert_close(layer(x), inner + outer, rtol=1e-5, atol=1e-4)
    assert torch.isfinite(layer(torch.full((1, 512), torch.inf))).all().item() is False
    assert layer(x[:0]).shape == (0, 256)


def test_bitsandbytes_product_has_another_constant() -> None:
    """6.200124e-05 for 1/127^2, so its outputs are 1.8e-5 too large on the CPU."""
    pytest.importorskip("bitsandbytes")
    own, x = dense(bias=False, dtype=torch.float16), normal(10, 64, dtype=torch.float16)
    layer, acc = Linear8bitLt.from_float(own), ac.encode(x, "llm_int8")
    product = int_mm(acc.planes["codes"], layer.weight_codes)
    rows, columns = acc.planes["scales"].view(-1), layer.weight_scales.view(-1)
    theirs = torch.ops.bitsandbytes.int8_mm_dequant.default(product, rows, columns, dtype=torch.float32).double()
    exact = product.double() * rows.double()[:, None] * columns.double() / 127**2
    ours = linear_int8(x.float(), layer.encoded).double()
    keep = exact.abs() > 1
    assert float(((ours - exact) / exact)[keep].abs().max()) < 3e-7
    assert 1.78e-5 < float(((theirs - exact) / exact)[keep].min()) < 1.84e-5
