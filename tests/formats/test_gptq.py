"""GPTQ checkpoints: every width and version of the layout, activation order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.gptq import zero_points
from arraycodec_conformance.compare import same_bits
from tests.formats.foreign_modules import gptq, named, shuffled_groups, stream
from tests.formats.foreign_support import check_fixture, decoded, folder

CT = "compressed-tensors"


def config(bits: int = 4, group: int = 32, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": False} | more


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_fixture() -> None:
    with check_fixture("gptq") as model:
        assert model.format == "gptq"
        assert set(model) == {"model.a.weight", "model.b.weight", "model.a.bias", "model.norm.weight"}
        assert model["model.a.weight"].codec == ac.Linear(4, True, (1, 32), CT, "eager")
        assert model["model.a.weight"].nbytes == 32 * 64 // 2 + 2 * 16 + 2 * 64 + 4 * 64


def test_fixture_with_activation_order() -> None:
    with check_fixture("gptq_act_order") as model:
        weight = model["model.a.weight"]
        assert weight.codec == ac.Then(ac.Permuted(), values=ac.Linear(3, False, (1, 32), CT, "eager"))
        order = weight.encoded().planes["order"]
        with ac.open_file(model.path) as raw:
            assert np.array_equal(order // 32, np.asarray(raw["model.a.g_idx"]))


@pytest.mark.parametrize("v1", [True, False])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_width(bits: int, act_order: bool, v1: bool, tmp_path: Path) -> None:
    g_idx = shuffled_groups(rng(1), 64, 16) if act_order else None
    tensors, weight = gptq(rng(bits), 32, 64, bits, 16, v1=v1, g_idx=g_idx, lowest=int(v1))
    said = config(bits, 16, desc_act=act_order, checkpoint_format="gptq" if v1 else "gptq_v2")
    same_bits(decoded(tmp_path, named("a", tensors), said), weight, f"{bits} bits")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_a_weight_has_the_dtype_of_its_scales_unless_that_is_float32(dtype: Any, tmp_path: Path) -> None:
    """Float32 scales say nothing of the weight, the model does: here bfloat16, from one product in float32."""
    tensors, weight = gptq(rng(), 32, 64, 4, 32, dtype=dtype)
    got = decoded(tmp_path, named("a", tensors), config())
    same_bits(got, weight.astype(ml_dtypes.bfloat16) if dtype == np.float32 else weight, str(dtype))


def test_groups_of_all_columns_and_a_shorter_last_one(tmp_path: Path) -> None:
    for group, columns in ((-1, 64), (64, 64), (24, 64), (128, 96)):
        tensors, weight = gptq(rng(), 32, columns, 4, columns if group == -1 else group)
        path = tmp_path / f"{group}"
        path.mkdir()
        with ac.open_checkpoint(folder(path, named("a", tensors), config(group=group))) as model:
            same_bits(model["a.weight"].decode(), weight, f"groups of {group}")
            block = (1, None if group in (-1, 64, 128) else group)
            assert model["a.weight"].codec == ac.Linear(4, False, block, CT, "eager")


def test_no_g_idx_and_one_of_zeros_mean_groups_in_order(tmp_path: Path) -> None:
    tensors, weight = gptq(rng(), 32, 64, 4, 32)
    for i, g_idx in enumerate((None, np.zeros(64, np.int32))):
        own = {name: tensor for name, tensor in tensors.items() if name != "g_idx"}
        own |= {} if g_idx is None else {"g_idx": g_idx}
        (tmp_path / str(i)).mkdir()
        same_bits(decoded(tmp_path / str(i), named("a", own), config()), weight, "in order")


def test_modules_that_differ_from_the_rest(tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: the first expression that matches a module's name changes what is said of it."""
    four, eight = gptq(rng(1), 32, 64, 4, 32), gptq(rng(2), 32, 64, 8, 16)
    tensors = {**named("m.a", four[0]), **named("m.b", eight[0])}
    said = config(dynamic={r"+:m\.b": {"bits": 8, "group_size": 16}, r"-:m\.c": {}})
    with ac.open_checkpoint(folder(tmp_path, tensors, said)) as model:
        same_bits(model["m.a.weight"].decode(), four[1], "a")
        same_bits(model["m.b.weight"].decode(), eight[1], "b")


def test_a_zero_point_of_zero_borrowed_in_v1_comes_back() -> None:
    """GPTQModel subtracts 1 from whole words, and adds it: the field of a zero point 0 is all ones then."""
    for bits in (2, 4, 8):
        zeros = rng(bits).integers(0, 1 << bits, 32)
        words = np.array([stream(zeros.tolist(), bits)], np.int32)
        one_each = np.uint32(sum(1 << place for place in range(0, 32, bits)))
        stored = (words.view(np.uint32) - one_each).view(np.int32)
        same_bits(zero_points(stored, bits, 32, True)[0], (zeros - (1 << (bits - 1))).astype(np.int8), f"{bits} bits")
    zeros = rng(3).integers(0, 8, 32)
    words = np.array([stream(((zeros - 1) % 8).tolist(), 3)], np.int32)
    same_bits(zero_points(words, 3, 32, True)[0], (zeros - 4).astype(np.int8), "3 bits")


def test_other_frameworks_decode_the_same(tmp_path: Path) -> None:
    tensors, weight = gptq(rng(), 32, 64, 4, 32, g_idx=shuffled_groups(rng(1), 64, 32))
    path = folder(tmp_path, named("a", tensors), config(desc_act=True))
    for framework in ("torch", "jax"):
        pytest.importorskip(framework)
        with ac.open_checkpoint(path, framework=framework) as model:
            found = model["a.weight"].decode()
            assert type(found).__module__.startswith(framework)
            same_bits(np.asarray(found), weight, framework)


# -- what is refused

BAD_CONFIGS: list[tuple[dict[str, Any], str | None]] = [
    ({"bits": 5}, "bits must be one of 2, 3, 4, 8, got 5"),
    ({"bits": None}, "bits is missing"),
    ({"bits": "4"}, "bits must be an integer, got '4'"),
    ({"bits": True}, "bits must be an integer, got True"),
    ({"group_size": 0}, "group_size must be -1 or an integer >= 1, got 0"),
    ({"group_size": -2}, "group_size must be -1 or an integer >= 1, got -2"),
    ({"desc_act": "no"}, "desc_act must be true or false, got 'no'"),
    ({"sym": 1}, "sym must be true or false, got 1"),
    ({"checkpoint_format": "marlin"}, "format must be one of gptq, gptq_v2, got 'marlin'"),
    ({"is_marlin_format": True}, "format must be one of gptq, gptq_v2, got 'marlin'"),
    ({"pack_dtype": "int16"}, "pack_dtype must be 'int32', got 'int16'"),
    ({"dynamic": []}, None),  # as if it were not there
    ({"dynamic": [1]}, "dynamic must be an object"),
    ({"dynamic": {"a": 3}}, "dynamic: 'a' must be an object"),
    ({"dynamic": {"(": {}}}, r"'\(' is no regular expression"),
    ({"dynamic": {"a{99999999999999999999}": {}}}, "is no regular expression"),
    ({"dynamic": {"-:a": {}}}, "dynamic says that 'a' is not quantised, but it is"),
    ({"quant_method": "gptq2"}, "quant_method must be one of"),
]


@pytest.mark.parametrize(("wrong", "told"), BAD_CONFIGS, ids=str)
def test_configurations_that_cannot_be(wrong: dict[str, Any], told: str | None, tmp_path: Path) -> None:
    tensors, weight = gptq(rng(), 32, 64, 4, 32)
    path = folder(tmp_path, named("a", tensors), config() | wrong)
    if told is None:
        with ac.open_checkpoint(path) as model:
            same_bits(model["a.weight"].decode(), weight, str(wrong))
        return
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))


def changed(tensors: dict[str, Any], **own: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in {**tensors, **own}.items() if tensor is not None}


HEADERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no scales": ({"scales": None}, {}, "scales of the same module is missing"),
    "no zero points": ({"qzeros": None}, {}, "qzeros of the same module is missing"),
    "no codes": ({"qweight": None}, {}, "belongs to 'a.qweight', which is missing"),
    "no g_idx": ({"g_idx": None}, {"desc_act": True}, "g_idx of the same module is missing, which desc_act needs"),
    "lying group_size": ({}, {"group_size": 16}, r"must be int32\[4, 4\] for 32 outputs of 64 inputs in groups of 16"),
    "lying bits": ({}, {"bits": 8}, "for 32 outputs of 32 inputs in groups of 32 with 8 bits"),
    "bits of odd rows": ({}, {"bits": 3}, "the first whole codes of 3 bits"),
    "zero points": ({"qzeros": np.zeros((2, 5), np.int32)}, {}, r"'a.qzeros': must be int32\[2, 4\]"),
    "dtype of codes": ({"qweight": np.zeros((8, 32), np.int64)}, {}, "must be int32 of two axes"),
    "axes of codes": ({"qweight": np.zeros((8, 32, 1), np.int32)}, {}, "must be int32 of two axes"),
    "dtype of scales": ({"scales": np.zeros((2, 32), np.int8)}, {}, "must be float32 or bfloat16 or float16"),
    "shape of scales": ({"scales": np.zeros((32, 2), np.float16)}, {}, r"'a.scales': must be .*\[2, 32\]"),
    "length of g_idx": ({"g_idx": np.zeros(63, np.int32)}, {}, r"'a.g_idx': must be int32\[64\]"),
    "the weight too": ({"weight": np.zeros((32, 64), np.float16)}, {}, "stands beside the parts of the same weight"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_do_not_fit(case: str, tmp_path: Path) -> None:
    """Found before any data is read."""
    own, said, told = HEADERS[case]
    tensors, _ = gptq(rng(), 32, 64, 4, 32)
    path = folder(tmp_path, named("a", changed(tensors, **own)), config(**said))
    with pytest.raises(ac.FormatError, match=told) as caught:
        ac.open_checkpoint(path)
    assert str(caught.value).startswith(str(path))


VALUES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "g_idx too large": ({"g_idx": np.repeat([0, 2], 32).astype(np.int32)}, {"desc_act": True}, "g_idx must be in 0..1"),
    "g_idx negative": ({"g_idx": np.repeat([0, -7], 32).astype(np.int32)}, {"desc_act": True}, "g_idx must be in 0..1"),
    "groups not full": (
        {"g_idx": np.repeat([0, 1], [31, 33]).astype(np.int32)}, {"desc_act": True}, "g_idx.* 32 columns of each group",
    ),
    "no order said": (
        {"g_idx": np.tile([0, 1], 32).astype(np.int32)}, {}, "g_idx must count groups in order",
    ),
    "not symmetric": ({}, {"sym": True}, "qzeros must be 7 throughout, as the quantization_config has sym, got"),
    "not symmetric, v2": ({}, {"sym": True, "checkpoint_format": "gptq_v2"}, "qzeros must be 8 throughout"),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values_that_cannot_be(case: str, tmp_path: Path) -> None:
    own, said, told = VALUES[case]
    tensors, _ = gptq(rng(), 32, 64, 4, 32)
    with ac.open_checkpoint(folder(tmp_path, named("a", changed(tensors, **own)), config(**said))) as model:
        weight = model["a.weight"]
        for use in (weight.decode, weight.encoded, weight.verify, lambda: weight[1:2]):
            with pytest.raises(ac.CorruptError, match=told) as caught:
                use()
        assert str(caught.value).startswith(weight.where)


def test_codes_without_a_configuration(tmp_path: Path) -> None:
    tensors, weight = gptq(rng(), 32, 64, 4, 32)
    path = folder(tmp_path, named("a", tensors), None)
    with pytest.raises(ac.FormatError, match="GPTQ or AWQ"):
        ac.open_checkpoint(path)
    with ac.open_checkpoint(path, config=config()) as model:
        same_bits(model["a.weight"].decode(), weight, "config=")
    (path / "quantize_config.json").write_text('{"bits": 4, "group_size": 32, "sym": false}')  # as AutoGPTQ wrote it
    with ac.open_checkpoint(path) as model:
        same_bits(model["a.weight"].decode(), weight, "quantize_config.json")
