"""`convert` where something is wrong: an error that says what, and nothing half written."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors
from tests.checkpoints.convert_support import INDEX, QKV, SHARDS, files, llama, write_llama
from tests.checkpoints.support import listing, normal, write, write_raw

LAST = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def src(tmp_path):
    return write_llama(tmp_path / "model")


def index(src, change):
    data = json.loads((src / INDEX).read_text())
    change(data["weight_map"])
    (src / INDEX).write_text(json.dumps(data))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("to", "scheme"), [("arraycodec", "nf4"), ("bitsandbytes", "nf4"), ("compressed-tensors", "W4A16"),
                       ("compressed-tensors", "NVFP4A16"), ("bitsandbytes", "llm_int8")],
)  # fmt: skip
def test_a_number_that_is_not_finite(tmp_path, to, scheme, value):
    shards = llama()
    shards[SHARDS[1]][LAST][3, 5] = ml_dtypes.bfloat16(value)
    src = write_llama(tmp_path / "model", shards)
    before = listing(src)
    with pytest.raises(ac.NonFiniteError, match=LAST.replace(".", r"\.")):
        ac.convert(src, tmp_path / "dst", to, scheme=scheme)
    assert listing(src) == before and not (tmp_path / "dst").exists()
    ac.convert(src, tmp_path / "dst", to, scheme=scheme, ignore=["lm_head", LAST.removesuffix(".weight")])
    ac.convert(src, tmp_path / "dense", "dense")  # plain numbers are passed on, whatever they are
    assert files(tmp_path / "dense")


def test_a_shard_outside_of_the_folder(src, tmp_path):
    write(tmp_path / "secret.safetensors", {"x": normal(2, 2)})
    index(src, lambda map: map.update(x="../secret.safetensors"))
    with pytest.raises(ac.FormatError, match=r"a \*\.safetensors file in the folder.*'\.\./secret"):
        ac.convert(src, tmp_path / "dst", "dense")
    assert not (tmp_path / "dst").exists()


def test_a_tensor_in_the_wrong_shard(src, tmp_path):
    index(src, lambda map: map.update({LAST: SHARDS[0]}))
    with pytest.raises(ac.FormatError, match=f"{LAST}.*which does not hold it"):
        ac.convert(src, tmp_path / "dst", "compressed-tensors")


def test_a_missing_shard(src, tmp_path):
    (src / SHARDS[1]).unlink()
    with pytest.raises(ac.FormatError, match=f"{SHARDS[1]}.*not in the folder"):
        ac.convert(src, tmp_path / "dst", "dense")


def test_an_unknown_format(src, tmp_path):
    for command in (lambda: ac.convert(src, tmp_path / "dst", "dense"), lambda: ac.info(src), lambda: ac.verify(src)):
        config = {"quantization_config": {"quant_method": "secret"}}
        (src / "config.json").write_text(json.dumps(config))
        with pytest.raises(ac.FormatError, match=r"quant_method must be one of .*got 'secret'"):
            command()
    with pytest.raises(ac.ArgumentError, match=r"to must be one of dense, .*, got 'gguf'"):
        ac.convert(src, tmp_path / "dst", "gguf")


def test_a_part_that_is_missing(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    arrays = ac.load_file(w4 / SHARDS[1])
    name = LAST.removesuffix("weight") + "weight_scale"
    del arrays[name]
    safetensors.save(arrays, w4 / SHARDS[1])
    index(w4, lambda map: map.pop(name))
    with pytest.raises(ac.FormatError, match="weight_scale"):
        ac.convert(w4, tmp_path / "dst", "dense")
    assert not (tmp_path / "dst").exists()


def test_the_target_is_not_the_source(src, tmp_path):
    before = listing(src)
    for dst in (src, src / "sub", tmp_path, src / ".." / "model"):
        with pytest.raises(ac.ArgumentError, match="input folder"):
            ac.convert(src, dst, "dense", overwrite=True)
    os.symlink(src, tmp_path / "link")
    with pytest.raises(ac.ArgumentError, match="input folder"):
        ac.convert(src, tmp_path / "link", "dense", overwrite=True)
    for dst in (src, src / SHARDS[0]):
        with pytest.raises(ac.ArgumentError, match="the input"):
            ac.convert(src / SHARDS[0], dst, "dense", overwrite=True)
    assert listing(src) == before


def test_what_exists_stays(src, tmp_path):
    dst = tmp_path / "dst"
    ac.convert(src, dst, "dense")
    before = listing(dst)
    with pytest.raises(FileExistsError):
        ac.convert(src, dst, "compressed-tensors")
    assert listing(dst) == before
    ac.convert(src, dst, "compressed-tensors", overwrite=True)
    assert listing(dst) != before


def test_a_failure_leaves_what_others_put_there(src, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    dst.mkdir()
    (dst / "own.txt").write_text("mine")
    (src / "sub").mkdir()
    (src / "sub" / "z.txt").write_text("copied")
    monkeypatch.setattr(
        "arraycodec.checkpoints.convert.write", lambda *args: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        ac.convert(src, dst, "compressed-tensors")
    assert listing(dst) == {"own.txt": b"mine"} and not (dst / "sub").exists()


def test_two_tensors_of_one_name(tmp_path):
    one = {"a.weight": normal(128, 128, dtype="bfloat16"), "a.weight_scale": normal(3)}
    src = write(tmp_path / "one.safetensors", one)
    with pytest.raises(ac.FormatError, match="config"):  # it looks like half of a quantised checkpoint
        ac.convert(src, tmp_path / "dst", "compressed-tensors")
    src = write(tmp_path / "two.safetensors", {"a.weight": one["a.weight"], "a.weight_shape": normal(3)})
    with pytest.raises(ac.ArgumentError, match=r"would both be stored as 'a\.weight_shape'"):
        ac.convert(src, tmp_path / "dst", "compressed-tensors")


def test_a_name_that_is_a_path_stays_a_name(tmp_path):
    raw = ("../../x.weight", "BF16", [128, 128], normal(128, 128, dtype="bfloat16").tobytes())
    src = write_raw(tmp_path / "src" / "model.safetensors", [raw])
    ac.convert(src.parent, tmp_path / "dst", "compressed-tensors")
    assert sorted(listing(tmp_path / "dst")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("to", "options", "told"),
    [
        ("dense", {"scheme": "nf4"}, "takes no scheme"),
        ("dense", {"dtype": "int8"}, "dtype goes with"),
        ("arraycodec", {"dtype": "float16"}, "dtype goes with"),
        ("arraycodec", {"config": {"quant_method": "x"}}, "config says it all"),
        ("compressed-tensors", {"config": {"quant_method": "x"}, "scheme": "W4A16"}, "config says it all"),
        ("compressed-tensors", {"scheme": "nf4"}, "scheme must be one of"),
        (
            "compressed-tensors",
            {"config": {"config_groups": {"W4A16": ["Linear"]}, "format": "secret"}},
            "format must be",
        ),
        ("bitsandbytes", {"scheme": "w4a16"}, "bitsandbytes"),
        ("arraycodec", {"scheme": "secret"}, "secret"),
        ("arraycodec", {"layers": {"re:(": "nf4"}}, "regular expression"),
        ("compressed-tensors", {"jobs": 0}, "jobs"),
    ],
)
def test_arguments(src, tmp_path, to, options, told):
    with pytest.raises((ac.ArgumentError, ac.FormatError, ac.UnknownCodecError), match=told):
        ac.convert(src, tmp_path / "dst", to, **options)
    assert not (tmp_path / "dst").exists()


def test_verify_finds_what_is_wrong(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    arrays = ac.load_file(w4 / SHARDS[0])
    arrays[QKV[0].removesuffix("weight") + "weight_scale"][2] = ml_dtypes.bfloat16(np.nan)
    safetensors.save(arrays, w4 / SHARDS[0])
    found = ac.verify(w4)
    assert not found.ok and [row.name for row in found.rows if row.problem] == [QKV[0]]
    with pytest.raises(ac.NonFiniteError, match=QKV[0].replace(".", r"\.")):
        ac.convert(w4, tmp_path / "native", "arraycodec")


def test_stored_tensors_where_nothing_says_how_to_read_them(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    config = json.loads((w4 / "config.json").read_text())["quantization_config"]
    (w4 / "config.json").unlink()
    for found in (ac.info(w4), ac.verify(w4), ac.diff(w4, src)):
        assert len(found.notes) == 1 and "--config" in found.notes[0]
    with pytest.raises(ac.FormatError, match=r"--config|source_config"):
        ac.convert(w4, tmp_path / "dst", "dense")
    assert not ac.info(w4, config=config).notes and ac.verify(w4, against=src, config=config).ok
    assert ac.diff(w4, src, config=config).counts["changed"] == 14
    assert ac.convert(w4, tmp_path / "dst", "dense", source_config=config).counts["decoded"] == 14
