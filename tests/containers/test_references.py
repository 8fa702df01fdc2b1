"""Ties and deltas in files: found by themselves, checked, confined to the folder; what is read for a part of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.containers import bytefile
from tests.checkpoints.support import write
from tests.containers.support import assert_bits, weights

FRAMEWORKS = ["numpy", "torch", "jax"]


def tied(x, tensor, file=""):
    return ac.encode(x, ac.Tied(tensor, file), given={"base": x})


@pytest.fixture
def folder(tmp_path):
    """Two shards: `a` with an nf4 matrix, `b` with a plain one; each has ties to both."""
    x, y = ac.decode(ac.encode(weights(40, 64), "nf4")), weights(2000, 256, seed=1)
    first = {"w": ac.encode(x, "nf4"), "same": tied(x, "w"), "other": tied(y, "p", "b.safetensors")}
    second = {"p": y, "same2": tied(y, "p"), "other2": tied(x, "w", "a.safetensors")}
    ac.save_file(first, tmp_path / "a.safetensors")
    ac.save_file(second, tmp_path / "b.safetensors")
    weight_map = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path, {"w": x, "same": x, "other": y, "p": y, "same2": y, "other2": x}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_ties_are_followed(folder, framework):
    if framework != "numpy":
        pytest.importorskip(framework)
    path, want = folder
    whole = ac.load_file(path, framework=framework)
    parts = ac.load_file(path / "a.safetensors", framework=framework) | ac.load_file(
        path / "b.safetensors", framework=framework
    )
    for found in (whole, parts):
        assert set(found) == set(want)
        for name, value in found.items():
            assert type(value) is type(whole["w"])
            assert_bits(ac.api.to_numpy(value), want[name])
    with ac.open_file(path, framework=framework) as file:
        for name, tensor in file.items():
            assert (tensor.shape, tensor.dtype) == (want[name].shape, "float32")
            assert_bits(np.asarray(tensor), want[name])
            assert_bits(ac.api.to_numpy(tensor[3:5]), want[name][3:5])
            assert_bits(ac.api.to_numpy(tensor[-1]), want[name][-1])
            assert tensor.verify() == tensor.nbytes
        assert file["same"].nbytes < 500


def test_out_and_stored(folder):
    path, want = folder
    kept = ac.load_file(path, decode=False)
    for name, value in kept.items():
        assert isinstance(value, ac.Encoded) == (want[name].shape == (40, 64))
        assert_bits(ac.decode(value) if isinstance(value, ac.Encoded) else value, want[name])
    with ac.open_file(path) as file:
        for name in ("same", "other"):
            out = np.empty_like(want[name])
            assert file[name].decode(out) is out
            assert_bits(out, want[name])
        assert file["same"].encoded().codec == ac.codec("nf4") and file["same"].codec == ac.Tied("w")
        with pytest.raises(ac.ArgumentError, match=r"'p'.* is stored plain"):
            file["other"].encoded()
        assert_bits(file["same"].decode(given={"base": want["same"]}), want["same"])
        with pytest.raises(ac.CorruptError, match="hash"):
            file["same"].decode(given={"base": want["same"] + 1})
    torch = pytest.importorskip("torch")
    with ac.open_file(path, framework="torch") as file:
        out = torch.empty(40, 64)
        assert file["same"].decode(out) is out and torch.equal(out, torch.from_numpy(want["same"]))


def test_a_file_is_opened_once_and_closed_with_the_others(folder, monkeypatch):
    path, _ = folder
    opened, original = [], bytefile.ByteFile.__init__

    def init(self, path, **options):
        opened.append(self)
        original(self, path, **options)

    monkeypatch.setattr(bytefile.ByteFile, "__init__", init)
    with ac.open_file(path / "a.safetensors") as file:
        assert len(opened) == 1
        for _ in range(3):
            file["other"].decode()
        assert len(opened) == 2
        late = file["w"]
    assert all(one._file.closed for one in opened)
    with pytest.raises(ac.ArgumentError, match="closed"):
        late.decode()
    with ac.open_file(path / "a.safetensors") as file:
        never = file["other"]
    with pytest.raises(ac.ArgumentError, match="closed"):
        never.decode()
    monkeypatch.chdir(path)
    with ac.open_file("a.safetensors") as file:
        os.chdir("/")
        file["other"].decode()
        file["same"].decode()


BROKEN = {
    "missing": (lambda x: tied(x, "none"), "'none', which is not there"),
    "no file": (lambda x: tied(x, "w", "c.safetensors"), r"'w' of 'c.safetensors', which is not there"),
    "itself": (lambda x: tied(x, "t"), "'t', which is tied itself"),
    "tied": (lambda x: tied(x, "t2"), "'t2', which is tied itself"),
    "shape": (lambda x: tied(x[:3], "w"), r"which is float32\[4,64\], not float32\[3,64\]"),
    "dtype": (lambda x: tied(x.view(np.int32), "w"), r"which is float32\[4,64\], not int32\[4,64\]"),
    "hash": (lambda x: tied(x + 1, "w"), "tied: the hash must be"),
    "elsewhere": (lambda x: tied(x + 1, "w", "b.safetensors"), "tied: the hash must be"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_ties(tmp_path, kind):
    make, message = BROKEN[kind]
    x, path = weights(4, 64), tmp_path / "a.safetensors"
    ac.save_file({"w": x, "t": make(x), "t2": tied(x, "w")}, path)
    write(tmp_path / "b.safetensors", {"w": x})
    with ac.open_file(path) as file:
        uses = [file["t"].decode, file["t"].verify, lambda: np.asarray(file["t"])]
        uses += [] if kind == "hash" else [lambda: file["t"][0], file["t"].stored]  # of one file its writer is trusted
        for use in uses:
            with pytest.raises(ac.CorruptError, match=message) as caught:
                use()
            assert "tensor 't'" in str(caught.value)
        assert_bits(file["t2"].decode(), x)
    with pytest.raises(ac.CorruptError, match=message):
        ac.load_file(path)


@pytest.mark.parametrize("name", ["../b.safetensors", "/tmp/b.safetensors", "x/../b.safetensors", "link.safetensors"])
@pytest.mark.parametrize("kind", ["b.bin", "b", ".safetensors/.."])
def test_ties_stay_in_the_folder(tmp_path, name, kind):
    x, path = weights(4, 64), tmp_path / "in" / "a.safetensors"
    path.parent.mkdir()
    write(tmp_path / "b.safetensors", {"w": x})
    (path.parent / "link.safetensors").symlink_to(tmp_path / "b.safetensors")
    for file in (name, kind):
        ac.save_file({"t": tied(x, "w", file)}, path)
        with pytest.raises(ac.FormatError, match=r"must be a .* file in the folder|is a link out of the folder"):
            ac.load_file(path)


@pytest.mark.parametrize("decode", [True, False])
def test_many_ties_to_one_tensor_are_within_the_limit(tmp_path, decode):
    x, path = weights(256, 1024), tmp_path / "a.safetensors"
    ac.save_file({"x": x} | {f"t{i}": tied(x, "x") for i in range(20)}, path)
    assert path.stat().st_size < 2 * x.nbytes
    with pytest.raises(ac.LimitError, match="all tensors"):
        ac.load_file(path, decode=decode, max_bytes=20 * x.nbytes)
    assert len(ac.load_file(path, decode=decode, max_bytes=21 * x.nbytes)) == 21


def test_ties_within_a_then_are_the_callers(tmp_path):
    """Only a whole tensor is tied."""
    path, codec = tmp_path / "a.safetensors", ac.Then(ac.Codebook("nf4"), codes=ac.Tied("w"))
    codes = ac.encode(weights(4, 64), "nf4").planes["codes"]
    enc = ac.encode(weights(4, 64), codec, given={"codes.base": codes})
    ac.save_file({"x": enc, "w": codes}, path)
    with pytest.raises(ac.ArgumentError, match="given must hold 'base'"):
        ac.load_file(path)


# -- deltas: a codec that is as simple as one can be


@dataclass(frozen=True)
class Minus(Codec):
    """The difference of bytes."""

    name: ClassVar[str] = "minus"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    inputs: ClassVar[tuple[str, ...]] = ("base",)

    def planes(self, spec):
        return {"bytes": ac.ArraySpec((spec.nbytes,), "uint8")}

    def encode(self, x, given=None):
        return {"bytes": x.reshape(-1).view(np.uint8) - given["base"].reshape(-1).view(np.uint8)}

    def decode(self, planes, spec, given=None, out=None):
        if "base" not in (given or {}):
            raise ac.ArgumentError("minus: no base")
        data = planes["bytes"] + np.asarray(given["base"]).reshape(-1).view(np.uint8)
        out = ac.empty(spec) if out is None else out
        out.reshape(-1).view(np.uint8)[:] = data
        return out


@pytest.fixture
def deltas(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.CODECS, "minus", Minus)
    base = {"w": weights(6, 64), "v": weights(3, 5, seed=1)}
    tuned = {name: x + np.float32(0.5) for name, x in base.items()}
    encoded = {name: ac.encode(x, Minus(), given={"base": base[name]}) for name, x in tuned.items()}
    encoded["t"] = tied(tuned["w"], "w")
    ac.save_file(encoded, tmp_path / "d.safetensors")
    ac.save_file({"w": base["w"], "v": base["v"], "more": weights(3)}, tmp_path / "base.safetensors")
    return tmp_path / "d.safetensors", tmp_path / "base.safetensors", base, tuned | {"t": tuned["w"]}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_base_is_a_path_a_container_or_arrays(deltas, framework):
    if framework != "numpy":
        pytest.importorskip(framework)
    path, base_path, base, want = deltas
    own = ac.load_file(base_path, framework=framework)
    with ac.open_file(base_path) as plain, ac.open_file(base_path, framework=framework) as same:
        for given in (str(base_path), base_path, plain, same, base, own):
            found = ac.load_file(path, base=given, framework=framework)
            assert set(found) == set(want)
            for name, value in found.items():
                assert type(value) is type(own["w"])
                assert_bits(ac.api.to_numpy(value), want[name])
            with ac.open_file(path, base=given, framework=framework) as file:
                assert_bits(np.asarray(file["w"]), want["w"])
                assert_bits(ac.api.to_numpy(file["w"][2:4]), want["w"][2:4])
                assert_bits(ac.api.to_numpy(file["t"][2]), want["w"][2])
        assert_bits(plain["w"].decode(), base["w"])  # what the caller opened stays open


def test_without_a_base(deltas):
    path, base_path, base, want = deltas
    for use in (lambda file: file["w"].decode(), lambda file: file["w"][0], lambda file: file["t"].decode()):
        with ac.open_file(path) as file, pytest.raises(ac.ArgumentError, match=r"tensor 'w': .* base= must be"):
            use(file)
    with ac.open_file(path) as file:
        assert_bits(file["w"].decode(given={"base": base["w"]}), want["w"])
        assert {name: tensor.verify() for name, tensor in file.items()} == {n: t.nbytes for n, t in file.items()}
        assert ac.load_file(path, decode=False)["w"].codec == Minus()
    with pytest.raises(ac.ArgumentError, match=r"'v'.* the base must have a tensor of this name"):
        ac.load_file(path, base={"w": base["w"]})
    with pytest.raises(ac.ArgumentError, match="base must be a path or a mapping"):
        ac.load_file(path, base=3)
    with pytest.raises(FileNotFoundError):
        ac.load_file(path, base="nowhere.safetensors")
    file = ac.open_file(path, base=base_path)
    file.close()
    with pytest.raises(ac.ArgumentError, match="closed"):
        file["w"].decode()


# -- what is read


def counted(monkeypatch):
    """The bytes of files that are read from here on, headers included."""
    read, original = [], bytefile.ByteFile.read

    def count(self, offset, nbytes):
        read.append(nbytes)
        return original(self, offset, nbytes)

    monkeypatch.setattr(bytefile.ByteFile, "read", count)
    return read


def test_rows_of_a_tie_read_what_they_need(tmp_path, monkeypatch):
    """Those of the same file nothing else; those of another file everything once, for its hash."""
    x = weights(4096, 1024)
    ac.save_file({"x": x, "same": tied(x, "x"), "other": tied(x, "x", "b.safetensors")}, tmp_path / "a.safetensors")
    ac.save_file({"x": x}, tmp_path / "b.safetensors")
    with ac.open_file(tmp_path / "a.safetensors") as file:
        read = counted(monkeypatch)
        assert_bits(file["same"][7], x[7])
        assert sum(read) <= (1 << 20) + (64 << 10)
        for most in (x.nbytes + (1 << 20) + (64 << 10), 1 << 20):
            read.clear()
            assert_bits(file["other"][7], x[7])
            assert sum(read) <= most


@pytest.mark.parametrize("scheme", ["lossless", "lossless-storage", "lossless-inference", "nf4+lossless"])
def test_rows_of_lossless_planes_read_their_streams_only(tmp_path, monkeypatch, scheme):
    x = (weights(8192, 1024) * np.float32(0.02)).astype(ac.ArraySpec((), "bfloat16").numpy_dtype)
    ac.save_file({"x": ac.encode(x, scheme)}, tmp_path / "x.safetensors")
    with ac.open_file(tmp_path / "x.safetensors") as file:
        whole = file["x"].decode()
        read = counted(monkeypatch)
        assert_bits(file["x"][5000:5008], whole[5000:5008])
        assert sum(read) <= (3 << 20) + (64 << 10) < file["x"].nbytes  # whole chunks of 1 MiB, and small planes
        read.clear()
        file["x"].decode()
        assert sum(read) >= file["x"].nbytes - 1024  # all but the header, which is there


def test_rows_of_columns_read_their_band_only(tmp_path, monkeypatch):
    """Columns of their own scales, in streams that are as high as a band of rows."""
    x = weights(65536, 128) * np.exp(3 * weights(128, seed=1))
    x = x.astype(ac.ArraySpec((), "bfloat16").numpy_dtype)
    enc = ac.encode(x, "lossless")
    stream, columns = enc.planes["plan"][5], enc.planes["plan"][7]
    assert columns == 128 and stream <= 16384
    ac.save_file({"x": enc}, tmp_path / "x.safetensors")
    with ac.open_file(tmp_path / "x.safetensors") as file:
        read = counted(monkeypatch)
        for rows in (slice(0, 1), slice(20000, 20010), slice(65535, None), slice(16000, 17000)):
            read.clear()
            assert_bits(file["x"][rows], x[rows])
            bands = -(-(rows.stop or 65536) // int(stream)) - rows.start // int(stream)
            assert sum(read) <= bands * stream / 65536 * file["x"].nbytes + (3 << 20)


def test_rows_of_a_delta_read_the_base_whole_once(tmp_path, monkeypatch):
    """For its hash; then streams of both only."""
    base = (weights(8192, 1024) * np.float32(0.02)).astype(ac.ArraySpec((), "bfloat16").numpy_dtype)
    x = base.copy()
    x[::2] += base[::2] * x.dtype.type(0.01)
    ac.save_file({"x": ac.encode(x, ac.Delta(), given={"base": base})}, tmp_path / "x.safetensors")
    ac.save_file({"x": base, "y": base}, tmp_path / "b.safetensors")
    with ac.open_file(tmp_path / "x.safetensors", base=tmp_path / "b.safetensors") as file:
        read = counted(monkeypatch)
        assert_bits(file["x"][5000:5008], x[5000:5008])
        assert base.nbytes < sum(read)
        read.clear()
        assert_bits(file["x"][77], x[77])
        assert sum(read) <= (3 << 20) + (64 << 10)
    for wrong, verify in ((x, True), (base[:100], True), (base[:100], False)):
        with ac.open_file(tmp_path / "x.safetensors", base={"x": wrong}, verify=verify) as file:
            with pytest.raises(ac.CorruptError, match="the base must"):
                file["x"][3]
            with pytest.raises(ac.CorruptError, match="the base must"):
                file["x"].decode()
