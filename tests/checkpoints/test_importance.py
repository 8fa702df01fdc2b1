"""`compress` with importance: what is encoded by it, where the vectors come from, and which ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives import threads
from tests.checkpoints.support import listing, model, normal, shards, write, write_folder

ENCODED = ["embed.weight", "layers.0.up.weight", "layers.1.up.weight", "layers.0.odd.weight", "layers.0.conv.weight"]
FILE = "importance.safetensors"


def vectors() -> dict[str, np.ndarray]:
    """Of some tensors of `model()`; one of them stays plain."""
    columns = {"embed.weight": 96, "layers.1.up.weight": 64, "layers.0.odd.weight": 53, "layers.0.norm.weight": 64}
    return {name: np.square(normal(n, seed=n)) for name, n in columns.items()}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write(tmp_path / "model.safetensors", model())


@pytest.mark.parametrize("scheme", ["tcq4", "lut4", "pqr-gain", "tcq4+lossless"])
def test_tensors_are_encoded_with_their_vectors(src: Path, tmp_path: Path, scheme: str) -> None:
    dst, given = tmp_path / "out.safetensors", vectors()
    dry = ac.compress(src, dst, scheme, importance=given, include=["*layers*"], exclude=["*norm.weight"], dry_run=True)
    report = ac.compress(src, dst, scheme, importance=given, include=["*layers*"], exclude=["*norm.weight"])
    assert [row.reason for row in dry.rows] == [row.reason for row in report.rows]
    assert [row.name for row in report.encoded] == ENCODED
    with ac.open_file(dst) as file:
        for row in report.encoded:
            own = {"importance": given[row.name]} if row.name in given else None
            want = ac.decode(ac.encode(model()[row.name], scheme, given=own))
            assert file[row.name].decode().tobytes() == want.tobytes()
            assert row.reason.endswith(", with importance") == (row.name in given)
    assert "importance" not in dst.read_bytes().decode("latin-1")
    ac.compress(src, tmp_path / "without.safetensors", scheme, include=["*layers*"], exclude=["*norm.weight"])
    assert (tmp_path / "without.safetensors").read_bytes() != dst.read_bytes()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_file_of_vectors_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path, jobs: int) -> None:
    src = write_folder(tmp_path / "m", shards())
    ac.compress(src, tmp_path / "want", "tcq4", importance=vectors())
    for name, save in (("plain", write), ("own", lambda path, tensors: ac.save_file(tensors, path))):
        save(tmp_path / FILE, vectors())
        with threads.limited(jobs):
            ac.compress(src, tmp_path / name, "tcq4", importance=tmp_path / FILE, jobs=jobs)
        assert listing(tmp_path / name) == listing(tmp_path / "want")
    with ac.open_file(tmp_path / FILE) as opened:  # any mapping will do, one that reads too
        ac.compress(src, tmp_path / "opened", "tcq4", importance=opened)
    assert listing(tmp_path / "opened") == listing(tmp_path / "want")


def test_names_in_subfolders_and_of_several_files(tmp_path: Path) -> None:
    w, vector = normal(64, 96), np.square(normal(96, seed=1))
    folder = tmp_path / "m"
    for file in ("unet/a.safetensors", "unet/a.fp16.safetensors", "vae/a.safetensors"):
        write(folder / file, {"w": w})
    report = ac.compress(folder, tmp_path / "out", "tcq4", importance={"unet/w": vector})
    reasons = {row.file: row.reason for row in report.rows}
    assert all(reason.endswith("importance") == file.startswith("unet") for file, reason in reasons.items())
    with ac.open_file(tmp_path / "out" / "unet" / "a.fp16.safetensors") as file:
        want = ac.decode(ac.encode(w, "tcq4", given={"importance": vector}))
        assert file["w"].decode().tobytes() == want.tobytes()


def test_arrays_of_other_frameworks(src: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ac.compress(src, tmp_path / "a.safetensors", "tcq4", importance=vectors())
    ac.compress(
        src, tmp_path / "b.safetensors", "tcq4", importance={k: torch.from_numpy(v) for k, v in vectors().items()}
    )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "length": ({"embed.weight": np.ones(64, np.float32)}, r"importance must be float32\[96\], got float32\[64\]"),
    "matrix": ({"embed.weight": model()["embed.weight"]}, r"must be float32\[96\], got float32\[64,96\]"),
    "dtype": ({"embed.weight": np.ones(96)}, r"must be float32\[96\], got float64\[96\]"),
    "negative": ({"embed.weight": np.linspace(-1, 1, 96, dtype=np.float32)}, "finite, not negative, and not all 0"),
    "nan": ({"embed.weight": np.full(96, np.nan, np.float32)}, "tcq: importance must be finite"),
    "infinite": ({"embed.weight": np.full(96, np.inf, np.float32)}, "tcq: importance must be finite"),
    "zero": ({"embed.weight": np.zeros(96, np.float32)}, "not all 0"),
    "plain": ({"layers.0.norm.weight": np.ones(3, np.float32)}, r"must be float32\[64\], got float32\[3\]"),
}


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_vector_is_named_before_anything_is_written(tmp_path: Path, bad: str, from_file: bool) -> None:
    wrong, message = BAD[bad]
    src, given = write_folder(tmp_path / "m", shards()), vectors() | wrong
    write(tmp_path / FILE, given)
    before = listing(tmp_path)
    where = (
        rf"{FILE}: tensor '{next(iter(wrong))}': "
        if from_file
        else rf"of-00002.safetensors: tensor '{next(iter(wrong))}': "
    )
    for dry in (True, False):
        with pytest.raises(ac.ArgumentError, match=where + ".*" + message):
            ac.compress(src, tmp_path / "out", "tcq4", importance=tmp_path / FILE if from_file else given, dry_run=dry)
    assert listing(tmp_path) == before


def test_a_vector_of_no_tensor(src: Path, tmp_path: Path) -> None:
    given = vectors() | {"layers.0.up": np.ones(64, np.float32)}
    with pytest.raises(
        ac.ArgumentError,
        match=r"^importance: 'layers.0.up' is no tensor of .*model.safetensors, closest are 'layers.0.up.weight'",
    ):
        ac.compress(src, tmp_path / "out.safetensors", "tcq4", importance=given)
    with pytest.raises(ac.ArgumentError, match=r"importance.safetensors: 'layers.0.up' is no tensor of .*model.safe"):
        ac.compress(src, tmp_path / "out.safetensors", "tcq4", importance=write(tmp_path / FILE, given))
    with pytest.raises(ac.UnsupportedByBackend, match=r"embed.weight': .*no backend for builtins.list"):
        ac.compress(src, tmp_path / "out.safetensors", "tcq4", importance={"embed.weight": [1.0] * 96})
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("options", [{}, {"scheme": "w4a16"}, {"mode": "balanced"}, {"scheme": "dq4"}])
def test_a_scheme_that_takes_none(src: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ac.ArgumentError, match=r"importance is for the codecs lut, pqr, tcq, got "):
        ac.compress(src, tmp_path / "out.safetensors", importance=vectors(), **options)
    assert not (tmp_path / "out.safetensors").exists()


def test_files_of_vectors_that_cannot_be_used(src: Path, tmp_path: Path) -> None:
    path = write(tmp_path / FILE, vectors())
    with pytest.raises(ac.ArgumentError, match="holds the importance that is read"):
        ac.compress(src, path, "tcq4", importance=path, overwrite=True)
    folder = write_folder(tmp_path / "m", shards())
    inside = write(folder / FILE, vectors())
    with pytest.raises(ac.ArgumentError, match=r"m/importance.safetensors: is a file of the input"):
        ac.compress(folder, tmp_path / "out", "tcq4", importance=inside)
    with pytest.raises(ac.ArgumentError, match="is a folder"):
        ac.compress(src, tmp_path / "out", "tcq4", importance=tmp_path)
    with pytest.raises(FileNotFoundError):
        ac.compress(src, tmp_path / "out", "tcq4", importance=tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ac.CorruptError, match=r"importance.safetensors.*truncated"):
        ac.compress(src, tmp_path / "out", "tcq4", importance=path)
    assert not (tmp_path / "out").exists()
