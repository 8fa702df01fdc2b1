"""The Triton kernel of `TCQ` by the PTX interpreter, besides the cases of every family: borders of paths, any codes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import PATTERNS
from arraycodec_torch import from_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from tests.backends.triton_emulation import (  # noqa: E402
    TARGETS,
    Emulated,
    decode,
    emulated,
    encode,
    refuse_inexact,
)

CASES = [
    (ac.TCQ(8, block_size=(1, None)), (3, 1100), "float16"),  # a row of two paths
    (ac.TCQ(2, 64, (1, None)), (33, 65), "float32"),  # rows that begin within a byte
    (ac.TCQ(1, block_size=None), (5000,), "bfloat16"),  # a path across patches
]
MORE = [
    (ac.TCQ(3, 256, (1, 64)), (5, 192), "bfloat16"),  # several lines in a row
    (ac.TCQ(5, block_size=100, outliers=0.05), (2100,), "float32"),
    (ac.TCQ(6, 64, (2, 48), outliers=0.01), (5, 130), "float32"),
    (ac.TCQ(7, 256, 5), (999,), "float16"),
    (ac.TCQ(4, 8, (None, None)), (2, 9, 24), "bfloat16"),
    (ac.TCQ(4, rotate=64, outliers=0.02), (3, 150), "float32"),  # by plain torch ops
    (ac.TCQ(3), (40, 1), "float32"),
]


def written(codec: ac.TCQ, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Planes of an array with special scales, and any codes."""
    rng, x = np.random.default_rng(3), np.random.default_rng(4).standard_normal(shape).astype(numpy_dtype(dtype))
    planes = codec.encode(x)
    planes["codes"] = rng.integers(0, 256, planes["codes"].shape, np.uint8)
    special = np.resize((np.array(PATTERNS, np.uint32) >> 16).astype(np.uint16), planes["scales"].size)
    planes["scales"].view(np.uint16).reshape(-1)[1::2] = special[1::2]
    return planes


@pytest.mark.parametrize(("codec", "shape", "dtype"), CASES, ids=str)
def test_bits(codec: ac.TCQ, shape: tuple[int, ...], dtype: str, level: Level) -> None:
    planes = written(codec, shape, dtype)
    for target in TARGETS if level >= Level.full else ("sm_90",):
        with emulated(target=target) as how:
            decode(how, codec, planes, shape, dtype)


@pytest.mark.level("full")
@pytest.mark.parametrize(("codec", "shape", "dtype"), MORE, ids=str)
def test_more_bits(codec: ac.TCQ, shape: tuple[int, ...], dtype: str) -> None:
    planes = written(codec, shape, dtype)
    for target in TARGETS:
        with emulated(target=target) as how:
            decode(how, codec, planes, shape, dtype)


def test_ptx_is_exact_and_stores_are_wide() -> None:
    codec, shape = ac.TCQ(), (16, 512)
    with emulated() as how:
        decode(how, codec, written(codec, shape, "float32"), shape, "float32")
        decode(how, codec, codec.encode(np.zeros((0, 64), np.float32)), (0, 64), "float32")
        with pytest.raises(UnsupportedByBackend, match=r"tcq: .* encodes on the host only"):
            how.encode(from_numpy(np.zeros(shape, np.float32)), codec, {})
    kernels = "arraycodec_torch.kernels.tcq"
    own = [
        found for (fn, target, *_), found in Emulated.compiled.items() if (fn.__module__, target) == (kernels, "sm_90")
    ]
    assert own
    for found in own:
        refuse_inexact(found.ptx)
    assert any(re.search(r"st\.global\.v4\.b32", found.ptx) for found in own)


# -- the search


@pytest.mark.parametrize(
    ("codec", "shape", "weighted"),
    [
        (ac.TCQ(8, outliers=0.0), (33, 5), True),  # a path in a program of its own
        pytest.param(ac.TCQ(1, 64, None, 0.0), (1027,), True, marks=pytest.mark.level("full")),  # two lengths of paths
        pytest.param(ac.TCQ(4, 8, rotate=4), (3, 11), False, marks=pytest.mark.level("full")),
    ],
    ids=str,
)
def test_encoding_with_a_codebook(codec: ac.TCQ, shape: tuple[int, ...], weighted: bool, level: Level) -> None:
    rng = np.random.default_rng(5)
    given = {"codebook": np.sort(rng.integers(-20000, 20000, 2 << codec.bits)).astype(np.int16)}
    if weighted:
        given["importance"] = np.linspace(0, 1, shape[-1], dtype=np.float32)
    for target in TARGETS if level >= Level.full else ("sm_90",):
        with emulated(target=target) as how:
            encode(how, codec, rng.standard_normal(shape, np.float32), given)
