"""AWQ checkpoints in the layout gemm: every nibble of a word, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec_conformance.compare import same_bits
from tests.formats.foreign_modules import awq, named
from tests.formats.foreign_support import check_fixture, decoded, folder

CT = "compressed-tensors"


def config(**more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"} | more


def module(rows: int = 32, columns: int = 64, group: int = 32) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return awq(np.random.default_rng(rows + columns), rows, columns, group)


def test_fixture() -> None:
    with check_fixture("awq") as model:
        assert model.format == "awq" and set(model) == {"model.a.weight", "model.norm.weight"}
        assert model["model.a.weight"].codec == ac.Linear(4, False, (1, 32), CT, "eager")


@pytest.mark.parametrize(("rows", "columns", "group"), [(8, 2, 1), (8, 3, 3), (40, 15, 5), (64, 128, 128)])
def test_shapes(rows: int, columns: int, group: int, tmp_path: Path) -> None:
    """Also inputs of an odd number, whose rows are no whole bytes."""
    tensors, weight = module(rows, columns, group)
    same_bits(decoded(tmp_path, named("a", tensors), config(group_size=group)), weight, f"{rows} x {columns}")


def test_one_group_and_the_names_of_autoawq(tmp_path: Path) -> None:
    tensors, weight = module(group=64)
    path = folder(tmp_path, named("a", tensors), None)
    (path / "quant_config.json").write_text('{"zero_point": true, "q_group_size": -1, "w_bit": 4, "version": "GEMM"}')
    with ac.open_checkpoint(path) as model:
        same_bits(model["a.weight"].decode(), weight, "quant_config.json")
        assert model["a.weight"].codec == ac.Linear(4, False, (1, None), CT, "eager")


def test_without_zero_points_codes_are_symmetric(tmp_path: Path) -> None:
    tensors, _ = module()
    eight = np.full((2, 4), 0x88888888, np.uint32).view(np.int32)
    same = {**tensors, "qzeros": eight}
    (tmp_path / "asym").mkdir()
    want = decoded(tmp_path / "asym", named("a", same), config())
    del tensors["qzeros"]
    with ac.open_checkpoint(folder(tmp_path, named("a", tensors), config(zero_point=False))) as model:
        same_bits(model["a.weight"].decode(), want, "zero points of 8")
        assert model["a.weight"].codec == ac.Linear(4, True, (1, 32), CT, "eager")


def test_scales_of_activations_are_not_of_a_weight(tmp_path: Path) -> None:
    """AutoAWQ's ScaledActivation stores `scales` and nothing else."""
    tensors, weight = module()
    own = {**named("a", tensors), "act.scales": np.ones(32, np.float16)}
    with ac.open_checkpoint(folder(tmp_path, own, config())) as model:
        assert set(model) == {"a.weight", "act.scales"}
        same_bits(model["a.weight"].decode(), weight, "beside them")


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"version": "gemv"}, "version must be 'gemm', got 'gemv'"),
    ({"version": "marlin"}, "version must be 'gemm', got 'marlin'"),
    ({"version": 3}, "version must be 'gemm', got 3"),
    ({"bits": 8}, "bits must be 4, got 8"),
    ({"zero_point": "yes"}, "zero_point must be true or false, got 'yes'"),
    ({"group_size": 0}, "group_size must be -1 or an integer >= 1, got 0"),
    ({"group_size": 48}, "must have whole groups of 48 inputs, got 64"),
    ({"group_size": 16}, r"'a.qzeros': must be int32\[4, 4\] for 32 outputs of 64 inputs in groups of 16"),
    ({"zero_point": False}, "'a.qzeros': must not be there, as zero_point is false"),
]
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "no scales": ({"scales": None}, "scales of the same module is missing"),
    "no zero points": ({"qzeros": None}, "qzeros of the same module is missing"),
    "no codes": ({"qweight": None}, "belongs to 'a.qweight', which is missing"),
    "axes": ({"qweight": np.zeros(64, np.int32)}, "must be int32 of two axes"),
    "dtype": ({"qweight": np.zeros((64, 4), np.int16)}, "must be int32 of two axes"),
    "zero points": ({"qzeros": np.zeros((2, 8), np.int32)}, r"'a.qzeros': must be int32\[2, 4\]"),
    "scales": ({"scales": np.zeros((32, 2), np.float16)}, r"'a.scales': must be .*\[2, 32\]"),
    "integer scales": ({"scales": np.zeros((2, 32), np.int32)}, r"'a.scales': must be .*\[2, 32\]"),
}


@pytest.mark.parametrize(("wrong", "told"), BAD_CONFIGS, ids=str)
def test_configurations_that_cannot_be(wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = folder(tmp_path, named("a", module()[0]), config() | wrong)
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_do_not_fit(case: str, tmp_path: Path) -> None:
    own, told = HEADERS[case]
    tensors = {name: tensor for name, tensor in {**module()[0], **own}.items() if tensor is not None}
    path = folder(tmp_path, named("a", tensors), config())
    with pytest.raises(ac.CorruptError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))
