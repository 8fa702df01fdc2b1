"""Files and planes of `lossless` that lie: an error of our tree or an array, never a crash or memory on credit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import frame
from arraycodec.spec import spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from tests.codecs import lossless_fuzz

ROOT = Path(__file__).parents[2]
BASES = [pytest.param(codec, x, id=f"{codec.mode}-{k}") for k, (codec, x) in enumerate(lossless_fuzz.bases())]


def raises_or_same(data: bytes, x: np.ndarray) -> None:
    """Require one of the two."""
    try:
        decoded = ac.decode(ac.from_bytes(data))
    except ac.FormatError:
        return
    same_bits(decoded, x, "a changed frame")


@pytest.mark.level("default")
@pytest.mark.parametrize(("codec", "x"), BASES[:8])
def test_flipped_bits_and_prefixes_of_frames(codec: ac.Lossless, x: np.ndarray, level: Level) -> None:
    """Hashes find them all; all of them at level full."""
    data, step = ac.to_bytes(ac.encode(x, codec)), 1 if level >= Level.full else 251
    assert len(data) < 10_000
    for bit in range(0, 8 * len(data), step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ac.FormatError):
            ac.from_bytes(bytes(flipped))
    for length in range(0, len(data), step):
        with pytest.raises(ac.FormatError):
            ac.from_bytes(data[:length])


@pytest.mark.level("default")
@pytest.mark.parametrize(("codec", "x"), BASES[:8])
def test_flipped_bits_that_no_hash_finds(codec: ac.Lossless, x: np.ndarray, level: Level) -> None:
    """Every bit of the small planes and of streams, and where the hashes are not looked at."""
    encoded, step = ac.encode(x, codec), 1 if level >= Level.full else 37
    data = ac.to_bytes(encoded)
    for name in ("plan", "tables", "index", "streams", "words"):
        plane = encoded.planes[name]
        for bit in range(0, 8 * plane.nbytes, step if plane.nbytes > 200 else min(step, 3)):
            changed = plane.copy()
            changed.view(np.uint8)[bit // 8] ^= np.uint8(1 << bit % 8)
            lying = replace(encoded, planes=encoded.planes | {name: changed})
            try:
                decoded = ac.decode(lying)
            except ac.FormatError:
                continue
            assert spec_of(decoded) == encoded.spec
    for bit in range(0, 8 * len(data), 13 * step):
        flipped = np.frombuffer(data, np.uint8).copy()
        flipped[bit // 8] ^= np.uint8(1 << bit % 8)
        try:
            reader = frame.FrameReader(lambda at, n, own=flipped: own[at : at + n].copy(), len(data), verify=False)
            reader.elements(0, min(700, x.size))
        except ac.FormatError:
            continue


@pytest.mark.level("default")
def test_flipped_bits_and_prefixes_of_a_file(tmp_path: Path, level: Level) -> None:
    path, step = tmp_path / "x.safetensors", 1 if level >= Level.full else 397
    x = lossless_fuzz.bases()[0][1]
    ac.save_file({"x": ac.encode(x, "lossless")}, path)
    data = path.read_bytes()
    assert 3000 < len(data) < 5000
    lying = tmp_path / "lying.safetensors"
    for bit in range(0, 8 * len(data), step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        lying.write_bytes(flipped)
        with pytest.raises(ac.FormatError):
            ac.load_file(lying)
    for length in range(0, len(data), step):
        lying.write_bytes(data[:length])
        with pytest.raises(ac.FormatError):
            ac.load_file(lying)


# -- planes given to decode

PLAN_WORDS = {
    "coder": (0, (3, 2**32 - 1)), "arrangement": (1, (4, 255)), "rest": (2, (17, 64, 2**31)), "offset": (3, (2**16,)),
    "high offset": (4, (1,)), "stream": (5, (0, 31, 32769, 2**32 - 1)), "unit": (6, (0, 1, 3, 2048)),
    "columns": (7, (3, 7, 2**31, 2**32 - 1)), "bits": (8, (0, 13, 32)), "tables": (9, (0, 2, 257, 2**31)),
    "symbols": (10, (0, 257, 2**31)), "palette": (11, (1, 256, 257)), "zeros": (12, (2, 2**31)), "sign": (13, (16, 64)),
    "lone": (14, (1, 2)), "unused": (15, (1, 2**31)),
}  # fmt: skip


@pytest.mark.level("default")
@pytest.mark.parametrize("name", PLAN_WORDS)
def test_plans_that_break_a_rule(name: str) -> None:
    """Refused by `check` as well, before anything is decoded."""
    codec, x = lossless_fuzz.bases()[0]
    planes, (word, values) = codec.encode(x), PLAN_WORDS[name]
    for value in values:
        plan = planes["plan"].copy()
        plan[word] = value
        for refuse in (codec.check, codec.decode):
            with pytest.raises(ac.CorruptError, match="must"):
                refuse(planes | {"plan": plan}, spec_of(x))


@pytest.mark.level("default")
def test_tables_that_are_no_code() -> None:
    codec, x = lossless_fuzz.bases()[0]
    planes = codec.encode(x)
    for tables in (
        np.zeros_like(planes["tables"]),
        planes["tables"] | 0xF0,
        planes["tables"][:-1],
        planes["tables"] ^ 1,
    ):
        with pytest.raises(ac.CorruptError, match="tables"):
            codec.check(planes | {"tables": tables}, spec_of(x))
    codec = ac.Lossless("storage")
    planes = codec.encode(x)
    tables = planes["tables"].copy()
    tables[-1] ^= 1
    with pytest.raises(ac.CorruptError, match="frequencies must add up"):
        codec.check(planes | {"tables": tables}, spec_of(x))


@pytest.mark.level("default")
def test_streams_that_end_elsewhere() -> None:
    """The index moves a byte from one stream to the next: all sizes are right, the streams are not."""
    for codec, x in lossless_fuzz.bases()[-2:]:
        planes = codec.encode(x)
        index = planes["index"].copy()
        index[:2] += np.array([1, -1], np.int8).astype(np.uint16)
        with pytest.raises(ac.CorruptError, match="stream"):
            codec.decode(planes | {"index": index}, spec_of(x))
    codec, x = lossless_fuzz.bases()[1]
    planes = codec.encode(x)
    noise = np.random.default_rng(0).integers(0, 256, planes["streams"].size, np.uint8)
    with pytest.raises(ac.CorruptError, match="stream"):
        codec.decode(planes | {"streams": noise}, spec_of(x))


@pytest.mark.level("default")
def test_patches_that_lie() -> None:
    codec, x = lossless_fuzz.bases()[2]
    planes = codec.encode(x)
    assert planes["index"].size > 3
    for index in (
        np.append(planes["index"], np.uint16(65535)),
        np.append(planes["index"], np.uint16(1)),
        np.full(planes["index"].size, 65535, np.uint16),
        np.zeros(planes["index"].size, np.uint16),
        planes["index"][:-1],
    ):
        with pytest.raises(ac.CorruptError, match="lossless: (a patch|plane 'words')".replace("(", "(?:")):
            codec.decode(planes | {"index": index}, spec_of(x))


# -- memory


@pytest.mark.level("default")
def test_a_bomb_of_few_bytes() -> None:
    """An array of a petabyte in 500 bytes: refused where it would be made; a smaller one is made in its own size."""
    one = ac.encode(np.full(64, 9, np.uint8), "lossless")
    bomb = replace(one, spec=ac.ArraySpec((2**20, 2**27), "uint8"))
    data = ac.to_bytes(bomb)
    assert len(data) < 1000
    for allowed in (None, 1 << 30):
        with pytest.raises(ac.LimitError):
            ac.from_bytes(data, max_bytes=allowed)
    fine = replace(one, spec=ac.ArraySpec((2**25,), "uint8"), planes=dict(one.planes))
    assert peak(lambda: ac.decode(ac.from_bytes(ac.to_bytes(fine), max_bytes=1 << 25))) < 1.3 * 2**25
    fine.planes["plan"] = fine.planes["plan"].copy()
    fine.planes["plan"][5:7] = 32  # as many streams as a plan may have
    assert peak(lambda: ac.decode(ac.from_bytes(ac.to_bytes(fine), max_bytes=1 << 25))) < 4 * 2**25


def peak(work: object) -> int:
    """The memory that NumPy and Python take at most while this runs, its result included."""
    tracemalloc.start()
    try:
        result = work()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1] + 0 * len(result)
    finally:
        tracemalloc.stop()


@pytest.mark.level("default")
@pytest.mark.parametrize(("codec", "x"), BASES)
def test_planes_that_claim_what_they_have_not(codec: ac.Lossless, x: np.ndarray) -> None:
    """A large array's spec over a small one's planes: little is taken before the error."""
    planes = codec.encode(x)
    if not planes["streams"].size:  # what has no streams may be as large as it says, and is refused with its raw bytes
        return

    def check(spec: ac.ArraySpec) -> str:
        with pytest.raises(ac.CorruptError) as error:
            codec.check(planes, spec)
        return str(error)

    for size in (2**27, 2**33, 2**40, 2**47):
        assert peak(partial(check, ac.ArraySpec((size,), x.dtype.name))) < 1 << 20


# -- drawn at random, in a process of their own: a crash is its exit status


def fuzz(count: int, seed: int, **environment: str) -> None:
    paths = [str(ROOT), str(ROOT / "conformance"), str(ROOT / "backends")]
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(ROOT / "tests/codecs/lossless_fuzz.py"), str(count), str(seed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, f"exit status {run.returncode}: {run.stderr[-3000:]}"
    found = re.fullmatch(r"(\d+) arrays, (\d+) errors", run.stdout.strip())
    assert found and int(found[1]) > count // 50 and int(found[2]) > count // 50


@pytest.mark.level("default")
def test_mutations_between_forbidden_pages(level: Level) -> None:
    fuzz(60_000 if level >= Level.full else 400, 0)


@pytest.mark.level("full")
@pytest.mark.timeout(3600)
def test_mutations_with_checked_bounds(level: Level, tmp_path: Path) -> None:
    """Numba compiles anew with NUMBA_BOUNDSCHECK, and must not find, nor leave, kernels that were compiled without."""
    fuzz(3000, 1, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.level("exhaustive")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_million_mutations(seed: int, tmp_path: Path) -> None:
    fuzz(100_000, seed)
    fuzz(10_000, seed + 100, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
