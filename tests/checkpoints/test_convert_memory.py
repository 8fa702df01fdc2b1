"""`convert` holds one tensor and its encoding at a time, however many shards there are: peak RSS of a process."""

import sys

import ml_dtypes
import numpy as np
import pytest

from arraycodec_conformance.plugin import Level
from tests.checkpoints.convert_support import SHARDS, write_llama
from tests.checkpoints.support import peak_growth

TENSORS, MB = 6, 1 << 20
LARGEST = 24 * MB  # of bfloat16; beside a codec's planes (a quarter) a weight may be packed once more

STEPS = """
small, big, folder, jobs, to, scheme = *sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:7]
def run(src, stem):
    there, back = f"{folder}/{stem}.there", f"{folder}/{stem}.back"
    yield "there", lambda: ac.convert(src, there, to, scheme=scheme, jobs=jobs)
    yield "back", lambda: ac.convert(there, back, "dense", jobs=jobs)
    yield "verify", lambda: ac.verify(there, jobs=jobs)
    yield "kept", lambda: ac.convert(there, back + ".kept", "arraycodec", jobs=jobs)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("to", "scheme", "jobs"), [("compressed-tensors", "W4A16", 1), ("compressed-tensors", "NVFP4A16", 2)]
)
def test_peak_memory(tmp_path, to, scheme, jobs, level):
    if jobs > 1 and level < Level.full:
        pytest.skip("at level full")
    piece = np.random.default_rng(0).standard_normal(LARGEST // 2 // 8, np.float32).astype(ml_dtypes.bfloat16)
    large = np.tile(piece, 8).reshape(-1, 4096)
    names = [f"model.layers.{k}.self_attn.{part}_proj.weight" for k in range(TENSORS // 3) for part in "qkv"]
    big = {shard: dict.fromkeys(names[i::2], large) for i, shard in enumerate(SHARDS)}
    little = {shard: dict.fromkeys(names[i::2], large[:64]) for i, shard in enumerate(SHARDS)}
    growth = peak_growth(
        STEPS, write_llama(tmp_path / "small", little), write_llama(tmp_path / "big", big), tmp_path, jobs, to, scheme
    )
    slack, planes = 10 * MB, 0.3  # six tensors would be 144 MB
    assert growth["there"] < (1 + 2 * planes) * LARGEST + slack, growth
    assert growth["back"] < (1 + 2 * planes) * LARGEST + slack, growth
    assert growth["verify"] < (1 + 2 * planes) * LARGEST + slack, growth
    assert growth["kept"] < 3 * planes * LARGEST + slack, growth
