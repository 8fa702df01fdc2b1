"""What other quantisers found, stored as compressed-tensors stores it: the same codes and scales, to the bit.

Its own converters are the judges of AWQ and ModelOpt, where it is installed (level full).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec_conformance.compare import same_bits
from tests.codecs.peers import needs
from tests.formats.foreign_modules import FIXTURES, checkpoints
from tests.formats.foreign_support import check_fixture, folder


def source(name: str, path: Path) -> Path:
    """A copy of a committed checkpoint without the expected weights."""
    (folder := path / "source").mkdir()
    for file in ("model.safetensors", "config.json"):
        shutil.copy(FIXTURES / name / file, folder)
    return folder


def converted(name: str, path: Path, to: str = "compressed-tensors") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All stored tensors after the conversion, and the quantization_config; the weights decode to what they did."""
    result = ac.convert(source(name, path), path / "result", to)
    weights = checkpoints()[name][2]
    with ac.open_checkpoint(path / "result") as model, ac.open_file(path / "result" / "model.safetensors") as raw:
        for key, weight in weights.items():
            same_bits(np.asarray(model[key].decode()), weight, f"{name} as {to}: {key}")
        if to == "dense":
            assert result.counts["decoded"] == len(weights) and model.config.method is None
        else:
            assert [row.how in ("kept", "inverted") for row in result.rows if row.codec] == [True] * len(weights)
        return {key: np.asarray(tensor) for key, tensor in raw.items()}, dict(model.config.quantization)


@pytest.mark.parametrize("to", ["dense", "arraycodec"])
@pytest.mark.parametrize("name", checkpoints())
def test_weights_stay_what_they_are(name: str, to: str, tmp_path: Path) -> None:
    converted(name, tmp_path, to)


def test_gptq_is_w4a16(tmp_path: Path) -> None:
    """Rows are whole words: each row of weight_packed is the column of qweight."""
    got, config = converted("gptq", tmp_path)
    stored = checkpoints()["gptq"][0]
    for module in ("model.a", "model.b"):
        same_bits(got[f"{module}.weight_packed"], np.ascontiguousarray(stored[f"{module}.qweight"].T), module)
        same_bits(got[f"{module}.weight_scale"], np.ascontiguousarray(stored[f"{module}.scales"].T), module)
        assert got[f"{module}.weight_shape"].tolist() == [32, 64]
        assert f"{module}.weight_zero_point" not in got
    (group,) = config["config_groups"].values()
    assert (group["weights"]["num_bits"], group["weights"]["group_size"], group["weights"]["symmetric"]) == (
        4,
        32,
        True,
    )


def test_modelopt_is_nvfp4_with_the_global_scale_inverted(tmp_path: Path) -> None:
    got, config = converted("modelopt", tmp_path)
    stored = checkpoints()["modelopt"][0]
    same_bits(got["model.a.weight_packed"], stored["model.a.weight"], "codes")
    same_bits(got["model.a.weight_scale"], stored["model.a.weight_scale"], "scales")
    divisor = np.float32(1) / stored["model.a.weight_scale_2"].reshape(1)
    same_bits(got["model.a.weight_global_scale"], divisor, "global scale")
    same_bits(got["model.b.weight"], stored["model.b.weight"], "float8 codes")
    same_bits(got["model.a.input_global_scale"], np.float32(1) / stored["model.a.input_scale"].reshape(1), "of inputs")
    same_bits(got["model.b.input_scale"], stored["model.b.input_scale"].reshape(1), "of float8 inputs")
    assert not [name for name in got if name.endswith(("a.input_scale", "k_scale"))]
    said = {group["format"]: group["input_activations"] for group in config["config_groups"].values()}
    assert said["nvfp4-pack-quantized"]["dynamic"] == "local" and said["float-quantized"]["dynamic"] is False


def test_block_fp8_is_float_quantized(tmp_path: Path) -> None:
    got, config = converted("block_fp8", tmp_path)
    stored = checkpoints()["block_fp8"][0]
    same_bits(got["model.a.weight"], stored["model.a.weight"], "codes")
    same_bits(got["model.a.weight_scale"], stored["model.a.weight_scale_inv"], "scales")
    (group,) = config["config_groups"].values()
    assert group["weights"]["block_structure"] == [16, 32] and group["format"] == "float-quantized"
    inputs = group["input_activations"]
    assert (inputs["strategy"], inputs["group_size"], inputs["dynamic"]) == ("group", 32, True)


def test_awq_is_w4a16_with_zero_points(tmp_path: Path) -> None:
    got, config = converted("awq", tmp_path)
    stored = checkpoints()["awq"][0]
    same_bits(got["model.a.weight_scale"], np.ascontiguousarray(stored["model.a.scales"].T), "scales")
    assert got["model.a.weight_packed"].shape == (32, 8) and got["model.a.weight_zero_point"].shape == (4, 2)
    (group,) = config["config_groups"].values()
    assert group["weights"]["symmetric"] is False


def test_smoothquant_is_w8a8_already(tmp_path: Path) -> None:
    """What SmoothQuant found is stored by compressed-tensors itself: int8, activations quantised per token."""
    with check_fixture("smoothquant") as model:
        assert model.format == "compressed-tensors"
    got, config = converted("smoothquant", tmp_path)
    tensors, given, _ = checkpoints()["smoothquant"]
    for key, tensor in tensors.items():
        same_bits(got[key], tensor, key)
    wanted = given["quantization_config"]["config_groups"]["group_0"]["input_activations"]
    (group,) = config["config_groups"].values()
    assert wanted.items() <= group["input_activations"].items()


def test_sparsegpt_is_two_of_four() -> None:
    with check_fixture("sparsegpt") as model:
        weight = model["model.a.weight"]
        assert isinstance(weight.codec, ac.TwoFour) and weight.nbytes == 16 * 20 * 2 + 16 * 5 + 16


@pytest.mark.level("full")
@needs("compressed_tensors")
def test_its_own_converters_store_the_same(tmp_path: Path) -> None:
    from compressed_tensors.entrypoints.convert import AutoAWQConverter, ModelOptNvfp4Converter

    import arraycodec_torch

    for name, converter in (
        ("awq", AutoAWQConverter(group_size=32)),
        ("modelopt", ModelOptNvfp4Converter(targets=["re:model.a"])),
    ):
        (path := tmp_path / name).mkdir()
        got, _ = converted(name, path)
        tensors = {key: arraycodec_torch.from_numpy(x) for key, x in checkpoints()[name][0].items()}
        theirs = converter.process({key: x for key, x in tensors.items() if key.startswith("model.a.")})
        for key, tensor in theirs.items():
            want = arraycodec_torch.to_numpy(tensor)
            same_bits(got[key].reshape(want.shape), want, f"{name}: {key}")


# -- what `verify` finds in all of them


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gptq", "model.a.scales"),
        ("gptq_act_order", "model.a.scales"),
        ("awq", "model.a.scales"),
        ("block_fp8", "model.a.weight_scale_inv"),
        ("modelopt", "model.a.weight_scale_2"),
        ("modelopt", "model.b.weight_scale"),
    ],
)
def test_scales_that_are_not_finite(name: str, tensor: str, tmp_path: Path) -> None:
    """Reading gives NaN; verify says so."""
    tensors, config, _ = checkpoints()[name]
    for bad in (np.nan, np.inf):
        scales = tensors[tensor].copy()
        scales.reshape(-1)[-1] = bad
        path = folder(tmp_path, {**tensors, tensor: scales}, config["quantization_config"])
        with ac.open_checkpoint(path) as model:
            weight = model[f"{tensor.rpartition('.')[0]}.weight"]
            assert np.isnan(weight.decode().astype(np.float32)).any()
            with pytest.raises(ac.CorruptError, match=r"scales? must be finite, got (nan|inf)") as caught:
                weight.verify()
            assert str(caught.value).startswith(weight.where)
