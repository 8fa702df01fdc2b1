"""Memory is bounded by the largest tensor, whatever the checkpoint's size: peak RSS of a process that does the work."""

import sys

import numpy as np
import pytest

from arraycodec_conformance.plugin import Level
from tests.checkpoints.support import peak_growth, write

TENSORS, MB = 5, 1 << 20
LARGEST = 24 * MB

STEPS = """
small, big, folder, jobs, mode = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5] or None
def run(src, stem):
    packed, back = f"{folder}/{stem}.packed", f"{folder}/{stem}.back"
    yield "compress", lambda: ac.compress(src, packed, mode=mode, jobs=jobs, overwrite=True)
    yield "verify", lambda: ac.verify(packed, jobs=jobs)
    yield "decompress", lambda: ac.decompress(packed, back, jobs=jobs, overwrite=True)
    yield "diff", lambda: ac.diff(src, packed, jobs=jobs)
    yield "against", lambda: ac.verify(packed, against=src, jobs=jobs)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("jobs", "mode"), [(1, ""), (2, ""), (2, "balanced"), (2, "storage")])
def test_peak_memory(tmp_path, jobs, mode, level):
    if mode == "storage" and level < Level.full:
        pytest.skip("at level full")
    piece = np.random.default_rng(0).standard_normal(LARGEST // 4 // 8, np.float32)
    tensors = {f"w{k}": np.tile(piece * np.float32(k + 1), 8).reshape(2048, -1) for k in range(TENSORS)}
    big = write(tmp_path / "big.safetensors", tensors)
    small = write(tmp_path / "small.safetensors", {"w": tensors["w0"][:64].copy(), "v": tensors["w0"][:1].copy()})
    growth = peak_growth(STEPS, small, big, tmp_path, jobs, mode)
    # The tensor and its planes (a seventh); then two tensors where two are compared. Five of them would be 120 MB.
    # Of a lossless mode the planes are nearly as large as the tensor, and encoding may hold as much again.
    slack, planes = 10 * MB, 1 if mode else 0.2
    encoding = 2 * planes if mode else planes
    assert growth["compress"] < (1 + encoding) * LARGEST + slack, growth
    assert growth["verify"] < planes * LARGEST + slack, growth
    assert growth["decompress"] < (1 + planes) * LARGEST + slack, growth
    assert growth["against"] < (2 + planes) * LARGEST + slack, growth
