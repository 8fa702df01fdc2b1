"""What older versions stored under the same names: how it is told apart, and when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors import legacy, packing
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input
from tests.formats.compressed_tensors.files import MODULE, args, quantization, save, stored
from tests.formats.compressed_tensors.test_packing import padded


def decoded(folder: Path) -> np.ndarray:
    with ac.open_checkpoint(folder) as model:
        return model[f"{MODULE}.weight"].decode()


def old(tensors: dict[str, Any], bits: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """The same with words as they were until 0.17."""
    q = packing.integers_of(packing.codes_of(tensors["weight_packed"], bits, shape), bits, shape)
    found = tensors | {"weight_packed": padded(q, bits)}
    if "weight_zero_point" in tensors:
        zeros = packing.zero_points_of(tensors["weight_zero_point"], bits, shape[-2])
        found["weight_zero_point"] = padded(zeros.swapaxes(-1, -2), bits).swapaxes(-1, -2).copy()
    return found


@pytest.mark.parametrize("version", ["0.17.1", "0.20.0", None])
@pytest.mark.parametrize("shape", [(40, 128), (2, 24, 64)])
@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_words_with_unused_bits(bits: int, shape: tuple[int, ...], version: str | None, tmp_path: Path) -> None:
    """The number of words tells; of 24 zero points of 3 bits it does not, but that of the codes does."""
    weights = args(num_bits=bits, group_size=32, symmetric=False)
    x = hashed_input(int(np.prod(shape[:-1])), shape[-1]).reshape(shape)
    tensors, want = stored(x, weights)
    config = quantization(weights, "pack-quantized") | {"version": version}
    same_bits(decoded(save(tmp_path / "new", tensors, config)), want, "new")
    same_bits(decoded(save(tmp_path / "old", old(tensors, bits, shape), config)), want, "old")


def test_words_that_may_be_either_need_a_version(tmp_path: Path) -> None:
    weights = args(num_bits=3, group_size=-1)
    tensors, want = stored(hashed_input(4, 24), weights)
    config = quantization(weights, "pack-quantized")
    before = old(tensors, 3, (4, 24))
    assert before["weight_packed"].shape == tensors["weight_packed"].shape
    same_bits(decoded(save(tmp_path / "new", tensors, config)), want, "0.20")
    same_bits(decoded(save(tmp_path / "old", before, config | {"version": "0.17.1"})), want, "0.17")
    config.pop("version")
    with pytest.raises(ac.CorruptError, match=r"weight_packed may be packed as until 0\.17 or as since; .* a version"):
        ac.open_checkpoint(save(tmp_path / "none", tensors, config))


@pytest.mark.parametrize(("bits", "columns"), [(3, 10), (7, 4), (4, 24), (2, 40), (8, 5)])
def test_where_both_are_the_same_no_version_is_needed(bits: int, columns: int, tmp_path: Path) -> None:
    weights = args(num_bits=bits, group_size=-1)
    tensors, want = stored(hashed_input(4, columns), weights)
    config = quantization(weights, "pack-quantized") | {"version": None}
    same_bits(decoded(save(tmp_path, tensors, config)), want, str(columns))


def test_codes_and_zero_points_are_packed_alike(tmp_path: Path) -> None:
    weights = args(num_bits=3, group_size=32, symmetric=False)
    tensors, _ = stored(hashed_input(64, 64), weights)
    mixed = tensors | {"weight_zero_point": old(tensors, 3, (64, 64))["weight_zero_point"]}
    with pytest.raises(ac.CorruptError, match="weight_packed and weight_zero_point must be packed alike"):
        ac.open_checkpoint(save(tmp_path, mixed, quantization(weights, "pack-quantized")))


@pytest.mark.parametrize("version", ["0.13.0", "0.14.0", None])
def test_the_bias_of_mxfp4(version: str | None, tmp_path: Path) -> None:
    """Up to 0.13 the scales are 2 less: weights 4 times too small where nobody notices."""
    weights = args(type="float", group_size=32)
    tensors, want = stored(hashed_input(8, 64), weights)
    config = quantization(weights, "mxfp4-pack-quantized") | {"version": version}
    if version == "0.13.0":
        tensors["weight_scale"] = tensors["weight_scale"] - 2
    same_bits(decoded(save(tmp_path, tensors, config)), want, str(version))


def test_scales_that_the_bias_cannot_have_made(tmp_path: Path) -> None:
    weights = args(type="float", group_size=32)
    tensors, _ = stored(hashed_input(8, 64), weights)
    tensors["weight_scale"][3, 1] = 253
    config = quantization(weights, "mxfp4-pack-quantized") | {"version": "0.13.0"}
    with pytest.raises(ac.CorruptError, match="scales of this version are at most 252, got 253"):
        decoded(save(tmp_path, tensors, config))


def test_only_the_scales_of_mxfp4_had_another_bias(tmp_path: Path) -> None:
    weights = args(num_bits=8, type="float", group_size=32, scale_dtype="torch.uint8")
    tensors, want = stored(hashed_input(8, 64), weights)
    config = quantization(weights, "mxfp8-quantized") | {"version": "0.13.0"}
    same_bits(decoded(save(tmp_path, tensors, config)), want, "mxfp8")


def test_the_dtype_of_scales_need_not_be_told(tmp_path: Path) -> None:
    weights = args(num_bits=8, type="float", group_size=32)
    tensors, want = stored(hashed_input(8, 64), weights | {"scale_dtype": "torch.uint8"})
    same_bits(decoded(save(tmp_path, tensors, quantization(weights, "mxfp8-quantized"))), want, "mxfp8")


def test_zero_points_that_are_not_packed(tmp_path: Path) -> None:
    weights = args(group_size=32, symmetric=False)
    tensors, want = stored(hashed_input(8, 64), weights)
    tensors["weight_zero_point"] = packing.zero_points_of(tensors["weight_zero_point"], 4, 8)
    same_bits(decoded(save(tmp_path, tensors, quantization(weights, "pack-quantized"))), want, "int8")


@pytest.mark.parametrize("version", ["0.9.2", "0.5.0"])
def test_zero_points_that_are_all_zero_were_not_stored(version: str, tmp_path: Path) -> None:
    weights = args(group_size=32, symmetric=False)
    tensors, want = stored(hashed_input(8, 64), args(group_size=32))
    config = quantization(weights, "pack-quantized")
    same_bits(decoded(save(tmp_path / "old", tensors, config | {"version": version})), want, version)
    with pytest.raises(ac.CorruptError, match="weight_zero_point is missing"):
        ac.open_checkpoint(save(tmp_path / "new", tensors, config))


# -- groups of columns that are not neighbours


@pytest.mark.parametrize("format", ["pack-quantized", "int-quantized"])
@pytest.mark.parametrize("actorder", ["group", True, "weight", None])
def test_g_idx(actorder: Any, format: str, tmp_path: Path) -> None:
    """Codes stay in the order of columns; the scale of column j is that of group g_idx[j]."""
    weights = args(group_size=16, symmetric=False, actorder=actorder)
    x, g_idx = hashed_input(8, 64), (np.arange(64) * 11 % 64 // 16).astype(np.int32)
    by_group = np.argsort(g_idx, kind="stable")
    tensors, grouped = stored(x[:, by_group].copy(), weights, format == "pack-quantized")
    want = np.empty_like(grouped)
    want[:, by_group] = grouped
    main = "weight_packed" if format == "pack-quantized" else "weight"
    q = (
        tensors[main]
        if main == "weight"
        else packing.integers_of(packing.codes_of(tensors[main], 4, x.shape), 4, x.shape)
    )
    back = np.empty_like(q)
    back[:, by_group] = q
    tensors[main] = back if main == "weight" else packing.words_of(packing.codes_of_integers(back, 4), 4, x.shape)
    folder = save(tmp_path, tensors | {"weight_g_idx": g_idx}, quantization(weights, format))
    same_bits(decoded(folder), want, "g_idx")
    with ac.open_checkpoint(folder) as model:
        planes = model[f"{MODULE}.weight"].encoded().planes
        assert np.array_equal(planes["order"] // 16, g_idx)
        model[f"{MODULE}.weight"].verify()


@pytest.mark.parametrize("g_idx", [np.full(64, -1), np.arange(64) // 16])
def test_g_idx_in_order(g_idx: np.ndarray, tmp_path: Path) -> None:
    weights = args(group_size=16)
    tensors, want = stored(hashed_input(8, 64), weights)
    folder = save(tmp_path, tensors | {"weight_g_idx": g_idx.astype(np.int32)}, quantization(weights, None))
    same_bits(decoded(folder), want, "g_idx")


def test_g_idx_of_channels_says_nothing(tmp_path: Path) -> None:
    weights = args(group_size=-1)
    tensors, want = stored(hashed_input(8, 64), weights)
    folder = save(tmp_path, tensors | {"weight_g_idx": np.zeros(64, np.int32)}, quantization(weights, None))
    same_bits(decoded(folder), want, "g_idx")


def test_groups_must_be_of_one_size(tmp_path: Path) -> None:
    weights = args(group_size=16)
    tensors, _ = stored(hashed_input(8, 64), weights)
    g_idx = np.arange(64, dtype=np.int32) // 17
    with pytest.raises(ac.CorruptError, match="weight_g_idx: must have 16 columns of each group"):
        decoded(save(tmp_path, tensors | {"weight_g_idx": g_idx}, quantization(weights, None)))


def test_versions() -> None:
    texts = ("0.13.1.a20260101", "0.18", None, "", "main", "1" * 40)
    assert [legacy.version_of(text) for text in texts] == [(0, 13, 1), (0, 18), None, None, None, (int("1" * 9),)]
