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
from arraycodec_conformance.plugin import Level
from arraycodec_torch import IMPLEMENTATIONS, from_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("runs triton_interpreted.py in a process of its own", allow_module_level=True)

from tests.backends.triton_cases import CASES  # noqa: E402

TRITON = IMPLEMENTATIONS["triton"]


def test_in_a_process_with_the_interpreter(level: Level) -> None:
    root, tests = Path(__file__).parents[2], str(Path(__file__).with_name("triton_interpreted.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--level", level.name, tests]
    run = subprocess.run(command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout, run.stdout


@pytest.mark.parametrize("family", CASES)
def test_cpu_tensors_are_refused(family: str) -> None:
    x, codec = np.ones(64, np.float32), CASES[family][0].codec
    with pytest.raises(UnsupportedByBackend, match=f"{family}: .*triton implementation takes tensors on a GPU"):
        TRITON.encode(from_numpy(x), codec, {})
    planes = {name: from_numpy(plane) for name, plane in codec.encode(x).items()}
    with pytest.raises(UnsupportedByBackend, match=f"{family}: .*triton implementation takes tensors on a GPU"):
        TRITON.decode(codec, planes, ac.ArraySpec((64,), "float32"), {})
