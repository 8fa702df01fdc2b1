"""Checkpoints that compressed-tensors wrote, in four of its versions, decode to what it says they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac

FIXTURES = Path(__file__).parents[1] / "fixtures" / "compressed_tensors"
DECODED = json.loads((FIXTURES / "decoded.json").read_text())
CARRIED = {
    "fp8": {"model.layers.0.mlp.up_proj.input_scale"},
    "nvfp4": {"model.layers.0.mlp.up_proj.input_global_scale"},
    "mixed": {"model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale"},
}


def test_every_fixture_is_listed() -> None:
    assert {path.name for path in FIXTURES.iterdir() if path.is_dir()} == set(DECODED)


@pytest.mark.parametrize("name", DECODED)
def test_decodes_to_the_same_bits(name: str) -> None:
    with ac.open_checkpoint(FIXTURES / name) as model:
        assert model.format == "compressed-tensors"
        assert set(model) == set(DECODED[name]) | CARRIED.get(name, set())
        for weight, (dtype, shape, digest) in DECODED[name].items():
            tensor = model[weight]
            x = tensor.decode()
            assert (x.dtype.name, list(x.shape)) == (dtype, shape) == (tensor.dtype, list(tensor.shape))
            assert hashlib.sha256(x.tobytes()).hexdigest() == digest
            assert np.array_equal(tensor[3:5].view(np.uint16), x[3:5].view(np.uint16))
            assert tensor.verify() == 0
        for other in CARRIED.get(name, ()):
            assert model[other].codec is None and model[other].decode() == np.ones(1)


def test_without_a_config_nothing_is_guessed() -> None:
    with pytest.raises(ac.FormatError, match="no quantization_config"):
        ac.open_checkpoint(FIXTURES / "w4a16_asym" / "model.safetensors", config={})
    config = json.loads((FIXTURES / "w4a16_asym" / "config.json").read_text())
    for given in (config, config["quantization_config"], FIXTURES / "w4a16_asym" / "config.json"):
        with ac.open_checkpoint(FIXTURES / "w4a16_asym" / "model.safetensors", config=given) as model:
            assert isinstance(model["model.layers.0.mlp.up_proj.weight"].codec, ac.Linear)


def test_planes_where_rows_are_whole_words_are_the_stored_bytes() -> None:
    """A translation, not a conversion: packed integers and float codes are taken as they lie in the file."""
    for name, role in (("w4a16_asym", "weight_packed"), ("w8a8", "weight"), ("mxfp6", "weight_packed")):
        with ac.open_checkpoint(FIXTURES / name) as model, ac.open_file(FIXTURES / name) as raw:
            codes = model["model.layers.0.mlp.up_proj.weight"].encoded().planes["codes"]
            assert codes.tobytes() == raw[f"model.layers.0.mlp.up_proj.{role}"].decode().tobytes()
