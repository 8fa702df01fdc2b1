"""The Triton kernels in Triton's own interpreter: their logic, in a process where TRITON_INTERPRET is set.

It knows nothing of contraction, approximate division or 32-bit overflow; test_triton_ptx.py is for those.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, to_numpy

pytest.importorskip("triton")
HERE = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not HERE, reason="runs in the process that the first test starts")


@pytest.mark.skipif(HERE, reason="this is that process")
def test_in_a_process_with_the_interpreter() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout, run.stdout


@pytest.mark.skipif(HERE, reason="the interpreter takes CPU tensors")
def test_cpu_tensors_are_refused() -> None:
    with pytest.raises(UnsupportedByBackend, match="triton implementation takes tensors on a GPU"):
        IMPLEMENTATIONS["triton"].encode(from_numpy(np.ones(64, np.float32)), ac.Codebook("nf4"), {})


@interpreted
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "codec",
    [
        ac.Codebook("nf4"),
        ac.Codebook("fp4", block_size=100),
        ac.Codebook("fp4", flavour="bnb-cpu", block_size=None),
        ac.Codebook("dynamic", block_size=256, offset=True),
        ac.Codebook("nf4", block_size=9001),
        ac.codec("nf4-double"),
    ],
    ids=str,
)
def test_bits(codec: ac.Codec, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from arraycodec_torch import triton_codebook

    monkeypatch.setattr(triton_codebook, "TILE", 1 << 15)  # a program costs a millisecond, an element almost nothing
    how, rng = IMPLEMENTATIONS["triton"], np.random.default_rng(0)
    for shape in ((3, 128), (7, 4099), (0,), (), (1,)):
        width = numpy_dtype(dtype).itemsize * 8
        x = rng.integers(0, 2**width, shape, np.uint64).astype(f"u{width // 8}").view(numpy_dtype(dtype))
        for source in (x, (rng.standard_normal(shape) * 0.02).astype(numpy_dtype(dtype))):
            want = codec.encode(source)
            planes = how.encode(from_numpy(source), codec, {})
            for name, plane in want.items():
                same_bits(to_numpy(planes[name]), plane, f"{name} of {dtype}{list(shape)}", source)
            decoded = how.decode(codec, planes, spec_of(source), {})
            same_bits(to_numpy(decoded), codec.decode(want, spec_of(source)), f"decoded {dtype}{list(shape)}", source)
