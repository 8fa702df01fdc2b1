"""Files that lie: a clear error for each row, that begins with the file and the module, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compressed_tensors import hashed_input
from tests.formats.compressed_tensors.files import MODULE, args, quantization, save, stored

FP8, INT4 = {"num_bits": 8, "type": "float", "strategy": "channel"}, args(group_size=8)
ASYMMETRIC = args(group_size=8, symmetric=False)
NVFP4 = args(type="float", group_size=16, strategy="tensor_group")
MXFP4, MXFP6 = args(type="float", group_size=32), args(num_bits=6, type="float", group_size=32)
X = hashed_input(8, 96)

Change = Callable[[dict[str, Any]], object]


def gone(*roles: str) -> Change:
    return lambda t: [t.pop(role) for role in roles]


def put(**arrays: Any) -> Change:
    return lambda t: t.update({role: np.asarray(array) for role, array in arrays.items()})


def cut(role: str, piece: Any) -> Change:
    return lambda t: t.update({role: np.ascontiguousarray(t[role][piece])})


def wide(role: str, dtype: str) -> Change:
    return lambda t: t.update({role: np.zeros(t[role].shape, numpy_dtype(dtype))})


# weights, format, what is done to the tensors, what the error says
ROWS: list[tuple[dict[str, Any], str, Change, str]] = [
    # weight_shape
    (INT4, "pack-quantized", gone("weight_shape"), "weight_shape is missing"),
    (INT4, "pack-quantized", put(weight_shape=np.array([9, 96])), "weight_shape is .9, 96., but weight_packed .8, 12."),
    (INT4, "pack-quantized", put(weight_shape=np.array([8, 95])), "rows must be groups of 8 codes, got 95"),
    (INT4, "pack-quantized", put(weight_shape=np.array([8, 960])), "must have 120 words for 960 codes"),
    (INT4, "pack-quantized", put(weight_shape=np.array([8, -1])), "weight_shape is .8, -1."),
    (INT4, "pack-quantized", put(weight_shape=np.array([8, 2**62])), "must have \\d+ words"),
    (INT4, "pack-quantized", put(weight_shape=np.array([768])), r"weight_shape must have the shape \[2\], got \[1\]"),
    (INT4, "pack-quantized", put(weight_shape=np.ones(2, np.float32)), "weight_shape must be int64 or int32"),
    (INT4, "pack-quantized", put(weight_shape=np.zeros(1 << 12, np.int64)), "weight_shape must have the shape"),
    # missing and left over
    (INT4, "pack-quantized", gone("weight_packed"), "has weight_scale, weight_shape, but neither"),
    (INT4, "pack-quantized", gone("weight_scale"), "weight_scale is missing"),
    (FP8, "float-quantized", gone("weight_scale"), "weight_scale is missing, got weight"),
    (args(num_bits=8), "int-quantized", gone("weight_scale"), "weight_scale is missing, got weight"),
    (ASYMMETRIC, "pack-quantized", gone("weight_zero_point"), "weight_zero_point is missing"),
    (NVFP4, "nvfp4-pack-quantized", gone("weight_global_scale"), "weight_global_scale is missing"),
    (MXFP4, "mxfp4-pack-quantized", gone("weight_scale"), "weight_scale is missing"),
    (INT4, "pack-quantized", put(weight=X), "has both weight_packed and weight"),
    (INT4, "pack-quantized", put(weight_global_scale=np.ones(1, np.float32)), "weight_global_scale has no meaning"),
    (FP8, "float-quantized", put(weight_shape=np.array([8, 96])), "weight_shape has no meaning in the format float"),
    (FP8, "float-quantized", put(weight=X), "weight is bfloat16 beside weight_scale"),
    # dtypes
    (INT4, "pack-quantized", wide("weight_packed", "int64"), "weight_packed must be int32 or uint8, got int64"),
    (INT4, "pack-quantized", wide("weight_packed", "uint8"), "is stored as nvfp4-pack-quantized, but"),
    (INT4, "pack-quantized", wide("weight_scale", "int8"), "weight_scale must be float32 or .*, got int8"),
    (INT4, "pack-quantized", wide("weight_scale", "float64"), "weight_scale must be float32 or .*, got float64"),
    (ASYMMETRIC, "pack-quantized", wide("weight_zero_point", "int16"), "weight_zero_point must be int8, got int16"),
    (FP8, "float-quantized", wide("weight_scale", "uint8"), "is stored as mxfp8-quantized, but .* says float-"),
    (FP8, "float-quantized", wide("weight", "float8_e5m2"), "weight is float8_e5m2 beside weight_scale"),
    (NVFP4, "nvfp4-pack-quantized", wide("weight_scale", "uint8"), "weight_scale must be float8_e4m3fn, got uint8"),
    (NVFP4, "nvfp4-pack-quantized", wide("weight_global_scale", "bfloat16"), "weight_global_scale must be float32"),
    (MXFP4, "mxfp4-pack-quantized", wide("weight_scale", "bfloat16"), "weight_scale must be uint8, got bfloat16"),
    (args(num_bits=8), "int-quantized", put(weight_zero_point=np.ones(1, np.int32)), "must be int8 or float8_e4m3fn"),
    # shapes
    (INT4, "pack-quantized", cut("weight_scale", np.s_[:, :-1]), r"weight_scale must have the shape \[8, 12\], got"),
    (INT4, "pack-quantized", cut("weight_scale", np.s_[:-1]), r"weight_scale must have the shape \[8, 12\], got"),
    (FP8, "float-quantized", cut("weight_scale", np.s_[:1]), r"must have the shape \[8, 1\] or \[8\], got"),
    (ASYMMETRIC, "pack-quantized", cut("weight_zero_point", np.s_[:, 1:]), "weight_zero_point must have the shape"),
    (ASYMMETRIC, "pack-quantized", put(weight_zero_point=np.zeros((2, 12), np.int32)), "must have 1 words for 8 codes"),
    (ASYMMETRIC, "pack-quantized", put(weight_zero_point=np.zeros(12, np.int32)), "weight_zero_point must have 2 axes"),
    (ASYMMETRIC, "int-quantized", put(weight_zero_point=np.zeros((1, 12), np.int32)), "must be int8, got int32"),
    (INT4, "pack-quantized", put(weight_zero_point=np.zeros((8, 1), np.int8)), "must have the shape .8, 12."),
    (INT4, "pack-quantized", put(weight_g_idx=np.zeros(95, np.int32)), r"weight_g_idx must have the shape \[96\]"),
    (INT4, "pack-quantized", put(weight_packed=np.int32(1)), "weight_packed must have axes"),
    (NVFP4, "nvfp4-pack-quantized", cut("weight_packed", np.s_[:, :-1]), "rows must be groups of 16 codes of 4 bits"),
    (NVFP4, "nvfp4-pack-quantized", put(weight_global_scale=np.ones(2, np.float32)), r"must have the shape \[1\]"),
    (MXFP6, "mxfp6-pack-quantized", cut("weight_packed", np.s_[:, :-1]), "rows must be groups of 32 codes of 6 bits"),
    (MXFP4, "mxfp4-pack-quantized", cut("weight_scale", np.s_[:, 1:]), r"weight_scale must have the shape \[8, 3\]"),
    # the config says something else
    (INT4, "int-quantized", put(weight_packed=np.zeros((8, 12), np.int32)), "has both|stored as pack-quantized"),
    (MXFP4, "nvfp4-pack-quantized", put(), "is stored as mxfp4-pack-quantized, but .* says nvfp4-pack-quantized"),
    (args(num_bits=8), "float-quantized", put(), "is stored as int-quantized, but .* says float-quantized"),
    (args(num_bits=8), "dense", put(), "is stored as int-quantized, but .* says dense"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda i: f"{ROWS[i][1]}-{i}")
def test_lies(row: int, tmp_path: Path) -> None:
    weights, format, change, told = ROWS[row]
    tensors, _ = stored(X, weights, format == "pack-quantized")
    change(tensors)
    folder = save(tmp_path, tensors, quantization(weights, format))
    with pytest.raises(ac.FormatError, match=f"model.safetensors: module '{MODULE}': .*({told})"):
        ac.open_checkpoint(folder)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"format": "pack-quantised"}, "config.json: quantization_config: format must be one of dense, int-quantized, "),
    ({"format": "marlin-24"}, "marlin-24"),
    ({"config_groups": {}}, "in .*config.json no group targets it"),
    ({"config_groups": {"g": {"targets": ["Linear"]}}}, "the group that targets it has no weights"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": {"groupsize": 8}}}}, "'groupsize' is not"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": args(num_bits=16, group_size=8)}}}, "no stored format"),
    (
        {"config_groups": {"g": {"targets": ["a"], "weights": INT4}, "h": {"targets": ["b"], "weights": ASYMMETRIC}}},
        "no group targets it",
    ),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": args(num_bits=8, group_size=8)}}}, "24 words"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": args(group_size=16)}}}, r"\[8, 6\], got \[8, 12\]"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": args(group_size=-1)}}}, r"\[8, 1\] or \[8\], got"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": args(type="float")}}}, "no stored format"),
    ({"config_groups": {"g": {"targets": ["Linear"], "weights": MXFP4}}}, "the config says float of 4 bits, got"),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(CONFIGS)))
def test_configs_that_lie(row: int, tmp_path: Path) -> None:
    change, told = CONFIGS[row]
    tensors, _ = stored(X, INT4)
    with pytest.raises(ac.FormatError, match=told):
        ac.open_checkpoint(save(tmp_path, tensors, quantization(INT4, "pack-quantized") | change))


@pytest.mark.parametrize("status", ["compressed", None])
def test_a_float_weight_beside_scales_needs_a_status_that_explains_it(status: str | None, tmp_path: Path) -> None:
    """It may be a weight to be quantised still, or a file whose codes got lost: only `quantization_status` tells."""
    config = quantization(INT4, "pack-quantized") | {"quantization_status": status}
    tensors = {"weight": X, "weight_scale": np.ones((8, 12), X.dtype)}
    told = f"weight is bfloat16 beside weight_scale, but quantization_status is {status!r}"
    with pytest.raises(ac.CorruptError, match=told):
        ac.open_checkpoint(save(tmp_path, tensors, config))


@pytest.mark.parametrize(
    ("weights", "role", "value", "told"),
    [
        (INT4, "weight_scale", np.nan, "scales must be finite and not negative, got nan"),
        (INT4, "weight_scale", -1.0, "scales must be finite and not negative, got -1.0"),
        (INT4, "weight_scale", np.inf, "scales must be finite and not negative, got inf"),
        (FP8, "weight_scale", np.nan, "scales must be finite and not negative, got nan"),
        (FP8, "weight", np.nan, r"codes must be numbers, got NaN \(1 such\)"),
        (NVFP4, "weight_scale", np.nan, "scales must be finite and not negative, got nan"),
        (NVFP4, "weight_global_scale", -2.0, "global_scale must be finite and positive, got -2.0"),
        (NVFP4, "weight_global_scale", 0.0, "global_scale must be finite and positive, got 0.0"),
        (MXFP4, "weight_scale", 255, "scales must be below 255"),
    ],
)
def test_verify_finds_scales_that_cannot_be(
    weights: dict[str, Any], role: str, value: float, told: str, tmp_path: Path
) -> None:
    tensors, _ = stored(X, weights)
    tensors[role].reshape(-1)[-1] = value
    with ac.open_checkpoint(save(tmp_path, tensors, quantization(weights, None))) as model:
        tensor = model[f"{MODULE}.weight"]
        tensor.decode()
        with pytest.raises(ac.CorruptError, match=f"model.safetensors: weight '{MODULE}.weight': {told}"):
            tensor.verify()


def test_integers_to_a_byte_must_fit(tmp_path: Path) -> None:
    weights = args(group_size=8)
    tensors, _ = stored(X, weights, packed=False)
    tensors["weight"][2, 3] = 8
    folder, told = save(tmp_path, tensors, quantization(weights, None)), r"4 bits must be in -8\.\.7, got 8"
    with ac.open_checkpoint(folder) as model, pytest.raises(ac.CorruptError, match=told):
        model[f"{MODULE}.weight"].decode()


def test_a_weight_shape_that_is_short_by_less_than_a_word(tmp_path: Path) -> None:
    """Nothing but the bits behind the last column can tell."""
    weights = args(group_size=-1)
    tensors, _ = stored(X, weights)
    tensors["weight_shape"][1] = 95
    folder, told = save(tmp_path, tensors, quantization(weights, None)), "must end in zero bits behind 95 codes of 4"
    with ac.open_checkpoint(folder) as model, pytest.raises(ac.CorruptError, match=told):
        model[f"{MODULE}.weight"].decode()


def test_a_shard_that_is_missing_and_one_outside(tmp_path: Path) -> None:
    tensors, _ = stored(X, INT4)
    folder = save(tmp_path / "m", tensors, quantization(INT4, "pack-quantized"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = [f"{MODULE}.{role}" for role in tensors]
    index = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    for name, told in (("model-00002-of-00002.safetensors", "model-00002"), ("../model.safetensors", r"\.\.")):
        written = {"weight_map": index | {f"{MODULE}.bias": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(written))
        with pytest.raises((ac.ArrayCodecError, OSError), match=told):
            ac.open_checkpoint(folder)


def test_one_shard_alone_lacks_parts(tmp_path: Path) -> None:
    tensors, _ = stored(X, INT4)
    tensors.pop("weight_scale")
    with pytest.raises(ac.CorruptError, match="weight_scale is missing"):
        ac.open_checkpoint(save(tmp_path, tensors, quantization(INT4, None)) / "model.safetensors")


def test_names_are_shown_without_control_characters(tmp_path: Path) -> None:
    tensors, _ = stored(X, INT4)
    tensors.pop("weight_scale")
    with pytest.raises(ac.CorruptError) as caught:
        ac.open_checkpoint(save(tmp_path, tensors, quantization(INT4, None), module="a\x1b[2J"))
    assert "\x1b" not in str(caught.value)
