"""Differences to a base: which tensors are stored as such, that the files come back, and that no other base will do."""

import hashlib
import json

import numpy as np
import pytest

import arraycodec as ac
from tests.checkpoints.support import listing, model, normal, shards, write, write_folder


def tuned(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with one in eight of the floats of matrices moved by a little."""
    found = {}
    for name, x in tensors.items():
        x = found[name] = x.copy()
        if x.dtype.kind in "fV" and x.ndim > 1 and x.size:
            words = x.reshape(-1).view(f"u{x.dtype.itemsize}")
            words[::8] ^= 1
    return found


@pytest.fixture
def pair(tmp_path):
    base = write(tmp_path / "base.safetensors", model())
    return base, write(tmp_path / "tuned.safetensors", tuned(model()))


def test_the_tuned_file_comes_back(pair, tmp_path):
    base, src = pair
    packed, back = tmp_path / "p.safetensors", tmp_path / "b.safetensors"
    report = ac.compress(src, packed, base=base)
    alone = ac.compress(src, tmp_path / "alone.safetensors", mode="balanced")
    assert report.after < 0.6 * alone.after and report.scheme == "delta" and report.base == str(base)
    codecs = {row.name: row.codec for row in report.rows}
    assert codecs["embed.weight"] == codecs["layers.0.conv.weight"] == codecs["mask"] == ac.codec("delta")
    assert codecs["position_ids"] == ac.Lossless(), "no deltas of 64-bit numbers"
    ac.decompress(packed, back, base=base)
    assert back.read_bytes() == src.read_bytes()
    arrays = ac.decompress(packed, base=base)
    loaded = ac.load_file(packed, base=base)
    assert all(arrays[name].tobytes() == loaded[name].tobytes() == x.tobytes() for name, x in tuned(model()).items())
    assert ac.verify(packed).ok
    assert ac.verify(packed, against=src, base=base).rebuilt == ("p.safetensors",)
    assert ac.diff(src, packed, base=base).equal
    info = ac.info(packed)
    assert info.files[0].base == "base.safetensors" and info.schemes["delta"] == len(report.encoded) - 1
    with ac.open_file(packed) as file:
        assert file.made_with.files == {"base.safetensors": hashlib.sha256(base.read_bytes()).hexdigest()}
    json.dumps(report.to_json(), allow_nan=False)


def test_what_the_base_does_not_have_is_coded_by_itself(tmp_path):
    there = {"w": normal(64, 96), "shape": normal(64, 96), "dtype": normal(64, 96), "far": normal(64, 96)}
    base = write(tmp_path / "base.safetensors", there)
    mine = tuned({"w": there["w"]}) | {"new": normal(64, 96, seed=1), "shape": normal(96, 64)}
    mine |= {"dtype": normal(64, 96, dtype="float16"), "far": np.full((64, 96), 3, np.float32)}
    src = write(tmp_path / "s.safetensors", mine)
    report = ac.compress(src, tmp_path / "p.safetensors", mode="storage", base=base)
    assert {row.name: (row.reason, row.codec.name) for row in report.rows} == {
        "w": ("float32 matrix, delta", "delta"),
        "new": ("float32 matrix, not in the base", "lossless"),
        "shape": ("float32 matrix, float32[64, 96] in the base", "lossless"),
        "dtype": ("float32 matrix, float32[64, 96] in the base".replace("float32", "float16", 1), "lossless"),
        "far": ("smaller than its delta", "lossless"),
    }
    assert {row.codec.mode for row in report.rows} == {"storage"}
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors", base=base)
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()


@pytest.mark.parametrize("jobs", [1, 2])
def test_another_base_is_refused_by_its_hash_and_both_are_named(pair, tmp_path, jobs):
    base, src = pair
    ac.compress(src, tmp_path / "p.safetensors", base=base)
    before = listing(tmp_path)
    wanted = hashlib.sha256(base.read_bytes()).hexdigest()
    with pytest.raises(ac.CorruptError, match=rf"p\.safetensors.*'base\.safetensors' .*{wanted}.*tuned\.safetensors"):
        ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors", base=src, jobs=jobs)
    for run in (
        lambda: ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors", jobs=jobs),
        lambda: ac.decompress(tmp_path / "p.safetensors", jobs=jobs),
        lambda: ac.verify(tmp_path / "p.safetensors", against=src, jobs=jobs),
        lambda: ac.diff(src, tmp_path / "p.safetensors"),
        lambda: ac.info(tmp_path / "p.safetensors", floor=True),
    ):
        with pytest.raises(
            ac.ArgumentError,
            match=r"differences to a base \('base\.safetensors'\): --base \(in Python base=\) must name it",
        ):
            run()
    other = write(tmp_path / "other.safetensors", {"x": normal(3)})
    with pytest.raises(ac.ArgumentError, match="must have a tensor of this name"):
        ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors", base=other, jobs=jobs)
    other.unlink()
    assert listing(tmp_path) == before


def test_the_base_is_never_overwritten(pair, tmp_path):
    base, src = pair
    ac.compress(src, tmp_path / "p.safetensors", base=base)
    (tmp_path / "link.safetensors").hardlink_to(base)
    folder = write_folder(tmp_path / "base", shards())
    before = listing(tmp_path)
    for run in (
        lambda: ac.compress(src, base, base=base, overwrite=True),
        lambda: ac.compress(src, tmp_path / "link.safetensors", base=base, overwrite=True),
        lambda: ac.decompress(tmp_path / "p.safetensors", base, base=base, overwrite=True),
        lambda: ac.compress(src, folder / "config.json", base=folder, overwrite=True),
    ):
        with pytest.raises(ac.ArgumentError, match="is a file of the base"):
            run()
    assert listing(tmp_path) == before


def test_folders_and_compressed_bases(tmp_path):
    """A base may be compressed, sharded in another way, or one file where the other is a folder."""
    base = write_folder(tmp_path / "base", shards())
    small = tmp_path / "small"
    ac.compress(base, small, mode="balanced")
    one = write(tmp_path / "one.safetensors", model())
    items = list(tuned(model()).items())
    src = write_folder(tmp_path / "m", {"a.safetensors": dict(items[:3]), "b.safetensors": dict(items[3:])})
    sizes = set()
    for place in (base, small, one):
        report = ac.compress(src, tmp_path / "out", base=place, overwrite=True)
        sizes.add(sum(row.after for row in report.rows))
        for other in (base, small, one):
            ac.decompress(tmp_path / "out", tmp_path / "back", base=other, overwrite=True)
            assert listing(tmp_path / "back") == listing(src)
    assert len(sizes) == 1
    with ac.open_file(tmp_path / "out") as file:
        assert [set(shard.made_with.files) for shard in file.shards] == [{"one.safetensors"}] * 2


def test_names_of_a_base_are_those_of_its_subfolder(tmp_path):
    for folder, make in (("base", lambda x: x), ("tuned", tuned)):
        for part, seed in (("unet", 1), ("vae", 2)):
            write(tmp_path / folder / part / "model.safetensors", make({"w": normal(64, 96, seed=seed)}))
    report = ac.compress(tmp_path / "tuned", tmp_path / "out", base=tmp_path / "base")
    assert [row.codec.name for row in report.rows] == ["delta", "delta"] and all(r.after < 8000 for r in report.rows)
    ac.decompress(tmp_path / "out", tmp_path / "back", base=tmp_path / "base")
    assert listing(tmp_path / "back") == listing(tmp_path / "tuned")


def test_a_tie_to_a_difference(tmp_path):
    base = write(tmp_path / "base.safetensors", {"a": normal(64, 96), "b": normal(64, 96)})
    one = tuned({"a": normal(64, 96)})["a"]
    src = write(tmp_path / "s.safetensors", {"a": one, "b": one})
    report = ac.compress(src, tmp_path / "p.safetensors", base=base)
    assert [row.codec.name for row in report.rows] == ["delta", "tied"]
    ac.decompress(tmp_path / "p.safetensors", tmp_path / "b.safetensors", base=base)
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()
    assert ac.verify(tmp_path / "p.safetensors").ok and ac.verify(tmp_path / "p.safetensors", against=src, base=base).ok
