"""Containers that lie: every flip and prefix of a small one, and false manifests under a right hash."""

import json
import os
import struct
import time

import numpy as np
import pytest

import arraycodec as ac
from tests.containers.support import (
    edited_container,
    edited_frame,
    everything,
    raises_format,
    small_container,
    weights,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.safetensors"
    small_container(path)
    return path


def test_every_flipped_bit_is_found(path):
    """In the length, the header, its padding, foreign metadata, frames, plain tensors: no bit is free."""
    raw = path.read_bytes()
    assert 3500 < len(raw) < 5000
    with open(path, "r+b") as file:
        for i in range(8 * len(raw)):
            byte = bytes([raw[i // 8] ^ (1 << i % 8)])
            os.pwrite(file.fileno(), byte, i // 8)
            raises_format(everything, path)
            os.pwrite(file.fileno(), raw[i // 8 : i // 8 + 1], i // 8)
    everything(path)


def test_every_prefix_and_suffix_is_refused(path):
    raw = path.read_bytes()
    for length in range(len(raw) - 1, -1, -1):
        os.truncate(path, length)
        raises_format(everything, path)
    for extra in (b"\0", b"\0" * 64, raw, b"PK\x05\x06" + bytes(18)):
        path.write_bytes(raw + extra)
        raises_format(everything, path)


def test_edits_without_harm_are_possible(path):
    """The helper that the other tests use does not itself break the file."""
    before = everything(path)
    edited_container(path, None)
    assert everything(path) == before
    edited_container(path, lambda data: data | {"later": [1, {"x": None}]})
    assert everything(path) == before


def at(name, **members):
    return lambda data: data | {"tensors": data["tensors"] | {name: data["tensors"][name] | members}}


def without(name, *keys):
    def edit(data):
        entry = {k: v for k, v in data["tensors"][name].items() if k not in keys}
        return data | {"tensors": data["tensors"] | {name: entry}}

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (lambda data: {"hash": data["hash"]}, ac.FormatError, "version"),
        (lambda data: data | {"version": 2}, ac.VersionError, "version 2"),
        (lambda data: data | {"version": 0}, ac.CorruptError, "version 0"),
        (lambda data: data | {"version": True}, ac.FormatError, "version"),
        (lambda data: data | {"version": "1"}, ac.FormatError, "version"),
        (lambda data: data | {"hash": 1}, ac.FormatError, "JSON"),
        (lambda data: data | {"hash": "0" * 17}, ac.CorruptError, "anew"),
        (lambda data: data | {"tensors": []}, ac.FormatError, "tensors"),
        (lambda data: data | {"tensors": {}}, ac.CorruptError, "not in the manifest"),
        (lambda data: data | {"tensors": {"\x1b": data["tensors"]["step"]}}, ac.CorruptError, "not in"),
        (lambda data: data | {"tensors": data["tensors"] | {"step": 1}}, ac.FormatError, "object"),
        (lambda data: data | {"source": []}, ac.FormatError, "source"),
        (lambda data: data | {"source": {"header": "e30=", "sha256": "0" * 63}}, ac.FormatError, "sha256"),
        (lambda data: data | {"source": {"header": "e30", "sha256": "0" * 64}}, ac.FormatError, "base64"),
        (lambda data: data | {"source": {"header": "é", "sha256": "0" * 64}}, ac.FormatError, "base64"),
        (lambda data: data | {"source": {"sha256": "0" * 64}}, ac.FormatError, "header"),
        (lambda data: data | {"base": []}, ac.FormatError, "base: must be a JSON object"),
        (lambda data: data | {"base": {"name": 1, "sha256": {}}}, ac.FormatError, "name"),
        (lambda data: data | {"base": {"name": "m", "sha256": {"a": "0" * 63}}}, ac.FormatError, "sha256"),
        (lambda data: data | {"base": {"name": "m", "sha256": {"a": 5}}}, ac.FormatError, "sha256"),
        (at("step", array="float64[]"), ac.CorruptError, "manifest says"),
        (at("step", array="int64[1]"), ac.CorruptError, "manifest says"),
        (at("step", array="int64"), ac.FormatError, "written like"),
        (at("step", offsets=[0, 8]), ac.CorruptError, "manifest says"),
        (at("step", offsets=[8, 0]), ac.FormatError, "hash"),
        (at("step", offsets=[0]), ac.FormatError, "start, stop"),
        (at("step", offsets=[-1, 7]), ac.FormatError, "integer"),
        (at("step", hash="0" * 15), ac.CorruptError, "hex digits"),
        (at("step", hash="0" * 32), ac.CorruptError, "hex digits"),
        (at("step", hash="G" * 16), ac.CorruptError, "hex digits"),
        (at("step", hash="0" * 16), ac.CorruptError, "have changed"),
        (at("step", hash=None), ac.FormatError, "hash"),
        (at("step", codec={"name": "codebook"}), ac.CorruptError, "manifest says"),
        (without("step", "hash"), ac.FormatError, "hash"),
        (without("step", "array"), ac.FormatError, "written like"),
        (at("odd", array="float32[9,7]"), ac.CorruptError, "frame"),
        (at("odd", array="float16[7,9]"), ac.CorruptError, "frame"),
        (at("odd", array=f"float32[{2**40},9]"), ac.CorruptError, "frame"),
        (at("odd", array=f"float32[{2**62},0]"), ac.FormatError, "2.48"),
        (at("odd", hash="0" * 16), ac.CorruptError, "not the one"),
        (at("odd", codec=None), ac.FormatError, "codec"),
        (at("odd", codec={}), ac.FormatError, "name"),
        (at("odd", codec={"name": "codebook", "table": "zz"}), ac.FormatError, "table"),
        (at("odd", codec={"name": "codebook"}), ac.CorruptError, "frame"),
        (at("odd", codec={"name": "newer"}), ac.VersionError, "newer"),
        (at("odd", codec={"name": "x.py:Codec"}), ac.VersionError, "x.py"),
        (without("odd", "codec"), ac.CorruptError, "manifest says"),
    ],
    ids=range(47),
)  # fmt: skip
def test_lying_manifest_with_a_right_hash(path, edit, error, says):
    started = time.perf_counter()
    edited_container(path, edit)
    with pytest.raises(error, match=says) as caught:
        everything(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert time.perf_counter() - started < 1
    raises_format(ac.load_file, path)


def header_at(name, **members):
    return lambda data: data | {name: data[name] | members}


@pytest.mark.parametrize(
    "header",
    [
        header_at("odd", dtype="I8"),
        header_at("odd", dtype="F32"),
        header_at("odd", shape=[1, 1]),
        header_at("step", dtype="F64"),
        header_at("step", shape=[1]),
        lambda data: {("renamed" if name == "odd" else name): value for name, value in data.items()},
        lambda data: {name: value for name, value in data.items() if name != "block.bias"},
        lambda data: data | {"new": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}},
        lambda data: data | {"odd": data["block.weight"], "block.weight": data["odd"]},
    ],
    ids=range(9),
)
def test_lying_safetensors_header_with_a_right_hash(path, header):
    edited_container(path, None, header=header)
    raises_format(everything, path)


def test_swapped_frames_are_noticed(tmp_path):
    """Two frames of one size and codec, each sound in itself, in each other's place."""
    path = tmp_path / "m.safetensors"
    ac.save_file({n: ac.encode(weights(16, 64, seed=i), "nf4") for i, n in enumerate("ab")}, path)
    raw = bytearray(path.read_bytes())
    size = (len(raw) - 8 - int.from_bytes(raw[:8], "little")) // 2
    raw[-2 * size :] = raw[-size:] + raw[-2 * size : -size]
    path.write_bytes(raw)
    with ac.open_file(path) as file, pytest.raises(ac.CorruptError, match="not the one"):
        file["a"].decode()


def test_header_written_anew_by_another_program(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    data = json.loads(raw[8 : 8 + length])
    data["__metadata__"] = dict(sorted(data["__metadata__"].items(), reverse=True))
    text = json.dumps(data).encode().ljust(length + 320)
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with pytest.raises(ac.CorruptError, match="another program"):
        ac.open_file(path)
    with ac.open_file(path, verify=False) as file:
        assert file["step"].decode() == 3 and file["odd"].decode().shape == (7, 9)


def test_dropped_manifest(path):
    """Another program kept the tensors and lost the metadata: not silently an array of bytes."""
    safetensors = pytest.importorskip("safetensors.numpy")
    frame = np.frombuffer(ac.to_bytes(ac.encode(weights(4, 64), "nf4")), np.uint8).reshape(1, 1, -1)
    safetensors.save_file({"w": frame, "b": weights(3)}, path)
    with pytest.raises(ac.CorruptError, match="no manifest"):
        ac.open_file(path)
    with ac.open_file(path, verify=False) as file:
        assert ac.from_bytes(file["w"].decode()).codec == ac.codec("nf4")


def test_misaligned_frames_are_refused(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes(struct.pack("<Q", length + 8) + raw[8 : 8 + length] + b" " * 8 + raw[8 + length :])
    edited_container(path, None)
    with pytest.raises(ac.CorruptError, match="64"):
        ac.open_file(path)


def test_a_hostile_frame_in_a_sound_container(tmp_path):
    """Both hashes right: the frame's own header says what the manifest does not."""
    path = tmp_path / "m.safetensors"
    enc = ac.encode(weights(16, 64), "nf4")
    frame = ac.to_bytes(enc)
    for edit in (
        lambda data: data | {"array": "float32[64,16]"},
        lambda data: data | {"codec": data["codec"] | {"table": "fp4"}},
        lambda data: b"[" * 80,
    ):
        ac.save_file({"w": enc}, path)
        hostile = edited_frame(frame, edit)
        if len(hostile) != len(frame):
            continue
        raw = path.read_bytes()
        path.write_bytes(raw[: -len(frame)] + hostile)
        digest = f"{int.from_bytes(hostile[16:24], 'little'):016x}"
        edited_container(path, at("w", hash=digest))
        raises_format(everything, path)


def test_unknown_codec_leaves_other_tensors_readable(path):
    edited_container(path, at("odd", codec={"name": "newer"}))
    with ac.open_file(path) as file:
        assert file["step"].decode() == 3 and file["odd"].shape == (7, 9)
        with pytest.raises(ac.VersionError):
            file["odd"].decode()


def test_random_damage(path):
    """Several bytes at once, in the header or anywhere: an error of our tree, or nothing but our tree."""
    rng, raw = np.random.default_rng(0), path.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    for trial in range(1000):
        data = bytearray(raw)
        for _ in range(rng.integers(1, 17)):
            data[rng.integers(length if trial % 2 else len(raw))] = rng.integers(256)
        if data != raw:
            path.write_bytes(data)
            raises_format(everything, path)


def test_flips_of_a_manifest_whose_hash_is_not_looked_at(path):
    """verify=False: no promise on values, still no error from outside our tree."""
    raw = path.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    for i in range(0, 8 * length, 3):
        data = bytearray(raw)
        data[i // 8] ^= 1 << i % 8
        path.write_bytes(data)
        try:
            with ac.open_file(path, verify=False) as file:
                for tensor in file.values():
                    tensor.decode()
        except ac.FormatError:
            pass
