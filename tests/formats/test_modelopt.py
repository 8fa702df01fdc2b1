"""ModelOpt checkpoints: NVFP4 and FP8 by their tensors, both files of configuration, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.base import Encoded
from arraycodec.formats.modelopt import divided
from arraycodec_conformance.compare import same_bits
from tests.formats.foreign_modules import fp8, named, nvfp4
from tests.formats.foreign_support import check_fixture, decoded, folder

CODEC = ac.NVFP4(flavour="modelopt")


def config(algorithm: str = "NVFP4", **more: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": algorithm} | more


def module() -> tuple[dict[str, np.ndarray], np.ndarray]:
    return nvfp4(np.random.default_rng(0), 8, 64)


def test_fixture() -> None:
    with check_fixture("modelopt") as model:
        assert model.format == "modelopt"
        scales = {"model.a.input_scale", "model.b.input_scale", "model.attn.k_scale"}
        assert set(model) == {"model.a.weight", "model.b.weight", "model.norm.weight", *scales}
        assert model["model.a.weight"].codec == CODEC
        assert model["model.b.weight"].codec == ac.Minifloat("float8_e4m3fn", None)


def test_what_hf_quant_config_says(tmp_path: Path) -> None:
    """Of older versions, in a file of its own; the dtype is that of config.json."""
    tensors, weight = module()
    path = folder(tmp_path, named("a", tensors), None)
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
    (path / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": said}))
    (path / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    with ac.open_checkpoint(path) as model:
        assert model.format == "modelopt"
        same_bits(model["a.weight"].decode(), weight, "hf_quant_config.json")


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_fp8_with_a_scale_per_row(shape: tuple[int, ...], tmp_path: Path) -> None:
    codes, scales, weight = fp8(np.random.default_rng(0), (8, 32), (1, 32))
    tensors = {"a.weight": codes, "a.weight_scale": scales.reshape(shape)}
    same_bits(decoded(tmp_path, tensors, config("FP8_PER_CHANNEL_PER_TOKEN")), weight, str(shape))


def test_the_global_scale_as_a_divisor() -> None:
    """Exact where it is a power of two; else a step may differ in its last bit, and bfloat16 hardly ever."""
    tensors, _ = module()
    spec = ac.ArraySpec((8, 64), "float32")
    planes = {"codes": tensors["weight"], "scales": tensors["weight_scale"]}
    differ = 0
    for factor in (2.0**-15, 2.0**-40, 3.7e-5, 1.1e-3, 0.7):
        enc = Encoded(CODEC, spec, {**planes, "global_scale": np.array([factor], np.float32)})
        other = divided(enc)
        assert other.codec == ac.NVFP4(arithmetic="eager")
        a, b = ac.decode(enc), ac.decode(other)
        if np.log2(factor) % 1 == 0:
            same_bits(b, a, f"{factor}")
        np.testing.assert_allclose(b, a, rtol=2**-22)
        differ += int((a != b).sum())
        half = a.astype(ml_dtypes.bfloat16) != b.astype(ml_dtypes.bfloat16)
        assert half.mean() < 0.001
    assert differ
    with pytest.raises(ac.ArgumentError, match="must be NVFP4 of the flavour 'modelopt'"):
        divided(ac.encode(np.ones((1, 16), np.float32), "nvfp4"))


HOSTILE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "algorithm": ({}, {"quant_algo": "W4A16_AWQ"}, "quant_algo must be one of NVFP4, .*, got 'W4A16_AWQ'"),
    "no algorithm": ({}, {"quant_algo": None}, "quant_algo must be one of"),
    "group size": ({}, {"group_size": 32}, "group_size must be 16, got 32"),
    "quantization": ({}, {"quantization": 3}, "quantization must be an object, got 3"),
    "no scales": ({"weight_scale": None}, {}, "weight_scale of the same module is missing"),
    "no second scale": ({"weight_scale_2": None}, {}, "weight_scale_2 of the same module is missing"),
    "no weight": ({"weight": None}, {}, "belongs to 'a.weight', which is missing"),
    "wide weight": ({"weight": np.zeros((8, 64), np.float16)}, {}, "must be uint8 .* got float16 beside weight_scale"),
    "axes": ({"weight": np.zeros((2, 8, 32), np.uint8)}, {}, "must have rows of whole groups of 16 codes"),
    "columns": ({"weight": np.zeros((8, 12), np.uint8)}, {}, "must have rows of whole groups of 16 codes"),
    "scales": ({"weight_scale": np.zeros((8, 2), ml_dtypes.float8_e4m3fn)}, {}, r"must be float8_e4m3fn\[8, 4\]"),
    "dtype of scales": ({"weight_scale": np.zeros((8, 4), np.uint8)}, {}, r"must be float8_e4m3fn\[8, 4\]"),
    "many second scales": ({"weight_scale_2": np.zeros(2, np.float32)}, {}, r"must be float32\[1\]"),
    "smoothing": ({"pre_quant_scale": np.zeros(64, np.float32)}, {}, "inputs that are scaled before a product"),
    "mixed up": ({"weight": np.zeros((8, 32), ml_dtypes.float8_e4m3fn)}, {}, "beside weight_scale_2, weight_scale"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    own, said, told = HOSTILE[case]
    tensors = {name: tensor for name, tensor in {**module()[0], **own}.items() if tensor is not None}
    path = folder(tmp_path, named("a", tensors), config() | said)
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))
