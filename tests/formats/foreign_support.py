"""What the tests of GPTQ, AWQ, ModelOpt and block FP8 share: folders of given tensors, and the committed fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.formats.checkpoint import Checkpoint
from arraycodec_conformance.compare import same_bits
from tests.formats import foreign_modules as made


def folder(path: Path, tensors: made.Tensors, config: dict[str, Any] | None) -> Path:
    """A checkpoint of these tensors and this quantization_config."""
    safetensors.save(tensors, path / "model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "quantization_config": config}))
    return path


def decoded(path: Path, tensors: made.Tensors, config: dict[str, Any], name: str = "a.weight") -> np.ndarray:
    """The weight of this name in such a checkpoint."""
    with ac.open_checkpoint(folder(path, tensors, config)) as model:
        return model[name].decode()


def check_fixture(name: str) -> Checkpoint:
    """A committed checkpoint: it is what the generator makes, and its weights are the expected ones, also in parts."""
    tensors, config, weights = made.checkpoints()[name]
    here = made.FIXTURES / name
    assert json.loads((here / "config.json").read_text()) == config
    with ac.open_file(here / "model.safetensors") as raw:
        assert set(raw) == set(tensors)
        for key, tensor in tensors.items():
            same_bits(np.asarray(raw[key]), tensor, f"{name}: stored {key}")
    model = ac.open_checkpoint(here / "model.safetensors")
    with ac.open_file(here / "expected.safetensors") as expected:
        assert set(expected) == set(weights)
        for key, weight in weights.items():
            same_bits(np.asarray(expected[key]), weight, f"{name}: expected {key}")
            same_bits(model[key].decode(), weight, f"{name}: {key}")
            same_bits(model[key][3:7], weight[3:7], f"{name}: rows of {key}")
            model[key].verify()
    return model
