"""`bench FILE`: what it reports of our modes and of peers, never how long they took."""

import json
from importlib import metadata

import pytest

import arraycodec as ac
from arraycodec.checkpoints import bench_lossless as module
from arraycodec.checkpoints.bench_lossless import bench_lossless
from arraycodec.checkpoints.peers.lossless import PEERS, FileCalls, FilePeer
from arraycodec.checkpoints.scheme import MODES
from tests.checkpoints.support import listing, model, normal, write


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "m.safetensors", model() | {"big": normal(256, 256, dtype="bfloat16")})


def peer(name: str = "numpy", wrong: bool = False, fails: bool = False) -> FilePeer:
    """A peer that stores the file's bytes as they are."""

    def prepare(path, folder, threads):
        data = path.read_bytes()
        if fails and "small" not in path.name:
            raise RuntimeError("no\nreally")
        wrongly = wrong and "small" not in path.name
        return FileCalls(lambda given: given, lambda coded: coded[wrongly:], len, lambda back: back == data, len(data),
                         lambda: data)  # fmt: skip

    return FilePeer(name, "as it is", False, prepare)


def test_our_modes(file, tmp_path):
    before, said = listing(tmp_path), []
    found = bench_lossless(file, quick=True, say=said.append)
    assert [c.setting for c in found.contenders] == [*MODES] and said == [f"arraycodec {mode}" for mode in MODES]
    raw = sum(x.nbytes for x in model().values()) + 131072
    for contender in found.contenders:
        assert contender.raw == raw and contender.exact and 0.3 < contender.ratio < 1
        assert contender.version == ac.__version__ and len(contender.speeds) == 1
        assert contender.speeds[0].encode > 0 and contender.speeds[0].decode_into > 0
    sizes = {c.setting: c.nbytes for c in found.contenders}
    report = ac.compress(file, tmp_path / "p.safetensors", mode="storage")
    assert sizes["storage"] == sum(row.after for row in report.rows)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    first = data["contenders"][0]
    assert first["ratio"] == first["nbytes"] / raw and {"encode_mb_s", "decode_mb_s", "threads"} <= set(
        first["speeds"][0]
    )
    (tmp_path / "p.safetensors").unlink()
    assert listing(tmp_path) == before


def test_peers(file, monkeypatch):
    monkeypatch.setattr(module, "MODES", {"balanced": "lossless"})
    monkeypatch.setattr(module, "PEERS", (peer(), peer("no-such-library"), peer("pytest", wrong=True)))
    found = bench_lossless(file)
    assert [(c.name, c.ratio, c.version) for c in found.contenders[1:]] == [("numpy", 1.0, metadata.version("numpy"))]
    assert [len(c.speeds) for c in found.contenders[1:]] == [1]
    assert found.notes == (
        "no-such-library: not installed",
        "pytest: ArgumentError: what it decodes is not the original",
    )
    monkeypatch.setattr(module, "PEERS", (peer(fails=True),))
    assert bench_lossless(file).notes == ("numpy: RuntimeError: no",)


def test_threads_are_left_alone(file):
    before = ac.get_num_threads()
    bench_lossless(file, quick=True)
    assert ac.get_num_threads() == before


def test_the_peers_that_are_installed_are_exact(file, tmp_path):
    """Those of the extra; here mostly none. Their calls are those of the table that is measured."""
    assert len({(p.distribution, p.setting) for p in PEERS}) == len(PEERS)
    for one in PEERS:
        try:
            metadata.version(one.distribution)
        except metadata.PackageNotFoundError:
            continue
        calls = one.prepare(file, tmp_path, 1)
        assert calls.same(calls.decode(calls.encode(calls.fresh()))), one


def test_a_folder_or_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        bench_lossless(tmp_path / "no.safetensors")
    write(tmp_path / "m.safetensors", model())
    with pytest.raises(ac.ArgumentError, match="on one file, not on a folder"):
        bench_lossless(tmp_path)
    ac.compress(tmp_path / "m.safetensors", tmp_path / "p.safetensors")
    with pytest.raises(ac.ArgumentError, match="is compressed already"):
        bench_lossless(tmp_path / "p.safetensors")
