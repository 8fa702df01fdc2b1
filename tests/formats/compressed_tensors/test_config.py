"""The config: what is read, what is refused with which words, what is written, which module is in which group."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors.args import Args, Scheme
from arraycodec.formats.compressed_tensors.presets import PRESETS, preset
from arraycodec.formats.compressed_tensors.resolve import Quantization, matches
from tests.formats.compressed_tensors.test_fixtures import FIXTURES

# -- args


@pytest.mark.parametrize(
    ("data", "want"),
    [
        ({}, Args()),
        ({"group_size": 64}, Args(group_size=64, strategy="group")),
        ({"group_size": -1}, Args(group_size=-1, strategy="channel")),
        ({"strategy": "CHANNEL", "type": "INT"}, Args(strategy="channel")),
        ({"strategy": "block", "block_structure": "8x16"}, Args(strategy="block", block_structure=(8, 16))),
        ({"strategy": "block", "block_structure": [8, 16]}, Args(strategy="block", block_structure=(8, 16))),
        ({"dynamic": True, "strategy": "token"}, Args(dynamic=True, strategy="token")),
        ({"actorder": True, "group_size": 8}, Args(actorder="group", group_size=8, strategy="group")),
        ({"actorder": False}, Args()),
        ({"actorder": "static"}, Args(actorder="static")),
        ({"scale_dtype": "torch.float8_e4m3fn"}, Args(scale_dtype="float8_e4m3fn")),
        ({"scale_dtype": "uint8", "zp_dtype": None}, Args(scale_dtype="uint8", zp_dtype="int8")),
        ({"observer": "mse", "observer_kwargs": {"p": 2}}, Args(observer="mse", observer_kwargs={"p": 2})),
    ],
)
def test_args(data: dict[str, Any], want: Args) -> None:
    assert Args.from_json(data, "weights") == want


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "must be an object"),
        ({"bits": 4}, "'bits' is not known"),
        ({"num_bits": "4"}, "num_bits must be an integer"),
        ({"num_bits": True}, "num_bits must be an integer"),
        ({"num_bits": 0}, "num_bits must be an integer"),
        ({"type": "complex"}, "type must be one of 'int', 'float'"),
        ({"symmetric": 1}, "symmetric must be true or false"),
        ({"group_size": -2}, "group_size must be a positive integer, -1"),
        ({"group_size": 0}, "group_size must be a positive integer, -1"),
        ({"group_size": 4, "strategy": "channel"}, "group_size > 0 goes with"),
        ({"strategy": "group"}, "group_size > 0 goes with"),
        ({"strategy": "rows"}, "strategy must be one of"),
        ({"strategy": "block"}, "block_structure goes with"),
        ({"block_structure": [2, 2]}, "block_structure goes with"),
        ({"strategy": "block", "block_structure": [2]}, r"must be \[rows, columns\]"),
        ({"strategy": "block", "block_structure": "2x-2"}, r"must be \[rows, columns\]"),
        ({"strategy": "token"}, "needs dynamic"),
        ({"strategy": "channel", "dynamic": True}, "dynamic goes with"),
        ({"dynamic": "local"}, "'local' goes with tensor_group"),
        ({"dynamic": 1}, "dynamic must be one of"),
        ({"actorder": "random"}, "actorder must be one of"),
        ({"scale_dtype": "torch.nn"}, "scale_dtype must be a dtype"),
        ({"zp_dtype": 8}, "zp_dtype must be a dtype"),
        ({"observer": 1}, "observer must be a string"),
        ({"observer_kwargs": []}, "observer_kwargs must be an object"),
    ],
)
def test_args_that_are_refused(data: Any, told: str) -> None:
    with pytest.raises(ac.FormatError, match=f"^weights: .*{told}"):
        Args.from_json(data, "weights")


def test_args_are_written_as_the_library_writes_them() -> None:
    """Some members always, others where they say something; a zero point's dtype only where there are zero points."""
    assert Args.from_json({"num_bits": 4, "group_size": 128, "actorder": None}, "w").to_json() == {
        "num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group", "dynamic": False,
    }  # fmt: skip
    written = Args(4, "int", False, zp_dtype="int8", observer="mse", observer_kwargs={"p": 2}).to_json()
    assert written["zp_dtype"] == "torch.int8" and written["observer_kwargs"] == {"p": 2} and written["observer"]
    assert "zp_dtype" not in replace(Args(zp_dtype="int8"), symmetric=True).to_json()


@pytest.mark.parametrize(
    "args",
    [
        Args(16), Args(4, "float"), Args(6, "float", group_size=64, strategy="group"), Args(8, "float", False),
        Args(8, strategy="token", dynamic=True), Args(8, "float", strategy="attn_head"),
    ],
)  # fmt: skip
def test_weights_that_no_codec_holds(args: Args) -> None:
    with pytest.raises(ac.FormatError, match="no stored format has such weights"):
        args.codec()


# -- schemes


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, r"group\.targets: must be a list of strings"),
        ({"targets": [1]}, r"group\.targets: must be a list of strings"),
        ({"targets": [], "bits": 4}, "'bits' is not known"),
        ({"targets": [], "format": "zip"}, "format must be one of dense, "),
        ({"targets": [], "format": "mixed-precision"}, "format must be one of dense, "),
        ({"targets": [], "weights": {"num_bits": "4"}}, r"group\.weights: num_bits"),
        ({"targets": [], "input_activations": {"strategy": "channel"}}, r"group\.input_activations: strategy must be"),
        ({"targets": [], "output_activations": {"actorder": "weight"}}, "actorder is a member of weights"),
    ],
)
def test_schemes_that_are_refused(data: Any, told: str) -> None:
    with pytest.raises(ac.FormatError, match=told):
        Scheme.from_json(data, "group")


def test_presets() -> None:
    """All 33 of the library, which tests at level full compare with its own."""
    assert len(PRESETS) == 33
    for name, scheme in PRESETS.items():
        named = preset(name.lower(), ("Linear",))
        assert named == replace(scheme, targets=("Linear",))
        again = Scheme.from_json(json.loads(json.dumps(named.to_json())), name)
        assert again.to_json() == named.to_json()
    with pytest.raises(ac.FormatError, match="must be one of UNQUANTIZED, W4A16_ASYM"):
        preset("W5A4", ())


# -- configs


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"quant_method": "gptq"}, "quant_method must be 'compressed-tensors'"),
        ({"format": "zip-quantized"}, "format must be one of dense, .*got 'zip-quantized'"),
        ({"format": 4}, "format must be a string"),
        ({"quantization_status": "done"}, "quantization_status must be one of initialized, "),
        ({"config_groups": []}, "config_groups must be an object"),
        ({"config_groups": {"W5A4": ["Linear"]}}, "config_groups.'W5A4': must be one of"),
        ({"config_groups": {"W4A16": "Linear"}}, "config_groups.'W4A16': must be an object"),
        ({"config_groups": {"g": {"targets": ["re:("]}}}, r"'re:\(' is no regular expression"),
        ({"ignore": ["re:[a"]}, "'re:.a' is no regular expression"),
        ({"ignore": "lm_head"}, "ignore: must be a list of strings"),
        ({"version": 20}, "version must be a string"),
        ({"kv_cache_scheme": {"bits": 8}}, "kv_cache_scheme: 'bits' is not known"),
        ({"sparsity_config": "2:4"}, "sparsity_config must be an object"),
    ],
)
def test_configs_that_are_refused(data: Any, told: str) -> None:
    with pytest.raises(ac.FormatError, match=f"^config.json: {told}"):
        Quantization.from_json(data, "config.json")


def test_a_minimal_config() -> None:
    found = Quantization.from_json({"config_groups": {"W4A16": ["Linear"]}}, "c")
    assert (found.format, found.status, found.version, found.ignore, found.kv_cache_scheme) == (
        None,
        None,
        None,
        (),
        None,
    )
    assert found.groups["W4A16"] == preset("W4A16", ("Linear",))


def test_members_that_are_not_known_are_kept() -> None:
    data = {"config_groups": {}, "moe_sparsity_config": {"method": "prune", "num_experts": [None]}, "mine": [1]}
    found = Quantization.from_json(data, "c")
    assert found.rest == {"mine": [1]} and found.to_json()["mine"] == [1]
    assert found.to_json()["moe_sparsity_config"] == data["moe_sparsity_config"]


@pytest.mark.parametrize("name", ["w4a16_asym", "w3a16_odd", "w8a8", "fp8", "fp8_block", "nvfp4", "mxfp8", "mixed"])
def test_what_the_library_wrote_is_written_again(name: str) -> None:
    data = json.loads((FIXTURES / name / "config.json").read_text())["quantization_config"]
    again = Quantization.from_json(data, name).to_json()
    assert json.dumps(again, sort_keys=True) == json.dumps(data, sort_keys=True)


# -- which group


def scheme(bits: int, *targets: str) -> dict[str, Any]:
    return {"targets": list(targets), "weights": {"num_bits": bits}}


def bits_of(groups: dict[str, Any], module: str, class_name: str | None = None, **more: Any) -> int | None:
    found = Quantization.from_json({"config_groups": groups} | more, "c").scheme_of(module, class_name)
    return found.weights.num_bits if found and found.weights else None


def test_a_name_comes_before_an_expression_and_that_before_a_class() -> None:
    groups = {"a": scheme(2, "Linear"), "b": scheme(3, "re:.*mlp.*"), "c": scheme(4, "model.mlp.up")}
    for given in (groups, dict(reversed(groups.items()))):
        assert [bits_of(given, name) for name in ("model.mlp.up", "model.mlp.down", "model.attn.q")] == [4, 3, 2]


def test_expressions_are_in_the_order_of_their_text() -> None:
    groups = {"a": scheme(2, "re:.*up$"), "b": scheme(3, "re:.*mlp.*")}
    assert bits_of(groups, "model.mlp.up") == 3  # "re:.*m" sorts before "re:.*u"


def test_of_the_same_target_the_last_group_counts() -> None:
    assert bits_of({"a": scheme(2, "Linear"), "b": scheme(3, "Linear")}, "model.mlp.up") == 3


def test_classes() -> None:
    groups = {"a": scheme(2, "Linear"), "b": scheme(8, "Embedding")}
    assert bits_of(groups, "model.embed_tokens") == 8
    assert bits_of(groups, "model.embed_tokens", "Linear") == 2
    assert bits_of(groups, "model.mlp.up", "Conv1D") is None


@pytest.mark.parametrize("ignore", ["lm_head", "re:lm_.*", "re:.*head$", "Linear"])
def test_what_is_ignored_is_in_no_group(ignore: str) -> None:
    assert bits_of({"a": scheme(2, "Linear", "lm_head")}, "lm_head", ignore=[ignore]) is None


def test_an_expression_matches_from_the_start_a_name_the_whole() -> None:
    assert matches("re:model", "model.mlp.up") and not matches("re:mlp", "model.mlp.up")
    assert not matches("model", "model.mlp.up") and not matches("up", "model.mlp.up")
