"""The Triton kernels of LLM.int8 rows at their edges, by the PTX interpreter; the rest is in test_triton_ptx.py."""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import PATTERNS

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from tests.backends.triton_emulation import compare, emulated  # noqa: E402


def test_bits(level: Level) -> None:
    """Rows whose largest magnitude is each special pattern, and quotients that are ties."""
    ties = np.concatenate([np.arange(-254, 255) / 2, np.nextafter(np.arange(1, 127) + 0.5, 0), [127]])
    with np.errstate(all="ignore"), emulated() as how:
        special = np.array(PATTERNS, np.uint32).view(np.float32)[:, None] * np.linspace(-1, 1, 40, dtype=np.float32)
        for dtype in ("float32", "bfloat16", "float16") if level >= Level.full else ("float32",):
            compare(how, ac.LLMInt8(), special.astype(numpy_dtype(dtype)))
            compare(how, ac.LLMInt8(), ties.astype(numpy_dtype(dtype))[None])


def test_a_threshold_runs_plain_ops() -> None:
    codec, x = ac.LLMInt8(threshold=2.0), np.random.default_rng(0).standard_normal((20, 64), np.float32)
    assert codec.encode(x)["outlier_columns"].size
    with emulated() as how:
        compare(how, codec, x)
