"""Checkpoints in compressed-tensors' formats, made with NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.formats.compressed_tensors import packing
from arraycodec.formats.compressed_tensors.args import Args
from arraycodec.spec import spec_of

MODULE = "model.layers.0.mlp.up_proj"
Arrays = dict[str, np.ndarray[Any, Any]]


def args(**members: Any) -> dict[str, Any]:
    """Members of `weights` in a config."""
    return {"num_bits": 4, "type": "int", "symmetric": True, "group_size": None} | members


def quantization(weights: Mapping[str, Any], format: str | None, **more: Any) -> dict[str, Any]:
    """A quantization_config with one group for all modules."""
    group = {"targets": ["Linear"], "weights": dict(weights)}
    config = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "version": "0.20.0"}
    config |= {"ignore": ["lm_head"]}
    return config | ({"format": format} if format else {}) | {"config_groups": {"group_0": group}} | more


def save(
    folder: Path, tensors: Arrays, quantization: Mapping[str, Any], dtype: str | None = "bfloat16", module: str = MODULE
) -> Path:
    """A checkpoint of one module; names with a point are whole names."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name if "." in name else f"{module}.{name}": array for name, array in tensors.items()}
    safetensors.save(named, folder / "model.safetensors")
    model = ({"dtype": dtype} if dtype else {}) | {"quantization_config": dict(quantization)}
    (folder / "config.json").write_text(json.dumps(model))
    return folder


def stored(x: np.ndarray, weights: Mapping[str, Any], packed: bool = True) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """What the library stores for a weight, by our codec of its Args, and what that decodes to."""
    found = Args.from_json(dict(weights), "weights")
    codec: Any = found.codec()
    planes, spec = codec.encode(x), spec_of(x)
    decoded = codec.decode(planes, spec)
    if isinstance(codec, ac.Linear):
        parts = {"weight_scale": planes["scales"]}
        if packed:
            parts["weight_packed"] = packing.words_of(planes["codes"], codec.bits, x.shape)
            parts["weight_shape"] = np.array(x.shape, np.int64)
        else:
            parts["weight"] = packing.integers_of(planes["codes"], codec.bits, x.shape)
        if not codec.symmetric:
            zeros = planes["zero_points"]
            in_words = packed and found.strategy in ("group", "channel")
            parts["weight_zero_point"] = packing.zero_point_words(zeros, codec.bits) if in_words else zeros
        return parts, decoded
    main = "weight_packed" if planes["codes"].dtype == np.uint8 else "weight"
    parts = {main: planes["codes"], "weight_scale": planes["scales"]}
    if "global_scale" in planes:
        parts["weight_global_scale"] = planes["global_scale"]
    return parts, decoded
