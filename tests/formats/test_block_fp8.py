"""FP8 checkpoints with scales of square blocks or of tensors: shapes, dtypes of scales, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec_conformance.compare import same_bits
from tests.codecs.peers import needs
from tests.formats.foreign_modules import fp8
from tests.formats.foreign_support import check_fixture, decoded, folder

E8M0 = ml_dtypes.float8_e8m0fnu


def config(block: Any = (16, 32), **more: Any) -> dict[str, Any]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block} | more


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_fixture() -> None:
    with check_fixture("block_fp8") as model:
        assert model.format == "fp8" and set(model) == {"model.a.weight", "model.norm.weight"}
        assert model["model.a.weight"].codec == ac.Minifloat("float8_e4m3fn", (16, 32))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, E8M0])
@pytest.mark.parametrize("shape", [(32, 64), (40, 72), (1, 5), (3, 40, 72)])
def test_shapes_and_dtypes_of_scales(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    """Also blocks that stick out, and experts, whose weights and scales need not end in `.weight`."""
    codes, scales, weight = fp8(rng(), shape, (16, 32), dtype)
    name = "a.weight" if len(shape) == 2 else "experts.gate_up_proj"
    got = decoded(tmp_path, {name: codes, f"{name}_scale_inv": scales}, config([16, 32]), name)
    same_bits(got, weight, f"{shape} {dtype}")


@pytest.mark.parametrize("ending", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_per_tensor(shape: tuple[int, ...], ending: str, tmp_path: Path) -> None:
    codes, scale, weight = fp8(rng(), (8, 24), None)
    tensors = {"a.weight": codes, f"a.weight{ending}": scale.reshape(shape), "a.input_scale": scale[0]}
    with ac.open_checkpoint(folder(tmp_path, tensors, config(None))) as model:
        same_bits(model["a.weight"].decode(), weight, str(shape))
        assert set(model) == {"a.weight", "a.input_scale"}


def test_every_code_and_scale_that_is_special(tmp_path: Path) -> None:
    """NaN, zeros of both signs and subnormals of float8; scales that are infinite, NaN, tiny or negative."""
    codes = np.tile(np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn), (6, 1))
    scales = np.array([1, -1, 2.0**-90, np.inf, np.nan, 2.0**120], np.float32)[:, None]
    got = decoded(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scales}, config([1, 256]))
    with np.errstate(all="ignore"):
        want = (codes.astype(np.float32) * scales).astype(ml_dtypes.bfloat16)
    for row in (0, 2, 5):
        number = ~np.isnan(want[row].astype(np.float32))
        same_bits(got[row][number], want[row][number], f"row {row}")
        assert np.isnan(got[row][~number].astype(np.float32)).all()
    assert np.isnan(got[3:5].astype(np.float32)).all()
    np.testing.assert_array_equal(got[1].astype(np.float32), want[1].astype(np.float32))


def test_verify_finds_codes_that_are_nan(tmp_path: Path) -> None:
    codes, scales, _ = fp8(rng(), (40, 72), (16, 32))
    codes.view(np.uint8)[3, 4] = 0xFF
    with ac.open_checkpoint(folder(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scales}, config())) as model:
        assert np.isnan(np.float32(model["a.weight"].decode()[3, 4]))
        with pytest.raises(ac.CorruptError, match=r"weight 'a.weight': codes must be numbers, got NaN \(1 such\)"):
            model["a.weight"].verify()


HOSTILE: dict[str, tuple[dict[str, Any], Any, str]] = {
    "no scales": ({"a.weight_scale_inv": None}, [16, 32], "its scales 'a.weight_scale_inv' are missing"),
    "no weight": ({"a.weight": None}, [16, 32], "'a.weight_scale_inv'.* belongs to no weight of float8_e4m3fn"),
    "not float8": ({"a.weight": np.zeros((40, 72), np.float16)}, [16, 32], "belongs to no weight of float8_e4m3fn"),
    "lying block": ({}, [32, 32], r"must be .*\[2, 3\] for float8_e4m3fn\[40, 72\] in blocks of \(32, 32\)"),
    "no block": ({}, None, r"must be .*\[1\] for"),
    "shape": ({"a.weight_scale_inv": np.zeros((3, 2), np.float32)}, [16, 32], r"must be .*\[3, 3\]"),
    "dtype": ({"a.weight_scale_inv": np.zeros((3, 3), np.int32)}, [16, 32], "must be float32 or bfloat16 or"),
    "block of one": ({}, [16], r"weight_block_size must be two integers >= 1 or null, got \[16\]"),
    "block of zero": ({}, [0, 32], "weight_block_size must be two integers"),
    "block of floats": ({}, [16.0, 32], "weight_block_size must be two integers"),
    "block as text": ({}, "16x32", "weight_block_size must be two integers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    own, block, told = HOSTILE[case]
    codes, scales, _ = fp8(rng(), (40, 72), (16, 32))
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales} | own
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    path = folder(tmp_path, tensors, config(block))
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.level("full")
@needs("transformers")
@pytest.mark.parametrize("dtype", [np.float32, E8M0])
@pytest.mark.parametrize("shape", [(256, 384), (3, 128, 256)])
def test_transformers_dequantises_the_same(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    import torch
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    import arraycodec_torch

    codes, scales, weight = fp8(rng(), shape, (128, 128), dtype)
    theirs = Fp8Dequantize(None)._dequantize_one(
        arraycodec_torch.from_numpy(codes), arraycodec_torch.from_numpy(scales), torch.bfloat16
    )
    same_bits(arraycodec_torch.to_numpy(theirs), weight, "the formula")
    tensors = {"a.weight": codes, "a.weight_scale_inv": scales}
    same_bits(decoded(tmp_path, tensors, config([128, 128])), weight, "decoded")
