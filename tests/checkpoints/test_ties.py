"""Tensors with the bytes of another one are stored once, found by their content and across shards."""

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints import coding
from tests.checkpoints.support import listing, normal, write, write_folder


def test_an_equal_tensor_is_tied_whatever_it_is_called(tmp_path):
    w, r = normal(64, 96, dtype="bfloat16"), np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
    tensors = {"embed": w, "other": normal(64, 96, dtype="bfloat16", seed=1), "head": w, "random": r, "again": r.copy()}
    tensors |= {"reshaped": w.reshape(96, 64), "small": normal(8), "small.2": normal(8), "head.3": w.copy()}
    src = write(tmp_path / "s.safetensors", tensors)
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    reasons = {row.name: row.reason for row in report.rows}
    assert reasons["head"] == reasons["head.3"] == "the same bytes as embed"
    assert reasons["again"] == "the same bytes as random" and "random" in reasons
    assert all("same" not in reasons[name] for name in ("embed", "other", "random", "reshaped", "small.2"))
    codecs = {row.name: row.codec for row in report.rows}
    assert codecs["head"] == ac.Tied("embed") and codecs["again"] == ac.Tied("random") and codecs["random"] is None
    assert ac.info(tmp_path / "p.safetensors").schemes["tied"] == 3
    with ac.open_file(tmp_path / "p.safetensors") as file:
        assert file["head"][3:5].tobytes() == w[3:5].tobytes() and file["head"].nbytes < 400
    assert ac.verify(tmp_path / "p.safetensors", against=src).rebuilt
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()


@pytest.mark.parametrize("jobs", [1, 3])
def test_across_shards(tmp_path, jobs):
    w = normal(64, 96)
    parts = {
        "model-00001-of-00003.safetensors": {"embed": w, "a": normal(64, 96, seed=1)},
        "model-00002-of-00003.safetensors": {"b": normal(64, 96, seed=2), "a.copy": normal(64, 96, seed=1)},
        "model-00003-of-00003.safetensors": {"head": w, "b.copy": normal(64, 96, seed=2), "head.2": w},
    }
    src = write_folder(tmp_path / "m", parts)
    report = ac.compress(src, tmp_path / "out", mode="storage", jobs=jobs)
    tied = {row.name: row.codec for row in report.rows if isinstance(row.codec, ac.Tied)}
    first, second, _ = parts
    assert tied == {
        "a.copy": ac.Tied("a", first), "head": ac.Tied("embed", first), "b.copy": ac.Tied("b", second),
        "head.2": ac.Tied("embed", first),
    }  # fmt: skip
    ac.decompress(tmp_path / "out", tmp_path / "back", jobs=jobs)
    assert listing(tmp_path / "back") == listing(src)
    assert ac.load_file(tmp_path / "out")["head"].tobytes() == w.tobytes()
    assert ac.verify(tmp_path / "out", against=src).ok and ac.diff(src, tmp_path / "out").equal
    (tmp_path / "out" / first).unlink()
    with pytest.raises(ac.FormatError, match="model-00001"):
        ac.load_file(tmp_path / "out")


def test_folders_apart_are_not_tied(tmp_path):
    w = normal(64, 96)
    for name in ("unet", "vae"):
        write(tmp_path / "m" / name / "model.safetensors", {"w": w})
    report = ac.compress(tmp_path / "m", tmp_path / "out", mode="balanced")
    assert not any(isinstance(row.codec, ac.Tied) for row in report.rows)


@pytest.mark.parametrize("jobs", [1, 2])
def test_equal_hashes_of_different_bytes_are_no_tie(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr("arraycodec.checkpoints.compress.digest_of", lambda array: bytes(16))
    tensors = {f"w{i}": normal(64, 96, seed=i) for i in range(4)}
    src = write(tmp_path / "s.safetensors", tensors)
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced", jobs=jobs)
    assert {row.codec for row in report.rows} == {ac.Lossless()}
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()


def test_bytes_are_compared_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "PIECE", 1000)
    monkeypatch.setattr("arraycodec.checkpoints.compress.digest_of", lambda array: bytes(16))
    w = normal(64, 96)
    changed = w.copy()
    changed[-1, -1] += 1
    src = write(tmp_path / "s.safetensors", {"a": w, "b": changed})
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    assert [type(row.codec) for row in report.rows] == [ac.Lossless, ac.Lossless]


def test_names_of_any_length_leave_room(tmp_path):
    """The header's room is that of the longest tie there could be, escapes included."""
    w, other = normal(64, 96), normal(64, 96, seed=1)
    long = '"\\\n\u202e' * 300
    src = write(tmp_path / "s.safetensors", {long: w, "o": other, "copy": w, "copy of o": other})
    report = ac.compress(src, tmp_path / "p.safetensors", mode="balanced")
    assert [row.codec for row in report.rows[2:]] == [ac.Tied(long), ac.Tied("o")]
    assert ac.verify(tmp_path / "p.safetensors", against=src).ok


def test_lossy_schemes_tie_nothing(tmp_path):
    w = normal(64, 96)
    src = write(tmp_path / "s.safetensors", {"a": w, "b": w})
    for scheme in ("nf4", "nf4+lossless"):
        report = ac.compress(src, tmp_path / "p.safetensors", scheme, overwrite=True)
        assert not any(isinstance(row.codec, ac.Tied) for row in report.rows)
