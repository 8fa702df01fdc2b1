"""JAX: zero-copy through the reference, and jitted jax.numpy."""

from __future__ import annotations

from typing import ClassVar

import pytest

from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.spec import DTYPES, ArraySpec
from arraycodec_conformance.cases import CASES, Case
from arraycodec_conformance.suite import BackendSuite

# Each shape is compiled anew for each codec and dtype, which takes half a second: so they are few, and those of golden
# vectors. test_jax_bits.py has every case on a shape of its own.
SHAPES = ((2, 128), (3, 37))
DTYPES_OF_JAX = tuple(name for name, row in DTYPES.items() if row.bits <= 32 or name == "complex64")  # without x64
# A trace must know the length of every plane, and cannot hash a base.
FIXED = [case for case in CASES if not case.base and case.codec.fixed_size(ArraySpec((3, 64), "float32"))]
COMPILED = [
    Codebook("nf4"),
    Linear(4, symmetric=False, block_size=(1, None)),
    Minifloat("float6_e3m2fn", block_size=(32, 48)),
]


class TestJax(BackendSuite):
    """What is tested are the ways in and out of the reference: a case or two of each codec will do."""

    backend = "arraycodec_jax"
    implementations = ("reference",)
    shapes = SHAPES
    dtypes = DTYPES_OF_JAX
    cases: ClassVar[list[Case]] = CASES[::6] + [case for case in CASES if case not in FIXED]


class TestJaxCompiled(BackendSuite):
    backend = "arraycodec_jax"
    implementations = ("jit",)
    shapes = SHAPES
    cases: ClassVar[list[Case]] = [case for case in FIXED if case.codec in COMPILED]


@pytest.mark.level("full")
class TestJaxEveryCase(BackendSuite):
    backend = "arraycodec_jax"
    implementations = ("reference", "jit")
    shapes = SHAPES
    dtypes = DTYPES_OF_JAX
    cases: ClassVar[list[Case]] = FIXED
