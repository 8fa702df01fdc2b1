"""The Triton kernel of `Delta` by the PTX interpreter: every kind of plan, corrupt planes, mutants."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import CorruptError
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from tests.backends.delta_cases import EXAMPLES, Example, broken  # noqa: E402
from tests.backends.test_triton_mutants import mutate  # noqa: E402
from tests.backends.triton_emulation import TARGETS, Emulated, emulated, refuse_inexact  # noqa: E402

CODEC = ac.Delta()
FULL = pytest.mark.level("full")
SOME = ("bfloat16", "float32", "int8", "equal", "nothing")


def decode(how: Any, example: Example) -> np.ndarray:
    """By the kernel."""
    own = {name: from_numpy(plane) for name, plane in example.planes.items()}
    return to_numpy(how.decode(CODEC, own, example.spec, {"base": from_numpy(example.base)}))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SOME else FULL) for name in EXAMPLES])
def test_bits(name: str, level: Level) -> None:
    example = EXAMPLES[name]()
    for target in TARGETS if name == "float32" or level >= Level.full else ("sm_90",):
        with emulated(target=target) as how:
            same_bits(decode(how, example), example.array, "decoded")


def test_broken_planes_end_as_in_the_reference(level: Level) -> None:
    """The same bits, or CorruptError in both; and in no case does a kernel leave its arrays, which the memory tells."""
    example = EXAMPLES["bfloat16"]()
    with emulated() as how:
        for seed in range(100 if level >= Level.full else 10):
            compare_broken(how, example, seed)


def compare_broken(how: Any, example: Example, seed: int) -> None:
    """Decode planes that someone changed here and in the reference."""
    changed = example._replace(planes=broken(example, seed))
    try:
        want = CODEC.decode(changed.planes, example.spec, {"base": example.base})
    except CorruptError:
        with pytest.raises(CorruptError):
            decode(how, changed)
    else:
        same_bits(decode(how, changed), want, f"decoded, seed {seed}")


def test_ptx_is_exact() -> None:
    """The one product is one rounding."""
    with emulated() as how:
        decode(how, EXAMPLES["float32"]())
    own = [compiled for key, compiled in Emulated.compiled.items() if key[1] == "sm_90"]
    found = [compiled.ptx for compiled in own if compiled.entry == "decode_differences"]
    assert any("mul.rn.f32" in text for text in found)
    for text in found:
        refuse_inexact(text)


def test_amd_compiles() -> None:
    with emulated(target="gfx942") as how, contextlib.suppress(CorruptError):  # nothing is decoded
        decode(how, EXAMPLES["float32"]())
    assert any(
        found.metadata.name == "decode_differences" for key, found in Emulated.compiled.items() if key[1] == "gfx942"
    )


MUTANTS = {
    "raw bits first": ("at + taken, size, inside", "at, size, inside", "bfloat16"),
    "signs the wrong way": ("w ^ (SIGN - 1)", "w ^ SIGN", "bfloat16"),
    "no first bucket": ("- first_bucket, 0)", ", 0)", "bfloat16"),
    "buckets without end": ("first_bucket, 0), buckets - 1)", "first_bucket, 0), 999)", "float32"),
    "the labels of other streams": ("own_unit = lane * (stream // unit)", "own_unit = lane", "bfloat16"),
    "subnormals scaled": ("(field >= 1) & ", "", "float32"),
    "curves from 0": ("(curve - 1) * 256", "curve * 256", "float32"),
    "no order of two's complements": ("v = m ^ FLIP", "v = m", "int8"),
    "no mask at the end": ("present = here + i < n", "present = inside", "bfloat16"),
}
DEFAULT = {"signs the wrong way", "no mask at the end"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in DEFAULT else FULL) for name in MUTANTS])
def test_mutant_is_caught(name: str, tmp_path: Path) -> None:
    old, new, run = MUTANTS[name]
    mutated = mutate([(old, new)], tmp_path, re.sub(r"\W", "_", f"mutant delta {name}"))
    example = EXAMPLES[run]()
    with emulated(mutated) as how, pytest.raises((AssertionError, CorruptError, ptx.PtxError)):
        same_bits(decode(how, example), example.array, "decoded")
