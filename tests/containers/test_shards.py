"""Sharded folders: the index is from outside, and confined to its folder."""

import json
import os

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import shards
from tests.containers.support import assert_bits, raises_format, weights

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write_index(folder, weight_map, **members):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map} | members))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    ac.save_file(
        {"a": ac.encode(weights(8, 64), "nf4"), "b": weights(3)}, folder / A, metadata={"format": "pt", "n": "1"}
    )
    ac.save_file({"c": weights(4, 5)}, folder / B, metadata={"format": "np", "m": "2"})
    write_index(folder, {"a": A, "b": A, "c": B})
    return folder


def test_one_api_for_all_shards(folder):
    for path in (folder, folder / INDEX, str(folder)):
        with ac.open_file(path) as file:
            assert set(file) == {"a", "b", "c"} and file.native and len(file.shards) == 2
            assert file.paths == (str(folder / A), str(folder / B)) and file["c"].path == str(folder / B)
            assert file.metadata == {"format": "pt", "n": "1", "m": "2"} and file.source is None
            assert_bits(file["c"][1:3], weights(4, 5)[1:3])
        assert_bits(ac.load_file(path)["b"], weights(3))
        assert isinstance(ac.load_file(path, decode=False)["a"], ac.Encoded)
    with pytest.raises(ac.LimitError):
        ac.load_file(folder, max_bytes=100)


def test_folders_without_an_index(tmp_path, folder):
    with pytest.raises(ac.FormatError, match="neither"):
        ac.open_file(tmp_path)
    os.remove(folder / INDEX)
    with pytest.raises(ac.FormatError, match="must hold one"):
        ac.open_file(folder)
    os.remove(folder / B)
    assert set(ac.load_file(folder)) == {"a", "b"}
    for name in ("x", "y"):
        (folder / f"{name}.safetensors.index.json").write_text("{}")
    with pytest.raises(ac.FormatError, match="must hold one"):
        ac.open_file(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors", "./model-00002-of-00002.safetensors", "sub/../../outside.safetensors", "/etc/passwd",
        "/tmp/x.safetensors", "https://example.com/x.safetensors", "C:\\x.safetensors", "C:x.safetensors",
        "..\\x.safetensors", "a\x00.safetensors", "", ".", "..", "x//y.safetensors", "model.bin", "missing.safetensors",
        "link.safetensors", "loop.safetensors", "linked/outside.safetensors", "n" * 5000 + ".safetensors",
    ],
)  # fmt: skip
def test_shards_stay_in_the_folder(folder, name):
    ac.save_file({"c": weights(1)}, folder.parent / "outside.safetensors")
    (folder / "link.safetensors").symlink_to("../outside.safetensors")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "linked").symlink_to("..")
    write_index(folder, {"a": A, "b": A, "c": name})
    assert str(raises_format(ac.open_file, folder)).isprintable()


def test_links_inside_and_in_the_hub_cache(folder, tmp_path):
    (folder / "other.safetensors").symlink_to(B)
    write_index(folder, {"a": A, "b": A, "c": "other.safetensors"})
    assert set(ac.load_file(folder)) == {"a", "b", "c"}
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in (A, B, INDEX):
        data = (
            json.dumps({"weight_map": {"a": A, "b": A, "c": B}}).encode()
            if name == INDEX
            else (folder / name).read_bytes()
        )
        (blobs / f"{len(data)}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{len(data)}")
    assert set(ac.load_file(snapshot)) == {"a", "b", "c"}
    (snapshot / B).unlink()
    (snapshot / B).symlink_to(folder / B)
    raises_format(ac.open_file, snapshot)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": A, "c": B}, {"a": A, "b": B, "c": B}, {"a": A, "b": A, "c": A},
        {"a": A, "b": A, "c": B, "d": B}, {"a": A, "b": A, "c": 1}, {"a": A, "b": A, "c": None}, {}, [], None, "x",
    ],
    ids=range(10),
)  # fmt: skip
def test_index_and_shards_must_agree(folder, weight_map):
    write_index(folder, weight_map)
    with pytest.raises(ac.FormatError):
        ac.open_file(folder)


def test_a_tensor_in_two_shards(folder):
    ac.save_file({"c": weights(4, 5), "b": weights(3)}, folder / B)
    assert "maps it to" in str(raises_format(ac.open_file, folder))
    ac.save_file({"c": weights(4, 5)}, folder / B)
    os.link(folder / B, folder / "again.safetensors")
    write_index(folder, {"a": A, "b": A, "c": B, "d": "again.safetensors"})
    raises_format(ac.open_file, folder)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"\xff", b'{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', b"[" * 10**5, b"{}"],
)
def test_malformed_index(folder, text):
    (folder / INDEX).write_bytes(text)
    raises_format(ac.open_file, folder)
    raises_format(shards.read_index, folder / INDEX)


def test_a_corrupt_shard_names_itself(folder):
    data = bytearray((folder / B).read_bytes())
    data[-1] ^= 1
    (folder / B).write_bytes(data)
    with ac.open_file(folder) as file:
        file["a"].decode()
        with pytest.raises(ac.CorruptError, match=B):
            file["c"].decode()
    (folder / B).write_bytes(data[:100])
    with pytest.raises(ac.CorruptError, match=B):
        ac.open_file(folder)


def test_plain_shards_of_others(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"a": np.arange(3)}, tmp_path / A)
    save_file({"c": np.arange(4)}, tmp_path / B)
    write_index(tmp_path, {"a": A, "c": B})
    with ac.open_file(tmp_path) as file:
        assert not file.native and [file[n].verify() for n in "ac"] == [0, 0]
        assert_bits(file["c"].decode(), np.arange(4))
