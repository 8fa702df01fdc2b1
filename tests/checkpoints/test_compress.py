"""Compressing and decompressing one file: what is encoded, what is written, and that the original comes back."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file as oracle_load

import arraycodec as ac
from arraycodec.checkpoints import coding
from tests.checkpoints.support import listing, model, normal, write, write_raw

ENCODED = ["embed.weight", "layers.0.up.weight", "layers.1.up.weight", "layers.0.odd.weight", "layers.0.conv.weight"]


@pytest.fixture
def src(tmp_path):
    return write(tmp_path / "model.safetensors", model())


def test_matrices_are_encoded_and_all_else_is_plain(src, tmp_path):
    dst = tmp_path / "out.safetensors"
    report = ac.compress(src, dst, "nf4")
    assert [row.name for row in report.encoded] == ENCODED
    with ac.open_file(dst) as file:
        assert set(file) == set(model())
        assert file.metadata == {"format": "pt"}
        assert file.source.sha256 == hashlib.sha256(src.read_bytes()).hexdigest()
        for name, x in model().items():
            want = ac.decode(ac.encode(x, "nf4")) if name in ENCODED else x
            assert file[name].decode().tobytes() == want.tobytes()
            assert file[name].codec == (ac.codec("nf4") if name in ENCODED else None)
    assert dst.stat().st_size == report.after


def test_names_stay_and_frames_are_tensors_that_no_loader_takes_for_weights(src, tmp_path):
    ac.compress(src, tmp_path / "out.safetensors")
    known = {k: v for k, v in model().items() if k != "quantised"}
    write(src, known)  # safetensors' own NumPy reader knows no float8
    ac.compress(src, tmp_path / "out.safetensors", overwrite=True)
    found = oracle_load(tmp_path / "out.safetensors")
    assert set(found) == set(known)
    assert all(found[name].dtype == np.uint8 and found[name].shape[:2] == (1, 1) for name in ENCODED)


def test_the_original_comes_back_in_its_layout(src, tmp_path):
    packed, back = tmp_path / "p.safetensors", tmp_path / "b.safetensors"
    ac.compress(src, packed)
    report = ac.decompress(packed, back)
    head = 8 + int.from_bytes(src.read_bytes()[:8], "little")
    assert back.read_bytes()[:head] == src.read_bytes()[:head]
    assert back.stat().st_size == src.stat().st_size == report.after
    restored = ac.load_file(back)
    for name, x in model().items():
        want = ac.decode(ac.encode(x, "nf4")) if name in ENCODED else x
        assert restored[name].tobytes() == want.tobytes()


@pytest.mark.parametrize("spaces", [0, 1, 7, 64])
def test_a_lossless_scheme_gives_back_every_byte_of_the_file(tmp_path, xored, spaces):
    tensors = [
        ("z.last", "F32", [40, 30], normal(40, 30).tobytes()),
        ("small", "F32", [5], normal(5).tobytes()),
        ("a.first", "I64", [1000], np.arange(1000).tobytes()),
        ("odd é \u202e\n", "U8", [4097], bytes(4097)),
        ("nan", "F32", [2000], np.full(2000, np.nan, np.float32).tobytes()),
        ("empty", "F32", [0], b""),
    ]
    src = write_raw(tmp_path / "s.safetensors", tensors, {"b": "2", "a": "é"}, spaces)
    report = ac.compress(src, tmp_path / "p.safetensors", xored)
    assert len(report.encoded) == 4
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()
    assert ac.verify(tmp_path / "p.safetensors", against=src).ok


def test_exotic_dtypes_travel_byte_for_byte(tmp_path):
    rng = np.random.default_rng(0)
    exotic = [
        ("f4", "F4", [33, 64], rng.bytes(33 * 32)),
        ("f4.odd", "F4", [2, 3], rng.bytes(3)),
        ("f6a", "F6_E2M3", [8, 16], rng.bytes(96)),
        ("f6b", "F6_E3M2", [8, 16], rng.bytes(96)),
        ("e8m0", "F8_E8M0", [512], rng.bytes(512)),
        ("e4m3", "F8_E4M3", [64, 64], rng.bytes(4096)),
        ("e5m2", "F8_E5M2", [64, 64], rng.bytes(4096)),
        ("c64", "C64", [64], rng.bytes(512)),
        ("u16", "U16", [64, 64], rng.bytes(8192)),
        ("f64", "F64", [64, 64], rng.bytes(32768)),
        ("w", "F32", [64, 64], normal(64, 64).tobytes()),
    ]
    src = write_raw(tmp_path / "s.safetensors", exotic)
    report = ac.compress(src, tmp_path / "p.safetensors", include=["*"])
    assert [row.name for row in report.encoded] == ["w"]
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    a, b = src.read_bytes(), (tmp_path / "b.safetensors").read_bytes()
    assert a[: len(a) - 64 * 64 * 4] == b[: len(b) - 64 * 64 * 4]  # `w` is last; all before it is the original
    assert len(a) == len(b)


@pytest.mark.parametrize("scheme", ["nf4", "nf4-double", "dynamic", ac.Codebook("fp4", block_size=128)])
def test_a_dry_run_predicts_every_byte_and_writes_none(src, tmp_path, scheme):
    before = listing(tmp_path)
    dry = ac.compress(src, tmp_path / "out.safetensors", scheme, dry_run=True)
    assert listing(tmp_path) == before
    real = ac.compress(src, tmp_path / "out.safetensors", scheme)
    assert dry.rows == real.rows
    assert dry.files == real.files
    assert dry.dry_run and not real.dry_run


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_the_bytes_do_not_depend_on_jobs(src, tmp_path, jobs):
    ac.compress(src, tmp_path / "one.safetensors", jobs=1)
    report = ac.compress(src, tmp_path / "many.safetensors", jobs=jobs)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "many.safetensors").read_bytes()
    assert [row.name for row in report.rows] == list(model())
    ac.decompress(tmp_path / "one.safetensors", tmp_path / "a.safetensors", jobs=1)
    ac.decompress(tmp_path / "many.safetensors", tmp_path / "b.safetensors", jobs=jobs)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_report_says_why(src, tmp_path):
    report = ac.compress(
        src, tmp_path / "o.safetensors", include=["*norm*", "tiny*"], exclude=["*embed*"], dry_run=True
    )
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons == {
        "embed.weight": "excluded by *embed*",
        "layers.0.up.weight": "bfloat16 matrix",
        "layers.1.up.weight": "bfloat16 matrix",
        "layers.0.odd.weight": "float16 matrix",
        "layers.0.conv.weight": "float32 4-D",
        "layers.0.norm.weight": "included by *norm*",
        "tiny.weight": "included by tiny*",
        "position_ids": "int64: codec nf4 takes float32, bfloat16, float16",
        "mask": "bool: codec nf4 takes float32, bfloat16, float16",
        "scale": "0-D: scalars stay plain",
        "none": "no elements",
        "quantised": "float8_e4m3fn: codec nf4 takes float32, bfloat16, float16",
    }
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["bytes_after"] == report.after and data["ratio"] == report.before / report.after
    assert data["tensors"][1]["codec"]["name"] == "codebook" and data["tensors"][1]["scheme"] == "nf4"
    assert dataclasses.is_dataclass(report) and report == ac.compress(
        src, tmp_path / "o.safetensors", include=["*norm*", "tiny*"], exclude=["*embed*"], dry_run=True
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_stays_plain_and_the_report_says_so(tmp_path, bad):
    tensors = {"a": normal(64, 64), "b": normal(64, 64, seed=1), "c": normal(64, 64, seed=2)}
    tensors["b"][3, 5] = tensors["c"][0, 0] = bad
    src = write(tmp_path / "s.safetensors", tensors)
    report = ac.compress(src, tmp_path / "p.safetensors")
    assert [row.codec is not None for row in report.rows] == [True, False, False]
    assert report.rows[1].reason == "holds NaN or infinity: stays plain"
    assert report.rows[1].after == report.rows[1].before
    assert ac.verify(tmp_path / "p.safetensors", against=src).ok
    assert ac.load_file(tmp_path / "p.safetensors")["b"].tobytes() == tensors["b"].tobytes()


def test_what_the_codec_makes_larger_stays_plain_unless_it_is_included(tmp_path, xored, monkeypatch):
    kind = type(ac.codec(xored))
    encode, decode = kind.encode, kind.decode

    def growing(self, x, given=None):  # as many times the bytes as the array's elements say; of zeros only the first
        whole, first = encode(self, x)["bytes"], int(x.reshape(-1)[0])
        return {"bytes": np.tile(whole, first) if first else whole[:1]}

    def first(self, planes, spec, given=None, out=None):
        whole = np.resize(planes["bytes"], spec.nbytes)
        return decode(self, {"bytes": whole}, spec, given, out)

    monkeypatch.setattr(kind, "encode", growing)
    monkeypatch.setattr(kind, "decode", first)
    monkeypatch.setattr(kind, "planes", lambda self, spec: {"bytes": ac.ArraySpec((None,), "uint8")})
    arrays = {name: np.full((64, 64), value, np.float64) for name, value in (("a", 0), ("b", 1), ("c", 2))}
    src = write(tmp_path / "s.safetensors", arrays)
    report = ac.compress(src, tmp_path / "p.safetensors", xored, include=["c"])
    reasons = ["float64 matrix", "does not shrink: stays plain", "included by c"]
    assert [row.reason for row in report.rows] == reasons
    dry = ac.compress(src, tmp_path / "q.safetensors", xored, dry_run=True)
    assert dry.after is None and dry.ratio is None and dry.to_json()["bytes_after"] is None
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()


def test_progress_rises_to_the_whole(src, tmp_path):
    seen = []
    ac.compress(src, tmp_path / "p.safetensors", progress=lambda *args: seen.append(args))
    done = [d for d, _, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1]
    assert {"sha256", "embed.weight"} <= {what for _, _, what in seen}


def test_nothing_to_encode_is_an_error_that_says_why(tmp_path):
    src = write(tmp_path / "s.safetensors", {"ids": np.arange(9000), "more": np.arange(9000), "norm": normal(4096)})
    with pytest.raises(ac.ArgumentError, match=r"s.safetensors: nothing to encode with nf4: int64: .* \(2\); 1-D"):
        ac.compress(src, tmp_path / "p.safetensors")
    empty = write(tmp_path / "e.safetensors", {})
    with pytest.raises(ac.ArgumentError, match="it holds no tensors"):
        ac.compress(empty, tmp_path / "p.safetensors")
    assert not (tmp_path / "p.safetensors").exists()


def test_compressed_input_is_refused(src, tmp_path):
    ac.compress(src, tmp_path / "p.safetensors")
    with pytest.raises(ac.ArgumentError, match=r"p.safetensors: is compressed already \(holds nf4\); decompress it"):
        ac.compress(tmp_path / "p.safetensors", tmp_path / "q.safetensors")
    with pytest.raises(ac.ArgumentError, match="is not compressed"):
        ac.decompress(src, tmp_path / "q.safetensors")


def test_the_input_is_never_a_target(src, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(src)
    hard = tmp_path / "hard.safetensors"
    os.link(src, hard)
    before = src.read_bytes()
    for dst in (src, tmp_path / "." / "model.safetensors", link, hard):
        with pytest.raises(ac.ArgumentError, match="is the input itself"):
            ac.compress(src, dst, overwrite=True)
    with pytest.raises(ac.ArgumentError, match="is a folder, but"):
        ac.compress(src, tmp_path)
    assert src.read_bytes() == before


def test_files_are_not_overwritten_unless_asked(src, tmp_path):
    dst = tmp_path / "p.safetensors"
    dst.write_text("precious")
    with pytest.raises(FileExistsError, match=r"p\.safetensors"):
        ac.compress(src, dst)
    assert dst.read_text() == "precious"
    ac.compress(src, dst, overwrite=True)
    with pytest.raises(FileExistsError):
        ac.decompress(dst, src)


def test_a_failure_leaves_nothing_behind_and_names_file_and_tensor(src, tmp_path, monkeypatch):
    encode, before = coding.api.encode, listing(tmp_path)

    def fail(array, codec, **options):
        if array.shape == (96, 64):
            raise ac.ArgumentError("codebook: no")
        return encode(array, codec, **options)

    monkeypatch.setattr(coding.api, "encode", fail)
    with pytest.raises(ac.ArgumentError, match=r"model\.safetensors: tensor 'layers.0.up.weight': codebook: no"):
        ac.compress(src, tmp_path / "p.safetensors")
    assert listing(tmp_path) == before


def test_a_truncated_or_damaged_input_is_named(src, tmp_path):
    src.write_bytes(src.read_bytes()[:-10])
    with pytest.raises(ac.CorruptError, match=r"model\.safetensors.*truncated"):
        ac.compress(src, tmp_path / "p.safetensors")
    src.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ac.FormatError, match=r"model\.safetensors"):
        ac.compress(src, tmp_path / "p.safetensors")
    with pytest.raises(FileNotFoundError):
        ac.compress(tmp_path / "nowhere.safetensors", tmp_path / "p.safetensors")


def test_a_container_that_was_never_a_file_is_decompressed_too(tmp_path):
    x = normal(64, 64)
    ac.save_file({"w": ac.encode(x, "nf4"), "b": normal(3)}, tmp_path / "c.safetensors", metadata={"k": "v"})
    ac.decompress(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
    found = oracle_load(tmp_path / "d.safetensors")
    assert found["w"].tobytes() == ac.decode(ac.encode(x, "nf4")).tobytes()
    with ac.open_file(tmp_path / "d.safetensors") as file:
        assert file.metadata == {"k": "v"} and not file.native
