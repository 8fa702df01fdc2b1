"""Tests of the Triton kernels where TRITON_INTERPRET is set; test_triton_interpreter.py starts such a process."""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.cases import any_bytes
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, to_numpy
from tests.backends import delta_cases, lossless_cases
from tests.backends.triton_cases import CASES, Case, cases
from tests.backends.triton_emulation import LAUNCHERS, compare, decode

TRITON = IMPLEMENTATIONS["triton"]


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program costs a millisecond, an element almost nothing."""
    for launcher in LAUNCHERS:
        if hasattr(launcher, "TILE"):
            monkeypatch.setattr(launcher, "TILE", 1 << 15)


@pytest.mark.parametrize("family", CASES)
def test_bits(family: str, level: Level, few_programs: None) -> None:
    for case in cases(family, level >= Level.full):
        compare(TRITON, case.codec, case.array(), case.given)


@pytest.mark.parametrize("family", CASES)
def test_random_patterns_and_sizes(family: str, few_programs: None) -> None:
    (codec, *_, given), rng = CASES[family][0], np.random.default_rng(0)
    for dtype in ("float32", "bfloat16", "float16"):
        width = numpy_dtype(dtype).itemsize * 8
        for shape in ((3, 128), (7, 1033), (0,), (), (1,)):
            x = rng.integers(0, 2**width, shape, np.uint64).astype(f"u{width // 8}").view(numpy_dtype(dtype))
            compare(TRITON, codec, x, given)


def test_compositions(few_programs: None) -> None:
    case = Case(ac.codec("nf4-double"), (7, 1033), "bfloat16")
    compare(TRITON, case.codec, case.array())


@pytest.mark.parametrize("name", ["units", "columns"])
def test_lossless(name: str) -> None:
    example = lossless_cases.EXAMPLES[name]()
    own = {plane: from_numpy(array) for plane, array in example.planes.items()}
    same_bits(to_numpy(TRITON.decode(ac.Lossless(), own, example.spec, {})), example.array, "decoded")


def test_delta() -> None:
    example = delta_cases.EXAMPLES["float32"]()
    own = {plane: from_numpy(array) for plane, array in example.planes.items()}
    got = TRITON.decode(ac.Delta(), own, example.spec, {"base": from_numpy(example.base)})
    same_bits(to_numpy(got), example.array, "decoded")


@pytest.mark.parametrize("name", ["Q4_K", "TQ1_0"])
def test_gguf(name: str, few_programs: None) -> None:
    codec, spec = ac.Gguf(name), ac.ArraySpec((3, 512), "float32")
    decode(TRITON, codec, any_bytes(codec.planes(spec), 0), spec.known_shape, spec.dtype)
