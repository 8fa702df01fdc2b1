"""Whole checkpoints without loss: the very files come back, whatever they hold, and everything else is refused."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.scheme import MODES, request
from arraycodec.containers.manifest import Source
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.containers.writer import Writer
from arraycodec.spec import BY_SAFETENSORS
from tests.checkpoints.support import listing, model, normal, shards, write, write_folder, write_raw


def everything() -> list[tuple[str, str, list[int], bytes]]:
    """Tensors of every dtype that safetensors has: some that shrink, some of random bytes, empty and tiny ones."""
    rng, found = np.random.default_rng(0), []
    for code, row in BY_SAFETENSORS.items():
        count = 8192 * 8 // row.bits // 64 * 64
        few = np.repeat(rng.integers(0, 256, 16, np.uint8), count * row.bits // 128)
        found += [
            (f"{code}.few", code, [count // 64, 64], few.tobytes()),
            (f"{code}.random", code, [count], rng.bytes(count * row.bits // 8)),
            (f"{code}.none", code, [0, 3], b""),
            (f"{code}.tiny", code, [8], rng.bytes(row.bits)),
        ]
    return [*found, ("scalar", "F64", [], rng.bytes(8)), ("f4.odd", "F4", [2, 4097], rng.bytes(4097))]


@pytest.mark.parametrize("mode", MODES)
def test_every_dtype_comes_back_in_the_very_file(tmp_path, mode):
    metadata = {"format": "pt", "é\n": '"', "": "\u202e"}
    src = write_raw(tmp_path / "s.safetensors", everything(), metadata, spaces=5)
    packed, back = tmp_path / "p.safetensors", tmp_path / "b.safetensors"
    report = ac.compress(src, packed, mode=mode)
    ac.decompress(packed, back)
    assert back.read_bytes() == src.read_bytes()
    found = ac.verify(packed, against=src)
    assert found.ok and found.rebuilt == ("p.safetensors",) and all(row.difference.identical for row in found.rows)
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons["BF16.tiny"] == "smaller than 4 KB" and reasons["BF16.none"] == "no elements"
    assert reasons["F4.few"] == "float4_e2m1fn: packed bits stay plain" and reasons["U8.random"].startswith("does not")
    encoded = {row.name for row in report.encoded}
    assert {f"{code}.few" for code, row in BY_SAFETENSORS.items() if row.bits >= 8} <= encoded
    assert report.scheme == MODES[mode] and report.after < report.before


def test_arrays_without_a_file(tmp_path):
    src = write(tmp_path / "s.safetensors", model())
    ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    found = ac.decompress(tmp_path / "p.safetensors")
    assert list(found) == list(model())
    assert all(found[name].tobytes() == x.tobytes() and found[name].dtype == x.dtype for name, x in model().items())
    folder = write_folder(tmp_path / "m", shards())
    ac.compress(folder, tmp_path / "out", mode="storage")
    assert {name: x.tobytes() for name, x in ac.decompress(tmp_path / "out").items()} == {
        name: x.tobytes() for name, x in model().items()
    }


def test_a_folder_comes_back_file_by_file(tmp_path):
    src = write_folder(tmp_path / "m", shards())
    report = ac.compress(src, tmp_path / "out", "lossless-storage")
    assert len(report.files) == 2 and report.after < report.before
    ac.decompress(tmp_path / "out", tmp_path / "back")
    assert listing(tmp_path / "back") == listing(src)
    assert ac.verify(tmp_path / "out", against=src).rebuilt == tuple(sorted(shards()))


@pytest.mark.parametrize("jobs", [2, 5])
def test_the_bytes_do_not_depend_on_jobs(tmp_path, jobs):
    tensors = {f"w{i}": normal(64, 96, dtype="bfloat16", seed=i % 4) for i in range(8)} | {"r": normal(99, 99, seed=9)}
    src = write(tmp_path / "s.safetensors", tensors)
    one = ac.compress(src, tmp_path / "1.safetensors", mode="balanced", jobs=1)
    many = ac.compress(src, tmp_path / "n.safetensors", mode="balanced", jobs=jobs)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "n.safetensors").read_bytes()
    assert one.rows == many.rows
    assert [row.reason for row in one.rows[4:8]] == [f"the same bytes as w{i}" for i in range(4)]


def test_a_scheme_and_a_mode(tmp_path):
    src = write(tmp_path / "s.safetensors", {"w": normal(256, 512), "e": normal(64, 65), "n": normal(256)})
    sizes = {}
    for mode in (None, "balanced", "storage"):
        report = ac.compress(src, tmp_path / "p.safetensors", "int8_linear", mode=mode, overwrite=True)
        sizes[mode] = report.after
        assert [row.codec is not None for row in report.rows] == [True, True, False]
        decoded = ac.load_file(tmp_path / "p.safetensors")["w"]
        assert decoded.tobytes() == ac.decode(ac.encode(normal(256, 512), "int8_linear")).tobytes()
    assert sizes["storage"] < sizes["balanced"] < sizes[None]
    assert report.scheme == "int8_linear+lossless-storage"
    assert ac.info(tmp_path / "p.safetensors").schemes["plain"] == 1
    assert "int8_linear+lossless-storage" in ac.info(tmp_path / "p.safetensors").schemes


def test_only_planes_that_shrink_are_coded(tmp_path):
    """A small matrix keeps its scales as they are, a constant one has everything coded."""
    tensors = {"small": normal(64, 80), "same": np.full((512, 512), 0.5, np.float32)}
    src = write(tmp_path / "s.safetensors", tensors)
    report = ac.compress(src, tmp_path / "p.safetensors", "nf4+lossless")
    codecs = {row.name: row.codec for row in report.rows}
    assert codecs["same"] == ac.codec("nf4+lossless")
    assert codecs["small"] != codecs["same"]
    alone = ac.compress(src, tmp_path / "q.safetensors", "nf4")
    assert all(row.after <= other.after for row, other in zip(report.rows, alone.rows, strict=True))
    assert ac.verify(tmp_path / "p.safetensors", against=src).ok


def test_not_finite_is_seen_through_coded_scales(tmp_path):
    x = normal(64, 64)
    x[3, 3] = np.nan
    src = write(tmp_path / "s.safetensors", {"w": x, "v": normal(64, 64, seed=1)})
    report = ac.compress(src, tmp_path / "p.safetensors", "nf4+lossless")
    assert report.rows[0].reason == "holds NaN or infinity: stays plain"
    with pytest.raises(ac.NonFiniteError):
        ac.encode(x, "nf4+lossless")
    with pytest.raises(ac.NonFiniteError):
        ac.encode(x, "nf4-double+lossless")


def test_what_was_asked_for():
    assert request(None, None, False).scheme == "nf4"
    assert request(None, None, True).scheme == "lossless" and request(None, None, True).label == "delta"
    assert request("nf4", "storage", False).scheme == "nf4+lossless-storage"
    composed = request(ac.codec("nf4"), "balanced", False).scheme
    assert composed == ac.codec("nf4+lossless") == ac.Then(ac.codec("nf4"), codes=ac.Lossless(), absmax=ac.Lossless())
    assert ac.codec("nf4+lossless", block_size=128).outer == ac.codec("nf4", block_size=128)
    assert [name for name, _ in ac.codec("nvfp4+lossless").parts] == ["codes", "scales"]
    assert {name for name, _ in ac.codec("nf4-double+lossless").parts} == {"codes", "absmax.codes", "absmax.absmax"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nf4", "fast", False), "mode must be balanced, storage, inference or None, got 'fast'"),
        (("lossless", "storage", False), "is coded losslessly already"),
        (("nf4+lossless", "storage", False), "is coded losslessly already"),
        (("nf4", None, True), "a base goes with lossless coding in mode balanced or storage"),
        ((None, "inference", True), "a base goes with lossless coding in mode balanced or storage"),
        (("nf4+lossles", None, False), "'lossles' of 'nf4\\+lossles' is not a lossless scheme, closest are lossless"),
        (("lossless+lossless", None, False), "is lossless itself"),
        (("dq4+lossless", None, False), "has no planes for Lossless.*coded already"),
        (("nf5+lossless", None, False), "'nf5' is not known"),
    ],
)
def test_contradictions(arguments, message):
    with pytest.raises(ac.ArgumentError, match=message):
        request(*arguments)


def test_a_checkpoint_of_small_tensors_alone_becomes_a_container(tmp_path):
    src = write(tmp_path / "s.safetensors", {"a": normal(8), "b": normal(9)})
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    assert not report.encoded and ac.verify(tmp_path / "p.safetensors", against=src).rebuilt
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()


def test_patterns_go_with_a_mode(tmp_path):
    src = write(tmp_path / "s.safetensors", model())
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced", exclude=["*up*"], include=["tiny*"])
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons["layers.0.up.weight"] == "excluded by *up*" and reasons["tiny.weight"] == "included by tiny*"


@pytest.mark.parametrize("code", ["I4", "F128", "BF8", "f32"])
def test_a_dtype_that_is_not_known_is_refused_at_write(tmp_path, code):
    src = write_raw(tmp_path / "s.safetensors", [("w", code, [64, 64], bytes(4096))])
    with pytest.raises(ac.FormatError, match=f"s.safetensors: tensor 'w': dtype must be one of .*'{code}'"):
        ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    assert listing(tmp_path).keys() == {"s.safetensors"}
    for array in (np.zeros(3, np.complex128), np.zeros(3, ml_dtypes.int4), np.array(["a"])):
        with pytest.raises(ac.ArgumentError, match="dtype"):
            ac.save_file({"w": array}, tmp_path / "p.safetensors")
    assert listing(tmp_path).keys() == {"s.safetensors"}


def test_a_file_that_would_not_be_the_original_never_appears(tmp_path):
    """Every checksum of the container holds, but its source says that the file was another."""
    x = normal(64, 64)
    src = write(tmp_path / "s.safetensors", {"w": x})
    enc, packed = ac.encode(x, "lossless"), tmp_path / "p.safetensors"
    with SafetensorsFile(src) as file:
        source = Source(file.header.raw, hashlib.sha256(b"another file").hexdigest())
    with Writer(packed, [("w", enc.spec, enc.codec)], source=source) as writer:
        writer.add("w", enc)
    for jobs in (1, 2):
        with pytest.raises(ac.CorruptError, match="decoded file is not the original: its sha256 is"):
            ac.decompress(packed, tmp_path / "b.safetensors", jobs=jobs)
    assert listing(tmp_path).keys() == {"s.safetensors", "p.safetensors"}
    assert ac.verify(packed).ok
    found = ac.verify(packed, against=src)
    assert not found.ok and "sha256 differs" in found.problems[0] and not found.rebuilt


def test_reports_are_json(tmp_path):
    src = write(tmp_path / "s.safetensors", model())
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced", dry_run=True)
    assert report.after is None and not (tmp_path / "p.safetensors").exists()
    json.dumps(report.to_json(), allow_nan=False)
    ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    json.dumps(ac.verify(tmp_path / "p.safetensors", against=src).to_json(), allow_nan=False)
