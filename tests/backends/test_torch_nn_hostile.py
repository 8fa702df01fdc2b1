"""State dicts that nobody's modules wrote: each is an error of `load_state_dict` that says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import arraycodec as ac
from arraycodec_torch.nn import Linear4bit, Linear8bitLt, to_bitsandbytes_state_dict
from tests.backends.torch_layers import dense


def as_bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def facts(**change: Any) -> torch.Tensor:
    own = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [32, 64]}
    return as_bytes(json.dumps(own | change))


DEEP = as_bytes("[" * 100_000)
SPEC = {"codec": ac.codec("nf4").to_json(), "shape": [32, 64], "dtype": "float32"}
NOT_OURS: list[Any] = [
    DEEP, as_bytes("[]"), as_bytes("null"), as_bytes("NaN"), torch.tensor(2**40), torch.tensor([0.5, 300]), "text",
    facts().to("meta"),
    *(as_bytes(json.dumps(SPEC | change)) for change in (
        {"dtype": "float12"}, {"dtype": "complex64"}, {"dtype": "float4_e2m1fn"}, {"dtype": 3}, {"shape": 3},
        {"shape": [None, 64]}, {"shape": [-1, 64]}, {"shape": "ab"}, {"shape": []}, {"shape": [2**40, 2**40]},
        {"codec": None}, {"codec": {"name": "codebook", "table": {}}}, {"codec": {"name": "codebook", "more": 1}},
    )),
]  # fmt: skip


@pytest.mark.parametrize("wrong", NOT_OURS, ids=range(len(NOT_OURS)))
def test_hostile_codecs_are_errors_of_load_state_dict(wrong: Any) -> None:
    layer = Linear4bit.from_float(dense())
    with pytest.raises(RuntimeError, match=r"\tweight: (weight_codec: must be JSON with codec|ArraySpec: |codebook: )"):
        layer.load_state_dict(layer.state_dict() | {"weight_codec": wrong})


@pytest.mark.parametrize("name", ["weight", "weight_codes", "weight_absmax"])
@pytest.mark.parametrize("wrong", ["text", None, [1.0]], ids=repr)
def test_what_is_no_tensor_is_an_error_of_load_state_dict(name: str, wrong: Any) -> None:
    layer = Linear4bit.from_float(dense())
    state = {"weight": wrong} if name == "weight" else layer.state_dict() | {name: wrong}
    with pytest.raises(RuntimeError, match="must be a tensor, got"):
        layer.load_state_dict(state)


# -- bitsandbytes

QUANT_STATE = "weight.quant_state.bitsandbytes__"
NESTED = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
DYNAMIC = {
    "weight.absmax": torch.zeros(32, dtype=torch.uint8), "weight.nested_absmax": torch.ones(1),
    "weight.nested_quant_map": torch.zeros(256),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({QUANT_STATE + "fp4": facts()}, "a weight must have one quant_state, got"),
        *(({QUANT_STATE + "nf4": bad}, "what belongs to it is not as") for bad in (
            DEEP, as_bytes("[]"), torch.tensor(2**40), torch.tensor([300.0]), facts(dtype="float12"),
            facts(dtype=[]), facts(shape=7), facts(blocksize="64"), facts(blocksize=0), facts(quant_type=[]),
            facts(quant_type="nf12"), facts(nested_blocksize=256),
        )),
        ({QUANT_STATE + "nf4": facts(shape=[None, 64])}, "an axis must be an integer in"),
        ({QUANT_STATE + "nf4": facts(dtype="complex64")}, "dtype must be one of"),
        ({QUANT_STATE + "nf4": "text"}, "must be a tensor, got str"),
        ({QUANT_STATE + "nf4": facts(nested_blocksize=256, nested_offset=[]), **DYNAMIC}, "what belongs to it"),
        ({QUANT_STATE + "nf4": facts(**NESTED), **DYNAMIC}, "codebook must be finite and strictly rising"),
        ({"weight.quant_map": torch.zeros(16, dtype=torch.float64)}, "quant_map must be the table of nf4"),
        ({"weight": torch.tensor(1.0)}, "weight must be float32 with 256 elements"),
        ({"weight.absmax": torch.tensor(1.0)}, "absmax must be float32 with 32 elements"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_hostile_4_bit_states_of_bitsandbytes(change: dict[str, Any], message: str) -> None:
    state = to_bitsandbytes_state_dict(Linear4bit.from_float(dense()))
    assert not any(Linear4bit(64, 32).load_state_dict(state | {QUANT_STATE + "nf4": facts()}))
    with pytest.raises(RuntimeError, match=rf"\tweight: .*{message}"):
        Linear4bit(64, 32).load_state_dict(state | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_format": torch.zeros(2)}, r"weight_format must be 0 \(row\), got shape \[2\]"),
        ({"weight_format": "row"}, "weight_format: must be a tensor, got str"),
        ({"SCB": torch.tensor(1.0)}, r"two axes and one, got shapes \[32, 64\] and \[\]"),
        ({"SCB": None}, "SCB: must be a tensor, got NoneType"),
        ({"weight": torch.tensor(1, dtype=torch.int8)}, r"two axes and one, got shapes \[\] and \[32\]"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_hostile_int8_states_of_bitsandbytes(change: dict[str, Any], message: str) -> None:
    state = to_bitsandbytes_state_dict(Linear8bitLt.from_float(dense()))
    with pytest.raises(RuntimeError, match=rf"\tweight: .*{message}"):
        Linear8bitLt(64, 32).load_state_dict(state | change)
