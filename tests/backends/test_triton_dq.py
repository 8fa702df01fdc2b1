"""The Triton kernel of `DQ` by the PTX interpreter: stored scales, any codes, mutants; the codes are `Lossless`'.

The cases that all families have are in test_triton_ptx.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.codecs.dq import coded
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from tests.backends.test_triton_mutants import mutate  # noqa: E402
from tests.backends.triton_emulation import Emulated, emulated  # noqa: E402

FULL = pytest.mark.level("full")
CODEC = ac.DQ()
SCALES = (1.0, -0.25, 0.0, -0.0, 2.0**-101, 2.0**-100, 2.0**127, np.inf, np.nan, 1e-40)


def run(how: Any, scale: float, dtype: str, codes: np.ndarray) -> None:
    """Decode codes that nobody chose, with centroids of any size, here and in the reference."""
    planes = coded(codes, codes.shape) | {
        "scale": np.array([scale], np.float32),
        "centroids": np.linspace(-32768, 32767, 25).astype(np.int16),
    }
    spec = ac.ArraySpec(codes.shape, dtype)
    got = to_numpy(how.decode(CODEC, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {}))
    same_bits(got, CODEC.decode(planes, spec), f"{scale} {dtype}")


def some(size: int, most: int = 20) -> np.ndarray:
    return np.random.default_rng(size).integers(-most, most, size).astype(np.int16)


@pytest.mark.parametrize("scale", SCALES)
def test_any_stored_scale_decodes(scale: float, level: Level) -> None:
    with emulated() as how:
        for dtype in ("float32", "bfloat16", "float16") if level >= Level.full else ("float32",):
            run(how, scale, dtype, some(300))


@pytest.mark.parametrize("size", [1, 895, 896, 897, 2000])
def test_segments_and_codes_of_16_bits(size: int) -> None:
    with emulated() as how:
        run(how, 2.0**-12, "float32", some(size, 1 << 15))


def test_amd_compiles() -> None:
    """For gfx942, as far as a binary."""
    planes = CODEC.encode(np.linspace(-1, 1, 20, dtype=np.float32))  # too few for a coder
    with emulated(target="gfx942") as how:
        how.decode(CODEC, {name: from_numpy(p) for name, p in planes.items()}, ac.ArraySpec((20,), "float32"), {})
    assert "restore" in {found.metadata.name for key, found in Emulated.compiled.items() if key[1] == "gfx942"}


MUTANTS = {
    "another tap": ("inside, TAP3)", "inside, TAP2)"),
    "the path goes on into the next segment": ("mask=inside & (place >= TAP)", "mask=inside & (at >= TAP)"),
    "codes without a sign": (".to(tl.int16, bitcast=True)", ""),
    "a centroid less": ("level <= CENTRED", "level < CENTRED"),
    "no end": ("(column < PERIOD) & (at < size)", "(column < PERIOD)"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "another tap" else FULL) for name in MUTANTS])
def test_mutant_is_caught(name: str, tmp_path: Path) -> None:
    mutated = mutate([MUTANTS[name]], tmp_path, re.sub(r"\W", "_", f"mutant dq {name}"))
    with emulated(mutated) as how, pytest.raises((AssertionError, ptx.PtxError)):
        run(how, 2.0**-12, "float32", some(2000))
