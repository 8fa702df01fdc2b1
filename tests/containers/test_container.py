"""The native container: round trips, the safetensors package's view of it, lazy and partial reads, limits."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.containers import bytefile, manifest
from arraycodec.containers.checksums import CHUNK
from arraycodec.containers.manifest import Source
from arraycodec.containers.writer import Writer, head_size
from tests.containers.support import assert_bits, same, small_container, weights
from tests.containers.test_frame import stacked

FRAMEWORKS = ["numpy", "torch", "jax"]


def backend(framework):
    if framework != "numpy":
        pytest.importorskip(framework)
    return registry.framework(framework)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


def test_round_trip(path):
    tensors = small_container(path)
    tensors |= {
        "zero-d": ac.encode(weights(), "nf4"), "empty": ac.encode(weights(0, 4), "nf4"), "e": weights(3, 0),
        "stack": stacked(4, 64), "bool": np.array([True, False]), "": weights(2), "ü/../\x1b": weights(1),
    }  # fmt: skip
    ac.save_file(tensors, path, metadata={"format": "pt"})
    loaded, kept = ac.load_file(path), ac.load_file(path, decode=False)
    assert loaded.keys() == kept.keys() == tensors.keys()
    for name, value in tensors.items():
        if isinstance(value, ac.Encoded):
            same(kept[name], value)
            assert_bits(loaded[name], ac.decode(value))
        else:
            assert_bits(loaded[name], np.asarray(value))
            assert_bits(kept[name], np.asarray(value))
    ac.save_file({}, path)
    assert ac.load_file(path) == {}


def test_the_package_sees_the_same_names(path):
    safe_open = pytest.importorskip("safetensors").safe_open
    tensors = small_container(path)
    with safe_open(path, "np") as file, ac.open_file(path) as ours:
        assert set(file.keys()) == set(tensors) and file.metadata()["format"] == "pt"
        for name, value in tensors.items():
            if isinstance(value, ac.Encoded):
                frame = file.get_tensor(name)
                assert frame.shape == (1, 1, ours[name].nbytes) and frame.dtype == np.uint8
                assert frame.tobytes() == ac.to_bytes(value)
            elif value.dtype.name != "bfloat16":
                assert_bits(file.get_tensor(name), value)


def test_layout(path):
    tensors = small_container(path)
    with ac.open_file(path) as file:
        header = file._file.header
        places = [header.data_start + tensor.start for tensor in header.tensors.values()]
        assert header.data_start % 64 == 0 and not any(place % 64 for place in places[:2])
        assert list(file) == ["block.weight", "odd", "step", "block.bias"]
        assert file.native and file.source is None and file.paths == (str(path),)
        assert file.metadata == {"format": "pt", "note": "é"}
    raw = path.read_bytes()
    assert raw[8:].startswith(manifest.OPENING)
    shuffled = dict(reversed(tensors.items()))
    ac.save_file({**shuffled, "odd": tensors["odd"]}, path, metadata={"note": "é", "format": "pt"})
    order = ["odd", "block.weight"]
    assert sorted(ac.load_file(path)) == sorted(tensors) and list(ac.open_file(path))[:2] == order
    ac.save_file(tensors, path, metadata={"note": "é", "format": "pt"})
    assert path.read_bytes() == raw


def test_source_and_metadata(path):
    source = Source(b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ', "0f" * 32)
    plan = [("x", ac.ArraySpec((2,), "float32"), None)]
    with Writer(path, plan, source=source, metadata={"a": '"', "": "\n"}) as writer:
        writer.add("x", weights(2))
    with ac.open_file(path) as file:
        assert file.source == source and file.metadata == {"a": '"', "": "\n"}
    assert head_size(plan, {"a": '"', "": "\n"}, source) + 8 == path.stat().st_size
    with pytest.raises(ac.ArgumentError, match="own key"):
        ac.save_file({}, path, metadata={"arraycodec": "x"})
    with pytest.raises(ac.ArgumentError, match="source"):
        Writer(path, plan, source=Source(b"{}", "zz"))


def test_writer_streams_in_its_order(path):
    w = weights(8, 64)
    plan = [
        ("b", ac.ArraySpec((3,), "bfloat16"), None),
        ("a", ac.ArraySpec((2,), "float64"), None),
        ("w2", ac.ArraySpec((8, 64), "float32"), ac.codec("nf4")),
        ("w1", ac.ArraySpec((8, 64), "float32"), ac.codec("dynamic")),
    ]
    values = {
        "b": weights(3, dtype="bfloat16"),
        "a": np.zeros(2),
        "w2": ac.encode(w, "nf4"),
        "w1": ac.encode(w, "dynamic"),
    }
    with Writer(path, plan) as writer:
        assert writer.order == ("w2", "w1", "a", "b")
        sizes = {name: writer.add(name, values[name]) for name in writer.order}
    with ac.open_file(path) as file:
        assert {name: tensor.nbytes for name, tensor in file.items()} == sizes
    assert path.stat().st_size == head_size(plan) + sum(sizes.values())
    old = path.read_bytes()
    wrong = [
        (), ("w2", "w1", "a"), ("w1",), ("w2", "w2"), ("w2", "w1", "a", "b", "b"), ("a",),
    ]  # fmt: skip
    for names in wrong:
        with pytest.raises(ac.ArgumentError), Writer(path, plan) as writer:
            for name in names:
                writer.add(name, values[name])
    for first in (w, values["w1"], ac.encode(w[:4], "nf4"), ac.encode(w.astype(np.float16), "nf4")):
        with pytest.raises(ac.ArgumentError, match="planned"), Writer(path, plan) as writer:
            writer.add("w2", first)
    with pytest.raises(ac.ArgumentError, match="twice"):
        Writer(path, plan + plan)
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


def test_lossy_scales_must_be_finite(path):
    x = weights(4, 64)
    x[2, 5] = np.nan
    enc = ac.encode(x, "nf4", check=False)
    with pytest.raises(ac.NonFiniteError):
        ac.save_file({"x": enc}, path)
    assert not path.exists()
    with Writer(path, [("x", enc.spec, enc.codec)]) as writer:
        writer.add("x", enc, check=False)
    assert np.isnan(ac.load_file(path)["x"][2]).all()
    ac.save_file({"x": x}, path)
    assert_bits(ac.load_file(path)["x"], x)


@pytest.mark.parametrize("mmap", [False, True])
def test_rows(path, mmap):
    tensors = {
        "w": ac.encode(weights(33, 65), "nf4"),
        "double": ac.encode(weights(9, 4, 32), "nf4-double"),
        "stack": stacked(5, 64),
        "plain": weights(33, 5),
        "half": weights(7, 3, dtype="bfloat16"),
        "flat": ac.encode(weights(100), "nf4"),
        "none": weights(0, 3),
    }
    ac.save_file(tensors, path)
    whole = ac.load_file(path)
    keys = [
        0,
        -1,
        -2,
        np.int64(1),
        slice(None),
        slice(1, 3),
        slice(2, None),
        slice(-2, None),
        slice(3, 1),
        slice(0, 99),
        ...,
        (),
    ]
    with ac.open_file(path, mmap=mmap) as file:
        for name, lazy in file.items():
            for key in keys:
                if name == "none" and not isinstance(key, slice | tuple | type(...)):
                    continue
                assert_bits(lazy[key], whole[name][key])
            assert len(lazy) == len(whole[name])
            if whole[name].ndim > 1:
                assert_bits(lazy[1:3, 1:2], whole[name][1:3, 1:2])
                assert_bits(lazy[..., 1], whole[name][..., 1])
                if name != "none":
                    assert_bits(lazy[1, ::2], whole[name][1, ::2])
                    assert_bits(np.stack(list(lazy)), whole[name])
            for bad in (slice(None, None, 2), "x", 1.5, [0, 1], None, True):
                with pytest.raises(ac.ArgumentError):
                    lazy[bad]
            with pytest.raises(IndexError):
                lazy[10**6]


def test_lazy_tensor(path):
    tensors = small_container(path)
    with ac.open_file(path) as file:
        lazy = file["block.weight"]
        assert (lazy.name, lazy.shape, lazy.dtype, lazy.codec) == ("block.weight", (48, 64), "float32", ac.codec("nf4"))
        assert lazy.spec == tensors["block.weight"].spec and lazy.path == str(path)
        assert "nf4" in repr(lazy) and "plain" in repr(file["step"]) and "4 tensors" in repr(file)
        assert sum(tensor.verify() for tensor in file.values()) == sum(tensor.nbytes for tensor in file.values())
        expected = ac.decode(tensors["block.weight"])
        assert_bits(np.asarray(lazy), expected)
        assert_bits(np.asarray(lazy, np.float64), expected.astype(np.float64))
        out = ac.empty(lazy.spec)
        assert lazy.decode(out) is out
        assert_bits(out, expected)
        out = np.empty((), np.int64)
        assert file["step"].decode(out) is out and out == 3
        with pytest.raises(ac.ArgumentError, match="out"):
            file["step"].decode(np.empty(2, np.int64))
        with pytest.raises(ac.ArgumentError, match="plain"):
            file["step"].encoded()
        with pytest.raises(TypeError):
            len(file["step"])
        with pytest.raises(KeyError):
            file["no such"]
        assert "no such" not in file and "step" in file
    with pytest.raises(ac.ArgumentError, match="closed"):
        lazy.decode()


class Counting:
    """Counts the reads of every ByteFile."""

    def __init__(self, monkeypatch):
        self.reads: list[tuple[int, int]] = []
        real = bytefile.ByteFile.read

        def read(file, offset, nbytes):
            self.reads.append((offset, nbytes))
            return real(file, offset, nbytes)

        monkeypatch.setattr(bytefile.ByteFile, "read", read)

    def taken(self) -> list[int]:
        sizes = [nbytes for _, nbytes in self.reads]
        self.reads.clear()
        return sizes


def test_partial_reads_touch_only_what_they_need(path, monkeypatch):
    tensors = {"w": ac.encode(weights(4096, 2048), "nf4"), "p": weights(1024, 1024), "small": weights(4)}
    ac.save_file(tensors, path)
    counting = Counting(monkeypatch)
    with ac.open_file(path) as file:
        assert len(counting.reads) == 2 and sum(counting.taken()) < 4096
        assert_bits(file["p"][3], tensors["p"][3])
        assert counting.taken() == [CHUNK]
        assert_bits(file["p"][255:257], tensors["p"][255:257])
        assert counting.taken() == [2 * CHUNK]
        file["w"][100:102]
        assert counting.taken() == [4096, CHUNK, CHUNK // 2]  # the frame's header, codes, absmax
        file["w"][100:102]
        assert counting.taken() == [CHUNK, CHUNK // 2]
    data = bytearray(path.read_bytes())
    data[-5] ^= 4  # in `small`
    path.write_bytes(data)
    with ac.open_file(path) as file:
        file["w"].verify()
        assert_bits(file["p"][-1], tensors["p"][-1])
        for use in (file["small"].decode, file["small"].verify, lambda: file["small"][0]):
            with pytest.raises(ac.CorruptError, match="'small'"):
                use()
    with ac.open_file(path, verify=False) as file:
        file["small"].decode()
        with pytest.raises(ac.CorruptError):
            file["small"].verify()


def test_max_bytes(path):
    ac.save_file({"w": ac.encode(weights(64, 64), "nf4"), "p": weights(64, 64)}, path)
    size = 64 * 64 * 4
    assert ac.load_file(path, max_bytes=2 * size).keys() == {"w", "p"}
    with pytest.raises(ac.LimitError, match="all tensors"):
        ac.load_file(path, max_bytes=2 * size - 1)
    with ac.open_file(path, max_bytes=size - 1) as file:
        for name in file:
            with pytest.raises(ac.LimitError, match="max_bytes"):
                file[name].decode()
            assert file[name][2:4].shape == (2, 64)
            with pytest.raises(ac.LimitError):
                file[name][:]
        file["w"].encoded()
    for bad in (-1, True, 1.5):
        with pytest.raises(ac.ArgumentError, match="max_bytes"):
            ac.open_file(path, max_bytes=bad)


def test_memory_stays_with_what_is_asked_for(path):
    """Reading takes the planes and the result; streaming takes one tensor, not all of them."""
    spec, count = ac.ArraySpec((1024, 1024), "float32"), 8
    enc = ac.encode(weights(1024, 1024), "nf4")
    tracemalloc.start()
    try:
        plan = [(f"w{i}", spec, enc.codec) for i in range(count)] + [("p", spec, None)]
        plain = np.zeros(spec.shape, np.float32)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with Writer(path, plan) as writer:
            for name in writer.order:
                writer.add(name, plain if name == "p" else enc)
        assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
        with ac.open_file(path) as file:
            for name in file:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                del_me = file[name].decode()
                assert tracemalloc.get_traced_memory()[1] - before < spec.nbytes + file[name].nbytes + (1 << 20)
                del del_me
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for name in file:
                file[name].verify()
                assert file[name][7].shape == (1024,)
            assert tracemalloc.get_traced_memory()[1] - before < max(t.nbytes for t in file.values()) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_concurrent_readers_while_the_file_is_replaced(path):
    small = {"w": ac.encode(weights(64, 256, seed=1), "nf4"), "p": weights(64, 256, seed=1)}
    other = {"w": ac.encode(weights(64, 256, seed=2), "nf4"), "p": weights(64, 256, seed=2)}
    values = [{n: (ac.decode(v) if n == "w" else v).tobytes() for n, v in t.items()} for t in (small, other)]
    ac.save_file(small, path)
    failed, stop = [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                with ac.open_file(path) as file:
                    found = {name: file[name].decode().tobytes() for name in file}
                    rows = file["w"][3:5].tobytes()
                if found not in values or rows != found["w"][3 * 1024 : 5 * 1024]:
                    failed.append("mixed")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    [thread.start() for thread in threads]
    for i in range(20):
        ac.save_file(other if i % 2 else small, path)
    stop.set()
    [thread.join() for thread in threads]
    assert not failed


def test_file_truncated_under_a_reader(path):
    ac.save_file({"p": weights(512, 512)}, path)
    with ac.open_file(path) as file:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(ac.CorruptError, match="truncated"):
            file["p"].decode()


def test_bytes_do_not_depend_on_threads(path):
    tensors = {"w": weights(2048, 1024)}
    written = []
    for threads in (1, 2, 4):
        ac.set_num_threads(threads)
        ac.save_file({"w": ac.encode(tensors["w"], "nf4")}, path)
        written.append(path.read_bytes())
    ac.set_num_threads(None)
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks(path, framework):
    module = backend(framework)
    tensors = small_container(path)
    tensors = {
        "w": tensors["block.weight"],
        "d": tensors["odd"],
        "b": weights(6, 5, dtype="bfloat16"),
        "i": np.arange(5),
    }
    tensors["i"] = tensors["i"].astype(np.int32)
    ac.save_file(tensors, path)
    mine = {
        name: ac.Encoded(v.codec, v.spec, {n: module.from_numpy(p, None) for n, p in v.planes.items()})
        if isinstance(v, ac.Encoded) else module.from_numpy(v, None)
        for name, v in tensors.items()
    }  # fmt: skip
    other = path.with_name("other.safetensors")
    ac.save_file(mine, other)
    assert other.read_bytes() == path.read_bytes()
    expected, loaded = ac.load_file(path), ac.load_file(path, framework=framework)
    for name, value in loaded.items():
        assert type(value).__module__.startswith(framework)
        assert_bits(module.to_numpy(value), expected[name])
    kept = ac.load_file(path, framework=framework, decode=False)
    assert_bits(module.to_numpy(ac.decode(kept["d"])), expected["d"])
    for mmap in (False, True):
        with ac.open_file(path, framework=framework, mmap=mmap) as file:
            decoded = {name: file[name].decode() for name in file}
            for name in file:
                assert_bits(module.to_numpy(file[name][1:3]), expected[name][1:3])
                assert_bits(np.asarray(file[name]), expected[name])
        for name, value in decoded.items():  # a map lives as long as what was read from it
            assert_bits(module.to_numpy(value), expected[name])
    with pytest.raises(ac.UnsupportedByBackend):
        ac.open_file(path, framework="mxnet")


def test_out_of_torch(path):
    torch = pytest.importorskip("torch")
    module = backend("torch")
    tensors = small_container(path)
    with ac.open_file(path, framework="torch") as file:
        out = torch.empty(16, dtype=torch.bfloat16)
        assert file["block.bias"].decode(out) is out
        assert_bits(module.to_numpy(out), tensors["block.bias"])
        out = torch.empty(48, 64)
        assert file["block.weight"].decode(out) is out
        with pytest.raises(ac.ArgumentError):
            file["block.bias"].decode(torch.empty(16))


def test_reading_imports_no_framework(path):
    small_container(path)
    code = f"""
        import sys, arraycodec as ac
        with ac.open_file({str(path)!r}) as file:
            assert len(file) == 4 and file["odd"].shape == (7, 9)
        loaded = {{"torch", "jax", "safetensors", "numba"}} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_names_that_look_alike(path):
    tensors = {name: np.array(i) for i, name in enumerate(["é", "e\u0301", "E", "e", "a.b", "a/b", "../a", "a\x00"])}
    ac.save_file(tensors, path)
    assert {name: int(value) for name, value in ac.load_file(path).items()} == {n: int(v) for n, v in tensors.items()}
    assert os.listdir(path.parent) == [path.name]


def test_offsets_beyond_4_gib(path):
    """A sparse file of 5 GiB: the last rows of a tensor, without the rest."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [5 << 10, 256, 1024], "data_offsets": [0, 5 << 30]}}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (5 << 30))
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(1.5).tobytes())
    with ac.open_file(path, max_bytes=1 << 22) as file:
        assert file["x"][-1, -1, -2:].tolist() == [0.0, 1.5]
        assert file["x"][4097:4098, :2, :2].sum() == 0
        with pytest.raises(ac.LimitError):
            file["x"].decode()


def test_manifest_is_readable_json(path):
    small_container(path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    data = json.loads(header["__metadata__"]["arraycodec"])
    assert data["version"] == 1 and set(data["tensors"]) == set(header) - {"__metadata__"}
    assert data["tensors"]["step"] == {"array": "int64[]", "hash": data["tensors"]["step"]["hash"],
                                       "offsets": header["step"]["data_offsets"]}  # fmt: skip


def test_a_writer_decides_late(path):
    """Of the ways that a plan allows any may come; a tensor left plain moves behind the frames."""
    x, w = weights(8, 64), weights(8, 64, seed=1)
    spec = ac.ArraySpec((8, 64), "float32")
    ways = (ac.codec("lossless"), ac.codec("nf4"), ac.Tied("a long name for the room"), None)
    plan = [("a", spec, ways), ("b", spec, ways), ("c", spec, ways), ("d", spec, None), ("e", spec, ac.codec("nf4"))]
    with Writer(path, plan) as writer:
        writer.add("a", ac.encode(x, "nf4"))
        writer.leave_plain("b")
        assert writer.left == ("c", "e", "b", "d") and writer.order == ("a", *writer.left)
        writer.add("c", ac.encode(x, ac.Tied("d"), given={"base": x}))
        writer.add("e", ac.encode(w, "nf4"))
        for name in writer.left:
            writer.leave_plain(name)  # it is already
            writer.add(name, x)
    with ac.open_file(path) as file:
        assert [tensor.codec and tensor.codec.name for tensor in file.values()] == [
            "codebook",
            "tied",
            "codebook",
            None,
            None,
        ]
        assert file["c"].decode().tobytes() == file["b"].decode().tobytes() == x.tobytes()
    assert path.stat().st_size == head_size(plan) + sum(tensor.nbytes for tensor in file.values())
    for value, message in ((ac.encode(x, "fp4"), "planned is .* or a plain array of"), (x, "planned is .*got ndarray")):
        with pytest.raises(ac.ArgumentError, match=message), Writer(path, plan) as writer:
            writer.add("a", value)
    with pytest.raises(ac.ArgumentError, match="planned is Codebook"), Writer(path, plan[4:]) as writer:
        writer.leave_plain("e")
    with pytest.raises(ac.ArgumentError, match="next must be 'a', got 'b'"), Writer(path, plan) as writer:
        writer.leave_plain("b")


def test_the_base_of_differences_is_on_record(path):
    base = manifest.Base("model-é", {"a.safetensors": "0f" * 32, "sub/b.safetensors": "1e" * 32})
    plan = [("x", ac.ArraySpec((2,), "float32"), None)]
    with Writer(path, plan, base=base) as writer:
        writer.add("x", weights(2))
    with ac.open_file(path) as file:
        assert file.made_with == base and file.source is None and file.metadata == {}
    with pytest.raises(ac.ArgumentError, match="base: sha256 must be"):
        manifest.Base("m", {"a": "zz"})
