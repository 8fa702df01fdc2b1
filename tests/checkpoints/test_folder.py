"""Folders as the Hub has them: shards keep their names, everything else is copied, the index comes last."""

import json
import os

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints import coding
from arraycodec.checkpoints.files import default_target
from arraycodec.checkpoints.tree import scan
from tests.checkpoints.support import listing, model, normal, shards, write, write_folder

INDEX = "model.safetensors.index.json"


@pytest.fixture
def src(tmp_path):
    return write_folder(tmp_path / "model", shards())


def test_a_folder_keeps_its_shape(src, tmp_path):
    dst, back = tmp_path / "packed", tmp_path / "back"
    before = listing(src)
    report = ac.compress(src, dst)
    assert listing(src) == before
    found = listing(dst)
    assert set(found) == set(before)
    assert all(found[name] == before[name] for name in before if not name.endswith(".safetensors"))
    assert [name for name, _, _ in report.files] == sorted(shards())
    assert {row.file for row in report.rows} == set(shards())
    assert len(ac.load_file(dst)) == len(model())  # our reader follows the index
    ac.decompress(dst, back)
    restored = listing(back)
    assert set(restored) == set(before)
    for name in shards():
        head = 8 + int.from_bytes(before[name][:8], "little")
        assert restored[name][:head] == before[name][:head] and len(restored[name]) == len(before[name])
    assert ac.verify(dst, against=src).ok
    assert ac.diff(src, back).counts == ac.diff(src, dst).counts


def test_a_lossless_folder_comes_back_byte_for_byte(src, tmp_path, xored):
    ac.compress(src, tmp_path / "packed", xored)
    ac.decompress(tmp_path / "packed", tmp_path / "back")
    assert listing(tmp_path / "back") == listing(src)


def test_the_index_is_written_last(src, tmp_path, monkeypatch):
    dst, order = tmp_path / "packed", []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (replace(a, b), order.append(os.path.basename(b))))
    ac.compress(src, dst, overwrite=True)
    assert order[-1] == INDEX and order[:2] == sorted(shards())


def test_a_failure_in_the_last_shard_leaves_nothing(src, tmp_path, monkeypatch):
    encode, dst = coding.api.encode, tmp_path / "packed"

    def full(array, codec, **options):
        if array.shape == (16, 8, 3, 3):
            raise OSError(28, "No space left on device")
        return encode(array, codec, **options)

    monkeypatch.setattr(coding.api, "encode", full)
    second = {**shards(), "model-00003-of-00003.safetensors": {"conv": normal(16, 8, 3, 3)}}
    folder = write_folder(tmp_path / "three", second)
    with pytest.raises(OSError, match="No space left"):
        ac.compress(folder, dst, exclude=["layers.0.conv.weight"])
    assert listing(dst) == {}
    ac.compress(folder, dst, exclude=["*conv*"])
    broken = dst / "model-00003-of-00003.safetensors"
    with broken.open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\xff" * 50)
    back = tmp_path / "back"
    for overwrite, left in ((False, set()), (True, set(shards()))):
        with pytest.raises(ac.CorruptError, match=r"model-00003-of-00003\.safetensors"):
            ac.decompress(dst, back, overwrite=overwrite)
        assert set(listing(back)) == left


def test_the_index_itself_names_its_folder(src, tmp_path):
    assert scan(src / INDEX) == scan(src)
    assert ac.info(src / INDEX).rows == ac.info(src).rows


def test_subfolders_are_part_of_it_and_of_the_names(tmp_path):
    src = tmp_path / "pipeline"
    write(src / "unet" / "model.safetensors", {"conv.weight": normal(64, 64)})
    write(src / "vae" / "model.safetensors", {"conv.weight": normal(64, 64, seed=1)})
    (src / "model_index.json").write_text("{}")
    (src / ".git").mkdir()
    (src / ".git" / "config").write_text("secret")
    (src / ".gitattributes").write_text("*.safetensors lfs")
    report = ac.compress(src, tmp_path / "out", exclude=["vae/*"])
    assert [(row.file, row.reason) for row in report.rows] == [
        ("unet/model.safetensors", "float32 matrix"),
        ("vae/model.safetensors", "excluded by vae/*"),
    ]
    assert set(listing(tmp_path / "out")) == {
        ".gitattributes", "model_index.json", "unet/model.safetensors", "vae/model.safetensors",
    }  # fmt: skip
    assert [row.name for row in ac.diff(src, tmp_path / "out").rows] == ["unet/conv.weight", "vae/conv.weight"]


def test_two_files_of_a_folder_may_hold_the_same_name(tmp_path):
    src = tmp_path / "twice"
    write(src / "model.safetensors", {"w": normal(64, 64)})
    write(src / "model.fp16.safetensors", {"w": normal(64, 64, dtype="float16")})
    names = [row.name for row in ac.diff(src, src).rows]
    assert names == ["model.fp16.safetensors:w", "model.safetensors:w"]
    ac.compress(src, tmp_path / "out")
    assert ac.verify(tmp_path / "out", against=src).ok


def test_a_shard_without_floats_becomes_a_container_too(tmp_path):
    src = write_folder(tmp_path / "m", {"a.safetensors": {"w": normal(64, 64)}, "b.safetensors": {"ids": np.arange(9)}})
    ac.compress(src, tmp_path / "out")
    assert ac.info(tmp_path / "out").native
    ac.decompress(tmp_path / "out", tmp_path / "back")
    assert listing(tmp_path / "back")["b.safetensors"] == listing(src)["b.safetensors"]


@pytest.mark.parametrize("where", [".", "sub", "../model"])
def test_the_target_is_never_in_the_input(src, where):
    before = listing(src)
    with pytest.raises(ac.ArgumentError, match="itself, or lies in it"):
        ac.compress(src, src / where, overwrite=True)
    with pytest.raises(ac.ArgumentError, match="holds the input folder"):
        ac.compress(src, src.parent, overwrite=True)
    assert listing(src) == before


def test_a_target_folder_with_such_files_is_refused_before_anything_is_written(src, tmp_path):
    dst = tmp_path / "packed"
    dst.mkdir()
    (dst / "tokenizer.json").write_text("mine")
    (dst / "README").write_text("also mine")
    with pytest.raises(FileExistsError, match="tokenizer"):
        ac.compress(src, dst)
    assert listing(dst) == {"README": b"also mine", "tokenizer.json": b"mine"}
    ac.compress(src, dst, overwrite=True)
    assert listing(dst)["README"] == b"also mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ac.ArgumentError, match="is a file, but"):
        ac.compress(src, tmp_path / "file")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"w": "../outside.safetensors"}, "named relative to it"),
        ({"w": "/etc/passwd.safetensors"}, "named relative to it"),
        ({"w": "missing.safetensors"}, "missing.safetensors"),
        ({"w": "b.safetensors"}, "is in 'b.safetensors', and the index does not list it"),
        ({}, None),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map, message):
    src = tmp_path / "m"
    write(src / "a.safetensors", {"w": normal(64, 64)})
    write(src / "b.safetensors", {"v": normal(64, 64)})
    write(tmp_path / "outside.safetensors", {"w": normal(64, 64)})
    (src / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    if message is None:
        ac.compress(src, tmp_path / "out")
        return
    for run in (lambda: ac.compress(src, tmp_path / "out"), lambda: ac.info(src)):
        with pytest.raises(ac.FormatError, match=message):
            run()
    assert not (tmp_path / "out").exists()


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    blobs = write(tmp_path / "blobs" / "abc", {"w": normal(64, 64)})
    src = tmp_path / "snapshot"
    src.mkdir()
    (src / "model.safetensors").symlink_to(blobs)
    ac.compress(src, tmp_path / "out")
    assert ac.verify(tmp_path / "out", against=src).ok
    (src / "more").symlink_to(tmp_path / "blobs")
    with pytest.raises(ac.ArgumentError, match="link to a folder"):
        ac.compress(src, tmp_path / "out2")


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ac.ArgumentError, match=r"empty: no \.safetensors file"):
        ac.info(tmp_path / "empty")


def test_one_compressed_shard_is_enough_to_refuse(src, tmp_path):
    part = src / "model-00001-of-00002.safetensors"
    ac.compress(part, tmp_path / "c.safetensors")
    os.replace(tmp_path / "c.safetensors", part)
    with pytest.raises(ac.ArgumentError, match=r"00001.*compressed already"):
        ac.compress(src, tmp_path / "out")
    ac.decompress(src, tmp_path / "back")  # what is plain already is copied
    assert listing(tmp_path / "back")["config.json"] == listing(src)["config.json"]
    assert not ac.info(src).native and not ac.info(tmp_path / "back").native


@pytest.mark.parametrize(
    ("name", "folder", "suffix", "want"),
    [
        ("model.safetensors", False, "nf4", "model.nf4.safetensors"),
        ("model.nf4.safetensors", False, "decompressed", "model.decompressed.safetensors"),
        ("model.nf4+lossless-storage.safetensors", False, "decompressed", "model.decompressed.safetensors"),
        ("model.lossless-storage.safetensors", False, "decompressed", "model.decompressed.safetensors"),
        ("model.delta.safetensors", False, "decompressed", "model.decompressed.safetensors"),
        ("model.decompressed.safetensors", False, "nf4", "model.decompressed.nf4.safetensors"),
        ("model.v2.safetensors", False, "nf4", "model.v2.nf4.safetensors"),
        ("weights", False, "nf4", "weights.nf4.safetensors"),
        ("llama", True, "nf4", "llama-nf4"),
        ("llama-7b", True, "nf4", "llama-7b-nf4"),
        ("llama-nf4", True, "decompressed", "llama-decompressed"),
        ("llama-lossless-inference", True, "decompressed", "llama-decompressed"),
    ],
)
def test_where_results_go_that_were_given_no_name(tmp_path, name, folder, suffix, want):
    if folder:
        (tmp_path / name).mkdir()
    assert default_target(tmp_path / name, suffix) == tmp_path / want
