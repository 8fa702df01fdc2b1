"""The page of benchmarks and the peers on it: what they report, never how long it took."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints import bench_peers
from arraycodec.checkpoints.bench_case import case, quality
from arraycodec.checkpoints.bench_page import PICTURES, QUANTA, page, percent, writable, write
from arraycodec.checkpoints.bench_peers import frameworks_of, measured, peers
from arraycodec.checkpoints.bench_results import OUTLIER, aliases, distinct, outliers, results, whole_arrays
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.checkpoints.peers import ENTRIES, LIBRARIES, Calls, Entry, bitsandbytes
from arraycodec.cli.app import app
from arraycodec_conformance.plugin import Level
from tests.checkpoints.support import normal

SCHEMES = ["nf4", "int8_linear", "mxfp4"]
MB = 1 << 20


def silent(what: str) -> None:
    pass


# ---------------------------------------------------------------- what is lost, and what memory it takes


@pytest.mark.parametrize("scheme", QUANTA)
def test_the_column_that_quanta_states(scheme, level):
    """To a digit of its last place; the mean of fewer elements may be four standard deviations away as well."""
    shape = (4096, 11008) if level >= Level.full else (1024, 2752)
    mae, nbytes = QUANTA[scheme]
    chance = 4 * mae / math.prod(shape) ** 0.5  # errors spread less than they are large
    found = ac.error(x := normal(*shape), ac.encode(x, scheme))
    assert found.mae == pytest.approx(mae, abs=0.0001 + (0 if level >= Level.full else chance))
    assert found.bytes_per_element == nbytes


WORKING = """
import sys
import numpy as np
import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints.peak import peak_bytes
x = np.random.default_rng(0).standard_normal((int(sys.argv[1]), int(sys.argv[2])), np.float32)
for scheme in registry.SCHEMES:
    own = x[:256] if registry.SCHEMES[scheme].name in ("dq", "pqr") else x  # up to half a second per million elements
    ac.encode(own, scheme)  # threads and compiled kernels are no memory of the call
    encoded, peak = peak_bytes(lambda: ac.encode(own, scheme))
    print(scheme, peak - encoded.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_working_memory_of_every_scheme(level):
    """16 MiB beside the planes for 4096 × 11008 elements, less for a smaller matrix; without loss 32 MiB for any.

    What finds its tables in the array has 16 MiB for any. `dq` holds the codes of a whole array too, and beside the
    planes those of the best step before: 4 bytes per element.
    """
    rows, columns = (4096, 11008) if level >= Level.full else (4096, 5504)
    run = subprocess.run(
        [sys.executable, "-c", WORKING, str(rows), str(columns)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {scheme: int(working) for scheme, working in (line.split() for line in run.stdout.splitlines())}
    assert list(found) == list(registry.SCHEMES)

    def most(codec: ac.Codec) -> int:
        if codec.lossless:
            return 32 * MB
        own = 4 * 256 * columns if codec.name == "dq" else 0
        return own + 16 * MB * (11008 if codec.trained else columns) // 11008

    allowed = {name: most(codec) for name, codec in registry.SCHEMES.items()}
    assert {scheme: working for scheme, working in found.items() if working > allowed[scheme]} == {}


def test_peak_memory_of_a_call():
    out, peak = peak_bytes(lambda: np.ones(64 * MB, np.uint8).sum(dtype=np.uint8))
    assert out == 0
    if sys.platform == "linux":
        assert 63 * MB < peak < 80 * MB


def test_peak_memory_is_unknown_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("arraycodec.checkpoints.peak.CLEAR", tmp_path / "no" / "such")
    assert peak_bytes(lambda: 5) == (5, None)
    assert quality("nf4", ac.codec("nf4"), [normal(4, 64)]).working_bytes is None


def test_quality_of_several_arrays_is_that_of_one():
    x = normal(64, 64)
    whole, parts = quality("nf4", ac.codec("nf4"), [x]), quality("nf4", ac.codec("nf4"), [x[:8], x[8:]])
    assert parts.mae == pytest.approx(whole.mae) and parts.snr_db == pytest.approx(whole.snr_db)
    assert parts.bits_per_element == whole.bits_per_element and parts.max_abs == whole.max_abs
    assert replace(whole, snr_db=float("inf")).to_json()["snr_db"] is None


# ---------------------------------------------------------------- peers


def test_entries_are_of_our_schemes():
    assert {entry.library for entry in ENTRIES} == set(LIBRARIES)
    for entry in ENTRIES:
        assert entry.scheme in registry.SCHEMES
        assert entry.codec.planes(ac.ArraySpec((4, 256), "float32"))
        assert entry.label.partition(",")[0] == entry.scheme


def ours(wrong: int = 0) -> Entry:
    """A peer that does what we do, but for some elements."""

    def prepare(x: np.ndarray) -> Calls:
        def decode(encoded):
            y = ac.decode(encoded)
            y.reshape(-1)[:wrong] += 1
            return y

        return Calls(lambda: ac.encode(x, "nf4"), decode, lambda encoded: encoded.nbytes)

    return Entry("numpy", "ours", "nf4", {}, "same", prepare)


def test_a_peer_is_compared_element_by_element():
    x = normal(16, 256)
    same, other = measured(ours(), x), measured(ours(wrong=3), x)
    assert same.differing == 0 and other.differing == 3 / x.size
    stated = ac.error(x, ac.encode(x, "nf4"))
    assert same.quality.mae == pytest.approx(stated.mae) and same.quality.bits_per_element == 4.5
    assert other.quality.mae > same.quality.mae
    assert same.times_encode == same.encode / same.our_encode > 0
    assert same.times_decode_out == same.decode / same.our_decode_out > 0 and same.copy > 0
    json.dumps(same.to_json(), allow_nan=False)


def test_installed_libraries_give_our_bits(monkeypatch):
    pytest.importorskip("bitsandbytes")
    found, notes = peers(normal(32, 256), ["nf4", "fp4", "dynamic", "llm_int8"], silent)
    own = {peer.format: peer.differing for peer in found if peer.name == "bitsandbytes"}
    assert own == {"nf4": 0, "fp4": 0, "dynamic 8 bits": 0, "int8_vectorwise": 0}
    with pytest.raises(ValueError, match="no whole number of blocks"):
        bitsandbytes.ENTRIES[0].prepare(normal(16, 100))
    found, notes = peers(normal(16, 100), ["nf4"], silent, ["bitsandbytes"])
    assert not found and len(notes) == 1 and notes[0].startswith("bitsandbytes nf4: ValueError: rows of 100")


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(bench_peers.metadata, "version", missing)
    found, notes = peers(normal(16, 256), registry.SCHEMES, silent)
    assert not found and sorted(notes) == sorted(f"{library}: not installed" for library in LIBRARIES)


def test_frameworks_run_one_scheme_of_a_codec():
    pytest.importorskip("torch")
    found, _ = frameworks_of(normal(16, 256), ["nf4", "fp4"], silent)
    assert ("torch", "nf4") in {(peer.name, peer.scheme) for peer in found}
    assert not any(peer.scheme == "fp4" or peer.differing for peer in found)


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def found():
    return results((32, 256), SCHEMES, quick=True)


def test_results_are_the_same_again_but_for_times(found):
    said = []
    again = results((32, 256), SCHEMES, quick=True, say=said.append)
    for section in ("blocks", "whole", "bfloat16", "outliers", "whole_outliers"):
        for a, b in zip(getattr(found, section).quality, getattr(again, section).quality, strict=True):
            assert replace(a, working_bytes=None) == replace(b, working_bytes=None)
    assert said[0] == "nf4 float32" and "int8_linear bfloat16" in said and "mxfp4, outliers" in said
    assert [row.scheme for row in found.whole.quality] == ["nf4", "int8_linear"]  # microscaling has its own blocks
    assert found.notes == ("peers, in a quick run",) and not found.blocks.peers
    json.dumps(found.to_json(), allow_nan=False)


def test_what_is_measured():
    x = normal(100, 100)
    spiky = outliers(x)
    changed = spiky != x
    assert changed.sum() == 10 and np.array_equal(spiky[changed], x[changed] * np.float32(OUTLIER))
    assert np.array_equal(spiky, outliers(x))
    codecs = {name: codec for name, codec in registry.SCHEMES.items() if not codec.lossless}
    assert list(distinct(codecs)) == [name for name in codecs if name != "fp8"]
    assert aliases(codecs) == {"fp8": "float8_e4m3fn"}
    whole = whole_arrays(codecs)
    assert all(codec.block_size is None for codec in whole.values())
    assert {"nf4", "int8_linear", "float8_e4m3fn"} <= set(whole) and "int8-channel" not in whole


def test_page_and_pictures(found, tmp_path):
    pytest.importorskip("matplotlib")
    entry = measured(ours(wrong=3), normal(32, 256))
    library = replace(entry, name="gguf", likeness="float16 scales")
    found = replace(found, blocks=replace(found.blocks, peers=(library,)))
    folder = writable(tmp_path / "new" / "folder")
    written = write(found, folder)
    assert [path.name for path in written] == ["results.md", *PICTURES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])
    text = written[0].read_text()
    assert text == page(found) and "{" not in text
    command = "arraycodec bench --shape 32x256 --schemes nf4,int8_linear,mxfp4 --quick --results DIR"
    assert f"`{command}`, {found.date}" in text
    assert "32 × 256 normal" in text and "Not measured: peers, in a quick run." in text
    assert (
        "| **`nf4`** | arraycodec |" in text and "|  | gguf ours |" in text and "| 0.037 % | float16 scales |" in text
    )
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    assert percent(0) == "0"


def test_command(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def run(*args: object):
        return CliRunner().invoke(app, ["bench", *map(str, args)], prog_name="arraycodec")

    command = ("--shape", "8x64", "--schemes", "nf4", "--quick", "--results", tmp_path)
    done = run(*command)
    assert done.exit_code == 0 and "results.md" in done.stdout and "mae.png" in done.stdout
    assert json.loads(run(*command, "--json").stdout)["shape"] == [8, 64]
    assert run(tmp_path / "x.safetensors", "--results", tmp_path).exit_code == 2
    monkeypatch.setitem(sys.modules, "arraycodec.checkpoints.bench_plot", None)
    refused = run(*command)
    assert refused.exit_code == 4 and "arraycodec[plot]" in refused.stderr


def test_times_are_of_all_threads():
    assert case("nf4", ac.codec("nf4"), [normal(4, 64)], quick=True).threads == ac.get_num_threads()
