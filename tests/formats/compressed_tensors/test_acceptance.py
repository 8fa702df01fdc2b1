"""compressed-tensors 0.20 and transformers 5 as judges: the same model, written and read by them and by us.

What is written is compared byte by byte with what the library saves after `apply_quantization_config`, where zero
points are there also in symmetric schemes: -0.0 is then stored as the code of +0 in float8.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.formats.compressed_tensors.target import CompressedTensors
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.compare import same_bits
from tests.codecs.peers import needs
from tests.formats.compressed_tensors import library, support

pytestmark = [pytest.mark.level("full"), needs("compressed_tensors"), needs("transformers")]

QUANTISED = [name for name in PRESETS if name != "UNQUANTIZED"]
INT = {"num_bits": 4, "type": "int"}
GROUPS: dict[str, Any] = {  # what no preset has
    "mixed": {"W4A16": ["re:.*self_attn.*"], "FP8_DYNAMIC": ["re:.*mlp.*"]},
    "names": {"W8A16": ["model.layers.0.mlp.up_proj"], "MXFP4A16": ["Linear"]},
    "group of 64": {"group_0": {"targets": ["Linear"], "weights": INT | {"group_size": 64}}},
    "channels": {"group_0": {"targets": ["Linear"], "weights": INT | {"strategy": "channel", "symmetric": False}}},
    "tensor": {"group_0": {"targets": ["Linear"], "weights": INT | {"symmetric": False}}},
    "block": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "symmetric": False, "strategy": "block", "block_structure": [128, 96]},
        }
    },
    "asymmetric, not packed": {
        "group_0": {
            "targets": ["Linear"],
            "weights": INT | {"group_size": 64, "symmetric": False},
            "input_activations": {"num_bits": 8, "dynamic": True, "strategy": "token"},
        }
    },
    "packed": {"group_0": PRESETS["W4A8"].to_json() | {"targets": ["Linear"], "format": "pack-quantized"}},
    "float8 in groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "group_size": 128}}
    },
    "one bit": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 1, "group_size": 128}}},
    "embedding": {"W8A16": ["Embedding"], "NVFP4A16": ["Linear"]},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.dense(tmp_path_factory.mktemp("dense"))


def ours(folder: Path, source: Path, target: CompressedTensors, more: dict[str, Any]) -> Path:
    arrays = ac.load_file(source / "model.safetensors") | more
    return support.write(folder, arrays, target, json.loads((source / "config.json").read_text()))


def same_files(a: Path, b: Path) -> None:
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert (a / "config.json").read_bytes() == (b / "config.json").read_bytes()


def test_the_source_is_what_transformers_saves(source: Path) -> None:
    for name, array in ac.load_file(source / "model.safetensors").items():
        same_bits(array, support.tensors()[name], name)


@pytest.mark.parametrize("preset", QUANTISED)
def test_presets_are_the_files_of_the_library_and_give_its_logits(preset: str, source: Path, tmp_path: Path) -> None:
    theirs = support.twin(tmp_path / "theirs", {preset: ["Linear"]})
    mine = ours(tmp_path / "mine", source, CompressedTensors.of({"Linear": preset}), support.calibrated(preset))
    same_files(theirs, mine)
    assert support.sha(theirs) == support.FILES[preset]
    # transformers 5.23 loads zero points only where it decompresses at once
    dequantize = PRESETS[preset].weights.symmetric is False  # type: ignore[union-attr]
    want, got = (support.logits(folder, dequantize=dequantize) for folder in (theirs, mine))
    assert np.ptp(want.astype(np.float32)) > 0.1
    same_bits(got, want, f"{preset}: logits")


def test_no_weights_are_the_dense_files(source: Path, tmp_path: Path) -> None:
    mine = ours(tmp_path, source, CompressedTensors.of({"Linear": "UNQUANTIZED"}), {})
    assert (source / "model.safetensors").read_bytes() == (mine / "model.safetensors").read_bytes()
    assert json.loads((source / "config.json").read_text()) == json.loads((mine / "config.json").read_text())


@pytest.mark.parametrize("preset", QUANTISED)
def test_presets_of_the_library_are_read(preset: str, tmp_path: Path) -> None:
    theirs = support.twin(tmp_path, {preset: ["Linear"]})
    want = support.weights(theirs)
    with ac.open_checkpoint(theirs) as model:
        read = [name for name in want if name in model]
        assert len(read) == len(support.tensors())
        for name in read:
            same_bits(np.asarray(model[name].decode()), want[name], f"{preset}: {name}")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("preset", ["W4A16_ASYM", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16"])
def test_other_dtypes_are_the_files_of_the_library(preset: str, dtype: str, tmp_path: Path) -> None:
    source = support.dense(tmp_path / "dense", dtype=dtype)
    theirs = support.twin(tmp_path / "theirs", {preset: ["Linear"]}, dtype=dtype)
    same_files(theirs, ours(tmp_path / "mine", source, CompressedTensors.of({"Linear": preset}), {}))


@pytest.mark.parametrize("case", GROUPS)
def test_groups_are_the_files_of_the_library(case: str, source: Path, tmp_path: Path) -> None:
    ignore = ["lm_head", "re:.*0.*o_proj"]
    theirs = support.twin(tmp_path / "theirs", GROUPS[case], ignore)
    target = CompressedTensors.from_config({"config_groups": GROUPS[case], "ignore": ignore})
    mine = ours(tmp_path / "mine", source, target, {})
    assert (theirs / "model.safetensors").read_bytes() == (mine / "model.safetensors").read_bytes()
    want, got = support.quantization(theirs), support.quantization(mine)
    # The library numbers groups in the order of a model's modules, we in that of the configuration.
    groups = [sorted(map(json.dumps, config.pop("config_groups").values())) for config in (want, got)]
    assert groups[0] == groups[1] and want == got
    if case != "embedding":  # transformers does not load a quantised embedding
        dequantize = case == "channels"  # as for presets with zero points
        want, got = (support.logits(folder, dequantize=dequantize) for folder in (theirs, mine))
        same_bits(got, want, f"{case}: logits")


def test_groups_in_another_order_load_alike(source: Path, tmp_path: Path) -> None:
    groups = {"FP8_DYNAMIC": ["re:.*mlp.*"], "W4A16": ["re:.*self_attn.*"]}
    theirs = support.twin(tmp_path / "theirs", groups)
    layers = {targets[0]: preset for preset, targets in groups.items()}
    mine = ours(tmp_path / "mine", source, CompressedTensors.of(layers), {})
    same_bits(support.logits(mine), support.logits(theirs), "logits")


def test_tied_heads_and_caches(tmp_path: Path) -> None:
    """A head that is the embedding is on the list of what is not quantised, though no file holds it."""
    cache = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
    source = support.dense(tmp_path / "dense", tie_word_embeddings=True)
    more = {"kv_cache_scheme": cache}
    theirs = support.twin(tmp_path / "theirs", {"W4A16": ["Linear"]}, config=more, tie_word_embeddings=True)
    found = ac.load_file(theirs / "model.safetensors")
    scales = {name: array for name, array in found.items() if name.endswith(("k_scale", "v_scale"))}
    assert len(scales) == 4
    target = CompressedTensors.from_config({"config_groups": {"W4A16": ["Linear"]}, "ignore": ["lm_head"], **more})
    same_files(theirs, ours(tmp_path / "mine", source, target, scales))
    with pytest.raises(ac.ArgumentError, match="k_scale' is missing"):
        ours(tmp_path / "none", source, target, {})


@pytest.mark.parametrize("preset", ["W4A16", "W4A16_ASYM", "W8A8", "FP8", "NVFP4", "MXFP6A16"])
def test_a_live_model_saves_itself(preset: str, tmp_path: Path) -> None:
    """`save_pretrained(state_dict=...)` with our state dict and configuration writes the library's files."""
    import torch

    from arraycodec_torch.nn import calibrate, to_compressed_tensors

    model = support.llama()
    static = preset in ("FP8", "NVFP4")
    scales = calibrate(model, [torch.tensor([support.PROMPT])], scheme=preset) if static else {}
    for name, value in support.calibrated(preset).items():  # those that the twin has
        assert scales[name].shape == value.shape
        scales[name].fill_(float(value[0]))
    state, model.config.quantization_config = to_compressed_tensors(model, preset, scales=scales)
    model.save_pretrained(tmp_path / "mine", state_dict=state)
    theirs = support.twin(tmp_path / "theirs", {preset: ["Linear"]})
    assert (theirs / "model.safetensors").read_bytes() == (tmp_path / "mine/model.safetensors").read_bytes()
    assert json.loads((theirs / "config.json").read_text()) == json.loads((tmp_path / "mine/config.json").read_text())


TILES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"strategy": "tensor"}, (12, 37)),
    ({"strategy": "channel"}, (12, 37)),
    ({"strategy": "channel"}, (70, 64)),
    ({"group_size": 12}, (13, 36)),
    ({"group_size": 8}, (33, 40)),
    ({"strategy": "block", "block_structure": [8, 16]}, (12, 37)),
]


@pytest.mark.parametrize(("tile", "shape"), TILES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_integers_of_every_width_are_stored_as_in_the_library(
    bits: int, tile: dict[str, Any], shape: tuple[int, int]
) -> None:
    """Rows that are no whole words, nor whole bytes; packed, and one to a byte."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    x = oracle.hashed_input(*shape)
    for symmetric in (True, False):
        for format in ("pack-quantized", "int-quantized"):
            weights = {"num_bits": bits, "symmetric": symmetric, **tile}
            scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), format=format)
            want, _ = library.stored(x, scheme)
            group = {"targets": ["Linear"], "weights": weights, "format": format}
            got, _ = ac.to_compressed_tensors({"a.weight": x}, {"config_groups": {"g": group}})
            assert {name.removeprefix("a.") for name in got} == set(want)
            for name, array in want.items():
                same_bits(got[f"a.{name}"], array, f"{weights} {format}: {name}")


def test_the_tutorial_loads_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks `py` need transformers, and run here only."""
    page = Path(__file__).parents[3] / "docs/tutorials/compressed-tensors.md"
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(?:python|py)\n(.*?)^```$", page.read_text(), re.M | re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    assert len(blocks) == 6
    for folder in ("llama-w4a16", "llama-fp8"):
        assert np.isfinite(support.logits(tmp_path / folder).astype(np.float32)).all()


@pytest.mark.parametrize("preset", ["W4A16", "W8A8", "FP8_DYNAMIC", "NVFP4A16", "MXFP4A16"])
def test_convert_writes_the_files_of_the_library(preset: str, source: Path, tmp_path: Path) -> None:
    theirs = support.twin(tmp_path / "theirs", {preset: ["Linear"]})
    ac.convert(source, tmp_path / "mine", "compressed-tensors", scheme=preset)
    same_files(theirs, tmp_path / "mine")
