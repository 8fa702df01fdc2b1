"""What verify finds, what diff tells apart, what info reads."""

import json

import numpy as np
import pytest

import arraycodec as ac
from tests.checkpoints.support import model, normal, shards, write, write_folder


@pytest.fixture
def pair(tmp_path):
    """The original, and the container made from it."""
    src = write(tmp_path / "model.safetensors", model())
    ac.compress(src, tmp_path / "packed.safetensors")
    return src, tmp_path / "packed.safetensors"


def flip(path, name, at):
    """Flip one bit of a tensor's stored bytes."""
    with ac.open_file(path) as file:
        start = file[name]._start
    data = bytearray(path.read_bytes())
    data[start + at] ^= 0x10
    path.write_bytes(bytes(data))


def test_all_is_well(pair):
    src, packed = pair
    found = ac.verify(packed)
    assert found.ok and not found.unchecked and found.against is None
    assert found.nbytes == sum(row.after for row in ac.info(packed).rows)
    assert all(row.difference is None for row in found.rows)
    against = ac.verify(packed, against=src)
    assert against.ok
    for row in against.rows:
        assert row.difference.identical == (row.codec is None)
        assert row.codec is None or 18 < row.difference.snr_db < 25
    assert json.loads(json.dumps(against.to_json(), allow_nan=False))["ok"] is True


@pytest.mark.parametrize("name", ["embed.weight", "layers.0.odd.weight", "position_ids", "mask", "scale", "quantised"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_flipped_bit_is_found_and_the_others_are_still_checked(pair, name, jobs):
    _, packed = pair
    flip(packed, name, 3 if name == "scale" else 250)
    found = ac.verify(packed, jobs=jobs)
    assert not found.ok
    assert [row.name for row in found.rows if row.problem] == [name]
    bad = next(row for row in found.rows if row.problem)
    assert "packed.safetensors" in bad.problem and name in bad.problem and bad.nbytes == 0
    assert len(found.rows) == len(model())
    against = ac.verify(packed, against=pair[0])
    assert [row.name for row in against.rows if row.problem] == [name]


def test_a_header_that_makes_no_sense_is_an_error(pair):
    _, packed = pair
    data = bytearray(packed.read_bytes())
    data[200] ^= 1
    packed.write_bytes(bytes(data))
    with pytest.raises(ac.FormatError, match="packed"):
        ac.verify(packed)


def test_another_original_is_found_by_its_hash_and_by_its_tensors(pair, tmp_path):
    _, packed = pair
    other = model() | {"position_ids": np.arange(1, 2049, dtype=np.int64).reshape(1, -1)}
    found = ac.verify(packed, against=write(tmp_path / "other.safetensors", other))
    assert not found.ok
    assert "sha256 differs" in found.problems[0]
    assert [(row.name, row.problem) for row in found.rows if row.problem] == [
        ("position_ids", "differs from the original")
    ]
    resaved = write(tmp_path / "resaved.safetensors", model(), {"format": "np"})
    found = ac.verify(packed, against=resaved)
    assert (len(found.problems), [row.problem for row in found.rows if row.problem]) == (1, [])


def test_missing_extra_and_differing_tensors_are_named(pair, tmp_path):
    _, packed = pair
    other = model()
    del other["mask"]
    other |= {"new": normal(3), "scale": np.array([1.5], np.float32)}
    found = ac.verify(packed, against=write(tmp_path / "other.safetensors", other))
    problems = {row.name: row.problem for row in found.rows if row.problem}
    assert problems == {"mask": "is not in the original", "scale": "is float32[], in the original float32[1]"}
    assert found.problems[1:] == ("tensor 'new' of the original is missing",)


def test_a_lossless_tensor_must_be_exact(tmp_path, xored):
    src = write(tmp_path / "s.safetensors", {"a": normal(64, 64), "b": normal(64, 64)})
    ac.compress(src, tmp_path / "p.safetensors", xored)
    assert all(row.difference.identical for row in ac.verify(tmp_path / "p.safetensors", against=src).rows)


def test_plain_files_have_no_checksums_and_the_outcome_says_so(pair):
    src, _ = pair
    found = ac.verify(src)
    assert found.ok and found.unchecked == ("model.safetensors",) and found.nbytes == 0
    assert ac.verify(src, against=src).ok


def test_a_folder_with_a_bad_shard(tmp_path):
    src = write_folder(tmp_path / "m", shards())
    ac.compress(src, tmp_path / "out")
    flip(tmp_path / "out" / "model-00002-of-00002.safetensors", "position_ids", 5)
    found = ac.verify(tmp_path / "out", against=src)
    assert [(row.file, row.name) for row in found.rows if row.problem] == [
        ("model-00002-of-00002.safetensors", "position_ids")
    ]


def test_diff_tells_every_kind_apart(tmp_path):
    a = {
        "same": normal(40, 40),
        "moved": normal(40, 40),
        "cast": normal(40, 40),
        "shape": normal(4, 4),
        "gone": normal(2),
    }
    b = a | {"moved": a["moved"] + np.float32(0.5), "shape": normal(2, 8), "new": normal(3)}
    b["cast"] = a["cast"].astype(np.float64)
    del b["gone"]
    found = ac.diff(write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b))
    status = {row.name: row.status for row in found.rows}
    changed = {"moved": "changed", "cast": "changed"}
    assert status == changed | {"same": "same", "shape": "incompatible", "gone": "removed", "new": "added"}
    assert found.counts == {"same": 1, "changed": 2, "incompatible": 1, "removed": 1, "added": 1}
    moved = next(row for row in found.rows if row.name == "moved")
    assert moved.difference.max_abs == pytest.approx(0.5, rel=1e-6)
    cast = next(row for row in found.rows if row.name == "cast")
    assert cast.difference.identical and cast.a.dtype == "float32" and cast.b.dtype == "float64"
    assert not found.equal
    json.dumps(found.to_json(), allow_nan=False)


def test_diff_of_plain_and_compressed(pair, tmp_path):
    src, packed = pair
    found = ac.diff(src, packed)
    assert found.counts["changed"] == 5 and found.counts["same"] == 7
    for row in found.rows:
        if row.status == "changed":
            x = model()[row.name]
            assert row.difference.snr_db == pytest.approx(ac.error(x, ac.encode(x, "nf4")).snr_db, abs=1e-9)
    ac.decompress(packed, tmp_path / "back.safetensors")
    assert ac.diff(packed, tmp_path / "back.safetensors").equal
    assert ac.diff(packed, packed, jobs=3).equal


def test_diff_of_a_file_and_a_folder(tmp_path):
    one = write(tmp_path / "one.safetensors", model())
    assert ac.diff(one, write_folder(tmp_path / "m", shards())).equal


def test_zero_dimensional_and_empty_tensors_compare(tmp_path):
    a = write(tmp_path / "a.safetensors", {"s": np.array(1.0), "e": np.zeros((0, 4))})
    b = write(tmp_path / "b.safetensors", {"s": np.array(2.0), "e": np.zeros((0, 4))})
    assert ac.diff(a, b).counts["changed"] == 1


def test_info_of_a_plain_file(pair):
    src, _ = pair
    found = ac.info(src)
    assert not found.native and found.schemes == {"plain": 12}
    assert found.stored == src.stat().st_size
    assert found.files[0].metadata == {"format": "pt"} and found.files[0].sha256 is None


def test_info_of_a_container(pair):
    src, packed = pair
    found = ac.info(packed)
    assert found.native and found.schemes == {"nf4": 5, "plain": 7}
    assert found.elements == sum(x.size for x in model().values()) == ac.info(src).elements
    assert found.decoded == sum(x.nbytes for x in model().values())
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["format_version"] == 1 and data["files"][0]["source_sha256"] == found.files[0].sha256
    assert data["tensors"][0]["scheme"] == "nf4"


def test_info_reads_headers_only(pair, tmp_path):
    _, packed = pair
    with ac.open_file(packed) as file:
        first = min(tensor._start for tensor in file.values())
    data = packed.read_bytes()
    packed.write_bytes(data[:first] + bytes(len(data) - first))  # every payload byte gone
    assert ac.info(packed).schemes == {"nf4": 5, "plain": 7}
