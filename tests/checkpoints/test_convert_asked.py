"""`convert`: what a user asks for and does not get is an error or a note, never a silent other thing."""

import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.inventory import inventory
from tests.checkpoints.convert_support import write_llama
from tests.checkpoints.support import normal, write

SCHEMES = {"arraycodec": "nf4", "bitsandbytes": "nf4", "compressed-tensors": "W4A16"}


@pytest.fixture
def src(tmp_path):
    return write_llama(tmp_path / "model")


def folder(path, tensors, **config):
    write(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(config))
    return path


def gpt2(path, **config):
    """Two Conv1D, of which one is square, and a head."""
    shapes = {"h.0.attn.c_attn": (128, 384), "h.0.attn.c_proj": (128, 128)}
    tensors = {f"{name}.weight": normal(*shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": normal(shape[1]) for name, shape in shapes.items()}
    return folder(path, tensors | {"score.weight": normal(256, 128)}, **config)


@pytest.mark.parametrize("to", SCHEMES)
def test_what_is_to_be_ignored_is_there(src, tmp_path, to):
    with pytest.raises(ac.ArgumentError, match=r"ignore: 'lm_heda' matches none of \d+ modules, closest are lm_head"):
        ac.convert(src, tmp_path / "dst", to, scheme=SCHEMES[to], ignore=["lm_heda"])
    with pytest.raises(ac.ArgumentError, match=r"ignore \(--ignore\): 're:a\(' is no regular expression"):
        ac.convert(src, tmp_path / "dst", to, scheme=SCHEMES[to], ignore=["re:a("])
    with pytest.raises(ac.ArgumentError, match=r"layers \(--scheme\): 're:a\(' is no regular expression"):
        ac.convert(src, tmp_path / "dst", to, layers={"re:a(": SCHEMES[to]})
    assert not (tmp_path / "dst").exists()
    ignore = ["lm_head", "re:.*mlp", "Embedding", "model.layers.0.input_layernorm"]
    assert ac.convert(src, tmp_path / "dst", to, scheme=SCHEMES[to], ignore=ignore).counts["encoded"] == 8


def test_to_compressed_tensors_ignores_what_is_there():
    model = {"a.up_proj.weight": np.ones((8, 128), np.float32)}
    with pytest.raises(ac.ArgumentError, match=r"ignore: 'a\.up_prj' matches none of 1 modules, .*a\.up_proj"):
        ac.to_compressed_tensors(model, "W4A16", ignore=["a.up_prj"])
    assert ac.to_compressed_tensors(model, "W4A16", ignore=["lm_head", "re:a"])[1] == {}


@pytest.mark.parametrize("to", ["bitsandbytes", "compressed-tensors"])
def test_no_default_encodes_anew(src, tmp_path, to):
    ac.convert(src, held := tmp_path / "held", "arraycodec", scheme="af4")
    with pytest.raises(ac.ArgumentError, match=rf"_proj\.weight'.*Codebook\(table='af4'.*{to} cannot .*--scheme"):
        ac.convert(held, tmp_path / "dst", to)
    assert not (tmp_path / "dst").exists()
    assert ac.convert(held, tmp_path / "dst", to, scheme=SCHEMES[to]).counts["re-encoded"] == 14


@pytest.mark.parametrize("to", ["bitsandbytes", "compressed-tensors"])
def test_conv1d_is_no_linear(tmp_path, to):
    for name, config, left in (("told", {"model_type": "gpt2"}, 2), ("bias", {}, 1)):
        report = ac.convert(gpt2(tmp_path / name, **config), tmp_path / f"{name}-q", to, scheme=SCHEMES[to])
        rows = {row.name: row for row in report.rows}
        assert sum(row.reason.startswith("Conv1D: ") for row in report.rows) == left
        assert rows["h.0.attn.c_attn.weight"].codec is None and rows["score.weight"].how == "encoded"
    for target in ("h.0.attn.c_attn", "re:.*attn"):
        with pytest.raises(ac.ArgumentError, match=r"c_attn\.weight': is of a Conv1D.* ignore it"):
            ac.convert(tmp_path / "told", tmp_path / "dst", to, layers={"Linear": SCHEMES[to], target: SCHEMES[to]})
    ac.convert(tmp_path / "told", tmp_path / "dst", to, layers={"Linear": SCHEMES[to], "h.0.attn.c_attn": None})


def test_conv1d_in_memory():
    model = {"c_fc.weight": np.ones((128, 256), np.float32), "c_fc.bias": np.ones(256, np.float32)}
    with pytest.raises(ac.ArgumentError, match=r"c_fc\.weight': is of a Conv1D"):
        ac.to_compressed_tensors(model, "W4A16")
    assert ac.to_compressed_tensors(model, "W4A16", ignore=["c_fc"])[1] == {}
    model["c_fc.bias"] = np.ones(128, np.float32)  # of a Linear
    assert ac.to_compressed_tensors(model, "W4A16")[1]


def test_conv1d_of_bitsandbytes_is_transposed(tmp_path):
    own = folder(tmp_path / "plain", {"h.0.attn.c_proj.weight": normal(128, 128), "h.0.attn.c_proj.bias": normal(128)})
    ac.convert(own, held := tmp_path / "held", "bitsandbytes")
    config = json.loads((held / "config.json").read_text())
    (held / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert "(out, in), and the model (in, out)" in ac.convert(held, tmp_path / "dense", "dense").notes[0]
    assert ac.convert(held, tmp_path / "again", "bitsandbytes").counts["kept"] == 1


def test_experts_stay_plain_under_bitsandbytes(tmp_path):
    names = ["m.experts.0.w1", "m.experts.1.w1", "m.q_proj"]
    src = folder(tmp_path / "moe", {f"{name}.weight": normal(64, 64) for name in names})
    report = ac.convert(src, tmp_path / "nf4", "bitsandbytes", scheme="nf4")
    assert report.counts == {"copied": 2, "encoded": 1} and "Experts" in report.rows[0].reason
    assert ac.convert(src, tmp_path / "all", "bitsandbytes", layers={"re:.*": "nf4"}).counts == {"encoded": 3}


def test_names_of_schemes(src, tmp_path):
    ac.convert(src, tmp_path / "int8", "bitsandbytes", scheme="int8")
    with ac.open_checkpoint(tmp_path / "int8") as model:
        assert model["model.layers.0.mlp.up_proj.weight"].codec == ac.LLMInt8()
    with pytest.raises(ac.UnknownCodecError, match=r"must be nf4, fp4, nf4-double, fp4-double, llm_int8 or .*'W4A16'"):
        ac.convert(src, tmp_path / "dst", "bitsandbytes", scheme="W4A16")
    with pytest.raises(ac.UnknownCodecError, match=r"'W4A61' is not known, closest are .*W4A16"):
        ac.convert(src, tmp_path / "dst", "compressed-tensors", scheme="W4A61")
    formats = {row["name"]: row["schemes"] for row in inventory()["formats"]}
    assert "llm_int8" in formats["bitsandbytes"] and "W4A16" in formats["compressed-tensors"]


def test_targets_of_a_config_that_nothing_has_are_named(src, tmp_path):
    config = {"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linaer"]}}
    with pytest.raises(ac.ArgumentError, match=r"nothing to encode: .*'Linaer' is that of no module, .*Linear"):
        ac.convert(src, tmp_path / "dst", "compressed-tensors", config=config)
    config["config_groups"]["W8A16"] = ["Linear"]
    assert "'Linaer'" in ac.convert(src, tmp_path / "dst", "compressed-tensors", config=config).notes[0]


def test_a_dry_run_says_why_a_size_is_not_known(src, tmp_path):
    report = ac.convert(src, tmp_path / "dst", "bitsandbytes", scheme="nf4-double", dry_run=True)
    assert report.after is None and "size of 14 weights depends on data" in report.notes[0]
    assert ac.convert(src, tmp_path / "dst", "bitsandbytes", scheme="nf4-double").notes == ()
