"""`bench --formats`: what it reports and writes, never how long it took."""

import json
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

import arraycodec as ac
from arraycodec.checkpoints import bench_formats as module
from arraycodec.checkpoints.bench_formats import FORMATS, GROUPS, PRESETS, Format, bench_formats, counts
from arraycodec.checkpoints.bench_formats_page import PAGE, number, page, table, write
from arraycodec.checkpoints.peers import Calls
from arraycodec.cli.app import app
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec_conformance.plugin import Level

SHAPE = (8, 256)
FEW = ["W4A16", "Q4_K", "sparse-bitmask"]


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Each call once: what it takes is not looked at."""

    def medians(*runs, **how):
        for run in runs:
            run()
        return [1e-3 * (i + 1) for i in range(len(runs))]

    monkeypatch.setattr(module, "medians", medians)


def other(change: str = "", fails: type[Exception] | None = None):
    """A format whose peer is ours, with another bit in what it stores or decodes."""

    def prepare(shape):
        work = next(format for format in FORMATS if format.label == "W8A8").prepare(shape)

        def changed(x: np.ndarray) -> np.ndarray:
            (x := x.copy()).view(np.uint8).reshape(-1)[0] ^= 1
            return x

        def encode():
            stored = dict(work.stored)
            if "stored" in change:
                stored["up_proj.weight_scale"] = changed(stored["up_proj.weight_scale"])
            return stored

        def decode(stored):
            x = work.decode(None)
            return changed(x) if "values" in change else x

        def peer():
            if fails:
                raise fails("no\nreally")
            return Calls(encode, decode, len)

        return work._replace(peer=peer)

    return Format("sparse", "numpy", "W8A8, other", prepare)


def test_every_format_is_there():
    assert {*PRESETS, *TYPES} < {format.label for format in FORMATS} and {*GROUPS} == {f.group for f in FORMATS}
    assert len({format.label for format in FORMATS}) == len(FORMATS)


def test_every_format_works():
    found = bench_formats(SHAPE, quick=True)
    assert [row.format for row in found.rows] == [format.label for format in FORMATS] and not found.notes
    assert {row.threads for row in found.rows} == {max(counts())}
    for row in found.rows:
        assert 0 < row.stored < row.nbytes and row.differs is row.peer_encode is row.peer_decode is None
        assert (row.encode is None) == (row.group == "GGUF") and row.gb_s(row.decode) == row.nbytes / 1e-3 / 1e9
    assert {row.format: row.stored for row in found.rows}["W4A16"] == 8 * 256 // 2 + 8 * 2 * 2 + 16


@pytest.mark.parametrize("change", ["", "stored", "values", "stored, values"])
def test_a_row_says_what_differs(change, monkeypatch):
    monkeypatch.setattr(module, "FORMATS", (other(change),))
    before = ac.get_num_threads()
    found = bench_formats(SHAPE)
    assert [row.threads for row in found.rows] == counts() and ac.get_num_threads() == before
    for row in found.rows:
        assert row.differs == change and (row.times_encode, row.times_decode) == (2.0, 3.0)
    told = table(found.rows)
    assert ("equal |" in told) == (not change) and (f"| differs: {change} |" in told) == bool(change)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["rows"][0]["times_decode"] == 3.0 and data["rows"][0]["decode_gb_s"] == 4096 / 1e-3 / 1e9


def test_peers_that_are_not_there_are_noted(monkeypatch):
    monkeypatch.setattr(module, "FORMATS", (
        other()._replace(library="no-such-library"), other(fails=ImportError), other(fails=ImportError),
        other(fails=KeyError),
    ))  # fmt: skip
    found = bench_formats(SHAPE)
    assert len(found.rows) == 4 * len(counts()) and all(row.differs is None for row in found.rows)
    assert found.notes == (
        "no-such-library: not installed",
        "numpy, sparse: ImportError: no",
        r"W8A8, other: KeyError: 'no\nreally'",
    )


def test_the_tables_of_the_page(tmp_path):
    found = bench_formats(SHAPE, FEW, quick=True)
    assert [row.group for row in found.rows] == ["presets", "GGUF", "sparse", "sparse"]
    path = write(found, tmp_path / "new")
    assert path.name == PAGE and all(f"<!-- speeds:{group} -->\n\n{found.date}" in path.read_text() for group in GROUPS)
    path.write_text("Before.\n" + path.read_text() + "After.\n")
    assert write(bench_formats(SHAPE, ["Q8_0"], quick=True), tmp_path / "new") == path
    after = path.read_text()
    assert "| Q8_0 |" in after and "| Q4_K |" not in after and "| W4A16 |" in after  # the other tables stay
    assert (after[:8], after[-7:]) == ("Before.\n", "After.\n")
    with pytest.raises(ac.ArgumentError, match="must have the marks <!-- speeds:presets -->"):
        page(found, "# Nothing\n")
    assert [number(x) for x in (0.0312, 0.0996, 0.996, 9.96, 1312.0)] == [".031", ".10", "1.0", "10", "1,312"]


def test_the_command(tmp_path):
    run = CliRunner().invoke
    shape = ["--shape", "8x256", "--quick"]
    found = run(app, ["bench", "--formats", *shape, "--schemes", ",".join(FEW), "--results", str(tmp_path)])
    assert found.exit_code == 0 and "sparse-bitmask, 90 % zeros" in found.stdout and PAGE in found.stdout
    assert "| Q4_K |" in (tmp_path / PAGE).read_text()
    found = run(app, ["bench", "--formats", *shape, "--schemes", "Q4_K", "--json"])
    assert {"machine", "date", "load", "shape", "rows", "notes"} == set(json.loads(found.stdout))
    for wrong in (["model.safetensors"], ["--lossless"], ["--schemes", "W5A16"]):
        assert run(app, ["bench", "--formats", *shape, *wrong]).exit_code == 2, wrong
    found = run(app, ["bench", "--formats", "--shape", "8x100", "--schemes", "W4A16"])
    assert found.exit_code == 2 and "nothing to measure: W4A16: tensor" in found.stderr


def test_the_peers_that_are_installed_store_and_decode_the_same_bits(level):
    """Those of the extra; where they are, none of the formats differs but in which zeros 2:4 files keep."""
    if level < Level.full:
        pytest.skip("peers are measured at level full")
    found = bench_formats((128, 512))
    here = {row.group for row in found.rows if row.differs is not None}
    for row in found.rows:
        assert row.differs in (None, "", *(["stored"] if row.format.startswith("sparse-24") else [])), row
    for library, group in (("compressed-tensors", "presets"), ("gguf", "GGUF")):
        try:
            old = metadata.version(library).startswith("0.14")
        except metadata.PackageNotFoundError:
            continue
        assert ("sparse" if old else group) in here
