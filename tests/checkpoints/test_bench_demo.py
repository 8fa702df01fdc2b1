"""bench and demo on small arrays: what they report, never how long it took."""

import json
import math
import time

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints import demo as demo_module
from arraycodec.checkpoints.bench import bench, parse_shape, takes
from arraycodec.checkpoints.bench_case import power_of
from arraycodec.checkpoints.demo import demo
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.timing import medians
from tests.checkpoints.support import listing, model, normal, write

SCHEMES = ["nf4", "nf4-double"]


def test_bench_on_random_numbers():
    said = []
    found = bench(shape=(32, 256), schemes=SCHEMES, quick=True, say=said.append)
    assert [(case.scheme, case.dtype) for case in found.cases] == [(scheme, "float32") for scheme in SCHEMES]
    assert said == ["nf4 float32", "nf4-double float32"]
    assert all(case.elements == 32 * 256 and case.copy > 0 and case.encode > 0 for case in found.cases)
    x = np.random.default_rng(0).standard_normal((32, 256), np.float32) * np.float32(0.02)
    stated = ac.error(x, ac.encode(x, "nf4"))
    assert found.quality[0].snr_db == pytest.approx(stated.snr_db, abs=1e-6)
    assert found.quality[0].mae == pytest.approx(stated.mae) and found.quality[0].max_abs == stated.max_abs
    assert found.quality[0].bits_per_element == 4.5
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["cases"][0]["decode_in_copies"] == found.cases[0].decode / found.cases[0].copy
    assert data["machine"]["numpy"] == np.__version__


def test_bench_on_a_file(tmp_path):
    file = write(tmp_path / "m.safetensors", model())
    found = bench(file, schemes=["nf4"], quick=True)
    assert {case.dtype for case in found.cases} == {"float32", "bfloat16", "float16"}
    assert next(c for c in found.cases if c.dtype == "bfloat16").elements == 2 * 96 * 64
    empty = write(tmp_path / "e.safetensors", {"ids": np.arange(9)})
    with pytest.raises(ac.ArgumentError, match="nothing to measure: no matrices"):
        bench(empty, quick=True)


def test_bench_leaves_the_number_of_threads_alone():
    before = ac.get_num_threads()
    bench(shape=(8, 64), schemes=["nf4"], quick=True)
    assert ac.get_num_threads() == before


@pytest.mark.parametrize("bad", ["", "64", "64x", "x64", "0x64", "-1x3", "axb", "1x2x3"])
def test_bad_sizes(bad):
    with pytest.raises(ac.ArgumentError, match="ROWSxCOLS"):
        parse_shape(bad)


def test_sizes_and_medians():
    assert parse_shape("4096x11008") == (4096, 11008)
    calls = []
    assert medians(lambda: calls.append(1), quick=True)[0] > 0
    assert len(calls) >= 4
    calls.clear()
    medians(lambda: calls.append(1), lambda: time.sleep(0.6), warm=True)
    assert len(calls) == 6  # two turns, for what takes long, and three of what is short in each


def test_what_a_codec_takes():
    assert takes(ac.codec("nf4"), normal(3, 5)) and takes(ac.codec("nf4-double"), normal(3, 5, dtype="bfloat16"))
    assert not takes(ac.codec("nf4"), np.arange(5)) and not takes(ac.codec("nf4-double"), np.arange(5.0))


def test_power():
    x = np.array([1.0, 2.0, np.nan, np.inf], np.float32)
    assert power_of(x) == 5.0


def test_machine_imports_nothing_and_names_it():
    found = machine()
    assert found["cpu"] and found["cores"] >= found["cores_available"] >= 1
    assert {"python", "numpy", "numba", "arraycodec"} <= set(found)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(demo_module.registry, "SCHEMES", {name: registry.SCHEMES[name] for name in SCHEMES})


@pytest.mark.usefixtures("few")
def test_demo_keeps_files_where_it_is_told_to(tmp_path):
    file = write(tmp_path / "m.safetensors", model())
    found = demo(file, tmp_path / "out", plot=False)
    assert found.ok and found.plot is None and found.note is None
    assert [o.scheme for o in found.outcomes] == SCHEMES
    kept = listing(tmp_path / "out")
    assert set(kept) == {f"m.{s}{end}.safetensors" for s in SCHEMES for end in ("", ".decoded")}
    first = found.outcomes[0]
    assert first.bytes_after == len(kept["m.nf4.safetensors"])
    assert set(first.tensors) == {row.name for row in ac.info(tmp_path / "out" / "m.nf4.safetensors").rows if row.codec}
    x = np.concatenate([model()[name].astype(np.float64).ravel() for name in first.tensors])
    decoded = ac.load_file(tmp_path / "out" / "m.nf4.decoded.safetensors")
    y = np.concatenate([decoded[name].astype(np.float64).ravel() for name in first.tensors])
    assert 4.5 <= first.encoded_bits < 4.501 < first.bits_per_weight  # blocks that are not full
    assert first.snr_db == pytest.approx(10 * math.log10((x**2).sum() / ((x - y) ** 2).sum()), abs=1e-6)
    json.dumps(found.to_json(), allow_nan=False)
    assert demo(file, tmp_path / "out", plot=False).ok  # again, over its own files


@pytest.mark.usefixtures("few")
def test_demo_leaves_nothing_but_a_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = demo(write(tmp_path / "m.safetensors", model()))
    assert found.plot == "arraycodec-demo.png" and found.folder is None
    left = {name for name in listing(tmp_path) if not name.startswith(("matplotlib", ".config", ".cache"))}
    assert left == {"m.safetensors", "arraycodec-demo.png"}
    assert (tmp_path / "arraycodec-demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("few")
def test_demo_says_what_is_missing(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "arraycodec.checkpoints.demo_plot", None)
    found = demo(write(tmp_path / "m.safetensors", model()), tmp_path)
    assert found.plot is None and "arraycodec[plot]" in found.note
    with pytest.raises(ac.ArgumentError, match="one file"):
        demo(tmp_path)


@pytest.mark.usefixtures("few")
def test_demo_of_the_sample():
    found = demo(plot=False)
    assert found.ok and found.tensors > 30
    assert all(o.snr_db > 17 and o.bytes_after < o.bytes_before / 1.8 for o in found.outcomes)


def test_demo_of_a_scheme_that_makes_nothing_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module.registry, "SCHEMES", {"bitmask": registry.SCHEMES["bitmask"]})
    (outcome,) = demo(write(tmp_path / "m.safetensors", {"w": normal(64, 64)}), tmp_path, plot=False).outcomes
    assert outcome.verified and outcome.tensors == {}
    assert (outcome.encoded_bits, outcome.encode_mb_s, outcome.decode_mb_s) == (None, None, None)
