"""`convert`: between every two formats, what is exact, policies, and what is refused."""

import json

import numpy as np
import pytest

import arraycodec as ac
from tests.checkpoints.convert_support import CONFIG, INDEX, QKV, SHARDS, bits, files, layer, llama, write_llama
from tests.checkpoints.support import listing, normal, write

LINEAR = "model.layers.0.mlp.down_proj.weight"
HELD = [
    ("arraycodec", "nf4"),
    ("arraycodec", "nvfp4"),
    ("bitsandbytes", "nf4"),
    ("bitsandbytes", "nf4-double"),
    ("bitsandbytes", "llm_int8"),
    ("compressed-tensors", "W4A16"),
    ("compressed-tensors", "W8A8"),
    ("compressed-tensors", "FP8_DYNAMIC"),
    ("compressed-tensors", "NVFP4A16"),
    ("compressed-tensors", "MXFP4A16"),
]


@pytest.fixture
def src(tmp_path):
    return write_llama(tmp_path / "model")


@pytest.mark.parametrize(("to", "scheme"), HELD)
def test_there_and_back(src, tmp_path, to, scheme):
    before = listing(src)
    there, dense, native, again = (tmp_path / name for name in ("there", "dense", "native", "again"))
    assert ac.convert(src, there, to, scheme=scheme).counts == {"copied": 4, "encoded": 14}
    assert listing(src) == before
    with ac.open_checkpoint(there) as model:
        assert model.format == to and set(model) == set(bits(src))
    report = ac.convert(there, dense, "dense")
    assert report.source == to and report.exact and report.counts == {"copied": 4, "decoded": 14}
    assert bits(dense) == bits(there)
    assert ac.convert(there, native, "arraycodec").counts == {"copied": 4, "kept": 14}
    assert bits(native) == bits(there)
    assert ac.convert(native, again, to, scheme=scheme).counts == {"copied": 4, "kept": 14}
    assert files(again) == files(there)
    assert not ac.diff(src, there).equal and ac.diff(there, dense).equal and ac.diff(again, native).equal
    assert ac.verify(there).ok and ac.verify(there, against=src).ok


def test_a_plain_checkpoint_keeps_its_shape(src, tmp_path):
    report = ac.convert(src, dst := tmp_path / "dense", "dense")
    assert report.counts == {"copied": 18} and bits(dst) == bits(src)
    before, after = listing(src), listing(dst)
    assert set(before) == set(after)
    for name in ("config.json", "tokenizer.json"):
        assert before[name] == after[name]
    index = json.loads(after[INDEX])
    assert index["weight_map"] == json.loads(before[INDEX])["weight_map"]
    assert index["metadata"]["total_size"] == sum(x.nbytes for shard in llama().values() for x in shard.values())


def test_the_index_is_that_of_the_result(src, tmp_path):
    ac.convert(src, dst := tmp_path / "w4", "compressed-tensors", scheme="W4A16")
    index = json.loads((dst / INDEX).read_text())
    held = {}
    for shard in SHARDS:
        with ac.open_file(dst / shard) as file:
            held |= {name: (shard, tensor.nbytes) for name, tensor in file.items()}
    assert index["weight_map"] == {name: shard for name, (shard, _) in held.items()}
    assert index["metadata"]["total_size"] == sum(nbytes for _, nbytes in held.values())
    assert "model.layers.0.mlp.up_proj.weight_packed" in held


def test_no_byte_depends_on_jobs(src, tmp_path):
    found, told = [], []
    for jobs in (1, 3):
        dst = tmp_path / str(jobs)
        ac.convert(src, dst, "compressed-tensors", scheme="NVFP4A16", jobs=jobs, progress=lambda *now: told.append(now))
        found.append(listing(dst))
    assert found[0] == found[1]
    assert len(told) == 2 * 18 and told[17][0] == told[17][1] == sum(
        x.nbytes for s in llama().values() for x in s.values()
    )


def test_a_dry_run_foretells_and_writes_nothing(src, tmp_path):
    dst = tmp_path / "dst"
    for to, scheme in HELD:
        told = ac.convert(src, dst, to, scheme=scheme, dry_run=True)
        assert not dst.exists()
        done = ac.convert(src, tmp_path / f"{to}-{scheme}", to, scheme=scheme)
        if scheme == "nf4-double":  # the length of a number in its JSON
            assert told.after is None
            continue
        assert told.rows == done.rows and told.files == done.files


@pytest.mark.parametrize(
    ("to", "schemes"), [("arraycodec", ("w4a16", "w8a8")), ("compressed-tensors", ("W4A16", "W8A8"))]
)
def test_each_layer_has_its_scheme(src, tmp_path, to, schemes):
    layers = {"Linear": schemes[0], "re:.*down_proj": schemes[1], "model.layers.1.mlp.up_proj": None}
    report = ac.convert(src, dst := tmp_path / "mixed", to, layers=layers, ignore=["re:.*o_proj"])
    with ac.open_checkpoint(dst) as model:
        assert (
            model[LINEAR].codec.bits == 8 and model[QKV[0]].codec.bits == 4 and model["lm_head.weight"].codec.bits == 4
        )
        plain = ["model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.weight"]
        assert all(model[name].codec is None for name in plain)
    rows = {row.name: row for row in report.rows}
    assert rows[LINEAR].codec != rows[QKV[0]].codec and rows[plain[0]].how == "copied"


@pytest.mark.parametrize("to", ["arraycodec", "compressed-tensors", "bitsandbytes"])
def test_a_target_that_nothing_has_is_refused(src, tmp_path, to):
    with pytest.raises(ac.ArgumentError, match=r"layers\.9\.mlp"):
        ac.convert(src, tmp_path / "dst", to, layers={"Linear": "nf4" if to != "compressed-tensors" else "W4A16",
                                                      "model.layers.9.mlp": None})  # fmt: skip
    assert not (tmp_path / "dst").exists()


def test_fused_weights_share_a_global_scale(src, tmp_path):
    weights = {name: x for shard in llama().values() for name, x in shard.items()}
    for to in ("arraycodec", "compressed-tensors"):
        ac.convert(src, dst := tmp_path / to, to, scheme="nvfp4" if to == "arraycodec" else "NVFP4A16")
        with ac.open_checkpoint(dst) as model:
            arithmetic = model[QKV[0]].codec.arithmetic
            for names in (QKV, [f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")]):
                shared = ac.shared_global_scale((weights[name] for name in names), arithmetic)
                found = {model[name].encoded().planes["global_scale"].tobytes() for name in names}
                assert found == {shared.tobytes()}
            alone = ac.encode(weights[LINEAR], model[LINEAR].codec).planes
            assert np.array_equal(model[LINEAR].encoded().planes["codes"], alone["codes"])


def test_tied_embeddings_stay_tied(tmp_path):
    shards = llama()
    shards[SHARDS[1]]["lm_head.weight"] = shards[SHARDS[0]]["model.embed_tokens.weight"]
    both = write_llama(tmp_path / "both", shards, tie_word_embeddings=True)
    del shards[SHARDS[1]]["lm_head.weight"]
    one = write_llama(tmp_path / "one", shards, tie_word_embeddings=True)
    for src in (both, one):
        ac.convert(src, dst := tmp_path / f"{src.name}-w4", "compressed-tensors", layers={"Linear": "W4A16"}, ignore=())
        assert "lm_head" in json.loads((dst / "config.json").read_text())["quantization_config"]["ignore"]
        with ac.open_checkpoint(dst) as model:
            assert ("lm_head.weight" in model) == (src == both) and model["model.embed_tokens.weight"].codec is None
            assert src == one or model["lm_head.weight"].codec is None


def test_the_configuration(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    ac.convert(w4, back := tmp_path / "back", "dense")
    said = json.loads((w4 / "config.json").read_text())
    assert said.pop("quantization_config")["format"] == "pack-quantized" and said == CONFIG
    assert json.loads((back / "config.json").read_text()) == CONFIG
    quantization = json.loads((w4 / "config.json").read_text())["quantization_config"]
    (tmp_path / "own.json").write_text(json.dumps(quantization))
    for config in (quantization, tmp_path / "own.json", {"quantization_config": quantization}):
        ac.convert(src, own := tmp_path / "own", "compressed-tensors", config=config, overwrite=True)
        assert files(own) == files(w4)


def test_scales_of_activations(tmp_path):
    shards = llama()
    names = ["model.layers.0.mlp.down_proj.input_scale", "model.layers.0.self_attn.o_proj.input_scale"]
    for name in names:
        shards[SHARDS[0]][name] = np.ones(1, np.float32)
    src = write_llama(tmp_path / "src", shards)
    layers = {"Linear": "W8A8"} | {name.removesuffix(".input_scale"): "FP8" for name in names}
    ac.convert(src, w8 := tmp_path / "w8", "compressed-tensors", layers=layers)
    for to, kept in (("arraycodec", True), ("compressed-tensors", True), ("dense", False), ("bitsandbytes", False)):
        report = ac.convert(w8, dst := tmp_path / to, to, scheme="nf4" if to == "bitsandbytes" else None)
        assert all((name in bits(dst)) == kept for name in names)
        assert report.counts.get("dropped", 0) == (0 if kept else 2)
        assert kept or any("2 scales" in note for note in report.notes)
    assert set(names) <= set(bits(src))  # of a plain checkpoint nothing is dropped
    assert set(names) <= set(bits(ac.convert(src, tmp_path / "plain", "dense") and tmp_path / "plain"))


def test_what_lossless_parts_hold_is_kept(src, tmp_path):
    ac.convert(src, native := tmp_path / "native", "arraycodec", scheme="nf4+lossless")
    ac.convert(src, direct := tmp_path / "direct", "bitsandbytes", scheme="nf4")
    assert ac.convert(native, dst := tmp_path / "dst", "bitsandbytes").counts == {"copied": 4, "kept": 14}
    assert files(dst) == files(direct)


def test_dtype(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    report = ac.convert(w4, dst := tmp_path / "f32", "dense", dtype="float32")
    assert report.counts == {"cast": 18} and json.loads((dst / "config.json").read_text())["torch_dtype"] == "float32"
    with ac.open_checkpoint(w4) as held, ac.open_checkpoint(dst) as dense:
        for name, tensor in held.items():
            value = tensor.decode() if tensor.codec is None else ac.decode(tensor.encoded(), dtype="float32")
            assert np.array_equal(dense[name].decode(), value.astype(np.float32)) and dense[name].dtype == "float32"
    big = write(tmp_path / "big.safetensors", {"a.weight": np.full((2, 2), 1e30, np.float32)})
    with pytest.raises(ac.NonFiniteError, match=r"'a\.weight'.*too large for float16"):
        ac.convert(big, tmp_path / "f16.safetensors", "dense", dtype="float16")


def test_one_file(tmp_path):
    one = write(tmp_path / "one.safetensors", layer(0))
    report = ac.convert(one, tmp_path / "nf4.safetensors", "arraycodec", scheme="nf4")
    assert report.counts == {"copied": 1, "encoded": 7} and ac.verify(tmp_path / "nf4.safetensors").ok
    ac.convert(tmp_path / "nf4.safetensors", tmp_path / "dense.safetensors", "dense")
    assert bits(tmp_path / "dense.safetensors") == bits(tmp_path / "nf4.safetensors")
    ac.convert(one, folder := tmp_path / "w4", "compressed-tensors")
    assert sorted(listing(folder)) == ["config.json", "model.safetensors"]
    with pytest.raises(ac.ArgumentError, match=r"config\.json beside the weights: name a folder"):
        ac.convert(one, tmp_path / "w4.safetensors", "compressed-tensors")


def test_folders_of_a_pipeline_are_models_of_their_own(tmp_path):
    for name in ("unet", "vae"):
        write(tmp_path / "src" / name / "model.safetensors", {"a.weight": normal(64, 128), "a.bias": normal(64)})
        (tmp_path / "src" / name / "config.json").write_text(json.dumps({"name": name}))
    report = ac.convert(tmp_path / "src", dst := tmp_path / "dst", "compressed-tensors")
    assert report.counts == {"copied": 2, "encoded": 2}
    said = json.loads((dst / "vae/config.json").read_text())
    assert said["name"] == "vae" and "quantization_config" in said
    assert ac.convert(dst, back := tmp_path / "back", "dense").counts == {"copied": 2, "decoded": 2}
    assert ac.diff(dst, back).equal and set(listing(back)) == set(listing(tmp_path / "src"))


def test_a_foreign_checkpoint_compressed_losslessly(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    ac.compress(w4, packed := tmp_path / "packed", mode="balanced")
    ac.decompress(packed, back := tmp_path / "back")
    assert listing(back) == listing(w4)
    with ac.open_checkpoint(packed) as model:
        assert model.format == "compressed-tensors" and model.native
    assert bits(packed) == bits(w4) and ac.diff(w4, packed).equal
    found = ac.verify(packed, against=w4)
    assert found.ok and found.nbytes and all(row.difference.identical for row in found.rows)
    assert ac.info(packed).formats == ("compressed-tensors",) and ac.info(packed).native
    assert ac.info(w4).schemes == {"w4a16": 14, "plain": 4} and ac.info(packed).schemes["w4a16"] == 14
    ac.convert(packed, again := tmp_path / "again", "compressed-tensors")
    assert files(again) == files(w4)
    with pytest.raises(ac.ArgumentError, match="in the format compressed-tensors; a lossy scheme takes what convert"):
        ac.compress(w4, tmp_path / "lossy", "nf4")  # it would encode the scales


def test_differences_of_foreign_checkpoints(src, tmp_path):
    ac.convert(src, w4 := tmp_path / "w4", "compressed-tensors")
    tuned = llama()
    tuned[SHARDS[0]][LINEAR] = tuned[SHARDS[0]][LINEAR] + tuned[SHARDS[0]][LINEAR].dtype.type(0.01)
    ac.convert(write_llama(tmp_path / "tuned", tuned), other := tmp_path / "other", "compressed-tensors")
    report = ac.compress(other, delta := tmp_path / "delta", base=w4)
    assert report.reads_base
    assert ac.verify(delta).ok and ac.verify(delta, base=w4).ok and ac.verify(delta, against=other, base=w4).ok
    assert ac.diff(delta, other, base=w4).equal and ac.info(delta).formats == ("compressed-tensors",)
    ac.convert(delta, again := tmp_path / "again", "compressed-tensors", base=w4)
    assert files(again) == files(other)
    with pytest.raises(ac.ArgumentError, match="base"):
        ac.convert(delta, tmp_path / "lost", "dense")


def test_nothing_to_encode_is_said(tmp_path):
    src = write(tmp_path / "norms.safetensors", {"norm.weight": normal(64), "w": normal(64, 64)})
    for to in ("arraycodec", "compressed-tensors"):
        with pytest.raises(ac.ArgumentError, match="nothing to encode"):
            ac.convert(src, tmp_path / "dst", to)
    report = ac.convert(src, tmp_path / "dst", "arraycodec", layers={"w": "nf4"})
    assert report.counts == {"copied": 1, "encoded": 1}


def test_weights_of_other_formats_are_left_behind(src, tmp_path):
    (src / "pytorch_model.bin").write_bytes(b"PK")
    report = ac.convert(src, dst := tmp_path / "dst", "dense")
    assert set(listing(dst)) == {*SHARDS, INDEX, "config.json", "tokenizer.json"}
    assert report.notes == ("weights of other formats are not copied: pytorch_model.bin",)
