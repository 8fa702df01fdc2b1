"""`open_checkpoint`: which format a checkpoint is in, and what is refused."""

import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors


def folder(tmp_path, tensors, config=None, name="config.json"):
    safetensors.save(tensors, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / name).write_text(json.dumps(config))
    return tmp_path


def test_plain_and_native_are_what_open_file_gives(tmp_path):
    w = np.arange(8, dtype=np.float32).reshape(2, 4)
    with ac.open_checkpoint(folder(tmp_path, {"w": w}, {"dtype": "bfloat16"})) as model:
        assert model.format == "plain" and model.config.dtype == "bfloat16"
        assert np.array_equal(model["w"].decode(), w) and np.array_equal(model["w"][1], w[1])
    ac.save_file({"w": ac.encode(np.ones((2, 64), np.float32), "nf4")}, tmp_path / "n.arraycodec.safetensors")
    with ac.open_checkpoint(tmp_path / "n.arraycodec.safetensors") as model:
        assert model.format == "arraycodec" and model["w"].codec == ac.codec("nf4")


def test_framework_is_that_of_every_tensor(tmp_path):
    torch = pytest.importorskip("torch")
    with ac.open_checkpoint(folder(tmp_path, {"w": np.ones(3, np.float32)}), framework="torch") as model:
        assert isinstance(model["w"].decode(), torch.Tensor)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"quantization_config": {"quant_method": "secret"}}, "quant_method must be one of .*got 'secret'"),
        ({"quantization_config": {"bits": 4}}, "string quant_method"),
        ({"quantization_config": []}, "quantization_config"),
        ([], "JSON object"),
    ],
)
def test_unknown_configurations_are_refused(tmp_path, config, told):
    with pytest.raises(ac.FormatError, match=told):
        ac.open_checkpoint(folder(tmp_path, {"w": np.ones(3, np.float32)}, config))


def test_quantised_tensors_without_a_configuration_are_refused(tmp_path):
    for name in ("a.weight_packed", "a.qweight", "a.weight_scale_inv"):
        with pytest.raises(ac.FormatError, match=f"'{name}'.*no quantization_config; --config"):
            ac.open_checkpoint(folder(tmp_path, {name: np.ones((3, 3), np.int32)}))
