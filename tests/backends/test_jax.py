"""JAX: zero-copy through the reference, jitted and eager jax.numpy."""

from typing import ClassVar

from arraycodec_conformance.cases import CASES, Case
from arraycodec_conformance.suite import BackendSuite

# Each shape is compiled anew for each codec, and eagerly each operation for each shape: so they are few.
SHAPES = ((3, 64), (7,), (33, 130), (), (0,))


class TestJax(BackendSuite):
    backend = "arraycodec_jax"
    implementations = ("reference", "jit")
    shapes = SHAPES


class TestJaxEager(BackendSuite):
    backend = "arraycodec_jax"
    implementations = ("eager",)
    shapes = SHAPES[:3]
    cases: ClassVar[list[Case]] = [case for i, case in enumerate(CASES) if i in (0, 2, 4, 8, 14)]
