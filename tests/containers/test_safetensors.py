"""Plain safetensors files: all 22 dtypes, the safetensors package as the oracle, and files that lie."""

import json
import os
import struct

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.containers.writer import Writer
from arraycodec.spec import BY_SAFETENSORS, DTYPES
from tests.containers.support import assert_bits, raises_format, weights

oracle = pytest.importorskip("safetensors")
BYTES = np.random.default_rng(0).integers(0, 256, 4096, np.uint8)


def raw(spec: ac.ArraySpec) -> np.ndarray:
    """An array of a spec as it is in memory (packed uint8 for sub-byte), every bit pattern likely."""
    packed = safetensors.checks.in_memory(spec)
    data = BYTES[: packed.nbytes] & 1 if spec.dtype == "bool" else BYTES[: packed.nbytes]
    return data.copy().view(packed.numpy_dtype).reshape(packed.known_shape)


def file_of(entries: dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_the_table_has_all_22_dtypes():
    assert set(BY_SAFETENSORS) == set(safetensors.ORDER) and len(safetensors.ORDER) == 22


@pytest.mark.parametrize("code", safetensors.ORDER)
@pytest.mark.parametrize("shape", [(), (0,), (8,), (3, 16), (4, 0, 2)], ids=str)
def test_every_dtype_both_ways(tmp_path, code, shape):
    dtype = BY_SAFETENSORS[code].name
    if not shape and DTYPES[dtype].bits % 8:
        pytest.skip("one such element is not a whole byte")
    spec = ac.ArraySpec(shape, dtype)
    array, path = raw(spec), tmp_path / "x.safetensors"
    header = safetensors.make_header({"x": spec}, {"format": "np"})
    with safetensors.SafetensorsWriter(path, header) as writer:
        writer.add("x", array)
    found = dict(oracle.deserialize(path.read_bytes()))["x"]
    assert (found["shape"], found["dtype"], bytes(found["data"])) == (list(shape), code, array.tobytes())
    with safetensors.SafetensorsFile(path) as file:
        assert file.tensors["x"].spec == spec and file.metadata == {"format": "np"}
        assert_bits(file.array("x"), array)
        assert file.header.raw == header.raw
        assert not array.size or file.array("x").ctypes.data % 64 == 0
    with safetensors.SafetensorsFile(path, mmap=True) as file:
        assert_bits(file.array("x"), array)
    with ac.open_file(path) as file:
        assert file["x"].spec == spec and not file.native
        assert_bits(file["x"].decode(), array)
    container = tmp_path / "c.safetensors"
    with Writer(container, [("x", spec, None)]) as writer:
        writer.add("x", array)
    found = dict(oracle.deserialize(container.read_bytes()))["x"]
    assert (found["shape"], found["dtype"], bytes(found["data"])) == (list(shape), code, array.tobytes())
    assert_bits(ac.load_file(container)["x"], array)


def test_sub_byte_shapes(tmp_path):
    for shape, packed in [((6, 4), (6, 2)), ((3, 2), (3, 1)), ((2, 3), (3,)), ((4,), (2,))]:
        array = BYTES[: int(np.prod(packed))].reshape(packed)
        spec, path = ac.ArraySpec(shape, "float4_e2m1fn"), tmp_path / "x.safetensors"
        with Writer(path, [("x", spec, None)]) as writer:
            writer.add("x", array)
        with ac.open_file(path) as file:
            assert file["x"].shape == shape and file["x"].dtype == "float4_e2m1fn"
            assert_bits(file["x"][...], array)
            if len(packed) == len(shape) and packed[0] == shape[0]:
                assert_bits(file["x"][1:3], array[1:3])
            else:
                with pytest.raises(ac.ArgumentError, match="rows"):
                    file["x"][0:1]
    with pytest.raises(ac.FormatError, match="whole number of bytes"):
        safetensors.make_header({"x": ac.ArraySpec((3,), "float4_e2m1fn")})
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(ac.ArgumentError, match="dtype"):
        ac.save_file({"x": np.zeros(4, ml_dtypes.float4_e2m1fn)}, tmp_path / "y.safetensors")
    for bad in (np.zeros(4, object), np.zeros(4, "U3"), np.zeros(4, "datetime64[s]"), np.zeros(4, [("a", "i4")])):
        with pytest.raises(ac.ArgumentError, match="dtype"):
            ac.save_file({"x": bad}, tmp_path / "y.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_reads_what_the_package_writes_and_gives_it_back(tmp_path):
    from safetensors.numpy import save_file

    arrays = {
        "b": weights(3, 5),
        "a/é\x1b": np.arange(6, dtype=np.int16).reshape(2, 3),
        "z": np.array(2.5),
        "../e": weights(0, 4),
    }
    path, copy = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_file(arrays, path, metadata={"format": "np", "k": '"\n'})
    loaded = ac.load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_bits(loaded[name], array)
    with safetensors.SafetensorsFile(path) as file:
        header = safetensors.parse_header(file.header.raw)
        assert header == file.header
        with safetensors.SafetensorsWriter(copy, header) as writer:
            for name in header.tensors:
                writer.add(name, file.array(name))
    assert copy.read_bytes() == path.read_bytes()
    safetensors.save(arrays, copy, metadata={"format": "np", "k": '"\n'})
    with safetensors.SafetensorsFile(copy) as mine, safetensors.SafetensorsFile(path) as theirs:
        assert mine.header.raw.rstrip() == theirs.header.raw.rstrip() or mine.tensors == theirs.tensors
        assert mine.header.data_start % 64 == 0


def test_inputs_of_any_layout(tmp_path):
    base = weights(6, 8)
    arrays = {
        "t": base.T, "f": np.asfortranarray(base), "s": base[::2, ::-3], "b": np.broadcast_to(base[0], (4, 8)),
        "e": base.astype(">f4"), "m": np.frombuffer(b"x" + base.tobytes(), np.float32, 48, 1), "0": base[1, 2],
    }  # fmt: skip
    base.flags.writeable = False
    before = base.copy()
    ac.save_file(arrays, tmp_path / "x.safetensors")
    loaded = ac.load_file(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].flags.c_contiguous and loaded[name].dtype == np.float32
    assert_bits(base, before)


X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", ac.FormatError, "empty"),
        (b"1234567", ac.CorruptError, "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", ac.FormatError, "LFS"),
        (b"PK\x03\x04" + bytes(60), ac.FormatError, "zip"),
        (b"\x80\x04\x95" + bytes(60), ac.FormatError, "pickle"),
        (b"GGUF\x03\0\0\0" + bytes(60), ac.FormatError, "GGUF"),
        (b"\n<!DOCTYPE html><html>" + bytes(60), ac.FormatError, "HTML"),
        (b"\x89acf" + bytes(60), ac.FormatError, "frame"),
        (bytes(8), ac.FormatError, "start with"),
        (struct.pack("<Q", 2**31), ac.LimitError, "at most 100000000"),
        (struct.pack("<Q", 2**63 - 1), ac.LimitError, "at most 100000000"),
        (struct.pack("<Q", 2**64 - 1), ac.LimitError, "at most 100000000"),
        (struct.pack("<Q", 99_000_000) + b"{}", ac.CorruptError, "truncated"),
        (file_of(b"[]"), ac.FormatError, "start with"),
        (file_of(b" {}"), ac.FormatError, "start with"),
        (file_of(b"{}") + b"x", ac.CorruptError, "follow the data"),
        (file_of(b"{} x"), ac.FormatError, "JSON"),
        (file_of(b"{\xff}"), ac.FormatError, "UTF-8"),
        (file_of(b'{"a":' * 100_000), ac.LimitError, "nested"),
        (file_of({"x": X}, bytes(7)), ac.CorruptError, "truncated"),
        (file_of({"x": X}, bytes(9)), ac.CorruptError, "follow the data"),
        (file_of(b'{"x":' + json.dumps(X).encode() + b',"x":' + json.dumps(X).encode() + b"}", bytes(8)),
         ac.FormatError, "twice"),
        (file_of({"x": X | {"data_offsets": [1, 9]}}, bytes(9)), ac.CorruptError, "hole"),
        (file_of({"x": X, "y": X}, bytes(8)), ac.CorruptError, "overlap"),
        (file_of({"x": X, "y": X | {"data_offsets": [4, 12]}}, bytes(12)), ac.CorruptError, "overlap"),
        (file_of({"x": X, "y": X | {"data_offsets": [12, 20]}}, bytes(20)), ac.CorruptError, "hole"),
        (file_of({"x": X | {"data_offsets": [8, 0]}}, bytes(8)), ac.CorruptError, "takes 8 bytes"),
        (file_of({"x": X | {"data_offsets": [-8, 0]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"data_offsets": [0, 8, 8]}}, bytes(8)), ac.FormatError, "start, stop"),
        (file_of({"x": X | {"data_offsets": [0, 8.0]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"data_offsets": [False, 8]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"data_offsets": [0, 2**64 + 8]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"shape": [3]}}, bytes(8)), ac.CorruptError, "takes 12 bytes"),
        (file_of({"x": X | {"shape": [-2]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"shape": [2**63]}}, bytes(8)), ac.FormatError, "integer"),
        (file_of({"x": X | {"shape": [2**32, 2**32]}}, bytes(8)), ac.FormatError, "2.48"),
        (file_of({"x": X | {"shape": [2**62, 0], "data_offsets": [0, 0]}}), ac.FormatError, "2.48"),
        (file_of({"x": X | {"shape": [1] * 65}}, bytes(8)), ac.FormatError, "64 axes"),
        (file_of({"x": X | {"shape": 2}}, bytes(8)), ac.FormatError, "list"),
        (file_of({"x": X | {"dtype": "F33"}}, bytes(8)), ac.FormatError, "dtype"),
        (file_of({"x": X | {"dtype": ["F32"]}}, bytes(8)), ac.FormatError, "dtype"),
        (file_of({"x": X | {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)), ac.FormatError, "whole"),
        (file_of({"x": X | {"more": 1}}, bytes(8)), ac.FormatError, "must have"),
        (file_of({"x": 1}), ac.FormatError, "must have"),
        (file_of({"__metadata__": {"a": 1}}), ac.FormatError, "strings"),
        (file_of({"__metadata__": []}), ac.FormatError, "strings"),
        (file_of({"n" * 70_000: X}, bytes(8)), ac.LimitError, "70000"),
    ],
    ids=range(47),
)  # fmt: skip
def test_refused(tmp_path, data, error, says):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    for mmap in (False, True):
        with pytest.raises(error, match=says) as caught:
            ac.open_file(path, mmap=mmap)
        assert str(path) in str(caught.value)
    raises_format(ac.load_file, path)


def test_names_are_escaped_in_errors(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"\x1b[2J\u202ename": X | {"shape": [3]}}, bytes(8)))
    assert str(raises_format(ac.open_file, path)).isprintable()


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        ac.open_file(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ac.ArgumentError, match="regular"):
        ac.open_file(tmp_path / "fifo")


def test_writer_refuses(tmp_path):
    path, spec = tmp_path / "x.safetensors", ac.ArraySpec((2,), "float32")
    header = safetensors.make_header({"a": spec, "b": spec})
    for names in [(), ("a",), ("b",), ("a", "a"), ("a", "b", "c")]:
        with pytest.raises(ac.ArgumentError), safetensors.SafetensorsWriter(path, header) as writer:
            for name in names:
                writer.add(name, np.zeros(2, np.float32))
        assert not os.listdir(tmp_path)
    for array in (np.zeros(3, np.float32), np.zeros(2, np.float64), np.zeros((2, 1), np.float32)):
        refused = pytest.raises(ac.ArgumentError, match="must be float32")
        with refused, safetensors.SafetensorsWriter(path, header) as writer:
            writer.add("a", array)
    for name in ("__metadata__", "\ud800", "x" * 70_000):
        with pytest.raises(ac.ArgumentError, match=r"name|called"):
            safetensors.make_header({name: spec})
    for metadata in ({"a": 1}, {1: "a"}, {"a": "\ud800"}):
        with pytest.raises(ac.ArgumentError, match="metadata"):
            safetensors.make_header({}, metadata)
