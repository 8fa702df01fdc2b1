"""Codecs that the built-in ones are not: lengths that depend on data, no way to read a part, decoders that break."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.containers import frame
from arraycodec.containers.writer import Writer
from tests.containers.support import assert_bits, edited_container, edited_frame, raises_format, same


@dataclass(frozen=True)
class Runs(Codec):
    """Run lengths: planes whose length depends on the data, and only the default `read`."""

    name: ClassVar[str] = "runs"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)

    def planes(self, spec):
        return {"values": ac.ArraySpec((None,), "uint8"), "counts": ac.ArraySpec((None,), "int64")}

    def encode(self, x, given=None):
        flat = x.reshape(-1)
        starts = np.flatnonzero(np.append(flat.size > 0, flat[1:] != flat[:-1])) if flat.size else np.zeros(0, int)
        return {"values": flat[starts], "counts": np.diff(np.append(starts, flat.size)).astype(np.int64)}

    def decode(self, planes, spec, given=None, out=None):
        out = ac.empty(spec) if out is None else out
        out.reshape(-1)[:] = np.repeat(planes["values"], planes["counts"])
        return out

    def check(self, planes, spec):
        if planes["counts"].sum() != spec.size or (planes["counts"] < 1).any():
            raise ac.CorruptError(f"runs: counts must add up to {spec.size}, got {planes['counts'].sum()}")


@dataclass(frozen=True)
class Breaks(Runs):
    """Its rules are checked by nothing but the errors it runs into."""

    name: ClassVar[str] = "breaks"
    error: str = "KeyError"

    def check(self, planes, spec):
        raise {
            "KeyError": KeyError,
            "MemoryError": MemoryError,
            "RecursionError": RecursionError,
            "TypeError": TypeError,
        }[self.error]("x")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for codec in (Runs, Breaks):
        monkeypatch.setitem(registry.CODECS, codec.name, codec)


X = np.repeat(np.arange(6, dtype=np.uint8), [3, 10, 1, 500, 7, 79]).reshape(20, 30)


def test_lengths_that_depend_on_data(tmp_path):
    path, enc = tmp_path / "x.safetensors", ac.encode(X, Runs())
    assert enc.planes["values"].shape == (6,)
    same(ac.from_bytes(ac.to_bytes(enc)), enc)
    empty = ac.encode(X[:0], Runs())
    with Writer(path, [("x", enc.spec, Runs()), ("e", empty.spec, Runs()), ("p", enc.spec, None)]) as writer:
        for name, value in zip(writer.order, (enc, empty, X), strict=True):
            writer.add(name, value)
    with ac.open_file(path) as file:
        assert_bits(file["x"].decode(), X)
        assert_bits(file["x"][3:5], X[3:5])
        assert_bits(file["e"].decode(), X[:0])
    stack = ac.Encoded(enc.codec, enc.spec, {n: np.stack([p, p]) for n, p in enc.planes.items()})
    ac.save_file({"s": stack}, path)
    with ac.open_file(path) as file:
        assert file["s"].shape == (2, 20, 30)
        assert_bits(file["s"][1], X)


def test_a_bomb_of_few_bytes(tmp_path):
    """A petabyte of one byte: refused where it would be made, and no more than its own bytes are taken before that."""
    path, size = tmp_path / "x.safetensors", 2**47
    planes = {"values": np.array([7], np.uint8), "counts": np.array([size], np.int64)}
    bomb = ac.Encoded(Runs(), ac.ArraySpec((2**20, 2**27), "uint8"), planes)
    data = ac.to_bytes(bomb)
    assert len(data) < 500
    with pytest.raises(ac.LimitError, match=str(size)):
        ac.from_bytes(data)
    with pytest.raises(ac.LimitError):
        ac.from_bytes(data, max_bytes=1 << 30)
    same(ac.from_bytes(data, max_bytes=size), bomb)
    ac.save_file({"x": bomb}, path)
    with ac.open_file(path) as file:
        assert file["x"].shape == (2**20, 2**27) and file["x"].verify() == len(data)
        same(file["x"].encoded(), bomb)
        for use in (file["x"].decode, lambda: file["x"][0], lambda: np.asarray(file["x"])):
            with pytest.raises(ac.LimitError):
                use()
    with pytest.raises(ac.LimitError):
        ac.load_file(path)


def test_planes_that_lie_about_the_array(tmp_path):
    """Declared size below and above what the planes hold."""
    path, enc = tmp_path / "x.safetensors", ac.encode(X, Runs())
    for shape in ("uint8[599]", "uint8[601]", "uint8[1000000]", "uint8[0]"):
        data = edited_frame(ac.to_bytes(enc), lambda header, shape=shape: header | {"array": shape})
        assert "add up" in str(raises_format(ac.from_bytes, data))
        ac.save_file({"x": enc}, path)
        edited_container(
            path, lambda data, shape=shape: data | {"tensors": {"x": data["tensors"]["x"] | {"array": shape}}}
        )
        raises_format(ac.load_file, path)


@pytest.mark.parametrize("error", ["KeyError", "MemoryError", "RecursionError", "TypeError"])
def test_errors_of_codecs_become_ours(tmp_path, error):
    enc = ac.encode(X, Breaks(error))
    assert "tensor 'x'" in str(raises_format(lambda: _load(tmp_path / "x", enc)))
    raises_format(ac.from_bytes, ac.to_bytes(enc))


def _load(path, enc):
    ac.save_file({"x": enc}, path)
    ac.load_file(path)


def test_missing_inputs_are_the_callers_fault(tmp_path):
    """A decoder that asks for an input which the file cannot hold: no corrupt file."""

    class Delta(Runs):
        name: ClassVar[str] = "delta-test"
        inputs: ClassVar[tuple[str, ...]] = ("base",)

        def decode(self, planes, spec, given=None, out=None):
            if "base" not in (given or {}):
                raise ac.ArgumentError("delta-test: given must hold 'base'")
            return super().decode(planes, spec) + given["base"]

    registry.CODECS["delta-test"] = Delta
    try:
        path = tmp_path / "x.safetensors"
        ac.save_file({"x": ac.encode(X, Delta())}, path)
        with ac.open_file(path) as file:
            with pytest.raises(ac.ArgumentError, match="base"):
                file["x"].decode()
            assert_bits(file["x"].decode(given={"base": np.uint8(1)}), X + np.uint8(1))
    finally:
        del registry.CODECS["delta-test"]


def test_then_with_a_part_that_cannot_be_read_in_parts():
    x = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(16, 256)
    codec = ac.Then(ac.Codebook("nf4"), codes=Runs())
    enc = ac.encode(x, codec)
    data = np.frombuffer(ac.to_bytes(enc), np.uint8).copy()
    reader = frame.FrameReader(lambda at, n: data[at : at + n].copy(), data.size)
    assert_bits(reader.elements(300, 700), ac.decode(enc).reshape(-1)[300:700])
