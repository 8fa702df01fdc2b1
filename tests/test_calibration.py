"""Scales of activations from the extremes of a calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input, sha
from arraycodec_conformance.oracles import to_torch
from tests.codecs.peers import needs

FLAVOUR: dict[str, Any] = {"block_size": None, "flavour": "compressed-tensors", "arithmetic": "eager"}
CODECS: dict[str, Codec] = {
    "int8": ac.Linear(8, **FLAVOUR),
    "int8 asymmetric": ac.Linear(8, symmetric=False, **FLAVOUR),
    "int4": ac.Linear(4, **FLAVOUR),
    "int4 asymmetric": ac.Linear(4, symmetric=False, **FLAVOUR),
    "fp8": ac.Minifloat("float8_e4m3fn", **FLAVOUR),
    "nvfp4": ac.NVFP4(arithmetic="eager"),
}
DTYPES = ("float32", "bfloat16", "float16")
# SHA-256, by compressed-tensors 0.20, of scales and zero points (or of global scales) for `extremes`.
GOLDEN: dict[tuple[str, str], str] = {
    ("int8", "float32"): "db14758c2783",
    ("int8", "bfloat16"): "c3a4ee742df8",
    ("int8", "float16"): "4cfccbe4d7be",
    ("int8 asymmetric", "float32"): "b13bed2a9b41 ebdba38d68ed",
    ("int8 asymmetric", "bfloat16"): "4769f3b5767e 3bbaa4459808",
    ("int8 asymmetric", "float16"): "cea36954b1bd ba5b2fc5570c",
    ("int4", "float32"): "aa69cce03287",
    ("int4", "bfloat16"): "3fe7fe5bbc10",
    ("int4", "float16"): "4b24f567fdd6",
    ("int4 asymmetric", "float32"): "ec33af4c1e35 9b7bef16995b",
    ("int4 asymmetric", "bfloat16"): "c8bcec5abe92 0ac112ef6190",
    ("int4 asymmetric", "float16"): "09d7a95825fc db37bff778aa",
    ("fp8", "float32"): "411ca5a352fb",
    ("fp8", "bfloat16"): "2156102c3f70",
    ("fp8", "float16"): "b16bd55e3b1a",
    ("nvfp4", "float32"): "1364285cdf07",
    ("nvfp4", "bfloat16"): "80310e34159f",
    ("nvfp4", "float16"): "fef951e6c76a",
}


def extremes(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of all signs: ranges around zero, on one side of it, with one end or both at zero."""
    drawn = hashed_input(2, 512, dtype)
    low, high = np.minimum(*drawn), np.maximum(*drawn)
    low[:8], high[4:12] = 0, 0
    low[100:120], high[120:140] = -np.abs(low[100:120]), np.abs(high[120:140])
    return np.minimum(low, high), np.maximum(low, high)


def found(low: np.ndarray, high: np.ndarray, name: str) -> list[np.ndarray]:
    """The planes, for NVFP4 one global scale for each pair."""
    if name != "nvfp4":
        return list(ac.activation_scales(low, high, CODECS[name]).values())
    pairs = zip(low, high, strict=True)
    return [np.concatenate([ac.activation_scales(*pair, CODECS[name])["global_scale"] for pair in pairs])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_golden(name: str, dtype: str) -> None:
    assert " ".join(map(sha, found(*extremes(dtype), name))) == GOLDEN[name, dtype]


@pytest.mark.level("full")
@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODECS)
def test_scales_are_those_of_the_library(name: str, dtype: str) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    low, high = map(to_torch, extremes(dtype))
    if name == "nvfp4":
        theirs = [torch.cat([generate_gparam(*pair) for pair in zip(low, high, strict=True)])]
    else:
        type, bits = ("float", 8) if name == "fp8" else ("int", int(name[3]))
        symmetric = "asymmetric" not in name
        scale, zero = calculate_qparams(low, high, QuantizationArgs(num_bits=bits, type=type, symmetric=symmetric))
        theirs = [scale] if symmetric else [scale, zero.to(torch.int8)]
    for ours, other in zip(found(*extremes(dtype), name), theirs, strict=True):
        assert torch.equal(to_torch(ours).reshape(-1), other.reshape(-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["int8", "int4 asymmetric", "fp8", "nvfp4"])
def test_they_are_those_of_an_array_with_these_extremes(name: str, dtype: str) -> None:
    """What encoding an array finds for the whole of it."""
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(numpy_dtype(dtype))
    low, high = x.min(), x.max()
    planes = ac.encode(x, CODECS[name]).planes
    scales = ac.activation_scales(low.reshape(1), high.reshape(1), CODECS[name])
    for plane, value in scales.items():
        if plane != "scales" or name != "nvfp4":
            same_bits(value.reshape(planes[plane].shape), planes[plane], plane)
    if name != "nvfp4":
        same_bits(ac.encode(x, CODECS[name], given=scales).planes["codes"], planes["codes"], "codes")


@pytest.mark.parametrize(
    "codec", [ac.Linear(8, block_size=None), ac.Linear(4, False, None), ac.Minifloat(block_size=None)]
)
def test_codecs_without_a_flavour_have_their_own(codec: Codec) -> None:
    x = np.float32([-3, 5, 0.25, 0])
    for plane, value in ac.activation_scales(x.min(), x.max(), codec).items():
        same_bits(value, ac.encode(x, codec).planes[plane].reshape(1), plane)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_frameworks_keep_their_arrays(framework: str) -> None:
    pytest.importorskip(framework)
    backend = registry.framework(framework)
    low, high = extremes("bfloat16")
    made = ac.activation_scales(*(backend.from_numpy(x, None) for x in (low, high)), CODECS["int8 asymmetric"])
    for plane, value in ac.activation_scales(low, high, CODECS["int8 asymmetric"]).items():
        assert registry.backend(type(made[plane])) is backend
        same_bits(backend.to_numpy(made[plane]), value, plane)


def test_what_is_not_finite_has_no_scale() -> None:
    for low, high in ((np.nan, 1), (-np.inf, 1), (-1, np.nan), (-1, np.inf)):
        for codec in CODECS.values():
            scale = ac.activation_scales(np.float32([low]), np.float32([high]), codec)
            value = scale.get("scales", scale.get("global_scale"))
            assert value == 1 if isinstance(codec, ac.NVFP4) else np.isnan(value)


def test_refusals() -> None:
    one = np.float32([1])
    with pytest.raises(ac.ArgumentError, match="low and high must be alike"):
        ac.activation_scales(one, np.float32([1, 2]), CODECS["int8"])
    with pytest.raises(ac.ArgumentError, match="must be a Linear or Minifloat"):
        ac.activation_scales(one, one, ac.Codebook("nf4"))
    with pytest.raises(ac.ArgumentError, match="must be a Linear or Minifloat"):
        ac.activation_scales(one, one, ac.Minifloat(scaled=False))
    with pytest.raises(ac.ArgumentError, match="int8"):
        ac.activation_scales(np.int8([1]), np.int8([1]), CODECS["int8"])
