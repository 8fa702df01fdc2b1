"""The Triton kernel of `Gguf` by the PTX interpreter: every block type, whole blocks and a padded one, no encoder."""

from __future__ import annotations

import re

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec_conformance.cases import any_bytes
from arraycodec_conformance.plugin import Level
from arraycodec_torch import from_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from tests.backends.triton_emulation import TARGETS, Emulated, decode, emulated, refuse_inexact  # noqa: E402

FULL = pytest.mark.level("full")
SOME = ("Q5_1", "Q4_K", "Q3_K", "IQ4_XS", "MXFP4", "TQ1_0")  # every kind of field, table and factor


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SOME else FULL) for name in TYPES])
def test_bits(name: str, level: Level) -> None:
    """Any bytes: factors that are subnormal, infinite or NaN, and every scale byte of MXFP4."""
    codec = ac.Gguf(name)
    shapes = {"float32": (3, 512), "bfloat16": (1041,), "float16": (24, 256)}
    for target in TARGETS if level >= Level.full else ("sm_90",):
        with emulated(target=target) as how:
            for dtype, shape in shapes.items() if level >= Level.full else list(shapes.items())[:2]:
                planes = any_bytes(codec.planes(ac.ArraySpec(shape, dtype)), len(shape))
                blocks = planes["blocks"].reshape(-1, codec.block.nbytes)
                blocks[:, 0] = np.arange(len(blocks))  # scale bytes 0 and 1 of MXFP4 make subnormal numbers
                decode(how, codec, planes, shape, dtype)
            decode(
                how,
                codec,
                {"blocks": np.zeros((0, codec.block.nbytes), np.uint8)},
                (0, codec.block.elements),
                "float32",
            )


def test_ptx_is_exact_and_stores_are_wide() -> None:
    with emulated() as how:
        codec, shape = ac.Gguf("Q4_K"), (16, 512)
        decode(how, codec, any_bytes(codec.planes(ac.ArraySpec(shape, "float32")), 0), shape, "float32")
        with pytest.raises(ac.ArgumentError, match="gguf Q4_K: cannot encode"):
            how.encode(from_numpy(np.zeros(shape, np.float32)), codec, {})
    own = [found for key, found in Emulated.compiled.items() if key[0].__module__ == "arraycodec_torch.kernels.gguf"]
    assert own
    for found in own:
        refuse_inexact(found.ptx)
    assert any(re.search(r"st\.global\.v4\.b32", found.ptx) for found in own)
