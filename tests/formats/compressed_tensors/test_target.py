"""What is written in the format compressed-tensors: files byte by byte, configurations, decisions and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import api, registry
from arraycodec.formats.compressed_tensors import stored
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.formats.compressed_tensors.target import CompressedTensors
from arraycodec.spec import spec_of
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.compare import same_bits
from tests.formats.compressed_tensors import support

UP = "model.layers.0.mlp.up_proj"
EAGER = ("compressed-tensors", "eager")
MATRIX = ac.ArraySpec((64, 256), "bfloat16")


def decide(
    target: CompressedTensors, name: str = f"{UP}.weight", spec: ac.ArraySpec = MATRIX, codec: Any = None
) -> Any:
    return target.decide(name, spec, codec)


# -- files


@pytest.mark.parametrize("preset", support.FILES)
def test_files_are_those_of_the_library(preset: str, tmp_path: Path) -> None:
    """Their hashes are those of files that the library wrote (test_acceptance.py)."""
    arrays = support.tensors() | support.calibrated(preset)
    folder = support.write(tmp_path, arrays, CompressedTensors.of({"Linear": preset}))
    assert support.sha(folder) == support.FILES[preset]


def test_every_preset_has_its_file() -> None:
    assert {*support.FILES, "UNQUANTIZED"} == set(PRESETS)


def test_the_configuration_is_that_of_the_library(tmp_path: Path) -> None:
    model = {"vocab_size": 256, "hidden_size": 256, "compression_config": {"stale": 1}}
    folder = support.write(tmp_path, support.tensors(), CompressedTensors.of({"Linear": "fp8_dynamic"}), model)
    args = {
        "dynamic": False,
        "group_size": None,
        "num_bits": 8,
        "strategy": "channel",
        "symmetric": True,
        "type": "float",
    }
    want = {
        "hidden_size": 256,
        "quantization_config": {
            "config_groups": {
                "group_0": {
                    "format": "float-quantized",
                    "input_activations": args | {"dynamic": True, "strategy": "token"},
                    "output_activations": None,
                    "targets": ["Linear"],
                    "weights": args,
                }
            },
            "format": "float-quantized",
            "global_compression_ratio": None,
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "moe_sparsity_config": None,
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "sparsity_config": {},
            "transform_config": {},
            "version": "0.20.0",
        },
        "vocab_size": 256,
    }
    assert (folder / "config.json").read_text() == json.dumps(want, indent=2)


# Codecs of every format, in shapes whose rows are whole words, whole bytes, and neither.
CODECS: list[tuple[str, Any, tuple[int, ...]]] = [
    *(("pack-quantized", ac.Linear(bits, bits % 2 == 0, (1, None), *EAGER), (12, 37)) for bits in range(1, 9)),
    *(("pack-quantized", ac.Linear(bits, bits % 2 == 1, (1, 8), *EAGER), (5, 40)) for bits in range(1, 9)),
    ("pack-quantized", ac.Linear(3, False, (1, 16), *EAGER), (2, 12, 48)),
    ("pack-quantized", ac.Linear(4, False, None, *EAGER), (12, 37)),
    ("pack-quantized", ac.Linear(5, False, (8, 16), *EAGER), (12, 37)),
    ("pack-quantized", ac.Linear(4, True, 64), (8, 128)),
    ("int-quantized", ac.Linear(4, False, (1, 8), *EAGER), (5, 40)),
    ("naive-quantized", ac.Linear(3, True, (1, None), *EAGER), (12, 37)),
    ("float-quantized", ac.Minifloat(block_size=(8, 16), flavour=EAGER[0], arithmetic=EAGER[1]), (12, 37)),
    ("naive-quantized", ac.Minifloat(block_size=None), (12, 37)),
    ("nvfp4-pack-quantized", ac.NVFP4(arithmetic="eager"), (5, 48)),
    ("mxfp4-pack-quantized", ac.Microscaling("float4_e2m1fn", 32, "compressed-tensors"), (5, 64)),
    ("mxfp6-pack-quantized", ac.Microscaling("float6_e2m3fn", 32, "compressed-tensors"), (5, 64)),
    ("mxfp8-quantized", ac.Microscaling("float8_e4m3fn", 32, "compressed-tensors"), (5, 64)),
]


@pytest.mark.parametrize(("format", "codec", "shape"), CODECS, ids=lambda value: str(value).replace(" ", ""))
def test_tensors_are_those_of_the_layout_and_hold_the_codes(format: str, codec: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(5).standard_normal(shape, np.float32)
    enc = ac.encode(x, codec)
    arrays, specs = stored.arrays(format, enc), stored.layout(format, enc.spec, codec)
    assert {name: spec_of(array) for name, array in arrays.items()} == specs
    assert all(array.flags.c_contiguous for array in arrays.values())
    same_bits(arrays["weight_scale"], enc.planes["scales"], "scales")
    if not isinstance(codec, ac.Linear):
        same_bits(next(iter(arrays.values())), enc.planes["codes"], "codes")
        return
    integers = oracle.integers(enc.planes["codes"], codec.bits, shape)
    packed = format == "pack-quantized"
    same_bits(next(iter(arrays.values())), oracle.words(integers, codec.bits) if packed else integers, "codes")
    assert packed == ("weight_shape" in arrays) and (not packed or tuple(arrays["weight_shape"]) == shape)
    if not codec.symmetric:
        zeros, tile = enc.planes["zero_points"], codec.block_size
        along_rows = packed and isinstance(tile, tuple) and tile[0] == 1
        want = oracle.zero_point_words(zeros, codec.bits) if along_rows else zeros
        same_bits(arrays["weight_zero_point"], want, "zero points")


def test_what_is_written_is_read_with_the_same_planes(tmp_path: Path) -> None:
    layers = {f"re:.*layers.0.*{name}": scheme for name, scheme in (("q_proj", "W3A16"), ("gate", "W8A8"))}
    layers |= {
        f"{UP}": "W4A16_ASYM",
        "re:.*layers.1.*mlp.*": "NVFP4A16",
        "re:.*1.*attn.*": "MXFP6A16",
        "Linear": "FP8_BLOCK",
    }
    target = CompressedTensors.of(layers)
    folder = support.write(tmp_path, support.tensors(), target)
    formats = set()
    with ac.open_checkpoint(folder) as model:
        assert list(model.config.quantization["config_groups"]) == [f"group_{i}" for i in range(6)]
        assert model.config.quantization["format"] == "mixed-precision" and set(model) == set(support.tensors())
        for name, x in support.tensors().items():
            codec = target.decide(name, spec_of(x), None).codec
            formats.add(codec)
            if codec is None:
                same_bits(model[name].decode(), x, name)
                continue
            enc, read = ac.encode(x, codec), model[name].encoded()
            assert read.codec == codec
            shared = isinstance(codec, ac.NVFP4) and "down" not in name  # with the global scale of another
            for plane in [] if shared else enc.planes:
                same_bits(read.planes[plane], enc.planes[plane], f"{name}: {plane}")
    assert len(formats) == 7


# -- decisions


def test_targets_are_names_expressions_and_classes_in_this_order() -> None:
    layers = {"Linear": "W8A8", "re:.*mlp.*": "W3A16", "re:.*0.mlp.*": "W2A16", UP: "W4A16", "re:.*down_proj": None}
    target = CompressedTensors.of(layers, ignore=("lm_head", "re:.*k_proj"))
    bits = {
        UP: 4, "model.layers.0.mlp.gate_proj": 2, "model.layers.1.mlp.gate_proj": 3, "a.q_proj": 8,
        "model.layers.0.mlp.down_proj": None, "a.k_proj": None, "lm_head": None,
        "model.embed_tokens": None, "model.layers.0.mlp.gate": None,
    }  # fmt: skip
    for module, want in bits.items():
        found = decide(target, f"{module}.weight").codec
        assert getattr(found, "bits", None) == want, module
    assert decide(target, f"{UP}.bias", ac.ArraySpec((64,), "bfloat16")).codec is None
    reasons = {decide(target, f"{name}.weight").reason for name in ("lm_head", "model.embed_tokens", UP)}
    assert reasons == {"ignored", "Embedding: no scheme", "pack-quantized: int4, group of 128"}


def test_schemes_of_ours_and_codecs_are_described() -> None:
    for scheme, args in (
        ("w4a16", PRESETS["W4A16"].weights),
        ("fp8-channel", PRESETS["FP8_DYNAMIC"].weights),
        (ac.Linear(3, False, (1, 64)), "int3, asymmetric, group of 64"),
        (ac.Codebook("nf4"), None),
    ):
        if args is None:
            with pytest.raises(ac.ArgumentError, match=r"scheme must be one of .*W4A16.*got Codebook"):
                CompressedTensors.of({"Linear": scheme})
            continue
        chosen = decide(CompressedTensors.of({"Linear": scheme}))
        assert chosen.scheme.weights == args or args in chosen.reason


def test_planes_that_the_format_stores_are_kept() -> None:
    target = CompressedTensors.of({"Linear": "W4A16_ASYM"})
    for kept in (ac.Linear(4, False, (1, 128)), ac.Linear(4, False, (1, 128), *EAGER), ac.Linear(4, False, 128)):
        assert decide(target, codec=kept).codec == kept
    for other in (ac.Linear(4, True, (1, 128)), ac.Linear(4, False, (1, 64)), ac.Codebook("nf4"), None):
        assert decide(target, codec=other).codec == ac.Linear(4, False, (1, 128), *EAGER)


def test_a_global_scale_that_is_a_factor_becomes_a_divisor() -> None:
    """Steps differ by the last bit of float32 at the most, which bfloat16 does not show here."""
    x, codec = support.tensors()[f"{UP}.weight"], ac.NVFP4(flavour="modelopt")
    enc, target = ac.encode(x, codec), CompressedTensors.of({})
    assert decide(target, spec=enc.spec, codec=codec).codec == codec
    assert decide(target, spec=enc.spec, codec=codec).reason.endswith("its global scale inverted")
    found, _ = ac.to_compressed_tensors({"a.weight": enc}, "NVFP4A16")
    divisor = found["a.weight_global_scale"]
    same_bits(divisor, np.float32(1) / enc.planes["global_scale"], "divisor")
    assert {n: spec_of(a) for n, a in found.items()} == target.layout("a.weight", enc.spec, codec)
    planes = {"codes": found["a.weight_packed"], "scales": found["a.weight_scale"], "global_scale": divisor}
    same_bits(ac.decode(ac.Encoded(ac.NVFP4(), enc.spec, planes)), ac.decode(enc), "decoded")


def test_as_stored_describes_the_codecs_of_the_source() -> None:
    target = CompressedTensors.of({})
    gptq, block = ac.Linear(4, False, (1, 128), *EAGER), ac.Minifloat(block_size=(128, 128))
    source = {f"a.{i}.weight": gptq for i in range(3)} | {
        "a.10.weight": block,
        "a.9.weight": block,
        "b.weight": ac.Codebook("nf4"),
    }
    source |= {"c.weight": None, "model.embed_tokens.weight": gptq, "x.norm.weight": None}
    decisions = {name: decide(target, name, codec=codec) for name, codec in source.items()}
    assert [decision.codec for decision in decisions.values()] == [gptq] * 3 + [block] * 2 + [None, None, gptq, None]
    assert decisions["b.weight"].reason.endswith("decoded")
    config = target.config({}, decisions)["quantization_config"]
    groups = [(group["targets"], group["format"]) for group in config["config_groups"].values()]
    assert groups == [
        (["Linear"], "pack-quantized"), (["a.10", "a.9"], "naive-quantized"), (["Embedding"], "pack-quantized"),
    ]  # fmt: skip
    assert config["ignore"] == ["b", "c", "lm_head"] and config["format"] == "mixed-precision"
    specs = target.layout("a.9.weight", MATRIX, block)
    assert {name: spec.dtype for name, spec in specs.items()} == {
        "a.9.weight": "float8_e4m3fn",
        "a.9.weight_scale": "float32",
    }


def test_everything_plain_is_ignored_by_name() -> None:
    """Routers too, and a tied head that no file holds."""
    target = CompressedTensors.of({"re:.*up_proj": "W4A16"})
    names = [f"model.layers.{i}.mlp.{name}.weight" for i in (10, 2) for name in ("up_proj", "gate", "down_proj")]
    decisions = {name: decide(target, name) for name in (*names, "model.embed_tokens.weight")}
    ignored = target.config({}, decisions)["quantization_config"]["ignore"]
    assert ignored == [f"model.layers.{i}.mlp.{name}" for i in (2, 10) for name in ("down_proj", "gate")] + ["lm_head"]


def test_a_configuration_is_taken_as_it_is() -> None:
    given = {
        "config_groups": {"a": PRESETS["W4A8"].to_json() | {"targets": ["Linear"], "format": "pack-quantized"}},
        "transform_config": {"config_groups": {"u": 1}}, "ignore": [], "version": "0.9.0", "note": "mine",
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": True},
    }  # fmt: skip
    target = CompressedTensors.from_config(given)
    config = target.config({}, {"lm_head.weight": decide(target, "lm_head.weight")})["quantization_config"]
    assert config["ignore"] == [] and config["transform_config"] == given["transform_config"]
    assert config["note"] == "mine" and config["kv_cache_scheme"]["type"] == "float" and config["version"] == "0.20.0"
    assert config["config_groups"]["group_0"]["format"] == "pack-quantized"


def test_orders_of_columns_that_were_stored_are_not_written() -> None:
    """A weight of such a source is decoded and encoded; the library refuses the member since 0.19."""
    weights = {"num_bits": 4, "group_size": 128, "actorder": "group"}
    target = CompressedTensors.from_config({"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}})
    held = ac.Then(ac.Permuted(), values=ac.Linear(4, True, (1, 128), *EAGER))
    decisions = {f"{UP}.weight": decide(target, codec=held)}
    assert decisions[f"{UP}.weight"].codec == ac.Linear(4, True, (1, 128), *EAGER)
    group = target.config({}, decisions)["quantization_config"]["config_groups"]["group_0"]
    assert "actorder" not in group["weights"]


# -- refusals


def test_what_cannot_be_is_refused_before_anything_is_written() -> None:
    of = CompressedTensors.of
    asked: list[tuple[Any, str]] = [
        (lambda: decide(of({"Linear": "W4A16"}), spec=ac.ArraySpec((8, 200), "float16")),
         f"tensor '{UP}.weight': rows must be whole groups of 128 elements, got 200"),
        (lambda: decide(of({"Linear": "W8A8"}), spec=ac.ArraySpec((8, 128), "float64")),
         f"tensor '{UP}.weight': .*dtype must be one of float32"),
        (lambda: of({"Linear": "W4A17"}), "'W4A17' is not known"),
        (lambda: of({"Linear": "W4A16"}, arithmetic="exact"), "arithmetic must be one of eager, float32"),
        (lambda: _config(of({"Linear": "FP8"})), f"'{UP}.input_scale' is missing, which a calibration gives"),
        (lambda: _config(of({"Linear": "NVFP4"})), f"'{UP}.input_global_scale' is missing"),
        (lambda: _config(of({"re:.*no_such": "FP8"})), "target 're:.*no_such' matches none of 1 modules"),
        (lambda: CompressedTensors.from_config(
            {"config_groups": {"g": {"targets": [], "weights": {"num_bits": 4}, "format": "float-quantized"}}}),
         "config_groups.'g': format must be one of .*pack-quantized, got 'float-quantized'"),
        (lambda: CompressedTensors.from_config(
            {"config_groups": {"g": {"targets": [], "weights": {"num_bits": 16, "type": "float"}}}}),
         "config_groups.'g': weights: no stored format has such weights"),
        (lambda: of({"Linear": "W4A16"}).layout("lm_head.weight", MATRIX, ac.Linear()), "stores it plain"),
        (lambda: ac.to_compressed_tensors({}, {"config_groups": {}}, ignore=["a"]), "says itself what to ignore"),
        (lambda: ac.to_compressed_tensors({}, {}), "at least one target"),
    ]  # fmt: skip
    for call, told in asked:
        with pytest.raises(ac.ArgumentError, match=told):
            call()


def _config(target: CompressedTensors) -> Any:
    name = f"{UP}.weight"
    return target.config({}, {name: decide(target, name)})


# -- in memory


def test_in_memory_is_the_file(tmp_path: Path) -> None:
    for preset in ("W4A16_ASYM", "NVFP4"):
        folder = support.write(
            tmp_path / preset, support.tensors() | support.calibrated(preset), CompressedTensors.of({"Linear": preset})
        )
        found, config = ac.to_compressed_tensors(support.tensors(), preset, scales=support.calibrated(preset))
        want = ac.load_file(folder / "model.safetensors")
        assert set(found) == set(want) and config == support.quantization(folder)
        for name, array in want.items():
            same_bits(found[name], array, name)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_in_memory_arrays_of_every_framework(framework: str) -> None:
    pytest.importorskip(framework)
    backend = registry.framework(framework)
    arrays = {name: array for name, array in support.tensors().items() if ".1.mlp" in name or "norm" in name}
    for preset in ("W3A16", "W4A16_ASYM", "FP8_DYNAMIC", "NVFP4A16"):
        want, config = ac.to_compressed_tensors(arrays, preset)
        got, same = ac.to_compressed_tensors({n: backend.from_numpy(x) for n, x in arrays.items()}, preset)
        assert config == same and set(got) == set(want)
        for name, array in want.items():
            if framework == "jax" and array.dtype == np.int64:
                assert isinstance(got[name], np.ndarray)
            same_bits(api.to_numpy(got[name]), array, name)


def test_encoded_weights_are_taken_as_they_are() -> None:
    x = support.tensors()[f"{UP}.weight"]
    codec = ac.Linear(4, False, (1, 128), *EAGER)
    planes = ac.encode(x, codec).planes
    given = {"scales": planes["scales"] * np.float32(2).astype(x.dtype), "zero_points": planes["zero_points"]}
    tuned = ac.encode(x, codec, given=given)  # what GPTQ found, say
    found, _ = ac.to_compressed_tensors({f"{UP}.weight": tuned, "a.weight": ac.encode(x, "nf4")}, "W4A16_ASYM")
    same_bits(found[f"{UP}.weight_scale"], given["scales"], "scales")
    same_bits(found["a.weight_scale"], ac.encode(ac.decode(ac.encode(x, "nf4")), codec).planes["scales"], "of nf4")


def test_arithmetic_of_kernels() -> None:
    x = support.tensors()[f"{UP}.weight"]
    found = {
        a: ac.to_compressed_tensors({"a.weight": x}, "W8A8", arithmetic=a)[0]["a.weight"] for a in ("eager", "float32")
    }
    assert (found["eager"] != found["float32"]).any()
    codec = ac.Linear(8, block_size=(1, None), flavour="compressed-tensors", arithmetic="float32")
    same_bits(found["float32"], ac.encode(x, codec).planes["codes"], "codes")


def test_two_tensors_of_one_name_are_refused() -> None:
    x = support.tensors()[f"{UP}.weight"]
    with pytest.raises(ac.ArgumentError, match="two tensors would be called"):
        ac.to_compressed_tensors({"a.weight": x, "a.weight_scale": x}, "W8A8")
