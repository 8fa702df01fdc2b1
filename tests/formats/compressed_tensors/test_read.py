"""Every format, strategy and dtype out of files that NumPy made: which codec, which bits, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec import api
from arraycodec.containers import safetensors
from arraycodec.formats.compressed_tensors import packing
from arraycodec.formats.compressed_tensors.args import Args
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input, sha
from tests.codecs.test_linear_golden import GOLDEN_GROUPS, GOLDEN_RAGGED
from tests.formats.compressed_tensors.files import MODULE, args, quantization, save, stored

DTYPES = ("bfloat16", "float16", "float32")
FP8 = {"num_bits": 8, "type": "float"}
# weights, the format of the file, the shape of the array
CASES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "int4 tensor": (args(strategy="tensor"), "pack-quantized", (24, 40)),
    "int4 tensor asymmetric": (args(strategy="tensor", symmetric=False), "pack-quantized", (24, 40)),
    "int4 channel, 37 columns": (args(strategy="channel", symmetric=False), "pack-quantized", (33, 37)),
    "int4 block": (args(strategy="block", block_structure=[8, 16]), "pack-quantized", (20, 40)),
    "int3 stacked experts": (args(num_bits=3, group_size=8, symmetric=False), "pack-quantized", (3, 10, 24)),
    "int8 stacked experts": (args(num_bits=8, group_size=-1), "pack-quantized", (2, 6, 10)),
    "int8 block": (args(num_bits=8, block_structure="8x16", strategy="block"), "int-quantized", (20, 40)),
    "int8 asymmetric groups": (args(num_bits=8, group_size=8, symmetric=False), "int-quantized", (20, 40)),
    "int4 to a byte": (args(group_size=8), "int-quantized", (20, 40)),
    "int5 to a byte, naive": (args(num_bits=5, group_size=-1, symmetric=False), "naive-quantized", (5, 7)),
    "fp8 tensor": (FP8 | {"strategy": "tensor"}, "float-quantized", (24, 40)),
    "fp8 channel": (FP8 | {"strategy": "channel"}, "naive-quantized", (24, 41)),
    "fp8 ragged blocks": (FP8 | {"strategy": "block", "block_structure": [16, 16]}, "float-quantized", (30, 41)),
    "nvfp4": (args(type="float", group_size=16, strategy="tensor_group"), "nvfp4-pack-quantized", (24, 48)),
    "mxfp4 stacked": (args(type="float", group_size=32), "mxfp4-pack-quantized", (2, 5, 64)),
    "mxfp6": (args(num_bits=6, type="float", group_size=32), "mxfp6-pack-quantized", (24, 64)),
    "mxfp8": (FP8 | {"group_size": 32, "scale_dtype": "torch.uint8"}, "mxfp8-quantized", (24, 64)),
}  # fmt: skip


def array(shape: tuple[int, ...], dtype: str = "bfloat16") -> np.ndarray:
    return hashed_input(int(np.prod(shape[:-1])), shape[-1], dtype).reshape(shape)


def same(folder: Path, want: np.ndarray, module: str = MODULE) -> Any:
    """The codec of the weight, once it is seen to decode to this."""
    with ac.open_checkpoint(folder) as model:
        tensor = model[f"{module}.weight"]
        tensor.verify()
        same_bits(tensor.decode(), want, str(folder))
        return tensor.codec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_formats(case: str, dtype: str, tmp_path: Path) -> None:
    weights, format, shape = CASES[case]
    tensors, want = stored(array(shape, dtype), weights, format == "pack-quantized")
    codec = same(save(tmp_path, tensors, quantization(weights, format), dtype), want)
    assert codec == Args.from_json(weights, case).codec()


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_the_librarys(bits: int, asymmetric: bool, tmp_path: Path) -> None:
    """Hashes of compressed-tensors 0.20, which are those of what is read here."""
    x = hashed_input(16, 256)
    x[0, :64], x[1, 64:128] = 0, -x[1, 64:128] * 0
    want = GOLDEN_GROUPS[bits][asymmetric].split()
    check_hashes(x, args(num_bits=bits, group_size=64, symmetric=not asymmetric), want, tmp_path)


@pytest.mark.parametrize("case", GOLDEN_RAGGED)
def test_ragged_words_are_the_librarys(case: tuple[int, bool], tmp_path: Path) -> None:
    bits, symmetric = case
    weights = args(num_bits=bits, symmetric=symmetric, strategy="channel")
    check_hashes(hashed_input(16, 37), weights, GOLDEN_RAGGED[case].split(), tmp_path)


def check_hashes(x: np.ndarray, weights: dict[str, Any], want: list[str], folder: Path) -> None:
    tensors, _ = stored(x, weights)
    names = ("weight_packed", "weight_scale", "weight_zero_point")
    assert [sha(tensors[name]) if name in tensors else "-" for name in names] == want[:3]
    with ac.open_checkpoint(save(folder, tensors, quantization(weights, "pack-quantized"))) as model:
        assert sha(model[f"{MODULE}.weight"].decode()) == want[3]


# -- dtypes


@pytest.mark.parametrize("format", ["pack-quantized", "int-quantized", "float-quantized"])
def test_float32_scales_beside_a_model_of_16_bits(format: str, tmp_path: Path) -> None:
    """The weight has the dtype of the model: the library's float32 rounded once."""
    weights = FP8 | {"strategy": "channel"} if format[0] == "f" else args(num_bits=8, strategy="channel")
    tensors, wide = stored(array((8, 24), "float32"), weights, format == "pack-quantized")
    for dtype, want in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        codec = same(save(tmp_path / dtype, tensors, quantization(weights, format), dtype), wide.astype(want))
        assert codec.flavour is None
    codec = same(save(tmp_path / "none", tensors, quantization(weights, format), None), wide)
    assert codec.flavour == "compressed-tensors"


def test_scales_of_16_bits_decide_the_dtype(tmp_path: Path) -> None:
    weights = args(num_bits=8, strategy="channel")
    tensors, want = stored(array((8, 24), "float16"), weights)
    same(save(tmp_path, tensors, quantization(weights, "pack-quantized"), "bfloat16"), want)


def test_a_model_without_dtype_is_bfloat16_where_scales_have_none(tmp_path: Path) -> None:
    weights = args(type="float", group_size=32)
    tensors, want = stored(array((8, 64)), weights)
    same(save(tmp_path, tensors, quantization(weights, "mxfp4-pack-quantized"), None), want)


@pytest.mark.parametrize(
    ("strategy", "shape"),
    [("tensor", ()), ("tensor", (1,)), ("tensor", (1, 1)), ("channel", (8, 1)), ("channel", (8,))],
)
def test_shapes_of_scales(strategy: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = FP8 | {"strategy": strategy}
    tensors, want = stored(array((8, 24)), weights)
    tensors["weight_scale"] = tensors["weight_scale"].reshape(shape)
    same(save(tmp_path, tensors, quantization(weights, "float-quantized")), want)


def test_zero_points_of_a_symmetric_group_are_zeros(tmp_path: Path) -> None:
    weights = args(group_size=8)
    tensors, want = stored(array((8, 24)), weights)
    tensors["weight_zero_point"] = np.zeros((8, 3), np.int8)
    same(save(tmp_path / "zeros", tensors, quantization(weights, "pack-quantized")), want)
    tensors["weight_zero_point"][1, 1] = 1
    folder = save(tmp_path / "one", tensors, quantization(weights, "pack-quantized"))
    told = "must be 0 where the config says symmetric"
    with ac.open_checkpoint(folder) as model, pytest.raises(ac.CorruptError, match=told):
        model[f"{MODULE}.weight"].decode()


# -- which modules, and how the config says it


def test_other_tensors_stay_as_they_are(tmp_path: Path) -> None:
    weights = args(group_size=8)
    tensors, want = stored(array((8, 24)), weights)
    others = {
        "bias": np.ones(8, np.float32), "input_scale": np.ones(1, np.float32),
        "model.layers.0.self_attn.k_scale": np.ones(1, np.float16), "model.norm.weight": np.ones(24, np.float32),
        "model.layers.0.self_attn.k_proj.output_scale": np.ones(1, np.float16),
        "lm_head.weight": np.ones((4, 8), np.float32), "model.embed_tokens.weight": np.ones((4, 8), np.float32),
    }  # fmt: skip
    folder = save(tmp_path, tensors | others, quantization(weights, "pack-quantized"))
    same(folder, want)
    with ac.open_checkpoint(folder) as model:
        names = {name if "." in name else f"{MODULE}.{name}" for name in others}
        assert set(model) == names | {f"{MODULE}.weight"}
        assert all(model[name].codec is None for name in names)


@pytest.mark.parametrize("status", ["compressed", "frozen", None])
@pytest.mark.parametrize("format", ["pack-quantized", None, "fakequant"])
def test_stored_codes_count_whatever_the_status_says(status: str | None, format: str | None, tmp_path: Path) -> None:
    """Where transformers loads random weights in silence."""
    weights = args(group_size=8)
    tensors, want = stored(array((8, 24)), weights)
    config = quantization(weights, format)
    config.pop("quantization_status")
    config |= {"quantization_status": status} if status else {}
    same(save(tmp_path, tensors, config), want)


@pytest.mark.parametrize("status", ["initialized", "calibration", "frozen", "decompressed"])
def test_a_weight_that_is_still_to_be_compressed(status: str, tmp_path: Path) -> None:
    x = array((8, 24))
    tensors = {"weight": x, "weight_scale": np.ones((8, 3), x.dtype), "weight_zero_point": np.zeros((8, 3), np.int8)}
    config = quantization(args(group_size=8), "dense") | {"quantization_status": status}
    with ac.open_checkpoint(save(tmp_path, tensors, config)) as model:
        assert model[f"{MODULE}.weight"].codec is None and f"{MODULE}.weight_scale" in model
        same_bits(model[f"{MODULE}.weight"].decode(), x, status)


def test_a_weight_that_no_group_names_is_plain(tmp_path: Path) -> None:
    """Stored codes decide; a module that is not in `ignore` and yet not quantised is what it is."""
    config = quantization(args(group_size=8), "pack-quantized") | {"ignore": []}
    with ac.open_checkpoint(save(tmp_path, {"weight": array((8, 24))}, config)) as model:
        assert model[f"{MODULE}.weight"].codec is None


def test_groups_of_several_formats(tmp_path: Path) -> None:
    """Exact names before expressions before classes; each group with its own format."""
    exact, matched, general = args(num_bits=8, group_size=8), FP8 | {"strategy": "channel"}, args(group_size=8)
    groups = {
        "a": {"targets": ["Linear"], "weights": general},
        "b": {"targets": ["re:.*mlp"], "weights": matched, "format": "float-quantized"},
        "c": {"targets": ["model.mlp.one"], "weights": exact, "format": "int-quantized"},
        "d": {"targets": ["Embedding"], "weights": args(num_bits=2, group_size=24)},
    }
    modules = {
        "model.mlp.one": (exact, False), "model.mlp.two": (matched, False), "model.attn.q": (general, True),
        "model.embed_tokens": (groups["d"]["weights"], True),
    }  # fmt: skip
    tensors, want = {}, {}
    for module, (weights, packed) in modules.items():
        parts, want[module] = stored(array((8, 24)), weights, packed)
        tensors |= {f"{module}.{name}": part for name, part in parts.items()}
    config = quantization({}, "mixed-precision") | {"config_groups": groups}
    folder = save(tmp_path, tensors, config)
    codecs = [same(folder, want[module], module) for module in modules]
    assert [getattr(codec, "bits", None) for codec in codecs] == [8, 8, 4, 2]


def test_a_single_group_is_that_of_classes_nobody_knows(tmp_path: Path) -> None:
    weights = args(group_size=8)
    tensors, want = stored(array((8, 24)), weights)
    config = quantization({}, "pack-quantized")
    config["config_groups"] = {"group_0": {"targets": ["FancyLinear"], "weights": weights}}
    same(save(tmp_path, tensors, config), want)


@pytest.mark.parametrize("name", ["W4A16", "w4a16"])
def test_a_group_by_the_name_of_a_preset(name: str, tmp_path: Path) -> None:
    tensors, want = stored(array((8, 256)), args(group_size=128))
    config = quantization({}, "pack-quantized") | {"config_groups": {name: ["Linear"]}}
    same(save(tmp_path, tensors, config), want)


def test_the_method_with_an_underscore(tmp_path: Path) -> None:
    """As examples of the library have it, here with one scale and zero point for all."""
    weights = args(strategy="tensor", symmetric=False)
    tensors, want = stored(array((8, 24)), weights)
    config = quantization(weights, "pack-quantized") | {"quant_method": "compressed_tensors"}
    same(save(tmp_path, tensors, config), want)
    with ac.open_checkpoint(tmp_path) as model:
        assert model.format == "compressed-tensors"


def test_shards_and_the_part_that_is_in_another_one(tmp_path: Path) -> None:
    """Parts of one weight in two files: the main part's file is the weight's."""
    weights = args(group_size=8)
    tensors, want = stored(array((8, 24)), weights)
    folder = save(tmp_path, {}, quantization(weights, "pack-quantized"))
    (folder / "model.safetensors").unlink()
    packed = {f"{MODULE}.weight_packed": tensors.pop("weight_packed")}
    rest = {f"{MODULE}.{name}": part for name, part in tensors.items()}
    index: dict[str, str] = {}
    for i, part in enumerate((packed, rest), 1):
        safetensors.save(part, folder / (name := f"model-0000{i}-of-00002.safetensors"))
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    same(folder, want)
    with ac.open_checkpoint(folder) as model:
        assert model[f"{MODULE}.weight"].path.endswith("model-00001-of-00002.safetensors")


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_frameworks(framework: str, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    weights = args(group_size=8, symmetric=False)
    tensors, want = stored(array((8, 24)), weights)
    with ac.open_checkpoint(save(tmp_path, tensors, quantization(weights, None)), framework=framework) as model:
        decoded = model[f"{MODULE}.weight"].decode()
        assert type(decoded).__module__.startswith(framework)
        same_bits(api.to_numpy(decoded), want, framework)


def test_int1_packs(tmp_path: Path) -> None:
    """One bit: -1 or 0 times the scale."""
    weights = args(num_bits=1, group_size=8)
    tensors, _ = stored(array((8, 24)), weights)
    q = np.random.default_rng(0).integers(-1, 1, (8, 24)).astype(np.int8)
    tensors["weight_packed"] = packing.words_of(packing.codes_of_integers(q, 1), 1, q.shape)
    scales = tensors["weight_scale"].repeat(8, -1)
    same(save(tmp_path, tensors, quantization(weights, None)), q.astype(scales.dtype) * scales + 0)
