"""The command `convert`, and info, verify and diff on what it writes: what is printed, written and refused."""

import json

import numpy as np
import pytest

pytest.importorskip("typer")

from arraycodec.cli.convert import To, layers
from tests.checkpoints.convert_support import INDEX, SHARDS, bits, write_llama
from tests.checkpoints.support import listing
from tests.test_cli import run


@pytest.fixture
def src(tmp_path):
    return write_llama(tmp_path / "model")


def test_the_whole_way_round(src, tmp_path):
    w4, back = tmp_path / "w4", tmp_path / "back"
    code, out, err = run("convert", src, w4, "--to", "compressed-tensors", "--scheme", "W4A16", "-j", "1")
    assert (code, err) == (0, "") and "plain → compressed-tensors" in out
    assert "14 encoded (was plain)" in out and "model.layers.*.self_attn.q_proj.weight" in out
    code, out, _ = run("info", w4)
    assert code == 0 and "compressed-tensors, no checksums" in out and "14 w4a16, 4 plain" in out
    code, out, _ = run("verify", w4, "--against", src)
    assert code == 0 and "codes, scales and shapes were checked" in out
    assert run("convert", w4, back, "--to", "dense")[0] == 0 and bits(back) == bits(w4)
    code, out, _ = run("diff", w4, back)
    assert code == 0 and "equal: 18 same" in out
    assert run("diff", src, w4)[0] == 1


def test_a_dry_run_shows_the_table(src, tmp_path):
    arguments = [
        "--scheme",
        "W4A16",
        "--scheme",
        "re:.*down_proj=W8A16",
        "--scheme",
        "model.layers.1.mlp.up_proj=plain",
    ]
    code, out, _ = run("convert", src, tmp_path / "w4", "--to", "compressed-tensors", *arguments, "--dry-run")
    assert code == 0 and "dry run: nothing was written" in out and not (tmp_path / "w4").exists()
    lines = {line.split()[0]: line for line in out.splitlines() if ".weight" in line}
    assert "linear(bits=8, block_size=(1, 128))" in lines["model.layers.*.mlp.down_proj.weight"]
    assert (
        "w4a16" in lines["model.layers.0.mlp.up_proj.weight"] and "copied" in lines["model.layers.1.mlp.up_proj.weight"]
    )
    code, out, _ = run("convert", src, tmp_path / "w4", "--to", "compressed-tensors", *arguments, "-n", "--json")
    found = json.loads(out)
    assert found["dry_run"] and found["counts"] == {"copied": 5, "encoded": 13} and found["bytes_after"]
    assert {row["how"] for row in found["tensors"]} == {"copied", "encoded"} and len(found["files"]) == 2
    row = next(row for row in found["tensors"] if row["name"].endswith("0.mlp.up_proj.weight"))
    assert (row["from"], row["to"]) == (None, "w4a16") and len(row["stored_as"]) == 3


def test_json_and_quiet(src, tmp_path):
    code, out, err = run("convert", src, tmp_path / "a", "--to", "arraycodec", "-s", "nf4", "--json")
    assert (code, err) == (0, "") and json.loads(out)["schemes"] == {"nf4": 14}
    assert run("convert", src, tmp_path / "b", "--to", "bitsandbytes", "-q") == (0, "", "")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["quantization_config"]["load_in_4bit"]
    found = json.loads(run("info", tmp_path / "b", "--json")[1])
    assert found["formats"] == ["bitsandbytes"] and found["schemes"] == {"nf4": 14, "plain": 4} and not found["notes"]


def test_a_configuration_of_ones_own(src, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"config_groups": {"W8A16": ["re:.*mlp.*"]}, "quant_method": "compressed-tensors"}))
    code, out, _ = run("convert", src, tmp_path / "w8", "--to", "compressed-tensors", "--config", own, "--json")
    assert code == 0 and json.loads(out)["counts"] == {"copied": 12, "encoded": 6}
    said = tmp_path / "w8" / "config.json"
    said.rename(tmp_path / "moved.json")
    for command in (["info"], ["verify"], ["diff", src]):
        code, out, _ = run(command[0], *command[1:], tmp_path / "w8")
        assert "--config" in out and code == (command[0] == "diff")
        assert "--config" not in run(command[0], *command[1:], tmp_path / "w8", "--config", tmp_path / "moved.json")[1]
    code, _, err = run("convert", tmp_path / "w8", tmp_path / "back", "--to", "dense")
    assert code == 3 and "no quantization_config" in err
    how = ["--source-config", tmp_path / "moved.json", "--dtype", "float32", "-q"]
    assert run("convert", tmp_path / "w8", tmp_path / "back", "--to", "dense", *how)[0] == 0
    assert {dtype for dtype, _, _ in bits(tmp_path / "back").values()} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--to", "gguf"], 2, "gguf"),
        ([], 2, "--to"),
        (["--to", "arraycodec", "-s", "=nf4"], 2, "[TARGET=]SCHEME"),
        (["--to", "arraycodec", "-s", "nf4", "-s", "fp4"], 2, "given twice"),
        (["--to", "arraycodec", "-s", "secret"], 2, "secret"),
        (["--to", "compressed-tensors", "-s", "re:.*(down=W4A16"], 2, "layers (--scheme): 're:.*(down' is no regular"),
        (["--to", "bitsandbytes", "--ignore", "lm_heda"], 2, "ignore: 'lm_heda' matches none of"),
        (["--to", "arraycodec", "-s", "layers.7=nf4"], 2, "layers.7"),
        (["--to", "dense", "-s", "nf4"], 2, "takes no scheme"),
        (["--to", "compressed-tensors", "--config", "missing.json"], 5, "missing.json"),
    ],
)
def test_what_is_refused(src, tmp_path, arguments, code, told):
    found = run("convert", src, tmp_path / "dst", *arguments)
    assert found[0] == code and told in " ".join(found[2].split()) and not (tmp_path / "dst").exists()


def test_codes_of_other_failures(src, tmp_path):
    before = listing(src)
    assert run("convert", src, src, "--to", "dense", "-f")[0] == 2
    assert run("convert", src, tmp_path / "dst", "--to", "dense", "-q")[0] == 0
    assert run("convert", src, tmp_path / "dst", "--to", "dense")[0] == 2  # exists
    assert run("convert", src, tmp_path / "dst", "--to", "dense", "-f", "-q")[0] == 0
    index = json.loads((src / INDEX).read_text())
    index["weight_map"]["x"] = "../x.safetensors"
    (src / INDEX).write_text(json.dumps(index))
    assert run("convert", src, tmp_path / "other", "--to", "dense")[0] == 3
    (src / INDEX).write_bytes(before[INDEX])
    assert listing(src) == before and set(listing(tmp_path / "dst")) == set(before)
    (src / SHARDS[0]).write_bytes(before[SHARDS[0]][:-7])
    assert run("convert", src, tmp_path / "third", "--to", "dense")[0] == 3
    assert run("convert", tmp_path / "nothing", tmp_path / "third", "--to", "dense")[0] == 5


def test_layers():
    assert layers(["re:a=b=w8a8"]) == {"re:a=b": "w8a8"} and layers([]) == {}


def test_the_formats_are_those_of_the_function():
    from arraycodec.checkpoints.convert_target import SCHEMES

    assert {to.value for to in To} == set(SCHEMES)


def test_a_wild_name_drives_no_terminal(tmp_path):
    from tests.checkpoints.support import write

    src = write(tmp_path / "wild.safetensors", {"a\x1b[31m.weight": np.ones((64, 64), np.float32)})
    code, out, _ = run("convert", src, tmp_path / "x.safetensors", "--to", "arraycodec", "-s", "nf4")
    assert code == 0 and "\x1b" not in out
