"""State dicts of torch modules, ours, nn.Linear's and bitsandbytes', both ways; and models quantised in place."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import arraycodec as ac
from arraycodec.errors import ArgumentError
from arraycodec_torch.nn import Linear4bit, Linear8bitLt, QuantizedLinear, quantize_model, to_bitsandbytes_state_dict
from tests.backends.torch_layers import bits, dense, normal

State = dict[str, torch.Tensor]


# -- our own keys


@pytest.mark.parametrize("scheme", ["nf4", "nf4-double", "fp8", "nvfp4", "mxfp4", "llm_int8"])
def test_round_trip_into_any_module(scheme: str) -> None:
    """Bit for bit: into a module not quantised yet, one with other planes, and one on no device yet."""
    layer, x = QuantizedLinear.from_float(dense(dtype=torch.bfloat16), scheme), normal(3, 64)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert "weight" not in state
    fresh = QuantizedLinear(64, 32, "int8-channel", dtype=torch.bfloat16)
    other = QuantizedLinear.from_float(dense(), "mxfp6")
    twin = QuantizedLinear.from_float(dense(dtype=torch.bfloat16), scheme)
    twin.weight_codes.zero_()
    address = twin.weight_codes.data_ptr()
    for module in (fresh, other, twin):
        assert not any(module.load_state_dict(state))
        assert (module.codec, module.encoded.spec) == (layer.codec, layer.encoded.spec)
        assert bits(module) == bits(layer)
        assert module.weight is None
        assert torch.equal(module.bias, layer.bias)
        assert module.weight_codes.data_ptr() != state["weight_codes"].data_ptr(), "copied, as by nn.Linear"
    assert torch.equal(twin(x), layer(x))
    assert twin.weight_codes.data_ptr() == address, "into the memory that was there"

    with torch.device("meta"):
        empty = QuantizedLinear(64, 32, scheme, dtype=torch.bfloat16).quantize_weight()
        blank = QuantizedLinear(64, 32, scheme, dtype=torch.bfloat16)
    for module in (empty, blank):
        module.load_state_dict(state, assign=True)
        assert bits(module) == bits(layer)
        assert module.weight_codes.data_ptr() == state["weight_codes"].data_ptr()


def test_a_dense_weight_is_encoded_by_a_quantised_module() -> None:
    own, new = dense(), nn.Linear(64, 32)
    fresh, layer = Linear4bit(64, 32), Linear4bit.from_float(own, quant_type="fp4")
    assert not any(fresh.load_state_dict(new.state_dict()))
    assert torch.equal(fresh.weight, new.weight), "one that is not quantised stays so"
    assert not any(layer.load_state_dict(new.state_dict()))
    assert bits(layer) == bits(Linear4bit.from_float(new, quant_type="fp4"))
    assert torch.equal(layer.bias, new.bias)


def test_what_does_not_fit_is_an_error() -> None:
    layer = Linear4bit.from_float(dense())
    state = layer.state_dict()
    shorter = {name: tensor for name, tensor in state.items() if name != "weight_absmax"}
    garbled = state | {"weight_codec": torch.zeros(4, dtype=torch.uint8)}
    foreign = Linear8bitLt.from_float(dense()).state_dict()
    newer = json.dumps({"codec": {"name": "nf12"}, "shape": [32, 64], "dtype": "float32"})
    unknown = state | {"weight_codec": torch.tensor(list(newer.encode()), dtype=torch.uint8)}
    bad: list[tuple[State, str]] = [
        (shorter, "weight: key weight_absmax is missing"),
        (garbled, "weight_codec: must be JSON with codec, shape and dtype"),
        (unknown, "'nf12' is not known"),
        (foreign, "Linear4bit: quant_type must be a scheme of 4 bits"),
        (Linear4bit.from_float(dense(16, 64)).state_dict(), r"must have shape \[32, 64\], got \[16, 64\]"),
        (state | {"weight_codes": state["weight_codes"][:, :5]}, "plane 'codes' must be"),
        (state | {"weight_absmax": state["weight_absmax"].half()}, "plane 'absmax' must be"),
        ({"bias": state["bias"]}, "Missing key.*weight_codes"),
        (state | {"more": state["bias"]}, "Unexpected key.*more"),
    ]
    before = bits(layer)
    for wrong, message in bad:
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict(wrong)
        assert bits(layer) == before
    codeless = {f"up.{name}": tensor for name, tensor in state.items() if name != "weight_codes"}
    with pytest.raises(RuntimeError, match=r"up\.weight: key up\.weight_codes is missing"):
        nn.ModuleDict({"up": layer}).load_state_dict(codeless)
    missing, unexpected = layer.load_state_dict({"more": state["bias"]}, strict=False)
    assert sorted(missing) == ["bias", "weight_absmax", "weight_codes"]
    assert unexpected == ["more"]


def test_files(tmp_path) -> None:
    """A model's state dict is tensors alone, so safetensors can hold it."""
    safetensors = pytest.importorskip("safetensors.torch")
    model = nn.Sequential(Linear4bit.from_float(dense(), quant_type="nvfp4"), Linear8bitLt.from_float(dense(8, 32)))
    safetensors.save_file(model.state_dict(), tmp_path / "x.safetensors")
    other = nn.Sequential(Linear4bit(64, 32), Linear8bitLt(32, 8))
    other.load_state_dict(safetensors.load_file(tmp_path / "x.safetensors"))
    assert torch.equal(other(normal(2, 64)), model(normal(2, 64)))


# -- bitsandbytes


def from_bitsandbytes(kind: str, dtype: torch.dtype, **options: Any) -> tuple[State, torch.Tensor, Any]:
    """A state dict that bitsandbytes wrote, the weight that it decodes, and its module."""
    bnb = pytest.importorskip("bitsandbytes")
    own = dense(32, 64, dtype=dtype)
    if kind == "int8":
        module = bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    else:
        module = bnb.nn.Linear4bit(64, 32, quant_type=kind, **options)
    module.load_state_dict(own.state_dict())
    module.bias.data = own.bias.data
    if kind != "int8":
        module.weight.data = own.weight.data
    module.to("cpu")
    if kind == "int8":
        weight = bnb.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).half()
    else:
        weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    return module.state_dict(), weight, module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("table", ["nf4", "fp4"])
def test_4_bit_states_of_bitsandbytes(table: str, nested: bool, dtype: torch.dtype) -> None:
    """Read with the same decoded bits, and written again as they were; packed in any storage dtype."""
    storage = torch.bfloat16 if dtype == torch.bfloat16 else torch.uint8
    state, weight, module = from_bitsandbytes(table, dtype, compress_statistics=nested, quant_storage=storage)
    for layer in (Linear4bit(64, 32, dtype=dtype), Linear4bit.from_float(dense(dtype=dtype), quant_type="mxfp4")):
        assert not any(layer.load_state_dict(dict(state)))
        assert torch.equal(ac.decode(layer.encoded), weight)
        assert ac.decode(layer.encoded).dtype == dtype
        x = normal(3, 64, dtype=dtype).requires_grad_()  # without a gradient its CPU path packs the weight anew
        assert torch.equal(layer(x), module(x))
    back = to_bitsandbytes_state_dict(nn.ModuleDict({"a": layer}))
    assert {name.removeprefix("a.") for name in back} == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[f"a.{name}"].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)), name
    bnb = pytest.importorskip("bitsandbytes")
    stats = {name.removeprefix("a.weight."): tensor for name, tensor in back.items() if name.startswith("a.weight.")}
    params = bnb.nn.Params4bit.from_prequantized(back["a.weight"], stats, device="cpu")
    assert torch.equal(bnb.functional.dequantize_4bit(params.data, params.quant_state), weight)


def test_int8_states_of_bitsandbytes() -> None:
    state, weight, _ = from_bitsandbytes("int8", torch.float16)
    layer = Linear8bitLt(64, 32, dtype=torch.float16)
    assert not any(layer.load_state_dict(dict(state)))
    assert torch.equal(ac.decode(layer.encoded), weight)
    back = to_bitsandbytes_state_dict(layer)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
    with pytest.raises(RuntimeError, match=r"bitsandbytes: weight_format must be 0 \(row\), got 2"):
        layer.load_state_dict(state | {"weight_format": torch.tensor(2, dtype=torch.uint8)})


def test_damaged_states_of_bitsandbytes_are_refused() -> None:
    """Among them what its Linear4bit saves after it packed the weight anew for AVX512_BF16."""
    state, _, _ = from_bitsandbytes("nf4", torch.float32, compress_statistics=False)
    facts = "weight.quant_state.bitsandbytes__nf4"
    bad = [
        (
            {"weight.absmax": torch.ones(1, 32, dtype=torch.bfloat16)},
            "absmax must be float32 .* AVX512_BF16 saves such",
        ),
        ({"weight.quant_map": torch.zeros(16)}, "quant_map must be the table of nf4"),
        (
            {facts: torch.zeros(3, dtype=torch.uint8)},
            "bitsandbytes: quant_state.bitsandbytes__nf4 or what belongs to it",
        ),
        ({"weight": torch.zeros(7, 1, dtype=torch.uint8)}, "weight must be uint8 with 1024 elements"),
    ]
    for change, message in bad:
        with pytest.raises(RuntimeError, match=message):
            Linear4bit(64, 32).load_state_dict(state | change)
    with pytest.raises(RuntimeError, match=r"quant_state.* or what belongs to it .* quant_map is missing"):
        Linear4bit(64, 32).load_state_dict({k: v for k, v in state.items() if k != "weight.quant_map"})
    with pytest.raises(RuntimeError, match=r"quant_state.* or what belongs to it .* absmax is missing"):
        Linear4bit(64, 32).load_state_dict({k: v for k, v in state.items() if k != "weight.absmax"})


def test_what_bitsandbytes_does_not_have_is_refused() -> None:
    for layer in (Linear4bit.from_float(dense(), quant_type="mxfp4"), QuantizedLinear.from_float(dense(), "nf8")):
        with pytest.raises(ArgumentError, match="bitsandbytes: has nf4, fp4 and llm_int8 weights"):
            to_bitsandbytes_state_dict(layer)


# -- models


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(100, 64), nn.ModuleList([Block(), Block()])
        self.gate, self.head = nn.Linear(64, 4), nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h) + self.gate(h).sum()


def test_quantize_model_says_what_became_of_every_parameter() -> None:
    model, tokens = Model(), torch.arange(10)
    before, biases = model(tokens).detach(), [block.up.bias for block in model.blocks]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    report = quantize_model(model, "nf4")
    assert list(report) == names
    assert {name for name, decision in report.items() if decision.codec} == {
        f"blocks.{i}.{which}.weight" for i in range(2) for which in ("up", "down")
    }
    reasons = {
        name: report[name].reason for name in ("embed.weight", "head.weight", "gate.weight", "blocks.0.norm.weight")
    }
    assert reasons == {
        "embed.weight": "Embedding: not an nn.Linear",
        "head.weight": "shared with embed.weight",
        "gate.weight": "smaller than 4 KB",
        "blocks.0.norm.weight": "1-D: norms and biases stay plain",
    }
    assert isinstance(model.blocks[1].down, Linear4bit)
    assert [block.up.bias for block in model.blocks] == biases, "the same parameters, for optimizers that hold them"
    assert 0 < (model(tokens) - before).abs().mean() < before.abs().mean() / 10
    again = quantize_model(model, "fp4")
    assert not any(decision.codec for decision in again.values())
    assert list(again) == names
    assert again["blocks.0.up.weight"].reason == f"quantised already, with {ac.codec('nf4')!r}"
    with pytest.raises(
        ArgumentError, match=r"include: 'blocks\.0\.up\.weight' quantises nothing: .* quantised already"
    ):
        quantize_model(model, "fp4", include="blocks.0.up.weight")


def test_include_and_exclude_are_those_of_checkpoints() -> None:
    model = Model()
    report = quantize_model(model, "int8-channel", include=["gate.weight", "head*"], exclude=["blocks.0.*", "embed*"])
    assert {name for name, decision in report.items() if decision.codec} == {
        "blocks.1.up.weight", "blocks.1.down.weight", "gate.weight", "head.weight",
    }  # fmt: skip
    assert report["blocks.0.up.weight"].reason == "excluded by blocks.0.*"
    assert type(model.gate) is QuantizedLinear
    assert model.embed.weight.dtype == torch.float32, "the tie is cut: the embedding stays"
    with pytest.raises(ArgumentError, match="include: 'lm_head' matches none of"):
        quantize_model(Model(), "nf4", include="lm_head")
    with pytest.raises(ArgumentError, match=r"include: 'embed\.\*' quantises nothing: embed.weight: Embedding: not an"):
        quantize_model(Model(), "nf4", include="embed.*")
    with pytest.raises(ArgumentError, match="the model is a Linear itself"):
        quantize_model(nn.Linear(64, 64), "nf4")


def test_modules_that_would_lose_something_stay() -> None:
    attention = nn.MultiheadAttention(64, 4)
    report = quantize_model(attention, "nf4")
    assert report["out_proj.weight"].reason == "NonDynamicallyQuantizableLinear: not an nn.Linear"
    assert report["in_proj_weight"].reason == "MultiheadAttention: not an nn.Linear"
    hooked = nn.Sequential(nn.Linear(64, 64))
    hooked[0].register_forward_hook(lambda *args: None)
    assert quantize_model(hooked, "nf4")["0.weight"].reason == "has hooks, which a new module would not"
    shared = nn.Linear(64, 64)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert quantize_model(model, "fp4")["2.weight"].codec
    assert model[0] is model[2], "a module used twice is replaced once"


def test_layers_whose_weights_torch_reads_itself_stay() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(64, 64)).eval()
    report = quantize_model(model, "nf4")
    for name in ("linear1", "linear2"):
        assert report[f"0.layers.1.{name}.weight"].reason == "nn.TransformerEncoderLayer reads its weight"
    assert [name for name, decision in report.items() if decision.codec] == ["1.weight"]
    with torch.no_grad():
        assert torch.isfinite(model(normal(2, 3, 64))).all(), "on the fast path"
    with pytest.raises(ArgumentError, match=r"quantises nothing: linear1\.weight: nn\.TransformerEncoderLayer reads"):
        quantize_model(layer, "nf4", include="linear1.weight")
    decoder = nn.TransformerDecoderLayer(64, 4, 128, batch_first=True).eval()
    assert quantize_model(decoder, "nf4")["linear1.weight"].codec
    with torch.no_grad():
        assert torch.isfinite(decoder(normal(2, 3, 64), normal(2, 3, 64))).all()


@pytest.mark.parametrize("scheme", ["llm_int8", ac.LLMInt8(threshold=6.0)])
def test_llm_int8_makes_linear8bitlt(scheme: Any) -> None:
    model = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16)).eval()
    quantize_model(model, scheme)
    assert isinstance(model[0], Linear8bitLt)
    assert model[0].threshold == ac.codec(scheme).threshold
    assert not model[0].training
    assert model(normal(3, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_modules_not_quantised_yet_are_quantised() -> None:
    """In place, where their class can hold the codec: so hooks stay, and options."""
    model = nn.Sequential(Linear4bit(64, 64), QuantizedLinear(64, 64, "nf8"), Linear8bitLt(64, 64, threshold=6.0))
    model.load_state_dict(nn.Sequential(*(dense(64) for _ in range(3))).state_dict())
    before, want = list(model), bits(Linear4bit.from_float(dense(64), quant_type="fp4"))
    model[0].register_forward_hook(lambda *args: None)
    report = quantize_model(model, "fp4")
    assert report["0.weight"].reason == "float32 matrix, of a Linear4bit not quantised yet"
    assert [type(module) for module in model] == [Linear4bit, QuantizedLinear, Linear4bit]
    assert [module is old for module, old in zip(model, before, strict=True)] == [True, True, False]
    for module in model:
        assert module.codec == ac.codec("fp4")
        assert bits(module) == want
        assert torch.equal(module.bias, dense(64).bias)
    assert quantize_model(model, "nf4")["0.weight"].reason.startswith("quantised already")


@pytest.mark.parametrize(
    ("make", "scheme", "kind", "threshold"),
    [
        (lambda: Linear8bitLt(64, 64, threshold=6.0, int8_matmul=False), "llm_int8", Linear8bitLt, 6.0),
        (lambda: Linear8bitLt(64, 64, int8_matmul=False), ac.LLMInt8(threshold=5.0), Linear8bitLt, 5.0),
        (lambda: QuantizedLinear(64, 64, "nf4"), ac.LLMInt8(threshold=5.0), Linear8bitLt, 5.0),
        (lambda: Linear8bitLt(64, 64, threshold=6.0), "int8-channel", QuantizedLinear, None),
        (lambda: Linear8bitLt(64, 64), "int8-channel", Linear8bitLt, 0.0),
        (lambda: Linear4bit(64, 64), "w8a8", Linear8bitLt, 0.0),
        (lambda: Linear4bit(64, 64, compute_dtype=torch.bfloat16), "fp8", QuantizedLinear, None),
    ],
)
def test_what_becomes_of_modules_not_quantised_yet(make: Any, scheme: Any, kind: type, threshold: Any) -> None:
    model = nn.Sequential(make()).eval()
    old = model[0]
    assert quantize_model(model, scheme)["0.weight"].codec == ac.codec(scheme)
    assert type(model[0]) is kind
    assert model[0].spec is not None
    assert (getattr(model[0], "threshold", None), model[0].compute_dtype) == (threshold, old.compute_dtype)
    assert not (kind is type(old) and model[0].int8_matmul != old.int8_matmul)
    assert not model[0].training
    assert torch.isfinite(model(normal(3, 64))).all()


def test_a_subclass_that_cannot_hold_the_codec_stays() -> None:
    class Adapted(Linear4bit):
        def __init__(self) -> None:
            super().__init__(64, 64)
            self.adapter = nn.Parameter(normal(64, 64))

    model = nn.Sequential(Adapted())
    assert quantize_model(model, "fp8")["0.weight"].reason == "Adapted: not an nn.Linear"
    report = quantize_model(model, "nf4")
    assert report["0.adapter"].reason == "not the weight"
    assert report["0.weight"].codec
    assert quantize_model(layer := Linear4bit(64, 64), "fp4")["weight"].codec == layer.codec == ac.codec("fp4")
    with pytest.raises(ArgumentError, match="the model is a Linear itself"):
        quantize_model(Linear4bit(64, 64), "fp8")


def test_a_model_without_memory_is_quantised_and_filled() -> None:
    own = Model()
    with torch.device("meta"):
        skeleton = Model()
    quantize_model(own, "nf4-double", exclude="head*")
    quantize_model(skeleton, "nf4-double", exclude="head*")
    skeleton.load_state_dict(own.state_dict(), assign=True)
    assert torch.equal(skeleton(torch.arange(5)), own(torch.arange(5)))
