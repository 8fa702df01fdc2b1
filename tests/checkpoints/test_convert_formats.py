"""`convert`, `info`, `verify` and `diff` on what other programs wrote: every fixture, and GGUF."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.modules import calibrated
from tests.checkpoints.convert_support import bits
from tests.checkpoints.support import listing
from tests.formats.test_gguf import gguf

FIXTURES = Path(__file__).parents[1] / "formats" / "fixtures"
FOLDERS = sorted(path.parent.relative_to(FIXTURES) for path in FIXTURES.rglob("config.json"))


@pytest.mark.parametrize("name", [*map(str, FOLDERS)])
def test_fixtures(tmp_path, name):
    src = shutil.copytree(FIXTURES / name, tmp_path / "src", ignore=shutil.ignore_patterns("expected*"))
    before = bits(src)
    with ac.open_checkpoint(src) as model:
        held = {key: tensor.codec for key, tensor in model.items() if tensor.codec is not None}
        format = model.format
    assert held and ac.info(src).formats == (format,) and ac.verify(src).ok
    for to, how in (("dense", "decoded"), ("arraycodec", "kept")):
        report = ac.convert(src, dst := tmp_path / to, to)
        assert report.source == format and report.counts[how] == len(held) and report.exact
        after = bits(dst)
        assert after.items() <= before.items() and all(key in after for key in held)
        assert "quantization_config" not in json.loads((dst / "config.json").read_text())
    found = ac.diff(src, tmp_path / "arraycodec")
    assert found.equal and {row.name for row in found.rows} == set(before)
    assert ac.verify(tmp_path / "arraycodec", against=src).ok


@pytest.mark.parametrize("name", ["awq", "gptq", "modelopt", "block_fp8", "smoothquant"])
def test_formats_that_compressed_tensors_can_hold(tmp_path, name):
    src = shutil.copytree(FIXTURES / name, tmp_path / "src", ignore=shutil.ignore_patterns("expected*"))
    report = ac.convert(src, dst := tmp_path / "ct", "compressed-tensors")
    assert report.exact == (name != "modelopt") and report.counts["kept"] and "re-encoded" not in report.counts
    mine, theirs = ({key: found for key, found in bits(p).items() if not calibrated(key)} for p in (dst, src))
    assert mine == theirs and ac.verify(dst).ok
    assert not [path for path in listing(dst) if "quantize_config" in path or "hf_quant" in path]


@pytest.mark.parametrize(
    "name", ["fp8", "fp8_block", "mixed", "mxfp4", "mxfp6", "mxfp8", "nvfp4", "w3a16_odd", "w4a16_asym", "w8a8"]
)
def test_what_is_kept_has_the_same_bytes(tmp_path, name):
    src = FIXTURES / "compressed_tensors" / name
    ac.convert(src, tmp_path / "dst", "compressed-tensors")
    with ac.open_file(src / "model.safetensors") as a, ac.open_file(tmp_path / "dst" / "model.safetensors") as b:
        assert set(a) == set(b) and all(a[key].spec == b[key].spec for key in a)
        assert all(a[key].decode().tobytes() == b[key].decode().tobytes() for key in a)


def test_gguf(tmp_path):
    rng = np.random.default_rng(0)
    blocks = b"".join(
        struct.pack("<e", scale) + rng.integers(-127, 128, 32, np.int8).tobytes() for scale in rng.random(128 * 4)
    )
    norm = rng.standard_normal(128).astype(np.float32)
    tensors = {"blk.0.attn_q.weight": (8, (128, 128), blocks), "blk.0.attn_norm.weight": (0, (128,), norm.tobytes())}
    src = tmp_path / "model.gguf"
    src.write_bytes(gguf(tensors))
    info = ac.info(src)
    assert info.formats == ("gguf",) and [row.codec and row.codec.name for row in info.rows] == ["gguf", None]
    assert ac.verify(src).ok
    for to, how in (("dense", "decoded"), ("arraycodec", "kept")):
        report = ac.convert(src, dst := tmp_path / f"{to}.safetensors", to)
        assert report.counts == {how: 1, "copied": 1} and ac.diff(src, dst).equal
    report = ac.convert(src, dst := tmp_path / "w4", "compressed-tensors", scheme="W4A16")
    assert report.counts == {"re-encoded": 1, "copied": 1} and not report.exact
    assert "names of tensors are those of llama.cpp" in report.notes[0]
    assert sorted(listing(dst)) == ["config.json", "model.safetensors"]
    ac.convert(src, half := tmp_path / "half", "dense", dtype="bfloat16")
    with ac.open_checkpoint(src) as model, ac.open_checkpoint(half) as dense:
        expected = ac.decode(model["blk.0.attn_q.weight"].encoded(), dtype="bfloat16")
        assert dense["blk.0.attn_q.weight"].decode().tobytes() == expected.tobytes()
    with pytest.raises(ac.ArgumentError, match="is the folder of the input"):
        ac.convert(src, tmp_path, "dense", overwrite=True)
    (only := tmp_path / "only").mkdir()
    shutil.copy(src, only)
    assert ac.info(only).formats == ("gguf",) and ac.verify(only).ok and ac.diff(only, src).equal
    assert ac.convert(only, tmp_path / "native", "arraycodec").counts == {"kept": 1, "copied": 1}
    with ac.open_checkpoint(only) as model:
        assert model.format == "gguf" and len(model) == 2
    shutil.copy(src, only / "another.gguf")
    for reads in (ac.info, ac.verify, ac.open_checkpoint):
        with pytest.raises(ac.FormatError, match=r"must hold one model, .*got 'another\.gguf', 'model\.gguf'"):
            reads(only)
    with pytest.raises(ac.FormatError, match="GGUF"):
        ac.compress(src, tmp_path / "c.safetensors", mode="balanced")


@pytest.mark.parametrize("to", ["bitsandbytes", "compressed-tensors"])
def test_a_folder_of_which_nothing_is_quantised(tmp_path, to):
    """A pipeline of several models: one that has only convolutions stays as it is."""
    models = {"unet": {"to_q.weight": (128, 128)}, "vae": {"conv.weight": (8, 4, 3, 3)}}
    for name, shapes in models.items():
        (src := tmp_path / "src" / name).mkdir(parents=True)
        ac.save_file({key: np.ones(shape, np.float32) for key, shape in shapes.items()}, src / "model.safetensors")
        (src / "config.json").write_text("{}")
    report = ac.convert(tmp_path / "src", dst := tmp_path / "dst", to)
    assert report.counts == {"copied": 1, "encoded": 1}
    told = {name: "quantization_config" in json.loads((dst / name / "config.json").read_text()) for name in models}
    assert told == {"unet": True, "vae": False}
    with pytest.raises(ac.ArgumentError, match="nothing to encode"):
        ac.convert(tmp_path / "src" / "vae", tmp_path / "vae", to)
