"""Converting what concerns activations: scales in another form, or dropped; rotations that run with a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors.activations import as_stored
from tests.checkpoints.convert_support import bits, write_llama
from tests.formats.foreign_modules import FIXTURES, named, nvfp4
from tests.formats.foreign_support import folder


def modelopt(path: Path, **more: np.ndarray) -> Path:
    """A checkpoint of one weight in NVFP4."""
    path.mkdir()
    tensors, _ = nvfp4(np.random.default_rng(0), 8, 64)
    return folder(path, named("a", tensors | more), {"quant_method": "modelopt", "quant_algo": "NVFP4"})


def test_an_inverted_scale_is_not_exact(tmp_path):
    path = modelopt(tmp_path / "src")
    report = ac.convert(path, tmp_path / "ct", "compressed-tensors")
    assert not report.exact and report.counts == {"inverted": 2}
    assert ac.convert(path, tmp_path / "native", "arraycodec").exact


@pytest.mark.parametrize("scheme", [ac.Linear(4, block_size=(1, 32)), "FP8_DYNAMIC"])
def test_scales_that_a_new_scheme_has_no_use_for_are_dropped(scheme, tmp_path):
    path = modelopt(tmp_path / "src", input_scale=np.array(0.25, np.float32))
    report = ac.convert(path, tmp_path / "ct", "compressed-tensors", layers={"a": scheme})
    assert report.counts == {"re-encoded": 1, "dropped": 1} and "input_global_scale" in report.notes[0]
    assert set(bits(tmp_path / "ct")) == {"a.weight"}


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (np.zeros((), np.float32), "must be a number whose reciprocal is finite, got 0"),
        (np.array(np.nan, np.float32), "must be a number whose reciprocal is finite, got nan"),
        (np.ones(2, np.float32), r"must be one number, .*got float32\[2\]"),
        (np.ones((), np.int32), "must be one number"),
    ],
)
def test_a_scale_that_cannot_be_one(scale, told, tmp_path):
    path = modelopt(tmp_path / "src", input_scale=scale)
    with pytest.raises(ac.CorruptError, match=told) as caught:
        ac.convert(path, tmp_path / "ct", "compressed-tensors")
    assert str(path) in str(caught.value) and not (tmp_path / "ct").exists()


def rotated(path: Path, recipe: str) -> Path:
    """A compressed-tensors checkpoint whose config has rotations."""
    ac.convert(write_llama(path / "dense"), path / "src", "compressed-tensors", scheme="W8A8")
    file = path / "src" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["transform_config"] = ac.rotation_config(recipe)
    file.write_text(json.dumps(config))
    return path / "src"


@pytest.mark.parametrize("to", ["dense", "arraycodec", "bitsandbytes"])
def test_rotations_that_run_with_the_model(to, tmp_path):
    src = rotated(tmp_path, "quip")
    with pytest.raises(ac.ArgumentError, match=r"turns activations while the model runs \(v at input, u at output\)"):
        ac.convert(src, tmp_path / "dst", to, scheme="nf4" if to == "bitsandbytes" else None)
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("scheme", [None, "W4A16"])
def test_rotations_are_passed_on(scheme, tmp_path):
    src = rotated(tmp_path, "quip")
    ac.convert(src, tmp_path / "dst", "compressed-tensors", scheme=scheme)
    said = json.loads((tmp_path / "dst" / "config.json").read_text())["quantization_config"]
    assert said["transform_config"] == ac.rotation_config("quip")


def test_rotations_within_weights_need_no_word(tmp_path):
    assert ac.convert(rotated(tmp_path, "spinquant-r1"), tmp_path / "dst", "dense").counts["decoded"] == 14


def test_a_static_scheme_of_deepseek_keeps_its_scale(tmp_path):
    src = shutil.copytree(FIXTURES / "block_fp8", tmp_path / "src", ignore=shutil.ignore_patterns("expected*"))
    ac.convert(src, tmp_path / "dst", "compressed-tensors", scheme="FP8_DYNAMIC")
    assert bits(tmp_path / "dst").keys() == bits(src).keys()


def test_weights_without_axes_or_elements(tmp_path):
    """A scale of inputs beside a weight that is not quantised is what it is."""
    for shape in ((), (0, 4)):
        path = tmp_path / str(len(shape))
        path.mkdir()
        tensors = {"a.weight": np.zeros(shape, np.float32), "a.input_scale": np.ones((), np.float32)}
        with ac.open_checkpoint(folder(path, tensors, {"quant_method": "modelopt", "quant_algo": "FP8"})) as model:
            assert as_stored("modelopt", model)["a.input_scale"].shape == (1,)
