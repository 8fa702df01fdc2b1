"""The Triton kernels of `Bitmask` and `TwoFour` by the PTX interpreter: every dtype, bad planes, far elements, mutants.

The cases that all families have are in test_triton_ptx.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from tests.backends.test_triton_mutants import mutate  # noqa: E402
from tests.backends.triton_emulation import HUGE, Emulated, compare, decode, emulated  # noqa: E402
from tests.backends.triton_far import far  # noqa: E402
from tests.codecs.sparse_support import sparse  # noqa: E402

FULL = pytest.mark.level("full")
BITMASK, TWO_FOUR = ac.Bitmask(), ac.TwoFour(prune=True)


@pytest.mark.parametrize("codec", [BITMASK, ac.Bitmask(drop_negative_zero=True), TWO_FOUR], ids=repr)
def test_every_dtype(codec: ac.Codec, level: Level) -> None:
    few = ("float64", "float8_e4m3fnuz", "int8", "complex64")
    with emulated() as how:
        for dtype in codec.dtypes if level >= Level.full else few:
            if dtype in codec.dtypes:
                compare(how, codec, sparse((5, 24), dtype))
                compare(how, codec, sparse((3, 13), dtype, seed=1))


def test_arrays_that_are_sparse_already() -> None:
    with emulated() as how:
        x = np.zeros((4, 24), np.float32)
        compare(how, BITMASK, x)
        x[:, 1::4] = x[:, 2::4] = 3
        compare(how, ac.TwoFour(), x)
        x[2, 8:12] = -0.0
        with pytest.raises(ArgumentError, match="got more in 1 of 24"):
            how.encode(from_numpy(x), ac.TwoFour(), {})


def test_bad_planes() -> None:
    """Any bits of a 2:4 mask decode as in the reference; values that are not as many as bits are refused."""
    rng, spec = np.random.default_rng(0), ArraySpec((9, 21), "float16")
    planes = TWO_FOUR.encode(sparse((9, 21), "float16"))
    planes["bitmask"] = rng.integers(0, 256, planes["bitmask"].shape, np.uint8)
    with emulated() as how:
        decode(how, TWO_FOUR, planes, (9, 21), "float16")
        found = BITMASK.encode(sparse((9, 21), "float16"))
        found["bitmask"][4, 1] ^= 8
        own = {name: from_numpy(plane) for name, plane in found.items()}
        with pytest.raises(CorruptError, match="values must be as many as bits of the mask"):
            how.decode(BITMASK, own, spec, {})


def test_amd_compiles() -> None:
    """For gfx942, as far as a binary."""
    x = sparse((8, 64), "bfloat16")
    with emulated(target="gfx942") as how:
        planes = {name: from_numpy(plane) for name, plane in BITMASK.encode(x).items()}
        with pytest.raises(CorruptError):  # nothing is counted
            how.decode(BITMASK, planes, spec_of(x), {})
        how.encode(from_numpy(x), TWO_FOUR, {})
        own = {name: from_numpy(plane) for name, plane in TWO_FOUR.encode(x).items()}
        how.decode(TWO_FOUR, own, spec_of(x), {})
    found = {compiled.metadata.name for key, compiled in Emulated.compiled.items() if key[1] == "gfx942"}
    assert found >= {"count", "choose", "spread"}


def run_far(how: Any) -> None:
    """More than 2^31 elements of two bits in each group, of which the last program's are compared.

    Of each launch that has such a tensor the last program runs (see `triton_emulation`).
    """
    rows, columns = 2, 4096
    lines = (HUGE // columns // rows + 2) * rows
    x = sparse((rows, columns), "bfloat16")
    want, spec = TWO_FOUR.encode(x), ArraySpec((lines, columns), "bfloat16")
    got = how.encode(far(spec, x), TWO_FOUR, {})
    for name, least in (("values", 2048), ("bitmask", 512)):
        same_end(to_numpy(got[name]), want[name], least, name)
    own = {name: far(plane, want[name]) for name, plane in TWO_FOUR.planes(spec).items()}
    same_end(to_numpy(how.decode(TWO_FOUR, own, spec, {})), x_of(want, x), 4096, "decoded")


def x_of(planes: Any, x: np.ndarray) -> np.ndarray:
    return TWO_FOUR.decode(planes, spec_of(x))


def same_end(got: np.ndarray, want: np.ndarray, least: int, what: str) -> None:
    """Require the same last elements."""
    same_bits(got.reshape(-1)[-least:], want.reshape(-1)[-least:], what)


def test_more_than_2_31_elements() -> None:
    with emulated() as how:
        run_far(how)


# -- mistakes seeded into the kernels

MUTANTS = {
    "bits in the other order": ("(bits >> i) & 1) != 0, start", "(bits >> (7 - i)) & 1) != 0, start", "bitmask"),
    "its own bit counted": ("ones(bits & ((1 << i) - 1))", "ones(bits & ((2 << i) - 1))", "bitmask"),
    "no end of rows": ("mask=there & (column < columns), other=0)\n    bits", "mask=there, other=0)\n    bits",
                       "bitmask"),
    "later ones of ties first": ("(k1 > k0).to", "(k1 >= k0).to", "two_four"),
    "signs count": ("key = (u & (sign - 1)) << 1", "key = u", "two_four"),
    "NaN is the least": ("u = tl.where(u == sign, sign << 1,", "u = tl.where(u == sign, 0,", "fnuz"),
    "a third bit": ("& (rank < 2)", "", "bad"),
    "32-bit bytes": ("byte = tl.program_id(0).to(tl.int64)", "byte = tl.program_id(0)", "far"),
}  # fmt: skip
DEFAULT = {"its own bit counted", "later ones of ties first", "32-bit bytes"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in DEFAULT else FULL) for name in MUTANTS])
def test_mutant_is_caught(name: str, tmp_path: Path) -> None:
    old, new, run = MUTANTS[name]
    mutated = mutate([(old, new)], tmp_path, re.sub(r"\W", "_", f"mutant sparse {name}"))
    caught = AssertionError, CorruptError, ptx.PtxError, pytest.fail.Exception
    with emulated(mutated) as how, pytest.raises(caught):
        check(how, run)


def check(how: Any, run: str) -> None:
    """What a mutant runs; it raises where that is wrong."""
    if run == "far":
        run_far(how)
    elif run == "bad":
        planes = TWO_FOUR.encode(sparse((9, 24), "float16"))
        planes["bitmask"][:] = 255
        decode(how, TWO_FOUR, planes, (9, 24), "float16")
    elif run == "fnuz":
        compare(how, TWO_FOUR, np.arange(256, dtype=np.uint8).view(numpy_dtype("float8_e4m3fnuz")).reshape(4, 64))
    else:
        compare(how, BITMASK if run == "bitmask" else TWO_FOUR, sparse((33, 130), "float16"))
