"""`open_checkpoint`: which format a checkpoint is in, and what is refused."""

import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.tree import scan
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


CODES, SCALE = np.ones((4, 8), np.int8), np.ones(4, np.float32)
PARTS = {
    "GPTQ or AWQ": {"a.qweight": np.ones((1, 8), np.int32), "a.scales": np.ones((1, 8), np.float16)},
    "compressed-tensors": {"a.weight_packed": np.ones((4, 1), np.int32)},
    "block fp8": {"a.gate_up_proj_scale_inv": SCALE},
    "bitsandbytes": {"a.weight": CODES, "a.SCB": SCALE},
    "bitsandbytes ": {"a.weight": np.ones((16, 1), np.uint8), "a.weight.absmax": SCALE},
    "sparse": {"a.compressed": SCALE, "a.bitmask": np.ones(1, np.uint8)},
    "an fp8 format": {"a.weight": CODES.view(np.uint8), "a.weight_scale": SCALE},
}
SAID = {
    "bitsandbytes": {},
    "fp8": {"weight_block_size": [128, 128]},
    "gptq": {"bits": 4},
    "modelopt": {"quant_algo": "FP8"},
    "compressed-tensors": {"format": "dense", "config_groups": {}},
    None: {},
}


def is_read(method, looks):
    """Whether parts that look like one format are what the configuration says, or need none."""
    return method == looks.strip() or (method is None and looks in ("bitsandbytes", "sparse"))


@pytest.mark.parametrize(("method", "looks"), [(m, looks) for m in SAID for looks in PARTS if not is_read(m, looks)])
def test_parts_of_another_format_than_the_configuration_says_are_no_plain_tensors(tmp_path, method, looks):
    more = {} if method is None else {"quantization_config": {"quant_method": method, **SAID[method]}}
    tensors = {"norm.weight": np.ones(4, np.float32), **PARTS[looks]}
    path = folder(tmp_path, tensors, more)
    with pytest.raises(ac.FormatError, match=r"tensor 'a|module 'a'"):
        ac.open_checkpoint(path)


def test_what_is_left_over_is_named_with_what_it_looks_like(tmp_path):
    config = {"quantization_config": {"quant_method": "bitsandbytes"}}
    told = r"'a.qweight': is of a quantised checkpoint \(GPTQ or AWQ\), but .*config.json says bitsandbytes"
    with pytest.raises(ac.FormatError, match=told):
        ac.open_checkpoint(folder(tmp_path, PARTS["GPTQ or AWQ"], config))


def test_scales_that_belong_to_no_weight_stay(tmp_path):
    config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    tensors = {"a.weight": np.ones((4, 8), np.float32), "a.input_scale": SCALE, "a.k_scale": SCALE, "b.absmax": SCALE}
    with ac.open_checkpoint(folder(tmp_path, tensors, config)) as model:
        assert set(model) == set(tensors)


def test_messages_say_what_helps(tmp_path):
    with pytest.raises(ac.FormatError, match=r"is a pickle, which is never opened: save it as safetensors"):
        (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
        ac.open_checkpoint(tmp_path)
    with pytest.raises(ac.ArgumentError, match="is a pickle"):
        scan(tmp_path)
    with pytest.raises(ac.LimitError, match="this is no safetensors file"):
        (tmp_path / "setup.py").write_text("import this, that")
        ac.open_checkpoint(tmp_path / "setup.py")
    with pytest.raises(ac.FormatError, match=r"got a GGUF file, which .* where its name ends in \.gguf"):
        (tmp_path / "m.bin").write_bytes(b"GGUF" + bytes(60))
        ac.open_checkpoint(tmp_path / "m.bin")
    with pytest.raises(ac.UnsupportedByBackend, match=r"must be numpy or one of jax, torch.*got 'jxa'"):
        ac.open_checkpoint(tmp_path, framework="jxa")
    for dtype in (np.float32, np.dtype("float32")):
        with pytest.raises(ac.ArgumentError, match="dtypes are names, such as 'bfloat16'"):
            ac.load(tmp_path, dtype=dtype)
    with pytest.raises(ac.ArgumentError, match=r"fuse: tensors must be a mapping .*open_checkpoint\(path\)"):
        ac.fuse("model", "spinquant-r1")
    with pytest.raises(ac.NonFiniteError, match=r"tensor 'a\.weight': must be finite") as error:
        ac.to_compressed_tensors({"a.weight": np.full((8, 128), np.nan, np.float32)}, "W4A16")
    assert "check=False" not in str(error.value)
