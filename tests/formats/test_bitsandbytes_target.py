"""`Bitsandbytes`, the target: what becomes of each weight, its config.json, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import arraycodec as ac
from arraycodec.formats.bitsandbytes.layout import Stored
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.formats.target import Decision
from arraycodec.spec import ArraySpec


def test_decisions() -> None:
    spec = ArraySpec((128, 64), "bfloat16")
    target = Bitsandbytes.of({"re:.*attn.*": None, "Linear": "nf4-double", "m.gate": "fp4"})
    nf4, fp4 = ac.codec("nf4-double"), ac.codec("fp4")
    rows: list[tuple[str, ArraySpec, ac.Codec | None, ac.Codec | None, str]] = [
        ("m.up_proj.weight", spec, None, nf4, "Linear"),
        ("m.up_proj.weight", spec, ac.codec("nf4"), nf4, "Linear"),
        ("m.up_proj.weight", spec, nf4, nf4, "Linear: as it was"),
        ("m.attn.q_proj.weight", spec, None, None, "plain: re:.*attn.*"),
        ("m.gate.weight", spec, None, fp4, "m.gate"),
        ("lm_head.weight", spec, None, None, "ignored: lm_head"),
        ("m.embed_tokens.weight", spec, None, None, "Embedding: in no target"),
        ("m.norm.weight", ArraySpec((64,), "bfloat16"), None, None, "Norm: in no target"),
        ("m.up_proj.bias", ArraySpec((64,), "bfloat16"), None, None, "no weight: in no target"),
        ("m.up_proj.weight", ArraySpec((8, 8), "int32"), None, None, "int32 is not one of float32, bfloat16, float16"),
        ("m.up_proj.weight", ArraySpec((0, 8), "float32"), None, None, "empty"),
    ]
    for name, own, held, codec, reason in rows:
        assert target.decide(name, own, held) == Decision(codec, reason), name
    keeping = Bitsandbytes.of({})
    assert keeping.decide("lm_head.weight", spec, nf4) == Decision(nf4, "as it was")
    assert keeping.decide("lm_head.weight", spec, None) == Decision(None, "plain")
    assert keeping.decide("a.weight", spec, ac.codec("mxfp4")).reason.startswith("has nf4, fp4 and llm_int8 weights")


@pytest.mark.parametrize(
    ("layers", "options", "told"),
    [
        ({"Linear": "mxfp4"}, {}, "has nf4, fp4 and llm_int8 weights, got Microscaling"),
        ({"Linear": ac.Codebook("nf4", 16)}, {}, "block_size must be one of 32, 64, .*4096, got 16"),
        (
            {"Linear": ac.Then(ac.Codebook(), absmax=ac.Codebook("dynamic", 64, offset=True))},
            {},
            "blocks of 256, got 64",
        ),
        ({"Linear": "nf4", "lm_head": "llm_int8"}, {}, "4 bits or int8, got schemes of both"),
        ({"Linear": "nf4"}, {"storage": "int64"}, "storage must be one of uint8, .*got 'int64'"),
        ({"Linear": "nf4"}, {"compute_dtype": "int8"}, "compute_dtype must be float32, .*got 'int8'"),
    ],
)
def test_targets_that_bitsandbytes_cannot_have(layers: Any, options: Any, told: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"bitsandbytes: .*{told}"):
        Bitsandbytes.of(layers, **options)


def test_config() -> None:
    target = Bitsandbytes.of({"Linear": "nf4-double"}, storage="bfloat16")
    names = ["model.a.up_proj.weight", "model.a.down_proj.weight", "model.embed_tokens.weight", "lm_head.weight"]
    spec = ArraySpec((64, 64), "bfloat16")
    decisions = {name: target.decide(name, spec, None) for name in names}
    decisions["model.a.down_proj.weight"] = Decision(None, "excluded")
    config = target.config({"model_type": "llama", "dtype": "bfloat16"}, decisions)
    said = config["quantization_config"]
    assert config["model_type"] == "llama"
    assert said["llm_int8_skip_modules"] == ["lm_head", "model.a.down_proj"]
    assert (said["load_in_4bit"], said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == (True, "nf4", True)
    assert (said["bnb_4bit_compute_dtype"], said["bnb_4bit_quant_storage"]) == ("bfloat16", "bfloat16")
    again = Bitsandbytes.from_config(said)
    assert {n: again.decide(n, spec, None).codec for n in names} == {n: d.codec for n, d in decisions.items()}
    clash = {"up.weight": Decision(None, "excluded"), "m.up.weight": Decision(ac.codec("nf4"), "Linear")}
    with pytest.raises(ac.ArgumentError, match=r"cannot name 'up', which stays plain, and not 'm\.up'"):
        target.config({}, clash)
    for bad in ("6", -1.0, True, float("nan")):
        with pytest.raises(ac.ArgumentError, match="threshold must be a number >= 0, got"):
            Bitsandbytes.from_config(said | {"llm_int8_threshold": bad})
    both = {"a.weight": Decision(ac.codec("nf4"), ""), "b.weight": Decision(ac.LLMInt8(), "")}
    with pytest.raises(ac.ArgumentError, match="must be of 4 bits or int8, got both"):
        target.config({}, both)
    assert target.config({"model_type": "llama"}, {"a.weight": Decision(None, "plain")}) == {"model_type": "llama"}
    with pytest.raises(ac.FormatError, match="one of load_in_4bit and load_in_8bit"):
        Bitsandbytes.from_config({"quant_method": "bitsandbytes"})
    with pytest.raises(ac.FormatError, match="llm_int8_skip_modules must be a list of names, got 'lm_head'"):
        Bitsandbytes.from_config(said | {"llm_int8_skip_modules": "lm_head"})


def test_stored_says_what_bitsandbytes_has_not() -> None:
    with pytest.raises(ac.ArgumentError, match="of which 3 bytes are a whole number, got 'bfloat16'"):
        Stored.of(ac.Codebook("nf4"), ArraySpec((6,), "float32"), "bfloat16")
    with pytest.raises(ac.ArgumentError, match="int8 weight must have two axes"):
        Stored.of(ac.LLMInt8(), ArraySpec((2, 3, 4), "float16"))
